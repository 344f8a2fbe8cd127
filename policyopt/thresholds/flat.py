"""Flat exits: scores that differ by rounding only, where no threshold may stand between two of them.

A regression that finds nothing gives all samples one score, up to the last bits of a sum. A threshold among
those decides by noise: the rows at hand are divided as the budget asks, but by nothing that another runtime,
or another order of summation, would reproduce. So the scores of such an exit are made equal before
thresholds are chosen (solvers let equal scores leave together or not at all), and a threshold that then comes
to lie at that score is moved out of the way, to "always" or "never" (`Problem.settled`).

Only an exit all of whose scores lie that close counts. Elsewhere scores that crowd are told apart as
before: a confidence of 1 - 1e-9 differs from one of 1 - 2e-9 by a half of what both know exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from policyopt.runtime.scores import Entropy, Margin, MaxProb, ScoreRule
from policyopt.runtime.typing import Floats, Ints

#: How far the scores of two runtimes may lie apart, in units of float32 rounding (2**-23) of the
#: larger of score and 1: what exports are held to (`policyopt.export.manifest.ULPS`).
ULPS = 64
ROUNDING = ULPS * 2.0**-23
#: Rows that are scored to see that an exit is not flat: nearly always they show it.
_FEW = 64


def rounding(rule: ScoreRule, low: Floats, high: Floats) -> Floats:
    """Return how far scores may lie apart by rounding, per exit.

    Parameters
    ----------
    rule : ScoreRule
    low, high : ndarray of shape (K,)
        Least and largest score of each exit.

    Returns
    -------
    ndarray of shape (K,)
        In proportion to the larger of score and 1; of max_prob, margin and entropy, to their distance
        from 1, as the sums that make them are (`policyopt.export.scalar_compile` has the proof).

    Examples
    --------
    >>> low, high = np.array([0.999999]), np.array([0.9999995])
    >>> from policyopt.runtime.scores import Constant
    >>> [bool(high - low < rounding(rule, low, high)) for rule in (Constant(), MaxProb())]
    [True, False]
    """
    if type(rule) in (MaxProb, Margin, Entropy):
        return ROUNDING * np.maximum(1.0 - low, 0.0)
    return ROUNDING * np.maximum(np.maximum(np.abs(low), np.abs(high)), 1.0)


def level(rule: ScoreRule, scores: Floats, equal: bool = False) -> tuple[Floats, tuple[int, ...]]:
    """Make the scores of flat exits equal, of rows that are scored by the rule that is deployed.

    Parameters
    ----------
    rule : ScoreRule
    scores : ndarray of shape (N, K)
    equal : bool
        Whether an exit whose scores are equal to the bit counts: of a learned score it does, of a count, e.g. at
        exit 0, it says nothing.

    Returns
    -------
    scores : ndarray of shape (N, K)
        The same array where no exit is flat.
    flat : tuple of int
        The exits whose scores were made equal.

    Examples
    --------
    >>> from policyopt.runtime.scores import Constant
    >>> level(Constant(), np.array([[0.3, 0.1, 0.0], [0.3 + 1e-9, 0.2, 0.0]]))[1]
    (0,)
    """
    middle, flat = _flat(rule, scores)
    if not equal:
        flat[:-1] &= (scores[:, :-1] != scores[:1, :-1]).any(axis=0)
    return _put(scores, middle, flat)


def level_held_out(
    rule: ScoreRule, scores: Floats, deployed: Callable[[Ints], Floats]
) -> tuple[Floats, tuple[int, ...]]:
    """Make the scores of flat exits equal, of rows that other fits of the rule scored.

    Whether an exit is flat is for the deployed rule to say: the folds' constants may differ by more than
    rounding where each fold's scores are all equal, and what is deployed cannot tell rows apart by that.

    Parameters
    ----------
    rule : ScoreRule
        The deployed one.
    scores : ndarray of shape (N, K)
        Thresholds are chosen on these.
    deployed : callable
        From places of rows, (n,), to their scores (n, K) by the deployed rule.

    Returns
    -------
    scores, flat
        As of `level`; flat exits have the deployed rule's score.

    Examples
    --------
    >>> from policyopt.runtime.scores import Constant
    >>> folds = np.array([[0.31, 0.0], [0.32, 0.0]])
    >>> scores, flat = level_held_out(
    ...     Constant(), folds, lambda rows: np.full((len(rows), 2), 0.315)
    ... )
    >>> scores[:, 0], flat
    (array([0.315, 0.315]), (0,))
    """
    rows = len(scores)
    few = np.unique(np.linspace(0, rows - 1, _FEW).astype(np.int64)) if rows else np.arange(0)
    if not _flat(rule, deployed(few))[1].any():
        return scores, ()
    middle, flat = _flat(rule, deployed(np.arange(rows)))
    return _put(scores, middle, flat)


def _flat(rule: ScoreRule, scores: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the middle score of each exit, and which exits but the last are flat."""
    if len(scores) < 2:  # one row has nobody to be told from
        return np.zeros(scores.shape[1]), np.zeros(scores.shape[1], dtype=bool)
    low, high = scores.min(axis=0), scores.max(axis=0)
    finite = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(finite, low, 0.0), np.where(finite, high, 0.0)
    flat = finite & (high - low <= rounding(rule, low, high))
    flat[-1] = False
    return low + (high - low) / 2, flat


def _put(
    scores: Floats, middle: Floats, flat: npt.NDArray[np.bool_]
) -> tuple[Floats, tuple[int, ...]]:
    places = tuple(np.flatnonzero(flat).tolist())
    if not places:
        return scores, ()
    out = np.array(scores, order="F")
    out[:, flat] = middle[flat]
    return out, places
