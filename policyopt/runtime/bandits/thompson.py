"""Thompson sampling (Agrawal & Goyal, COLT 2012, algorithm 2; AISTATS 2013, section 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import input_error
from .parts.beta import ManyBeta, OneBeta
from .parts.index import Floats1, Index
from .parts.many import ManyIndices
from .parts.one import OneIndex

_POSTERIORS = ("gaussian", "beta")


@dataclass(frozen=True)
class Thompson(Index):
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

    Examples
    --------
    >>> player = Thompson().one(arms=2, seed=1)
    >>> for _ in range(50):
    ...     player.learn(0, 1, [0.2, 0.9])
    >>> player.choose()
    1
    """

    posterior: str = "gaussian"

    name: ClassVar[str] = "thompson"
    summary: ClassVar[str] = "plays each arm as often as it may be the best"
    spread: ClassVar[bool] = True
    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.posterior not in _POSTERIORS:
            raise input_error(
                "posterior", " or ".join(_POSTERIORS), self.posterior, "E.g. gaussian."
            )

    def index(self, m: Any, mean: Any, variance: Any, pulls: Any, clock: Any, noise: Any) -> Any:
        """Return the drawn means; see `Index.index`. Those of ``beta`` come as the noise."""
        if self.posterior == "beta":
            return noise
        bound = m.minimum(0.25, variance + m.sqrt(2.0 * clock / pulls))
        return mean + noise * m.sqrt(bound / pulls)

    def best(
        self, pulls: Floats1, total: Floats1, square: Floats1, clock: float, noise: Floats1
    ) -> int:
        """Return the arm with the largest drawn mean; see `Index.best`."""
        if self.posterior == "beta":
            return max(range(len(pulls)), key=lambda a: (noise[a], a))
        sqrt, twice = math.sqrt, 2.0 * clock
        chosen, highest = len(pulls) - 1, -math.inf
        for a in range(len(pulls) - 1, -1, -1):
            n = pulls[a]
            mean = total[a] / n
            variance = square[a] / n - mean * mean
            if variance < 0.0:
                variance = 0.0
            bound = variance + sqrt(twice / n)
            if bound > 0.25:
                bound = 0.25
            value = mean + noise[a] * sqrt(bound / n)
            if value > highest:
                chosen, highest = a, value
        return chosen

    def one(self, arms: int, seed: int = 0, stream: int = 0) -> OneIndex:
        """Return a player of one stream; see `Bandit.one`."""
        player = OneBeta if self.posterior == "beta" else OneIndex
        return player(self, self.memory(), arms, seed, stream)

    def many(self, arms: int, streams: int, seed: int = 0) -> ManyIndices:
        """Return a player of R streams; see `Bandit.many`."""
        player = ManyBeta if self.posterior == "beta" else ManyIndices
        return player(self, self.memory(), arms, streams, seed)
