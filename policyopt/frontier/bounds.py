"""Bounds in hindsight: what no deployable policy can reach. They see labels and all exits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policyopt.runtime.typing import Floats
from policyopt.table import Table


def oracle(table: Table, budgets: Sequence[float]) -> Floats:
    """Return the accuracy of the hindsight oracle at each budget. Not deployable.

    A sample takes its cheapest exit, or its cheapest right one: the way there is the price of being
    right. Of a cascade an exit costs what its model does, the others being jumped. Buying the
    cheapest ways first is the exact optimum (a fractional knapsack of equal values) and bounds every
    policy whose answers are the exits' own. Answers combined over exits may be right where no exit
    is. Lucky guesses count, so the bound is loose.

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
    alone = np.broadcast_to(table.alone, correct.shape)
    least = alone.min(axis=1)
    extra = np.where(correct > 0, alone, np.inf).min(axis=1) - least  # inf: never right
    ways = np.sort(extra[np.isfinite(extra) & (extra > 0)])
    cost = least.mean() + np.append(0.0, np.cumsum(ways)) / len(table)
    right = (extra <= 0).mean() + np.arange(len(ways) + 1) / len(table)
    return np.interp(budgets, cost, right)
