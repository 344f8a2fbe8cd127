"""Logistic regression on weighted rows whose targets may be fractions, by Newton's method.

`weighted_logistic` fits a path of targets, cross-fitted: each price starts from its neighbour's result, a fold
from that of all rows with the curvature there less its own part; where that does not settle it takes steps
of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from policyopt.runtime._arithmetic import sigmoid
from policyopt.runtime._typing import Floats, Ints

_STEPS, _CHORDS, _HALVINGS = 40, 12, 20
#: Steps end where the next one would gain less than this, in nats per row.
_TOLERANCE = 1e-9
_RIDGE = 1e-6  # keeps coefficients finite where the features divide right from wrong


def descended(
    loss: Callable[..., tuple[float, Floats]], start: Floats, bounds: Any = None, **options: Any
) -> Floats:
    """Return where a loss, which says its gradient too, is least: from a start on, by L-BFGS."""
    from scipy.optimize import minimize

    given = {"jac": True, "method": "L-BFGS-B", "bounds": bounds, "options": options}
    return np.asarray(minimize(loss, start.ravel(), **given).x).reshape(start.shape)


def logistic(features: Floats, target: Floats) -> tuple[Floats, float]:
    """Fit ``P(right) = sigmoid(features @ coefficients + offset)`` by maximum likelihood."""
    # Shapes: features (N, P); target (N,), in [0, 1], neither all 0 nor all 1; returns (P,), float.
    design, center, scale = _standardised(features)
    ridge = np.append(0.0, _RIDGE / scale**2)
    rows = _Rows(design, target, np.ones(len(target)), ridge, [slice(None)], doubt=0.0)
    theta, _ = rows.newton(np.zeros(design.shape[1]))
    coefficients = theta[1:] / scale
    return coefficients, float(theta[0] - center @ coefficients)


def weighted_logistic(
    columns: Floats, target: Floats, weight: Floats, fold: Ints, penalty: float
) -> Floats:
    """Return offsets and weights without each fold in turn, then of all rows, for every column of targets."""
    # Minimises ``sum_n weight_n * CE(target_n, sigmoid(offset + w . x_n)) + penalty / 8 * |w|^2``, w in units of
    # standardised columns: `penalty` stands for that many rows. One more row, at the mean, target 1/2, keeps the
    # offset finite. Shapes: columns (N, M); target, weight (N, L); fold (N,); returns (G+1, M+1, L).
    groups = int(fold.max(initial=0)) + 1
    order = np.argsort(fold, kind="stable")  # folds side by side: their parts are then plain slices
    ends = np.searchsorted(fold[order], np.arange(groups + 1))
    parts = [slice(low, high) for low, high in pairwise(ends)]
    design, center, scale = _standardised(columns, order)
    ridge = np.full(design.shape[1], penalty / 4)
    ridge[0] = 0.0
    theta = np.empty((groups + 1, design.shape[1], target.shape[1]))
    start = np.zeros(design.shape[1])
    for i in range(target.shape[1]):
        rows = _Rows(design, target[order, i], weight[order, i], ridge, parts)
        start, curvatures = rows.newton(start)
        theta[-1, :, i] = start
        theta[:-1, :, i] = rows.without_each_fold(start, curvatures)
    theta[:, 1:] /= scale[:, None]
    theta[:, 0] -= np.einsum("m,gml->gl", center, theta[:, 1:])
    return theta


def _standardised(
    columns: Floats, order: Ints | slice = slice(None)
) -> tuple[Floats, Floats, Floats]:
    """Return a design (N, M+1) of ones and standardised columns, their means and their spreads, (M,)."""
    center, scale = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    design = np.ones((len(columns), columns.shape[1] + 1))
    design[:, 1:] = (columns[order] - center) / scale
    return design, center, scale


class _Rows:
    """The rows of one regression, folds side by side."""

    def __init__(
        self,
        design: Floats,
        target: Floats,
        weight: Floats,
        ridge: Floats,
        parts: list[slice],
        doubt: float = 1.0,  # weight of the additional row
    ) -> None:
        self.design, self.target, self.weight, self.parts = design, target, weight, parts
        self.ridge, self.doubt = ridge, doubt
        self.tolerance = _TOLERANCE * max(float(weight.sum()), 1.0)

    def newton(self, theta: Floats) -> tuple[Floats, Floats]:
        """Return the minimum, and each fold's part of the curvature near it, (G, M+1, M+1)."""
        keep = np.ones((len(self.target), 1))
        loss = self.loss(theta[:, None], keep)[0]
        curvatures = np.empty((len(self.parts), len(theta), len(theta)))
        for _ in range(_STEPS):
            mean = sigmoid(self.design @ theta)
            heavy = self.design * (self.weight * mean * (1 - mean))[:, None]
            for g, part in enumerate(self.parts):
                curvatures[g] = heavy[part].T @ self.design[part]
            slope = self.slope(theta[:, None], keep)[:, 0]
            full = self.full(curvatures.sum(axis=0), theta[0])
            step = np.asarray(np.linalg.solve(full, slope), np.float64)
            theta, loss, done = self.along(theta, step, slope, loss, keep)
            if done:
                break
        return theta, curvatures

    def without_each_fold(self, theta: Floats, curvatures: Floats) -> Floats:
        """Return the minima without each fold in turn, (G, M+1)."""
        groups = len(self.parts)
        if groups == 1:  # nothing is left
            return np.zeros((1, len(theta)))
        keep = np.ones((len(self.target), groups))
        for g, part in enumerate(self.parts):
            keep[part, g] = 0.0
        rest = curvatures.sum(axis=0) - curvatures
        inverse = np.linalg.inv(np.stack([self.full(part, theta[0]) for part in rest]))
        found = np.repeat(theta[:, None], groups, axis=1)
        open_ = np.arange(groups)
        loss = self.loss(found, keep)
        for _ in range(_CHORDS):
            slope = self.slope(found[:, open_], keep[:, open_])
            step = np.einsum("gij,jg->ig", inverse[open_], slope)
            gain = (slope * step).sum(axis=0)
            tried = found[:, open_] + step
            after = self.loss(tried, keep[:, open_])
            better = after <= loss[open_] + self.tolerance
            found[:, open_[better]] = tried[:, better]
            loss[open_[better]] = after[better]
            open_ = open_[better & (gain > self.tolerance)]
            if not len(open_):
                break
        slope = self.slope(found, keep)
        gain = (slope * np.einsum("gij,jg->ig", inverse, slope)).sum(axis=0)
        for g in np.flatnonzero(~(gain <= 4 * self.tolerance)):
            chosen = keep[:, g] > 0
            x, y, w = self.design[chosen], self.target[chosen], self.weight[chosen]
            alone = _Rows(x, y, w, self.ridge, [slice(None)], self.doubt)
            found[:, g] = alone.newton(found[:, g])[0]
        return found.T

    def along(
        self, theta: Floats, step: Floats, slope: Floats, loss: float, keep: Floats
    ) -> tuple[Floats, float, bool]:
        """Go along a step as far as the loss falls; say whether nothing more is to be gained."""
        gain = float(slope @ step)
        for _ in range(_HALVINGS):
            tried = theta + step
            after = float(self.loss(tried[:, None], keep)[0])
            if after <= loss - 1e-4 * float(slope @ step):
                return tried, after, gain <= self.tolerance
            if gain <= self.tolerance:
                break
            step = step / 2
        return theta, loss, True

    def loss(self, theta: Floats, keep: Floats) -> Floats:
        """Return the penalised loss of each column of coefficients, (G,)."""
        z = self.design @ theta
        each = (np.logaddexp(0.0, z) - self.target[:, None] * z) * keep
        more = self.doubt * (np.logaddexp(0.0, theta[0]) - theta[0] / 2)
        return self.weight @ each + self.ridge @ theta**2 / 2 + more

    def slope(self, theta: Floats, keep: Floats) -> Floats:
        """Return the downward slope of the loss, (M+1, G)."""
        off = (self.target[:, None] - sigmoid(self.design @ theta)) * (self.weight[:, None] * keep)
        slope = self.design.T @ off - self.ridge[:, None] * theta
        slope[0] += self.doubt * (0.5 - sigmoid(theta[0]))
        return slope

    def full(self, curvature: Floats, offset: float) -> Floats:
        """Return the rows' curvature with that of the penalty and of the additional row."""
        whole = curvature + np.diag(self.ridge + 1e-9)
        mean = float(sigmoid(np.array(offset)))
        whole[0, 0] += self.doubt * max(mean * (1 - mean), 1e-6)
        return whole
