"""Bets against p-values being uniform: densities on [0, 1), each a table of equal cells.

A fixed bet is a Beta density, put on `CELLS` cells and scaled to mean 1. The power bets of Vovk,
Nouretdinov & Gammerman, "Testing exchangeability on-line" (ICML 2003) are Beta(e, 1);
beside them stand mirrored ones (scores that rise instead of fall) and symmetric ones (spread). Two
bets learn: the predictive density of a histogram that forgets, as the plug-in betting functions of
Fedorova et al., "Plug-in martingales for testing exchangeability on-line" (ICML 2012) learn theirs.

Departures. Densities are step functions: their mean is 1 exactly, none is infinite at 0, a step is
one look-up, and a batch gives the bits of a step. Histograms forget, since a change may come late.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..typing import Floats

#: Cells of [0, 1) on which the fixed bets are constant.
CELLS = 64
#: Cells of the histograms; divides `CELLS`.
GROUPS = 16
#: p-values that a histogram remembers, in the mean.
WINDOWS = (64.0, 512.0)
_KEEP = 1.0 - 1.0 / np.array(WINDOWS)
_DOWN = ((1.0, 1.3), (1.0, 2.0), (1.0, 4.0), (0.4, 2.0))
_SPREAD = ((0.5, 0.5), (0.8, 0.8), (2.0, 2.0), (4.0, 4.0))


def beta_bets() -> Floats:
    """Return the fixed bets, (CELLS, 12): density of each in each cell, mean 1 over the cells.

    Examples
    --------
    >>> table = beta_bets()
    >>> (
    ...     table.shape,
    ...     bool(np.allclose(table.mean(axis=0), 1.0)),
    ...     bool(table[0, 0] > 1 > table[-1, 0]),
    ... )
    ((64, 12), True, True)
    """
    middle = (np.arange(CELLS) + 0.5) / CELLS
    shapes = (*_DOWN, *((b, a) for a, b in _DOWN), *_SPREAD)
    raw = [middle ** (a - 1) * (1 - middle) ** (b - 1) for a, b in shapes]
    return np.ascontiguousarray(np.stack([d / d.mean() for d in raw], axis=1))


FIXED = beta_bets()
#: I, how many bets there are.
BETS = FIXED.shape[1] + len(WINDOWS)


def densities(p: Floats, histograms: Floats) -> Floats:
    """Return what each bet pays for a p-value.

    Parameters
    ----------
    p : ndarray of shape (..., )
        In [0, 1].
    histograms : ndarray of shape (..., 2, GROUPS)
        Of the p-values before this one.

    Returns
    -------
    ndarray of shape (..., I)
        Each has mean 1 over a uniform p, whatever the histograms hold.

    Examples
    --------
    >>> even = np.zeros((64, 2, GROUPS))
    >>> bool(np.allclose(densities(np.arange(64) / 64, even).mean(axis=0), 1.0))
    True
    """
    cell = cell_of(p)
    group = (cell // (CELLS // GROUPS))[..., None, None]
    inside = np.take_along_axis(histograms, group, axis=-1)[..., 0] + 1.0
    learned = GROUPS * inside / (histograms.sum(axis=-1) + GROUPS)
    return np.concatenate([FIXED[cell], learned], axis=-1)


def remember(histograms: Floats, p: Floats) -> Floats:
    """Return the histograms after a p-value: all entries fade, its own cell gains 1."""
    group = cell_of(p) // (CELLS // GROUPS)
    return histograms * _KEEP[:, None] + (np.arange(GROUPS) == group[..., None])[..., None, :]


def cell_of(p: Floats) -> npt.NDArray[np.int64]:
    """Return the cell of each p-value; 1.0, which rounding may give, is in the last."""
    return np.minimum((p * CELLS).astype(np.int64), CELLS - 1)
