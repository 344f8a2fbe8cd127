"""The negative log-likelihood of scaled log-probabilities, with its gradient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from policyopt.runtime.typing import Floats

#: A log-probability below this (the least float32 probability is e^-103) counts as this much: a
#: label that an exit called impossible is a bad miss, not an infinite one.
FLOOR = -100.0
_CELLS = 1 << 18  # worked on at a time, in float64: they stay in the processor's cache


def row_losses(
    log_prob: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    scale: float | Floats = 1.0,
    bias: float | Floats = 0.0,
) -> Floats:
    """Return ``-log softmax(scale * log_prob + bias)[label]`` of every row.

    Parameters
    ----------
    log_prob : ndarray of shape (N, C)
    labels : ndarray of shape (N,), int
        0..C-1.
    scale, bias : number or array of shape (C,)

    Returns
    -------
    ndarray of shape (N,), float64, in nats

    Examples
    --------
    >>> row_losses(np.log([[0.5, 0.5], [0.9, 0.1]]), np.array([0, 1])).round(3)
    array([0.693, 2.303])
    """
    out = np.empty(len(log_prob))
    for rows, values in _blocks(log_prob):
        z = values * scale + bias
        peak = z.max(axis=1)
        total = np.exp(z - peak[:, None]).sum(axis=1)
        out[rows] = np.log(total) + peak - z[np.arange(len(z)), labels[rows]]
    return out


def loss_and_gradient(
    log_prob: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    scale: float | Floats,
    bias: float | Floats = 0.0,
) -> tuple[float, Floats, Floats]:
    """Return the mean of `row_losses` and its derivatives by scale and bias, (C,) each.

    Parameters
    ----------
    log_prob : ndarray of shape (N, C)
    labels : ndarray of shape (N,), int
    scale, bias : number or array of shape (C,)

    Returns
    -------
    loss : float
    by_scale, by_bias : ndarray of shape (C,)

    Examples
    --------
    >>> loss, by_scale, by_bias = loss_and_gradient(np.log([[0.5, 0.5]]), np.array([0]), 1.0)
    >>> round(loss, 3), by_bias
    (0.693, array([-0.5,  0.5]))
    """
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


def _blocks(log_prob: npt.NDArray[np.floating]) -> Iterator[tuple[slice, Floats]]:
    size = max(_CELLS // max(log_prob.shape[1], 1), 1)
    for low in range(0, len(log_prob), size):
        rows = slice(low, min(low + size, len(log_prob)))
        yield rows, np.maximum(log_prob[rows].astype(np.float64), FLOOR)
