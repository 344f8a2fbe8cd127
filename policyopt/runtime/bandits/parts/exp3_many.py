"""EXP3 on R streams side by side; see `exp3.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .base import (
    LEAST_REWARD,
    MOST_REWARD,
    Bools,
    Floats,
    Ints,
    check_player,
    no_chance,
    unscaled,
)
from .noise import BLOCK, uniforms

if TYPE_CHECKING:
    from ..exp3 import EXP3


class ManyEXP3:
    """Estimated sums of rewards (R, A) of R streams; see `Many` and `OneEXP3`."""

    def __init__(self, rule: EXP3, arms: int, streams: int, seed: int) -> None:
        check_player(arms, seed, streams)
        self.rule, self.rounds, self.gains = rule, 0, np.zeros((streams, arms))
        self.chances: Floats | None = None
        self._seed, self._block, self._draws = seed, -1, np.zeros((1, streams))

    def choose(self) -> Ints:
        """Return the arms for the next request of every stream; see `Many.choose`."""
        self.rounds = rounds = self.rounds + 1
        streams, arms = self.gains.shape
        gamma = self.rule.gamma_at(rounds, arms)
        top = self.gains.max(axis=1, keepdims=True)
        weights = _each(math.exp, gamma / arms * (self.gains - top))
        total = weights.cumsum(axis=1)[:, -1:]  # summed from arm 0 on, as plain numbers are
        self.chances = chances = (1.0 - gamma) / total * weights + gamma / arms
        sums = chances.cumsum(axis=1)
        block = (rounds - 1) // BLOCK
        if block != self._block:
            found = [uniforms(self._seed, s, block, 1)[:, 0] for s in range(streams)]
            self._block, self._draws = block, np.stack(found, axis=1)
        drawn = self._draws[(rounds - 1) % BLOCK] * sums[:, -1]
        return np.minimum((sums <= drawn[:, None]).sum(axis=1), arms - 1)

    def learn(self, seen: Bools, rewards: Floats, chance: Floats | None = None) -> None:
        """Take in rewards; see `Many.learn`. Without `chance`, that of the arms just played."""
        known = np.where(seen, rewards, 0.0)
        if not (known.min() >= LEAST_REWARD and known.max() <= MOST_REWARD):
            raise unscaled(known)
        if chance is None:
            chance = self.chances
            if chance is None or (seen.sum(axis=1) > 1).any():
                raise no_chance()
        chance = np.where(seen, chance, 1.0)
        if not (chance.min() > 0.0 and chance.max() <= MOST_REWARD):
            raise no_chance(chance)
        after = self.gains + known / chance
        if self.rule.share:
            some = seen.any(axis=1)
            after[some] = self._shared(self.gains[some], after[some])
        self.gains = after

    def _shared(self, before: Floats, after: Floats) -> Floats:
        arms = before.shape[1]
        rate = self.rule.gamma_at(self.rounds, arms) / arms
        top, high = before.max(axis=1, keepdims=True), after.max(axis=1, keepdims=True)
        weight = _each(math.exp, rate * (before - top)).cumsum(axis=1)[:, -1:]
        part = math.e * self.rule.share / arms * weight * _each(math.exp, rate * (top - high))
        return _each(math.log, _each(math.exp, rate * (after - high)) + part) / rate


def _each(function: Callable[[float], float], values: Floats) -> Floats:
    """Apply a function of plain numbers: numpy's own may differ in the last bit, and decide otherwise."""
    found = map(function, values.ravel().tolist())
    return np.fromiter(found, dtype=np.float64, count=values.size).reshape(values.shape)
