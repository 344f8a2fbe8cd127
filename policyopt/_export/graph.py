"""Decision graphs: what a policy computes at one exit, as a few kinds of array operations, and their meaning in numpy.

Every value has the samples on its first axis; shapes are those of one sample, so that axis is 1. A
constant of one row stands for all rows, one of shape () for one number anywhere. Operands of one
operation have one dtype: casts are nodes, whose own dtype is the new one, as reshapes' shape is.

Operations, with their operands and attributes, are `ELEMENTWISE`, the rest `_MEANINGS`, and ``input``, which has a
name. An axis that numbers are reduced along or taken from (one per sample) goes away; an index of -1 is the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime._arithmetic import coin, distances, row_product
from policyopt.runtime._outputs import ExitOutput, reduce_logits
from policyopt.runtime._typing import Array

#: Name to numpy's function.
ELEMENTWISE: dict[str, np.ufunc] = {
    "neg": np.negative, "exp": np.exp, "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt,
    "tanh": np.tanh, "abs": np.absolute, "not": np.logical_not, "isinf": np.isinf,
    "isfinite": np.isfinite, "add": np.add, "sub": np.subtract, "mul": np.multiply,
    "div": np.true_divide, "maximum": np.maximum, "minimum": np.minimum,
    "logaddexp": np.logaddexp, "pow": np.power, "ge": np.greater_equal, "gt": np.greater, "le": np.less_equal,
    "lt": np.less, "eq": np.equal, "ne": np.not_equal, "and": np.logical_and, "or": np.logical_or,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Node:
    """One value; `shape` has a first axis of 1 for the samples, or is () of a constant number."""

    op: str
    args: tuple[Node, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # bool, int32, int64, float32 or float64
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Numbers per sample."""
        return int(np.prod(self.shape[1:], dtype=np.int64))


@dataclass(frozen=True)
class ExitGraph:
    """What happens at one exit."""

    position: int  # on the policy's path
    exit: int  # the model's number
    #: ``logits`` (n, C) float32, or ``probabilities``, or the columns of a summary; ``features`` (n, D);
    #: ``sample`` (n,) int64; where they are used.
    inputs: dict[str, Node]
    states: tuple[Node, ...]  # inputs: what the exit before left
    #: ``exit`` (n,) bool, ``prediction`` (n,) int32, ``score`` and ``confidence`` (n,) float64, and, but
    #: for records, ``probabilities`` (n, C) float64, of the answer.
    outputs: dict[str, Node]
    left: tuple[Node, ...]  # to the next exit

    def order(self) -> list[Node]:
        """Return the nodes that outputs and states left need, operands first."""
        return ordered([*self.outputs.values(), *self.left])


def ordered(wanted: Sequence[Node]) -> list[Node]:
    """Return the nodes that some nodes need, operands first."""
    found: dict[int, Node] = {}
    stack: list[tuple[Node, Iterator[Node]]] = []
    for root in wanted:
        if id(root) not in found:
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


class Pool:
    """Makes nodes; equal ones are one node, and what is constant is computed at once."""

    def __init__(self) -> None:
        self._made: dict[Any, Node] = {}

    def make(
        self, op: str, args: Sequence[Node], shape: tuple[int, ...], dtype: Any, **attrs: Any
    ) -> Node:
        """Return the node of an operation."""
        node = Node(op, tuple(args), tuple(shape), np.dtype(dtype), attrs)
        if args and all(a.op == "const" for a in args):
            with np.errstate(all="ignore"):
                return self.constant(compute(node, [a.attrs["value"] for a in args]))
        return self._kept(node)

    def constant(self, value: npt.ArrayLike) -> Node:
        """Return the node of a constant: with the samples' axis, of length 1, or a number."""
        array = np.array(value)
        array.flags.writeable = False
        return self._kept(Node("const", (), array.shape, array.dtype, {"value": array}))

    def _kept(self, node: Node) -> Node:
        attrs = tuple((name, _key(value)) for name, value in sorted(node.attrs.items()))
        key = (node.op, tuple(map(id, node.args)), node.shape, node.dtype.str, attrs)
        return self._made.setdefault(key, node)


def _key(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    return value


def compute(node: Node, args: Sequence[Any]) -> Any:
    """Return the value of a node, (n, ...), from those of its operands."""
    if node.op in ELEMENTWISE:
        return ELEMENTWISE[node.op](*args)
    return _MEANINGS[node.op](node, *args, **node.attrs)


def _concat(_: Node, *parts: Any, axis: int) -> Any:
    n = max(map(len, parts))
    return np.concatenate([_rows(x, n) for x in parts], axis)


def _take(_: Node, x: Any, index: Any, axis: int) -> Any:
    n = max(len(x), len(index))
    return _rows(x, n)[(np.arange(n), *(slice(None),) * (axis - 1), _rows(index, n))]


def _rows(x: Array, n: int) -> Array:
    return np.broadcast_to(x, (n, *x.shape[1:]))


def _fold(node: Node, x: Any, axis: int) -> Any:
    # Side by side in memory: numpy's order of summation depends on the layout.
    return getattr(np.ascontiguousarray(x), node.op)(axis=axis)


#: Of a node, its operands and its attributes by name.
_MEANINGS: dict[str, Callable[..., Any]] = {
    "const": lambda _, value: value,
    "where": lambda _, condition, x, y: np.where(condition, x, y),
    "cast": lambda node, x: x.astype(node.dtype),
    "reshape": lambda node, x: x.reshape(len(x), *node.shape[1:]),
    "slice": lambda _, x, axis, start, stop: x[(slice(None),) * axis + (slice(start, stop),)],
    "concat": _concat, "take": _take, "sum": _fold, "max": _fold, "min": _fold, "argmax": _fold,
    "lookup": lambda _, index, table: table[index],
    "minimum_at": lambda _, x, starts: np.minimum.reduceat(x, starts, axis=1),
    "search": lambda _, x, edges, side: np.searchsorted(edges, x, side=side),
    "interp": lambda _, x, knots, values: np.interp(x, knots, values),
    "linear": lambda _, x, weight: row_product(x, weight),
    "distances": lambda _, x, points: distances(x, points),
    "reduce": lambda _, logits, top: reduce_logits(logits, top),
    "field": lambda _, reduced, name: getattr(reduced, name),
    "coin": lambda _, sample, seed, stream: coin(seed, sample, stream),
}  # fmt: skip


def evaluate(
    graph: ExitGraph, inputs: Mapping[str, Any], states: Sequence[Any], wide: bool = False
) -> dict[int, Any]:
    """Return what the nodes of an exit's graph are in numpy, (n or 1, ...), by id; `wide`: float64 for float32."""
    values: dict[int, Any] = {id(node): inputs[name] for name, node in graph.inputs.items()}
    values |= {id(node): state for node, state in zip(graph.states, states, strict=True)}
    if wide:
        single = [key for key, value in values.items() if value.dtype == np.float32]
        values |= {key: values[key].astype(np.float64) for key in single}
    with np.errstate(all="ignore"):
        for node in graph.order():
            if id(node) not in values:
                args = [values[id(arg)] for arg in node.args]
                if wide and node.op == "reduce":
                    values[id(node)] = _wide_reduce(args[0], node.attrs["top"])
                elif wide and node.op == "cast" and node.dtype == np.float32:
                    values[id(node)] = args[0].astype(np.float64)
                else:
                    values[id(node)] = compute(node, args)
    return values


def _wide_reduce(logits: Array, top: int) -> ExitOutput:
    """`runtime._outputs.reduce_logits` in float64."""
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    peak = np.take_along_axis(logits, ranked[:, :1], axis=1)
    shift = logits - peak
    tops, mass = np.take_along_axis(shift, ranked, axis=1), np.exp(shift)
    np.put_along_axis(mass, ranked[:, :1], 0.0, axis=1)
    rest = mass.sum(axis=1)
    spread = (mass * np.where(mass > 0, shift, 0.0)).sum(axis=1)
    classes = np.where(tops == -np.inf, -1, ranked).astype(np.int32)
    return ExitOutput(
        classes[:, 0], np.exp(tops) / (1.0 + rest)[:, None], classes,
        np.maximum(np.log1p(rest) - spread / (1.0 + rest), 0.0), peak[:, 0] + np.log1p(rest),
    )  # fmt: skip
