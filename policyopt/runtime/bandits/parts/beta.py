"""Thompson sampling's beta posterior: binarised rewards, and beta draws that a counter fixes.

A beta variable is ``G / (G + H)`` of two gamma variables, each by Marsaglia & Tsang (ACM TOMS 26,
2000, figure 1): propose, accept or try again. Every try of every round has its own numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import LEAST_REWARD, MOST_REWARD, Bools, Floats, unscaled
from .many import ManyIndices
from .memory import Memory
from .noise import BLOCK, normals, uniforms
from .one import OneIndex

if TYPE_CHECKING:
    from .index import Index

_COINS = 1 << 32  # the series of arm 0's coins; those of the tries are far below


class OneBeta(OneIndex):
    """Counts of 1 and 0 of each arm; see `OneIndex`."""

    def __init__(self, rule: Index, memory: Memory, arms: int, seed: int, stream: int) -> None:
        super().__init__(rule, memory, arms, seed, stream)
        self._tries: list[tuple[list[list[float]], list[list[float]]]] = []
        self._coins: list[tuple[int, list[float]]] = [(-1, [])] * arms

    def learn(
        self, first: int, last: int, rewards: Sequence[float], chance: Sequence[float] | None = None
    ) -> None:
        """Take in rewards, each as 1 with its own probability, else as 0."""
        coins = [0.0] * len(self.pulls)
        for a in range(max(first, 0), min(last + 1, len(coins))):
            if not LEAST_REWARD <= rewards[a] <= MOST_REWARD:
                raise unscaled(rewards[a])
            coins[a] = float(self._coin(a) < rewards[a])
        super().learn(first, last, coins, chance)

    def _coin(self, a: int) -> float:
        """Return the number that belongs to the arm's next reward: by its count, however late."""
        block, at = divmod(int(self.pulls[a]), BLOCK)
        if self._coins[a][0] != block:
            found = uniforms(self._seed, self._stream, block, 1, _COINS + a)
            self._coins[a] = block, found[:, 0].tolist()
        return self._coins[a][1][at]

    def _noise_of(self, at: int) -> list[float]:
        block, row = divmod(at, BLOCK)
        if block != self._block:
            self._block, self._tries = block, []
        return [self._beta(row, a) for a in range(len(self.pulls))]

    def _beta(self, row: int, a: int) -> float:
        ones = self.total[a]
        g = self._gamma(row, 2 * a, 1.0 + ones)
        return g / (g + self._gamma(row, 2 * a + 1, 1.0 + (self.pulls[a] - ones)))

    def _gamma(self, row: int, slot: int, shape: float) -> float:
        d = shape - 1.0 / 3.0
        scale, attempt = math.sqrt(9.0 * d), 0
        while True:
            if attempt == len(self._tries):
                x, u = _numbers(self._seed, self._stream, self._block, len(self.pulls), attempt)
                self._tries.append((x.tolist(), u.tolist()))
            x, u = self._tries[attempt][0][row][slot], self._tries[attempt][1][row][slot]
            v = 1.0 + x / scale
            if v > 0.0:
                v = v * v * v
                if math.log(1.0 - u) < 0.5 * x * x + d * (1.0 - v + math.log(v)):
                    return d * v
            attempt += 1


class ManyBeta(ManyIndices):
    """Counts of 1 and 0 of every arm of every stream; see `OneBeta`."""

    def __init__(self, rule: Index, memory: Memory, arms: int, streams: int, seed: int) -> None:
        super().__init__(rule, memory, arms, streams, seed)
        self._tries: list[tuple[Floats, Floats]] = []
        self._coin_blocks = np.full((streams, arms), -1)
        self._coins = np.zeros((streams, arms, BLOCK))

    def learn(self, seen: Bools, rewards: Floats, chance: Floats | None = None) -> None:
        """Take in rewards, each as 1 with its own probability, else as 0."""
        known = np.where(seen, rewards, 0.0)
        if not (known.min() >= LEAST_REWARD and known.max() <= MOST_REWARD):
            raise unscaled(known)
        count = self.pulls.astype(np.int64)
        for s, a in np.argwhere(seen & (self._coin_blocks != count // BLOCK)):
            self._coin_blocks[s, a] = block = int(count[s, a] // BLOCK)
            self._coins[s, a] = uniforms(self._seed, int(s), block, 1, _COINS + int(a))[:, 0]
        coins = np.take_along_axis(self._coins, (count % BLOCK)[..., None], axis=2)[..., 0]
        super().learn(seen, (coins < known).astype(np.float64), chance)

    def _noise_of(self, at: int) -> Floats:
        block, row = divmod(at, BLOCK)
        if block != self._block:
            self._block, self._tries = block, []
        shape = np.stack([1.0 + self.total, 1.0 + (self.pulls - self.total)], axis=2)
        g = self._gammas(row, shape.reshape(len(shape), -1)).reshape(shape.shape)
        return g[..., 0] / (g[..., 0] + g[..., 1])

    def _gammas(self, row: int, shape: Floats) -> Floats:
        d = shape - 1.0 / 3.0
        scale, out = np.sqrt(9.0 * d), np.zeros(d.shape)
        streams, arms = self.pulls.shape
        open_, attempt = np.ones(d.shape, dtype=bool), 0
        while open_.any():
            if attempt == len(self._tries):
                found = [
                    _numbers(self._seed, s, self._block, arms, attempt) for s in range(streams)
                ]
                normal, uniform = (np.stack(part, axis=1) for part in zip(*found, strict=True))
                self._tries.append((normal, uniform))
            x, u = (part[row][open_] for part in self._tries[attempt])
            mine = d[open_]
            v = 1.0 + x / scale[open_]
            v = v * v * v
            some = np.where(v > 0.0, v, 1.0)
            log = np.log(1.0 - u) < 0.5 * x * x + mine * (1.0 - some + np.log(some))
            good = log & (v > 0.0)
            where = tuple(part[good] for part in np.nonzero(open_))
            out[where] = (mine * v)[good]
            open_[where] = False
            attempt += 1
        return out


def _numbers(seed: int, stream: int, block: int, arms: int, attempt: int) -> Any:
    """Return what one try needs: normal and uniform numbers, two of each per arm and round."""
    return (
        normals(seed, stream, block, 2 * arms, 2 * attempt),
        uniforms(seed, stream, block, 2 * arms, 2 * attempt + 1),
    )
