"""Null baselines, which any policy must beat: always the same exit, and an exit by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from policyopt._methods.base import Method, problem_of, range_of
from policyopt._methods.fitted import Draft, Expectation, Fitted, build_fitted
from policyopt._methods.settings import Number
from policyopt._table import Table
from policyopt._thresholds.problem import Solution
from policyopt._thresholds.quotas import geometric_shares, solve_ratio
from policyopt._thresholds.solvers import solve_given
from policyopt.runtime._errors import BudgetError, input_error, message
from policyopt.runtime._policy import ALWAYS, NEVER
from policyopt.runtime._scores import Constant
from policyopt.runtime._scores import Random as RandomRule


@dataclass(frozen=True)
class Always(Method):
    """Every sample leaves at the same exit.

    Parameters
    ----------
    exit : int, optional
        Which; refused where it costs more than the budget. Default: the most accurate exit
        (on the rows of the fit) that the budget allows. It does not spend the rest. Of a cascade only
        that model is run.
    """

    exit: int | None = None

    label = "always"
    decides = True
    validates = False  # an exit's means are what rows say, whatever others would have chosen
    allowed: ClassVar = {"exit": Number(whole=True, optional=True)}

    @property
    def fixed(self) -> bool:
        return self.exit is not None

    @property
    def limits(self) -> bool:
        """It spends what the exit costs."""
        return False

    def requires_labels(self) -> bool:
        """Only to know which exit is the most accurate."""
        return self.exit is None

    def check(self, table: Table) -> None:
        """Refuse an exit that the table does not have."""
        if self.exit is not None and not 0 <= self.exit < table.exits:
            raise input_error("exit", f"in 0..{table.exits - 1}", self.exit, "E.g. --set exit=0.")
        super().check(table)

    def pose(self, table: Table, seed: int) -> Draft:
        """Budgets are those of the bare exits."""
        return Draft(Constant(), table, range_of(table))

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        return [self._at(draft, budget) for budget in budgets]

    def _at(self, draft: Draft, budget: float) -> Draft:
        table = draft.table
        costs = np.atleast_2d(table.standalone_costs).mean(axis=0)
        most = budget + 1e-9 * costs.max()  # as `Problem.check_budget`
        allowed = np.flatnonzero(costs <= most)
        chosen = self.exit
        if chosen is None:
            chosen = int(allowed[table.quality.mean(axis=0)[allowed].argmax()])
        if costs[chosen] > most:
            said = f"one that costs at most {budget:.6g} {table.unit}"
            got = f"{chosen}, which costs {costs[chosen]:.6g}"
            raise BudgetError(message("exit", said, got, "Raise the budget, or leave earlier."))
        if table.saves:  # the exits before it need not be built
            return alone(table, chosen, budget)
        problem = problem_of(Constant(), table)
        thresholds = np.where(np.arange(table.exits - 1) < chosen, NEVER, ALWAYS)
        solution = solve_given(problem, thresholds, budget, "exit")
        return replace(draft, problem=problem, solution=solution)


def standalone(method: Method, table: Table, k: int, budget: float, seed: int) -> Fitted:
    """Return the policy that runs the table's exit k and no other; refused where that is too dear."""
    return build_fitted(method, alone(table, k, budget), budget, seed)


def alone(table: Table, k: int, budget: float) -> Draft:
    """Return the draft of a table's exit k and no other; refused where that is too dear."""
    small = table.keep_exits([table.active_exits[k]])
    problem = problem_of(Constant(), small)
    problem.check_budget(min(budget, float(problem.mean_costs[0])))
    return Draft(Constant(), small, problem, solution=Solution(np.empty(0)))


@dataclass(frozen=True)
class Random(Method):
    """Leave at exit k with a fixed probability, by a counter-based coin that looks at nothing.

    Exits follow the geometric distribution whose mean cost is the budget; the thresholds on a uniform
    coin per exit follow in closed form, ``1 - share[k] / (share[k] + ... + share[K-1])``.
    """

    spend: str = field(default="all", kw_only=True)

    label = "random"
    validates = False  # nothing is chosen by rows but the exits' shares, from costs alone

    def requires_labels(self) -> bool:
        """Nothing is learned: costs follow from the exits' outputs alone."""
        return False

    def rule(self, table: Table, seed: int) -> RandomRule:
        return RandomRule(seed)

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        problem, solved = draft.problem, []
        for budget in budgets:
            shares = geometric_shares(solve_ratio(problem.mean_costs, budget), problem.exits)
            staying = np.cumsum(shares[::-1])[::-1]
            with np.errstate(invalid="ignore"):  # no share left: nobody comes there
                leave = np.nan_to_num(shares[:-1] / staying[:-1], nan=1.0)
            costs = np.broadcast_to(problem.costs, (problem.rows, problem.exits))
            coin = float(((costs**2) @ shares - (costs @ shares) ** 2).mean())
            expected = Expectation(float(shares @ problem.mean_costs), costs @ shares, coin)
            solved.append(replace(draft, solution=Solution(1.0 - leave), expected=expected))
        return solved
