"""Many claims tested at once: which may all be believed with confidence 1 - delta, and who is not told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from policyopt.runtime._typing import Bools, Floats

#: Differences of means that are rounding.
_ROUNDING = 1e-12


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


def letters(order: Sequence[str], parted: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return by name, of names in order of rank, letters such that two share one if, and only if, they are not parted.

    Insert and absorb: Piepho, Journal of Computational and Graphical Statistics 13, 2004.
    """
    groups = [frozenset(order)]
    for two in ({pair["better"], pair["worse"]} for pair in parted):
        split = [group - {one} for group in groups if two <= group for one in two]
        kept = [group for group in groups if not two <= group]
        for group in sorted(split, key=len, reverse=True):
            if not any(group <= other for other in kept):
                kept.append(group)
        groups = kept
    groups.sort(key=lambda group: [i for i, name in enumerate(order) if name in group])
    signs = [chr(ord("a") + g) if g < 26 else f"[{g}]" for g in range(len(groups))]
    return {
        name: "".join(sign for sign, group in zip(signs, groups, strict=True) if name in group)
        for name in order
    }


def gaps(
    means: Floats, rows: Floats, units: int, shared: float, refits: bool
) -> tuple[Floats, Floats, Floats]:
    """Return differences of M means over S seeds, (S, M), their standard errors and degrees of freedom, (M, M) each.

    `rows` (M, M): squared standard errors of these differences over `units` rows, or groups. One seed: a paired t-test
    over rows. Seeds that divide a pool anew share rows, `shared` test rows for each that fits: Nadeau & Bengio's
    corrected resampled t (Machine Learning 52, 2003). Seeds that refit on parts of the rows, `shared` kept for each
    left out, tell the fit's variance by the delete-d jackknife (Shao & Wu, Annals of Statistics 17, 1989) about the
    first, which has all; test rows add theirs.
    """
    each, seeds = means[:, :, None] - means[:, None], len(means)
    gap = each.mean(axis=0)
    gap[np.abs(gap) <= _ROUNDING] = 0.0
    # As if one more row told them apart: that none does, of a few, does not say that none will.
    rows = np.maximum(rows, gap**2 / (units + 1) / units)
    few = float(max(units - 1, 1))
    if seeds == 1:
        return gap, rows**0.5, np.full_like(gap, few)
    off = each - (each[0] if refits else gap)
    fits = (1 / seeds + shared) * (off**2).sum(axis=0) / (seeds - 1)
    if not refits:  # a few divisions may agree by chance: never surer than the rows of the pool
        fits = np.maximum(fits, rows * shared / (1 + shared))
        return gap, fits**0.5, np.full_like(gap, seeds - 1)
    free = (rows + fits) ** 2 / np.maximum(rows**2 / few + fits**2 / (seeds - 1), 1e-300)
    return gap, (rows + fits) ** 0.5, np.maximum(free, 1.0)  # Welch & Satterthwaite


def ranked(
    names: Sequence[str], worth: Sequence[float], tested: tuple[Floats, ...], delta: float = 0.05
) -> tuple[list[str], list[dict[str, Any]], dict[str, str]]:
    """Return M names by worth (M,), every pair's test by `gaps`, Holm's correction over all, and groups' letters."""
    from scipy.stats import t

    order = np.argsort(-np.round(worth, 12), kind="stable")  # of equal ones, the first named
    best = [names[int(m)] for m in order]
    high, low = np.triu_indices(len(best), 1)
    a, b = order[high], order[low]
    gap, error, free = (part[a, b] for part in tested)
    p = np.where(gap == 0.0, 1.0, 2 * t.sf(np.abs(gap) / np.maximum(error, 1e-300), free))
    wide = t.ppf(1 - delta / 2, free) * error
    columns = (high, low, gap, gap - wide, gap + wide, p, holm(p))
    fields = ("difference", "difference_low", "difference_high", "p", "holm_p")
    pairs = [
        {"better": best[i], "worse": best[j], **dict(zip(fields, told, strict=True))}
        for i, j, *told in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return best, pairs, letters(best, [pair for pair in pairs if pair["holm_p"] <= delta])
