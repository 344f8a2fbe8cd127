"""Expected calibration error: an estimate freed of its upward bias, and an interval.

Sources: Guo et al., On calibration of modern neural networks, ICML 2017, eq. 3; bins of equal
mass: Nixon et al., Measuring calibration in deep learning, 2019; what chance alone shows where
confidence is right: Broecker & Smith, Weather and Forecasting 2007; bias: Kumar et al., Verified
uncertainty calibration, NeurIPS 2019.
"""

from __future__ import annotations

import numpy as np

from policyopt.answers.histogram import BINS, equal_mass_edges
from policyopt.runtime.checks import check_seed
from policyopt.runtime.errors import input_error
from policyopt.runtime.typing import Floats

REPLICATES = 200
_BLOCK = 1 << 22  # resampled numbers held at a time


def calibration_error(
    confidence: Floats, correct: Floats, bins: int = BINS, seed: int = 0
) -> dict[str, float]:
    """Return the expected calibration error with a 95 % interval.

    The plain estimate, ``sum over bins of share * |mean confidence - accuracy|``, is too high:
    chance alone opens a gap in every bin, of 0.02 in all at 2,000 calibrated rows. The estimate
    given here shrinks all gaps by one factor, such that gaps of that size and the chance of each
    bin together would show, on average, the plain value; 0 where chance alone shows more. It is
    low rather than high where the error is near what chance shows. Interval: from the spread of
    resampled rows (basic bootstrap above), down to 0 where calibrated confidence shows as much
    in 2.5 % of draws or more. Planted errors of 0 to 0.1 at 300 and 2,000 rows lay in it in 80 to
    98 % of repetitions.

    Parameters
    ----------
    confidence : ndarray of shape (n,)
        In [0, 1]; one row or more.
    correct : ndarray of shape (n,)
        0 or 1.
    bins : int
        Most bins, of equal mass; fewer where a bin would hold under 20 rows.
    seed : int
        Of the resampling.

    Returns
    -------
    dict
        ``ece``, ``ece_low``, ``ece_high``, and the plain estimate ``ece_plain``.

    Raises
    ------
    InputError
        No rows, or arrays of unequal shape.

    Examples
    --------
    >>> error = calibration_error(np.full(100, 0.9), np.repeat([1.0, 0.0], [70, 30]))
    >>> round(error["ece_plain"], 6), round(error["ece"], 2)
    (0.2, 0.2)
    """
    confidence, correct = checked(confidence, correct)
    n = len(confidence)
    place = np.searchsorted(equal_mass_edges(confidence, bins), confidence, side="right")
    rows = np.bincount(place)
    bin_of = np.zeros((n, len(rows)))
    bin_of[np.arange(n), place] = 1.0
    gaps = np.abs((confidence - correct) @ bin_of) / n
    plain = float(gaps.sum())
    rate = (correct @ bin_of + 0.5) / (rows + 1)
    ece = _shrink(gaps, np.sqrt(rate * (1 - rate) * rows) / n) * plain

    rng = np.random.default_rng(check_seed(seed))
    drawn, chance = np.empty(REPLICATES), np.empty(REPLICATES)
    size = max(_BLOCK // n, 1)
    signed = bin_of * (confidence - correct)[:, None]
    for low in range(0, REPLICATES, size):
        part = slice(low, min(low + size, REPLICATES))
        shape = (part.stop - low, n)
        # Poisson weights: the bootstrap of rows without a fixed total, which is divided out.
        weights = rng.poisson(1.0, shape).astype(np.float64)
        drawn[part] = np.abs(weights @ signed).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
        right = rng.random(shape) < confidence
        chance[part] = np.abs((confidence - right) @ bin_of).sum(axis=1) / n
    bottom, top = np.quantile(drawn, [0.025, 0.975])
    calibrated = (1 + np.count_nonzero(chance >= plain - 1e-12)) / (REPLICATES + 1) > 0.025
    return {
        "ece": ece,
        "ece_low": 0.0 if calibrated else float(max(ece + drawn.mean() - top, 0.0)),
        "ece_high": float(max(2 * plain - bottom, ece)),
        "ece_plain": plain,
    }


def checked(confidence: Floats, correct: Floats) -> tuple[Floats, Floats]:
    """Return both in float64; refuse unequal shapes and no rows."""
    confidence, correct = (np.asarray(a, dtype=np.float64) for a in (confidence, correct))
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence):
        raise input_error(
            "correct", f"of the confidence's shape {confidence.shape}, with a row or more",
            correct.shape, "",
        )  # fmt: skip
    return confidence, correct


def _shrink(gaps: Floats, chance: Floats) -> float:
    """Return t in [0, 1] with ``sum E|N(t gaps, chance^2)| = sum gaps``; see `calibration_error`."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    def excess(t: float) -> float:
        z = t * gaps / chance  # the mean of a folded normal
        shown = chance * (np.sqrt(2 / np.pi) * np.exp(-z * z / 2) + z * (1 - 2 * ndtr(-z)))
        return float((shown - gaps).sum())

    if excess(0.0) >= 0:
        return 0.0
    return float(brentq(excess, 0.0, 1.0)) if excess(1.0) > 0 else 1.0  # type: ignore[arg-type]
