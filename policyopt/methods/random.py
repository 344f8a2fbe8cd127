"""Random exits: the null baseline that keeps the budget and looks at nothing.

Exits follow the geometric distribution whose mean cost is the budget; the thresholds on a uniform
coin per exit follow in closed form, ``1 - share[k] / (share[k] + ... + share[K-1])``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policyopt.methods.base import Expectation, Fitted, Method, conclude, problem_of
from policyopt.runtime.scores import Random as RandomRule
from policyopt.table import Table
from policyopt.thresholds.geometric import geometric_shares, solve_ratio
from policyopt.thresholds.problem import Solution


@dataclass(frozen=True)
class Random(Method):
    """Leave at exit k with a fixed probability, by a counter-based coin.

    Examples
    --------
    >>> Random()
    Random()
    """

    def labelled(self) -> bool:
        """Nothing is learned: costs follow from the exits' outputs alone."""
        return False

    @property
    def validates(self) -> bool:
        """Nothing is chosen by rows but the exits' shares, from costs alone."""
        return False

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Solve the exit distribution for each budget; see `Method.propose`."""
        rule = RandomRule(seed)
        problem = problem_of(rule, table, labelled=False)
        fitted = []
        for budget in budgets:
            problem.check_budget(budget)
            shares = geometric_shares(solve_ratio(problem.mean_costs, budget), table.exits)
            staying = np.cumsum(shares[::-1])[::-1]
            with np.errstate(invalid="ignore"):  # no share left: nobody comes there
                leave = np.nan_to_num(shares[:-1] / staying[:-1], nan=1.0)
            mean = float(shares @ problem.mean_costs)
            costs = np.broadcast_to(problem.costs, (problem.rows, problem.exits))
            coin = float(((costs**2) @ shares - (costs @ shares) ** 2).mean())
            expected = Expectation(mean, costs @ shares, coin)
            solution = Solution(1.0 - leave)
            fitted.append(
                conclude(self, "random", rule, table, problem, solution, budget, seed, expected)
            )
        return fitted
