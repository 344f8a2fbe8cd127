"""Rows that stand in two splits: found by hashing, so that a test set is never fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.cache.data import RESERVED, Rows
from policyopt.runtime.errors import InputError

#: Arrays that identify a row. Measured costs are left out: a second run measures others.
_TELLING = ("outputs", "prediction", "confidence", "top_prob", "entropy")
_PIECE = 4096


def hash_rows(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash per row over the bytes of aligned arrays.

    Parameters
    ----------
    arrays : list of ndarray of shape (n, ...)
        Read in this order.

    Returns
    -------
    ndarray of shape (n,), uint64
        Multilinear: 32-bit words times random odd 64-bit weights, summed with wrap-around.

    Examples
    --------
    >>> hashes = hash_rows([np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])])
    >>> bool(hashes[0] == hashes[2]), bool(hashes[0] == hashes[1])
    (True, False)
    """
    total = np.zeros(len(arrays[0]), np.uint64)
    rng = np.random.default_rng(0x9E3779B9)
    for array in arrays:
        flat = array.reshape(len(array), -1)
        width = flat.shape[1] * flat.itemsize
        words = -(-width // 4)
        weights = rng.integers(0, 1 << 64, words, dtype=np.uint64, endpoint=False) | np.uint64(1)
        for low in range(0, len(flat), _PIECE):
            piece = np.ascontiguousarray(flat[low : low + _PIECE])
            padded = np.zeros((len(piece), words * 4), np.uint8)
            padded[:, :width] = piece.view(np.uint8).reshape(len(piece), width)
            total[low : low + _PIECE] += padded.view(np.uint32).astype(np.uint64) @ weights
    return total


def refuse_overlap(splits: Mapping[str, Rows]) -> None:
    """Refuse fit, calibrate and test splits that share rows.

    Rows count as shared where their outputs (or records) are equal byte by byte. What is to be
    expected by chance, judged by equal rows *within* each split, is taken off: short records
    (two exits, confidences of two digits) coincide without being the same sample.

    Parameters
    ----------
    splits : mapping of str to Rows
        Streams are not compared: they may well repeat test rows.

    Raises
    ------
    InputError
        At least two rows and 5 % of the smaller split also stand in the other.

    Examples
    --------
    >>> rows = Rows(({"outputs": np.random.default_rng(0).normal(size=(9, 2, 3))},))
    >>> refuse_overlap({"fit": rows, "test": rows})
    Traceback (most recent call last):
        ...
    policyopt.runtime.errors.InputError: 'splits' must be disjoint. Got 9 of the 9 rows of 'fit'...
    """
    named = [name for name in RESERVED if name in splits]
    if len(named) < 2:
        return
    hashes = {name: _hashes(splits[name]) for name in named}
    for one, other in combinations(named, 2):
        small, large = sorted((one, other), key=lambda name: len(hashes[name]))
        count = shared_rows(hashes[small], hashes[large])
        if count >= max(2, 0.05 * len(hashes[small])):
            raise InputError(
                f"'splits' must be disjoint. Got {count} of the {len(hashes[small])} rows of "
                f"{small!r} standing also in {large!r}. Remove them from one, or give all rows "
                "as one pool to be divided (--split fit=0.5,test=0.5)."
            )


def shared_rows(small: npt.NDArray[np.uint64], large: npt.NDArray[np.uint64]) -> int:
    """Count rows of `small` that stand in `large`, beyond what chance explains.

    Parameters
    ----------
    small, large : ndarray of uint64
        Row hashes.

    Returns
    -------
    int

    Examples
    --------
    >>> shared_rows(np.arange(10, dtype=np.uint64), np.arange(5, 20, dtype=np.uint64))
    5
    """
    if len(small) == len(large) and np.array_equal(np.sort(small), np.sort(large)):
        return len(small) if len(np.unique(small)) > 1 else 0  # the same file twice
    found = int(np.isin(small, large).sum())
    # Of two independent draws, pairs coincide across the splits as often as within them.
    pairs = sum(float((c * (c - 1.0) / 2).sum()) for c in (_counts(small), _counts(large)))
    chances = sum(n * (n - 1.0) / 2 for n in (len(small), len(large)))
    expected = len(small) * len(large) * pairs / max(chances, 1.0)
    return max(0, found - int(np.ceil(2 * expected)))


def _counts(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    return np.unique(hashes, return_counts=True)[1].astype(np.float64)


def _hashes(rows: Rows) -> npt.NDArray[np.uint64]:
    names = [name for name in _TELLING if rows.has(name)]
    return np.concatenate([hash_rows([block[n] for n in names]) for block in rows.blocks])
