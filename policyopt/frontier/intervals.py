"""Bootstrap intervals of means over rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
REPLICATES = 1000
_BLOCK = 1 << 22  # resampled counts held at a time


def bootstrap_means(
    columns: Floats, rng: np.random.Generator, replicates: int = REPLICATES
) -> Floats:
    """Return the means of resampled rows, the same resample for all columns.

    Parameters
    ----------
    columns : ndarray of shape (N, P)
    rng : numpy Generator
    replicates : int

    Returns
    -------
    ndarray of shape (replicates, P)

    Examples
    --------
    >>> means = bootstrap_means(np.ones((50, 2)), np.random.default_rng(0), 10)
    >>> means.shape, float(means.min())
    ((10, 2), 1.0)
    """
    n = len(columns)
    # Rows that are alike in all columns are drawn together: the counts of the distinct rows are
    # multinomial, which is the same bootstrap and far fewer draws (costs take K values).
    distinct, counts = _distinct(columns)
    if len(distinct) <= n // 4:
        drawn = rng.multinomial(n, counts / n, size=replicates)
        return drawn @ distinct / n
    out = np.empty((replicates, columns.shape[1]))
    block = max(_BLOCK // n, 1)
    for low in range(0, replicates, block):
        size = min(block, replicates - low)
        drawn = rng.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
        weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        out[low : low + size] = weights @ columns / n
    return out


def interval(replicates: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the percentile interval over the first axis."""
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    return low, high


def _distinct(columns: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Distinct rows and their counts; through one integer key per row, which sorts fast."""
    key = np.zeros(len(columns), dtype=np.int64)
    for column in columns.T:
        levels, code = np.unique(column, return_inverse=True)
        if len(levels) > len(columns) // 4 or key.max(initial=0) >= (1 << 62) // max(
            len(levels), 1
        ):
            return columns, np.ones(len(columns), dtype=np.int64)
        key = key * len(levels) + code
        _, key = np.unique(key, return_inverse=True)
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    return columns[first], counts
