"""UCB1 (Auer, Cesa-Bianchi & Fischer, Machine Learning 47, 2002, figure 1), as AdaEE plays it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..checks import check_positive
from .parts.index import RootIndex


@dataclass(frozen=True)
class UCB1(RootIndex):
    """Mean reward plus ``c * sqrt(ln t / N)``.

    Parameters
    ----------
    c : float
        Weight of exploration. AdaEE (Pacheco et al., ICC 2023) has 1; UCB1 as first published has
        the square root of 2.

    Examples
    --------
    >>> player = UCB1().one(arms=2)
    >>> [player.choose() for _ in range(2)]  # each arm once, the largest first
    [1, 0]
    >>> player.learn(0, 1, [0.2, 0.9])
    >>> player.choose()
    1
    """

    c: float = 1.0

    name: ClassVar[str] = "ucb1"
    summary: ClassVar[str] = "adds to the mean what its count leaves open"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("c", self.c)

    @property
    def shape(self) -> tuple[float, float]:
        """Weight and factor; see `RootIndex`."""
        return self.c, 1.0
