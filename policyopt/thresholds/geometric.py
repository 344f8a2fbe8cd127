"""Geometric exit distribution with quota thresholds, the ratio solved so that the budget is met.

Source: Huang et al., MSDNet, ICLR 2018, section 4.2: a share ``q (1 - q)^k`` of the samples leaves
at exit k, normalised; equivalently shares proportional to ``ratio ** k``. Departure: the published
evaluation tries a grid of ratios and takes what cost they have; here the ratio is solved for the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq

from policyopt.runtime.typing import Floats
from policyopt.thresholds.meet import meet_budget
from policyopt.thresholds.problem import Problem, Solution
from policyopt.thresholds.quota import quota_thresholds

_STEEPEST = 60.0  # |log ratio|; e**-60 of a billion samples is none


def geometric_shares(log_ratio: float, exits: int) -> Floats:
    """Return shares proportional to ``ratio ** k``, (K,), that add to 1.

    Examples
    --------
    >>> geometric_shares(np.log(0.5), 3).round(3)
    array([0.571, 0.286, 0.143])
    """
    powers = log_ratio * np.arange(exits)
    weights = np.exp(powers - powers.max())
    return weights / weights.sum()


def solve_ratio(costs: Floats, budget: float) -> float:
    """Return the log ratio whose geometric shares cost `budget` on average.

    Parameters
    ----------
    costs : ndarray of shape (K,)
        Increasing.
    budget : float
        In [costs[0], costs[-1]].

    Returns
    -------
    float

    Examples
    --------
    >>> round(solve_ratio(np.array([1.0, 2.0, 3.0]), 2.0), 6)
    0.0
    """
    powers, gap = np.arange(len(costs)), np.asarray(costs) - budget

    def excess(log_ratio: float) -> float:
        # The sign of the mean cost less the budget; the weights need not add to 1 for that.
        exponents = log_ratio * powers
        return float(np.exp(exponents - max(exponents[0], exponents[-1])) @ gap)

    if excess(-_STEEPEST) >= 0:
        return -_STEEPEST
    if excess(_STEEPEST) <= 0:
        return _STEEPEST
    root: Any = brentq(excess, -_STEEPEST, _STEEPEST, xtol=1e-10)
    return float(root)


def solve_path(problem: Problem, budgets: Sequence[float]) -> list[Solution]:
    """Return quota thresholds for each budget.

    Parameters
    ----------
    problem : Problem
    budgets : sequence of float
        Mean cost per sample.

    Returns
    -------
    list of Solution

    Raises
    ------
    BudgetError
        A budget outside [c[0], c[K-1]].

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> problem = Problem(rng.random((1000, 3)), np.ones((1000, 3)), np.array([1.0, 2.0, 4.0]))
    >>> round(problem.cost(solve_path(problem, [2.5])[0].thresholds), 2)
    2.5
    """

    def family(log_ratio: float) -> Floats:
        shares = geometric_shares(log_ratio, problem.exits)
        # Rounding the running total keeps the last exit's share right to half a sample.
        counts = np.diff(np.round(np.cumsum(shares) * problem.rows), prepend=0.0)
        return quota_thresholds(problem.scores, counts.astype(np.int64))

    solutions = []
    for budget in budgets:
        problem.check_budget(budget)
        # Aim half a sample's way low: what is left is spent at exit 0, too much cannot be.
        low, high = problem.mean_costs[[0, -1]]
        aim = max(budget - 0.5 * (high - low) / problem.rows, low)
        start = solve_ratio(problem.mean_costs, float(aim))
        solutions.append(meet_budget(problem, family, -_STEEPEST, _STEEPEST, budget, start))
    return solutions
