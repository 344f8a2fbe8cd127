"""An index bandit on one stream, in plain numbers: what a server runs between two requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import bad
from ..parameters import numbers
from .base import check_whole
from .memory import Memory
from .noise import BLOCK, normals
from .saved import checked

if TYPE_CHECKING:
    from .index import Index


class OneIndex:
    """Counts, sums and squares of each arm's rewards, and the arm with the largest index.

    Constant time and memory per round: nothing is summed anew. In a window, sums of floats gain
    and lose every reward once; what rounding leaves stays below 1e-9 for 1e9 rounds.
    """

    chances: Sequence[float] | None = None

    def __init__(self, rule: Index, memory: Memory, arms: int, seed: int, stream: int) -> None:
        check_whole("arms", arms)
        self.rule, self.memory = rule, memory
        self.rounds = 0
        self.pulls, self.total, self.square = ([0.0] * arms for _ in range(3))
        self.choices = [0] * arms
        self._empty = arms  # arms without a reward in memory
        self._seed, self._stream = seed, stream
        self._noise: list[list[float]] = [[0.0] * arms]
        self._ring: list[list[tuple[int, tuple[float, ...]]]] = []
        if memory.window is not None:
            self._ring = [[] for _ in range(memory.window)]

    def choose(self) -> int:
        """Return the arm for the next request; see `One.choose`."""
        self.rounds = rounds = self.rounds + 1
        memory, pulls, total, rule = self.memory, self.pulls, self.total, self.rule
        if memory.discount is not None:
            self._fade(memory.discount)
        elif self._ring:
            self._drop(rounds % len(self._ring))
        if (
            self._empty
        ):  # the least tried of the arms of which nothing is known; the largest of equals
            chosen = min(
                (a for a, n in enumerate(pulls) if n <= 0), key=lambda a: (self.choices[a], -a)
            )
        else:
            noise = self._next_noise(rounds - 1) if rule.noisy else total
            chosen = rule.best(pulls, total, self.square, memory.clock(rounds), noise)
        self.choices[chosen] += 1
        return chosen

    def learn(
        self, first: int, last: int, rewards: Sequence[float], chance: Sequence[float] | None = None
    ) -> None:
        """Take in rewards; see `One.learn`."""
        pulls, total, square = self.pulls, self.total, self.square
        spread = self.rule.spread
        if self._empty:
            self._empty -= pulls[first : last + 1].count(0.0)
        for a in range(first, last + 1):
            reward = rewards[a]
            pulls[a] += 1.0
            total[a] += reward
            if spread:
                square[a] += reward * reward
        if self._ring:
            item = (first, tuple(rewards[first : last + 1]))
            self._ring[self.rounds % len(self._ring)].append(item)

    def _fade(self, discount: float) -> None:
        for values in (self.pulls, self.total, self.square)[: 3 if self.rule.spread else 2]:
            values[:] = [discount * x for x in values]

    def _drop(self, slot: int) -> None:
        """Forget what came in a full window ago."""
        pulls, total, square = self.pulls, self.total, self.square
        for first, rewards in self._ring[slot]:
            for a, reward in enumerate(rewards, first):
                pulls[a] -= 1.0
                total[a] -= reward
                if self.rule.spread:
                    square[a] -= reward * reward
                if pulls[a] <= 0:
                    pulls[a] = total[a] = square[a] = 0.0
                    self._empty += 1
        self._ring[slot] = []

    def _next_noise(self, at: int) -> list[float]:
        if at % BLOCK == 0 or len(self._noise) < BLOCK:
            self._noise = normals(self._seed, self._stream, at // BLOCK, len(self.pulls)).tolist()
        return self._noise[at % BLOCK]

    def state(self) -> dict[str, Any]:
        """Return all that was learned; see `One.state`."""
        found: dict[str, Any] = {
            "rounds": self.rounds, "choices": list(self.choices), "pulls": list(self.pulls),
            "total": list(self.total), "square": list(self.square),
        }  # fmt: skip
        if self._ring:
            found["ring"] = [[[first, list(x)] for first, x in slot] for slot in self._ring]
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; see `One.restore`."""
        arms = len(self.pulls)
        names = ("rounds", "choices", "pulls", "total", "square") + ("ring",) * bool(self._ring)
        state = checked("state of the bandit", state, names)
        check_whole("rounds", state["rounds"], 0)
        rows = {name: numbers(name, state[name], 1).tolist() for name in names[1:5]}
        for name, row in rows.items():
            if len(row) != arms or min(row) < 0:
                raise bad(name, f"{arms} numbers, none below 0", state[name], "Start anew.")
        ring = [[_item(item, arms) for item in slot] for slot in state.get("ring", [])]
        if len(ring) != len(self._ring):
            raise bad("ring", f"of {len(self._ring)} rounds", len(ring), "Start anew.")
        self.rounds, self._ring = state["rounds"], ring
        self.choices = [int(x) for x in rows["choices"]]
        self.pulls, self.total, self.square = rows["pulls"], rows["total"], rows["square"]
        self._empty = sum(n <= 0 for n in self.pulls)
        self._noise = self._noise[:1]


def _item(item: Any, arms: int) -> tuple[int, tuple[float, ...]]:
    """Return one saved entry of a window, checked."""
    whole = isinstance(item, list) and len(item) == 2 and type(item[0]) is int
    rewards = numbers("ring", item[1], 1).tolist() if whole and item[1] else []
    if not rewards or not 0 <= item[0] <= arms - len(rewards):
        raise bad("ring", "entries [first arm, [rewards]]", item, "Start anew.")
    return item[0], tuple(rewards)
