"""UCB-tuned (Auer, Cesa-Bianchi & Fischer, Machine Learning 47, 2002, section 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from .parts.index import Floats1, Index


@dataclass(frozen=True)
class UCBTuned(Index):
    """Mean reward plus ``sqrt(ln t / N * min(1/4, V + sqrt(2 ln t / N)))``, V the variance seen.

    Examples
    --------
    >>> player = UCBTuned().one(arms=2)
    >>> player.learn(0, 1, [0.2, 0.9])
    >>> player.choose()
    1
    """

    name: ClassVar[str] = "ucb_tuned"
    summary: ClassVar[str] = "explores less where rewards vary little"
    spread: ClassVar[bool] = True

    def index(self, m: Any, mean: Any, variance: Any, pulls: Any, clock: Any, noise: Any) -> Any:
        """Return the indices; see `Index.index`."""
        del noise
        share = clock / pulls
        return mean + m.sqrt(share * m.minimum(0.25, variance + m.sqrt(2.0 * share)))

    def best(
        self, pulls: Floats1, total: Floats1, square: Floats1, clock: float, noise: Floats1
    ) -> int:
        """Return the arm with the largest index; see `Index.best`.

        An arm is left out as soon as the largest variance there is, 1/4, would not do for it.
        """
        sqrt = math.sqrt
        chosen, highest = len(pulls) - 1, -math.inf
        for a in range(len(pulls) - 1, -1, -1):
            n = pulls[a]
            mean, share = total[a] / n, clock / n
            if mean + sqrt(share * 0.25) <= highest:
                continue
            bound = max(square[a] / n - mean * mean, 0.0) + sqrt(2.0 * share)
            value = mean + sqrt(share * min(0.25, bound))
            if value > highest:
                chosen, highest = a, value
        return chosen
