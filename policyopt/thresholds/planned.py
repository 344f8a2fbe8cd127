"""Quota thresholds for a planned exit distribution, tilted until the replayed cost is the budget."""

from __future__ import annotations

import numpy as np

from policyopt.runtime.typing import Floats
from policyopt.thresholds.meet import meet_budget
from policyopt.thresholds.problem import Problem, Solution
from policyopt.thresholds.quota import quota_thresholds

_STEEPEST = 1e6  # e**-1e6 of any share is none, even of exits that cost nearly the same


def tilted_shares(shares: Floats, costs: Floats, tilt: float) -> Floats:
    """Return shares proportional to ``shares * exp(tilt * cost)``, (K,).

    Of all distributions of the same mean cost this one is nearest to `shares` in Kullback-Leibler
    divergence (exponential tilting). Costs are taken as parts of the way from first to last.

    Parameters
    ----------
    shares : ndarray of shape (K,)
        Add to 1.
    costs : ndarray of shape (K,)
    tilt : float

    Returns
    -------
    ndarray of shape (K,)

    Examples
    --------
    >>> tilted_shares(np.array([0.5, 0.5]), np.array([1.0, 3.0]), np.log(3)).round(3)
    array([0.25, 0.75])
    """
    span = costs[-1] - costs[0]
    way = (costs - costs[0]) / (span if span > 0 else 1.0)
    # A share of exactly 0 could never be raised: an empty exit may be what a budget needs.
    exponents = np.log(np.maximum(shares, 1e-12)) + tilt * way
    weights = np.exp(exponents - exponents.max())
    return weights / weights.sum()


def solve_planned(problem: Problem, shares: Floats, budget: float) -> Solution:
    """Return quota thresholds whose replayed cost is the budget, by the smallest change of a plan.

    Parameters
    ----------
    problem : Problem
    shares : ndarray of shape (K,)
        Planned share of samples per exit.
    budget : float
        Mean cost, already checked.

    Returns
    -------
    Solution

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> problem = Problem(rng.random((1000, 3)), np.ones((1000, 3)), np.array([1.0, 2.0, 4.0]))
    >>> solution = solve_planned(problem, np.array([0.6, 0.1, 0.3]), 2.5)
    >>> round(problem.cost(solution.thresholds), 2)
    2.5
    """
    costs = problem.mean_costs

    def family(tilt: float) -> Floats:
        planned = tilted_shares(shares, costs, tilt)
        # Rounding the running total keeps the last exit's share right to half a sample.
        counts = np.diff(np.round(np.cumsum(planned) * problem.rows), prepend=0.0)
        return quota_thresholds(problem.scores, counts.astype(np.int64))

    # Aim half a sample's way low: what is left is spent at exit 0, too much cannot be.
    aim = max(budget - 0.5 * (costs[-1] - costs[0]) / problem.rows, costs[0])
    start = _planned_tilt(shares, costs, float(aim))
    return meet_budget(problem, family, -_STEEPEST, _STEEPEST, budget, start, steps=80)


def _planned_tilt(shares: Floats, costs: Floats, budget: float) -> float:
    """Return the tilt whose shares cost `budget`, by bisection (the cost grows with the tilt)."""
    low, high = -_STEEPEST, _STEEPEST
    for _ in range(80):
        middle = (low + high) / 2
        if tilted_shares(shares, costs, middle) @ costs < budget:
            low = middle
        else:
            high = middle
    return (low + high) / 2
