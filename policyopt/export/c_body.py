"""From the decision graph of one exit to the body of a C function.

Values that have one reader are computed where they are read, so that chains of elementwise
operations are one loop; others stand in a variable, a buffer that is used again when it is free, or
the state itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import numpy as np

from policyopt.runtime.coin import key_of

from .c_helpers import Helpers
from .c_places import Buffer, Place, Pool
from .c_plan import POINTWISE, Moves, Plan, Slot, addressed, base, outer, pairwise, single, squeezed
from .c_reduce import reduced
from .c_text import TYPES, Index, Numbers, flat, literal, strides
from .c_words import kind_of, pointwise, strip
from .graph import ExitGraph, Node

_LETTERS = "ijklmn"
_LONG = 72  # an expression from here on gets a name
_LARGEST = {"float32": "INFINITY", "float64": "(double)INFINITY", "int32": "INT32_MAX",
            "int64": "INT64_MAX", "bool": "1"}  # fmt: skip


class Body:
    """Writes one exit.

    Parameters
    ----------
    graph : ExitGraph
    held : sequence of Slot
        Where the states are.
    moves : Moves
        Where those left go.
    numbers, helpers
        Shared by all exits.
    bad : str
        What is returned for an output that cannot be.
    checked : bool
        Whether indices may come from outside: those of records.
    """

    def __init__(
        self, graph: ExitGraph, held: Sequence[Slot], moves: Moves, numbers: Numbers,
        helpers: Helpers, bad: str, checked: bool,
    ) -> None:  # fmt: skip
        self.graph, self.moves, self.plan = graph, moves, Plan(graph)
        self.numbers, self.helpers, self.bad, self.checked = numbers, helpers, bad, checked
        self.pool, self.lines = Pool(), []
        self.lines: list[str]
        self.places: dict[int, Place] = {}
        self.buffers: dict[int, Buffer] = {}
        self.home: dict[int, Place] = {}  # where a node is to be written, known beforehand
        self.wish: dict[int, tuple[Place, list[Node]]] = {}  # and where, if its old numbers are read
        self.names: dict[int, str] = {}
        self.seen: list[tuple[str, str]] = []  # name and place of what an expression reads
        self.count = 0
        for name, node in graph.inputs.items():
            self.places[id(node)] = Place(
                "state->sample" if name == "sample" else name, lone=node.size == 1 and name not in
                ("logits", "probabilities", "features"),
            )  # fmt: skip
        for node, slot in zip(graph.states, held, strict=True):
            self.places[id(node)] = self._field(slot)
        self._settle(held)

    @staticmethod
    def _field(slot: Slot, offset: int = 0) -> Place:
        return Place(f"state->{slot.name}", offset, slot.size == 1)

    def _settle(self, held: Sequence[Slot]) -> None:
        for i, (left, slot) in enumerate(zip(self.graph.left, self.moves.slots, strict=True)):
            node = base(left)
            if left.size == 1 or i in self.moves.stays or id(node) in self.home:
                continue
            if i in self.moves.appends:
                self.home[id(node)] = self._field(slot)
                offset = node.args[0].size
                for part in node.args[1:]:
                    if part.size > 1 and base(part).op != "concat":
                        self.home.setdefault(id(base(part)), self._field(slot, offset))
                    offset += part.size
            elif i in self.moves.fresh:
                self.home[id(node)] = self._field(slot)
            else:
                old = [s for s, h in zip(self.graph.states, held, strict=True) if h is slot]
                self.wish[id(node)] = (self._field(slot), old)

    # Writing.
    def text(self) -> list[str]:
        """Return the lines of the body, without indentation of their own."""
        nodes = self.plan.main
        for time, node in enumerate(nodes):
            self._event(node, time)
        said = self.graph.outputs
        leave = self._named("int", self.value(said["exit"]))
        for name in ("prediction", "score", "confidence"):
            value = self.value(said[name])
            value = f"(int32_t){value}" if said[name].dtype == np.int64 else strip(value)
            self.lines.append(f"decision->{name} = {value};")
        decided, self.lines = self.lines, []
        if "probabilities" in said:
            self._extra(said["probabilities"], len(nodes))
            self.helpers.extra = False
        extra, self.lines = self.lines, []
        self._leave()
        lines = [*self.pool.declared(False), *decided]
        if extra:
            lines += ["#ifdef @PROBABILITIES", *_block([*self.pool.declared(True), *extra]), "#endif"]
        return [*lines, *self.lines, f"return {strip(leave)};"]

    def _extra(self, node: Node, start: int) -> None:
        self.pool.extra = self.helpers.extra = True
        given = Buffer("decision->probabilities", node.dtype, node.size, True, False)
        self.pool.free.append(given)
        for time, each in enumerate(self.plan.extra, start):
            self._event(each, time)
        if self.places.get(id(node)) != Place(given.name):
            self._loop(node.shape, lambda ix: [
                f"{given.name}[{flat(ix, node.shape)}] = {strip(self.value(node, ix))};"
            ])  # fmt: skip

    def _leave(self) -> None:
        stores = []
        for i, (left, slot) in enumerate(zip(self.graph.left, self.moves.slots, strict=True)):
            if i in self.moves.stays:
                continue
            to = self._field(slot)
            if left.size == 1:
                value = self.value(left)
                if "state->" in value:  # which another store may change
                    value = self._named(kind_of(left.dtype), value)
                stores.append(lambda to=to, left=left, v=value: [self._put(to, "0", left, v)])
            elif self.places.get(id(base(left))) != to:
                stores.append(lambda to=to, left=left: self._copied(to, left))
        for store in stores:
            self.lines += store()

    def _copied(self, to: Place, node: Node) -> list[str]:
        before, self.lines = self.lines, []
        self._loop(node.shape, lambda ix: [
            self._put(to, flat(ix, node.shape), node, self.value(node, ix))
        ])  # fmt: skip
        lines, self.lines = self.lines, before
        return lines

    @staticmethod
    def _put(to: Place, at: str, node: Node, value: str) -> str:
        value = f"(unsigned char)({strip(value)})" if node.dtype == bool else strip(value)
        return f"{to.at(at)} = {value};"

    def _named(self, kind: str, value: str) -> str:
        if value.replace(".", "").isalnum():  # a name or a number
            return value
        name = f"v{self.count}"
        self.count += 1
        self.lines.append(f"const {kind} {name} = {strip(value)};")
        return name

    def _event(self, node: Node, time: int) -> None:
        if id(node) not in self.plan.stored:
            return
        if node.op == "reduce":
            self.lines += reduced(self, node)
        elif node.size == 1 and node.op not in ("sum", "max", "min", "argmax", "concat", "minimum_at"):
            self.names[id(node)] = self._named(kind_of(node.dtype), self._compute(node, (0,) * len(node.shape)))
        else:
            self._array(node, time)
        for other, buffer in list(self.buffers.items()):
            if self.plan.last.get(other, -1) <= time and other != id(node):
                del self.buffers[other]
                if all(buffer is not b for b in self.buffers.values()):
                    self.pool.free.append(buffer)

    def _array(self, node: Node, time: int) -> None:
        self.seen = []
        if node.op in ("sum", "max", "min", "argmax"):
            folded(self, node, time)
        elif node.op == "concat":
            self._concat(node, time)
        elif node.op == "minimum_at":
            self._runs(node, time)
        else:
            lines, index = self._inner(node.shape, lambda ix: [
                self._put(Place("@", lone=True), "", node, self._compute(node, ix))
            ])  # fmt: skip
            place = self.target(node, time, index)
            self.lines += [line.replace("@", place.at(index), 1) if line.strip().startswith("@ = ")
                           else line for line in lines]  # fmt: skip

    def target(self, node: Node, time: int, index: str | None = None) -> Place:
        """Give a node its memory; `index` is where each number is written when it is computed."""
        key = id(node)
        place = self.home.get(key)
        if place is None and key in self.wish:
            wished, old = self.wish[key]
            if all(self._done(state, time, wished.name, index) for state in old):
                place = wished
        if place is None:
            for other, buffer in self.buffers.items():
                fits = buffer.dtype == node.dtype and buffer.size >= node.size
                last = self.plan.last.get(other, -1) <= time
                alone = sum(b is buffer for b in self.buffers.values()) == 1
                if fits and last and alone and index and self._same(buffer.name, index):
                    self.buffers[key] = self.buffers.pop(other)
                    break
            else:
                self.buffers[key] = self.pool.take(node.dtype, node.size)
            place = Place(self.buffers[key].name)
        self.places[key] = place
        return place

    def _done(self, state: Node, time: int, name: str, index: str | None) -> bool:
        last = self.plan.last.get(id(state), -1)
        return last < time or (last == time and index is not None and self._same(name, index))

    def _same(self, name: str, index: str) -> bool:
        return all(at == index for what, at in self.seen if what == name)

    def _inner(self, shape: Sequence[int], body: Callable[[tuple[Index, ...]], list[str]]) -> tuple[list[str], str]:
        before, self.lines = self.lines, []
        index = self._loop(shape, body)
        lines, self.lines = self.lines, before
        return lines, index

    def _loop(self, shape: Sequence[int], body: Callable[[tuple[Index, ...]], list[str]], depth: int = 0) -> str:
        """Write loops over a shape around some lines; return the flat index of the innermost."""
        index: list[Index] = []
        heads = []
        for size in shape:
            if size == 1:
                index.append(0)
            else:
                letter = _LETTERS[depth + len(heads)]
                heads.append(f"for (int {letter} = 0; {letter} < {size}; ++{letter})")
                index.append(letter)
        before, self.lines = self.lines, []
        last = body(tuple(index))
        inside = [*self.lines, *last]
        for head in reversed(heads):
            inside = [f"{head} {{", *("    " + line for line in inside), "}"]
        # Names stay inside.
        names = not heads and any(line.startswith("const ") for line in self.lines)
        self.lines = [*before, *(_block(inside) if names else inside)]
        return flat(index, shape)

    def _concat(self, node: Node, time: int) -> None:
        axis, start = node.attrs["axis"], 0
        place = self.target(node, time)
        for part in node.args:
            offset = start * strides(node.shape)[axis]
            there = Place(place.name, place.offset + offset)
            together = outer(node.shape, axis) == 1
            # What a state holds already, and what was written there at once, stays.
            if not (together and self.places.get(id(base(part))) == there):
                self._loop(part.shape, lambda ix, part=part, offset=offset: [
                    self._put(place, flat(ix, node.shape, offset), part, self.value(part, ix))
                ])  # fmt: skip
            start += part.shape[axis]

    def _runs(self, node: Node, time: int) -> None:
        x, starts = node.args[0], np.asarray(node.attrs["starts"])
        if (np.diff(starts) <= 0).any():
            raise TypeError("minimum of runs that are not one after the other")
        ends = np.append(starts, x.shape[1])
        table = self.numbers.table("runs", ends, np.int32)
        place = self.target(node, time)
        least = self.helpers.use(f"minimum_{TYPES[x.dtype.name]}")
        def body(ix: tuple[Index, ...]) -> list[str]:
            g = ix[1]
            after = f"{g} + 1" if isinstance(g, str) else str(int(g) + 1)
            before, self.lines = self.lines, []
            value = self.value(x, (0, "m"))
            inner = [*self.lines, f"least = {least}(least, {strip(value)});"]
            self.lines = before
            return [
                f"{TYPES[x.dtype.name]} least = {_LARGEST[x.dtype.name]};",
                f"for (int m = {table}[{g}]; m < {table}[{after}]; ++m) {{",
                *("    " + line for line in inner), "}",
                f"{place.at(flat(ix, node.shape))} = least;",
            ]  # fmt: skip
        self._loop(node.shape, body)

    # Reading.
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
        return self._named(kind_of(node.dtype), text) if len(text) > _LONG else text

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
        return self.places[id(memory)], offset

    def address(self, node: Node, more: str = "0") -> str:
        """Return the address of a node's numbers."""
        place, offset = self.pointer(node)
        self.seen.append((place.name, "all"))
        return Place(place.name, place.offset + offset).pointer(more)

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
                return self._element(
                    Place(place.name, place.offset + offset), flat(index, node.shape)
                )
            case "slice":
                return self.value(node.args[0], _moved(index, a["axis"], a["start"]))
            case "take":
                x, axis = node.args[0], a["axis"]
                at = self._picked(node.args[1], (0,), x.shape[axis])
                return self.value(x, (*index[:axis], at, *index[axis:]))
            case "lookup":
                table = np.asarray(a["table"])
                depth = len(node.args[0].shape)
                at = self._picked(node.args[0], index[:depth], len(table))
                name = self.numbers.table("table", table)
                return f"{name}[{flat((at, *index[depth:]), table.shape)}]"
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
        given = self._named(kind, self.value(node, index))
        name = f"at{self.count}"
        self.count += 1
        if self.checked:
            self.lines.append(f"if ({given} < {-size} || {given} >= {size}) return {self.bad};")
        self.lines.append(f"const {kind} {name} = {given} < 0 ? {given} + {size} : {given};")
        return name


def folded(body: Body, node: Node, time: int) -> None:
    """Write a sum, an extreme, or where the largest is, along an axis."""
    x, axis = node.args[0], node.attrs["axis"]
    kind, size = TYPES[x.dtype.name], x.shape[axis]
    lone = node.size == 1
    name = f"v{body.count}"
    body.count += 1
    place = Place(name, lone=True) if lone else body.target(node, time)
    if pairwise(node):
        called = body.helpers.use(f"sum_{kind}")

        def summed(ix: tuple[Index, ...]) -> list[str]:
            start = body.address(x, flat((*ix[:axis], 0, *ix[axis:]), x.shape))
            put = f"const {kind} {name}" if lone else place.at(flat(ix, node.shape))
            return [f"{put} = {called}({start}, {size});"]

        body._loop(node.shape, summed)
    else:
        if lone:
            body.lines.append(f"{kind_of(node.dtype)} {name} = {_start(node)};")

        def inner(ix: tuple[Index, ...]) -> list[str]:
            to = name if lone else "fold"
            lines = [] if lone else [f"{TYPES[node.dtype.name]} {to} = {_start(node)};"]
            before, body.lines = body.lines, []
            read = lambda m: strip(body.value(x, (*ix[:axis], m if size > 1 else 0, *ix[axis:])))  # noqa: E731
            step = _fold(node, to, read, kind)
            step, body.lines = [*body.lines, *step], before
            lines += [f"for (int m = 0; m < {size}; ++m) {{", *("    " + s for s in step), "}"]
            return lines if lone else [*lines, f"{place.at(flat(ix, node.shape))} = {to};"]
        body._loop(node.shape, inner)
    if lone:
        body.names[id(node)] = name


def _start(node: Node) -> str:
    x = node.args[0].dtype
    if node.op in ("sum", "argmax"):
        return "0.0f" if node.dtype == np.float32 else "0.0" if node.dtype == np.float64 else "0"
    largest = _LARGEST[x.name]
    if node.op == "min":
        return largest
    return "0" if x == bool else f"-{largest}"


def _fold(node: Node, to: str, read: Callable[[str], str], kind: str) -> list[str]:
    if node.op == "sum":
        return [f"{to} += {read('m')};"]
    sign = "<" if node.op == "min" else ">"
    # As numpy: NaN wins, and for argmax the first of them.
    if node.op == "argmax":
        lines = [f"const {kind} x = {read('m')}, most = {read(to)};"]
        return [*lines, f"if (x > most || (x != x && most == most)) {to} = m;"]
    nan = " || x != x" if node.args[0].dtype.kind == "f" else ""
    return [f"const {kind} x = {read('m')};", f"if (x {sign} {to}{nan}) {to} = x;"]


def _moved(index: Sequence[Index], axis: int, start: int) -> tuple[Index, ...]:
    at = index[axis]
    if start:
        at = at + start if isinstance(at, int) else f"({at} + {start})"
    return (*index[:axis], at, *index[axis + 1 :])


def _block(lines: list[str]) -> list[str]:
    return ["{", *("    " + line for line in lines), "}"]
