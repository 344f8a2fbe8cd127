"""An index bandit on R streams side by side: what simulations play."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .base import Bools, Floats, Ints, check_whole
from .memory import Memory
from .noise import BLOCK, normals

if TYPE_CHECKING:
    from .index import Index


class ManyIndices:
    """Counts, sums and squares of every arm of every stream, (R, A); see `OneIndex`."""

    chances: Floats | None = None

    def __init__(self, rule: Index, memory: Memory, arms: int, streams: int, seed: int) -> None:
        check_whole("arms", arms)
        check_whole("streams", streams)
        self.rule, self.memory = rule, memory
        self.rounds = 0
        shape = (streams, arms)
        self.pulls, self.total, self.square = (np.zeros(shape) for _ in range(3))
        self.choices = np.zeros(shape, dtype=np.int64)
        self._seed, self._noise = seed, np.zeros((1, *shape))
        self._rows = np.arange(streams)
        window = memory.window or 0
        self._seen = np.zeros((window, *shape), dtype=bool)
        self._rewards = np.zeros((window, *shape))

    def choose(self) -> Ints:
        """Return the arms for the next request of every stream; see `Many.choose`."""
        self.rounds = rounds = self.rounds + 1
        memory, rule, pulls = self.memory, self.rule, self.pulls
        if memory.discount is not None:
            for values in (pulls, self.total, self.square):
                values *= memory.discount
        elif len(self._seen):
            self._drop(rounds % len(self._seen))
        empty = pulls <= 0
        some = bool(empty.any())
        count = np.where(empty, 1.0, pulls) if some else pulls
        mean = self.total / count
        variance = np.maximum(self.square / count - mean * mean, 0.0) if rule.spread else mean
        noise = self._next_noise(rounds - 1) if rule.noisy else mean
        index = rule.index(np, mean, variance, count, memory.clock(rounds), noise)
        if some:  # arms of which nothing is known come first, the least tried of them
            index = np.where(empty, np.inf, np.where(empty.any(1, keepdims=True), -np.inf, index))
            least = np.where(empty, self.choices, np.iinfo(np.int64).max).min(1, keepdims=True)
            index = np.where(empty & (self.choices > least), -np.inf, index)
        chosen = index.shape[1] - 1 - index[:, ::-1].argmax(axis=1)  # ties go to the largest
        self.choices[self._rows, chosen] += 1
        return chosen

    def learn(self, seen: Bools, rewards: Floats, chance: Floats | None = None) -> None:
        """Take in rewards, those of one request per stream and round; see `Many.learn`."""
        known = np.where(seen, rewards, 0.0)
        self.pulls += seen
        self.total += known
        if self.rule.spread:
            self.square += known * known
        if len(self._seen):
            slot = self.rounds % len(self._seen)
            self._seen[slot], self._rewards[slot] = seen, known

    def _drop(self, slot: int) -> None:
        """Forget what came in a full window ago."""
        old = self._rewards[slot]
        self.pulls -= self._seen[slot]
        self.total -= old
        if self.rule.spread:
            self.square -= old * old
        for values in (self.total, self.square):
            values[self.pulls <= 0] = 0.0
        self._seen[slot], self._rewards[slot] = False, 0.0

    def _next_noise(self, at: int) -> Floats:
        if at % BLOCK == 0 or len(self._noise) < BLOCK:
            streams, arms = self.pulls.shape
            blocks = [normals(self._seed, s, at // BLOCK, arms) for s in range(streams)]
            self._noise = np.stack(blocks, axis=1)
        return self._noise[at % BLOCK]
