"""One shared threshold on calibrated confidence.

Each exit's score is mapped to the probability that the exit is right; one threshold on that
probability serves all exits. By default the map is Platt scaling (Platt, 1999) on the score's
logit. With histogram binning it is the rule of PCEE (arXiv:2412.19325): leave where the accuracy
of the score's bin reaches the threshold. The maps rise, so "calibrated confidence >= t" is "score
>= map_k^-1(t)": what is deployed are plain thresholds per exit, and no calibration runs at
inference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from policyopt.answers.confidence import FITS, fit_confidence
from policyopt.answers.platt import fit_platt
from policyopt.runtime.confidence import ConfidenceRule
from policyopt.runtime.confidence.base import sigmoid
from policyopt.runtime.errors import input_error
from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.runtime.typing import Floats
from policyopt.thresholds.meet import meet_budget
from policyopt.thresholds.problem import Problem, Solution
from policyopt.thresholds.quota import between

CALIBRATORS = tuple(FITS)
_STEEPEST = 40.0


def solve_path(
    problem: Problem, budgets: Sequence[float], calibrator: str = "platt"
) -> list[Solution]:
    """Return, for each budget, the thresholds that stand for one shared probability.

    Parameters
    ----------
    problem : Problem
        Scores in [0, 1].
    budgets : sequence of float
    calibrator : {"platt", "beta", "isotonic", "histogram"}
        The map from score to probability.

    Returns
    -------
    list of Solution

    Raises
    ------
    BudgetError
        A budget outside [c[0], c[K-1]].
    InputError
        Unknown calibrator.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scores = rng.random((1000, 3))
    >>> right = (rng.random((1000, 3)) < scores).astype(float)
    >>> problem = Problem(scores, right, np.array([1.0, 2.0, 4.0]))
    >>> round(problem.cost(solve_path(problem, [2.5])[0].thresholds), 1)
    2.5
    """
    if calibrator not in CALIBRATORS:
        raise input_error("calibrator", f"one of {', '.join(CALIBRATORS)}", calibrator, "")
    for budget in budgets:
        problem.check_budget(budget)
    if calibrator == "platt":
        family = _platt(problem)
        return [meet_budget(problem, family, -_STEEPEST, _STEEPEST, budget) for budget in budgets]
    rule = fit_confidence(calibrator, problem.scores[:, :-1], problem.value[:, :-1])
    by_probability = inverse_of(rule, problem)
    return [meet_shared(problem, by_probability, budget) for budget in budgets]


def meet_shared(problem: Problem, family: Callable[[float], Floats], budget: float) -> Solution:
    """Return the thresholds of the shared probability that costs the budget.

    Parameters
    ----------
    problem : Problem
    family : callable
        From a probability to thresholds (see `inverse_of`).
    budget : float
        Already checked.

    Returns
    -------
    Solution
    """

    def by_logit(logit: float) -> Floats:
        return family(float(sigmoid(np.array(logit))))

    return meet_budget(problem, by_logit, -_STEEPEST, _STEEPEST, budget)


def _platt(problem: Problem) -> Callable[[float], Floats]:
    """From the shared probability's logit to thresholds, in closed form."""
    rule = fit_platt(problem.scores[:, :-1], problem.value[:, :-1])
    slopes, offsets = rule.slope, rule.offset

    def family(logit: float) -> Floats:
        flat = np.where(offsets >= logit, ALWAYS, NEVER)  # a flat map: all leave, or none
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inverse = 1.0 / (1.0 + np.exp(-(logit - offsets) / slopes))
        return np.where(slopes > 0, inverse, flat)

    return family


def inverse_of(rule: ConfidenceRule, problem: Problem) -> Callable[[float], Floats]:
    """Return what leads from a probability of being right to thresholds, (K-1,).

    Parameters
    ----------
    rule : ConfidenceRule
        From the scores of all exits but the last to probabilities.
    problem : Problem

    Returns
    -------
    callable
        By its thresholds those leave whose score, and every higher one that was seen, promises as much.

    Examples
    --------
    >>> from policyopt.runtime.confidence import Histogram
    >>> problem = Problem(
    ...     np.array([[0.2, 1], [0.6, 1], [0.8, 1]]), np.ones((3, 2)), np.array([1, 2.0])
    ... )
    >>> inverse_of(Histogram([[0.5]], [[0.3, 0.9]]), problem)(0.9).round(1)
    array([0.4])
    """
    exits = []
    for k in range(problem.exits - 1):
        scores = np.unique(problem.scores[:, k])
        # A histogram may fall: a score counts for the least that it or a higher one promises.
        promised = np.minimum.accumulate(rule.curve(k, scores)[::-1])[::-1]
        exits.append((scores, promised))
    return lambda wanted: np.array([_least(scores, p, wanted) for scores, p in exits])


def _least(scores: Floats, promised: Floats, wanted: float) -> float:
    """Return the threshold that lets through the scores that promise as much as is wanted."""
    first = int(np.searchsorted(promised, wanted))
    if first == 0:
        return ALWAYS
    return (
        NEVER if first == len(scores) else between(float(scores[first - 1]), float(scores[first]))
    )
