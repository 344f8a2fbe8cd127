"""UCB-V (Audibert, Munos & Szepesvari, Theoretical Computer Science 410, 2009, equation 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ..checks import check_positive
from .parts.index import Floats1, Index


@dataclass(frozen=True)
class UCBV(Index):
    """Mean reward plus ``sqrt(2 V zeta ln t / N) + 3 c zeta ln t / N``, V the variance seen.

    Parameters
    ----------
    zeta : float
        Weight of the exploration function ``zeta * ln t``; the paper's theorem 3 has 1.2.
    c : float
        Weight of the term for the range; 1 by the empirical Bernstein bound.

    Examples
    --------
    >>> player = UCBV().one(arms=2)
    >>> player.learn(0, 1, [0.2, 0.9])
    >>> player.choose()
    1
    """

    zeta: float = 1.0
    c: float = 1.0

    name: ClassVar[str] = "ucb_v"
    summary: ClassVar[str] = "bounds the mean by an empirical Bernstein bound"
    spread: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("zeta", self.zeta)
        check_positive("c", self.c)

    def index(self, m: Any, mean: Any, variance: Any, pulls: Any, clock: Any, noise: Any) -> Any:
        """Return the indices; see `Index.index`."""
        del noise
        share = self.zeta * clock / pulls
        return mean + m.sqrt(2.0 * variance * share) + 3.0 * self.c * share

    def best(
        self, pulls: Floats1, total: Floats1, square: Floats1, clock: float, noise: Floats1
    ) -> int:
        """Return the arm with the largest index; see `Index.best`."""
        sqrt, zeta, weight = math.sqrt, self.zeta, 3.0 * self.c
        chosen, highest = len(pulls) - 1, -math.inf
        for a in range(len(pulls) - 1, -1, -1):
            n = pulls[a]
            mean, share = total[a] / n, zeta * clock / n
            variance = square[a] / n - mean * mean
            if variance < 0.0:
                variance = 0.0
            value = mean + sqrt(2.0 * variance * share) + weight * share
            if value > highest:
                chosen, highest = a, value
        return chosen
