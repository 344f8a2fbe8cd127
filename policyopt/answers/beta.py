"""Beta calibration: Kull, Silva Filho, Flach, AISTATS 2017, eq. 1 and section 4."""

from __future__ import annotations

import numpy as np

from policyopt.answers.logistic import Floats, is_constant, level, logistic
from policyopt.runtime.confidence.base import EDGE
from policyopt.runtime.confidence.beta import Beta


def beta(confidence: Floats, correct: Floats) -> tuple[float, float, float]:
    """Fit ``P(right) = sigmoid(a ln p - b ln(1 - p) + c)`` with a, b >= 0.

    Where the free fit has a negative coefficient, the best of the fits without one or both of the
    two features is it: the likelihood is concave, so the bound is met.

    Parameters
    ----------
    confidence : ndarray of shape (N,)
        In [0, 1].
    correct : ndarray of shape (N,)
        0 or 1, or a probability of being right.

    Returns
    -------
    a, b, c : float

    Examples
    --------
    >>> p = np.linspace(0.05, 0.95, 10)
    >>> a, b, c = beta(p, p)
    >>> round(a, 2), round(b, 2), abs(round(c, 2))  # calibrated as it is
    (1.0, 1.0, 0.0)
    """
    p = np.clip(confidence, EDGE, 1 - EDGE)
    features = np.stack([np.log(p), -np.log1p(-p)], axis=1)
    flat = (0.0, 0.0, level(correct))
    if is_constant(correct) or np.ptp(p) == 0:
        return flat
    coefficients, c = logistic(features, correct)
    if (coefficients >= 0).all():
        return float(coefficients[0]), float(coefficients[1]), c
    found = [(_loss(features, correct, flat), flat)]
    for j in (0, 1):
        one, c = logistic(features[:, [j]], correct)
        if one[0] > 0:
            fit = (float(one[0]), 0.0, c) if j == 0 else (0.0, float(one[0]), c)
            found.append((_loss(features, correct, fit), fit))
    return min(found)[1]


def fit_beta(confidence: Floats, correct: Floats) -> Beta:
    """Fit beta calibration per exit.

    Parameters
    ----------
    confidence, correct : ndarray of shape (N, K)

    Returns
    -------
    Beta

    Examples
    --------
    >>> fit_beta(np.array([[0.2], [0.8]]), np.ones((2, 1))).curve(0, np.array([0.5]))
    array([0.75])
    """
    a, b, c = zip(*map(beta, confidence.T, correct.T), strict=True)
    return Beta(a, b, c)


def _loss(features: Floats, correct: Floats, fit: tuple[float, float, float]) -> float:
    z = features @ np.array(fit[:2]) + fit[2]
    return float((np.logaddexp(0.0, z) - correct * z).mean())
