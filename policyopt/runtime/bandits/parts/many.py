"""An index bandit on R streams side by side: what simulations play."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .base import LEAST_REWARD, MOST_REWARD, Bools, Floats, Ints, check_player, unscaled
from .memory import FORGOTTEN, HEAVY, Memory
from .noise import BLOCK, normals

if TYPE_CHECKING:
    from .index import Index


class ManyIndices:
    """Counts, sums and squares of every arm of every stream, (R, A); see `OneIndex`."""

    chances: Floats | None = None

    def __init__(self, rule: Index, memory: Memory, arms: int, streams: int, seed: int) -> None:
        check_player(arms, seed, streams)
        self.rule, self.memory = rule, memory
        self.rounds, self.weight = 0, 1.0
        shape = (streams, arms)
        self.pulls, self.total, self.square = (np.zeros(shape) for _ in range(3))
        self.choices = np.zeros(shape, dtype=np.int64)
        self._seed, self._block, self._noise = seed, -1, np.zeros((1, *shape))
        self._rows = np.arange(streams)
        self._ring: list[list[tuple[Bools, Floats]]] = [[] for _ in range(memory.window or 0)]
        self._new_total, self._new_square = np.zeros(shape), np.zeros(shape)

    def choose(self) -> Ints:
        """Return the arms for the next request of every stream; see `Many.choose`."""
        self.rounds = rounds = self.rounds + 1
        memory, rule, pulls = self.memory, self.rule, self.pulls
        if memory.discount is not None:
            self._fade(memory.discount)
        elif self._ring:
            self._drop(rounds % len(self._ring))
        empty = pulls <= 0
        some = bool(empty.any())
        count = np.where(empty, 1.0, pulls) if some else pulls
        mean = self.total / count
        variance = np.maximum(self.square / count - mean * mean, 0.0) if rule.spread else mean
        noise = self._noise_of(rounds - 1) if rule.noisy else mean
        index = rule.index(np, mean, variance, count, memory.clock(rounds) * self.weight, noise)
        if rule.tie:  # indices that differ by rounding only are equal
            top = index.max(axis=1, keepdims=True)
            index = np.where(index >= top - rule.tie, top, index)
        if some:  # arms of which nothing is known come first, the least tried of them
            index = np.where(empty, np.inf, np.where(empty.any(1, keepdims=True), -np.inf, index))
            least = np.where(empty, self.choices, np.iinfo(np.int64).max).min(1, keepdims=True)
            index = np.where(empty & (self.choices > least), -np.inf, index)
        chosen = index.shape[1] - 1 - index[:, ::-1].argmax(axis=1)  # ties go to the largest
        self.choices[self._rows, chosen] += 1
        return chosen

    def learn(self, seen: Bools, rewards: Floats, chance: Floats | None = None) -> None:
        """Take in rewards, those of one request per stream; see `Many.learn`."""
        known = np.where(seen, rewards, 0.0)
        if not (known.min() >= LEAST_REWARD and known.max() <= MOST_REWARD):
            raise unscaled(known)
        self.pulls += self.weight * seen
        self.total += self.weight * known
        if self.rule.spread:
            self.square += self.weight * (known * known)
        if self._ring:
            slot = self.rounds % len(self._ring)
            self._ring[slot].append((seen.copy(), known))
            if slot:
                self._new_total += known
                if self.rule.spread:
                    self._new_square += known * known

    def _fade(self, discount: float) -> None:
        self.weight /= discount
        if self.weight > HEAVY:
            for values in (self.pulls, self.total, self.square):
                values /= self.weight
            for values in (self.total, self.square, self.pulls):
                values[self.pulls < FORGOTTEN] = 0.0
            self.weight = 1.0

    def _drop(self, slot: int) -> None:
        """Forget what came in a full window ago."""
        for seen, known in self._ring[slot]:
            self.pulls -= seen
            self.total -= known
            if self.rule.spread:
                self.square -= known * known
        if self._ring[slot]:
            for values in (self.total, self.square):
                values[self.pulls <= 0] = 0.0
        self._ring[slot] = []
        if slot == 0:  # all that the ring now holds came in since slot 1
            self.total[:], self.square[:] = self._new_total, self._new_square
        elif slot == 1:
            self._new_total[:], self._new_square[:] = 0.0, 0.0

    def _noise_of(self, at: int) -> Floats:
        block = at // BLOCK
        if block != self._block:
            streams, arms = self.pulls.shape
            blocks = [normals(self._seed, s, block, arms) for s in range(streams)]
            self._block, self._noise = block, np.stack(blocks, axis=1)
        return self._noise[at % BLOCK]
