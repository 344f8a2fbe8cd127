"""From the decision graph of one exit to a Python function of one sample, in plain numbers.

Numbers are Python's doubles where the runtime has float32, so values differ by rounding. A value is
*exact* where both are certain to have the same bits: inputs, whole numbers, float64 arithmetic on
exact values. Where one that is not exact is compared, or its largest class taken, and the outcome
could be another within rounding, the function returns None: then `Policy.step` has to decide. This is
the floating-point filter of exact geometry (Shewchuk, "Adaptive precision floating-point arithmetic",
Discrete & Computational Geometry 18, 1997, section 1). How near is in doubt: `scalar_compile`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .graph import ExitGraph, Node, ordered
from .scalar_arrays import SHORT, Read
from .scalar_operations import Operations
from .scalar_reduce import reduced
from .scalar_words import COMPARISONS, NAMES, POINTWISE, expression

#: How near two numbers may come before the runtime itself compares them: 1024 units of float32
#: rounding (2**-23) of the larger of both and 1. Exports are held to 64 (`manifest.ULPS`) and the
#: doubles here differ from the runtime by less; the room is for classes, networks and states unseen.
BAND = 1024 * 2.0**-23
#: The runtime rounds logits' differences and logarithms to float32, so its absolute error grows with
#: them: larger rows (Euclidean norm) are the runtime's to decide, as are NaN and infinity.
LARGEST = 256.0
#: What holds of inputs that need no second look; NaN fails.
_SOUND = {
    "logits": f"hypot(*x) < {LARGEST}",
    "probabilities": "abs(sum(x) - 1.0) < 0.01 and min(x) > 0.0",
    "features": "isfinite(sum(f))",
}
_ROUNDED_ALIKE = {"add", "sub", "mul", "div", "sqrt"}
_CHOSEN = {"neg", "abs", "maximum", "minimum", "where", "max", "min", "slice", "concat", "reshape",
           "take", "lookup", "minimum_at"}  # fmt: skip


def scalar_source(
    graph: ExitGraph, exact: Sequence[bool], wanted: Sequence[str], tables: dict[str, Any],
    near: float = BAND,
) -> tuple[str, list[bool]]:  # fmt: skip
    """Return the function of an exit, and whether what it leaves is exact.

    Parameters
    ----------
    graph : ExitGraph
    exact : sequence of bool
        By state.
    wanted : sequence of str
        Outputs to return, in order; before what is left, a tuple.
    tables : dict
        Constants that the function reads; those of this one are put in.
    near : float
        How near to its threshold a score is in doubt.

    Returns
    -------
    source : str
        ``exit_<position>(x, f, n, s)``: logits or probabilities and features as lists of floats, the
        sample's number, states; returns None where rounding could change the outcome.
    exact : list of bool
        By node left.
    """
    writer = _Writer(graph, exact, wanted, tables, near)
    return writer.text(), [writer.exact(node) for node in graph.left]


def exact_scores(graphs: Sequence[ExitGraph]) -> list[bool]:
    """Return per exit whether its score has the runtime's bits wherever IEEE arithmetic is kept.

    Parameters
    ----------
    graphs : sequence of K ExitGraph

    Returns
    -------
    list of K bool
    """
    found: list[bool] = []
    left: list[bool] = []
    for graph in graphs:
        writer = _Writer(graph, left, ("score",), {}, BAND)
        found.append(writer.exact(graph.outputs["score"]))
        left = [writer.exact(node) for node in graph.left]
    return found


class _Writer(Operations):
    """Writes one exit."""

    def __init__(
        self, graph: ExitGraph, exact: Sequence[bool], wanted: Sequence[str], tables: dict[str, Any],
        near: float,
    ) -> None:  # fmt: skip
        super().__init__(tables, graph.position)
        self.graph, self.leave_near = graph, near
        self.said = [graph.outputs[name] for name in wanted]
        self.nodes = ordered([*self.said, *graph.left])
        self.exacts: dict[int, bool] = {
            id(node): known for node, known in zip(graph.states, exact, strict=True)
        }
        given = {"logits": "x", "probabilities": "x", "features": "f", "sample": "n"}
        for name, node in graph.inputs.items():
            self.names[id(node)] = given[name]
            if node.size == 1 and name != "sample":  # a list of one number
                self.names[id(node)] = f"{given[name]}[0]"
        for i, node in enumerate(graph.states):
            self.names[id(node)] = f"s{i}"
        self.users: dict[int, list[Node]] = {}
        for node in self.nodes:
            if not self.alias(node):
                for arg in node.args:
                    self.users.setdefault(id(self.root(arg)), []).append(node)
        for node in (*self.said, *graph.left):  # these have names
            self.users.setdefault(id(self.root(node)), []).extend([node, node])

    def text(self) -> str:
        """Return the function."""
        needed = {id(node) for node in self.nodes}
        if self.graph.states:
            self.lines.append("".join(f"s{i}, " for i in range(len(self.graph.states))) + "= s")
        for name, node in self.graph.inputs.items():
            if id(node) in needed and name in _SOUND:
                self.lines.append(f"if not ({_SOUND[name]}): return None")
        for node in (*self.graph.inputs.values(), *self.graph.states):
            users = self.users.get(id(node), [])
            if id(node) in needed and any(u.op in POINTWISE or u.op == "slice" for u in users):
                self.unpacked(node)
        for node in self.nodes:
            root = self.root(node)
            if root is node and id(node) not in self.names and node.op not in ("const", "field"):
                self.written(node)
        said = "".join(f"{self.value(node)}, " for node in self.said)
        left = "".join(f"{self.value(node)}, " for node in self.graph.left)
        lines = [*self.lines, f"return {said}({left})"]
        head = f"def exit_{self.graph.position}(x, f, n, s):"
        return "\n".join([head, *("    " + line for line in lines)]) + "\n"

    def exact(self, node: Node) -> bool:
        """Whether a node's numbers have the runtime's bits."""
        key = id(node)
        if key not in self.exacts:
            self.exacts[key] = self._exact(node)
        return self.exacts[key]

    def _exact(self, node: Node) -> bool:
        if node.dtype.kind != "f" or node.op in ("const", "input", "coin"):
            return True  # of numbers that are not exact, whole ones are made only where it is safe
        alike = node.op in _CHOSEN or (node.op in _ROUNDED_ALIKE and node.dtype == np.float64)
        if node.op == "cast":
            alike = node.dtype == np.float64
        return alike and all(self.exact(arg) for arg in node.args)

    def inlined(self, node: Node) -> bool:
        """Whether a node is written into its only reader."""
        users = self.users.get(id(node), [])
        if node.op not in POINTWISE or len(users) != 1 or self.guarded(node):
            return False
        (user,) = users
        whole = user.op in ("sum", "max", "min") and user.size == 1 and node.size > 1
        if whole:
            return True
        if user.op not in POINTWISE or self.guarded(user):
            return False
        return user.size == node.size

    def guarded(self, node: Node) -> bool:
        """Whether a node's outcome may jump with the rounding of its operands."""
        if node.op in COMPARISONS or node.op in ("isinf", "isfinite"):
            return not self._kink(node) and not all(self.exact(arg) for arg in node.args)
        if node.op == "cast":
            return node.dtype.kind != "f" and not self.exact(node.args[0])
        return False

    def _kink(self, node: Node) -> bool:
        """Whether a sign only chooses between two multiples of the number: no jump, as in a ReLU."""
        users, x = self.users.get(id(node), []), self.root(node.args[0])
        zero = self.root(node.args[-1])
        if (
            len(users) != 1
            or users[0].op != "where"
            or zero.op != "const"
            or zero.attrs["value"].any()
        ):
            return False

        def multiple(arg: Node) -> bool:
            root = self.root(arg)
            if root.op == "mul":
                one, other = map(self.root, root.args)
                return (one is x and other.op == "const") or (other is x and one.op == "const")
            return root is x or (root.op == "const" and not root.attrs["value"].any())

        return self.root(users[0].args[0]) is node and all(map(multiple, users[0].args[1:]))

    def written(self, node: Node) -> None:
        """Write the statements of a node, unless it goes into its reader."""
        if node.op in POINTWISE:
            if self.inlined(node):
                return
            if self.guarded(node):
                self._guard(node)
            if not self._unrolled(node):
                self.names[id(node)] = self.named(self.pointwise(node))
        elif node.op == "reduce":
            reduced(self, node)
        else:
            short = self.short(node)
            if short is None:
                self.names[id(node)] = self.named(self.array(node))
            else:
                self.parts[id(node)] = short

    def _guard(self, node: Node) -> None:
        """Leave where a comparison's outcome is in doubt."""
        names = [self.atom(arg) for arg in node.args]
        if node.op in ("isinf", "isfinite") or node.op == "cast":
            if node.op == "cast":
                raise TypeError("a rounded number cut to a whole one")
            test = "abs({0}) < 1e30 or abs({0}) == inf"
        else:
            leaving = node is self.root(self.graph.outputs["exit"])
            near = repr(self.leave_near) if leaving else self.near(node.args)
            test = f"abs({{0}} - {{1}}) > {near}"
        if not any(map(self.is_list, node.args)):
            self.lines.append(f"if not ({test.format(*names)}): return None")
            return
        texts, loop = self.loop(node.size, [self.read(arg, node) for arg in node.args])
        self.lines.append(f"if not all([{test.format(*texts)} {loop}]): return None")

    def near(self, args: Sequence[Node]) -> str:
        """Return how near is too near for operands of a comparison: a constant tells their size."""
        for arg in args:
            root = self.root(arg)
            if root.op == "const":
                largest = float(np.abs(root.attrs["value"]).max())
                return repr(BAND * max(1.0, largest) if largest < np.inf else BAND)
        return f"{BAND!r} * (1.0 + abs({{0}}))"

    def pointwise(self, node: Node) -> str:
        """Return a pointwise node: a number, or a list."""
        reads: list[Read] = []
        self._reads(node, reads)
        if node.size == 1:
            return self._inside(node, {read: self.value(read.root) for read in reads})
        texts, loop = self.loop(node.size, reads)
        return f"[{self._inside(node, dict(zip(reads, texts, strict=True)))} {loop}]"

    def _unrolled(self, node: Node) -> bool:
        """Write a short list number by number, where its operands are; else say that they are not."""
        reads: list[Read] = []
        self._reads(node, reads)
        if not (1 < node.size <= SHORT and any(id(read.root) in self.parts for read in reads)):
            return False
        if not all(self.in_parts(read.root) for read in reads):
            return False
        parts = []
        for i in range(node.size):
            at = {r: i if r.places is None else r.places[i] for r in reads}
            texts = {r: self.part(r.root, at[r]) for r in reads}
            parts.append(self.named(self._inside(node, texts)))
        self.parts[id(node)] = parts
        return True

    def _reads(self, node: Node, found: list[Read]) -> None:
        for arg in node.args:
            if self._goes_in(arg):
                self._reads(self.root(arg), found)
            elif (read := self.read(arg, node)) not in found:
                found.append(read)

    def _goes_in(self, arg: Node) -> bool:
        root = self.root(arg)
        known = root.op == "const" or id(root) in self.names or id(root) in self.parts
        return not known and self.inlined(root)

    def _inside(self, node: Node, texts: dict[Read, str]) -> str:
        args = []
        for arg in node.args:
            inside = self._goes_in(arg)
            args.append(
                self._inside(self.root(arg), texts) if inside else texts[self.read(arg, node)]
            )
        return expression(node, args)


__all__ = ["BAND", "LARGEST", "NAMES", "exact_scores", "scalar_source"]
