"""Quota thresholds: at each exit the readiest samples still alive leave until its quota is full.

Source: Huang et al., MSDNet, ICLR 2018, section 4.2 (as in the published evaluation), and Ilhan
et al., EENet, WACV 2024, Algorithm 1, lines 5-15. Departure: a threshold stands midway between
the last score that leaves and the first that stays, not on the former, so that the last bit of
a score computed elsewhere cannot turn a decision; on the rows at hand the decisions are equal.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.runtime.typing import Floats


def quota_thresholds(scores: Floats, counts: npt.NDArray[np.integer]) -> Floats:
    """Return thresholds by which about ``counts[k]`` samples leave at exit k.

    Parameters
    ----------
    scores : ndarray of shape (N, K)
    counts : ndarray of shape (K,) or (K-1,), int
        Quotas; that of the last exit is ignored. Samples with equal scores leave together or
        not at all, whichever is nearer to the quota.

    Returns
    -------
    ndarray of shape (K-1,), float64

    Examples
    --------
    >>> quota_thresholds(np.array([[0.9, 0], [0.7, 0], [0.2, 0]]), np.array([2, 1]))
    array([0.45])
    """
    exits = scores.shape[1]
    thresholds = np.empty(exits - 1)
    alive = np.arange(len(scores))
    for k in range(exits - 1):
        here = scores[alive, k]
        thresholds[k] = threshold_for_count(here, int(counts[k]))
        if thresholds[k] < NEVER:
            alive = alive[here < thresholds[k]]
    return thresholds


def threshold_for_count(scores: Floats, count: int) -> float:
    """Return the threshold that the `count` largest of `scores`, (n,), reach (ties: nearest)."""
    n = len(scores)
    if count <= 0:
        return NEVER
    if count >= n:
        return ALWAYS
    parts = np.partition(scores, n - count)
    stays, leaves = parts[: n - count].max(), parts[n - count]
    if stays == leaves:  # a group of equal scores straddles the quota
        above = int((scores > leaves).sum())
        with_group = int((scores >= leaves).sum())
        if count - above < with_group - count:
            return between(leaves, np.min(scores, where=scores > leaves, initial=NEVER))
        return between(np.max(scores, where=scores < leaves, initial=ALWAYS), leaves)
    return between(stays, leaves)


def between(below: float, above: float) -> float:
    """Return a number t with ``below < t <= above``, midway where there is room."""
    if above >= NEVER:
        return NEVER
    if below <= ALWAYS:
        return ALWAYS
    middle = below + (above - below) / 2
    return float(middle if below < middle <= above else above)
