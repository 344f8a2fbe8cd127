"""Temperature scaling, one temperature per exit: Guo et al., ICML 2017 (arXiv:1706.04599), eq. 9."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policyopt.answers.likelihood import loss_and_gradient
from policyopt.runtime.answers.temperature import Temperature
from policyopt.runtime.errors import input_error

#: Least and largest temperature. Where every row is right the likelihood would have it 0, where
#: an exit knows nothing infinite; few rows reach either by chance.
BOUNDS = (0.05, 20.0)


def temperature(log_prob: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Return the temperature of least negative log-likelihood within `BOUNDS`.

    The likelihood is convex in 1/T: its slope has one zero, found by Brent's method.

    Parameters
    ----------
    log_prob : ndarray of shape (N, C)
        Logits less their log-sum-exp; rows with a constant added give the same.
    labels : ndarray of shape (N,), int
        0..C-1.

    Returns
    -------
    float

    Raises
    ------
    InputError
        No rows, labels of another length or out of range.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> p = rng.dirichlet(np.ones(3), 4000)
    >>> labels = (rng.random(4000)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    >>> round(temperature(2 * np.log(p), labels), 1)  # twice too sure
    2.0
    """
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


def fit_temperature(
    log_prob: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> Temperature:
    """Fit one temperature per exit.

    Parameters
    ----------
    log_prob : ndarray of shape (N, K, C)
    labels : ndarray of shape (N,), int

    Returns
    -------
    Temperature

    Raises
    ------
    InputError
        As `temperature`.

    Examples
    --------
    >>> fit_temperature(np.log(np.full((4, 2, 2), 0.5)), np.array([0, 1, 0, 1])).params()
    {'temperatures': [20.0, 20.0]}
    """
    return Temperature([temperature(log_prob[:, k], labels) for k in range(log_prob.shape[1])])


def check_labels(log_prob: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> None:
    """Refuse labels that are not one class 0..C-1 per row, and fits on no rows."""
    n, classes = len(log_prob), log_prob.shape[-1]
    if n == 0 or labels.shape != (n,) or labels.min() < 0 or labels.max() >= classes:
        raise input_error(
            "labels", f"one class in 0..{classes - 1} per row, of {n} rows (1 or more)",
            f"shape {labels.shape}", "Fit on labelled rows.",
        )  # fmt: skip
