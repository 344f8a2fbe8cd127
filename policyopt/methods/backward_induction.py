"""Backward induction on the advantage of stopping, by cross-fitted weighted ridge regression.

At price l of cost, stopping at exit k is worth ``S_k - l c_k`` and continuing ``R_{k+1}``, what the
later policy then earns. The advantage ``A_k(x) = E[S_k - l c_k - R_{k+1} | x]`` is regressed on what
exits 0..k show of x, last exit first; the best policy stops where it is at least 0 (Chow, Robbins &
Siegmund, 1971, for the principle; Bolukbasi et al., ICML 2017, for early exits).

Each row's R comes from coefficients that its own fold did not train, else stopping looks better
than it is. All rows train all exits: whether a row gets to exit k depends on what the regression
is given anyway, so nothing is selected and nothing need be thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policyopt.methods.ridge import certainty, of_own_fold, ridge_without_each
from policyopt.runtime.typing import Floats, Ints

#: Prices of the whole cost range, in units of accuracy. Negative ones order the samples beyond the
#: most accurate policy, for budgets larger than it needs: there the last to be sent on are those
#: whom continuing hurts, not a random draw.
PRICES = np.concatenate([-np.logspace(-1, -3.5, 10), [0.0], np.logspace(-3.5, 1.0, 31)])


@dataclass(frozen=True, eq=False)
class Stopping:
    """Coefficients of the advantage, for every price.

    Attributes
    ----------
    prices : ndarray of shape (L,)
        Ascending, in value per unit of cost.
    theta : ndarray of shape (G+1, K-1, M+1, L)
        Offset and weights; one set per fold (trained on the others), and last that of all rows.
    exits : ndarray of shape (N, L), int8
        Exit each row takes under its own fold's set.
    """

    prices: Floats
    theta: Floats
    exits: npt.NDArray[np.int8]

    def at(self, place: float) -> Floats:
        """Return the coefficients at a place between the prices, (G+1, K-1, M+1)."""
        low = int(np.clip(np.floor(place), 0, len(self.prices) - 2))
        part = place - low
        return (1 - part) * self.theta[..., low] + part * self.theta[..., low + 1]


def scores_of(theta: Floats, columns: list[Floats], fold: Ints) -> Floats:
    """Return each row's advantages under its own fold's coefficients, and 0 at the last exit.

    Parameters
    ----------
    theta : ndarray of shape (G+1, K-1, M+1)
    columns : list of K-1 arrays (N, M)
    fold : ndarray of shape (N,), int

    Returns
    -------
    ndarray of shape (N, K)
    """
    out = np.zeros((len(fold), len(columns) + 1), order="F")
    for k, basis in enumerate(columns):
        own = theta[fold, k]  # each row's coefficients: with many folds faster than fold by fold
        out[:, k] = np.einsum("nm,nm->n", basis, own[:, 1:]) + own[:, 0]
    return out


def prices_of(costs: Floats) -> Floats:
    """Return `PRICES` in value per unit of costs (N, K) or (K,)."""
    span = float(np.ptp(np.atleast_2d(costs).mean(axis=0)))
    return PRICES / (span if span > 0 else 1.0)


def backward_induction(
    columns: list[Floats],
    doubt: Floats,
    success: Floats,
    costs: Floats,
    fold: Ints,
    penalty: float,
    prices: Floats | None = None,
) -> Stopping:
    """Regress the advantage of stopping at every exit and price.

    Parameters
    ----------
    columns : list of K-1 arrays of shape (N, M)
        Basis columns of each exit but the last.
    doubt : ndarray of shape (N, K-1)
        ``1 - p_max`` of each exit's answer.
    success : ndarray of shape (N, K)
        Correctness of each exit's answer, or its expectation.
    costs : ndarray of shape (N, K) or (K,)
        Cumulative.
    fold : ndarray of shape (N,), int
    penalty : float
        Ridge penalty on standardised columns, in rows: that many rows of evidence for 0.
    prices : ndarray of shape (L,), optional
        Ascending; default `PRICES` over the range of the mean cost.

    Returns
    -------
    Stopping

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(4000, 1))  # the first exit is right where x > 0, the last one always
    >>> success = np.stack([x[:, 0] > 0, np.ones(4000)], axis=1).astype(float)
    >>> found = backward_induction(
    ...     [np.sign(x)],
    ...     np.ones((4000, 1)),
    ...     success,
    ...     np.array([0.0, 1.0]),
    ...     np.arange(4000) % 5,
    ...     1.0,
    ...     np.array([0.1, 0.5]),
    ... )
    >>> [round(float((found.exits[:, i] == (x[:, 0] <= 0)).mean()), 2) for i in (0, 1)]
    [1.0, 1.0]
    """
    rows, exits = success.shape
    costs = np.broadcast_to(costs, (rows, exits))
    if prices is None:
        prices = prices_of(costs)
    groups = int(fold.max(initial=0)) + 1
    theta = np.zeros((groups + 1, exits - 1, columns[0].shape[1] + 1, len(prices)))
    reward = success[:, -1:] - costs[:, -1:] * prices
    taken = np.full((rows, len(prices)), exits - 1, dtype=np.int8)
    for k in range(exits - 2, -1, -1):
        stop = success[:, k, None] - costs[:, k, None] * prices
        weight = certainty(doubt[:, k])
        theta[:, k] = ridge_without_each(columns[k], weight, stop - reward, fold, groups, penalty)
        leave = of_own_fold(columns[k], theta[:, k], fold) >= 0
        reward = np.where(leave, stop, reward)
        taken[leave] = k
    return Stopping(prices, theta, taken)
