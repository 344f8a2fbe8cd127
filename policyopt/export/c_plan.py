"""What of an exit's graph stands in memory in C: states, buffers, and what is computed where it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .graph import ELEMENTWISE, ExitGraph, Node, ordered

#: One number after the other, each from those at the same place.
POINTWISE = {*ELEMENTWISE, "where", "cast", "search", "interp", "lookup"}
#: May be computed one number at a time, where it is used.
_ANYWHERE = POINTWISE | {"take", "linear", "distances"}
PAIRWISE = 8  # from so many floats on, numpy's sum is no longer from first to last


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without the axes of length 1."""
    return tuple(size for size in shape if size != 1)


def is_view(node: Node) -> bool:
    """Whether a node is another's numbers, looked at otherwise; widened ones included."""
    if node.op == "reshape":
        return squeezed(node.shape) == squeezed(node.args[0].shape)
    return node.op == "slice" or (node.op == "cast" and not _costly(node))


def _costly(cast: Node) -> bool:
    return cast.args[0].dtype.kind == "f" and cast.dtype != np.float64


def base(node: Node) -> Node:
    """Return what a node is after reshaping only: the same numbers in the same order."""
    while node.op == "reshape":
        node = node.args[0]
    return node


def outer(shape: Sequence[int], axis: int) -> int:
    """How many numbers an axis is repeated for."""
    return int(np.prod(shape[:axis], dtype=np.int64))


def pairwise(node: Node) -> bool:
    """Whether a sum is numpy's pairwise one: of floats that lie side by side."""
    x, axis = node.args[0], node.attrs["axis"]
    side_by_side = not squeezed(x.shape[axis + 1 :])
    return node.op == "sum" and x.dtype.kind == "f" and side_by_side and x.shape[axis] >= PAIRWISE


@dataclass
class Slot:
    """A field of the state; `size` is the most it holds."""

    name: str
    dtype: np.dtype
    size: int


@dataclass
class Moves:
    """How an exit leaves its state: per left node the slot, and what is there already."""

    slots: list[Slot] = field(default_factory=list)
    stays: set[int] = field(default_factory=set)
    appends: set[int] = field(default_factory=set)
    fresh: set[int] = field(default_factory=set)


def state_slots(graphs: Sequence[ExitGraph]) -> tuple[list[Slot], list[Moves]]:
    """Give every state a field that lasts over the exits.

    What only grows at its end keeps its field, and only the end is written.

    Parameters
    ----------
    graphs : sequence of K ExitGraph

    Returns
    -------
    slots : list of Slot
    moves : list of K Moves
    """
    slots: list[Slot] = []
    moves: list[Moves] = []
    held: list[Slot] = []  # by the states of the exit
    for graph in graphs:
        place = {id(node): slot for node, slot in zip(graph.states, held, strict=True)}
        move, given = Moves(), {}
        order = [(i, base(node)) for i, node in enumerate(graph.left)]
        for i, node in order:
            if id(node) in place and not _taken(place[id(node)], given):
                given[i] = place[id(node)]
                move.stays.add(i)
        for i, node in order:
            first = base(node.args[0]) if node.op == "concat" else node
            grows = node.op == "concat" and outer(node.shape, node.attrs["axis"]) == 1
            if i in given or not grows or id(first) not in place:
                continue
            if not _taken(place[id(first)], given):
                given[i] = place[id(first)]
                move.appends.add(i)
        for i, node in order:
            if i in given:
                continue
            free = [s for s in slots if s.dtype == node.dtype and not _taken(s, given)]
            # A field whose numbers nobody holds may be written at once.
            idle = [s for s in free if all(s is not h for h in held)]
            given[i] = (idle or free or [Slot(f"kept{len(slots)}", node.dtype, 0)])[0]
            if all(given[i] is not s for s in slots):
                slots.append(given[i])
            if all(given[i] is not h for h in held):
                move.fresh.add(i)
        for i, node in order:
            given[i].size = max(given[i].size, node.size)
        move.slots = held = [given[i] for i in range(len(order))]
        moves.append(move)
    return slots, moves


def _taken(slot: Slot, given: dict[int, Slot]) -> bool:
    return any(slot is other for other in given.values())


class Plan:
    """What is computed when, for one exit.

    Parameters
    ----------
    graph : ExitGraph

    Attributes
    ----------
    main, extra : list of Node
        Operands first: for the decision and the state; besides, for the probabilities.
    """

    def __init__(self, graph: ExitGraph) -> None:
        said = [node for name, node in graph.outputs.items() if name != "probabilities"]
        self.main = ordered([*said, *graph.left])
        known = {id(node) for node in self.main}
        rest = graph.outputs.get("probabilities")
        self.extra = [n for n in ordered([rest] if rest else []) if id(n) not in known]
        self.roots = [*said, *graph.left]
        self._users: dict[int, list[tuple[Node, Node]]] = {}
        nodes = [*self.main, *self.extra]
        for node in nodes:
            for arg in node.args:
                self._users.setdefault(id(arg), []).append((node, arg))
        for node in (*self.roots, *([rest] if rest else [])):
            self._users.setdefault(id(node), []).append((node, node))
        self.needs_memory = {id(n) for user in nodes for n in self._pointed(user)}
        self.needs_memory |= {id(base(n)) for n in graph.left if n.size > 1}
        self.stored = {id(n) for n in nodes if self._is_stored(n)}
        self.last: dict[int, int] = {}
        for time, node in enumerate(nodes):
            for read in self.reads(node):
                self.last[id(read)] = time
        for node in (*self.roots, *([rest] if rest else [])):
            for read in [node] if id(node) in self.stored else [node, *self.reads(node)]:
                self.last[id(read)] = len(nodes)

    def users(self, node: Node) -> list[tuple[Node, Node]]:
        """Return who reads a node, and as which operand: views are looked through.

        Who is wanted from outside has itself among them.
        """
        found = []
        for user, arg in self._users.get(id(node), []):
            looks = user is not arg and is_view(user) and id(user) not in self.needs_memory
            found += self.users(user) if looks else [(user, arg)]
        return found

    def _pointed(self, user: Node) -> Iterator[Node]:
        """Nodes that a node reads by address."""
        if user.op in ("linear", "distances"):
            x = user.args[0]
            yield addressed(x.args[0] if single(x) else x)
        elif (
            user.op == "reduce"
            or (user.op == "sum" and pairwise(user))
            or (user.op == "reshape" and not is_view(user))
        ):
            yield addressed(user.args[0])

    def _is_stored(self, node: Node) -> bool:
        if node.op in ("input", "const", "field"):
            return False
        if id(node) in self.needs_memory:
            return True
        if is_view(node) or node.op == "reshape":
            return False
        if node.op not in _ANYWHERE:
            return True
        users = self.users(node)
        if len(users) != 1:
            return True
        user, arg = users[0]
        if user is arg:
            return True  # outputs have names
        if node.size == 1:
            return user.size > 1  # so has what loops read
        return user.op in POINTWISE and user.size != arg.size

    def reads(self, node: Node) -> Iterator[Node]:
        """Yield the stored nodes and inputs whose numbers are read when a node is computed."""
        for arg in node.args:
            if id(arg) in self.stored or arg.op in ("input", "field"):
                yield arg
            if id(arg) not in self.stored:
                yield from self.reads(arg)


def single(node: Node) -> bool:
    """Whether a node is float32 widened to float64, which the functions do themselves."""
    return node.op == "cast" and node.args[0].dtype == np.float32 and node.dtype == np.float64


def addressed(node: Node) -> Node:
    """Return what lies in memory where a node's numbers are read by address."""
    while node.op in ("reshape", "slice"):
        x = node.args[0]
        if node.op == "slice" and outer(x.shape, node.attrs["axis"]) != 1:
            break
        node = x
    return node
