"""Methods whose one knob is the price of cost: trained once for all prices, read at any budget.

A subclass of `LagrangianMethod` says how the coefficients of its decisions are found at every price (`train`);
this file gathers what they are trained on, finds the price whose policy costs the budget, and meets it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from policyopt._answers.crossfit import NAMES
from policyopt._methods.base import ANSWERS, Method, own_costs, subsample
from policyopt._methods.exit_batch import MOST_ROWS, StoppingData, build_stopping_data
from policyopt._methods.fitted import Draft, Fitted, expectation
from policyopt._methods.settings import FOLDS, YES_OR_NO, Number, Real
from policyopt._progress import report
from policyopt._table import Table
from policyopt._thresholds.budget_search import bisect, centred, common_shift, unless_idle
from policyopt._thresholds.degenerate_scores import collapse
from policyopt._thresholds.joint import upper_hull
from policyopt._thresholds.problem import Problem, Solution
from policyopt.runtime._arithmetic import row_product
from policyopt.runtime._policy import ALWAYS, NEVER, first_exit
from policyopt.runtime._scores import Advantage, ScoreRule
from policyopt.runtime._typing import Floats

_BISECTIONS = 14


@dataclass(frozen=True, eq=False)
class Stopping:
    """Coefficients of the advantage of stopping, for every price."""

    prices: Floats  # (L,), ascending, in value per unit of cost
    #: Offset and weights, (G+1, K-1, M+1, L): one set per fold (trained on the others), and last that of all rows.
    theta: Floats

    def at(self, place: float) -> Floats:
        """Return the coefficients at a place between the prices, (G+1, K-1, M+1)."""
        low = int(np.clip(np.floor(place), 0, len(self.prices) - 2))
        part = place - low
        return (1 - part) * self.theta[..., low] + part * self.theta[..., low + 1]


def per_cost(prices: Floats, costs: Floats) -> Floats:
    """Return prices of the whole cost range in value per unit of costs, (N, K) or (K,)."""
    span = float(np.ptp(np.atleast_2d(costs).mean(axis=0)))
    return prices / (span if span > 0 else 1.0)


@dataclass(frozen=True)
class StoppingMethod(Method):
    """Learns when to stop from `StoppingData`, for all prices of cost at once.

    Parameters
    ----------
    answer : str
        What exits return: ``combined`` (over exits, where it helps), ``plain``, or another name
        of `policyopt._answers`. Records are always plain.
    soft : float
        Weight of the soft success targets against 0/1 correctness, in [0, 1].
    folds : int
        Of the cross-fitting of answers.
    """

    answer: str = "combined"
    soft: float = 1.0
    folds: int = 5

    allowed: ClassVar = {"answer": NAMES, "soft": Number(most=1), "folds": FOLDS}
    tuned: ClassVar = {"answer": ANSWERS}
    learned = True
    decides = True

    @abstractmethod
    def gather(self, table: Table, seed: int) -> StoppingData:
        """Return what is trained on."""

    @abstractmethod
    def blank(self, data: StoppingData) -> tuple[ScoreRule, ...]:
        """Return rules of the shapes that are deployed: their costs are known before any training."""

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Train once, and meet each budget; see `Method.propose`."""
        from threadpoolctl import threadpool_limits

        # Matrices of some tens of columns: more threads of BLAS only wait for each other.
        with threadpool_limits(1, "blas"):
            return super().propose(table, budgets, seed)

    def pose(self, table: Table, seed: int) -> Draft:
        """Gather what is trained on; costs are known before, scores are not."""
        data = self.gather(table, seed)
        table, rules = data.table, self.blank(data)
        costs = np.asarray(table.costs + own_costs(table, *rules, answer=data.answer))
        problem = Problem(np.zeros_like(data.success), data.success, costs, table.unit)
        return Draft(rules[0], table, problem, data.answer, data=data)


@dataclass(frozen=True)
class LagrangianMethod(StoppingMethod):
    """One family of policies, ordered by the price of cost: leave where the score is 0 or more.

    Parameters
    ----------
    mix : bool
        Mix the two neighbours on the hull by a coin instead of one policy between them. Without it, a coin is
        tossed only where scores are equal, so that no threshold can meet the budget, and where it pays.
    """

    mix: bool = False

    allowed: ClassVar = {"mix": YES_OR_NO}
    tuned: ClassVar = {"soft": Real(0.0, 1.0)}
    #: Groups of rows, each scored by coefficients it did not train.
    groups: ClassVar[int] = 5

    @abstractmethod
    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        """Return the coefficients of all prices, costs (K,) or (N, K) given."""

    def groups_of(self, rows: int) -> int:
        """Return the number of groups for so many rows."""
        return self.groups

    def rule_at(self, data: StoppingData, theta: Floats) -> ScoreRule:
        """Return the deployed rule of coefficients (K-1, M+1)."""
        return Advantage(data.features, data.center, data.scale, theta[:, 1:], theta[:, 0])

    def scores_at(self, data: StoppingData, theta: Floats) -> Floats:
        """Return the scores (N, K) that the rule of coefficients (K-1, M+1) gives the rows, to the bit."""
        out = np.zeros((len(data.table), len(data.deployed) + 1), order="F")
        for k, basis in enumerate(data.deployed):
            out[:, k] = row_product(basis, theta[k, None, 1:])[:, 0] + theta[k, 0]
        return out

    def _collapsed(self, data: StoppingData, theta: Floats) -> tuple[Floats, tuple[int, ...]]:
        """Return `scores_at` the coefficients of all rows, and the flat exits, whose scores are made equal.

        Thresholds are set on what is deployed, not on the folds' scores: where many rows are alike, as saturated
        ones are, coefficients that differ by a hair put all of them on the other side. That rows are scored by
        coefficients which they helped to find is for the cross-validation to measure (see `validation`).
        """
        return collapse(self.rule_at(data, theta[-1]), self.scores_at(data, theta[-1]), equal=True)

    def gather(self, table: Table, seed: int) -> StoppingData:
        table = subsample(table, MOST_ROWS, seed)  # more do not sharpen 30 coefficients per exit
        report(0, 2, "combining answers")
        groups = self.groups_of(len(table))
        return build_stopping_data(table, self.answer, self.soft, self.folds, seed, groups)

    def blank(self, data: StoppingData) -> tuple[ScoreRule, ...]:
        """Return rules of zeros, two where they are mixed."""
        zeros = np.zeros((len(data.columns), data.columns[0].shape[1] + 1))
        return (self.rule_at(data, zeros),) * (1 + self.mix)

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        report(1, 2, f"training {self.label}")
        stopping = self.train(draft.data, draft.problem.costs, seed)
        read = self._mixed if self.mix else self._single
        return [read(draft, stopping, budget) for budget in budgets]

    def _single(self, draft: Draft, stopping: Stopping, budget: float) -> Draft:
        """Find the price whose policy costs the budget; what is left goes by one common threshold."""
        data, problem = draft.data, draft.problem

        def too_dear(place: float) -> bool:
            scores, _ = self._collapsed(data, stopping.at(place))
            exits = first_exit(scores, np.zeros(problem.exits - 1))
            return float(problem.paid(exits).mean()) > budget

        # The lowest price is the dearest policy.
        _, place = bisect(too_dear, 0.0, len(stopping.prices) - 1.0, _BISECTIONS)
        theta = stopping.at(place)
        scores, flat = self._collapsed(data, theta)
        problem = replace(problem, scores=scores, flat=flat)
        solution = common_shift(problem, budget)
        if flat:
            solution = unless_idle(problem, solution, budget)
        solution = centred(problem, solution)
        rule = self.rule_at(data, theta[-1])
        return replace(draft, rule=rule, problem=problem, solution=solution)

    def _mixed(self, draft: Draft, stopping: Stopping, budget: float) -> Draft:
        """Mix the two policies next to the budget on the upper hull over all prices."""
        data, problem, last = draft.data, draft.problem, len(stopping.prices)
        sides = []  # of each price, and of leaving at once and never: rule, thresholds, exits, flat exits
        for i in range(last):
            scores, flat = self._collapsed(data, stopping.theta[..., i])
            zero = np.zeros(problem.exits - 1)
            level = replace(problem, scores=scores).settled(zero) if flat else zero
            rule = self.rule_at(data, stopping.theta[-1, ..., i])
            sides.append((rule, level, first_exit(scores, zero), flat))
        for end, k in ((ALWAYS, 0), (NEVER, problem.exits - 1)):
            all_alike = np.full(problem.exits - 1, end), np.full(problem.rows, k)
            sides.append((sides[last - 1][0], *all_alike, sides[last - 1][3]))
        outcomes = [(problem.paid(exits), problem.gained(exits)) for _, _, exits, _ in sides]
        points = np.array([[paid.mean(), gained.mean()] for paid, gained in outcomes])
        corners = upper_hull(points)
        along = points[corners, 0]
        dearer = int(np.clip(np.searchsorted(along, budget), 1, len(corners) - 1))
        gap = along[dearer] - along[dearer - 1]
        share = float(np.clip((budget - along[dearer - 1]) / gap, 0, 1)) if gap > 0 else 0.0
        one, other = corners[dearer - 1], corners[dearer]
        pair = [(1 - share, *outcomes[one]), (share, *outcomes[other])]
        flat = tuple(sorted({*sides[one][3], *sides[other][3]}))
        return replace(
            draft,
            rule=sides[one][0],
            other=sides[other][0],
            problem=replace(problem, flat=flat),
            solution=Solution(sides[one][1], sides[other][1], share),
            expected=expectation(pair),
            accuracy=sum(weight * float(gained.mean()) for weight, _, gained in pair),
        )
