"""Search for thresholds at one price: exact steps on ``value - price * cost``.

For a fixed price, each step finds the best value of one threshold (or of two at once) with the
others held: a sample's gain from leaving at exit k against going on is known, so summing gains
by score gives every candidate's worth in one pass. Steps repeat until none helps.

Source: exact coordinate steps on the Lagrangian are folklore of cascade thresholds (sort by
score, cumulate the gains, take the best prefix). Steps on two thresholds at once are ours: single
ones get stuck where two exits trade places.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.runtime.typing import Floats, Ints
from policyopt.thresholds.problem import Problem
from policyopt.thresholds.quota import between

_BINS = 48  # candidates per threshold in a step on two; the following single steps are exact
_REACH = 3  # steps on two take exits at most this far apart: many exits, few useful pairs
_SMALL = 2_000  # up to here, searches also start from each "all leave at exit k"
_TINY, _DRAWS = 100, 8  # up to here, from this many random cuts besides
_TINY_GAIN = 1e-12


class Lagrangian:
    """The search over one problem's rows.

    Thresholds are held as *cuts*, (K-1,) integers: cut a at exit k means "leave if the score is at
    least the a-th distinct score of that exit"; 0 = always, the number of distinct scores = never.

    Parameters
    ----------
    problem : Problem
    """

    def __init__(self, problem: Problem) -> None:
        self._grid = _Grid.of(problem.scores)
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
        results = [_climb(gains, self._grid, start) for start in (*starts, *self._starts)]
        return max(results, key=lambda found: found[0])[1]

    def point(self, cuts: Ints) -> tuple[float, float]:
        """Return mean cost and mean value of cuts on these rows."""
        ranks = self._grid.ranks
        return tuple(
            float(_onward(table, ranks, cuts)[0].mean()) for table in (self._cost, self._value)
        )  # type: ignore[return-value]

    def thresholds(self, cuts: Ints) -> Floats:
        """Return cuts as thresholds, (K-1,)."""
        return self._grid.thresholds(cuts)


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
