"""Thresholds by name of their solver: what methods with one score per exit share."""

from __future__ import annotations

from collections.abc import Sequence

from policyopt.runtime.errors import input_error
from policyopt.thresholds import geometric, joint, shared
from policyopt.thresholds.given import solve_given
from policyopt.thresholds.problem import Problem, Solution

SOLVERS = ("geometric", "shared", "joint")


def check_solver(thresholds: object) -> None:
    """Refuse a solver that does not exist."""
    if isinstance(thresholds, str) and thresholds not in SOLVERS:
        raise input_error(
            "thresholds", f"one of {', '.join(SOLVERS)}, or numbers", thresholds,
            "E.g. --set thresholds=joint or --set thresholds=0.9,0.8.",
        )  # fmt: skip


def solve_path(
    problem: Problem,
    thresholds: str | Sequence[float],
    budgets: Sequence[float],
    mix: bool = False,
    calibrator: str = "platt",
) -> list[Solution]:
    """Return thresholds for each budget.

    Parameters
    ----------
    problem : Problem
    thresholds : {"geometric", "shared", "joint"} or sequence of float
        The solver, or the thresholds themselves.
    budgets : sequence of float
    mix : bool
        With ``joint``: see `joint.solve_path`.
    calibrator : str
        With ``shared``: see `shared.solve_path`.

    Returns
    -------
    list of Solution

    Raises
    ------
    BudgetError
        A budget outside [c[0], c[K-1]], or given thresholds that cost more.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.random.default_rng(0).random((1000, 2))
    >>> problem = Problem(scores, np.ones((1000, 2)), np.array([1.0, 3.0]))
    >>> [s.thresholds.round(1).tolist() for s in solve_path(problem, "geometric", [2.0])]
    [[0.5]]
    """
    check_solver(thresholds)
    if not isinstance(thresholds, str):
        return [solve_given(problem, thresholds, budget) for budget in budgets]
    if problem.exits == 1:  # nothing to find, whatever the search
        thresholds = "geometric"
    if thresholds == "joint":
        return joint.solve_path(problem, budgets, mix=mix)
    if thresholds == "shared":
        return shared.solve_path(problem, budgets, calibrator)
    return geometric.solve_path(problem, budgets)
