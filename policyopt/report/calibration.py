"""How far confidence can be trusted: calibration error and reliability, overall and on leavers.

Calibration over all rows at an exit does not carry over to the rows that leave there: they leave
because their confidence is high, part of it by luck (the winner's curse). So every number is
given for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.answers.histogram import BINS, equal_mass_edges
from policyopt.report.calibration_error import calibration_error, checked
from policyopt.report.failure_auroc import failure_auroc
from policyopt.runtime.typing import Floats

_MEASURES = (
    "ece", "ece_low", "ece_high", "ece_plain", "confidence", "accuracy", "gap", "brier", "nll",
    "failure_auroc",
)  # fmt: skip


def reliability(confidence: Floats, correct: Floats, bins: int = BINS) -> list[dict[str, Any]]:
    """Return the points of a reliability diagram, one per bin of equal mass.

    Parameters
    ----------
    confidence : ndarray of shape (n,)
        In [0, 1].
    correct : ndarray of shape (n,)
        0 or 1.
    bins : int
        Most bins.

    Returns
    -------
    list of dict
        ``confidence`` (mean), ``low_edge``, ``high_edge`` (least and largest in the bin),
        ``accuracy``, ``rows``, and Wilson's 95 % interval of the accuracy; none without rows.

    Raises
    ------
    InputError
        Arrays of unequal shape.

    Examples
    --------
    >>> (point,) = reliability(np.full(100, 0.9), np.repeat([1.0, 0.0], [70, 30]))
    >>> point["rows"], round(point["confidence"], 3), point["accuracy"]
    (100, 0.9, 0.7)
    >>> round(point["accuracy_low"], 3), round(point["accuracy_high"], 3)
    (0.604, 0.781)
    """
    from scipy.stats import binomtest

    if not len(confidence):
        return []
    confidence, correct = checked(confidence, correct)
    place = np.searchsorted(equal_mass_edges(confidence, bins), confidence, side="right")
    points = []
    for j in range(int(place.max()) + 1):
        inside, right = confidence[place == j], correct[place == j]
        interval = binomtest(round(float(right.sum())), len(right)).proportion_ci(method="wilson")
        points.append(
            {
                "confidence": float(inside.mean()),
                "low_edge": float(inside.min()),
                "high_edge": float(inside.max()),
                "accuracy": float(right.mean()),
                "accuracy_low": float(interval.low),
                "accuracy_high": float(interval.high),
                "rows": len(right),
            }
        )
    return points


def calibration_records(
    name: str,
    confidence: Floats,
    correct: Floats,
    exits: npt.NDArray[np.int64],
    losses: Floats | None = None,
    path: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Return one record per exit and group of rows: all of them, and those that leave there.

    Parameters
    ----------
    name : str
        Of the calibration.
    confidence, correct : ndarray of shape (N, K)
        Calibrated confidence and correctness at every exit.
    exits : ndarray of shape (N,), int64
        Exit each row takes under a policy.
    losses : ndarray of shape (N, K), optional
        Negative log-likelihood of the label, in nats, where class probabilities are known.
    path : sequence of K int, optional
        The model's exit number of each column; default 0..K-1.

    Returns
    -------
    list of dict
        ``calibration``, ``exit``, ``group`` ("all" or "leavers"), ``rows``; then, None where a
        group is empty: ``ece`` and its interval, ``confidence`` and ``accuracy`` (means), ``gap``
        (their difference: over 0 is overconfident), ``brier`` and ``nll``; of all rows,
        ``failure_auroc`` (see `policyopt.report.failure_auroc`), which calibration hardly moves.

    Examples
    --------
    >>> p = np.array([[0.9, 0.9], [0.5, 0.7]])
    >>> rows = calibration_records("none", p, np.ones((2, 2)), np.array([0, 1]))
    >>> [(r["exit"], r["group"], r["rows"], round(r["gap"], 2)) for r in rows]
    [(0, 'all', 2, -0.3), (0, 'leavers', 1, -0.1), (1, 'all', 2, -0.2), (1, 'leavers', 1, -0.3)]
    """
    records, areas = [], failure_auroc(confidence, correct)
    for k, number in enumerate(range(confidence.shape[1]) if path is None else path):
        for group, rows in (("all", np.ones(len(exits), dtype=bool)), ("leavers", exits == number)):
            record = {"calibration": name, "exit": number, "group": group, "rows": int(rows.sum())}
            if rows.any():
                p, right = confidence[rows, k], correct[rows, k]
                record |= {
                    **calibration_error(p, right),
                    "confidence": float(p.mean()),
                    "accuracy": float(right.mean()),
                    "gap": float(p.mean() - right.mean()),
                    "brier": float(((p - right) ** 2).mean()),
                    "nll": None if losses is None else float(losses[rows, k].mean()),
                    "failure_auroc": areas[k] if group == "all" else None,
                }
            else:
                record |= dict.fromkeys(_MEASURES)
            records.append(record)
    return records
