"""Conditional quantiles: at each gate a share of the samples that are still there goes on, all grids at once.

Source: Chen, Zaharia & Zou, FrugalGPT, 2023, arXiv:2305.05176, and its released optimiser: thresholds are
parametrised by the share q_k of the survivors that gate k sends on, tried on a grid of 40 values each,
and polished from the best. Theirs replays every point of the grid; here all points of a gate are read off
running sums over the survivors in the order of their scores, so no point is replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.runtime.typing import Bools, Floats, Ints
from policyopt.thresholds.problem import Problem
from policyopt.thresholds.quota import between

_ROUNDS, _POINTS, _SHRINK = 4, 7, 3.0  # of the polish: grids around the best so far


@dataclass(frozen=True, eq=False)
class _Gate:
    """One exit's samples, readiest first, and where groups of equal scores begin and end."""

    scores: Floats  # (N,) descending
    order: Ints  # (N,) sample at each place
    place: Ints  # (N,) place of each sample
    begin: Ints  # (N,) first place of the group that holds a place
    end: Ints  # (N,) one past its last

    @staticmethod
    def of(scores: Floats) -> _Gate:
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return _Gate(
            ranked, order, place,
            np.searchsorted(-ranked, -ranked, side="left"),
            np.searchsorted(-ranked, -ranked, side="right"),
        )  # fmt: skip

    def cuts(self, alive: Bools, onward: Floats) -> tuple[Ints, Ints]:
        """Return how many of the first places leave, (M, L), and the survivors up to each, (M, N+1).

        Equal scores leave together or not at all: as the released code, which leaves on scores
        strictly above the quantile, a group that the quota cuts stays.
        """
        sets, rows = alive.shape
        upto = np.zeros((sets, rows + 1), dtype=np.int64)
        np.cumsum(alive[:, self.order], axis=1, out=upto[:, 1:])
        leave = np.round((1.0 - onward) * upto[:, -1:]).astype(np.int64)
        # One sorted list for all sets: each set's counts are lifted above those of the last.
        lift = np.arange(sets)[:, None] * (rows + 1)
        at = np.searchsorted((upto + lift).ravel(), (leave + lift).ravel(), side="left")
        last = np.maximum(at.reshape(leave.shape) - lift - 1, 0)  # place of the last to leave
        whole = np.take_along_axis(upto, self.end[last], axis=1) == leave
        cut = np.where(whole, self.end[last], self.begin[last])
        return np.where(leave > 0, cut, 0), upto


class Quantiles:
    """The points of a grid of conditional quantiles over one problem's rows.

    Parameters
    ----------
    problem : Problem

    Examples
    --------
    >>> problem = Problem(
    ...     np.array([[0.9, 0], [0.5, 0], [0.1, 0]]),
    ...     np.array([[1, 1], [0, 1], [0, 1.0]]),
    ...     np.array([1.0, 4.0]),
    ... )
    >>> Quantiles(problem).grid([np.array([0.0, 2 / 3, 1.0])])
    (array([1., 3., 4.]), array([0.33333333, 1.        , 1.        ]))
    """

    def __init__(self, problem: Problem) -> None:
        self._gates = [_Gate.of(problem.scores[:, k]) for k in range(problem.exits - 1)]
        self._problem = problem
        self._cost = np.broadcast_to(problem.costs, problem.value.shape)

    def grid(self, onward: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Return mean cost and mean value at every combination of the shares sent on.

        Parameters
        ----------
        onward : sequence of K-1 arrays of shape (L_k,)
            Shares of the survivors, in [0, 1].

        Returns
        -------
        cost, value : ndarray of shape (L_0, ..., L_{K-2})
        """
        rows = self._problem.rows
        alive = np.ones((1, rows), dtype=bool)
        paid, gained = np.zeros((1, 1)), np.zeros((1, 1))
        last = len(self._gates) - 1
        for k, (gate, shares) in enumerate(zip(self._gates, onward, strict=True)):
            cut, _ = gate.cuts(alive, shares)
            here = alive[:, gate.order]
            sums = []
            for table in (self._cost, self._problem.value):
                leaving = _upto(here * table[gate.order, k], cut)
                if k == last:  # who goes on leaves at the last exit
                    going = here * table[gate.order, k + 1]
                    leaving = leaving + going.sum(axis=1, keepdims=True) - _upto(going, cut)
                sums.append(leaving)
            paid = (paid.reshape(-1, 1) + sums[0]) if k else sums[0]
            gained = (gained.reshape(-1, 1) + sums[1]) if k else sums[1]
            if k < last:
                onwards = alive[:, None, :] & (gate.place >= cut[:, :, None])
                alive = onwards.reshape(-1, rows)
        shape = tuple(len(shares) for shares in onward)
        return paid.reshape(shape) / rows, gained.reshape(shape) / rows

    def thresholds(self, onward: Floats) -> Floats:
        """Return the thresholds of one point, (K-1,), midway between who leaves and who stays."""
        alive = np.ones(self._problem.rows, dtype=bool)
        out = np.empty(len(self._gates))
        for k, (gate, share) in enumerate(zip(self._gates, onward, strict=True)):
            cut = int(gate.cuts(alive[None], np.array([share]))[0][0, 0])
            leaves, stays = alive[gate.order[:cut]], alive[gate.order[cut:]]
            above = gate.scores[:cut][leaves].min(initial=NEVER)
            below = gate.scores[cut:][stays].max(initial=ALWAYS)
            out[k] = between(float(below), float(above))
            alive &= gate.place >= cut
        return out

    def polish(self, onward: Floats, budget: float, step: float) -> Floats:
        """Improve a point within the budget by finer and finer grids around the best so far."""
        best = np.array(onward)
        for _ in range(_ROUNDS):
            axes = [
                np.unique(np.append(np.clip(b + step * np.linspace(-1, 1, _POINTS), 0, 1), b))
                for b in best
            ]
            at = best_within(*self.grid(axes), budget)
            if at is None:  # rounding: the point itself costs the budget
                break
            best = np.array([axis[i] for axis, i in zip(axes, at, strict=True)])
            step /= _SHRINK
        return best


def _upto(rows: Floats, cut: Ints) -> Floats:
    """Return the sums of each row's first `cut` numbers, (M, L)."""
    sums = np.zeros((len(rows), rows.shape[1] + 1))
    np.cumsum(rows, axis=1, out=sums[:, 1:])
    return np.take_along_axis(sums, cut, axis=1)


def best_within(cost: Floats, value: Floats, budget: float) -> tuple[int, ...] | None:
    """Return the place of the best value that costs at most the budget, the cheaper of equals.

    Examples
    --------
    >>> best_within(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.7, 0.9]), 2.5)
    (1,)
    """
    allowed = cost <= budget * (1 + 1e-12)
    if not allowed.any():
        return None
    worth = np.where(allowed, value, -np.inf)
    near = worth >= worth.max() - 1e-12  # sums of the same samples in another order
    return tuple(
        int(i) for i in np.unravel_index(np.where(near, cost, np.inf).argmin(), cost.shape)
    )
