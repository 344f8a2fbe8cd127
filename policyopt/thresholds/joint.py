"""Joint search: all thresholds together, by exact steps on the Lagrangian ``value - lambda * cost``.

For a price lambda, each step finds the best value of one threshold (or of two at once) with the
others held: a sample's gain from leaving at exit k against going on is known, so summing gains
by score gives every candidate's worth in one pass. Steps repeat until none helps. The prices are
walked up and down, each search starting from its neighbour's result; all results form the upper
hull of (cost, value). A budget between two corners of the hull is met by mixing them with a coin
(``mix=True``), or, since policies are deterministic by default, by the best single set that costs
the budget: on the way from one corner to the other, or from a corner by one threshold alone.

Source: coordinate ascent on the Lagrangian and mixing on the hull as in the cost-constrained
cascade literature (Dekoninck et al., ICML 2025, 2410.10347, binary search in lambda and mixing);
steps on two thresholds at once are ours: single ones get stuck where two exits trade places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.thresholds.meet import meet_budget
from policyopt.thresholds.problem import Problem, Solution
from policyopt.thresholds.quota import between

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
#: Prices of the whole cost range, in units of accuracy: from "cost hardly matters" to "it is all".
#: Negative ones trace the hull beyond its peak, for budgets larger than the best policy needs.
_PRICES = np.concatenate([-np.logspace(0, -4, 13), np.logspace(-4, 2.5, 41)])
_BINS = 48  # candidates per threshold in a step on two; the following single steps are exact
_REACH = 3  # steps on two take exits at most this far apart: many exits, few useful pairs
_MOST_ROWS = 100_000  # more rows do not sharpen K-1 thresholds; the budget is met on all rows
_SMALL = 2_000  # up to here, every price is also searched from each "all leave at exit k"
_TINY, _DRAWS = 100, 24  # up to here, from this many random cuts besides
_TINY_GAIN = 1e-12


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
    corners = hull(problem)
    costs = np.array([problem.cost(corner) for corner in corners])
    return [_join(problem, corners, costs, budget, mix) for budget in budgets]


def hull(problem: Problem) -> list[Floats]:
    """Return the thresholds at the corners of the upper hull of (cost, value), cheapest first."""
    found = {tuple(t) for t in search(_thin(problem), _PRICES)}
    found |= {(ALWAYS,) * (problem.exits - 1), (NEVER,) * (problem.exits - 1)}
    sets = np.array(sorted(found))
    points = np.array([(problem.cost(t), problem.accuracy(t)) for t in sets])
    return [sets[i] for i in upper_hull(points)]


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


def search(problem: Problem, prices: Floats) -> list[Floats]:
    """Return the best thresholds found for each price (of the whole cost range)."""
    grid = _Grid.of(problem.scores)
    costs = np.broadcast_to(problem.costs, problem.scores.shape).T
    span = max(float(problem.mean_costs[-1] - problem.mean_costs[0]), 1e-300)
    starts = _starts(grid, problem.rows)
    best: list[tuple[float, Ints]] = [(-np.inf, starts[0])] * len(prices)
    upward = range(len(prices))
    for first_walk, order in ((True, upward), (False, reversed(upward))):
        neighbour = starts[-1] if first_walk else starts[0]
        for i in order:
            gains = np.ascontiguousarray(problem.value.T - (prices[i] / span) * costs)
            tried = [neighbour, *(starts if first_walk and problem.rows <= _SMALL else [])]
            results = [_climb(gains, grid, start) for start in tried]
            best[i] = max([best[i], *results], key=lambda found: found[0])
            neighbour = best[i][1]
    return [grid.thresholds(cuts) for _, cuts in best]


@dataclass(frozen=True)
class _Grid:
    """Candidate thresholds per exit: cut a = "leave if the score is at least the a-th level"."""

    levels: list[Floats]  # distinct scores, ascending; cut 0 = always, len(levels) = never
    ranks: Ints  # (K-1, N): level of each sample's score
    coarse: Ints  # (K-1, N): the same in at most _BINS bins
    edges: list[Ints]  # cut at each edge of those bins

    @staticmethod
    def of(scores: Floats) -> _Grid:
        exits = scores.shape[1]
        ranks = np.empty((exits - 1, len(scores)), dtype=np.int64)
        coarse = np.empty_like(ranks)
        levels, edges = [], []
        for k in range(exits - 1):
            level, ranks[k] = np.unique(scores[:, k], return_inverse=True)
            edge = np.linspace(0, len(level), min(len(level), _BINS) + 1).round().astype(np.int64)
            coarse[k] = np.searchsorted(edge, ranks[k], side="right") - 1
            levels.append(level)
            edges.append(edge)
        return _Grid(levels, ranks, coarse, edges)

    def thresholds(self, cuts: Ints) -> Floats:
        out = np.empty(len(cuts))
        for k, (cut, level) in enumerate(zip(cuts, self.levels, strict=True)):
            below = level[cut - 1] if cut > 0 else ALWAYS
            above = level[cut] if cut < len(level) else NEVER
            out[k] = between(float(below), float(above))
        return out


def _starts(grid: _Grid, rows: int) -> list[Ints]:
    """Return "all leave at exit k" for each k, first to last; random cuts too where rows are few."""
    sizes = np.array([len(level) for level in grid.levels])
    count = len(sizes)
    fixed = [np.where(np.arange(count) < k, sizes, 0) for k in range(count + 1)]
    if rows > _TINY:
        return fixed
    draws = np.random.default_rng(0).random((_DRAWS, count))
    return [fixed[0], *np.floor(draws * (sizes + 1)).astype(np.int64), *fixed[1:]]


def _climb(gains: Floats, grid: _Grid, start: Ints) -> tuple[float, Ints]:
    """Improve cuts until no step on one or two of them helps; gains (K, N)."""
    cuts = start.copy()
    count = len(cuts)
    worth = _onward(gains, grid.ranks, cuts)[0].mean()
    while True:
        before = worth
        while True:
            for k in range(count - 1, -1, -1):
                _step_one(gains, grid, cuts, k)
            now = _onward(gains, grid.ranks, cuts)[0].mean()
            improved, worth = now > worth + _TINY_GAIN, max(now, worth)
            if not improved:
                break
        for i, j in combinations(range(count), 2):
            if j - i <= _REACH:
                _step_two(gains, grid, cuts, i, j)
        worth = max(worth, _onward(gains, grid.ranks, cuts)[0].mean())
        if worth <= before + _TINY_GAIN:
            return float(worth), cuts


def _onward(gains: Floats, ranks: Ints, cuts: Ints, first: int = 0) -> Floats:
    """Return what each sample earns from exit k on if it comes there, (K, N); rows from `first`."""
    earned = np.empty_like(gains)
    earned[-1] = gains[-1]
    for k in range(len(cuts) - 1, first - 1, -1):
        earned[k] = np.where(ranks[k] >= cuts[k], gains[k], earned[k + 1])
    return earned


def _comes(ranks: Ints, cuts: Ints, first: int, k: int) -> npt.NDArray[np.bool_]:
    """Return which samples, being at exit `first`, come to exit `k`, (N,)."""
    alive = np.ones(ranks.shape[1], dtype=bool)
    for j in range(first, k):
        alive &= ranks[j] < cuts[j]
    return alive


def _step_one(gains: Floats, grid: _Grid, cuts: Ints, k: int) -> None:
    """Set cut k to its best, the others held: exact, over all distinct scores."""
    advantage = gains[k] - _onward(gains, grid.ranks, cuts, k + 1)[k + 1]
    advantage *= _comes(grid.ranks, cuts, 0, k)
    by_rank = np.bincount(grid.ranks[k], weights=advantage, minlength=len(grid.levels[k]))
    worth = np.append(np.cumsum(by_rank[::-1])[::-1], 0.0)
    choice = int(worth.argmax())
    if worth[choice] > worth[cuts[k]] + _TINY_GAIN:
        cuts[k] = choice


def _step_two(gains: Floats, grid: _Grid, cuts: Ints, i: int, j: int) -> None:
    """Set cuts i and j to their best pair among the bins' edges, if better than the present pair."""
    ranks = grid.ranks
    onward = _onward(gains, ranks, cuts, i)
    at_i = _comes(ranks, cuts, 0, i)
    at_j = _comes(ranks, cuts, i + 1, j)  # passes what lies between the two
    neither = np.where(at_j, onward[j + 1], onward[i + 1])
    rows, columns = len(grid.edges[i]), len(grid.edges[j])
    leave_i = np.bincount(grid.coarse[i], weights=(gains[i] - neither) * at_i, minlength=rows - 1)
    leave_j = np.bincount(
        grid.coarse[i] * (columns - 1) + grid.coarse[j],
        weights=(gains[j] - onward[j + 1]) * (at_i & at_j),
        minlength=(rows - 1) * (columns - 1),
    ).reshape(rows - 1, columns - 1)
    # worth[a, b]: from edge a up leaves at i; of those below, from edge b up leaves at j.
    worth = np.zeros((rows, columns))
    worth[1:, :-1] = np.cumsum(np.cumsum(leave_j, axis=0)[:, ::-1], axis=1)[:, ::-1]
    worth[:-1] += np.cumsum(leave_i[::-1])[::-1][:, None]
    a, b = np.unravel_index(worth.argmax(), worth.shape)
    if worth[a, b] > ((onward[i] - neither) * at_i).sum() + _TINY_GAIN:
        cuts[i], cuts[j] = grid.edges[i][a], grid.edges[j][b]


def _thin(problem: Problem) -> Problem:
    if problem.rows <= _MOST_ROWS:
        return problem
    step = -(-problem.rows // _MOST_ROWS)
    costs = problem.costs if problem.costs.ndim == 1 else problem.costs[::step]
    return Problem(problem.scores[::step], problem.value[::step], costs, problem.unit)


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
    single = [s for s in found if s.other is None and problem.cost(s.thresholds) >= budget * 0.99]
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
