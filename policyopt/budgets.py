"""Budgets as a user writes them: in the cost's unit, as a share of the full model, or as a count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.costs import positions
from policyopt.runtime.errors import bad

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
        raise bad(
            "budget",
            "a number, or a share such as 40%",
            budget,
            "Give it in the unit of the costs or in %.",
        )
    return value / 100 * float(costs[-1]) if text.endswith("%") else value


def parse_budgets(
    budgets: int | float | str | Sequence[Budget], costs: npt.NDArray[np.float64]
) -> list[float]:
    """Return several budgets, in the unit of `costs`.

    Parameters
    ----------
    budgets : int, str, or sequence
        A count (``9``: nine even positions between exit 0 and exit K-1), or a list such as
        ``"0.2,0.4"`` (in the unit) or ``"20%,40%"``.
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
    if isinstance(budgets, str) and "," not in budgets and budgets.strip().lstrip("+-").isdigit():
        budgets = int(budgets)
    if isinstance(budgets, (int, np.integer)):
        return [float(b) for b in positions(costs, int(budgets))]
    if isinstance(budgets, (float, np.floating)):
        return [parse_budget(float(budgets), costs)]
    items: list[Any] = budgets.split(",") if isinstance(budgets, str) else list(budgets)
    items = [item for item in items if str(item).strip()]
    if not items:
        raise bad(
            "budgets", "at least one budget", "none", "E.g. --budgets 9 or --budgets 20%,40%."
        )
    return [parse_budget(item, costs) for item in items]
