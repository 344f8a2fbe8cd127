"""Quota thresholds: at each exit the readiest samples still alive leave until its share of them is full.

Source: Huang et al., MSDNet, ICLR 2018, section 4.2 (as in the published evaluation), and Ilhan
et al., EENet, WACV 2024, Algorithm 1, lines 5-15. Departure: a threshold stands midway between
the last score that leaves and the first that stays, not on the former, so that the last bit of
a score computed elsewhere cannot turn a decision; on the rows at hand the decisions are equal.

Shares are geometric (MSDNet: ``q (1 - q)^k`` of the samples leave at exit k, normalised; equivalently
proportional to ``ratio ** k``; the published evaluation tries a grid of ratios and takes what cost they
have, here the ratio is solved for the budget), or planned by somebody and tilted until they cost the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from policyopt._thresholds.budget_search import bisect, brent_root, meet_budget
from policyopt._thresholds.problem import Problem, Solution, between
from policyopt.runtime._policy import ALWAYS, NEVER
from policyopt.runtime._typing import Floats

_STEEPEST_RATIO = 60.0  # |log ratio|; e**-60 of a billion samples is none
_STEEPEST_TILT = 1e6  # e**-1e6 of any share is none, even of exits that cost nearly the same


def quota_thresholds(scores: Floats, counts: npt.NDArray[np.integer]) -> Floats:
    """Return thresholds (K-1,) by which about ``counts[k]`` of the scores (N, K) leave at exit k (last: ignored)."""
    exits = scores.shape[1]
    thresholds = np.empty(exits - 1)
    alive = np.arange(len(scores))
    for k in range(exits - 1):
        here = scores[alive, k]
        thresholds[k] = threshold_for_count(here, int(counts[k]))
        if thresholds[k] < NEVER:
            alive = alive[here < thresholds[k]]
    return thresholds


def threshold_for_count(scores: Floats, count: int) -> float:
    """Return the threshold that the `count` largest of `scores`, (n,), reach (ties: nearest)."""
    n = len(scores)
    if count <= 0:
        return NEVER
    if count >= n:
        return ALWAYS
    parts = np.partition(scores, n - count)
    stays, leaves = parts[: n - count].max(), parts[n - count]
    if stays == leaves:  # a group of equal scores straddles the quota
        above = int((scores > leaves).sum())
        with_group = int((scores >= leaves).sum())
        if count - above < with_group - count:
            return between(leaves, np.min(scores, where=scores > leaves, initial=NEVER))
        return between(np.max(scores, where=scores < leaves, initial=ALWAYS), leaves)
    return between(stays, leaves)


def geometric_shares(log_ratio: float, exits: int) -> Floats:
    """Return shares proportional to ``ratio ** k``, (K,), that add to 1."""
    powers = log_ratio * np.arange(exits)
    weights = np.exp(powers - powers.max())
    return weights / weights.sum()


def solve_ratio(costs: Floats, budget: float) -> float:
    """Return the log ratio whose geometric shares cost `budget`, between the first and last of costs (K,)."""
    powers, gap = np.arange(len(costs)), np.asarray(costs) - budget

    def excess(log_ratio: float) -> float:
        # The sign of the mean cost less the budget; the weights need not add to 1 for that.
        exponents = log_ratio * powers
        return float(np.exp(exponents - max(exponents[0], exponents[-1])) @ gap)

    if excess(-_STEEPEST_RATIO) >= 0:
        return -_STEEPEST_RATIO
    if excess(_STEEPEST_RATIO) <= 0:
        return _STEEPEST_RATIO
    return brent_root(excess, -_STEEPEST_RATIO, _STEEPEST_RATIO, 1e-10)


def tilted_shares(shares: Floats, costs: Floats, tilt: float) -> Floats:
    """Return shares proportional to ``shares * exp(tilt * cost)``, (K,), the nearest in Kullback-Leibler divergence."""
    span = costs[-1] - costs[0]
    way = (costs - costs[0]) / (span if span > 0 else 1.0)
    # A share of exactly 0 could never be raised: an empty exit may be what a budget needs.
    exponents = np.log(np.maximum(shares, 1e-12)) + tilt * way
    weights = np.exp(exponents - exponents.max())
    return weights / weights.sum()


def solve_geometric(problem: Problem, budgets: Sequence[float]) -> list[Solution]:
    """Return quota thresholds of geometric shares for each budget."""
    solutions = []
    for budget in budgets:
        start = solve_ratio(problem.mean_costs, _aim(problem, budget))
        family = _family(problem, lambda ratio: geometric_shares(ratio, problem.exits))
        ends = -_STEEPEST_RATIO, _STEEPEST_RATIO
        solutions.append(meet_budget(problem, family, *ends, budget, start))
    return solutions


def solve_planned(problem: Problem, shares: Floats, budget: float) -> Solution:
    """Return quota thresholds whose replayed cost is the budget, by the smallest change of planned shares (K,)."""
    costs, aim = problem.mean_costs, _aim(problem, budget)

    def planned(tilt: float) -> Floats:
        return tilted_shares(shares, costs, tilt)

    ends = -_STEEPEST_TILT, _STEEPEST_TILT
    low, high = bisect(lambda tilt: bool(planned(tilt) @ costs < aim), *ends, 80)
    family = _family(problem, planned)
    return meet_budget(problem, family, *ends, budget, (low + high) / 2, steps=80)


def _aim(problem: Problem, budget: float) -> float:
    """Return a cost half a sample's way low: what is left is spent at exit 0, too much cannot be."""
    low, high = problem.mean_costs[[0, -1]]
    return float(max(budget - 0.5 * (high - low) / problem.rows, low))


def _family(problem: Problem, shares_at: Callable[[float], Floats]) -> Callable[[float], Floats]:
    """Return what leads from the parameter of shares (K,) to their quota thresholds (K-1,)."""
    known: dict[bytes, Floats] = {}

    def family(parameter: float) -> Floats:
        # Rounding the running total keeps the last exit's share right to half a sample.
        total = np.round(np.cumsum(shares_at(parameter)) * problem.rows)
        counts = np.diff(total, prepend=0.0).astype(np.int64)
        if (key := counts.tobytes()) not in known:
            known[key] = quota_thresholds(problem.scores, counts)
        return known[key]

    return family
