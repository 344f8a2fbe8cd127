"""Platt scaling of a score's log-odds: Platt, Probabilistic outputs for support vector machines, 1999."""

from __future__ import annotations

import numpy as np

from policyopt.answers.logistic import Floats, is_constant, level, logistic
from policyopt.runtime.confidence.base import log_odds
from policyopt.runtime.confidence.platt import Platt


def platt(confidence: Floats, correct: Floats) -> tuple[float, float]:
    """Fit ``P(right) = sigmoid(slope * logit(confidence) + offset)``.

    Parameters
    ----------
    confidence : ndarray of shape (N,)
        In [0, 1].
    correct : ndarray of shape (N,)
        0 or 1, or a probability of being right.

    Returns
    -------
    slope, offset : float
        ``slope`` is 0 where a higher score does not mean a better chance.

    Examples
    --------
    >>> slope, offset = platt(np.array([0.2, 0.8]), np.array([0.2, 0.8]))
    >>> round(slope, 3), abs(round(offset, 3))  # calibrated as it is
    (1.0, 0.0)
    """
    x = log_odds(confidence)
    if is_constant(correct) or np.ptp(x) == 0:
        return 0.0, level(correct)
    slope, offset = logistic(x[:, None], correct)
    return (float(slope[0]), offset) if slope[0] > 0 else (0.0, level(correct))


def fit_platt(confidence: Floats, correct: Floats) -> Platt:
    """Fit Platt scaling per exit.

    Parameters
    ----------
    confidence, correct : ndarray of shape (N, K)

    Returns
    -------
    Platt

    Examples
    --------
    >>> fit_platt(np.array([[0.2], [0.8]]), np.ones((2, 1))).curve(0, np.array([0.5]))
    array([0.75])
    """
    slope, offset = zip(*map(platt, confidence.T, correct.T), strict=True)
    return Platt(slope, offset)
