"""Thresholds by name of their solver: quotas, one shared probability, joint search, or as the user gives them.

``shared``: each exit's score is mapped to the probability that the exit is right; one threshold on that
probability serves all exits. By default the map is Platt scaling (Platt, 1999) on the score's logit. With
histogram binning it is the rule of PCEE (arXiv:2412.19325): leave where the accuracy of the score's bin
reaches the threshold. The maps rise, so "calibrated confidence >= t" is "score >= map_k^-1(t)": what is
deployed are plain thresholds per exit, and no calibration runs at inference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from policyopt._answers.calibrators import FITS, fit_confidence
from policyopt._thresholds.budget_search import meet_budget
from policyopt._thresholds.joint import solve_joint
from policyopt._thresholds.problem import Problem, Solution, between
from policyopt._thresholds.quotas import solve_geometric
from policyopt.runtime._arithmetic import sigmoid
from policyopt.runtime._calibrators import Calibrator
from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import BudgetError, input_error, message
from policyopt.runtime._policy import ALWAYS, NEVER
from policyopt.runtime._typing import Floats

SOLVERS = ("geometric", "shared", "joint")
_STEEPEST = 40.0


def check_solver(thresholds: object) -> None:
    """Refuse a solver that does not exist."""
    if isinstance(thresholds, str) and thresholds not in SOLVERS:
        step = "E.g. --set thresholds=joint or --set thresholds=0.9,0.8."
        allowed = f"one of {', '.join(SOLVERS)}, or numbers"
        raise input_error("thresholds", allowed, thresholds, step)


def solve_path(
    problem: Problem,
    thresholds: str | Sequence[float],
    budgets: Sequence[float],
    mix: bool = False,
    calibrator: str = "platt",
) -> list[Solution]:
    """Return thresholds for each budget, by a solver's name, or the thresholds themselves."""
    check_solver(thresholds)
    if not isinstance(thresholds, str):
        return [solve_given(problem, thresholds, budget) for budget in budgets]
    if problem.exits == 1:  # nothing to find, whatever the search
        thresholds = "geometric"
    if thresholds == "joint":
        return solve_joint(problem, budgets, mix=mix)
    if thresholds == "shared":
        return solve_shared(problem, budgets, calibrator)
    return solve_geometric(problem, budgets)


def solve_given(
    problem: Problem, thresholds: npt.ArrayLike, budget: float, setting: str = "thresholds"
) -> Solution:
    """Check given thresholds, (K-1,) or one, which the user set by `setting`, against the rows at hand."""
    array = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    needed = problem.exits - 1
    if array.shape == (1,):
        array = np.repeat(array, needed)
    if array.shape != (needed,) or np.isnan(array).any():
        allowed = f"{needed} numbers, one per exit but the last (or one for all)"
        got = np.asarray(thresholds).tolist()
        raise input_error("thresholds", allowed, got, "The last exit always stops.")
    array = np.clip(array, ALWAYS, NEVER)
    problem.check_budget(budget)
    cost = problem.cost(array)
    if cost > budget * (1 + 1e-9):
        allowed = f"such that the mean cost is at most {budget:.6g} {problem.unit}"
        step = "Lower it, raise the budget, or leave one of the two out."
        raise BudgetError(message(setting, allowed, f"a mean cost of {cost:.6g}", step))
    return Solution(array)


def solve_shared(
    problem: Problem, budgets: Sequence[float], calibrator: str = "platt"
) -> list[Solution]:
    """Return, for each budget, the thresholds that stand for one shared probability of scores in [0, 1]."""
    check_one_of("calibrator", calibrator, FITS)
    if calibrator == "platt":
        family = _platt(problem)
        return [meet_budget(problem, family, -_STEEPEST, _STEEPEST, budget) for budget in budgets]
    rule = fit_confidence(calibrator, problem.scores[:, :-1], problem.value[:, :-1])
    by_probability = inverse_of(rule, problem)
    return [meet_shared(problem, by_probability, budget) for budget in budgets]


def meet_shared(problem: Problem, family: Callable[[float], Floats], budget: float) -> Solution:
    """Return the thresholds of the shared probability that costs the budget; `family` as of `inverse_of`."""

    def by_logit(logit: float) -> Floats:
        return family(float(sigmoid(np.array(logit))))

    return meet_budget(problem, by_logit, -_STEEPEST, _STEEPEST, budget)


def _platt(problem: Problem) -> Callable[[float], Floats]:
    """From the shared probability's logit to thresholds, in closed form."""
    rule = FITS["platt"](problem.scores[:, :-1], problem.value[:, :-1])
    slopes, offsets = rule.slope, rule.offset

    def family(logit: float) -> Floats:
        flat = np.where(offsets >= logit, ALWAYS, NEVER)  # a flat map: all leave, or none
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inverse = 1.0 / (1.0 + np.exp(-(logit - offsets) / slopes))
        return np.where(slopes > 0, inverse, flat)

    return family


def inverse_of(rule: Calibrator, problem: Problem) -> Callable[[float], Floats]:
    """Return what leads from a probability to thresholds (K-1,): who leaves promises it, as do all higher scores."""
    exits = []
    for k in range(problem.exits - 1):
        scores = np.unique(problem.scores[:, k])
        # A histogram may fall: a score counts for the least that it or a higher one promises.
        promised = np.minimum.accumulate(rule.curve(k, scores)[::-1])[::-1]
        exits.append((promised, [ALWAYS, *scores.tolist(), NEVER]))

    def family(wanted: float) -> Floats:
        firsts = [(int(np.searchsorted(promised, wanted)), ends) for promised, ends in exits]
        return np.array([between(ends[first], ends[first + 1]) for first, ends in firsts])

    return family
