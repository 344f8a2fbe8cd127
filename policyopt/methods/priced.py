"""Methods whose one knob is the price of cost: trained once for all prices, read at any budget.

A subclass says how the coefficients of its decisions are found at every price (`train`); this file
gathers what they are trained on, finds the price whose policy costs the budget, and freezes it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from policyopt.answers.crossfit import NAMES
from policyopt.methods.backward_induction import Stopping
from policyopt.methods.base import Fitted, Method, check_exits, conclude, expectation, freeze
from policyopt.methods.evidence import Evidence, gather
from policyopt.methods.settings import check_choice, check_number
from policyopt.methods.space import Choice, Domain, Real
from policyopt.overhead import overhead
from policyopt.progress import report
from policyopt.runtime.decision import Mixture
from policyopt.runtime.linear import row_product
from policyopt.runtime.policy import ALWAYS, NEVER, first_exit
from policyopt.runtime.scores import ScoreRule
from policyopt.runtime.scores.advantage import Advantage
from policyopt.runtime.typing import Floats
from policyopt.table import Table
from policyopt.thresholds.flat import level
from policyopt.thresholds.joint import upper_hull
from policyopt.thresholds.meet import centred, meet_budget, unless_idle
from policyopt.thresholds.problem import Problem

_MOST_ROWS = 100_000  # more do not sharpen 30 coefficients per exit
_BISECTIONS = 14


@dataclass(frozen=True)
class Priced(Method):
    """One family of policies, ordered by the price of cost: leave where the score is 0 or more.

    Parameters
    ----------
    answer : str
        What exits return: ``combined`` (over exits, where it helps), ``plain``, or another name
        of `policyopt.answers`. Records are always plain.
    soft : float
        Weight of the soft success targets against 0/1 correctness, in [0, 1].
    folds : int
        Of the cross-fitting of answers.
    mix : bool
        Mix the two neighbours on the hull by a coin instead of one policy between them. Without it, a coin is
        tossed only where scores are equal, so that no threshold can meet the budget, and where it pays.
    """

    answer: str = "combined"
    soft: float = 1.0
    folds: int = 5
    mix: bool = False

    #: Name of the method.
    label: ClassVar[str]
    learned = True
    #: Groups of rows, each scored by coefficients it did not train.
    groups: ClassVar[int] = 5

    def __post_init__(self) -> None:
        check_choice("answer", self.answer, NAMES)
        check_number("soft", self.soft, most=1)
        check_number("folds", self.folds, above=1, most=100, whole=True)
        check_choice("mix", self.mix, (True, False))

    @abstractmethod
    def train(self, seen: Evidence, costs: Floats, seed: int) -> Stopping:
        """Return the coefficients of all prices, costs (K,) or (N, K) given."""

    def groups_of(self, rows: int) -> int:
        """Return the number of groups for so many rows."""
        del rows
        return self.groups

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {"answer": Choice(("combined", "plain")), "soft": Real(0.0, 1.0)}

    def rule(self, seen: Evidence, theta: Floats) -> ScoreRule:
        """Return the deployed rule of coefficients (K-1, M+1)."""
        return Advantage(seen.features, seen.center, seen.scale, theta[:, 1:], theta[:, 0])

    def scores(self, seen: Evidence, theta: Floats) -> Floats:
        """Return the scores (N, K) that the rule of coefficients (K-1, M+1) gives the rows, to the bit."""
        out = np.zeros((len(seen.table), len(seen.deployed) + 1), order="F")
        for k, basis in enumerate(seen.deployed):
            out[:, k] = row_product(basis, theta[k, None, 1:])[:, 0] + theta[k, 0]
        return out

    def _level(self, seen: Evidence, theta: Floats) -> tuple[Floats, tuple[int, ...]]:
        """Return `scores` of the coefficients of all rows, and the flat exits, whose scores are made equal.

        Thresholds are set on what is deployed, not on the folds' scores: where many rows are alike, as saturated
        ones are, coefficients that differ by a hair put all of them on the other side. That rows are scored by
        coefficients which they helped to find is for the cross-validation to measure (see `validation`).
        """
        return level(self.rule(seen, theta[-1]), self.scores(seen, theta[-1]), equal=True)

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Train once, and freeze one policy per budget; see `Method.propose`."""
        # Matrices of 30 columns: more threads of BLAS only wait for each other.
        with threadpool_limits(1, "blas"):
            return self._fit_path(table, budgets, seed)

    def _fit_path(self, table: Table, budgets: Sequence[float], seed: int) -> list[Fitted]:
        check_exits(table)
        if len(table) > _MOST_ROWS:
            rows = np.random.default_rng(seed).permutation(len(table))[:_MOST_ROWS]
            table = table.take(np.sort(rows))
        report(0, 2, "combining answers")
        groups = self.groups_of(len(table))
        seen = gather(table, self.answer, self.soft, self.folds, seed, groups)
        table = seen.table
        costs = np.asarray(table.costs + self._own(seen))
        problem = Problem(np.zeros_like(seen.success), seen.success, costs, table.unit)
        for budget in budgets:
            problem.check_budget(budget)
        report(1, 2, f"training {self.label}")
        stopping = self.train(seen, costs, seed)
        freeze_one = self._mixed if self.mix else self._single
        return [freeze_one(seen, stopping, problem, budget, seed) for budget in budgets]

    def _single(
        self, seen: Evidence, stopping: Stopping, problem: Problem, budget: float, seed: int
    ) -> Fitted:
        """Find the price whose policy costs the budget; what is left goes by one common threshold."""
        low, high = 0.0, len(stopping.prices) - 1.0  # the lowest price is the dearest policy
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            scores, _ = self._level(seen, stopping.at(middle))
            exits = first_exit(scores, np.zeros(problem.exits - 1))
            if float(problem.paid(exits).mean()) > budget:
                low = middle
            else:
                high = middle
        theta = stopping.at(high)
        scores, flat = self._level(seen, theta)
        problem = replace(problem, scores=scores, flat=flat)
        most = float(np.abs(scores).max()) + 1.0
        solution = meet_budget(
            problem, lambda t: np.full(problem.exits - 1, t), -most, most, budget, start=0.0
        )
        if flat:
            solution = unless_idle(problem, solution, budget)
        solution = centred(problem, solution)
        return conclude(
            self, self.label, self.rule(seen, theta[-1]), seen.table, problem, solution,
            budget, seed, answer=seen.answer,
        )  # fmt: skip

    def _mixed(
        self, seen: Evidence, stopping: Stopping, problem: Problem, budget: float, seed: int
    ) -> Fitted:
        """Mix the two policies next to the budget on the upper hull over all prices."""
        ends = np.zeros((problem.rows, 2), dtype=np.int64)
        ends[:, 1] = problem.exits - 1
        every, levels, flats = [], [], []
        for i in range(len(stopping.prices)):
            scores, flat = self._level(seen, stopping.theta[..., i])
            level = np.zeros(problem.exits - 1)
            every.append(first_exit(scores, level))
            levels.append(replace(problem, scores=scores).settled(level) if flat else level)
            flats.append(flat)
        exits = np.concatenate([np.stack(every, axis=1), ends], axis=1)
        outcomes = [(problem.paid(column), problem.gained(column)) for column in exits.T]
        points = np.array([[paid.mean(), gained.mean()] for paid, gained in outcomes])
        corners = upper_hull(points)
        along = points[corners, 0]
        dearer = int(np.clip(np.searchsorted(along, budget), 1, len(corners) - 1))
        gap = along[dearer] - along[dearer - 1]
        share = float(np.clip((budget - along[dearer - 1]) / gap, 0, 1)) if gap > 0 else 0.0
        chosen = corners[dearer - 1], corners[dearer]
        (rule, thresholds), (other, other_thresholds) = (
            self._at(seen, stopping, corner, levels) for corner in chosen
        )
        flat = sorted({k for corner in chosen for k in flats[min(corner, len(flats) - 1)]})
        pair = [
            (weight, *outcomes[corners[i]])
            for weight, i in ((1 - share, dearer - 1), (share, dearer))
        ]
        mixture = Mixture(other_thresholds, share, int(seed), other)
        return freeze(
            self, self.label, rule, thresholds, mixture, seen.table, budget, seed,
            expectation(pair), sum(w * float(gained.mean()) for w, _, gained in pair), seen.answer, flat,
        )  # fmt: skip

    def _at(
        self, seen: Evidence, stopping: Stopping, corner: int, levels: list[Floats]
    ) -> tuple[ScoreRule, Floats]:
        """Return the rule and thresholds of a corner: a price, or one of the two ends."""
        last = len(stopping.prices)
        rule = self.rule(seen, stopping.theta[-1, ..., min(corner, last - 1)])
        if corner < last:
            return rule, levels[corner]
        return rule, np.full(len(levels[0]), ALWAYS if corner == last else NEVER)

    def _own(self, seen: Evidence) -> Floats:
        exits, size = len(seen.columns) + 1, seen.columns[0].shape[1]
        blank = self.rule(seen, np.zeros((exits - 1, size + 1)))
        rules = (blank, blank) if self.mix else (blank,)
        return overhead(seen.answer, rules, exits, seen.table.classes, seen.table.rate)
