"""Joint search: all thresholds together, along the upper hull of (cost, value).

At one price of cost, exact steps on ``value - price * cost``: each finds the best value of one threshold (of few
exits, also of two at once) with the others held. A sample's gain from leaving at exit k against going on is known, so
summing gains by score gives every candidate's worth in one pass. Steps repeat until none helps.

Prices are walked up and down, each search starting from its neighbour's result; next to each budget the price
is then refined until no set of thresholds lies above the hull's edge. A budget between two corners of the hull
is met by mixing them with a coin (``mix=True``), or, since policies are deterministic by default, by the best
single set that costs the budget: on the way from one corner to the other, or from a corner by one threshold alone.

Sources: Lagrangian relaxation with mixing on the hull, as in Dekoninck et al., ICML 2025, arXiv:2410.10347
(binary search in lambda, then a coin between two policies); exact coordinate steps on the Lagrangian are
folklore of cascade thresholds (sort by score, cumulate the gains, take the best prefix). Steps on two
thresholds at once are ours: single ones get stuck where two exits trade places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from policyopt._thresholds.budget_search import meet_budget, spend, spend_at
from policyopt._thresholds.problem import Problem, Solution, between
from policyopt.runtime._policy import ALWAYS, NEVER, first_exit
from policyopt.runtime._typing import Bools, Floats, Ints

Cuts = tuple[int, ...]
#: Prices of the whole cost range, in units of accuracy: from "cost hardly matters" to "it is all".
#: Negative ones trace the hull beyond its peak, for budgets larger than the best policy needs.
_PRICES = np.concatenate([-np.logspace(0, -4, 7), np.logspace(-4, 2.5, 27)])
_REFINEMENTS = 12  # per budget; each halves an edge of the hull or is the last
_MOST_ROWS = 100_000  # more rows do not sharpen K-1 thresholds; the budget is met on all rows
#: More exits than these are searched on a quarter of the rows, if those are 5,000 or more, in steps on one
#: alone: on unseen rows all that is tried besides was worth nothing (`benchmarks/_exits.py`).
_MANY, _PART, _LEAST_ROWS = 12, 4, 5_000
_BINS = 48  # candidates per threshold in a step on two; the following single steps are exact
_REACH = 3  # steps on two take exits at most this far apart
_SMALL, _STARTS = 2_000, 4  # up to here, searches also start from the best of "all leave at exit k"
_TINY, _DRAWS = 100, 8  # up to here, from this many random cuts besides
_TINY_GAIN = 1e-12


def solve_joint(problem: Problem, budgets: Sequence[float], mix: bool = False) -> list[Solution]:
    """Return jointly chosen thresholds for each budget."""
    solutions = []
    for budget in budgets:
        corners = hull(problem, [budget])
        costs = np.array([problem.cost(corner) for corner in corners])
        solutions.append(_join(problem, corners, costs, budget, mix))
    return solutions


def hull(
    problem: Problem, budgets: Sequence[float], made: Callable[[Problem], Lagrangian] | None = None
) -> list[Floats]:
    """Return thresholds (K-1,) at the corners of the upper hull of (cost, value), cheapest first; `made`: a search."""
    if "hull" not in problem.memory:
        problem.memory["hull"] = *_walk((made or Lagrangian)(subsample(problem))), {}
    search, found, edges = problem.memory["hull"]
    found = dict(found)  # whatever else was asked before, a budget finds the same
    for budget in budgets:
        for _ in range(_REFINEMENTS):
            cuts, points = _corners(found)
            at = int(np.clip(np.searchsorted(points[:, 0], budget), 1, max(len(cuts) - 1, 1)))
            (c0, v0), (c1, v1) = points[at - 1], points[min(at, len(cuts) - 1)]
            if c1 <= c0:
                break
            price = (v1 - v0) / (c1 - c0)
            if (edge := (cuts[at - 1], cuts[at])) not in edges:
                best = search.best(float(price), [np.array(cut) for cut in edge])
                edges[edge] = tuple(int(c) for c in best), *search.point(best)
            better, cost, value = edges[edge]
            if value - price * cost <= v0 - price * c0 + 1e-12:
                break
            found[better] = cost, value
    return [search.thresholds(np.array(c)) for c in _corners(found)[0]]


def _walk(search: Lagrangian) -> tuple[Lagrangian, dict[Cuts, tuple[float, float]]]:
    """Return what a search finds along all prices, up and down."""
    found = {tuple(cuts): search.point(cuts) for cuts in (search.first, search.last)}
    (low, _), (high, _) = found.values()
    for neighbour, prices in ((search.last, _PRICES), (search.first, _PRICES[::-1])):
        for price in prices / max(high - low, 1e-300):
            neighbour = search.best(float(price), [neighbour])
            found[tuple(int(c) for c in neighbour)] = search.point(neighbour)
    return search, found


def _corners(found: dict[Cuts, tuple[float, float]]) -> tuple[list[Cuts], Floats]:
    cuts = sorted(found)
    points = np.array([found[c] for c in cuts])
    chosen = upper_hull(points)
    return [cuts[i] for i in chosen], points[chosen]


def upper_hull(points: Floats) -> list[int]:
    """Return the indices of the upper hull of (cost, value) points, both ends kept, left to right."""
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


def subsample(problem: Problem) -> Problem:
    """Return the problem of a random part of the rows, where there are more than a search needs."""
    most = _MOST_ROWS
    if problem.exits > _MANY:
        most = max(min(problem.rows // _PART, most * _MANY // problem.exits), _LEAST_ROWS)
    if problem.rows <= most:
        return problem
    rows = np.sort(np.random.default_rng(0).permutation(problem.rows)[:most])
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
    cheap, dear = (positions_of(problem.ordered, corner) for corner in (low, high))

    def straight(part: float) -> Floats:  # from one to the other
        return at_positions(problem.ordered, cheap + part * (dear - cheap), ALWAYS, NEVER)

    met, found = meet_budget(problem, straight, 0.0, 1.0, budget), []  # thresholds, exits taken
    ends = [(corner, first_exit(problem.scores, corner)) for corner in (low, high)]
    if met.other is None:
        found.append((met.thresholds, first_exit(problem.scores, met.thresholds)))
    span = float(problem.mean_costs[-1] - problem.mean_costs[0])
    many = problem.exits > _MANY  # only what corners do not share moves; a sample's way may be left
    for k in np.flatnonzero(cheap != dear).tolist() if many else range(problem.exits - 1):
        for corner, exits in ends:
            moved, taken = corner.copy(), np.minimum(exits, k)
            moved[k] = ALWAYS
            left = budget - problem.paid(taken)
            if left >= 0:
                moved, spent = spend_at(problem, moved, k, left, taken)
                moved = spend(problem, moved, left - spent, taken, span / problem.rows * many)
                found.append((problem.settled(moved), taken))
    least = budget - 0.01 * (budget - float(problem.mean_costs[0])) - span / problem.rows
    single = [one for one in found if problem.paid(one[1]) >= least]
    if not single:
        return met
    # The first of equals, so that noise in the last digit does not choose.
    return Solution(max(single, key=lambda one: problem.gained(one[1]).mean())[0])


def positions_of(ordered: Floats, thresholds: Floats) -> Floats:
    """Return how many of the ordered scores (N, K-1) lie below thresholds (..., K-1), of their shape."""
    rows = thresholds.reshape(-1, ordered.shape[1])
    found = [[np.searchsorted(ordered[:, k], t) for k, t in enumerate(row)] for row in rows]
    return np.array(found, dtype=np.float64).reshape(thresholds.shape)


def at_positions(ordered: Floats, positions: Floats, lowest: float, highest: float) -> Floats:
    """Return thresholds with about that many scores below each, (..., K-1), at the ends `lowest` and `highest`."""
    rows = len(ordered)
    at = np.atleast_2d(np.round(positions).astype(np.int64))
    below = np.take_along_axis(ordered, np.clip(at - 1, 0, rows - 1), axis=0)
    above = np.take_along_axis(ordered, np.clip(at, 0, rows - 1), axis=0)
    middle = below + (above - below) / 2
    middle = np.where(below < middle, middle, above)
    found = np.where(at <= 0, lowest, np.where(at >= rows, highest, middle))
    return found.reshape(positions.shape)


class Lagrangian:
    """The search over one problem's rows.

    Thresholds are *cuts*, (K-1,) integers: at least the a-th distinct score of the exit; 0 always, all: never.
    """

    def __init__(self, problem: Problem) -> None:
        self._grid = _Grid(problem.scores)
        self._value = np.ascontiguousarray(problem.value.T)
        self._cost = np.ascontiguousarray(np.broadcast_to(problem.costs, problem.scores.shape).T)
        sizes = np.array([len(level) for level in self._grid.levels])
        count = len(sizes)
        fixed = [np.where(np.arange(count) < k, sizes, 0) for k in range(count + 1)]
        self.first, self.last = fixed[0], fixed[-1]
        self._starts = fixed if problem.rows <= _SMALL else []
        if problem.rows <= _TINY:
            draws = np.random.default_rng(0).random((_DRAWS, count)) * (sizes + 1)
            self._starts = [*fixed, *np.floor(draws).astype(np.int64)]

    def best(self, price: float, starts: list[Ints]) -> Ints:
        """Return the best cuts found at a price (value per unit of cost)."""
        gains = self._value - price * self._cost
        here = np.argsort(-gains.mean(axis=1), kind="stable")[:_STARTS] if self._starts else []
        fixed = [self._starts[k] for k in sorted(int(k) for k in here)]
        more = self._starts[len(gains) :]
        results = [self._grid.climb(gains, start) for start in (*starts, *fixed, *more)]
        return max(results, key=lambda found: found[0])[1]

    def point(self, cuts: Ints) -> tuple[float, float]:
        """Return mean cost and mean value of cuts on these rows."""
        cost, value = (self._grid.worth(table, cuts) for table in (self._cost, self._value))
        return cost, value

    def thresholds(self, cuts: Ints) -> Floats:
        """Return cuts as thresholds, (K-1,)."""
        out = np.empty(len(cuts))
        for k, (cut, level) in enumerate(zip(cuts, self._grid.levels, strict=True)):
            below = level[cut - 1] if cut > 0 else ALWAYS
            above = level[cut] if cut < len(level) else NEVER
            out[k] = between(float(below), float(above))
        return out


class _Grid:
    """Candidate thresholds per exit, and steps on cuts; gains of leaving at each exit are (K, N)."""

    def __init__(self, scores: Floats) -> None:
        columns = scores.T[:-1]
        self._reach = 0 if len(columns) >= _MANY else _REACH
        found = [np.unique(column, return_inverse=True) for column in columns]
        self.levels = [level for level, _ in found]  # distinct scores, ascending
        counts = [len(level) for level in self.levels]
        # The cut at each edge of at most _BINS bins.
        self.edges = [np.linspace(0, n, min(n, _BINS) + 1).round().astype(np.int64) for n in counts]
        #: Level of each sample's score, (K, N), of the last exit 0; without that, (K-1, N); and bin.
        self.every = np.zeros(scores.T.shape, np.int64)
        self.ranks = self.every[:-1]
        self.ranks[:] = np.reshape([ranks for _, ranks in found], columns.shape)
        pairs = zip(self.edges, self.ranks, strict=True)
        bins = [np.searchsorted(edge, ranks, side="right") - 1 for edge, ranks in pairs]
        self.coarse = np.array(bins, np.int64).reshape(columns.shape)

    def climb(self, gains: Floats, start: Ints) -> tuple[float, Ints]:
        """Improve cuts until no step on one or two of them helps."""
        cuts = start.copy()
        worth = self.worth(gains, cuts)
        while True:
            before = worth
            while (now := self._step_ones(gains, cuts)) > worth + _TINY_GAIN:
                worth = now
            worth = max(worth, now)
            if not self._reach:
                return worth, cuts
            self._step_twos(gains, cuts)
            worth = max(worth, self.worth(gains, cuts))
            if worth <= before + _TINY_GAIN:
                return worth, cuts

    def worth(self, gains: Floats, cuts: Ints) -> float:
        """Return the mean of what samples earn."""
        return float(gains[first_exit(self.every.T, cuts), np.arange(gains.shape[1])].mean())

    def _onward(self, gains: Floats, cuts: Ints) -> Floats:
        """Return what each sample earns from exit k on if it comes there, (K, N)."""
        earned = np.empty_like(gains)
        earned[-1] = gains[-1]
        for k in range(len(cuts) - 1, -1, -1):
            earned[k] = np.where(self.ranks[k] >= cuts[k], gains[k], earned[k + 1])
        return earned

    def _comes(self, cuts: Ints) -> Bools:
        """Return which samples come to exit k, (K, N)."""
        passed = np.logical_and.accumulate(self.ranks < cuts[:, None], axis=0)
        return np.concatenate([np.ones((1, *self.ranks.shape[1:]), dtype=bool), passed])

    def _step_ones(self, gains: Floats, cuts: Ints) -> float:
        """Set each cut in turn, the last first, to its best, the others held: exact, over all distinct scores."""
        # Returns the mean of what samples earn then.
        comes, onward = self._comes(cuts), gains[-1]
        for k in range(len(cuts) - 1, -1, -1):
            advantage = (gains[k] - onward) * comes[k]
            by_rank = np.bincount(self.ranks[k], weights=advantage, minlength=len(self.levels[k]))
            worth = np.append(np.cumsum(by_rank[::-1])[::-1], 0.0)
            choice = int(worth.argmax())
            if worth[choice] > worth[cuts[k]] + _TINY_GAIN:
                cuts[k] = choice
            onward = np.where(self.ranks[k] >= cuts[k], gains[k], onward)
        return float(onward.mean())

    def _step_twos(self, gains: Floats, cuts: Ints) -> None:
        """Set each pair of near cuts in turn to its best among the bins' edges."""
        onward, comes = self._onward(gains, cuts), self._comes(cuts)
        for i in range(len(cuts)):
            at_j = np.ones(gains.shape[1], dtype=bool)  # passes what lies between the two
            for j in range(i + 1, min(i + self._reach, len(cuts) - 1) + 1):
                if self._step_two(gains, cuts, (i, j), onward, comes[i], at_j):
                    onward, comes = self._onward(gains, cuts), self._comes(cuts)
                at_j = at_j & (self.ranks[j] < cuts[j])

    def _step_two(
        self, gains: Floats, cuts: Ints, pair: tuple[int, int], onward: Floats, at_i: Bools, at_j: Bools
    ) -> bool:  # fmt: skip
        """Set cuts i and j to their best pair among the bins' edges, if better than the present pair: whether so."""
        # Shapes: onward (K, N); at_i, those who come to i, and at_j, those who would come from there to j, (N,).
        i, j = pair
        neither = np.where(at_j, onward[j + 1], onward[i + 1])
        rows, columns = len(self.edges[i]), len(self.edges[j])
        worth = (gains[i] - neither) * at_i
        leave_i = np.bincount(self.coarse[i], weights=worth, minlength=rows - 1)
        leave_j = np.bincount(
            self.coarse[i] * (columns - 1) + self.coarse[j],
            weights=(gains[j] - onward[j + 1]) * (at_i & at_j),
            minlength=(rows - 1) * (columns - 1),
        ).reshape(rows - 1, columns - 1)
        # worth[a, b]: from edge a up leaves at i; of those below, from edge b up leaves at j.
        worth = np.zeros((rows, columns))
        worth[1:, :-1] = np.cumsum(np.cumsum(leave_j, axis=0)[:, ::-1], axis=1)[:, ::-1]
        worth[:-1] += np.cumsum(leave_i[::-1])[::-1][:, None]
        a, b = np.unravel_index(worth.argmax(), worth.shape)
        if worth[a, b] <= ((onward[i] - neither) * at_i).sum() + _TINY_GAIN:
            return False
        cuts[i], cuts[j] = self.edges[i][a], self.edges[j][b]
        return True
