"""From the decision graph of one exit to the body of a C function.

Values that have one reader are computed where they are read, so that chains of elementwise
operations are one loop; others stand in a variable, a buffer that is used again when it is free, or
the state itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .c_fold import LARGEST, folded
from .c_helpers import Helpers
from .c_places import Buffer, Place, Pool
from .c_plan import Moves, Plan, Slot, base, outer
from .c_read import Reader
from .c_reduce import reduced
from .c_text import TYPES, Index, Numbers, flat, strides
from .c_words import kind_of, strip
from .graph import ExitGraph, Node

_LETTERS = "ijklmn"


class Body(Reader):
    """Writes one exit.

    Parameters
    ----------
    graph : ExitGraph
    held : sequence of Slot
        Where the states are.
    moves : Moves
        Where those left go.
    numbers, helpers, bad, checked
        See `Reader`.
    """

    def __init__(
        self, graph: ExitGraph, held: Sequence[Slot], moves: Moves, numbers: Numbers,
        helpers: Helpers, bad: str, checked: bool,
    ) -> None:  # fmt: skip
        super().__init__(numbers, helpers, bad, checked)
        self.graph, self.moves, self.plan, self.pool = graph, moves, Plan(graph), Pool()
        self.buffers: dict[int, Buffer] = {}
        self.home: dict[int, Place] = {}  # where a node is to be written, known beforehand
        # The same, if the state's old numbers there are read no more.
        self.wish: dict[int, tuple[Place, list[Node]]] = {}
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

    def text(self) -> list[str]:
        """Return the lines of the body, without indentation of their own."""
        nodes = self.plan.main
        for time, node in enumerate(nodes):
            self._event(node, time)
        said = self.graph.outputs
        leave = self.named("int", self.value(said["exit"]))
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
            lines += [
                "#ifdef @PROBABILITIES",
                *_block([*self.pool.declared(True), *extra]),
                "#endif",
            ]
        return [*lines, *self.lines, f"return {strip(leave)};"]

    def _extra(self, node: Node, start: int) -> None:
        self.pool.extra = self.helpers.extra = True
        given = Buffer("decision->probabilities", node.dtype, node.size, True, False)
        self.pool.free.append(given)
        for time, each in enumerate(self.plan.extra, start):
            self._event(each, time)
        if self.places.get(id(node)) != Place(given.name):
            self.loop(node.shape, lambda ix: [
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
                    value = self.named(kind_of(left.dtype), value)
                stores.append(lambda to=to, left=left, v=value: [self.put(to, "0", left, v)])
            elif self.places.get(id(base(left))) != to:
                stores.append(lambda to=to, left=left: self._copied(to, left))
        for store in stores:
            self.lines += store()

    def _copied(self, to: Place, node: Node) -> list[str]:
        before, self.lines = self.lines, []
        self.loop(node.shape, lambda ix: [
            self.put(to, flat(ix, node.shape), node, self.value(node, ix))
        ])  # fmt: skip
        lines, self.lines = self.lines, before
        return lines

    def _event(self, node: Node, time: int) -> None:
        if id(node) not in self.plan.stored:
            return
        if node.op == "reduce":
            self.lines += reduced(self, node)
        elif node.size == 1 and node.op not in (
            "sum",
            "max",
            "min",
            "argmax",
            "concat",
            "minimum_at",
        ):
            value = self._compute(node, (0,) * len(node.shape))
            # What has its address taken needs a name of its own.
            value = f"({value})" if id(node) in self.plan.needs_memory else value
            self.names[id(node)] = self.named(kind_of(node.dtype), value)
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
                self.put(Place("@", lone=True), "", node, self._compute(node, ix))
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

    def _inner(
        self, shape: Sequence[int], body: Callable[[tuple[Index, ...]], list[str]]
    ) -> tuple[list[str], str]:
        before, self.lines = self.lines, []
        index = self.loop(shape, body)
        lines, self.lines = self.lines, before
        return lines, index

    def loop(
        self, shape: Sequence[int], body: Callable[[tuple[Index, ...]], list[str]], depth: int = 0
    ) -> str:
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
                self.loop(part.shape, lambda ix, part=part, offset=offset: [
                    self.put(place, flat(ix, node.shape, offset), part, self.value(part, ix))
                ])  # fmt: skip
            start += part.shape[axis]

    def _runs(self, node: Node, time: int) -> None:
        x, starts = node.args[0], np.asarray(node.attrs["starts"])
        if (np.diff(starts) <= 0).any():
            raise TypeError("minimum of runs that are not one after the other")
        ends = np.append(starts, x.shape[1])
        table = self.numbers.table("runs", ends, np.int32)
        place = self.target(node, time)
        called, least = self.helpers.use(f"minimum_{TYPES[x.dtype.name]}"), f"least{self.count}"
        self.count += 1

        def body(ix: tuple[Index, ...]) -> list[str]:
            g = ix[1]
            after = f"{g} + 1" if isinstance(g, str) else str(int(g) + 1)
            before, self.lines = self.lines, []
            value = self.value(x, (0, "m"))
            inner = [*self.lines, f"{least} = {called}({least}, {strip(value)});"]
            self.lines = before
            return [
                f"{TYPES[x.dtype.name]} {least} = {LARGEST[x.dtype.name]};",
                f"for (int m = {table}[{g}]; m < {table}[{after}]; ++m) {{",
                *("    " + line for line in inner), "}",
                f"{place.at(flat(ix, node.shape))} = {least};",
            ]  # fmt: skip

        self.loop(node.shape, body)


def _block(lines: list[str]) -> list[str]:
    return ["{", *("    " + line for line in lines), "}"]
