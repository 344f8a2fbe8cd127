"""Sliding-window UCB (Garivier & Moulines, ALT 2011, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..checks import check_positive, check_whole
from .parts.index import RootIndex
from .parts.memory import Memory


@dataclass(frozen=True)
class SlidingWindowUCB(RootIndex):
    """Mean over the last w rounds plus ``sqrt(xi ln min(t, w) / N)``, N counted in the window.

    Parameters
    ----------
    window : int
        w, rounds. For T rounds with Y changes the paper takes ``2 sqrt(T ln T / Y)``.
    xi : float
        Weight of exploration, above 1/2 in the paper's theorem 2; its experiments have 0.6.

    Examples
    --------
    >>> player = SlidingWindowUCB(window=3).one(arms=2)
    >>> for _ in range(8):
    ...     arm = player.choose()
    ...     player.learn(arm, arm, [0.2, 0.9])
    >>> sum(player.pulls)
    3.0
    """

    window: int = 1000
    xi: float = 0.6

    name: ClassVar[str] = "sliding_window_ucb"
    summary: ClassVar[str] = "looks at the last rounds only, so that it follows changes"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("window", self.window, 2, 10**6)
        check_positive("xi", self.xi)

    def memory(self) -> Memory:
        """Return the window."""
        return Memory(window=self.window)

    @property
    def shape(self) -> tuple[float, float]:
        """Weight and factor; see `RootIndex`."""
        return 1.0, self.xi
