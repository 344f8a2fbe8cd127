"""Arithmetic that gives one row the bits that it gives in a batch, and the coin.

Where the first argument is no array it is a symbol of `policyopt._export`, which records what is done.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ._typing import Floats

_PRODUCTS = 1 << 20  # held at a time
_GAPS = 1 << 15  # held at a time: they stay in the processor's cache
#: Probabilities are kept this far from 0 and 1 where their log-odds are taken.
EDGE = 1e-9
#: Of the coin: the golden ratio, and the multipliers after the first two shifts, by 30 and by 27.
GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def row_product(rows: Floats, weight: Floats) -> Floats:
    """Return ``rows @ weight.T``, (n, D) by (H, D), each row by itself.

    BLAS chooses its kernel, and with it the order of summation, by the size of the batch: a served sample could
    differ in the last bit from itself in a replay. Here each product is summed in an order set by its length.
    """
    if not isinstance(rows, np.ndarray):
        return rows.traced_linear(weight)
    rows = np.ascontiguousarray(rows, dtype=np.float64)
    out = np.empty((len(rows), len(weight)))
    step = max(_PRODUCTS // max(weight.size, 1), 1)
    for low in range(0, len(rows), step):
        part = slice(low, low + step)
        out[part] = (rows[part, None, :] * weight[None]).sum(axis=2)
    return out


def distances(rows: Floats, points: Floats) -> Floats:
    """Return the Euclidean distance of each row (n, D) to each point (P, D), (n, P)."""
    if not isinstance(rows, np.ndarray):
        return rows.traced_distances(points)
    out = np.zeros((len(rows), len(points)))
    step = max(_GAPS // max(len(points), 1), 1)
    columns = np.ascontiguousarray(points.T)
    for low in range(0, len(rows), step):
        part, total = rows[low : low + step], out[low : low + step]
        gap = np.empty_like(total)
        # One coordinate at a time: long loops side by side, in one order for one row and for many.
        for d, column in enumerate(columns):
            np.subtract(part[:, d, None], column, out=gap)
            np.multiply(gap, gap, out=gap)
            total += gap
    return np.sqrt(out, out=out)


def lookup(table: Floats, index: npt.NDArray[np.integer]) -> Floats:
    """Return ``table[index]``; -1 is the last."""
    if not isinstance(index, np.ndarray):
        return index.traced_lookup(table)
    return table[index]


def log_odds(p: Floats) -> Floats:
    """Return ``log(p / (1 - p))`` with `p` kept `EDGE` from 0 and 1."""
    p = np.clip(p, EDGE, 1 - EDGE)
    return np.log(p) - np.log1p(-p)


def sigmoid(x: Floats) -> Floats:
    """Return ``1 / (1 + exp(-x))``, precise near 0 and without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def coin(seed: int, samples: npt.NDArray[np.integer], stream: int = 0) -> Floats:
    """Return one number in [0, 1) per sample number >= 0, (n,): equal for equal (seed, sample, stream), everywhere.

    Multiples of 2**-24, so float32 and float64 runtimes hold them exactly. Source: the SplitMix64 finaliser
    (Steele, Lea & Flood, OOPSLA 2014, figure 16). `stream`: independent coins for one sample, one per exit.
    """
    if not isinstance(samples, np.ndarray):
        return samples.traced_coin(seed, stream)
    key, (first, second) = np.uint64(key_of(seed, stream)), map(np.uint64, MULTIPLIERS)
    with np.errstate(over="ignore"):
        z = (samples.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN) + key
        z = (z ^ (z >> np.uint64(30))) * first
        z = (z ^ (z >> np.uint64(27))) * second
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) * 2.0**-24


def key_of(seed: int, stream: int) -> int:
    """Return what the coin adds to every counter times `GOLDEN`, of 64 bits."""
    return _mix(_mix(seed & _MASK) ^ (stream + 1))


def _mix(z: int) -> int:
    z = (z + GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * MULTIPLIERS[0]) & _MASK
    z = ((z ^ (z >> 27)) * MULTIPLIERS[1]) & _MASK
    return z ^ (z >> 31)
