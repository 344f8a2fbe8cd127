"""Joint search: all thresholds together, along the upper hull of (cost, value).

Prices of cost are walked up and down, each search (see `lagrangian`) starting from its neighbour's
result; next to each budget the price is then refined until no set of thresholds lies above the
hull's edge. A budget between two corners of the hull is met by mixing them with a coin
(``mix=True``), or, since policies are deterministic by default, by the best single set that costs
the budget: on the way from one corner to the other, or from a corner by one threshold alone.

Source: Lagrangian relaxation with mixing on the hull, as in Dekoninck et al., ICML 2025,
arXiv:2410.10347 (binary search in lambda, then a coin between two policies).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.runtime.typing import Floats
from policyopt.thresholds.lagrangian import Lagrangian
from policyopt.thresholds.meet import meet_budget
from policyopt.thresholds.problem import Problem, Solution
from policyopt.thresholds.quota import between

Cuts = tuple[int, ...]
#: Prices of the whole cost range, in units of accuracy: from "cost hardly matters" to "it is all".
#: Negative ones trace the hull beyond its peak, for budgets larger than the best policy needs.
_PRICES = np.concatenate([-np.logspace(0, -4, 7), np.logspace(-4, 2.5, 27)])
_REFINEMENTS = 12  # per budget; each halves an edge of the hull or is the last
_MOST_ROWS = 100_000  # more rows do not sharpen K-1 thresholds; the budget is met on all rows


def solve_path(problem: Problem, budgets: Sequence[float], mix: bool = False) -> list[Solution]:
    """Return jointly chosen thresholds for each budget.

    Parameters
    ----------
    problem : Problem
    budgets : sequence of float
    mix : bool
        Mix the two corners of the hull next to the budget by a coin.

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
    >>> scores = rng.random((1000, 3))
    >>> right = (rng.random((1000, 3)) < scores).astype(float)
    >>> problem = Problem(scores, right, np.array([1.0, 2.0, 4.0]))
    >>> round(problem.cost(solve_path(problem, [2.5])[0].thresholds), 1)
    2.5
    """
    for budget in budgets:
        problem.check_budget(budget)
    corners = hull(thinned(problem), budgets)
    costs = np.array([problem.cost(corner) for corner in corners])
    return [_join(problem, corners, costs, budget, mix) for budget in budgets]


def hull(
    problem: Problem, budgets: Sequence[float], search: Lagrangian | None = None
) -> list[Floats]:
    """Return thresholds at the corners of the upper hull of (cost, value), cheapest first.

    Parameters
    ----------
    problem : Problem
    budgets : sequence of float
        Where the hull is refined: at these costs its edge is final.
    search : Lagrangian, optional
        What searches at one price, on these rows.

    Returns
    -------
    list of ndarray of shape (K-1,)
    """
    search = search or Lagrangian(problem)
    found = {tuple(cuts): search.point(cuts) for cuts in (search.first, search.last)}
    (low, _), (high, _) = found.values()

    def add(cuts: npt.NDArray[np.int64]) -> None:
        found[tuple(int(c) for c in cuts)] = search.point(cuts)

    for neighbour, prices in ((search.last, _PRICES), (search.first, _PRICES[::-1])):
        for price in prices / max(high - low, 1e-300):
            neighbour = search.best(float(price), [neighbour])
            add(neighbour)
    for budget in budgets:
        for _ in range(_REFINEMENTS):
            cuts, points = _corners(found)
            at = int(np.clip(np.searchsorted(points[:, 0], budget), 1, max(len(cuts) - 1, 1)))
            (c0, v0), (c1, v1) = points[at - 1], points[min(at, len(cuts) - 1)]
            if c1 <= c0:
                break
            price = (v1 - v0) / (c1 - c0)
            better = search.best(float(price), [np.array(cuts[at - 1]), np.array(cuts[at])])
            cost, value = search.point(better)
            if value - price * cost <= v0 - price * c0 + 1e-12:
                break
            add(better)
    return [search.thresholds(np.array(c)) for c in _corners(found)[0]]


def _corners(found: dict[Cuts, tuple[float, float]]) -> tuple[list[Cuts], Floats]:
    cuts = sorted(found)
    points = np.array([found[c] for c in cuts])
    chosen = upper_hull(points)
    return [cuts[i] for i in chosen], points[chosen]


def upper_hull(points: Floats) -> list[int]:
    """Return the indices of the upper hull of (cost, value) points, left to right, both ends kept.

    The right end is the dearest point, even where its value is lower: a budget may be that large.

    Examples
    --------
    >>> upper_hull(np.array([[0, 0], [1, 3], [2, 1], [3, 4]]))
    [0, 1, 3]
    """
    chain: list[int] = []
    for i in np.lexsort((points[:, 1], points[:, 0])):
        if chain and points[chain[-1], 0] == points[i, 0]:
            chain.pop()  # same cost: the later one is worth at least as much
        while len(chain) >= 2:
            (ax, ay), (bx, by), (cx, cy) = points[chain[-2]], points[chain[-1]], points[i]
            if (bx - ax) * (cy - ay) < (by - ay) * (cx - ax):
                break
            chain.pop()
        chain.append(int(i))
    return chain


def thinned(problem: Problem) -> Problem:
    """Return the problem of a random part of the rows, where there are more than a search needs."""
    if problem.rows <= _MOST_ROWS:
        return problem
    rows = np.sort(np.random.default_rng(0).permutation(problem.rows)[:_MOST_ROWS])
    costs = problem.costs if problem.costs.ndim == 1 else problem.costs[rows]
    return Problem(problem.scores[rows], problem.value[rows], costs, problem.unit)


def _join(
    problem: Problem, corners: list[Floats], costs: Floats, budget: float, mix: bool
) -> Solution:
    """Meet the budget between the two corners next to it."""
    dearer = int(np.clip(np.searchsorted(costs, budget), 1, len(costs) - 1))
    low, high = corners[dearer - 1], corners[dearer]
    if mix and costs[dearer - 1] < budget < costs[dearer]:
        share = (budget - costs[dearer - 1]) / (costs[dearer] - costs[dearer - 1])
        return Solution(low, high, float(share))
    ordered = np.sort(problem.scores[:, :-1], axis=0)
    position = [_positions(ordered, corner) for corner in (low, high)]
    whole, rows = (position[0], position[1]), float(problem.rows)
    ways: list[tuple[Floats, Floats]] = [whole]
    for k in range(problem.exits - 1):
        for corner in position:
            cheap, dear = corner.copy(), corner.copy()
            cheap[k], dear[k] = 0.0, rows
            ways.append((cheap, dear))
    found = [_along(problem, ordered, way, budget) for way in ways]
    cheapest, dearest = float(problem.mean_costs[0]), float(problem.mean_costs[-1])
    least = budget - 0.01 * (budget - cheapest) - (dearest - cheapest) / problem.rows
    single = [s for s in found if s.other is None and problem.cost(s.thresholds) >= least]
    # The first of equals, so that noise in the last digit does not choose.
    return max(single or found[:1], key=lambda s: problem.accuracy(s.thresholds))


def _along(
    problem: Problem, ordered: Floats, way: tuple[Floats, Floats], budget: float
) -> Solution:
    """Meet the budget on the straight way between two sets of thresholds, in ranks."""
    cheap, dear = way

    def family(part: float) -> Floats:
        return _at_positions(ordered, cheap + part * (dear - cheap))

    return meet_budget(problem, family, 0.0, 1.0, budget)


def _positions(ordered: Floats, thresholds: Floats) -> Floats:
    """Return how many samples score below each threshold, (K-1,)."""
    return np.array(
        [np.searchsorted(ordered[:, k], t) for k, t in enumerate(thresholds)], dtype=np.float64
    )


def _at_positions(ordered: Floats, positions: Floats) -> Floats:
    """Return thresholds with about that many samples below each, (K-1,)."""
    rows = len(ordered)
    out = np.empty(len(positions))
    for k, r in enumerate(np.round(positions).astype(np.int64)):
        if r <= 0 or r >= rows:
            out[k] = ALWAYS if r <= 0 else NEVER
        else:
            out[k] = between(float(ordered[r - 1, k]), float(ordered[r, k]))
    return out
