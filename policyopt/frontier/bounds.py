"""Bounds in hindsight: what no deployable policy can reach. They see labels and all exits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from policyopt.table import Table
from policyopt.thresholds.joint import upper_hull

Floats = npt.NDArray[np.float64]


def oracle(table: Table, budgets: Sequence[float], prices: int = 400) -> Floats:
    """Return the accuracy of the hindsight oracle at each budget. Not deployable.

    For a price lambda each sample takes the exit with the largest ``correct - lambda * cost``; the
    upper hull over all prices bounds every policy on these rows. Lucky guesses count, so the
    bound is loose.

    Parameters
    ----------
    table : Table
    budgets : sequence of float
    prices : int
        Number of prices tried.

    Returns
    -------
    ndarray of shape (len(budgets),)
    """
    correct = table.correct
    if table.costs.ndim == 1:
        # A sample leaves at its first right exit or at exit 0; the price of being right is the way
        # there. Buying the cheapest ways first is the exact bound (fractional knapsack).
        first = np.where(correct.any(axis=1), correct.argmax(axis=1), 0)
        ways = np.sort(table.costs[first[first > 0]] - table.costs[0])
        cost = table.costs[0] + np.append(0.0, np.cumsum(ways)) / len(table)
        right = correct[:, 0].mean() + np.arange(len(ways) + 1) / len(table)
        return np.interp(budgets, cost, right)
    span = max(float(table.mean_costs[-1] - table.mean_costs[0]), 1e-300)
    rows = np.arange(len(table))
    points = []
    for price in [0.0, *np.logspace(-3, 4, prices)]:
        taken = (correct - 1e-9 * table.costs / span - price / span * table.costs).argmax(axis=1)
        points.append((table.paid(taken).mean(), correct[rows, taken].mean()))
    corners = np.array(points)[upper_hull(np.array(points))]
    return np.interp(budgets, corners[:, 0], corners[:, 1])
