"""Thresholds: the two that stand for never and always, and the exit they lead to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .typing import Floats

#: Thresholds that no score reaches and that every score reaches: finite, so that JSON, C and
#: float32 runtimes hold them (EENet's Algorithm 1 writes +-1e8 for the same purpose).
NEVER = 1e30
ALWAYS = -1e30


def first_exit(scores: Floats, thresholds: Floats) -> npt.NDArray[np.int64]:
    """Return the first exit whose score reaches its threshold; the last where none does.

    Parameters
    ----------
    scores : ndarray of shape (n, K)
    thresholds : ndarray of shape (K-1,) or (n, K-1)

    Returns
    -------
    ndarray of shape (n,), int64

    Examples
    --------
    >>> first_exit(np.array([[0.9, 0.1], [0.5, 0.1]]), np.array([0.8]))
    array([0, 1])
    """
    n, exits = scores.shape
    taken = np.zeros(n, dtype=np.int64)
    onward = np.ones(n, dtype=bool)
    for k in range(exits - 1):
        onward &= ~(scores[:, k] >= thresholds[..., k])
        taken += onward
    return taken
