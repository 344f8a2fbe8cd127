"""Vector scaling with shrinkage: a factor and a bias per class, drawn towards one temperature.

Source: Guo et al., ICML 2017 (arXiv:1706.04599), section 4.2. Its 2 C numbers per exit overfit
where rows are few for the classes (CIFAR-100 at 5k rows), so they are penalised as Gaussians
around plain temperature scaling; how wide is chosen by cross-validation, down to no width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policyopt.answers.likelihood import Floats, loss_and_gradient, row_losses
from policyopt.answers.temperature import check_labels, temperature
from policyopt.runtime.answers.vector import Vector

#: Widths tried: standard deviation, over classes, of the bias and of the factor relative to 1/T.
SPREADS = (0.0, 0.03, 0.1, 0.3, 1.0)
FOLDS = 5
_LEAST_FACTOR = 0.05  # of 1/T: factors stay over 0
_FEWEST_ROWS = 50


def vector(
    log_prob: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], spread: float
) -> tuple[Floats, Floats]:
    """Fit factor and bias of one exit for a given width of the shrinkage.

    Least of ``mean NLL + (|u|^2 + |bias|^2) / (2 N spread^2)`` with ``scale = (1 + u) / T``; T
    is that of temperature scaling.

    Parameters
    ----------
    log_prob : ndarray of shape (N, C)
    labels : ndarray of shape (N,), int
    spread : float
        0 is temperature scaling.

    Returns
    -------
    scale, bias : ndarray of shape (C,), float64

    Raises
    ------
    InputError
        As `temperature`.

    Examples
    --------
    >>> scale, bias = vector(np.log([[0.6, 0.4], [0.3, 0.7]]), np.array([0, 1]), 0.0)
    >>> scale.round(3), bias
    (array([20., 20.]), array([0., 0.]))
    """
    inverse = 1 / temperature(log_prob, labels)
    first = np.zeros(2 * log_prob.shape[1])
    return _parts(inverse, _minimise(log_prob, labels, spread, inverse, first, 1e-9))


def choose_spread(
    log_prob: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], seed: int = 0
) -> float:
    """Choose the width of the shrinkage by cross-validated NLL.

    The narrowest of `SPREADS` whose held-out NLL is within one standard error of the best (Hastie
    et al., Elements of statistical learning, section 7.10): in doubt, temperature scaling.

    Parameters
    ----------
    log_prob : ndarray of shape (N, C)
    labels : ndarray of shape (N,), int
    seed : int
        Of the folds.

    Returns
    -------
    float
        0 where there are fewer than 50 rows.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 2000)
    >>> logits = (
    ...     rng.normal(size=(2000, 3)) + 2 * np.eye(3)[labels] + [1.0, 0, 0]
    ... )  # class 0 favoured
    >>> choose_spread(logits, labels) > 0
    True
    """
    n = len(labels)
    if n < _FEWEST_ROWS:
        return 0.0
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    inverses = [1 / temperature(log_prob[fold != f], labels[fold != f]) for f in range(FOLDS)]
    found = [np.zeros(2 * log_prob.shape[1])] * FOLDS
    held: list[Floats] = []
    for spread in SPREADS:
        losses = np.empty(n)
        for f in range(FOLDS):
            train, test, inverse = fold != f, fold == f, inverses[f]
            # The next wider fit begins where this one ends; a comparison needs no more digits.
            found[f] = _minimise(log_prob[train], labels[train], spread, inverse, found[f], 1e-6)
            losses[test] = row_losses(log_prob[test], labels[test], *_parts(inverse, found[f]))
        held.append(losses)
        if len(held) > 1 and losses.mean() > held[-2].mean():
            break  # wider only gets worse
    best = int(np.argmin([losses.mean() for losses in held]))
    for spread, losses in zip(SPREADS[:best], held, strict=False):
        lost = losses - held[best]
        if lost.mean() <= lost.std(ddof=1) / np.sqrt(n):
            return spread
    return SPREADS[best]


def fit_vector(
    log_prob: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], seed: int = 0
) -> Vector:
    """Fit vector scaling per exit, each with its own cross-validated shrinkage.

    Parameters
    ----------
    log_prob : ndarray of shape (N, K, C)
    labels : ndarray of shape (N,), int
    seed : int
        Of the folds.

    Returns
    -------
    Vector

    Raises
    ------
    InputError
        As `temperature`.

    Examples
    --------
    >>> few = fit_vector(np.log(np.full((4, 1, 2), 0.5)), np.array([0, 1, 0, 1]))
    >>> few.params()
    {'scale': [[0.05, 0.05]], 'bias': [[0.0, 0.0]]}
    """
    check_labels(log_prob, labels)
    exits = [np.ascontiguousarray(log_prob[:, k]) for k in range(log_prob.shape[1])]
    fits = [vector(z, labels, choose_spread(z, labels, seed)) for z in exits]
    return Vector([scale for scale, _ in fits], [bias for _, bias in fits])


def _minimise(
    log_prob: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    spread: float,
    inverse: float,
    first: Floats,
    tolerance: float,
) -> Floats:
    """Return (u, bias), (2 C,); see `vector`. `inverse` is 1/T, `first` a place to begin."""
    from scipy.optimize import minimize

    if spread <= 0:
        return np.zeros_like(first)
    classes, weight = log_prob.shape[1], 1 / (len(labels) * spread**2)

    def objective(x: Floats) -> tuple[float, Floats]:
        scale, bias = _parts(inverse, x)
        loss, by_scale, by_bias = loss_and_gradient(log_prob, labels, scale, bias)
        gradient = np.concatenate([inverse * by_scale, by_bias]) + weight * x
        return loss + weight * float(x @ x) / 2, gradient

    bounds = [(_LEAST_FACTOR - 1, None)] * classes + [(None, None)] * classes
    options = {"maxiter": 200, "ftol": tolerance, "gtol": tolerance}
    return minimize(objective, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x


def _parts(inverse: float, x: Floats) -> tuple[Floats, Floats]:
    """Return scale and bias of (u, bias)."""
    classes = len(x) // 2
    return inverse * (1 + x[:classes]), x[classes:]
