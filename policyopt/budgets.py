"""Budgets as a user writes them: in the cost's unit, as a share of the full model, or as a count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.costs import positions
from policyopt.runtime.errors import input_error

Budget = float | str


def parse_budget(budget: Budget, costs: npt.NDArray[np.float64]) -> float:
    """Return a budget in the unit of `costs`.

    Parameters
    ----------
    budget : float or str
        ``2.5`` (in the unit) or ``"40%"`` (of the full model's cost).
    costs : ndarray of shape (K,)
        Mean cumulative cost per exit.

    Returns
    -------
    float

    Raises
    ------
    InputError
        Not a number.

    Examples
    --------
    >>> parse_budget("40%", np.array([1.0, 5.0])), parse_budget(2.5, np.array([1.0, 5.0]))
    (2.0, 2.5)
    """
    text = str(budget).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise input_error(
            "budget",
            "a number, or a share such as 40%",
            budget,
            "Give it in the unit of the costs or in %.",
        )
    return value / 100 * float(costs[-1]) if text.endswith("%") else value


def budget_list(budgets: Budget | Iterable[Budget], costs: npt.NDArray[np.float64]) -> list[float]:
    """Return budgets, given as one or as several, in the unit of `costs`: no number is a count.

    Examples
    --------
    >>> budget_list(2, np.array([1.0, 5.0])), budget_list(["40%", 3], np.array([1.0, 5.0]))
    ([2.0], [2.0, 3.0])
    """
    if isinstance(budgets, str) or not isinstance(budgets, Iterable):
        return [parse_budget(budgets, costs)]
    return [parse_budget(budget, costs) for budget in budgets]


def parse_budgets(
    budgets: int | float | str | Sequence[Budget], costs: npt.NDArray[np.float64]
) -> list[float]:
    """Return several budgets, in the unit of `costs`.

    Parameters
    ----------
    budgets : int, float, str, or sequence
        One budget (``1.5``, ``"40%"``), a count (``9``: nine even positions between exit 0 and exit
        K-1), or a list such as ``"0.2,0.4"`` (in the unit) or ``"20%,40%"``.
    costs : ndarray of shape (K,)

    Returns
    -------
    list of float

    Examples
    --------
    >>> parse_budgets("20%,1.5", np.array([1.0, 5.0]))
    [1.0, 1.5]
    >>> parse_budgets(3, np.array([1.0, 5.0]))
    [2.0, 3.0, 4.0]
    """
    if isinstance(budgets, (np.ndarray, np.generic)):
        budgets = budgets.tolist()
    if isinstance(budgets, str) and "," not in budgets and budgets.strip().lstrip("+-").isdigit():
        budgets = int(budgets)
    if isinstance(budgets, int):
        return [float(b) for b in positions(costs, budgets)]
    if isinstance(budgets, float):
        return [parse_budget(budgets, costs)]
    given = budgets.split(",") if isinstance(budgets, str) else budgets
    items: list[Any] = list(given) if isinstance(given, Iterable) else []
    items = [item for item in items if str(item).strip()]
    if not items:
        raise input_error(
            "budgets", "at least one budget", "none", "E.g. --budgets 9 or --budgets 20%,40%."
        )
    return [parse_budget(item, costs) for item in items]
