"""What an index bandit remembers of its rewards: everything, a window, or all of it discounted."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: The weight of a discounted reward grows up to this; then all is divided by it.
HEAVY = 1e100
#: Of an arm whose count is below this then, nothing is known any more.
FORGOTTEN = 1e-100


@dataclass(frozen=True)
class Memory:
    """How rewards are forgotten; they count from the round in which they came in.

    Parameters
    ----------
    window : int, optional
        Only what came in the last so many rounds counts.
    discount : float, optional
        What came d rounds ago counts ``discount**d``.
    """

    window: int | None = None
    discount: float | None = None

    def clock(self, rounds: int) -> float:
        """Return the logarithm of the rounds in memory: t, min(t, w), or their discounted sum.

        Examples
        --------
        >>> Memory().clock(1), round(Memory(discount=0.5).clock(100), 6), round(math.log(2), 6)
        (0.0, 0.693147, 0.693147)
        """
        if self.window is not None:
            rounds = min(rounds, self.window)
        elif self.discount is not None:
            return math.log(max((1 - self.discount**rounds) / (1 - self.discount), 1.0))
        return math.log(max(rounds, 1))
