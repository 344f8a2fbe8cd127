"""Calibrators: maps of an exit's outputs to probabilities that hold, fitted on labelled rows, exit by exit.

Of whole outputs, which then are the answer:

- temperature scaling: Guo et al., ICML 2017 (arXiv:1706.04599), eq. 9;
- vector scaling, ibid., section 4.2: a factor and a bias per class. These 2 C numbers per exit overfit where
  rows are few for the classes (CIFAR-100 at 5k rows), so they are penalised as Gaussians around plain
  temperature scaling; how wide is chosen by cross-validation, down to no width.

Of the top probability, to that of being right:

- Platt scaling of its log-odds: Platt, Probabilistic outputs for support vector machines, 1999;
- beta calibration: Kull, Silva Filho & Flach, AISTATS 2017, eq. 1 and section 4;
- isotonic calibration: Zadrozny & Elkan, KDD 2002; pooling of adjacent violators by scikit-learn. Two changes
  against the bare method, for the ends where exits decide: blocks of a few rows are merged (a last block of
  five right rows would promise certainty), and the map is a straight line between the middles of blocks, not a
  staircase: equal confidence would tie samples;
- histogram binning with equal-mass bins: Zadrozny & Elkan, ICML 2001.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._answers.logistic import descended, logistic
from policyopt._cache.data import folds_of
from policyopt._intervals import standard_error
from policyopt.runtime._answers import Temperature, Vector
from policyopt.runtime._arithmetic import EDGE, log_odds
from policyopt.runtime._calibrators import Beta, Calibrator, Histogram, Isotonic, Platt
from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Floats, Ints

Logs = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
#: A log-probability below this (the least float32 probability is e^-103) counts as this much: a
#: label that an exit called impossible is a bad miss, not an infinite one.
FLOOR = -100.0
_CELLS = 1 << 18  # worked on at a time, in float64: they stay in the processor's cache
#: Least and largest temperature. Where every row is right the likelihood would have it 0, where
#: an exit knows nothing infinite; few rows reach either by chance.
BOUNDS = (0.05, 20.0)
#: Widths of vector scaling that are tried: standard deviation, over classes, of the bias and of the factor
#: relative to 1/T.
SPREADS = (0.0, 0.03, 0.1, 0.3, 1.0)
_SPREAD_FOLDS = 5
_LEAST_FACTOR = 0.05  # of 1/T: factors stay over 0
_FEWEST_SPREAD = 50  # rows that a width can be chosen on
BINS = 15
FEWEST_ROWS = 20  # of a bin or block; of a block also this share of all rows:
FEWEST_SHARE = 0.01


def temperature(log_prob: Logs, labels: Labels) -> float:
    """Return the best temperature in `BOUNDS`: convex in 1/T. Shapes: log_prob (N, C); labels (N,)."""
    from scipy.optimize import brentq

    check_labels(log_prob, labels)

    def slope(inverse: float) -> float:
        return float(loss_and_gradient(log_prob, labels, inverse)[1].sum())

    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]
    if slope(low) >= 0:
        return BOUNDS[1]
    if slope(high) <= 0:
        return BOUNDS[0]
    return 1 / float(brentq(slope, low, high, xtol=1e-6, rtol=1e-6))  # type: ignore[arg-type]


def fit_temperature(log_prob: Logs, labels: Labels, group: Ints | None = None) -> Temperature:
    """Fit one temperature per exit. Shapes: log_prob (N, K, C); labels (N,). Only `fit_vector` needs groups."""
    return Temperature([temperature(log_prob[:, k], labels) for k in range(log_prob.shape[1])])


def check_labels(log_prob: Logs, labels: Labels) -> None:
    """Refuse labels that are not one class 0..C-1 per row, and fits on no rows."""
    n, classes = len(log_prob), log_prob.shape[-1]
    if n == 0 or labels.shape != (n,) or labels.min() < 0 or labels.max() >= classes:
        allowed = f"one class in 0..{classes - 1} per row, of {n} rows (1 or more)"
        raise input_error("labels", allowed, f"shape {labels.shape}", "Fit on labelled rows.")


def vector(log_prob: Logs, labels: Labels, spread: float) -> tuple[Floats, Floats]:
    """Fit factor and bias of one exit, (C,) each, for a given width of the shrinkage."""
    # Least of ``mean NLL + (|u|^2 + |bias|^2) / (2 N spread^2)``, ``scale = (1 + u) / T``, T of temperature scaling.
    inverse = 1 / temperature(log_prob, labels)
    first = np.zeros(2 * log_prob.shape[1])
    return _parts(inverse, _minimise(log_prob, labels, spread, inverse, first, 1e-9))


def choose_spread(log_prob: Logs, labels: Labels, group: Ints | None = None) -> float:
    """Choose the narrowest of `SPREADS` whose cross-validated NLL is within one standard error of the best."""
    n = len(labels)
    fold = folds_of(n, _SPREAD_FOLDS, 0, group)
    if n < _FEWEST_SPREAD or not fold.any():  # one group has no other to be judged by
        return 0.0
    rests = [fold != f for f in range(int(fold.max()) + 1)]
    inverses = [1 / temperature(log_prob[rest], labels[rest]) for rest in rests]
    found = [np.zeros(2 * log_prob.shape[1])] * len(rests)
    held: list[Floats] = []
    for spread in SPREADS:
        losses = np.empty(n)
        for f, (train, inverse) in enumerate(zip(rests, inverses, strict=True)):
            # The next wider fit begins where this one ends; a comparison needs no more digits.
            found[f] = _minimise(log_prob[train], labels[train], spread, inverse, found[f], 1e-6)
            parts = _parts(inverse, found[f])
            losses[~train] = row_losses(log_prob[~train], labels[~train], *parts)
        held.append(losses)
        if len(held) > 1 and losses.mean() > held[-2].mean():
            break  # wider only gets worse
    best = int(np.argmin([losses.mean() for losses in held]))
    for spread, losses in zip(SPREADS[:best], held, strict=False):
        lost = losses - held[best]
        if lost.mean() <= standard_error(lost, group):
            return spread
    return SPREADS[best]


def fit_vector(log_prob: Logs, labels: Labels, group: Ints | None = None) -> Vector:
    """Fit vector scaling per exit, each with its own cross-validated shrinkage."""
    check_labels(log_prob, labels)
    exits = [np.ascontiguousarray(log_prob[:, k]) for k in range(log_prob.shape[1])]
    fits = [vector(z, labels, choose_spread(z, labels, group)) for z in exits]
    return Vector([scale for scale, _ in fits], [bias for _, bias in fits])


def _minimise(
    log_prob: Logs, labels: Labels, spread: float, inverse: float, first: Floats, tolerance: float
) -> Floats:
    """Return (u, bias), (2 C,); see `vector`. `inverse` is 1/T, `first` a place to begin."""
    if spread <= 0:
        return np.zeros_like(first)
    classes, weight = log_prob.shape[1], 1 / (len(labels) * spread**2)

    def objective(x: Floats) -> tuple[float, Floats]:
        scale, bias = _parts(inverse, x)
        loss, by_scale, by_bias = loss_and_gradient(log_prob, labels, scale, bias)
        gradient = np.concatenate([inverse * by_scale, by_bias]) + weight * x
        return loss + weight * float(x @ x) / 2, gradient

    bounds = [(_LEAST_FACTOR - 1, None)] * classes + [(None, None)] * classes
    return descended(objective, first, bounds, maxiter=200, ftol=tolerance, gtol=tolerance)


def _parts(inverse: float, x: Floats) -> tuple[Floats, Floats]:
    """Return scale and bias of (u, bias)."""
    classes = len(x) // 2
    return inverse * (1 + x[:classes]), x[classes:]


def row_losses(
    log_prob: Logs, labels: Labels, scale: float | Floats = 1.0, bias: float | Floats = 0.0
) -> Floats:
    """Return ``-log softmax(scale * log_prob + bias)[label]`` of every row, (N,). Shapes: scale, bias (C,)."""
    out = np.empty(len(log_prob))
    for rows, values in _blocks(log_prob):
        z = values * scale + bias
        peak = z.max(axis=1)
        total = np.exp(z - peak[:, None]).sum(axis=1)
        out[rows] = np.log(total) + peak - z[np.arange(len(z)), labels[rows]]
    return out


def loss_and_gradient(
    log_prob: Logs, labels: Labels, scale: float | Floats, bias: float | Floats = 0.0
) -> tuple[float, Floats, Floats]:
    """Return the mean of `row_losses` and its derivatives by scale and bias, (C,) each."""
    n, classes = log_prob.shape
    loss, by_scale, by_bias = 0.0, np.zeros(classes), np.zeros(classes)
    for rows, values in _blocks(log_prob):
        z = values * scale + bias
        here, label = np.arange(len(z)), labels[rows]
        peak = z.max(axis=1)
        at_label = z[here, label].sum()
        p = np.exp(z - peak[:, None])
        total = p.sum(axis=1)
        loss += float((np.log(total) + peak).sum() - at_label)
        p /= total[:, None]
        p[here, label] -= 1.0
        by_bias += p.sum(axis=0)
        by_scale += np.einsum("nc,nc->c", p, values)
    return loss / n, by_scale / n, by_bias / n


def _blocks(log_prob: Logs) -> Iterator[tuple[slice, Floats]]:
    size = max(_CELLS // max(log_prob.shape[1], 1), 1)
    for low in range(0, len(log_prob), size):
        rows = slice(low, min(low + size, len(log_prob)))
        yield rows, np.maximum(log_prob[rows].astype(np.float64), FLOOR)


def platt(confidence: Floats, correct: Floats) -> tuple[float, float]:
    """Fit ``P(right) = sigmoid(slope * logit(confidence) + offset)``. Shapes: confidence, correct (N,)."""
    x = log_odds(confidence)
    if _is_constant(correct) or np.ptp(x) == 0:
        return 0.0, _log_odds_of_mean(correct)
    slope, offset = logistic(x[:, None], correct)
    return (float(slope[0]), offset) if slope[0] > 0 else (0.0, _log_odds_of_mean(correct))


def beta(confidence: Floats, correct: Floats) -> tuple[float, float, float]:
    """Fit ``P(right) = sigmoid(a ln p - b ln(1 - p) + c)`` with a, b >= 0. Shapes: confidence, correct (N,)."""
    # Where the free fit has a negative coefficient, the best without one or both features is it (concavity).
    p = np.clip(confidence, EDGE, 1 - EDGE)
    features = np.stack([np.log(p), -np.log1p(-p)], axis=1)
    flat = (0.0, 0.0, _log_odds_of_mean(correct))
    if _is_constant(correct) or np.ptp(p) == 0:
        return flat
    coefficients, c = logistic(features, correct)
    if (coefficients >= 0).all():
        return float(coefficients[0]), float(coefficients[1]), c
    found = [(_loss(features, correct, flat), flat)]
    for j in (0, 1):
        one, c = logistic(features[:, [j]], correct)
        if one[0] > 0:
            fit = (float(one[0]), 0.0, c) if j == 0 else (0.0, float(one[0]), c)
            found.append((_loss(features, correct, fit), fit))
    return min(found)[1]


def _loss(features: Floats, correct: Floats, fit: tuple[float, float, float]) -> float:
    z = features @ np.array(fit[:2]) + fit[2]
    return float((np.logaddexp(0.0, z) - correct * z).mean())


def _log_odds_of_mean(correct: Floats) -> float:
    """Return the log-odds of the mean, one right and one wrong row added (Laplace)."""
    right = float(correct.sum()) + 1
    return float(np.log(right / (len(correct) + 2 - right)))


def _is_constant(correct: Floats) -> bool:
    """Whether all rows are right, or all wrong."""
    return bool(correct.min() >= 1 or correct.max() <= 0)


def isotonic(
    confidence: Floats, correct: Floats, fewest: int | None = None
) -> tuple[Floats, Floats]:
    """Fit the knots of one exit's rising map. Shapes: confidence, correct (N,); returns knots, values (M,)."""
    from sklearn.isotonic import IsotonicRegression

    if fewest is None:
        fewest = max(FEWEST_ROWS, int(FEWEST_SHARE * len(confidence)))
    order = np.argsort(confidence, kind="stable")
    x, y = confidence[order].astype(np.float64), correct[order].astype(np.float64)
    pooled = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(x, y)
    starts = np.flatnonzero(np.diff(pooled, prepend=-1.0) > 1e-12)
    rows = np.diff(starts, append=len(x))
    kept, count = [0], 0
    for start, size in zip(starts, rows, strict=True):
        if count >= fewest:
            kept.append(int(start))
            count = 0
        count += int(size)
    if count < fewest and len(kept) > 1:  # what is left over joins the last whole block
        kept.pop()
    edges = np.array(kept)
    sizes = np.diff(edges, append=len(x))
    knots = np.add.reduceat(x, edges) / sizes
    values = np.clip(np.add.reduceat(y, edges) / sizes, 0.0, 1.0)
    # Rounding of the means must not undo the order that the runtime asks for.
    rising = np.append(True, np.diff(knots) > 0)
    return knots[rising], np.maximum.accumulate(values)[rising]


def equal_mass_edges(confidence: Floats, bins: int = BINS) -> Floats:
    """Return the inner edges of bins that hold equally many rows, as far as ties allow. Shapes: confidence (N,)."""
    n = len(confidence)
    bins = max(min(bins, n // FEWEST_ROWS), 1)
    ranked = np.sort(confidence)
    edges = np.unique(ranked[np.arange(1, bins) * n // bins])
    return edges[edges > ranked[0]] if n else edges


def histogram(confidence: Floats, correct: Floats, bins: int = BINS) -> tuple[Floats, Floats]:
    """Fit the bins of one exit. Shapes: confidence, correct (N,); returns edges (M,), values (M + 1,)."""
    edges = equal_mass_edges(confidence, bins)
    place = np.searchsorted(edges, confidence, side="right")
    count = np.bincount(place, minlength=len(edges) + 1)
    return edges, np.bincount(place, correct, minlength=len(edges) + 1) / count


def fit_histogram(
    confidence: Floats, correct: Floats, bins: int = BINS, smooth: float = 0.0
) -> Histogram:
    """Fit histogram binning per exit. Shapes: confidence, correct (N, K)."""
    fits = [histogram(p, y, bins) for p, y in zip(confidence.T, correct.T, strict=True)]
    return Histogram([edges for edges, _ in fits], [smoothed(v, smooth) for _, v in fits])


def smoothed(values: Floats, width: float) -> Floats:
    """Return the values of bins averaged over their neighbours, (M,), by a Gaussian window. Shapes: values (M,)."""
    if width <= 0:
        return values
    place = np.arange(len(values))
    weight = np.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    return np.minimum((weight @ values) / weight.sum(axis=1), 1.0)


def _per_exit(
    rule: Callable[..., Calibrator], one: Callable[[Floats, Floats], tuple[Any, ...]]
) -> Any:
    """Return what fits a rule of (N, K) numbers, whose fields are what `one` finds of (N,) at each exit."""

    def fit(confidence: Floats, correct: Floats) -> Calibrator:
        return rule(*zip(*map(one, confidence.T, correct.T), strict=True))

    return fit


FITS: dict[str, Callable[[Floats, Floats], Any]] = {
    "platt": _per_exit(Platt, platt),
    "beta": _per_exit(Beta, beta),
    "isotonic": _per_exit(Isotonic, isotonic),
    "histogram": fit_histogram,
}


def fit_confidence(name: str, confidence: Floats, correct: Floats) -> Calibrator:
    """Fit, per exit, the map from top probability to the probability of being right."""
    check_one_of("confidence", name, FITS)
    confidence, correct = (np.asarray(a, dtype=np.float64) for a in (confidence, correct))
    if confidence.ndim != 2 or confidence.shape != correct.shape or not len(confidence):
        allowed = f"of the confidence's shape {confidence.shape}, with a row or more"
        raise input_error("correct", allowed, correct.shape, "Give both as (N, K).")
    for what, array in (("confidence", confidence), ("correct", correct)):
        if not ((array >= 0) & (array <= 1)).all():
            raise input_error(what, "numbers in [0, 1]", f"{array.min()} to {array.max()}", "")
    return FITS[name](confidence, correct)
