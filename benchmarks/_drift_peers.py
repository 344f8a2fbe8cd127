"""Detectors to hold the drift watch against: each a level per request, for R streams at once."""

from __future__ import annotations

import numpy as np

from policyopt.runtime._drift import advance, start_sums
from policyopt.runtime._typing import Floats, Ints

_EVERY = 5  # requests between two tests of a window


def watch_levels(pools: Ints, cells: Ints, seed: int = 0, coins: Floats | None = None) -> Floats:
    """Return each statistic's sum at each request, (R, T, J), of pools (R, J, M), cells (R, T, J)."""
    coins = np.random.default_rng(seed).random(cells.shape) if coins is None else coins
    state = start_sums(pools[0], len(pools))
    state.pool[...] = pools
    out = np.empty(cells.shape)
    nothing = np.zeros(cells[:, 0].shape)
    for t in range(cells.shape[1]):
        out[:, t] = advance(state, cells[:, t], nothing, coins[:, t], t)
    return out


def kolmogorov_smirnov(reference: Floats, stream: Floats, window: int) -> Floats:
    """Return the two-sample distance of the last `window` scores from the reference, (R, T).

    Parameters
    ----------
    reference : ndarray of shape (R, n)
    stream : ndarray of shape (R, T)
        0 until a window is full; tested every five requests.
    """
    n = reference.shape[1]
    ordered = np.sort(reference, axis=1)
    below = np.stack([np.searchsorted(o, s, "left") for o, s in zip(ordered, stream, strict=True)])
    upto = np.stack([np.searchsorted(o, s, "right") for o, s in zip(ordered, stream, strict=True)])
    out = np.zeros(stream.shape)
    steps = np.arange(window)
    for t in range(window - 1, stream.shape[1], _EVERY):
        part = slice(t - window + 1, t + 1)
        order = np.argsort(stream[:, part], axis=1)
        low = np.take_along_axis(below[:, part], order, axis=1) / n
        high = np.take_along_axis(upto[:, part], order, axis=1) / n
        # The largest gap is at a score of the window, from one side or the other.
        gap = np.maximum(low - steps / window, (steps + 1) / window - high).max(axis=1)
        out[:, t : t + _EVERY] = gap[:, None]
    return out


def page_hinkley(reference: Floats, stream: Floats, slack: float = 0.005) -> Floats:
    """Return Page's statistic of the mean, both ways, (R, T): the larger of rise and fall.

    The mean is that of the reference and of all scores so far (as in Gama et al., "A survey on
    concept drift adaptation", 2014); `slack` is what is forgiven per request.
    """
    n = reference.shape[1]
    total = reference.sum(axis=1)[:, None] + stream.cumsum(axis=1)
    away = stream - total / (n + np.arange(1, stream.shape[1] + 1))
    levels = []
    for sign in (1, -1):
        walk = (sign * away - slack).cumsum(axis=1)
        lowest = np.minimum.accumulate(np.minimum(walk, 0.0), axis=1)
        levels.append(walk - lowest)
    return np.maximum(*levels)


def first_time(levels: Floats, limit: float) -> Ints:
    """Return at which request (from 1) each stream's level reaches the limit, (R,); T + 1: never."""
    over = levels >= limit
    return np.where(over.any(axis=1), over.argmax(axis=1) + 1, levels.shape[1] + 1)
