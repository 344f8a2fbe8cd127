"""Bounds in hindsight: what no deployable policy can reach. They see labels and all exits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from policyopt.table import Table

Floats = npt.NDArray[np.float64]


def oracle(table: Table, budgets: Sequence[float]) -> Floats:
    """Return the accuracy of the hindsight oracle at each budget. Not deployable.

    A sample leaves at exit 0, or at its first right exit: the way there is the price of being
    right. Buying the cheapest ways first is the exact optimum (a fractional knapsack of equal
    values) and bounds every policy whose answers are the exits' own. Answers combined over exits may
    be right where no exit is. Lucky guesses count, so the bound is loose.

    Parameters
    ----------
    table : Table
        Labelled rows.
    budgets : sequence of float
        Mean cost per sample.

    Returns
    -------
    ndarray of shape (len(budgets),)

    Raises
    ------
    InputError
        The rows have no labels.
    """
    correct = table.correct
    first = np.where(correct.any(axis=1), correct.argmax(axis=1), 0)
    extra = table.paid(first) - table.paid(np.zeros_like(first))
    ways = np.sort(extra[first > 0])
    cost = table.mean_costs[0] + np.append(0.0, np.cumsum(ways)) / len(table)
    right = correct[:, 0].mean() + np.arange(len(ways) + 1) / len(table)
    return np.interp(budgets, cost, right)
