"""Windows of scores in which samples go on: one interval per exit, searched on the Lagrangian.

For a fixed price, and the other exits' windows held, each sample's gain from going on is known; the
best window is the run of ranks with the largest sum of gains, found exactly in one pass (Bentley,
Programming Pearls, 1984: the largest sum of a contiguous part). Steps repeat until none helps,
starting from the neighbouring price's windows and from the best plain thresholds, which are windows
open below: what is found is never worse than those on the rows at hand.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from policyopt.runtime.typing import Floats, Ints
from policyopt.thresholds.lagrangian import Lagrangian
from policyopt.thresholds.problem import Problem
from policyopt.thresholds.quota import between

_TINY_GAIN = 1e-12


def best_run(gains: Floats) -> tuple[int, int]:
    """Return (a, b) such that ``gains[a:b]`` has the largest sum; (0, 0) where none is over 0.

    Examples
    --------
    >>> best_run(np.array([-1.0, 2.0, -0.5, 3.0, -4.0])), best_run(np.array([-1.0]))
    ((1, 4), (0, 0))
    """
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    worth = sums - np.minimum.accumulate(sums)
    end = int(worth.argmax())
    if worth[end] <= 0:
        return 0, 0
    return int(sums[: end + 1].argmin()), end


class Windows(Lagrangian):
    """The search over one problem's rows, for `joint.hull`.

    Windows are held as *cuts*, (2K-2,) integers: first the lower ends of all exits, then the upper
    ends. At exit k a sample goes on if its score is at least the a-th distinct one and below the b-th.

    Parameters
    ----------
    problem : Problem
    low, high : float
        Below, and above, all scores that can be.
    closed : collection of int, optional
        Exits whose windows may have a lower end; the others are plain thresholds. Default: all.
    """

    def __init__(
        self, problem: Problem, low: float, high: float, closed: Collection[int] | None = None
    ) -> None:
        super().__init__(problem)
        self._ends = low, high
        self._closed = range(problem.exits) if closed is None else closed
        self._known: dict[tuple[float, tuple[tuple[int, ...], ...]], Ints] = {}
        self.first, self.last = (_open_below(cuts) for cuts in (self.first, self.last))

    def best(self, price: float, starts: list[Ints]) -> Ints:
        """Return the best windows found at a price (value per unit of cost)."""
        key = price, tuple(tuple(int(c) for c in start) for start in starts)
        if key not in self._known:
            plain = super().best(price, [start[len(start) // 2 :] for start in starts])
            gains = self._value - price * self._cost
            results = [self._climb(gains, start) for start in (*starts, _open_below(plain))]
            self._known[key] = max(results, key=lambda found: found[0])[1]
        return self._known[key]

    def point(self, cuts: Ints) -> tuple[float, float]:
        """Return mean cost and mean value of windows on these rows."""
        return tuple(
            float(self._onward(table, cuts)[0].mean()) for table in (self._cost, self._value)
        )  # type: ignore[return-value]

    def thresholds(self, cuts: Ints) -> Floats:
        """Return windows as scores: lower ends, then upper ends, (2K-2,)."""
        low, high = self._ends
        out = np.empty(len(cuts))
        for i, cut in enumerate(cuts):
            level = self._grid.levels[i % (len(cuts) // 2)]
            if cut <= 0 or cut >= len(level):
                out[i] = low if cut <= 0 else high
            else:
                out[i] = between(float(level[cut - 1]), float(level[cut]))
        return out

    def _onward(self, gains: Floats, cuts: Ints) -> Floats:
        """Return what each sample earns from exit k on if it comes there, (K, N)."""
        lower, upper = cuts.reshape(2, -1)
        earned = np.empty_like(gains)
        earned[-1] = gains[-1]
        for k in range(len(lower) - 1, -1, -1):
            ranks = self._grid.ranks[k]
            goes = (ranks >= lower[k]) & (ranks < upper[k])
            earned[k] = np.where(goes, earned[k + 1], gains[k])
        return earned

    def _climb(self, gains: Floats, start: Ints) -> tuple[float, Ints]:
        """Improve windows until no step on one of them helps; gains (K, N)."""
        cuts = start.copy()
        count = len(cuts) // 2
        worth = float(self._onward(gains, cuts)[0].mean())
        while True:
            onward = self._onward(gains, cuts)
            reach = self._reach(cuts)
            # Later exits first: an exit's window changes what comes before it, not after it.
            for k in range(count - 1, -1, -1):
                onward[k] = self._step(gains, onward[k + 1], reach[k], cuts, k)
            now = float(onward[0].mean())
            if now <= worth + _TINY_GAIN:
                return max(now, worth), cuts
            worth = now

    def _reach(self, cuts: Ints) -> npt.NDArray[np.bool_]:
        """Return which samples come to each exit but the last, (K-1, N)."""
        lower, upper = cuts.reshape(2, -1)
        reach = np.ones(self._grid.ranks.shape, dtype=bool)
        for k in range(len(lower) - 1):
            ranks = self._grid.ranks[k]
            reach[k + 1] = reach[k] & (ranks >= lower[k]) & (ranks < upper[k])
        return reach

    def _step(
        self, gains: Floats, later: Floats, comes: npt.NDArray[np.bool_], cuts: Ints, k: int
    ) -> Floats:
        """Set window k to its best, the others held; return what samples then earn from exit k on."""
        ranks, size, count = self._grid.ranks[k], len(self._grid.levels[k]), len(cuts) // 2
        worth = np.bincount(ranks, weights=(later - gains[k]) * comes, minlength=size)
        by_rank = np.asarray(worth, dtype=np.float64)
        if k in self._closed:
            a, b = best_run(by_rank)
        else:
            a, b = 0, int(np.concatenate([[0.0], np.cumsum(by_rank)]).argmax())
        now = by_rank[cuts[k] : cuts[count + k]].sum()
        if by_rank[a:b].sum() > now + _TINY_GAIN:
            cuts[k], cuts[count + k] = a, b
        return np.where((ranks >= cuts[k]) & (ranks < cuts[count + k]), later, gains[k])


def _open_below(cuts: Ints) -> Ints:
    """Return plain cuts ("leave from the a-th distinct score up") as windows."""
    return np.concatenate([np.zeros_like(cuts), cuts])
