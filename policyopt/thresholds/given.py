"""Thresholds that the user gives: replayed, and refused where they cost more than the budget."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policyopt.runtime.errors import BudgetError, input_error, message
from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.thresholds.problem import Problem, Solution


def solve_given(
    problem: Problem,
    thresholds: npt.ArrayLike,
    budget: float | None = None,
    setting: str = "thresholds",
) -> Solution:
    """Check given thresholds against the rows at hand.

    Parameters
    ----------
    problem : Problem
    thresholds : array of shape (K-1,), or one number for all exits
        +inf means never, -inf always.
    budget : float, optional
        Refused where the thresholds cost more on average.
    setting : str
        What the user set them by; named in the error.

    Returns
    -------
    Solution

    Raises
    ------
    InputError
        Wrong number of thresholds, or NaN.
    BudgetError
        They cost more than the budget.

    Examples
    --------
    >>> problem = Problem(np.array([[0.9, 1], [0.2, 1]]), np.ones((2, 2)), np.array([1.0, 3.0]))
    >>> solve_given(problem, [0.5]).thresholds
    array([0.5])
    """
    array = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    needed = problem.exits - 1
    if array.shape == (1,):
        array = np.repeat(array, needed)
    if array.shape != (needed,) or np.isnan(array).any():
        raise input_error(
            "thresholds", f"{needed} numbers, one per exit but the last (or one for all)",
            np.asarray(thresholds).tolist(), "The last exit always stops.",
        )  # fmt: skip
    array = np.clip(array, ALWAYS, NEVER)
    if budget is not None:
        problem.check_budget(budget)
    cost = problem.cost(array)
    if budget is not None and cost > budget * (1 + 1e-9):
        raise BudgetError(
            message(
                setting, f"such that the mean cost is at most {budget:.6g} {problem.unit}",
                f"a mean cost of {cost:.6g}", "Lower it, raise the budget, or leave one of the two out.",
            )
        )  # fmt: skip
    return Solution(array)
