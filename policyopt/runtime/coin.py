"""A counter-based coin: the same (seed, sample, stream) gives the same number everywhere.

The numbers are multiples of 2**-24, so float32 and float64 runtimes hold them exactly.
Source: the SplitMix64 finaliser (Steele, Lea & Flood, OOPSLA 2014, figure 16).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GOLDEN = 0x9E3779B97F4A7C15
#: After the first two shifts, by 30 and by 27.
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def coin(seed: int, samples: npt.NDArray[np.integer], stream: int = 0) -> npt.NDArray[np.float64]:
    """Return one number in [0, 1) per sample.

    Parameters
    ----------
    seed : int
        Stands in the artifact.
    samples : ndarray of shape (n,), integers >= 0
        The sample's number: the counter. A caller counts its requests, or hashes an id.
    stream : int
        Independent coins for one sample, e.g. one per exit.

    Returns
    -------
    ndarray of shape (n,), float64, multiples of 2**-24

    Examples
    --------
    >>> coin(0, np.arange(3)).round(4)
    array([0.2691, 0.6532, 0.5782])
    """
    if not isinstance(samples, np.ndarray):  # a symbol: `policyopt.export` records what is done
        return samples.traced_coin(seed, stream)
    key, (first, second) = np.uint64(key_of(seed, stream)), map(np.uint64, MULTIPLIERS)
    with np.errstate(over="ignore"):
        z = (samples.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN) + key
        z = (z ^ (z >> np.uint64(30))) * first
        z = (z ^ (z >> np.uint64(27))) * second
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) * 2.0**-24


def key_of(seed: int, stream: int) -> int:
    """Return what is added to every counter times `GOLDEN`, of 64 bits.

    Examples
    --------
    >>> hex(key_of(0, 0))
    '0x8b4fda8c892b50e'
    """
    return _mix(_mix(seed & _MASK) ^ (stream + 1))


def _mix(z: int) -> int:
    z = (z + GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * MULTIPLIERS[0]) & _MASK
    z = ((z ^ (z >> 27)) * MULTIPLIERS[1]) & _MASK
    return z ^ (z >> 31)
