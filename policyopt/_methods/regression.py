"""Regressions that learned scores share: ridge, on standardised columns; of a sigmoid by squared error; components."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policyopt._answers.logistic import descended
from policyopt.runtime._arithmetic import sigmoid
from policyopt.runtime._typing import Floats, Ints

#: A sample's outcomes differ between exits about as often as its answer is in doubt, so the noise
#: of the target falls with the doubt 1 - p_max, down to this floor. Rows are weighted by its
#: inverse (generalised least squares): unweighted, the few doubtful rows set the fit, and the many
#: confident ones get an error that is small beside 1 and large beside what is at stake for them.
_DOUBT_FLOOR = 0.02
_MOST_ROWS = 2000  # that principal components are found on
_DIGITS = 4


def ridge(columns: Floats, target: Floats, penalty: float) -> Floats:
    """Return offset and weights (M+1,) of a ridge regression. Shapes: columns (N, M); target (N,)."""
    design = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
    return ridge_solve(design.T @ design, design.T @ target[:, None], penalty)[:, 0]


def ridge_solve(gram: Floats, moment: Floats, penalty: float) -> Floats:
    """Solve normal equations, the offset unpenalised: gram (..., M+1, M+1); moment (..., M+1, L); returns as moment."""
    rows = gram[..., 0, 0, None]
    total = np.where(rows > 0, rows, 1.0)
    mean = gram[..., 0, 1:] / total
    center = gram[..., 1:, 1:] - total[..., None] * (mean[..., None] * mean[..., None, :])
    spread = np.sqrt(np.maximum(np.diagonal(center, axis1=-2, axis2=-1) / total, 0.0))
    used = spread > 1e-9
    scale = np.where(used, spread, 1.0)[..., None]
    center = center / (scale * scale.swapaxes(-1, -2)) + penalty * np.eye(scale.shape[-2])
    right = (moment[..., 1:, :] - mean[..., None] * moment[..., :1, :]) / scale
    weights = np.linalg.solve(center, right) / scale
    weights[~used] = 0.0  # a column that never varies says nothing
    offset = moment[..., :1, :] / total[..., None] - mean[..., None, :] @ weights
    found = np.concatenate([offset, weights], axis=-2)
    found[rows[..., 0] <= 0] = 0.0  # no rows
    return found


def noise_weights(doubt: Floats) -> Floats:
    """Return the weights of rows whose answer is in `doubt`, ``1 - p_max``; same shape."""
    return 1.0 / (doubt + _DOUBT_FLOOR)


def ridge_without_each(
    basis: Floats, weight: Floats, target: Floats, fold: Ints, penalty: float, folds: int = 0
) -> Floats:
    """Weighted ridge of `target` (N, L) without each fold in turn, then on all: (G+1, M+1, L)."""
    weight = weight / weight.mean()
    parts = []
    for g in range(folds or int(fold.max(initial=0)) + 1):
        rows = fold == g
        design = np.concatenate([np.ones((int(rows.sum()), 1)), basis[rows]], axis=1)
        heavy = (design * weight[rows, None]).T
        parts.append((heavy @ design, heavy @ target[rows]))
    each = (np.stack(part) for part in zip(*parts, strict=True))
    whole = [(part.sum(axis=0), part) for part in each]
    gram, moment = (np.concatenate([total - part, total[None]]) for total, part in whole)
    return ridge_solve(gram, moment, penalty)


def of_own_fold(basis: Floats, theta: Floats, fold: Ints) -> Floats:
    """Return the products (N, L) of rows (N, M) and their fold's coefficients (G+1, M+1, L)."""
    out = np.empty((len(basis), theta.shape[2]))
    for g in np.unique(fold):
        rows = fold == g
        out[rows] = basis[rows] @ theta[g, 1:] + theta[g, 0]
    return out


def fit_sigmoid(columns: Floats, right: Floats, penalty: float) -> Floats:
    """Return offset and weights (M+1,) that minimise the squared error of ``sigmoid(. )``."""
    n = len(right)
    start = np.zeros(columns.shape[1] + 1)
    mean = np.clip(right.mean(), 1e-3, 1 - 1e-3)
    start[0] = np.log(mean / (1 - mean))

    def loss(theta: Floats) -> tuple[float, Floats]:
        u = sigmoid(columns @ theta[1:] + theta[0])
        off = u - right
        slope = 2 * off * u * (1 - u) / n
        shrink = penalty / (4 * n) * theta[1:]
        gradient = np.concatenate([[slope.sum()], columns.T @ slope + shrink])
        return float((off**2).mean() + shrink @ theta[1:] / 2), gradient

    return descended(loss, start)


def principal(rows: Floats, keep: int, seed: int) -> Floats:
    """Return the first principal directions of some rows, (keep, W)."""
    from sklearn.utils.extmath import randomized_svd

    if len(rows) > _MOST_ROWS:
        rows = rows[np.random.default_rng(seed).permutation(len(rows))[:_MOST_ROWS]]
    centered = rows - rows.mean(axis=0)
    found = np.zeros((keep, rows.shape[1]))
    some = min(keep, *rows.shape)
    found[:some] = randomized_svd(centered, some, random_state=seed)[2]
    return short(found)


def short(values: npt.ArrayLike, digits: int = _DIGITS) -> Floats:
    """Return numbers cut to a few significant digits: what an artifact stores of each."""
    array = np.asarray(values, dtype=np.float64)
    size = np.abs(array)
    exponent = np.floor(np.log10(np.where(size > 1e-30, size, 1.0)))
    step = 10.0 ** (digits - 1 - exponent)
    # Divided, not multiplied by the inverse: the quotient of two whole numbers prints short.
    return np.where(size > 1e-30, np.rint(array * step) / step, 0.0)
