"""Always exit k: the null baseline of one static exit, deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policyopt.methods.base import (
    Fitted,
    Method,
    check_budgets,
    check_exits,
    conclude,
    problem_of,
)
from policyopt.runtime.errors import BudgetError, input_error, message
from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.runtime.scores import Constant
from policyopt.table import Table
from policyopt.thresholds.given import solve_given
from policyopt.thresholds.problem import Solution


@dataclass(frozen=True)
class Always(Method):
    """Every sample leaves at the same exit.

    Parameters
    ----------
    exit : int, optional
        Which; refused where it costs more than the budget. Default: the most accurate exit
        (on the rows of the fit) that the budget allows. It does not spend the rest. Of a cascade only
        that model is run.

    Examples
    --------
    >>> Always(exit=1)
    Always(exit=1)
    """

    exit: int | None = None

    def __post_init__(self) -> None:
        if self.exit is not None and (
            isinstance(self.exit, bool) or not isinstance(self.exit, int)
        ):
            raise input_error("exit", "a whole number, 0 or more", self.exit, "E.g. --set exit=0.")

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Choose the exit for each budget; see `Method.propose`."""
        if self.exit is not None and not 0 <= self.exit < table.exits:
            raise input_error("exit", f"in 0..{table.exits - 1}", self.exit, "E.g. --set exit=0.")
        check_exits(table)
        check_budgets(table, budgets)
        accuracy = table.correct.mean(axis=0)
        costs = np.atleast_2d(table.alone).mean(axis=0)
        fitted = []
        for budget in budgets:
            allowed = np.flatnonzero(costs <= budget * (1 + 1e-9))
            chosen = int(allowed[accuracy[allowed].argmax()]) if self.exit is None else self.exit
            if costs[chosen] > budget * (1 + 1e-9):
                raise BudgetError(
                    message(
                        "exit", f"one that costs at most {budget:.6g} {table.unit}",
                        f"{chosen}, which costs {costs[chosen]:.6g}",
                        "Choose an earlier exit, or raise the budget.",
                    )
                )  # fmt: skip
            if table.cascade:  # the models before it need not be asked
                fitted.append(alone(self, table, chosen, budget, seed))
                continue
            problem = problem_of(Constant(), table)
            thresholds = np.where(np.arange(table.exits - 1) < chosen, NEVER, ALWAYS)
            solution = solve_given(problem, thresholds, budget, "exit")
            fitted.append(
                conclude(self, "always", Constant(), table, problem, solution, budget, seed)
            )
        return fitted


def alone(method: Method, table: Table, k: int, budget: float, seed: int) -> Fitted:
    """Return the policy that runs the table's exit k and no other; refused where that is too dear."""
    small = table.keep_exits([table.path[k]])
    problem = problem_of(Constant(), small)
    problem.check_budget(min(budget, float(problem.mean_costs[0])))
    return conclude(
        method, "always", Constant(), small, problem, Solution(np.empty(0)), budget, seed
    )
