"""Patience: Zhou et al., PABEE, NeurIPS 2020, section 3.2: stop after p exits in a row agree.

Only K+1 policies exist (p = 0: leave at once; p = K: never early), so their costs are discrete:
between two of them the budget is met by mixing the two patiences with a coin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policyopt._methods.base import Method
from policyopt._table import Table
from policyopt._thresholds.problem import Problem, Solution
from policyopt._thresholds.solvers import solve_given
from policyopt.runtime._errors import input_error
from policyopt.runtime._scores import Patience as PatienceRule


@dataclass(frozen=True)
class Patience(Method):
    """The counter rule of PABEE.

    Parameters
    ----------
    patience : int, optional
        A fixed p >= 0; refused where it costs more than the budget. Default: the two
        neighbouring patiences that meet the budget, mixed.
    """

    patience: int | None = None

    label = "patience"

    def __post_init__(self) -> None:
        whole = isinstance(self.patience, int) and not isinstance(self.patience, bool)
        if self.patience is not None and not (whole and self.patience >= 0):
            step = "E.g. --set patience=2."
            raise input_error("patience", "a whole number, 0 or more", self.patience, step)

    def labelled(self) -> bool:
        """Nothing is learned: costs follow from the exits' outputs alone."""
        return False

    @property
    def validates(self) -> bool:
        """A patience that the user gives is as good on new rows as here."""
        return self.patience is None

    def rule(self, table: Table, seed: int) -> PatienceRule:
        """Return the counter."""
        return PatienceRule()

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        """Return the patience, or a mixture of two, for each budget."""
        if self.patience is not None:
            given = [self.patience - 0.5]
            return [solve_given(problem, given, budget, "patience") for budget in budgets]
        # The counter is whole: a threshold midway leaves room for rounding.
        exits = problem.exits
        sets = [np.full(exits - 1, p - 0.5) for p in range(exits + 1)]
        costs = np.array([problem.cost(t) for t in sets])
        solutions = []
        for budget in budgets:
            low = int(np.clip(np.searchsorted(costs, budget, side="right") - 1, 0, exits))
            high = min(low + 1, exits)
            gap = costs[high] - costs[low]
            share = float(np.clip((budget - costs[low]) / gap, 0, 1)) if gap > 0 else 0.0
            other = sets[high] if share > 0 else None
            solutions.append(Solution(sets[low], other, share))
        return solutions
