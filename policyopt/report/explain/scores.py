"""How well a score tells right answers from wrong ones, exit by exit (EENet, Figure 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from policyopt.runtime.typing import Bools, Floats

#: Levels of the quantiles that are told.
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 40


def auroc(scores: Floats, right: Bools) -> float | None:
    """Return the chance that a right answer scores above a wrong one, ties counting half.

    Parameters
    ----------
    scores : ndarray of shape (n,), float64
    right : ndarray of shape (n,), bool

    Returns
    -------
    float or None
        Area under the ROC curve; None where all answers are right, or all wrong.

    Examples
    --------
    >>> auroc(np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False]))
    0.875
    """
    good = int(right.sum())
    wrong = len(right) - good
    if not good or not wrong:
        return None
    above = rankdata(scores)[right].sum() - good * (good + 1) / 2
    return float(above / (good * wrong))


def score_record(scores: Floats, right: Bools | None, reached: Bools) -> dict[str, Any]:
    """Describe the scores at one exit, of the rows that reach it and of those gone before.

    Parameters
    ----------
    scores : ndarray of shape (N,), float64
    right : ndarray of shape (N,), bool, or None
        Whether the answer at this exit is right; None where it is not known.
    reached : ndarray of shape (N,), bool

    Returns
    -------
    dict
        ``edges`` (bins + 1), ``levels``, and for ``reached`` and ``gone`` a mapping of
        ``right`` and ``wrong`` (``all`` without labels) to their rows, mean, quantiles
        (at `levels`) and counts per bin.

    Examples
    --------
    >>> record = score_record(np.array([0.2, 0.9]), np.array([False, True]), np.array([True, True]))
    >>> record["reached"]["right"]["rows"], record["gone"]["right"]["mean"]
    (1, None)
    """
    edges = np.histogram_bin_edges(scores, BINS)
    groups = (
        {"all": np.ones(len(scores), bool)} if right is None else {"right": right, "wrong": ~right}
    )
    return {
        "edges": edges.tolist(),
        "levels": list(LEVELS),
        **{
            name: {key: _group(scores[rows & group], edges) for key, group in groups.items()}
            for name, rows in (("reached", reached), ("gone", ~reached))
        },
    }


def _group(scores: Floats, edges: Floats) -> dict[str, Any]:
    some = len(scores) > 0
    return {
        "rows": len(scores),
        "mean": float(scores.mean()) if some else None,
        "quantiles": np.quantile(scores, LEVELS).tolist() if some else None,
        "counts": np.histogram(scores, edges)[0].tolist(),
    }
