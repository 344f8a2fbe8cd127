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

_RAW = 8  # axes, or fewer, are columns themselves
_AXES = 64  # of more numbers, the principal ones
_POINTS, _ROWS_EACH = 200, 5  # rows that are points: one in five at most
_WIDTHS = (0.5, 1.0)  # of the middle distance between points
_PENALTIES = (10.0, 100.0, 1000.0)
_DIGITS = 7


def fit_query(
    given: Floats, quality: Floats, paid: Floats | None, fold: Ints, seed: int
) -> tuple[Query, Floats]:
    """Return how queries (N, D) become columns, and those of the rows, (N, Q).

    They are the log odds that each model is right, by its `quality` (N, K); the log of what calls cost, where `paid`
    (N,) says; and the axes, where they are few.
    """
    cost = [] if paid is None else [np.log(np.maximum(paid, 1e-9 * paid.max()))]
    target = np.column_stack([quality, *cost])
    target = target - target.mean(axis=0)
    ones, most, best = np.ones(len(given)), np.maximum((target**2).sum(axis=0), 1e-12), None
    for query in _shapes(given, seed):
        seen = query.seen(given)
        for penalty in _PENALTIES:
            theta = ridge_without_each(seen, ones, target, fold, penalty)
            # Offsets of each fold would tell its labels' mean, turned round.
            theta[:, 0] = -(seen.mean(axis=0) @ theta[:, 1:])
            said = of_own_fold(seen, theta, fold)
            error = float((((said - target) ** 2).sum(axis=0) / most).mean())
            if best is None or error < best[0]:
                best = error, query, theta[-1], said
    assert best is not None
    _, query, theta, said = best
    spread = np.maximum(said.std(axis=0), 1e-12)
    fits = [fit_sigmoid(said[:, [k]] / spread[k], q, 3.0) for k, q in enumerate(quality.T)]
    low, slope = np.array([*fits, *([[0.0, 1.0]] * len(cost))]).T
    slope = np.maximum(slope, 0.0) / spread  # what speaks against the labels says nothing
    theta = theta * slope
    theta[0] += low
    few = len(query.axes) if len(query.axes) <= _RAW else 0
    weights = np.concatenate([theta.T, np.eye(few, len(theta), 1)])
    columns = np.concatenate([said * slope + low, query.seen(given)[:, :few]], axis=1)
    return replace(query, weights=weights), columns


def _shapes(given: Floats, seed: int) -> list[Query]:
    """Return what may be read of queries, without weights: axes, and nearness to their middle or to rows."""
    center, spread = given.mean(axis=0), given.std(axis=0)
    inverse = np.where(spread > 1e-9 * np.abs(center), 1.0 / np.maximum(spread, 1e-300), 0.0)
    axes = np.diag(inverse)
    if len(axes) > _AXES:
        standard = (given - center) * inverse
        axes = principal(standard, _AXES, seed)
        axes = axes * inverse / max(float((standard @ axes[0]).std()), 1e-12)
    center, axes = short(center, _DIGITS), short(axes, _DIGITS)
    r, count = len(axes), min(_POINTS, len(given) // _ROWS_EACH)
    plain = Query(center, axes, np.zeros((1, r)), r**0.5, np.empty((0, r + 2)))
    some = np.random.default_rng(seed).permutation(len(given))[:count]
    points = short(plain.seen(given[some])[:, :r], _DIGITS)
    apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=2))
    widths = [float(w * np.median(apart)) for w in _WIDTHS if count and np.median(apart) > 1e-6]
    none = np.empty((0, 1 + r + count))
    return [plain, *(replace(plain, points=points, width=w, weights=none) for w in widths)]
