"""Bets against p-values being uniform, and their sums: one request's step of the watch.

For each statistic: a smoothed conformal p-value of the request's cell among the pool (reference and
all requests so far), what the bets pay for it, and per bet the Shiryaev-Roberts sum
``R <- f(p) (1 + R)``. What is proven of it stands in `policyopt.runtime._drift`.

A bet is a density on [0, 1), a table of equal cells. A fixed one is a Beta density, put on `CELLS`
cells and scaled to mean 1. The power bets of Vovk, Nouretdinov & Gammerman, "Testing exchangeability
on-line" (ICML 2003) are Beta(e, 1); beside them stand mirrored ones (scores that rise instead of fall)
and symmetric ones (spread). Two bets learn: the predictive density of a histogram that forgets, as the
plug-in betting functions of Fedorova et al., "Plug-in martingales for testing exchangeability on-line"
(ICML 2012) learn theirs.

Sources: p-values, Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World" (smoothed
conformal transducers); the sum, Shin, Ramdas & Rinaldo, "E-detectors" (NEJSDS 2024; e-SR and its
mixtures), on conformal p-values Vovk et al., "Retrain or not retrain" (COPA 2021).

Departures. Densities are step functions: their mean is 1 exactly, none is infinite at 0, a step is
one look-up, and a batch gives the bits of a step. Histograms forget, since a change may come late.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._typing import Floats, Ints

#: Cells of [0, 1) on which the fixed bets are constant.
CELLS = 64
#: Cells of the histograms; divides `CELLS`.
GROUPS = 16
#: p-values that a histogram remembers, in the mean.
WINDOWS = (64.0, 512.0)
_KEEP = 1.0 - 1.0 / np.array(WINDOWS)
_DOWN = ((1.0, 1.3), (1.0, 2.0), (1.0, 4.0), (0.4, 2.0))
_SPREAD = ((0.5, 0.5), (0.8, 0.8), (2.0, 2.0), (4.0, 4.0))
_MOST = 1e300  # sums stop there: a bet that stops winning keeps a supermartingale


def beta_bets() -> Floats:
    """Return the fixed bets, (CELLS, 12): density of each in each cell, mean 1 over the cells."""
    middle = (np.arange(CELLS) + 0.5) / CELLS
    shapes = (*_DOWN, *((b, a) for a, b in _DOWN), *_SPREAD)
    raw = [middle ** (a - 1) * (1 - middle) ** (b - 1) for a, b in shapes]
    return np.ascontiguousarray(np.stack([d / d.mean() for d in raw], axis=1))


FIXED = beta_bets()
#: I, how many bets there are.
BETS = FIXED.shape[1] + len(WINDOWS)


def densities(p: Floats, histograms: Floats) -> Floats:
    """Return what each bet pays for p-values (...): (..., I), each of mean 1 over a uniform p.

    The histograms, (..., 2, GROUPS), are of the p-values before.
    """
    cell = _cell_of(p)
    group = (cell // (CELLS // GROUPS))[..., None, None]
    inside = np.take_along_axis(histograms, group, axis=-1)[..., 0] + 1.0
    learned = GROUPS * inside / (histograms.sum(axis=-1) + GROUPS)
    return np.concatenate([FIXED[cell], learned], axis=-1)


def remember(histograms: Floats, p: Floats) -> Floats:
    """Return the histograms after a p-value: all entries fade, its own cell gains 1."""
    group = _cell_of(p) // (CELLS // GROUPS)
    return histograms * _KEEP[:, None] + (np.arange(GROUPS) == group[..., None])[..., None, :]


def _cell_of(p: Floats) -> Ints:
    """Return the cell of each p-value; 1.0, which rounding may give, is in the last."""
    return np.minimum((p * CELLS).astype(np.int64), CELLS - 1)


@dataclass(frozen=True, eq=False)
class Sums:
    """All that the watch remembers of R streams; arrays are changed in place."""

    pool: Ints  # (R, J, M): rows per cell, reference and requests so far
    sums: Floats  # (R, J, I): Shiryaev-Roberts sum of each bet
    histograms: Floats  # (R, J, 2, GROUPS): what the bets that learn have learned
    run: Floats  # (R, J): CUSUM of the bets together, whose last start estimates when the change came
    start: Ints  # (R, J): request at which that run started
    recent: Ints  # (R, J, M): requests per cell since
    moments: Floats  # (R, J, 2): sums of (score - reference mean), and of its square, since


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
    """Return smoothed conformal p-values (R, J): the place of a cell among the pool and itself.

    ``(rows below + coin * rows equal, itself counted) / all rows``, of pools (R, J, M) that the new rows are
    not in, their cells (R, J), and coins (R, J), uniform on [0, 1): the place among equals.
    """
    below = (pool * (np.arange(pool.shape[-1]) < cells[..., None])).sum(axis=-1)
    equal = np.take_along_axis(pool, cells[..., None], axis=-1)[..., 0] + 1
    return (below + coins * equal) / (pool.sum(axis=-1) + 1)


def advance(state: Sums, cells: Ints, values: Floats, coins: Floats, request: int) -> Floats:
    """Take one request of each stream into `state`; return each statistic's sum, the mean over bets.

    Cells (R, J) are -1 where the request has none: that statistic stands still. `values` (R, J) are
    scores less the reference's mean, 0 of a class or an exit; `coins` (R, J) as of `smoothed`.
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


def first_alarms(pool: Ints, cells: Ints, coins: Floats, limits: Floats) -> tuple[Ints, Ints]:
    """Return when R simulated streams first raise an alarm, and by which statistic.

    Of a pool (J, M) or (R, J, M), cells and coins (R, T, J), and limits (J,): requests until the alarm
    (R,), and its statistic (R,); T + 1 and -1 where there was none.
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
