"""An index bandit on one stream, in plain numbers: what a server runs between two requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import LEAST_REWARD, MOST_REWARD, check_player, no_such_arms, unscaled
from .memory import FORGOTTEN, HEAVY, Memory
from .noise import BLOCK, normals
from .saved import checked, items, row, sums, whole

if TYPE_CHECKING:
    from .index import Index

_Item = tuple[int, tuple[float, ...]]  # the first arm, and the rewards from it on


class OneIndex:
    """Counts, sums and squares of each arm's rewards, and the arm with the largest index.

    Constant time and memory per round: nothing is summed anew. In a window every reward comes and
    goes, and each time rounding leaves something. So a second sum of what comes in since the ring
    last began takes the place of the first when the ring is full: an error lives for two windows.
    With a discount, what comes in weighs more and more (`weight`) instead of all else less and less;
    counts, sums and the clock are all in that unit.
    """

    chances: Sequence[float] | None = None

    def __init__(self, rule: Index, memory: Memory, arms: int, seed: int, stream: int) -> None:
        check_player(arms, seed, stream + 1)
        self.rule, self.memory = rule, memory
        self.rounds, self.weight = 0, 1.0
        self.pulls, self.total, self.square = ([0.0] * arms for _ in range(3))
        self.choices = [0] * arms
        self._empty = arms  # arms without a reward in memory
        self._seed, self._stream = seed, stream
        self._block, self._noise = -1, [[0.0] * arms]
        self._ring: list[list[_Item]] = [[] for _ in range(memory.window or 0)]
        self._new_total, self._new_square = [0.0] * arms, [0.0] * arms

    def choose(self) -> int:
        """Return the arm for the next request; see `One.choose`."""
        self.rounds = rounds = self.rounds + 1
        memory, rule = self.memory, self.rule
        if memory.discount is not None:
            self._fade(memory.discount)
        elif self._ring:
            self._drop(rounds % len(self._ring))
        if self._empty:
            chosen = self._least_tried()
        else:
            noise = self._noise_of(rounds - 1) if rule.noisy else self.total
            clock = memory.clock(rounds) * self.weight
            chosen = rule.best(self.pulls, self.total, self.square, clock, noise)
        self.choices[chosen] += 1
        return chosen

    def learn(
        self, first: int, last: int, rewards: Sequence[float], chance: Sequence[float] | None = None
    ) -> None:
        """Take in rewards; see `One.learn`."""
        pulls, total = self.pulls, self.total
        if not 0 <= first <= last < len(pulls):
            raise no_such_arms(first, last, len(pulls))
        known = rewards[first : last + 1]
        if len(known) <= last - first:
            raise unscaled(f"{len(rewards)} of them")
        for reward in known:
            if not LEAST_REWARD <= reward <= MOST_REWARD:
                raise unscaled(reward)
        if self._empty:
            self._empty -= pulls[first : last + 1].count(0.0)
        a, weight = first, self.weight
        if self.rule.spread:
            square = self.square
            for reward in known:
                pulls[a] += weight
                total[a] += weight * reward
                square[a] += weight * (reward * reward)
                a += 1
        else:
            for reward in known:
                pulls[a] += weight
                total[a] += weight * reward
                a += 1
        if self._ring:
            self._remember(first, known)

    def _least_tried(self) -> int:
        """Return the least tried of the arms of which nothing is known, the largest of equals."""
        empty = (a for a, n in enumerate(self.pulls) if n <= 0)
        return min(empty, key=lambda a: (self.choices[a], -a))

    def _fade(self, discount: float) -> None:
        self.weight /= discount
        if self.weight > HEAVY:
            for values in (self.pulls, self.total, self.square):
                values[:] = [x / self.weight for x in values]
            for a, n in enumerate(self.pulls):
                if n < FORGOTTEN:
                    self.pulls[a] = self.total[a] = self.square[a] = 0.0
            self.weight, self._empty = 1.0, self.pulls.count(0.0)

    def _remember(self, first: int, known: Sequence[float]) -> None:
        spread, slot = self.rule.spread, self.rounds % len(self._ring)
        self._ring[slot].append((first, tuple(known)))
        if slot:
            new, square = self._new_total, self._new_square
            for a, reward in enumerate(known, first):
                new[a] += reward
                if spread:
                    square[a] += reward * reward

    def _drop(self, slot: int) -> None:
        """Forget what came in a full window ago."""
        pulls, total, square, spread = self.pulls, self.total, self.square, self.rule.spread
        for first, known in self._ring[slot]:
            for a, reward in enumerate(known, first):
                pulls[a] = n = pulls[a] - 1.0
                total[a] -= reward
                if spread:
                    square[a] -= reward * reward
                if n <= 0.0:
                    pulls[a] = total[a] = square[a] = 0.0
                    self._empty += 1
        self._ring[slot] = []
        if slot == 0:  # all that the ring now holds came in since slot 1
            total[:], square[:] = self._new_total, self._new_square
        elif slot == 1:
            self._new_total, self._new_square = [0.0] * len(pulls), [0.0] * len(pulls)

    def _noise_of(self, at: int) -> list[float]:
        block = at // BLOCK
        if block != self._block:
            found = normals(self._seed, self._stream, block, len(self.pulls))
            self._block, self._noise = block, found.tolist()
        return self._noise[at % BLOCK]

    def state(self) -> dict[str, Any]:
        """Return all that was learned; see `One.state`."""
        found: dict[str, Any] = {
            "rounds": self.rounds, "choices": list(self.choices), "pulls": list(self.pulls),
            "total": list(self.total), "square": list(self.square),
        }  # fmt: skip
        if self.memory.discount is not None:
            found["weight"] = self.weight
        if self._ring:
            found["ring"] = [[[first, list(x)] for first, x in slot] for slot in self._ring]
            found["new_total"], found["new_square"] = list(self._new_total), list(self._new_square)
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; see `One.restore`."""
        arms, fading = len(self.pulls), self.memory.discount is not None
        names = ["rounds", "choices", "pulls", "total", "square"] + ["weight"] * fading
        names += ["ring", "new_total", "new_square"] * bool(self._ring)
        state = checked("state of the bandit", state, names)
        weight = row("weight", [state["weight"]], 1, 1.0, HEAVY)[0] if fading else 1.0
        choices = whole("choices", state["choices"], arms)
        pulls, total, square = sums(state, ("pulls", "total", "square"), arms, weight, not fading)
        if self._ring:
            ring = items(state["ring"], len(self._ring), pulls, total)
            new = [row(name, state[name], arms, -1.0) for name in ("new_total", "new_square")]
            self._ring, (self._new_total, self._new_square) = ring, new
        self.rounds, self.choices, self.weight = state["rounds"], choices, weight
        self.pulls, self.total, self.square = pulls, total, square
        self._empty = pulls.count(0.0)
        self._block = -1
