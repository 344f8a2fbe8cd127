"""Numbers and lists in generated Python: their names, and how they are read beside each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .graph import Node
from .scalar_words import literal

#: Up to so many numbers, lists are handled number by number. A loop's function and iterators cost more,
#: above all when a model's stage has swept the caches: 10 us instead of 4 for ten exponentials.
SHORT = 64
#: Up to so many classes, outputs are.
FEW_CLASSES = 24


class Read(NamedTuple):
    """An operand of a pointwise operation: what is read, and where for each number of the result."""

    root: Node
    places: tuple[int, ...] | None


class ArrayWords(ABC):
    """What is known of a function while it is written. Arrays are flat lists; of one number, that number.

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

    @abstractmethod
    def exact(self, node: Node) -> bool:
        """Whether a node's numbers have the runtime's bits."""

    @abstractmethod
    def pointwise(self, node: Node) -> str:
        """Return a pointwise node that goes into its reader."""

    @abstractmethod
    def near(self, args: Sequence[Node]) -> str:
        """Return how near is too near for operands of a comparison."""

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

    def unpacked(self, node: Node) -> list[str] | None:
        """Return a short list number by number, taken apart here if it was not; None: it is long."""
        root = self.root(node)
        most = FEW_CLASSES if self.names.get(id(root)) in ("x", "f") else SHORT
        if id(root) not in self.parts and id(root) in self.names and 1 < root.size <= most:
            held = self.names[id(root)]
            parts = [f"{held}_{i}" for i in range(root.size)]
            self.lines.append(f"{', '.join(parts)} = {held}")
            self.parts[id(root)] = parts
        return self.parts.get(id(root))

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

    @staticmethod
    def _split(x: Node, axis: int) -> tuple[int, int, int]:
        """Return how many numbers stand before, along and after an axis."""
        sizes = (x.shape[:axis], x.shape[axis : axis + 1], x.shape[axis + 1 :])
        outer, size, inner = (int(np.prod(part, dtype=np.int64)) for part in sizes)
        return outer, size, inner
