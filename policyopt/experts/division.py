"""The division of one budget among contexts: where a further unit of cost buys most accuracy.

Each context e has a curve of accuracy over mean cost. Maximise the share-weighted accuracy under a
share-weighted mean cost: at the optimum all curves have the same slope (Lagrange; Everett 1963).
On concave hulls, which are piecewise linear, the segments taken in the order of their slopes reach
it exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from policyopt.runtime.typing import Floats


def hull(cost: npt.ArrayLike, value: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the upper concave hull of a curve, as far as it rises.

    Parameters
    ----------
    cost, value : array of shape (P,)
        In any order; of equal costs the best value counts.

    Returns
    -------
    cost, value : ndarray of shape (Q,)
        Vertices of rising cost and value; slopes fall strictly.

    Examples
    --------
    >>> [a.tolist() for a in hull([1, 2, 3, 4], [0.5, 0.6, 0.9, 0.8])]
    [[1.0, 3.0], [0.5, 0.9]]
    """
    points = sorted(zip(np.asarray(cost, float).tolist(), np.asarray(value, float).tolist(),
                        strict=True))  # fmt: skip
    kept: list[tuple[float, float]] = []
    for x, y in points:
        if kept and kept[-1][0] == x:  # sorted by value too: this one is no worse
            kept.pop()
        while len(kept) > 1 and _turns_up(kept[-2], kept[-1], (x, y)):
            kept.pop()
        kept.append((x, y))
    top = int(np.argmax([y for _, y in kept]))
    xs, ys = zip(*kept[: top + 1], strict=True)
    return np.array(xs), np.array(ys)


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def divide(hulls: Sequence[tuple[Floats, Floats]], shares: npt.ArrayLike, budget: float) -> Floats:
    """Return the mean cost that each context may have.

    Parameters
    ----------
    hulls : sequence of E pairs of arrays
        From `hull`.
    shares : array of shape (E,)
        Of the samples, with any sum.
    budget : float
        Mean cost over all of them.

    Returns
    -------
    ndarray of shape (E,)
        Their share-weighted mean is the budget; less where more buys nothing, and each hull's
        start where even these cost more.

    Examples
    --------
    >>> easy, hard = hull([1, 4], [0.9, 0.93]), hull([1, 4], [0.5, 0.8])
    >>> divide([easy, hard], [0.5, 0.5], 2.0)
    array([1., 3.])
    """
    weights = np.asarray(shares, dtype=np.float64)
    weights = weights / weights.sum()
    costs = np.array([cost[0] for cost, _ in hulls])
    left = budget - float((weights * costs).sum())
    segments = [
        (-(rise / run), e, run)
        for e, (cost, value) in enumerate(hulls)
        for run, rise in zip(np.diff(cost).tolist(), np.diff(value).tolist(), strict=True)
    ]
    for _, e, run in sorted(segments):  # ties: the first context first
        if left <= 0:
            break
        part = min(1.0, left / (run * weights[e])) if weights[e] > 0 else 1.0
        costs[e] += part * run
        left -= part * run * weights[e]
    return costs
