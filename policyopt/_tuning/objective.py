"""What tuning maximises: a cross-validated frontier, always at equal realised cost.

Each fold's policies are fitted on the other folds and replayed on it. Two settings seldom cost the
same there, even for the same budget, and accuracy can always be bought. So neither objective reads
off the accuracy of a policy: both read the polyline of accuracy over *realised* cost through the
fold's policies and the two ends that every method has, all leaving at exit 0 and all running every
exit. A point on it is a mixture of its two neighbours, itself a policy. A setting that overspends
moves its points along the polyline and gains nothing.

- ``area``: mean height of the polyline between the two ends.
- ``accuracy``: its height at the budget. Three policies are fitted, for the budget and a little to
  either side, so that a realised cost beside the budget is corrected along the method's own slope.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from policyopt._costs import Budget, parse_budget, parse_budgets
from policyopt._methods.base import Method, fit_where_possible
from policyopt._replay import replay
from policyopt._table import Table
from policyopt._thresholds.problem import Problem
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Floats, Ints

OBJECTIVES = ("area", "accuracy")
#: How far the neighbours of a budget stand from it, as a share of the way from exit 0 to the last.
#: Some times the sampling error of a fold's mean cost, so that they bracket the budget.
_BESIDE = 0.1


@dataclass(frozen=True)
class Objective:
    """What one fold is scored by; higher is better, in [0, 1].

    >>> Objective("accuracy", budget="50%").wanted(np.array([0.0, 10.0]))
    [4.0, 5.0, 6.0]
    """

    name: str = "area"
    budget: Budget | None = None  # for accuracy: 2.5 in the unit, or "40%" of the full model
    budgets: int | str | Sequence[Budget] = 5  # for area: where the frontier is fitted

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            allowed = f"one of {', '.join(OBJECTIVES)}"
            raise input_error("objective", allowed, self.name, "Choose one.")
        if (self.name == "accuracy") != (self.budget is not None):
            allowed = "given with the objective accuracy, and only with it"
            got = f"{self.budget or 'none'} with {self.name}"
            raise input_error("budget", allowed, got, "E.g. --objective accuracy --budget 40%.")

    def wanted(self, costs: Floats) -> list[float]:
        """Return the budgets to fit, in the unit of `costs` (K,), ascending."""
        if self.budget is None:
            return sorted(set(parse_budgets(self.budgets, costs)))
        target, low, high = parse_budget(self.budget, costs), float(costs[0]), float(costs[-1])
        beside = _BESIDE * (high - low)
        # Near an end, half-way to it: the end itself is on the polyline anyway.
        lower = max(target - beside, (target + low) / 2)
        upper = min(target + beside, (target + high) / 2)
        return sorted({lower, target, upper})

    def check(self, table: Table) -> None:
        """Refuse budgets that no policy can meet on all rows (`BudgetError`), before any fit."""
        nothing, costs = np.zeros((1, table.exits)), table.mean_costs
        whole = Problem(nothing, nothing, costs, table.unit)
        if self.budget is not None:
            whole.check_budget(parse_budget(self.budget, costs))
        for budget in self.wanted(costs):
            whole.check_budget(budget)


@dataclass(frozen=True)
class FoldScore:
    """The objective on one fold, and what the policy for the budget cost there (None for area)."""

    value: float
    realised_cost: float | None


def fold_rows(rows: int, folds: int, seed: int) -> list[Ints]:
    """Return the rows of each fold, drawn by a seed, ascending within a fold.

    >>> [fold.tolist() for fold in fold_rows(5, 2, seed=0)]
    [[2, 3, 4], [0, 1]]
    """
    if not 2 <= folds <= rows // 2:
        raise input_error("folds", f"from 2 to half the {rows} fit rows", folds, "E.g. --folds 5.")
    order = np.random.default_rng(seed).permutation(rows)
    # Ascending, so that a pass over class outputs on disk reads each block once.
    return [np.sort(part) for part in np.array_split(order, folds)]


def score_folds(
    method: Method, table: Table, objective: Objective, folds: int, seed: int
) -> Iterator[FoldScore]:
    """Yield the objective on each fold, the method fitted on the others; all settings meet the same."""
    parts = fold_rows(len(table), folds, seed)
    for i, part in enumerate(parts):
        rest = np.sort(np.concatenate(parts[:i] + parts[i + 1 :]))
        yield score_fold(method, table.take(rest), table.take(part), objective, seed)


def score_fold(
    method: Method, train: Table, held: Table, objective: Objective, seed: int
) -> FoldScore:
    """Fit a method on `train`, replay it on `held` and return the objective there."""
    budgets = objective.wanted(train.mean_costs)
    fitted = fit_where_possible(method, train, budgets, seed, validate=False)
    target = None
    if objective.budget is not None:
        target = parse_budget(objective.budget, train.mean_costs)
        if fitted[budgets.index(target)] is None:
            method.propose(train, [target], seed)  # says what it cannot meet
    # Of the others, those that the method can meet: its own arithmetic may be too much for some.
    budgets = [b for b, one in zip(budgets, fitted, strict=True) if one is not None]
    outcomes = [replay(one.policy, held) for one in fitted if one is not None]
    realised = [float(outcome.cost.mean()) for outcome in outcomes]
    found = [float(outcome.correct.mean()) for outcome in outcomes]
    low, high = held.mean_costs[[0, -1]].tolist()
    first, last = held.correct.mean(axis=0)[[0, -1]].tolist()
    cost, accuracy = np.array([low, *realised, high]), np.array([first, *found, last])
    if target is None:
        return FoldScore(mean_height(cost, accuracy, low, high), None)
    order = np.argsort(cost, kind="stable")
    height = float(np.interp(target, cost[order], accuracy[order]))
    return FoldScore(height, realised[budgets.index(target)])


def mean_height(cost: Floats, accuracy: Floats, low: float, high: float) -> float:
    """Return the mean over cost, from `low` to `high`, of the polyline through some points (P,).

    Raw points, not their hull: a policy below the line between its neighbours counts against its
    setting. Points beyond `high` (a dear score's own cost) count as far as `high` only.
    """
    order = np.argsort(cost, kind="stable")
    grid = np.union1d(np.clip(cost, low, high), [low, high])
    height = np.interp(grid, cost[order], accuracy[order])
    if high <= low:
        return float(height.mean())
    return float((height[1:] + height[:-1]) / 2 @ np.diff(grid)) / (high - low)
