"""Every combination of thresholds on a grid, by counting: one pass over the rows serves all cuts.

Who leaves where depends on scores and thresholds, not on where stages run. So the shares that leave at
each exit are counted once per set of kept exits, and every cut prices the same table of shares:
expected cost = shares times leaving costs, the expectation of Pacheco & Couto (arXiv:2005.04099).
Thresholds here are near quantiles over all rows; `policyopt.thresholds.conditional` searches shares of
the survivors instead, which must be replayed for each set of costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from policyopt.runtime.thresholds import ALWAYS, NEVER
from policyopt.runtime.typing import Floats
from policyopt.thresholds.quota import between


def axis(scores: Floats, levels: int) -> Floats:
    """Return thresholds to try at one exit: always, some between its scores, never; ascending.

    A threshold stands midway between two neighbouring scores, as in `policyopt.thresholds`, so that
    the last bit of a score computed elsewhere turns no decision. Where there are more such gaps than
    levels, the widest near each quantile is taken: where a network is sure, scores lie close.

    Parameters
    ----------
    scores : ndarray of shape (N,)
    levels : int
        Most thresholds, always and never among them.

    Examples
    --------
    >>> axis(np.array([1.0, 2.0, 4.0, 5.0]), 5).tolist()
    [-1e+30, 1.5, 3.0, 4.5, 1e+30]
    >>> axis(np.array([1.0, 2.0, 4.0, 5.0]), 3).tolist()
    [-1e+30, 3.0, 1e+30]
    """
    distinct, counts = np.unique(scores, return_counts=True)
    gaps, inner = np.arange(len(distinct) - 1), max(levels - 2, 0)
    if len(gaps) > inner:
        width, below = np.diff(distinct), np.cumsum(counts)[:-1]
        near = below * inner // len(scores)  # the quantile that a gap is nearest to, (G,)
        order = np.lexsort((-width, near))
        gaps = order[np.unique(near[order], return_index=True)[1]]
    inside = [between(float(distinct[i]), float(distinct[i + 1])) for i in gaps if inner]
    return np.unique([ALWAYS, *inside, NEVER])


class Grid:
    """What happens to N rows at each of P points: combinations of thresholds of S-1 of S exits.

    Parameters
    ----------
    scores : ndarray of shape (N, S)
    correct : ndarray of shape (N, S)
        What leaving there is worth.
    axes : sequence of S-1 arrays of shape (L_i,)
        Thresholds to try at each exit but the last, ascending.

    Attributes
    ----------
    value : ndarray of shape (P,)
        Mean of `correct` where rows leave; points run through the last axis first.

    Examples
    --------
    >>> scores, correct = np.array([[0.9, 0], [0.2, 0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    >>> grid = Grid(scores, correct, [np.array([ALWAYS, 0.5, NEVER])])
    >>> grid.value.tolist(), grid.cost(np.array([1.0, 3.0])).tolist()
    ([0.5, 1.0, 1.0], [1.0, 2.0, 3.0])
    """

    def __init__(self, scores: Floats, correct: Floats, axes: Sequence[Floats]) -> None:
        self.axes = list(axes)
        self.rows, self.exits = scores.shape
        self._shape = tuple(len(a) for a in axes)
        # How many of the thresholds a score reaches: it leaves at those, and stays at the others.
        self._codes = [np.searchsorted(a, scores[:, i], side="right") for i, a in enumerate(axes)]
        self.value = self.mean(correct)

    @cached_property
    def shares(self) -> Floats:
        """Share of the rows that leave at each exit, (P, S)."""
        ones = np.ones(self.rows)
        return np.stack([self._leaving(i, ones) for i in range(self.exits)], axis=1) / self.rows

    def mean(self, weights: Floats) -> Floats:
        """Return the mean, over rows, of the weight (N, S) at the exit where each leaves, (P,)."""
        total = np.zeros(int(np.prod(self._shape)))
        for i in range(self.exits):
            total += self._leaving(i, weights[:, i])
        return total / self.rows

    def cost(self, costs: Floats) -> Floats:
        """Return the mean cost at each point, (P,), of costs (S,) or (N, S)."""
        return np.asarray(self.shares @ costs) if costs.ndim == 1 else self.mean(costs)

    def beyond(self, costs: Floats, limit: float) -> Floats:
        """Return the share of rows that pay more than a limit, (P,)."""
        return self.cost((costs > limit * (1 + 1e-9)).astype(np.float64))

    def thresholds(self, point: int) -> Floats:
        """Return the thresholds of a point, (S-1,)."""
        places = np.unravel_index(point, self._shape) if self._shape else ()
        return np.array([a[i] for a, i in zip(self.axes, places, strict=True)])

    def _leaving(self, exit_: int, weights: Floats) -> Floats:
        """Return the weight that leaves at an exit, at every point, (P,)."""
        codes = self._codes[: exit_ + 1]
        if not codes:  # one exit alone
            return weights.sum(keepdims=True).astype(np.float64)
        counts = tuple(size + 1 for size in self._shape[: exit_ + 1])
        flat = np.ravel_multi_index(tuple(codes), counts)
        found = np.bincount(flat, weights, minlength=int(np.prod(counts)))
        sums = found.astype(np.float64, copy=False).reshape(counts)
        for i in range(len(counts)):
            at = (slice(None),) * i
            if i < exit_:  # stayed: it reaches at most the thresholds before this one
                sums = np.cumsum(sums, axis=i)[(*at, slice(0, -1))]
            else:  # leaves: it reaches this one
                sums = np.flip(np.cumsum(np.flip(sums, i), axis=i), i)[(*at, slice(1, None))]
        later = (1,) * (len(self._shape) - len(counts))
        return np.broadcast_to(sums.reshape(*sums.shape, *later), self._shape).ravel()
