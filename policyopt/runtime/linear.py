"""Products and lookups whose rows do not depend on each other's company: one row gives the bits it gives in a batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .typing import Floats

_BLOCK = 1 << 20  # products held at a time


def row_product(rows: Floats, weight: Floats) -> Floats:
    """Return ``rows @ weight.T``, each row by itself.

    BLAS chooses its kernel, and with it the order of summation, by the size of the batch; so a
    served sample could differ in the last bit from the same sample in a replay, and decide
    otherwise. Here each product is summed along the last axis, in an order set by its length.

    Parameters
    ----------
    rows : ndarray of shape (n, D), float64
    weight : ndarray of shape (H, D), float64

    Returns
    -------
    ndarray of shape (n, H), float64

    Examples
    --------
    >>> row_product(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.5, 0.0]]))
    array([[11. ,  0.5]])
    """
    if not isinstance(rows, np.ndarray):  # a symbol: `policyopt.export` records what is done
        return rows.traced_linear(weight)
    rows = np.ascontiguousarray(rows, dtype=np.float64)
    out = np.empty((len(rows), len(weight)))
    step = max(_BLOCK // max(weight.size, 1), 1)
    for low in range(0, len(rows), step):
        part = slice(low, low + step)
        out[part] = (rows[part, None, :] * weight[None]).sum(axis=2)
    return out


def lookup(table: Floats, index: npt.NDArray[np.integer]) -> Floats:
    """Return ``table[index]``; -1 is the last.

    Examples
    --------
    >>> lookup(np.array([0.5, 0.7]), np.array([1, 0, -1]))
    array([0.7, 0.5, 0.7])
    """
    if not isinstance(index, np.ndarray):  # a symbol: `policyopt.export` records what is done
        return index.traced_lookup(table)
    return table[index]
