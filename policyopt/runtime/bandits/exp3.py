"""EXP3 and EXP3.S (Auer, Cesa-Bianchi, Freund & Schapire, SIAM J. Comput. 32, 2002, sections 3, 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

from ..checks import check_positive
from .parts.base import (
    LEAST_REWARD,
    MOST_REWARD,
    Bandit,
    check_player,
    no_chance,
    no_such_arms,
    unscaled,
)  # fmt: skip
from .parts.exp3_many import ManyEXP3
from .parts.noise import BLOCK, uniforms
from .parts.saved import checked, row

_LARGEST = 1e100  # of a saved estimate


@dataclass(frozen=True)
class EXP3(Bandit):
    """Plays arm a with ``(1 - gamma) w_a / sum(w) + gamma / A``, w the exponential of rewards / chance.

    Whatever the rewards do, and without bias: a reward is divided by the probability that it
    became known, so rewards of larger arms that happened to be seen may be used (estimates of
    this kind: Alon et al., SIAM J. Comput. 46, 2017).

    Parameters
    ----------
    gamma : float, optional
        Share of rounds played at random, and the rate of learning, in (0, 1]. None: what the
        paper's corollary 3.2 takes for a horizon of t rounds in round t,
        ``min(1, sqrt(A ln A / ((e - 1) t)))``; where `share` is set, the choice of section 8 for
        ``T = 1 / share`` rounds and S - 1 changes, ``min(1, sqrt(A (S ln(A T) + e) / ((e - 1) T)))``,
        at its least: S = 1.
    share : float
        alpha of EXP3.S: after each reward every arm gets ``e alpha / A`` of all weight, so that
        none is lost for ever. The paper takes 1 / T. 0: EXP3, which follows no changes.

    Notes
    -----
    Weights are kept as sums of estimates, ``w = exp(gamma / A * sum)``: for a fixed gamma these are
    the paper's; for the falling one of None, the falling rate applies to all rewards so far, as in
    Bubeck & Cesa-Bianchi (2012, section 3.1). EXP3.S shares weight per reward that comes in.

    Examples
    --------
    >>> player = EXP3(gamma=0.5).one(arms=2)
    >>> arm = player.choose()
    >>> player.chances
    [0.5, 0.5]
    >>> player.learn(0, 1, [0.0, 1.0], chance=[1.0, 0.5])
    >>> arm = player.choose()
    >>> [round(x, 4) for x in player.chances]
    [0.4388, 0.5612]
    """

    gamma: float | None = None
    share: float = 0.0

    name: ClassVar[str] = "exp3"
    summary: ClassVar[str] = "draws its arms, so that all feedback can be weighted"
    draws: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma is not None:
            check_positive("gamma", self.gamma, most=1.0)
        if self.share != 0:
            check_positive("share", self.share, most=1.0)

    def gamma_at(self, rounds: int, arms: int) -> float:
        """Return gamma in a round."""
        if self.gamma is not None:
            return self.gamma
        if self.share:
            top = arms * (math.log(arms / self.share) + math.e) * self.share
        else:
            top = arms * math.log(arms) / max(rounds, 1)
        return min(1.0, math.sqrt(top / (math.e - 1.0)))

    def one(self, arms: int, seed: int = 0, stream: int = 0) -> OneEXP3:
        """Return a player of one stream; see `Bandit.one`."""
        return OneEXP3(self, arms, seed, stream)

    def many(self, arms: int, streams: int, seed: int = 0) -> ManyEXP3:
        """Return a player of R streams; see `Bandit.many`."""
        return ManyEXP3(self, arms, streams, seed)


class OneEXP3:
    """Estimated sums of rewards on one stream; see `One`."""

    def __init__(self, rule: EXP3, arms: int, seed: int, stream: int) -> None:
        check_player(arms, seed, stream + 1)
        self.rule, self.rounds, self.gains = rule, 0, [0.0] * arms
        self.chances: Sequence[float] | None = None
        self._seed, self._stream = seed, stream
        self._block, self._draws = -1, [0.0]

    def choose(self) -> int:
        """Return the arm for the next request; see `One.choose`."""
        self.rounds = rounds = self.rounds + 1
        gains, exp = self.gains, math.exp
        arms, top = len(gains), max(gains)
        gamma = self.rule.gamma_at(rounds, arms)
        rate, floor = gamma / arms, gamma / arms
        weights = [exp(rate * (x - top)) for x in gains]
        total = 0.0
        for w in weights:
            total += w
        keep = (1.0 - gamma) / total
        self.chances = chances = [keep * w + floor for w in weights]
        sums = list(accumulate(chances))
        drawn = self._draw(rounds - 1) * sums[-1]
        for a, upto in enumerate(sums):
            if upto > drawn:
                return a
        return arms - 1

    def _draw(self, at: int) -> float:
        block = at // BLOCK
        if block != self._block:
            found = uniforms(self._seed, self._stream, block, 1)
            self._block, self._draws = block, found[:, 0].tolist()
        return self._draws[at % BLOCK]

    def learn(
        self, first: int, last: int, rewards: Sequence[float], chance: Sequence[float] | None = None
    ) -> None:
        """Take in rewards; see `One.learn`. Without `chance`, that of the arm just played."""
        gains = self.gains
        if not 0 <= first <= last < len(gains):
            raise no_such_arms(first, last, len(gains))
        if chance is None:
            chance = self.chances
            if first != last or chance is None:
                raise no_chance()
        estimates = []
        for a in range(first, last + 1):
            if not LEAST_REWARD <= rewards[a] <= MOST_REWARD:
                raise unscaled(rewards[a])
            if not 0.0 < chance[a] <= MOST_REWARD:
                raise no_chance(chance[a])
            estimates.append(rewards[a] / chance[a])
        before = list(gains) if self.rule.share else gains
        for a, estimate in enumerate(estimates, first):
            gains[a] += estimate
        if self.rule.share:
            self.gains = self._shared(before)

    def _shared(self, before: list[float]) -> list[float]:
        """Return the sums after every arm got its share of the weight there was `before`."""
        arms = len(before)
        rate = self.rule.gamma_at(self.rounds, arms) / arms
        top, high = max(before), max(self.gains)
        weight = 0.0
        for x in before:
            weight += math.exp(rate * (x - top))
        part = math.e * self.rule.share / arms * weight * math.exp(rate * (top - high))
        return [math.log(math.exp(rate * (x - high)) + part) / rate for x in self.gains]

    def state(self) -> dict[str, Any]:
        """Return all that was learned; see `One.state`."""
        chances = None if self.chances is None else list(self.chances)
        return {"rounds": self.rounds, "gains": list(self.gains), "chances": chances}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; see `One.restore`."""
        state = checked("state of the bandit", state, ("rounds", "gains", "chances"))
        arms, chances = len(self.gains), state["chances"]
        gains = row("gains", state["gains"], arms, -_LARGEST, _LARGEST)
        if chances is not None:
            chances = row("chances", chances, arms, 1e-300, MOST_REWARD)
        self.rounds, self.gains, self.chances = state["rounds"], gains, chances
        self._block = -1
