"""Always exit k: the null baseline of one static exit, deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policyopt.methods.base import Fitted, Method, conclude, problem_of
from policyopt.runtime.errors import bad
from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.runtime.scores import Constant
from policyopt.table import Table
from policyopt.thresholds.given import solve_given


@dataclass(frozen=True)
class Always(Method):
    """Every sample leaves at the same exit.

    Parameters
    ----------
    exit : int, optional
        Which; refused where it costs more than the budget. Default: the most accurate exit
        (on the rows of the fit) that the budget allows. It does not spend the rest.

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
            raise bad("exit", "a whole number, 0 or more", self.exit, "E.g. --set exit=0.")

    def fit_path(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Choose the exit for each budget; see `Method.fit_path`."""
        if self.exit is not None and not 0 <= self.exit < table.exits:
            raise bad("exit", f"in 0..{table.exits - 1}", self.exit, "E.g. --set exit=0.")
        rule = Constant()
        problem = problem_of(rule, table)
        accuracy = problem.value.mean(axis=0)
        fitted = []
        for budget in budgets:
            problem.check_budget(budget)
            allowed = np.flatnonzero(problem.mean_costs <= budget * (1 + 1e-12))
            chosen = int(allowed[accuracy[allowed].argmax()]) if self.exit is None else self.exit
            thresholds = np.where(np.arange(table.exits - 1) < chosen, NEVER, ALWAYS)
            solution = solve_given(problem, thresholds, budget, "exit") if table.exits > 1 else None
            if solution is None:
                raise bad("cache", "with at least 2 exits", "1", "There is nothing to decide.")
            fitted.append(conclude(self, "always", rule, table, problem, solution, budget, seed))
        return fitted
