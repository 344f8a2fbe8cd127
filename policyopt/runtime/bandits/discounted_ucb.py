"""Discounted UCB (Kocsis & Szepesvari 2006; Garivier & Moulines, ALT 2011, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..checks import check_positive
from .parts.index import RootIndex
from .parts.memory import Memory


@dataclass(frozen=True)
class DiscountedUCB(RootIndex):
    """Discounted mean plus ``2 sqrt(xi ln n / N)``: n the discounted rounds, N those of the arm.

    Parameters
    ----------
    discount : float
        gamma. For T rounds with Y changes the paper takes ``1 - sqrt(Y / T) / 4``.
    xi : float
        Weight of exploration, above 1/2 in the paper's theorem 1; its experiments have 0.6.

    Notes
    -----
    The paper's n is the sum of all N. With side information a round counts for several arms, so n
    is counted in rounds; without it the two are the same.

    Examples
    --------
    >>> player = DiscountedUCB(discount=0.5).one(arms=2)
    >>> for _ in range(20):
    ...     arm = player.choose()
    ...     player.learn(arm, arm, [0.2, 0.9])
    >>> round(sum(player.pulls) / player.weight, 3)  # 1 + 1/2 + 1/4 + ...
    2.0
    """

    discount: float = 0.998
    xi: float = 0.6

    name: ClassVar[str] = "discounted_ucb"
    summary: ClassVar[str] = "lets old rewards fade, so that it follows changes"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("discount", self.discount, most=1 - 1e-9)
        check_positive("xi", self.xi)

    def memory(self) -> Memory:
        """Return the discount."""
        return Memory(discount=self.discount)

    @property
    def shape(self) -> tuple[float, float]:
        """Weight and factor; see `RootIndex`."""
        return 2.0, self.xi
