"""Logits or probabilities: told by their values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policyopt.cache.layout import Array

#: A row of probabilities sums to 1 within this: covers float16 and tables rounded to 4 digits.
SUM_TOLERANCE = 1e-2
#: Share of rows that must look like probabilities before they are taken for such.
_NEARLY_ALL = 0.99


def probability_share(outputs: Array, sample: int = 2048) -> float:
    """Return the share of rows and exits that are non-negative with sum 1.

    Parameters
    ----------
    outputs : ndarray of shape (n, K, C)
        Logits or probabilities.
    sample : int, default 2048
        At most about this many evenly spaced rows are looked at.

    Returns
    -------
    float
        In [0, 1]; above 0.99 they can only be probabilities.

    Examples
    --------
    >>> probability_share(np.array([[[0.25, 0.75]], [[-1.0, 2.0]]]))
    0.5
    """
    if not outputs.size:
        return 0.0
    with np.errstate(over="ignore"):  # a sum that is inf is not 1
        some = np.asarray(outputs[:: max(1, len(outputs) // sample)], dtype=np.float32)
    return float(((some.min(axis=2) >= 0) & sums_to_one(some)).mean())


def detect_kind(outputs: Array | None) -> str:
    """Return the kind that the values show: ``record`` without outputs, else by their sums.

    Parameters
    ----------
    outputs : ndarray of shape (n, K, C) or None
        Logits or probabilities.

    Returns
    -------
    {"logits", "probabilities", "record"}

    Examples
    --------
    >>> detect_kind(np.array([[[0.25, 0.75]]])), detect_kind(np.array([[[-1.0, 2.0]]]))
    ('probabilities', 'logits')
    """
    if outputs is None:
        return "record"
    return "probabilities" if probability_share(outputs) > _NEARLY_ALL else "logits"


def sums_to_one(outputs: Array) -> npt.NDArray[np.bool_]:
    """Say for each row and exit, (n, K), whether its values sum to 1.

    Examples
    --------
    >>> sums_to_one(np.array([[[0.25, 0.75]], [[-1.0, 3.0]]]))
    array([[ True],
           [False]])
    """
    wide = np.float64 if outputs.dtype == np.float64 else np.float32
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(outputs.sum(axis=2, dtype=wide) - 1) <= SUM_TOLERANCE
