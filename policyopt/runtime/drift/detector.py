"""One request's step of the watch, for R streams and J statistics side by side: pure arithmetic.

For each statistic: a smoothed conformal p-value of the request's cell among the pool (reference and
all requests so far), what the bets pay for it, and per bet the Shiryaev-Roberts sum
``R <- f(p) (1 + R)``. What is proven of it stands in `policyopt.runtime.drift.watch`.

Sources: p-values, Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World" (smoothed
conformal transducers); the sum, Shin, Ramdas & Rinaldo, "E-detectors" (NEJSDS 2024; e-SR and its
mixtures), on conformal p-values Vovk et al., "Retrain or not retrain" (COPA 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..typing import Floats, Ints
from .bets import BETS, GROUPS, WINDOWS, densities, remember

_MOST = 1e300  # sums stop there: a bet that stops winning keeps a supermartingale


@dataclass(frozen=True, eq=False)
class Sums:
    """All that the watch remembers of R streams; arrays are changed in place.

    Attributes
    ----------
    pool : ndarray of shape (R, J, M), int64
        Rows per cell: reference and requests so far.
    sums : ndarray of shape (R, J, I), float64
        Shiryaev-Roberts sum of each bet.
    histograms : ndarray of shape (R, J, 2, GROUPS), float64
        What the bets that learn have learned.
    run : ndarray of shape (R, J), float64
        CUSUM of the bets together, whose last start estimates when the change came.
    start : ndarray of shape (R, J), int64
        Request at which that run started.
    recent : ndarray of shape (R, J, M), int64
        Requests per cell since.
    moments : ndarray of shape (R, J, 2), float64
        Sums of (score - reference mean), and of its square, since.
    """

    pool: Ints
    sums: Floats
    histograms: Floats
    run: Floats
    start: Ints
    recent: Ints
    moments: Floats


def start_sums(pool: Ints, streams: int = 1) -> Sums:
    """Return the sums before the first request, of a reference with `pool` (J, M) rows per cell."""
    shape = (streams, len(pool))
    return Sums(
        np.repeat(np.asarray(pool, dtype=np.int64)[None], streams, axis=0),
        np.zeros((*shape, BETS)),
        np.zeros((*shape, len(WINDOWS), GROUPS)),
        np.ones(shape),
        np.zeros(shape, dtype=np.int64),
        np.zeros((streams, *pool.shape), dtype=np.int64),
        np.zeros((*shape, 2)),
    )


def smoothed(pool: Ints, cells: Ints, coins: Floats) -> Floats:
    """Return smoothed conformal p-values: the place of a cell among the pool and itself.

    Parameters
    ----------
    pool : ndarray of shape (R, J, M), int64
        Rows per cell, the new one not among them.
    cells : ndarray of shape (R, J), int64
    coins : ndarray of shape (R, J), float64
        Uniform on [0, 1): the place among equals.

    Returns
    -------
    ndarray of shape (R, J), float64
        ``(rows below + coin * rows equal, itself counted) / all rows``.

    Examples
    --------
    >>> smoothed(np.array([[[3, 1, 0]]]), np.array([[1]]), np.array([[0.5]]))
    array([[0.8]])
    """
    below = (pool * (np.arange(pool.shape[-1]) < cells[..., None])).sum(axis=-1)
    equal = np.take_along_axis(pool, cells[..., None], axis=-1)[..., 0] + 1
    return (below + coins * equal) / (pool.sum(axis=-1) + 1)


def advance(state: Sums, cells: Ints, values: Floats, coins: Floats, request: int) -> Floats:
    """Take one request of each stream into the sums.

    Parameters
    ----------
    state : Sums
        Changed in place.
    cells : ndarray of shape (R, J), int64
        Cell of each statistic; -1 where the request has none: that statistic stands still.
    values : ndarray of shape (R, J), float64
        Score less the reference's mean; 0 of a class or an exit.
    coins : ndarray of shape (R, J), float64
    request : int
        Its number.

    Returns
    -------
    ndarray of shape (R, J), float64
        Each statistic's sum, the mean over its bets.
    """
    here = cells >= 0
    at = np.where(here, cells, 0)
    p = smoothed(state.pool, at, coins)
    before = state.sums + 1.0
    after = np.minimum(densities(p, state.histograms) * before, _MOST)
    growth = after.sum(axis=-1) / before.sum(axis=-1)
    np.copyto(state.sums, after, where=here[..., None])
    np.copyto(state.histograms, remember(state.histograms, p), where=here[..., None, None])
    fresh = here & (state.run <= 1.0)
    state.start[fresh] = request
    state.recent[fresh] = 0
    state.moments[fresh] = 0.0
    run = np.minimum(np.maximum(state.run, 1.0) * growth, _MOST)
    np.copyto(state.run, run, where=here)
    own = here[..., None] & (np.arange(state.pool.shape[-1]) == at[..., None])
    state.recent[...] += own
    state.pool[...] += own
    gain = np.stack([values, values * values], axis=-1)
    np.add(state.moments, gain, out=state.moments, where=here[..., None])
    return state.sums.mean(axis=-1)


def first_alarms(
    pool: Ints, cells: Ints, coins: Floats, limits: Floats
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return when R simulated streams first raise an alarm, and by which statistic.

    Parameters
    ----------
    pool : ndarray of shape (J, M) or (R, J, M), int64
        Reference rows per cell.
    cells : ndarray of shape (R, T, J), int64
    coins : ndarray of shape (R, T, J), float64
    limits : ndarray of shape (J,), float64

    Returns
    -------
    (ndarray of shape (R,), ndarray of shape (R,)), int64
        Requests until the alarm, and the statistic; T + 1 and -1 where there was none.
    """
    streams, rounds, _ = cells.shape
    state = start_sums(pool if pool.ndim == 2 else pool[0], streams)
    if pool.ndim == 3:
        state.pool[...] = pool
    when = np.full(streams, rounds + 1)
    which = np.full(streams, -1)
    nothing = np.zeros(cells[:, 0].shape)
    for t in range(rounds):
        ratio = advance(state, cells[:, t], nothing, coins[:, t], t) / limits
        new = (ratio.max(axis=1) >= 1.0) & (which < 0)
        when[new] = t + 1
        which[new] = ratio[new].argmax(axis=1)
        if (which >= 0).all():
            break
    return when, which
