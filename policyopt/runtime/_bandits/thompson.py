"""Thompson sampling (Agrawal & Goyal, COLT 2012, algorithm 2; AISTATS 2013, section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from math import sqrt
from typing import Any

from .._errors import input_error
from .base import NORMAL, UNIFORM, Player, RandomRows, known_rewards, setting
from .index import IndexBandit, IndexPlayer

_POSTERIORS = ("gaussian", "beta")
_COINS = 1 << 32  # the series of arm 0's coins; those of the tries are far below


def _check_posterior(name: str, value: Any) -> str:
    if value not in _POSTERIORS:
        raise input_error(name, " or ".join(_POSTERIORS), value, "E.g. gaussian.")
    return value


@dataclass(frozen=True)
class Thompson(IndexBandit):
    """Draws a mean for every arm from what is known of it, and plays the arm of the largest.

    Parameters
    ----------
    posterior : {"gaussian", "beta"}
        ``gaussian``: ``Normal(mean, min(1/4, V + sqrt(2 ln t / N)) / N)``, V the variance seen.
        ``beta``: ``Beta(1 + S, 1 + N - S)``; a reward r counts as 1 with probability r, else as 0,
        and S is how many were 1 (COLT 2012, algorithm 2). Several times slower.

    Notes
    -----
    The gaussian posterior of the AISTATS paper is ``Normal(N mean / (N + 1), 1 / (N + 1))``: a
    variance that no rewards in [0, 1] have. Here UCB-tuned's bound of it takes its place; the one
    seen alone gives up arms whose first rewards are all 0 (linear regret on some streams). There is
    no pull towards 0, since every arm is played before the first draw. No bound on the regret is
    proven for it; for ``beta`` one is. Draws are not known as probabilities, so `chances` stays
    None. Random numbers follow from seed, stream and round.
    """

    posterior: str = setting("gaussian", _check_posterior)

    name = "thompson"
    summary = "plays each arm as often as it may be the best"
    reference = (
        "Thompson sampling (Agrawal & Goyal, COLT 2012, algorithm 2; AISTATS 2013, section 2)."
    )
    spread = True

    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest drawn mean."""
        if isinstance(seen, BetaPlayer):
            draws = seen.draws()
            return max(range(len(draws)), key=lambda a: (draws[a], a))
        total, square, chosen, highest = seen.total, seen.square, 0, -math.inf
        noise, twice = seen.noise[seen.rounds - 1], 2.0 * clock
        for a, n in enumerate(seen.pulls):
            mean = total[a] / n
            bound = max(square[a] / n - mean * mean, 0.0) + sqrt(twice / n)
            value = mean + noise[a] * sqrt((bound if bound < 0.25 else 0.25) / n)
            if value >= highest:
                chosen, highest = a, value
        return chosen

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> Player:
        """Return a player; see `Steering.player`."""
        kind = BetaPlayer if self.posterior == "beta" else IndexPlayer
        return kind(self, arms, seed, stream)


class BetaPlayer(IndexPlayer):
    """Counts of 1 and 0 of each arm, and beta draws that a counter fixes.

    A beta variable is ``G / (G + H)`` of two gamma variables, each by Marsaglia & Tsang (ACM TOMS
    26, 2000, figure 1): propose, accept or try again. Every try of every round has its own numbers.
    """

    def __init__(self, rule: IndexBandit, arms: int, seed: int, stream: int) -> None:
        super().__init__(rule, arms, seed, stream)
        self._key = seed, stream
        self._coins = [RandomRows(UNIFORM, *self._key, 1, _COINS + a) for a in range(arms)]
        self._tries: list[tuple[RandomRows, RandomRows]] = []

    def learn(
        self, first: int, last: int, rewards: Sequence[float], chance: Sequence[float] | None = None
    ) -> None:
        """Take in rewards, each as 1 with its own probability, else as 0."""
        coins = [0.0] * len(self.pulls)
        for a, reward in enumerate(known_rewards(first, last, rewards, len(coins)), first):
            # The number that belongs to the arm's next reward: by its count, however late.
            coins[a] = float(self._coins[a][int(self.pulls[a])][0] < reward)
        super().learn(first, last, coins, chance)

    def draws(self) -> list[float]:
        """Return a beta draw per arm."""
        found = []
        for a, (ones, n) in enumerate(zip(self.total, self.pulls, strict=True)):
            g = self._gamma(2 * a, 1.0 + ones)
            found.append(g / (g + self._gamma(2 * a + 1, 1.0 + (n - ones))))
        return found

    def _gamma(self, slot: int, shape: float) -> float:
        d, at = shape - 1.0 / 3.0, self.rounds - 1
        scale = sqrt(9.0 * d)
        for attempt in count():
            if attempt == len(self._tries):
                width, series = 2 * len(self.pulls), 2 * attempt
                normal = RandomRows(NORMAL, *self._key, width, series)
                self._tries.append((normal, RandomRows(UNIFORM, *self._key, width, series + 1)))
            normal, uniform = self._tries[attempt]
            x, u = normal[at][slot], uniform[at][slot]
            v = 1.0 + x / scale
            if v > 0.0:
                v = v * v * v
                if math.log(1.0 - u) < 0.5 * x * x + d * (1.0 - v + math.log(v)):
                    return d * v
        raise AssertionError("unreachable")
