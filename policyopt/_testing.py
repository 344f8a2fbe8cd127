"""Many levels tested at once: which claims may all be believed with confidence 1 - delta."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policyopt.runtime._typing import Bools, Floats


def fallback(p: Floats, delta: float, starts: Sequence[int] = (0,)) -> Bools:
    """Return which of L claims, in an order that these p-values had no part in, are shown, (L,)."""
    # Each start has an equal share of delta. What has shown a claim is handed on to the next; what has failed is
    # spent (Wiens & Dmitrienko, The fallback procedure, J. Biopharm. Stat. 15, 2005). One start: the fixed sequence
    # of Learn then test (arXiv:2110.01052, algorithm 1), which ends at the first p-value over delta.
    own = np.zeros(len(p))
    own[list(starts)] = delta / len(starts)
    shown, left = np.zeros(len(p), dtype=bool), 0.0
    for j, value in enumerate(p.tolist()):
        left += own[j]
        shown[j] = left > 0 and value <= left
        left = left if shown[j] else 0.0
    return shown


def holm(p: Floats) -> Floats:
    """Return p-values of L claims, in no order, such that those up to delta are shown at once (Holm, 1979), (L,)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1.0)
