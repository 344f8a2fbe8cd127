"""Numbers of an exit's graph as C expressions, read from where they lie or computed on the spot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policyopt.runtime.coin import key_of

from .c_helpers import Helpers
from .c_places import Place
from .c_plan import POINTWISE, addressed, base, single, squeezed
from .c_text import TYPES, Index, Numbers, flat, literal, strides
from .c_words import kind_of, pointwise, strip
from .graph import Node

_LONG = 72  # an expression from here on gets a name


class Reader:
    """What is known of an exit while it is written.

    Parameters
    ----------
    numbers, helpers
        Shared by all exits.
    bad : str
        What is returned for an output that cannot be.
    checked : bool
        Whether indices may come from outside: those of records.
    """

    def __init__(self, numbers: Numbers, helpers: Helpers, bad: str, checked: bool) -> None:
        self.numbers, self.helpers, self.bad, self.checked = numbers, helpers, bad, checked
        self.lines: list[str] = []
        self.places: dict[int, Place] = {}
        self.names: dict[int, str] = {}
        self.seen: list[tuple[str, str]] = []  # name and place of what an expression reads
        self.count = 0

    @staticmethod
    def put(to: Place, at: str, node: Node, value: str) -> str:
        """Return the assignment of a number of a node."""
        value = f"(unsigned char)({strip(value)})" if node.dtype.kind == "b" else strip(value)
        return f"{to.at(at)} = {value};"

    def named(self, kind: str, value: str) -> str:
        """Return a name, or number, for an expression; a variable where it has none."""
        if value.replace(".", "").isalnum():  # a name or a number
            return value
        name = f"v{self.count}"
        self.count += 1
        self.lines.append(f"const {kind} {name} = {strip(value)};")
        return name

    def value(self, node: Node, index: Sequence[Index] | None = None) -> str:
        """Return a number of a node as an expression; `index` may be that of a wider one."""
        index = (0,) * len(node.shape) if index is None else index
        index = tuple(index)[len(index) - len(node.shape) :]
        index = tuple(0 if size == 1 else at for at, size in zip(index, node.shape, strict=True))
        if id(node) in self.names:
            return self.names[id(node)]
        if id(node) in self.places:
            return self._element(self.places[id(node)], flat(index, node.shape))
        text = self._compute(node, index)
        return self.named(kind_of(node.dtype), text) if len(text) > _LONG else text

    def _element(self, place: Place, at: str) -> str:
        text = place.at(at)
        self.seen.append((place.name, text[len(place.name) + 1 : -1]))
        return text

    def pointer(self, node: Node) -> tuple[Place, int]:
        """Return where a node's numbers begin."""
        memory, offset = addressed(node), 0
        while node is not memory:
            if node.op == "slice":
                offset += node.attrs["start"] * strides(node.args[0].shape)[node.attrs["axis"]]
            node = node.args[0]
        if memory.op == "const":
            return Place(self.numbers.table("const", memory.attrs["value"])), offset
        if id(memory) in self.names:
            return Place(self.names[id(memory)], lone=True), 0
        return self.places[id(memory)], offset

    def address(self, node: Node, more: str = "0") -> str:
        """Return the address of a node's numbers."""
        place, offset = self.pointer(node)
        self.seen.append((place.name, "all"))
        return Place(place.name, place.offset + offset, place.lone).pointer(more)

    def _compute(self, node: Node, index: tuple[Index, ...]) -> str:
        a = node.attrs
        if node.op in POINTWISE - {"search", "interp", "lookup"}:
            return pointwise(node, [self.value(arg, index) for arg in node.args], self.helpers)
        match node.op:
            case "const":
                values = a["value"]
                if (values.ravel()[:1] == values.ravel()).all():
                    return literal(values.ravel()[0], node.dtype)
                return f"{self.numbers.table('const', values)}[{flat(index, node.shape)}]"
            case "reshape" if squeezed(node.shape) == squeezed(node.args[0].shape):
                kept = iter([at for at, size in zip(index, node.shape, strict=True) if size != 1])
                return self.value(
                    node.args[0], [0 if size == 1 else next(kept) for size in node.args[0].shape]
                )
            case "reshape":
                place, offset = self.pointer(node.args[0])
                there = Place(place.name, place.offset + offset, place.lone)
                return self._element(there, flat(index, node.shape))
            case "slice":
                return self.value(node.args[0], _moved(index, a["axis"], a["start"]))
            case "take":
                x, axis = node.args[0], a["axis"]
                at = self._picked(node.args[1], (0,), x.shape[axis])
                text = self.value(x, (*index[:axis], at, *index[axis:]))
                if at not in text:  # the same numbers everywhere
                    self.lines.append(f"(void){at};")
                return text
            case "lookup":
                table = np.asarray(a["table"])
                depth = len(node.args[0].shape)
                at = self._picked(node.args[0], index[:depth], len(table))
                name = self.numbers.table("table", table)
                return f"{name}[{flat((at, *index[depth:]), table.shape)}]"
            case "search" if not len(a["edges"]):  # one bin; C has no empty tables
                return "INT64_C(0)"
            case "search":
                edges = self.numbers.table("edges", a["edges"], np.float64)
                called = self.helpers.use(f"search_{a['side']}")
                return f"{called}({self._double(node.args[0], index)}, {edges}, {len(a['edges'])})"
            case "interp":
                knots = self.numbers.table("knots", a["knots"], np.float64)
                values = self.numbers.table("values", a["values"], np.float64)
                x = self._double(node.args[0], index)
                return f"{self.helpers.use('interp')}({x}, {knots}, {values}, {len(a['knots'])})"
            case "linear" | "distances":
                return self._row(node, index[1])
            case "coin":
                key = key_of(a["seed"], a["stream"])
                sample = self.value(node.args[0])
                return f"{self.helpers.use('coin')}({sample}, UINT64_C({key:#x}))"
        raise TypeError(f"no operation '{node.op}' in C")

    def _double(self, node: Node, index: tuple[Index, ...]) -> str:
        text = strip(self.value(node, index))
        return text if node.dtype == np.float64 else f"(double)({text})"

    def _row(self, node: Node, row: Index) -> str:
        x = node.args[0]
        rows, which, what = (
            (node.attrs["weight"], "dot", "weight")
            if node.op == "linear"
            else (node.attrs["points"], "distance", "points")
        )
        kind = "double"
        if single(x) and id(x) not in self.places:
            x, kind = x.args[0], "float"
        table = Place(self.numbers.table(what, rows, np.float64))
        at = table.pointer(flat((row, 0), rows.shape))
        called = self.helpers.use(f"{which}_{kind}")
        return f"{called}({self.address(x)}, {at}, {rows.shape[1]})"

    def _picked(self, node: Node, index: tuple[Index, ...], size: int) -> str:
        """Return an index by value as a name: -1 is the last."""
        kind = TYPES[node.dtype.name]
        given = self.named(kind, self.value(node, index))
        if base(node).op == "field":  # a class that was found here
            return given
        name = f"at{self.count}"
        self.count += 1
        if self.checked:
            self.lines.append(f"if ({given} < {-size} || {given} >= {size}) return {self.bad};")
        self.lines.append(f"const {kind} {name} = {given} < 0 ? {given} + {size} : {given};")
        return name


def _moved(index: Sequence[Index], axis: int, start: int) -> tuple[Index, ...]:
    at = index[axis]
    if start:
        at = at + start if isinstance(at, int) else f"({at} + {start})"
    return (*index[:axis], at, *index[axis + 1 :])
