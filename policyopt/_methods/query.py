"""How good each model will be, by what is known of a sample before any is asked (see `policyopt.runtime._query`).

As routers do (Hu et al., RouterBench, arXiv:2403.12031): a ridge regression of every model's quality on the query and
on how near it is to some rows, a smooth sort of nearest neighbours of which a file can keep the points. How much of
which is what rows left out say, and each row's predictions are by coefficients that its fold has not seen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from policyopt._methods.regression import (
    fit_sigmoid,
    of_own_fold,
    principal,
    ridge_without_each,
    short,
)
from policyopt.runtime._query import Query
from policyopt.runtime._typing import Floats, Ints

_AXES = 64  # of more numbers, the principal ones
_POINTS, _ROWS_EACH = 200, 5  # rows that are points: one in five at most
_WIDTHS = (0.5, 1.0)  # of the middle distance between points
_PENALTIES = (10.0, 100.0, 1000.0)
_DIGITS = 7


def fit_query(given: Floats, share: Floats, fold: Ints, seed: int) -> tuple[Query, Floats]:
    """Return how queries (N, D) become log odds of shares (N, Q) in [0, 1], as qualities are, and those of the rows.

    The numbers themselves are no columns: with few rows they did harm where they told nothing.
    """
    target, ones = share - share.mean(axis=0), np.ones(len(given))
    (place, shapes), tried = _shapes(given, seed), []
    for query in shapes:
        seen = query.seen(place)
        for penalty in _PENALTIES:
            theta = ridge_without_each(seen, ones, target, fold, penalty)
            # Offsets of each fold would tell its labels' mean, turned round.
            theta[:, 0] = -(seen.mean(axis=0) @ theta[:, 1:])
            said = of_own_fold(seen, theta, fold)
            tried.append((float(((said - target) ** 2).sum()), len(tried), query, theta[-1], said))
    _, _, query, theta, said = min(tried)
    spread = np.maximum(said.std(axis=0), 1e-12)
    pairs = zip((said / spread).T, share.T, strict=True)
    odds = np.array([fit_sigmoid(column[:, None], right, 3.0) for column, right in pairs])
    slope = np.maximum(odds[:, 1], 0.0) / spread  # what speaks against the labels says nothing
    theta, columns = theta * slope, said * slope + odds[:, 0]
    theta[0] += odds[:, 0]
    return replace(query, weights=theta.T), columns


def _shapes(given: Floats, seed: int) -> tuple[Floats, list[Query]]:
    """Return places of queries, and what may be read of them, without weights: nearness to their middle or to rows."""
    center, spread = given.mean(axis=0), given.std(axis=0)
    inverse = np.where(spread > 1e-9 * np.abs(center), 1.0 / np.maximum(spread, 1e-300), 0.0)
    if len(inverse) <= _AXES:
        axes = np.diag(inverse)
    else:
        standard = (given - center) * inverse
        axes = principal(standard, _AXES, seed)
        axes = axes * inverse / max(float((standard @ axes[0]).std()), 1e-12)
    center, axes = short(center, 9), short(axes, _DIGITS)
    r, count = len(axes), min(_POINTS, len(given) // _ROWS_EACH)
    plain = Query(center, axes, np.zeros((1, r)), r**0.5, np.empty((0, r + 2)))
    some = np.random.default_rng(seed).permutation(len(given))[:count]
    place = plain.place(given)
    points = short(place[some], _DIGITS)
    apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=2))
    widths = [float(w * np.median(apart)) for w in _WIDTHS if count and np.median(apart) > 1e-6]
    none = np.empty((0, 1 + r + count))
    return place, [plain, *(replace(plain, points=points, width=w, weights=none) for w in widths)]
