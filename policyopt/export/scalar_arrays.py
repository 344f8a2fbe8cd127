"""Lists in generated Python: where they lie, broadcasting, sums, slices, products, and reduced logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .graph import Node
from .scalar_words import coin_of, key_of, literal

#: From so many products on, one call of numpy is quicker than Python's sums.
_MANY = 512
#: Up to so many numbers, a list made of single numbers is handled number by number: a loop costs more.
SHORT = 64


class Read(NamedTuple):
    """An operand of a pointwise operation: what is read, and where for each number of the result."""

    root: Node
    places: tuple[int, ...] | None


class ArrayWords:
    """Expressions for all but pointwise operations. Arrays are flat lists; of one number, that number.

    Parameters
    ----------
    tables : dict
        Constants, by name.
    position : int
        Of the exit; part of the constants' names.
    """

    def __init__(self, tables: dict[str, Any], position: int) -> None:
        self.tables, self.position = tables, position
        self.names: dict[int, str] = {}
        self.parts: dict[int, list[str]] = {}  # lists handled number by number
        self.lines: list[str] = []
        self.users: dict[int, list[Node]] = {}
        self.count = 0

    # Given by the writer of whole functions.
    def exact(self, node: Node) -> bool:
        """Whether a node's numbers have the runtime's bits."""
        raise NotImplementedError

    def pointwise(self, node: Node) -> str:
        """Return a pointwise node that goes into its reader."""
        raise NotImplementedError

    def near(self, args: Sequence[Node]) -> str:
        """Return how near is too near for operands of a comparison."""
        raise NotImplementedError

    @staticmethod
    def alias(node: Node) -> bool:
        """Whether a node is its operand's list or number, looked at otherwise."""
        if node.op == "cast":
            return node.dtype.kind == "f" or (
                node.dtype.kind == "i" and node.args[0].dtype.kind in "ib"
            )
        whole = node.op in ("slice", "concat") and len(node.args) == 1
        return node.op == "reshape" or (whole and node.size == node.args[0].size)

    def root(self, node: Node) -> Node:
        """Return the node whose numbers a node shows."""
        while self.alias(node):
            node = node.args[0]
        return node

    def named(self, text: str) -> str:
        """Return a name for an expression."""
        if text.isidentifier():
            return text
        name = f"v{self.count}"
        self.count += 1
        self.lines.append(f"{name} = {text}")
        return name

    def table(self, value: Any) -> str:
        """Return the name of a constant."""
        name = f"T{self.position}_{len(self.tables)}"
        self.tables[name] = value
        return name

    def is_list(self, node: Node) -> bool:
        """Whether a node is a list where it is read; a constant of equal numbers is one number."""
        root = self.root(node)
        if root.op == "const":
            values = root.attrs["value"].ravel()
            return bool((values != values[0]).any())
        return root.size > 1

    def value(self, node: Node) -> str:
        """Return a node as an expression, read once."""
        root = self.root(node)
        if id(root) in self.names:
            return self.names[id(root)]
        if id(root) in self.parts:
            self.names[id(root)] = self.named(f"[{', '.join(self.parts[id(root)])}]")
        elif root.op == "const":
            values = root.attrs["value"]
            if not self.is_list(root):
                return literal(values.ravel()[0])
            self.names[id(root)] = self.table(tuple(values.ravel().tolist()))
        elif root.op == "field":
            raise AssertionError("a field that nobody was known to read")
        else:
            return self.pointwise(root)
        return self.names[id(root)]

    def atom(self, node: Node) -> str:
        """Return a node as a name or number."""
        text, root = self.value(node), self.root(node)
        if root.op != "const" and id(root) not in self.names:
            self.names[id(root)] = text = self.named(text)
        return text

    def items(self, node: Node) -> str:
        """Return a node as a list that has a name, though it be of one number or equal ones."""
        if self.is_list(node):
            return self.atom(node)
        text = f"[{self.atom(node)}]"
        return f"({text} * {node.size})" if node.size > 1 else text

    def read(self, arg: Node, reader: Node) -> Read:
        """Return how an operand is read beside the others, number by number."""
        size = int(np.prod(arg.shape, dtype=np.int64))  # a constant's first axis may be no sample's
        if not self.is_list(arg) or size == reader.size:
            return Read(self.root(arg), None)
        places = np.broadcast_to(np.arange(size).reshape(arg.shape), reader.shape).ravel()
        return Read(self.root(arg), tuple(places.tolist()))

    def loop(self, size: int, reads: Sequence[Read]) -> tuple[list[str], str]:
        """Return what operands are called inside a comprehension, and its `for`."""
        inside, letters, lists = [], [], []
        for i, read in enumerate(reads):
            text = self.value(read.root)
            inside.append(f"e{i}" if self.is_list(read.root) else text)
            if self.is_list(read.root):
                letters.append(f"e{i}")
                lists.append(self._widened(read, text))
        if not lists:
            return inside, f"for _ in range({size})"
        if len(lists) == 1:
            return inside, f"for {letters[0]} in {lists[0]}"
        return inside, f"for {', '.join(letters)} in zip({', '.join(lists)})"

    def _widened(self, read: Read, text: str) -> str:
        """Return a list repeated as broadcasting does."""
        if read.places is None:
            return text
        size = max(read.places) + 1
        times = len(read.places) // size
        if read.places == tuple(range(size)) * times:
            return f"{text} * {times}"
        return f"[{text}[i] for i in {self.table(read.places)}]"

    def in_parts(self, node: Node) -> bool:
        """Whether a node's numbers can be named one by one."""
        root = self.root(node)
        return id(root) in self.parts or root.op == "const" or not self.is_list(root)

    def part(self, node: Node, i: int) -> str:
        """Return a number of a node that is `in_parts`."""
        root = self.root(node)
        if id(root) in self.parts:
            return self.parts[id(root)][i]
        if root.op == "const":
            values = root.attrs["value"].ravel()
            return literal(values[i if len(values) > 1 else 0])
        return self.atom(root)

    def short(self, node: Node) -> list[str] | None:
        """Return a list number by number: put together from single numbers, or a part of such a list."""
        if node.op not in ("concat", "slice") or node.size > SHORT:
            return None
        if not all(self.in_parts(arg) for arg in node.args) or node.size < 2:
            return None
        split = [self._split(arg, node.attrs["axis"]) for arg in node.args]
        if split[0][0] != 1:
            return None
        low, high = 0, None
        if node.op == "slice":
            low, high = (node.attrs[end] * split[0][2] for end in ("start", "stop"))
        found = []
        for arg in node.args:
            size = int(np.prod(arg.shape, dtype=np.int64))
            if size != arg.size:
                return None
            found += [self.part(arg, i) for i in range(size)]
        return found[low:high]

    def array(self, node: Node) -> str:
        """Return an operation that is not pointwise."""
        a, x = node.attrs, node.args[0] if node.args else None
        match node.op:
            case "sum" | "max" | "min":
                return self._folded(node)
            case "argmax":
                return self._argmax(node)
            case "slice":
                outer, size, inner = self._split(node.args[0], a["axis"])
                low, high = a["start"] * inner, a["stop"] * inner
                if high - low == 1 and outer == 1 and id(self.root(node.args[0])) in self.parts:
                    return self.part(node.args[0], low)
                if outer == 1:
                    text = self.items(node.args[0])
                    return f"{text}[{low}]" if high - low == 1 else f"{text}[{low}:{high}]"
                text = self.items(node.args[0])
                step = size * inner
                parts = [f"*{text}[{o * step + low}:{o * step + high}]" for o in range(outer)]
                return f"[{', '.join(parts)}]"
            case "concat":
                return self._concat(node)
            case "take":
                outer, size, inner = self._split(node.args[0], a["axis"])
                text, at = self.items(node.args[0]), self.atom(node.args[1])
                if outer == inner == 1:
                    return f"{text}[{at}]"
                at = self.named(f"{at} % {size}")
                if outer == 1:
                    return f"{text}[{at} * {inner}:{at} * {inner} + {inner}]"
                if inner == 1:
                    return f"{text}[{at}::{size}]"
                raise TypeError("a number taken along an axis in the middle")
            case "lookup":
                rows = np.asarray(a["table"])
                name = self.table(
                    tuple(map(tuple, rows.tolist())) if rows.ndim > 1 else tuple(rows.tolist())
                )
                if node.args[0].size == 1:
                    return f"{name}[{self.atom(node.args[0])}]" + (
                        "[0]" if rows.ndim > 1 and rows.shape[1] == 1 else ""
                    )
                each = "e" if rows.ndim == 1 else "*e"
                if each == "*e":
                    return f"[v for i in {self.atom(node.args[0])} for v in {name}[i]]"
                return f"[{name}[i] for i in {self.atom(node.args[0])}]"
            case "minimum_at":
                starts = np.asarray(a["starts"])
                ends = np.append(starts[1:], node.args[0].size)
                text = self.items(node.args[0])
                if (ends <= starts).any():
                    raise TypeError("minimum of runs that are not one after the other")
                if (ends - starts == 1).all() and len(starts) == node.args[0].size:
                    return text if self.is_list(node) else f"{text}[0]"
                parts = [f"min({text}[{s}:{e}])" for s, e in zip(starts, ends, strict=True)]
                return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]"
            case "search":
                return self._search(node)
            case "interp":
                knots = self.table(tuple(np.asarray(a["knots"], float).tolist()))
                values = self.table(tuple(np.asarray(a["values"], float).tolist()))
                if node.size == 1:
                    return f"interp({self.atom(x)}, {knots}, {values})"
                return f"[interp(e, {knots}, {values}) for e in {self.items(x)}]"
            case "linear":
                return self._linear(node)
            case "distances":
                return self._distances(node)
            case "coin":
                return f"{self.table(coin_of(key_of(a['seed'], a['stream'])))}({self.atom(x)})"
        raise TypeError(f"operation {node.op}")

    @staticmethod
    def _split(x: Node, axis: int) -> tuple[int, int, int]:
        """Return how many numbers stand before, along and after an axis."""
        sizes = (x.shape[:axis], x.shape[axis : axis + 1], x.shape[axis + 1 :])
        outer, size, inner = (int(np.prod(part, dtype=np.int64)) for part in sizes)
        return outer, size, inner

    def _folded(self, node: Node) -> str:
        x = node.args[0]
        outer, size, inner = self._split(x, node.attrs["axis"])
        if not self.is_list(x):  # equal numbers
            text = self.atom(x)
            one = f"{size} * {text}" if node.op == "sum" else text
            return one if node.size == 1 else f"[{one}] * {node.size}"
        if outer == inner == 1:
            parts = self.parts.get(id(self.root(x)))
            if parts:
                return " + ".join(parts) if node.op == "sum" else f"{node.op}({', '.join(parts)})"
            return f"{node.op}({self.value(x)})"
        text = self.atom(x)
        if inner == 1:
            return f"[{node.op}({text}[i:i + {size}]) for i in range(0, {x.size}, {size})]"
        step = size * inner
        parts = [
            f"{node.op}({text}[{o * step + i}:{(o + 1) * step}:{inner}])"
            for o in range(outer) for i in range(inner)
        ]  # fmt: skip
        return f"[{', '.join(parts)}]"

    def _argmax(self, node: Node) -> str:
        x = node.args[0]
        if node.size > 1 or not self.is_list(x):
            raise TypeError("several places of the largest")
        text = self.atom(x)
        place = self.named(f"{text}.index(max({text}))")
        if not self.exact(x):
            rest = f"max({text}[:{place}] + {text}[{place} + 1:])"
            test = f"{text}[{place}] - {rest} > {self.near([x]).format(f'{text}[{place}]')}"
            self.lines.append(f"if not ({test}): return None")
        return place

    def _concat(self, node: Node) -> str:
        outer = self._split(node, node.attrs["axis"])[0]
        texts = [
            self.items(arg) if self.is_list(arg) or arg.size > 1 else self.atom(arg)
            for arg in node.args
        ]
        if outer == 1:
            parts = [t if a.size == 1 else f"*{t}" for t, a in zip(texts, node.args, strict=True)]
            return f"[{', '.join(parts)}]"
        parts = []
        for o in range(outer):
            for text, arg in zip(texts, node.args, strict=True):
                step = arg.size // outer
                parts.append(f"*{text}[{o * step}:{(o + 1) * step}]")
        return f"[{', '.join(parts)}]"

    def _search(self, node: Node) -> str:
        edges = self.table(tuple(np.asarray(node.attrs["edges"], float).tolist()))
        called, x = f"bisect_{node.attrs['side']}", node.args[0]
        wide, text = self.is_list(x), self.atom(x)
        if not self.exact(x):
            test = f"far_from_edges({{0}}, {edges}, {self.near([x])})"
            every = f"all([{test.format('e')} for e in {text}])" if wide else test.format(text)
            self.lines.append(f"if not {every}: return None")
        one = f"[{called}({edges}, e) for e in {text}]" if wide else f"{called}({edges}, {text})"
        return one if wide or node.size == 1 else f"[{one}] * {node.size}"

    def _linear(self, node: Node) -> str:
        weight = np.asarray(node.attrs["weight"], dtype=np.float64)
        parts = self.parts.get(id(self.root(node.args[0])))
        if parts and weight.size <= 2 * SHORT:
            rows = [
                " + ".join(f"{literal(w)} * {p}" for w, p in zip(row, parts, strict=True))
                for row in weight.tolist()
            ]
            return rows[0] if len(rows) == 1 else f"[{', '.join(rows)}]"
        x = self.items(node.args[0])
        if weight.size > _MANY:
            table = self.table(weight if len(weight) > 1 else weight[0])
            return f"{table}.dot({x}).tolist()"
        rows = [self.table(tuple(row)) for row in weight.tolist()]
        if weight.shape[1] == 1:
            one = self.atom(node.args[0])
            parts = [f"{literal(row[0])} * {one}" for row in weight.tolist()]
        else:
            x = self.named(x)
            parts = [f"sum(map(mul, {row}, {x}))" for row in rows]
        return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]"

    def _distances(self, node: Node) -> str:
        points = np.asarray(node.attrs["points"], dtype=np.float64)
        x = self.items(node.args[0])
        if points.size > _MANY:
            gap = self.named(f"{self.table(points)} - array({x})")
            text = f"root(({gap} * {gap}).sum(1)).tolist()"
            return text if len(points) > 1 else f"{text}[0]"
        x = self.named(f"tuple({x})")
        if len(points) == 1:
            return f"dist({self.table(tuple(points[0].tolist()))}, {x})"
        return f"[dist(p, {x}) for p in {self.table(tuple(map(tuple, points.tolist())))}]"
