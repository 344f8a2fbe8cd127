"""Decision graphs: what a policy computes at one exit, as a few kinds of array operations.

Every value has the samples on its first axis; shapes are those of one sample, so that axis is 1. A
constant of one row stands for all rows, one of shape () for one number anywhere. Operands of one
operation have one dtype: casts are nodes.

========== =============================== ==============================================
operation  operands                        attributes
========== =============================== ==============================================
input                                      name
const                                      value (ndarray, first axis 1, or of shape ())
elementwise names of `ELEMENTWISE`, with numpy's meaning and broadcasting
where      condition, x, y
cast       x                               (the node's dtype)
reshape    x                               (the node's shape)
slice      x                               axis, start, stop
concat     x, y, ...                       axis
sum, max, min, argmax  x                   axis, which goes away; argmax takes the first
take       x, index (n,)                   axis, which goes away; -1 is the last
lookup     index                           table (ndarray (M,) or (M, D)); -1 is the last
minimum_at x (n, P)                        starts: minimum of each run of columns
search     x                               edges, side: as numpy.searchsorted
interp     x                               knots, values: as numpy.interp
linear     x (n, D)                        weight (H, D): ``x @ weight.T``, as `runtime.linear`
distances  x (n, D)                        points (P, D): Euclidean
reduce     logits (n, C) float32           top: as `runtime.output.reduce_logits`
field      reduce                          name: prediction, top_prob, top_class, entropy, log_sum_exp
coin       sample number (n,) int64        seed, stream: as `runtime.coin`
========== =============================== ==============================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

#: Name to numpy's function.
ELEMENTWISE: dict[str, np.ufunc] = {
    "neg": np.negative, "exp": np.exp, "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt,
    "tanh": np.tanh, "abs": np.absolute, "not": np.logical_not, "isinf": np.isinf,
    "isfinite": np.isfinite, "add": np.add, "sub": np.subtract, "mul": np.multiply,
    "div": np.true_divide, "maximum": np.maximum, "minimum": np.minimum,
    "logaddexp": np.logaddexp, "ge": np.greater_equal, "gt": np.greater, "le": np.less_equal,
    "lt": np.less, "eq": np.equal, "ne": np.not_equal, "and": np.logical_and, "or": np.logical_or,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Node:
    """One value.

    Attributes
    ----------
    op : str
    args : tuple of Node
    shape : tuple of int
        First axis 1: the samples; () for a constant number.
    dtype : numpy dtype
        bool, int32, int64, float32 or float64.
    attrs : mapping
    """

    op: str
    args: tuple[Node, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Numbers per sample."""
        return int(np.prod(self.shape[1:], dtype=np.int64))


@dataclass(frozen=True)
class ExitGraph:
    """What happens at one exit.

    Attributes
    ----------
    position : int
        On the policy's path.
    exit : int
        The model's number.
    inputs : dict of Node
        ``logits`` (n, C) float32, or ``probabilities``, or the columns of a record; ``features``
        (n, D); ``sample`` (n,) int64; where they are used.
    states : tuple of Node
        Inputs: what the exit before left.
    outputs : dict of Node
        ``exit`` (n,) bool, ``prediction`` (n,) int32, ``score`` (n,) float64, ``confidence`` (n,)
        float64, and, but for records, ``probabilities`` (n, C) float64, of the answer.
    left : tuple of Node
        What this exit leaves to the next.
    """

    position: int
    exit: int
    inputs: dict[str, Node]
    states: tuple[Node, ...]
    outputs: dict[str, Node]
    left: tuple[Node, ...]

    def order(self) -> list[Node]:
        """Return the nodes that outputs and states left need, operands first."""
        return ordered([*self.outputs.values(), *self.left])


def ordered(wanted: Sequence[Node]) -> list[Node]:
    """Return the nodes that some nodes need, operands first."""
    found: dict[int, Node] = {}
    stack: list[tuple[Node, Iterator[Node]]] = []
    for root in wanted:
        if id(root) in found:
            continue
        stack.append((root, iter(root.args)))
        while stack:
            node, rest = stack[-1]
            following = next((arg for arg in rest if id(arg) not in found), None)
            if following is None:
                stack.pop()
                found.setdefault(id(node), node)
            else:
                stack.append((following, iter(following.args)))
    return list(found.values())


def const(value: npt.ArrayLike) -> Node:
    """Return a constant; `value` has the samples' axis, of length 1, or is a number."""
    array = np.array(value)
    array.flags.writeable = False
    return Node("const", (), array.shape, array.dtype, {"value": array})


class Pool:
    """Makes nodes; equal ones are one node, and what is constant is computed at once."""

    def __init__(self) -> None:
        self._made: dict[Any, Node] = {}

    def make(
        self, op: str, args: Sequence[Node], shape: tuple[int, ...], dtype: Any, **attrs: Any
    ) -> Node:
        """Return the node of an operation."""
        node = Node(op, tuple(args), tuple(shape), np.dtype(dtype), attrs)
        if op not in ("input", "const") and args and all(a.op == "const" for a in args):
            from .replay import compute

            values = [a.attrs["value"] for a in args]
            with np.errstate(all="ignore"):
                return self.constant(compute(node, values))
        return self._kept(node)

    def constant(self, value: npt.ArrayLike) -> Node:
        """Return the node of a constant."""
        return self._kept(const(value))

    def _kept(self, node: Node) -> Node:
        attrs = tuple((name, _key(value)) for name, value in sorted(node.attrs.items()))
        key = (node.op, tuple(map(id, node.args)), node.shape, node.dtype.str, attrs)
        return self._made.setdefault(key, node)


def _key(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    return value
