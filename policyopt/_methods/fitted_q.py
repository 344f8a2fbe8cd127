"""Fitted Q iteration: Ernst, Geurts & Wehenkel, JMLR 6 (2005), section 3.2, figure 1, on cached exits.

Each step of theirs regresses ``r + max_u Q(x', u)`` on the state x, Q being the estimate of the step
before. Here a sample meets its exits one after the other and never twice, so K-1 steps, last exit
first, are all there are (their remark on finite horizons), and the cache has both actions' outcomes:

- ``Q_k(stop)``: success at exit k, less the price of its cost, on what exits 0..k show;
- ``Q_k(go on)``: ``max(Q_{k+1}(stop), Q_{k+1}(go on))`` on the same; at the last exit, what it earns.

This is where it parts from `optimal_stopping`, whose target is what the later policy *earns* on the
row. An estimate has less noise than an outcome, but it hands its own error on: that of a linear Q, and
the upward bias of a maximum over estimates.

Departures: ridge regression on history features instead of trees, so that the rule is K-1 short sums;
rows weighted as `regression` says; undiscounted, as every episode ends. With ``cross=true``, the default, a
row's target comes from coefficients that its fold did not train, as a second estimator would give it
(van Hasselt, 2010); with ``cross=false`` from all rows', as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._methods.exit_batch import StoppingData
from policyopt._methods.lagrangian import LagrangianMethod, Stopping, per_cost
from policyopt._methods.optimal_stopping import PRICES
from policyopt._methods.regression import noise_weights, of_own_fold, ridge_without_each
from policyopt._methods.settings import POSITIVE, YES_OR_NO, Real
from policyopt.runtime._typing import Floats, Ints


@dataclass(frozen=True)
class FittedQ(LagrangianMethod):
    """Regress the worth of stopping and that of going on, backwards; leave where stopping is worth more.

    Parameters
    ----------
    answer, soft, folds, mix
        As of `LagrangianMethod`.
    penalty : float
        Of the ridge regressions, in rows of evidence that an exit's Q is constant.
    cross : bool
        Whether targets come from coefficients that the row's fold did not train.
    """

    penalty: float = 300.0
    cross: bool = True

    label = "fitted_q"
    allowed: ClassVar = {"penalty": POSITIVE, "cross": YES_OR_NO}
    tuned: ClassVar = {"penalty": Real(10.0, 10_000.0, log=True)}
    groups = 50  # as of optimal_stopping, for the same reason

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        """Regress backwards; see `iterate`."""
        return iterate(
            data.columns, data.doubt, data.success, costs, data.fold, self.penalty, self.cross
        )


def iterate(
    columns: list[Floats],
    doubt: Floats,
    success: Floats,
    costs: Floats,
    fold: Ints,
    penalty: float,
    cross: bool = True,
    prices: Floats | None = None,
) -> Stopping:
    """Return the coefficients of ``Q_k(stop) - Q_k(go on)`` at every exit and price."""
    rows, exits = success.shape
    costs = np.broadcast_to(costs, (rows, exits))
    prices = per_cost(PRICES, costs) if prices is None else prices
    groups = int(fold.max(initial=0)) + 1
    theta = np.zeros((groups + 1, exits - 1, columns[0].shape[1] + 1, len(prices)))
    worth = success[:, -1:] - costs[:, -1:] * prices
    for k in range(exits - 2, -1, -1):
        earned = success[:, k, None] - costs[:, k, None] * prices
        both = np.concatenate([earned, worth], axis=1)  # one solve for the two actions
        weight = noise_weights(doubt[:, k])
        found = ridge_without_each(columns[k], weight, both, fold, groups, penalty)
        stop, on = np.split(found, 2, axis=2)
        theta[:, k] = stop - on
        teacher = fold if cross else np.full(rows, groups)
        q_stop, q_on = (of_own_fold(columns[k], part, teacher) for part in (stop, on))
        worth = np.maximum(q_stop, q_on)
    return Stopping(prices, theta)
