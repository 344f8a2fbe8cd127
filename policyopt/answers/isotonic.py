"""Isotonic calibration: Zadrozny & Elkan, KDD 2002; pooling of adjacent violators by scikit-learn.

Two changes against the bare method, for the ends where exits decide. Blocks of a few rows are
merged (a last block of five right rows would promise certainty), and the map is a straight line
between the middles of blocks, not a staircase: equal confidence would tie samples.
"""

from __future__ import annotations

import numpy as np

from policyopt.answers.logistic import Floats
from policyopt.runtime.confidence.isotonic import Isotonic

#: Fewest rows of a block: this many, and this share of all rows.
FEWEST_ROWS = 20
FEWEST_SHARE = 0.01


def isotonic(
    confidence: Floats, correct: Floats, fewest: int | None = None
) -> tuple[Floats, Floats]:
    """Fit the knots of one exit's rising map.

    Parameters
    ----------
    confidence : ndarray of shape (N,)
        In [0, 1].
    correct : ndarray of shape (N,)
        0 or 1, or a probability of being right.
    fewest : int, optional
        Rows of a block; default 20, or 1 % of the rows where that is more.

    Returns
    -------
    knots, values : ndarray of shape (M,), float64
        Mean confidence and mean correctness of the M blocks; both rise.

    Examples
    --------
    >>> isotonic(np.array([0.2, 0.4, 0.6, 0.8]), np.array([0.0, 1, 0, 1]), fewest=1)
    (array([0.2, 0.5, 0.8]), array([0. , 0.5, 1. ]))
    """
    from sklearn.isotonic import IsotonicRegression

    if fewest is None:
        fewest = max(FEWEST_ROWS, int(FEWEST_SHARE * len(confidence)))
    order = np.argsort(confidence, kind="stable")
    x, y = confidence[order].astype(np.float64), correct[order].astype(np.float64)
    pooled = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(x, y)
    starts = np.flatnonzero(np.diff(pooled, prepend=-1.0) > 1e-12)
    rows = np.diff(starts, append=len(x))
    kept, count = [0], 0
    for start, size in zip(starts, rows, strict=True):
        if count >= fewest:
            kept.append(int(start))
            count = 0
        count += int(size)
    if count < fewest and len(kept) > 1:  # what is left over joins the last whole block
        kept.pop()
    edges = np.array(kept)
    sizes = np.diff(edges, append=len(x))
    knots = np.add.reduceat(x, edges) / sizes
    values = np.clip(np.add.reduceat(y, edges) / sizes, 0.0, 1.0)
    # Rounding of the means must not undo the order that the runtime asks for.
    rising = np.append(True, np.diff(knots) > 0)
    return knots[rising], np.maximum.accumulate(values)[rising]


def fit_isotonic(confidence: Floats, correct: Floats) -> Isotonic:
    """Fit isotonic calibration per exit.

    Parameters
    ----------
    confidence, correct : ndarray of shape (N, K)

    Returns
    -------
    Isotonic

    Examples
    --------
    >>> fit_isotonic(np.array([[0.25], [0.75]]), np.array([[0.0], [1.0]])).params()  # few rows
    {'knots': [[0.5]], 'values': [[0.5]]}
    """
    fits = [isotonic(p, y) for p, y in zip(confidence.T, correct.T, strict=True)]
    return Isotonic([knots for knots, _ in fits], [values for _, values in fits])
