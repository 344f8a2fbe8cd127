"""Patience: Zhou et al., PABEE, NeurIPS 2020, section 3.2: stop after p exits in a row agree.

Only K+1 policies exist (p = 0: leave at once; p = K: never early), so their costs are discrete:
between two of them the budget is met by mixing the two patiences with a coin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policyopt.methods.base import Fitted, Method, conclude, problem_of
from policyopt.runtime.errors import input_error
from policyopt.runtime.scores import Patience as PatienceRule
from policyopt.table import Table
from policyopt.thresholds.given import solve_given
from policyopt.thresholds.problem import Solution


@dataclass(frozen=True)
class Patience(Method):
    """The counter rule of PABEE.

    Parameters
    ----------
    patience : int, optional
        A fixed p >= 0; refused where it costs more than the budget. Default: the two
        neighbouring patiences that meet the budget, mixed.

    Examples
    --------
    >>> Patience(2)
    Patience(patience=2)
    """

    patience: int | None = None

    def __post_init__(self) -> None:
        if self.patience is not None and (
            isinstance(self.patience, bool)
            or not isinstance(self.patience, int)
            or self.patience < 0
        ):
            raise input_error(
                "patience", "a whole number, 0 or more", self.patience, "E.g. --set patience=2."
            )

    def labelled(self) -> bool:
        """Nothing is learned: costs follow from the exits' outputs alone."""
        return False

    @property
    def validates(self) -> bool:
        """A patience that the user gives is as good on new rows as here."""
        return self.patience is None

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Choose the patience, or a mixture of two, for each budget; see `Method.propose`."""
        rule = PatienceRule()
        problem = problem_of(rule, table, labelled=False)
        # The counter is whole: a threshold midway leaves room for rounding.
        sets = [np.full(table.exits - 1, p - 0.5) for p in range(table.exits + 1)]
        costs = np.array([problem.cost(t) for t in sets])
        fitted = []
        for budget in budgets:
            problem.check_budget(budget)
            if self.patience is not None:
                solution = solve_given(problem, [self.patience - 0.5], budget, "patience")
            else:
                low = int(np.clip(np.searchsorted(costs, budget, side="right") - 1, 0, table.exits))
                high = min(low + 1, table.exits)
                gap = costs[high] - costs[low]
                share = float(np.clip((budget - costs[low]) / gap, 0, 1)) if gap > 0 else 0.0
                solution = (
                    Solution(sets[low], sets[high], share) if share > 0 else Solution(sets[low])
                )
            fitted.append(conclude(self, "patience", rule, table, problem, solution, budget, seed))
        return fitted
