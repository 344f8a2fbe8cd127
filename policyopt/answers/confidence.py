"""The confidence rules by name, fitted per exit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from policyopt.answers.beta import fit_beta
from policyopt.answers.histogram import fit_histogram
from policyopt.answers.isotonic import fit_isotonic
from policyopt.answers.platt import fit_platt
from policyopt.runtime.confidence import ConfidenceRule
from policyopt.runtime.errors import input_error
from policyopt.runtime.typing import Floats

FITS: dict[str, Callable[[Floats, Floats], ConfidenceRule]] = {
    "platt": fit_platt,
    "beta": fit_beta,
    "isotonic": fit_isotonic,
    "histogram": fit_histogram,
}


def fit_confidence(name: str, confidence: Floats, correct: Floats) -> ConfidenceRule:
    """Fit, per exit, the map from top probability to the probability of being right.

    Parameters
    ----------
    name : {"platt", "beta", "isotonic", "histogram"}
    confidence : ndarray of shape (N, K)
        In [0, 1].
    correct : ndarray of shape (N, K)
        In [0, 1]; fractions are probabilities of being right.

    Returns
    -------
    ConfidenceRule

    Raises
    ------
    InputError
        Unknown name, unequal shapes, no rows, numbers outside [0, 1].

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> p = rng.random((5000, 1))
    >>> rule = fit_confidence("platt", p, (rng.random((5000, 1)) < p**2).astype(float))
    >>> rule.curve(0, np.array([0.9])).round(1)  # 0.9 ** 2
    array([0.8])
    """
    if name not in FITS:
        raise input_error("confidence", f"one of {', '.join(FITS)}", name, "")
    confidence, correct = (np.asarray(a, dtype=np.float64) for a in (confidence, correct))
    if confidence.ndim != 2 or confidence.shape != correct.shape or not len(confidence):
        raise input_error(
            "correct", f"of the confidence's shape {confidence.shape}, with a row or more",
            correct.shape, "Give both as (N, K).",
        )  # fmt: skip
    for what, array in (("confidence", confidence), ("correct", correct)):
        if not ((array >= 0) & (array <= 1)).all():
            raise input_error(what, "numbers in [0, 1]", f"{array.min()} to {array.max()}", "")
    return FITS[name](confidence, correct)
