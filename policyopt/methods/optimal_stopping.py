"""Optimal stopping: leave where the estimated advantage of stopping over continuing is at least 0.

One regression serves all budgets: the price of cost is the knob. What is regressed, and why so,
stands in `backward_induction`; what the regression sees, in `policyopt.runtime.features`.

- Success of an exit's answer is not its 0/1 correctness but the probability that the calibrated
  ensemble of *all* exits gives to that answer. Later exits are known when fitting though not when
  deciding; their word replaces a coin's variance p(1-p) by a much smaller one, and needs no label.
- Answers are combined over exits where that helps on held-out rows (`policyopt.answers`).
- It is cross-fitted: a row's answers, success and scores, and so the thresholds, come from fits that
  it took no part in. (Of all rows are only the features' means and spreads, and the K yes-or-noes
  that say where answers are combined.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from policyopt.answers.crossfit import NAMES
from policyopt.methods.backward_induction import Stopping, backward_induction, scores_of
from policyopt.methods.base import Fitted, Method, conclude, expectation, freeze
from policyopt.methods.evidence import Evidence, gather
from policyopt.methods.settings import check_choice, check_number
from policyopt.methods.space import Choice, Domain, Real
from policyopt.overhead import overhead
from policyopt.runtime.decision import Mixture
from policyopt.runtime.errors import bad
from policyopt.runtime.policy import first_exit
from policyopt.runtime.scores import Advantage
from policyopt.table import Table
from policyopt.telling import tell
from policyopt.thresholds.joint import upper_hull
from policyopt.thresholds.meet import meet_budget
from policyopt.thresholds.problem import Problem

Floats = npt.NDArray[np.float64]
_MOST_ROWS = 100_000  # more do not sharpen 30 coefficients per exit
_BISECTIONS = 14


@dataclass(frozen=True)
class OptimalStopping(Method):
    """Backward induction on the advantage of stopping, one family of policies for all budgets.

    Parameters
    ----------
    answer : str
        What exits return: ``combined`` (over exits, where it helps), ``plain``, or another name
        of `policyopt.answers`. Records are always plain.
    soft : float
        Weight of the soft success targets against 0/1 correctness, in [0, 1].
    penalty : float
        Of the ridge regression, in rows of evidence that an exit's advantage is constant.
    folds : int
        Of the cross-fitting of answers.
    mix : bool
        Mix the two neighbours on the hull by a coin instead of one policy between them.

    Examples
    --------
    >>> OptimalStopping(answer="plain")
    OptimalStopping(answer='plain', soft=1.0, penalty=300.0, folds=5, mix=False)
    """

    answer: str = "combined"
    soft: float = 1.0
    penalty: float = 300.0
    folds: int = 5
    mix: bool = False

    def __post_init__(self) -> None:
        if self.answer not in NAMES:
            raise bad("answer", f"one of {', '.join(NAMES)}", self.answer, "E.g. answer=combined.")
        check_number("soft", self.soft, most=1)
        check_number("penalty", self.penalty, above=0)
        check_number("folds", self.folds, above=1, most=100, whole=True)
        check_choice("mix", self.mix, (True, False))

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {
            "answer": Choice(("combined", "plain")),
            "soft": Real(0.0, 1.0),
            "penalty": Real(10.0, 10_000.0, log=True),
        }

    def fit_path(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Fit once, and freeze one policy per budget; see `Method.fit_path`."""
        # Matrices of 30 columns: more threads of BLAS only wait for each other.
        with threadpool_limits(1, "blas"):
            return self._fit_path(table, budgets, seed)

    def _fit_path(self, table: Table, budgets: Sequence[float], seed: int) -> list[Fitted]:
        if table.exits < 2:
            raise bad("exits", "2 or more: with one there is nothing to decide", table.exits, "")
        if len(table) > _MOST_ROWS:
            rows = np.random.default_rng(seed).permutation(len(table))[:_MOST_ROWS]
            table = table.take(np.sort(rows))
        tell(0, 2, "combining answers")
        seen = gather(table, self.answer, self.soft, self.folds, seed)
        table = seen.table
        costs = np.asarray(table.costs + self._own(seen))
        problem = Problem(np.zeros_like(seen.success), seen.success, costs, table.unit)
        for budget in budgets:
            problem.check_budget(budget)
        tell(1, 2, "backward induction")
        stopping = backward_induction(
            seen.columns, seen.doubt, seen.success, costs, seen.fold, self.penalty
        )
        freeze_one = self._mixed if self.mix else self._single
        return [freeze_one(seen, stopping, problem, budget, seed) for budget in budgets]

    def _single(
        self, seen: Evidence, stopping: Stopping, problem: Problem, budget: float, seed: int
    ) -> Fitted:
        """Find the price whose policy costs the budget; what is left goes by one common threshold."""
        low, high = 0.0, len(stopping.prices) - 1.0  # the lowest price is the dearest policy
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            scores = scores_of(stopping.at(middle), seen.columns, seen.fold)
            exits = first_exit(scores, np.zeros(problem.exits - 1))
            if float(problem.paid(exits).mean()) > budget:
                low = middle
            else:
                high = middle
        theta = stopping.at(high)
        scores = scores_of(theta, seen.columns, seen.fold)
        problem = replace(problem, scores=scores)
        most = float(np.abs(scores).max()) + 1.0
        solution = meet_budget(
            problem, lambda t: np.full(problem.exits - 1, t), -most, most, budget, start=0.0
        )
        return conclude(
            self, "optimal_stopping", self._rule(seen, theta), seen.table, problem, solution,
            budget, seed, answer=seen.answer,
        )  # fmt: skip

    def _mixed(
        self, seen: Evidence, stopping: Stopping, problem: Problem, budget: float, seed: int
    ) -> Fitted:
        """Mix the two policies next to the budget on the upper hull over all prices."""
        ends = np.zeros((problem.rows, 2), dtype=np.int64)
        ends[:, 1] = problem.exits - 1
        exits = np.concatenate([stopping.exits.astype(np.int64), ends], axis=1)
        outcomes = [(problem.paid(column), problem.gained(column)) for column in exits.T]
        points = np.array([[paid.mean(), gained.mean()] for paid, gained in outcomes])
        corners = upper_hull(points)
        along = points[corners, 0]
        dearer = int(np.clip(np.searchsorted(along, budget), 1, len(corners) - 1))
        gap = along[dearer] - along[dearer - 1]
        share = float(np.clip((budget - along[dearer - 1]) / gap, 0, 1)) if gap > 0 else 0.0
        (rule, thresholds), (other, other_thresholds) = (
            self._at(seen, stopping, corners[i], problem.exits) for i in (dearer - 1, dearer)
        )
        pair = [
            (weight, *outcomes[corners[i]])
            for weight, i in ((1 - share, dearer - 1), (share, dearer))
        ]
        mixture = Mixture(other_thresholds, share, int(seed), other)
        return freeze(
            self, "optimal_stopping", rule, thresholds, mixture, seen.table, budget, seed,
            expectation(pair), sum(w * float(gained.mean()) for w, _, gained in pair), seen.answer,
        )  # fmt: skip

    def _at(
        self, seen: Evidence, stopping: Stopping, corner: int, exits: int
    ) -> tuple[Advantage, Floats]:
        """Return the rule and thresholds of a corner: a price, or one of the two ends."""
        last = len(stopping.prices)
        rule = self._rule(seen, stopping.theta[..., min(corner, last - 1)])
        level = {last: -1e30, last + 1: 1e30}.get(corner, 0.0)
        return rule, np.full(exits - 1, level)

    def _rule(self, seen: Evidence, theta: Floats) -> Advantage:
        return Advantage(seen.features, seen.center, seen.scale, theta[-1, :, 1:], theta[-1, :, 0])

    def _own(self, seen: Evidence) -> Floats:
        exits, size = len(seen.columns) + 1, seen.columns[0].shape[1]
        blank = self._rule(seen, np.zeros((1, exits - 1, size + 1)))
        rules = (blank, blank) if self.mix else (blank,)
        return overhead(seen.answer, rules, exits, seen.table.classes, seen.table.rate)
