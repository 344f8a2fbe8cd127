"""Upper confidence bounds in closed form: UCB1, UCB-tuned, UCB-V, and the two that forget."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from .._checks import check_positive, check_whole
from .base import setting
from .index import IndexBandit, IndexPlayer


class RootIndex(IndexBandit):
    """Mean reward plus ``weight * sqrt(factor * clock / N)``: the form of the simplest indices."""

    @property
    @abstractmethod
    def shape(self) -> tuple[float, float]:
        """Weight and factor."""

    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest index; see `IndexBandit.best`."""
        pulls, total, (weight, factor) = seen.pulls, seen.total, self.shape
        scaled, sqrt = factor * clock, math.sqrt
        chosen, highest = len(pulls) - 1, -math.inf
        for a in range(len(pulls) - 1, -1, -1):
            n = pulls[a]
            value = total[a] / n + weight * sqrt(scaled / n)
            if value > highest:
                chosen, highest = a, value
        return chosen


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
    >>> player = UCB1().player(arms=2)
    >>> [player.choose() for _ in range(2)]  # each arm once, the largest first
    [1, 0]
    >>> player.learn(0, 1, [0.2, 0.9])
    >>> player.choose()
    1
    """

    c: float = setting(1.0, check_positive)

    name = "ucb1"
    summary = "adds to the mean what its count leaves open"
    reference = (
        "UCB1 (Auer, Cesa-Bianchi & Fischer, Machine Learning 47, 2002, figure 1), "
        "as AdaEE plays it."
    )

    @property
    def shape(self) -> tuple[float, float]:
        """Weight and factor; see `RootIndex`."""
        return self.c, 1.0


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
    """

    discount: float = setting(0.998, check_positive, most=1 - 1e-9)
    xi: float = setting(0.6, check_positive)

    name = "discounted_ucb"
    summary = "lets old rewards fade, so that it follows changes"
    reference = (
        "Discounted UCB (Kocsis & Szepesvari 2006; Garivier & Moulines, ALT 2011, section 2.1)."
    )

    def memory(self) -> tuple[int, float]:
        """Return no window, and the discount."""
        return 0, self.discount

    @property
    def shape(self) -> tuple[float, float]:
        """Weight and factor; see `RootIndex`."""
        return 2.0, self.xi


@dataclass(frozen=True)
class SlidingWindowUCB(RootIndex):
    """Mean over the last w rounds plus ``sqrt(xi ln min(t, w) / N)``, N counted in the window.

    Parameters
    ----------
    window : int
        w, rounds. For T rounds with Y changes the paper takes ``2 sqrt(T ln T / Y)``.
    xi : float
        Weight of exploration, above 1/2 in the paper's theorem 2; its experiments have 0.6.
    """

    window: int = setting(1000, check_whole, least=2, most=10**6)
    xi: float = setting(0.6, check_positive)

    name = "sliding_window_ucb"
    summary = "looks at the last rounds only, so that it follows changes"
    reference = "Sliding-window UCB (Garivier & Moulines, ALT 2011, section 2.2)."

    def memory(self) -> tuple[int, float]:
        """Return the window, and no discount."""
        return self.window, 1.0

    @property
    def shape(self) -> tuple[float, float]:
        """Weight and factor; see `RootIndex`."""
        return 1.0, self.xi


@dataclass(frozen=True)
class UCBTuned(IndexBandit):
    """Mean reward plus ``sqrt(ln t / N * min(1/4, V + sqrt(2 ln t / N)))``, V the variance seen."""

    name = "ucb_tuned"
    summary = "explores less where rewards vary little"
    reference = "UCB-tuned (Auer, Cesa-Bianchi & Fischer, Machine Learning 47, 2002, section 4)."
    spread = True

    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest index; see `IndexBandit.best`.

        An arm is left out as soon as the largest variance there is, 1/4, would not do for it.
        """
        pulls, total, square, sqrt = seen.pulls, seen.total, seen.square, math.sqrt
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


@dataclass(frozen=True)
class UCBV(IndexBandit):
    """Mean reward plus ``sqrt(2 V zeta ln t / N) + 3 c zeta ln t / N``, V the variance seen.

    Parameters
    ----------
    zeta : float
        Weight of the exploration function ``zeta * ln t``; the paper's theorem 3 has 1.2.
    c : float
        Weight of the term for the range; 1 by the empirical Bernstein bound.
    """

    zeta: float = setting(1.0, check_positive)
    c: float = setting(1.0, check_positive)

    name = "ucb_v"
    summary = "bounds the mean by an empirical Bernstein bound"
    reference = (
        "UCB-V (Audibert, Munos & Szepesvari, Theoretical Computer Science 410, 2009, equation 1)."
    )
    spread = True

    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest index; see `IndexBandit.best`."""
        pulls, total, square, sqrt = seen.pulls, seen.total, seen.square, math.sqrt
        zeta, weight = self.zeta, 3.0 * self.c
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
