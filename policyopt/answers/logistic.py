"""Logistic regression on targets that may be fractions: what Platt and beta calibration share."""

from __future__ import annotations

import numpy as np

from policyopt.runtime.typing import Floats


def logistic(features: Floats, correct: Floats) -> tuple[Floats, float]:
    """Fit ``P(right) = sigmoid(features @ coefficients + offset)`` by maximum likelihood.

    A ridge of 1e-6 keeps the coefficients finite where the features divide right from wrong.

    Parameters
    ----------
    features : ndarray of shape (N, P)
    correct : ndarray of shape (N,)
        In [0, 1], neither all 0 nor all 1; a fraction counts as that much right, the rest wrong.

    Returns
    -------
    coefficients : ndarray of shape (P,)
    offset : float

    Examples
    --------
    >>> coefficients, offset = logistic(np.array([[0.0], [1.0]]), np.array([0.25, 0.75]))
    >>> coefficients.round(3), round(offset, 3)  # from log(1/3) to log(3)
    (array([2.197]), -1.099)
    """
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate([features, features])
    target = np.repeat([1, 0], len(features))
    weight = np.concatenate([correct, 1 - correct])
    used = weight > 0
    model = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000)
    model.fit(rows[used], target[used], weight[used])
    coefficients = np.asarray(model.coef_, dtype=np.float64)[0]
    return coefficients, float(np.asarray(model.intercept_)[0])


def level(correct: Floats) -> float:
    """Return the log-odds of the mean, one right and one wrong row added (Laplace).

    Examples
    --------
    >>> level(np.array([1.0, 0.0]))
    0.0
    """
    right = float(correct.sum()) + 1
    return float(np.log(right / (len(correct) + 2 - right)))


def is_constant(correct: Floats) -> bool:
    """Whether all rows are right, or all wrong."""
    return bool(correct.min() >= 1 or correct.max() <= 0)
