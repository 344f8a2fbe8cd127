"""Optimal stopping: leave where the estimated advantage of stopping over continuing is at least 0.

At price l of cost, stopping at exit k is worth ``S_k - l c_k`` and continuing ``R_{k+1}``, what the
later policy then earns. The advantage ``A_k(x) = E[S_k - l c_k - R_{k+1} | x]`` is regressed on what
exits 0..k show of x (`policyopt.runtime._scores.history`), last exit first; the best policy stops where it is at
least 0 (Chow, Robbins & Siegmund, 1971, for the principle; Bolukbasi et al., ICML 2017, for early exits).
One regression serves all budgets: the price of cost is the knob.

- Success of an exit's answer is not its 0/1 correctness but the probability that the calibrated
  ensemble of *all* exits gives to that answer. Later exits are known when fitting though not when
  deciding; their word replaces a coin's variance p(1-p) by a much smaller one, and needs no label.
- Answers are combined over exits where that helps on held-out rows (`policyopt._answers`).
- It is cross-fitted: a row's answers, success and scores, and so the thresholds, come from fits that
  it took no part in. (Of all rows are only the features' means and spreads, and the K yes-or-noes
  that say where answers are combined.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._methods.exit_batch import StoppingData
from policyopt._methods.lagrangian import LagrangianMethod, Stopping, backwards, per_cost
from policyopt._methods.regression import noise_weights, ridge_without_each
from policyopt._methods.settings import POSITIVE, Real
from policyopt.runtime._typing import Floats, Ints

#: Prices of the whole cost range, in units of accuracy. Negative ones order the samples beyond the
#: most accurate policy, for budgets larger than it needs: there the last to be sent on are those
#: whom continuing hurts, not a random draw.
PRICES = np.concatenate([-np.logspace(-1, -3.5, 10), [0.0], np.logspace(-3.5, 1.0, 31)])


@dataclass(frozen=True)
class OptimalStopping(LagrangianMethod):
    """Backward induction on the advantage of stopping, one family of policies for all budgets.

    Parameters
    ----------
    answer, soft, folds, mix
        As of `LagrangianMethod`.
    penalty : float
        Of the ridge regression, in rows of evidence that an exit's advantage is constant.
    """

    penalty: float = 300.0

    label = "optimal_stopping"
    allowed: ClassVar = {"penalty": POSITIVE}
    tuned: ClassVar = {"penalty": Real(10.0, 10_000.0, log=True)}
    #: Thresholds are set on scores of coefficients that a fold did not train, and deployed with
    #: those of all rows. With 5 folds these differ enough to cost 1 % too much at 400 rows and 3 % at
    #: 120 (rows as in the tests, mean of 24 draws); with 50 that is lost in noise. A fold is one small solve.
    groups = 50

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        """Regress backwards."""
        rows = data.columns, data.doubt, data.success
        return backward_induction(*rows, costs, data.fold, self.penalty)


def backward_induction(
    columns: list[Floats],
    doubt: Floats,
    success: Floats,
    costs: Floats,
    fold: Ints,
    penalty: float,
    prices: Floats | None = None,
) -> Stopping:
    """Regress the advantage of stopping at every exit and price, by cross-fitted weighted ridge regression.

    `penalty` is in rows: that many of evidence for 0. Default prices are `PRICES` over the range of the mean cost.

    Shapes: columns K-1 x (N, M); doubt (N, K-1); success (N, K); costs (N, K) or (K,); fold (N,); prices (L,).
    """
    costs = np.broadcast_to(costs, success.shape)
    groups = int(fold.max(initial=0)) + 1

    def regress(k: int, stop: Floats, go_on: Floats) -> Floats:
        weight = noise_weights(doubt[:, k])
        return ridge_without_each(columns[k], weight, stop - go_on, fold, groups, penalty)

    prices = per_cost(PRICES, costs) if prices is None else prices
    return backwards(columns, success, costs, fold, prices, regress)
