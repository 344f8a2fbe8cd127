"""Degenerate scores: those of an exit that differ by rounding only, where no threshold may stand between two.

A threshold among those decides by noise. So a flat exit's scores are made equal before thresholds are chosen
(equal scores leave together), and one that lies there is moved to "always" or "never" (`Problem.settled`).
Only an exit all of whose scores lie that close counts: 1 - 1e-9 differs from 1 - 2e-9 by a half.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from policyopt.runtime._scores import ScoreRule
from policyopt.runtime._typing import Bools, Floats, Ints

#: How far the scores of two runtimes may lie apart, in units of float32 rounding (2**-23) of the
#: larger of score and 1: what exports are held to (`policyopt._export.rounding.ULPS`).
ULPS = 64
ROUNDING = ULPS * 2.0**-23
_FEW = 64  # rows that are scored to see that an exit is not flat: nearly always they show it


def rounding(rule: ScoreRule, low: Floats, high: Floats) -> Floats:
    """Return how far the scores of exits between `low` and `high`, (K,) each, may lie apart by rounding, (K,)."""
    if rule.exact_at_one:  # in proportion to 1 - score, as their sums are
        return ROUNDING * np.maximum(1.0 - low, 0.0)
    return ROUNDING * np.maximum(np.maximum(np.abs(low), np.abs(high)), 1.0)


def collapse(
    rule: ScoreRule, scores: Floats, equal: bool = False
) -> tuple[Floats, tuple[int, ...]]:
    """Return scores (N, K) with those of flat exits made equal, and these; `equal`: whether bit-equal ones count."""
    middle, flat = _flat(rule, scores)
    if not equal:
        flat[:-1] &= (scores[:, :-1] != scores[:1, :-1]).any(axis=0)
    return _put(scores, middle, flat)


def collapse_held_out(
    rule: ScoreRule, scores: Floats, deployed: Callable[[Ints], Floats]
) -> tuple[Floats, tuple[int, ...]]:
    """Return what `collapse` does of scores (N, K) by other fits; `deployed` says where exits are flat."""
    rows = len(scores)
    few = np.unique(np.linspace(0, rows - 1, _FEW).astype(np.int64)) if rows else np.arange(0)
    if not _flat(rule, deployed(few))[1].any():
        return scores, ()
    return _put(scores, *_flat(rule, deployed(np.arange(rows))))


def _flat(rule: ScoreRule, scores: Floats) -> tuple[Floats, Bools]:
    """Return the middle score of each exit, (K,), and which exits but the last are flat, (K,)."""
    if len(scores) < 2:  # one row has nobody to be told from
        return np.zeros(scores.shape[1]), np.zeros(scores.shape[1], dtype=bool)
    low, high = scores.min(axis=0), scores.max(axis=0)
    finite = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(finite, low, 0.0), np.where(finite, high, 0.0)
    flat = finite & (high - low <= rounding(rule, low, high))
    flat[-1] = False
    return low + (high - low) / 2, flat


def _put(scores: Floats, middle: Floats, flat: Bools) -> tuple[Floats, tuple[int, ...]]:
    places = tuple(np.flatnonzero(flat).tolist())
    if not places:
        return scores, ()
    out = np.array(scores, order="F")
    out[:, flat] = middle[flat]
    return out, places
