"""One shared threshold on calibrated confidence.

Each exit's score is mapped to the probability that the exit is right, by Platt scaling (Platt,
1999) on the score's logit; one threshold on that probability serves all exits. The map rises, so
"calibrated confidence >= t" is "score >= map_k^-1(t)": what is deployed are plain thresholds per
exit, and no calibration runs at inference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.thresholds.meet import meet_budget
from policyopt.thresholds.problem import Problem, Solution

Floats = npt.NDArray[np.float64]
_EDGE = 1e-9
_STEEPEST = 40.0


def platt(scores: Floats, value: Floats) -> tuple[float, float]:
    """Fit ``P(right) = sigmoid(slope * logit(score) + offset)``.

    Parameters
    ----------
    scores : ndarray of shape (N,)
        In [0, 1].
    value : ndarray of shape (N,)
        0 or 1, or a probability of being right.

    Returns
    -------
    slope, offset : float
        ``slope`` is 0 where a higher score does not mean a better chance.
    """
    from sklearn.linear_model import LogisticRegression

    x = _logit(scores)[:, None]
    rate = float(np.clip(value.mean(), _EDGE, 1 - _EDGE))
    if rate in (_EDGE, 1 - _EDGE) or np.ptp(x) == 0:
        return 0.0, float(_logit(np.array(rate)))
    # A fractional value counts as that much right and the rest wrong.
    rows = np.concatenate([x, x])
    target = np.repeat([1, 0], len(x))
    weight = np.concatenate([value, 1 - value])
    used = weight > 0
    model = LogisticRegression(C=1e6, tol=1e-8).fit(rows[used], target[used], weight[used])
    slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    return (slope, offset) if slope > 0 else (0.0, float(_logit(np.array(rate))))


def solve_path(problem: Problem, budgets: Sequence[float]) -> list[Solution]:
    """Return, for each budget, the thresholds that stand for one shared probability.

    Parameters
    ----------
    problem : Problem
        Scores in [0, 1].
    budgets : sequence of float

    Returns
    -------
    list of Solution

    Raises
    ------
    BudgetError
        A budget outside [c[0], c[K-1]].

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scores = rng.random((1000, 3))
    >>> right = (rng.random((1000, 3)) < scores).astype(float)
    >>> problem = Problem(scores, right, np.array([1.0, 2.0, 4.0]))
    >>> round(problem.cost(solve_path(problem, [2.5])[0].thresholds), 1)
    2.5
    """
    maps = [platt(problem.scores[:, k], problem.value[:, k]) for k in range(problem.exits - 1)]
    slopes, offsets = np.array(maps).T

    def family(logit: float) -> Floats:
        flat = np.where(offsets >= logit, ALWAYS, NEVER)  # a flat map: all leave, or none
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inverse = 1.0 / (1.0 + np.exp(-(logit - offsets) / slopes))
        return np.where(slopes > 0, inverse, flat)

    for budget in budgets:
        problem.check_budget(budget)
    return [meet_budget(problem, family, -_STEEPEST, _STEEPEST, budget) for budget in budgets]


def _logit(p: Floats) -> Floats:
    p = np.clip(p, _EDGE, 1 - _EDGE)
    return np.log(p) - np.log1p(-p)
