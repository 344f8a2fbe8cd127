"""EXP3 and EXP3.S (Auer, Cesa-Bianchi, Freund & Schapire, SIAM J. Comput. 32, 2002, sections 3, 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from .._checks import check_positive, plain
from .._errors import InputError, input_error
from .._saved_state import check_fields, saved_numbers
from .base import (
    MOST_REWARD,
    UNIFORM,
    Bandit,
    Player,
    RandomRows,
    check_player,
    known_rewards,
    setting,
)

_LARGEST = 1e100  # of a saved estimate


def _share_or(name: str, value: Any, absent: Any) -> Any:
    """Return a number in (0, 1], or what stands for none."""
    value = plain(value)
    none = value is None if absent is None else value == absent
    return value if none else check_positive(name, value, most=1.0)


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
    >>> player = EXP3(gamma=0.5).player(arms=2)
    >>> arm = player.choose()
    >>> player.chances
    [0.5, 0.5]
    >>> player.learn(0, 1, [0.0, 1.0], chance=[1.0, 0.5])
    >>> arm = player.choose()
    >>> [round(x, 4) for x in player.chances]
    [0.4388, 0.5612]
    """

    gamma: float | None = setting(None, _share_or, absent=None)
    share: float = setting(0.0, _share_or, absent=0)

    name = "exp3"
    summary = "draws its arms, so that all feedback can be weighted"
    reference = (
        "EXP3 and EXP3.S (Auer, Cesa-Bianchi, Freund & Schapire, SIAM J. Comput. 32, 2002, "
        "sections 3, 8)."
    )
    draws = True

    def gamma_at(self, rounds: int, arms: int) -> float:
        """Return gamma in a round."""
        if self.gamma is not None:
            return self.gamma
        if self.share:
            top = arms * (math.log(arms / self.share) + math.e) * self.share
        else:
            top = arms * math.log(arms) / max(rounds, 1)
        return min(1.0, math.sqrt(top / (math.e - 1.0)))

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> Player:
        """Return a player; see `Steering.player`."""
        return EXP3Player(self, arms, seed, stream)


class EXP3Player:
    """Estimated sums of rewards; see `Player`."""

    def __init__(self, rule: EXP3, arms: int, seed: int, stream: int) -> None:
        check_player(arms, seed, stream)
        self.rule, self.rounds, self.gains = rule, 0, [0.0] * arms
        self.chances: Sequence[float] | None = None
        self._draws = RandomRows(UNIFORM, seed, stream, 1, series=1)

    def choose(self) -> int:
        """Return the arm for the next request; see `Player.choose`."""
        self.rounds = rounds = self.rounds + 1
        gains, exp = self.gains, math.exp
        arms, top = len(gains), max(gains)
        gamma = self.rule.gamma_at(rounds, arms)
        rate = gamma / arms
        weights = [exp(rate * (x - top)) for x in gains]
        total = 0.0
        for w in weights:  # plainly: `sum` rounds otherwise from one Python to the next
            total += w
        keep = (1.0 - gamma) / total
        self.chances = chances = [keep * w + rate for w in weights]
        sums = list(accumulate(chances))
        drawn = self._draws[rounds - 1][0] * sums[-1]
        for a, upto in enumerate(sums):
            if upto > drawn:
                return a
        return arms - 1

    def learn(
        self, first: int, last: int, rewards: Sequence[float], chance: Sequence[float] | None = None
    ) -> None:
        """Take in rewards; see `Player.learn`. Without `chance`, that of the arm just played."""
        gains = self.gains
        known = known_rewards(first, last, rewards, len(gains))
        if chance is None:
            chance = self.chances
            if first != last or chance is None:
                raise _no_chance("none")
        for p in chance[first : last + 1]:
            if not 0.0 < p <= MOST_REWARD:
                raise _no_chance(p)
        before = list(gains) if self.rule.share else gains
        for a, reward in enumerate(known, first):
            gains[a] += reward / chance[a]
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
        """Return all that was learned; see `Player.state`."""
        chances = None if self.chances is None else list(self.chances)
        return {"rounds": self.rounds, "gains": list(self.gains), "chances": chances}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; see `Player.restore`."""
        state = check_fields("state of the bandit", state, ("rounds", "gains", "chances"))
        arms, chances = len(self.gains), state["chances"]
        gains = saved_numbers("gains", state["gains"], (arms,), -_LARGEST, _LARGEST).tolist()
        if chances is not None:
            chances = saved_numbers("chances", chances, (arms,), 1e-300, MOST_REWARD).tolist()
        self.rounds, self.gains, self.chances = state["rounds"], gains, chances


def _no_chance(got: float | str) -> InputError:
    allowed = "the probability, above 0, that each reward was to be known"
    return input_error("chance", allowed, got, "`reveal_chances` tells it.")
