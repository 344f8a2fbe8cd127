"""Thompson sampling (Agrawal & Goyal, COLT 2012, algorithm 2; AISTATS 2013, section 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import bad
from .base import check_positive
from .beta import ManyBeta, OneBeta
from .index import Floats1, Index
from .many import ManyIndices
from .one import OneIndex

_POSTERIORS = ("gaussian", "beta")


@dataclass(frozen=True)
class Thompson(Index):
    """Draws a mean for every arm from what is known of it, and plays the arm of the largest.

    Parameters
    ----------
    posterior : {"gaussian", "beta"}
        ``gaussian``: ``Normal(mean, (N V + prior / 4) / ((N + prior) N))``, V the variance seen.
        ``beta``: ``Beta(1 + S, 1 + N - S)``; a reward r counts as 1 with probability r, else as 0,
        and S is how many were 1 (COLT 2012, algorithm 2). Several times slower.
    prior : float
        For ``gaussian``: how many rewards of variance 1/4, the largest that rewards in [0, 1] can
        have, are added to those seen, so that a few equal rewards do not count as certainty.

    Notes
    -----
    The gaussian posterior of the AISTATS paper is ``Normal(N mean / (N + 1), 1 / (N + 1))``: a
    variance that no rewards in [0, 1] have. Here the one seen takes its place, and there is no
    pull towards 0, since every arm is played before the first draw. Draws are not known as
    probabilities, so `chances` stays None. Random numbers follow from seed, stream and round.

    Examples
    --------
    >>> player = Thompson().one(arms=2, seed=1)
    >>> for _ in range(50):
    ...     player.learn(0, 1, [0.2, 0.9])
    >>> player.choose()
    1
    """

    posterior: str = "gaussian"
    prior: float = 1.0

    name: ClassVar[str] = "thompson"
    summary: ClassVar[str] = "plays each arm as often as it may be the best"
    spread: ClassVar[bool] = True
    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.posterior not in _POSTERIORS:
            raise bad("posterior", " or ".join(_POSTERIORS), self.posterior, "E.g. gaussian.")
        check_positive("prior", self.prior)

    def index(self, m: Any, mean: Any, variance: Any, pulls: Any, clock: Any, noise: Any) -> Any:
        """Return the drawn means; see `Index.index`. Those of ``beta`` come as the noise."""
        if self.posterior == "beta":
            return noise
        prior = self.prior
        return mean + noise * m.sqrt((variance * pulls + 0.25 * prior) / ((pulls + prior) * pulls))

    def best(
        self, pulls: Floats1, total: Floats1, square: Floats1, clock: float, noise: Floats1
    ) -> int:
        """Return the arm with the largest drawn mean; see `Index.best`."""
        if self.posterior == "beta":
            return max(range(len(pulls)), key=lambda a: (noise[a], a))
        sqrt, prior = math.sqrt, self.prior
        known = 0.25 * prior
        chosen, highest = len(pulls) - 1, -math.inf
        for a in range(len(pulls) - 1, -1, -1):
            n = pulls[a]
            mean = total[a] / n
            variance = square[a] / n - mean * mean
            if variance < 0.0:
                variance = 0.0
            value = mean + noise[a] * sqrt((variance * n + known) / ((n + prior) * n))
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
