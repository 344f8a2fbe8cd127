"""Decisions learned from the last exit to the first: optimal stopping, Bolukbasi et al., fitted Q iteration.

Optimal stopping: leave where the estimated advantage of stopping over continuing is at least 0. At price l of
cost, stopping at exit k is worth ``S_k - l c_k`` and continuing ``R_{k+1}``, what the later policy then earns.
The advantage ``A_k(x) = E[S_k - l c_k - R_{k+1} | x]`` is regressed on what exits 0..k show of x
(`policyopt.runtime._scores.history`), last exit first; the best policy stops where it is at least 0 (Chow,
Robbins & Siegmund, 1971, for the principle; Bolukbasi et al., ICML 2017, for early exits). One regression serves
all budgets: the price of cost is the knob.

- Success of an exit's answer is not its 0/1 correctness but the probability that the calibrated ensemble of *all*
  exits gives to that answer. Later exits are known when fitting though not when deciding; their word replaces a
  coin's variance p(1-p) by a much smaller one, and needs no label.
- Answers are combined over exits where that helps on held-out rows (`policyopt._answers`).
- It is cross-fitted: a row's answers, success and scores, and so the thresholds, come from fits that it took no
  part in. (Of all rows are only the features' means and spreads, and the K yes-or-noes that say where answers are
  combined.)

Layer-by-layer weighted classification: Bolukbasi et al., ICML 2017, arXiv:1702.07811. The decisions to stop are
learned from the last exit to the first. With the later ones fixed, a sample that reaches exit k is worth ``S_k -
l c_k`` if it stops, at price l of cost, and R if it goes on, what the later decisions then earn. Which of the two
is larger is its pseudo-label, and by how much, its weight: the best decision is the classifier of least weighted
error (their reduction to weighted binary classification), and they minimise the logistic loss in the place of
that error, over linear functions of what the exits' outputs say. `optimal_stopping` regresses the difference
itself instead of classifying its sign.

Departures: R comes from decisions that the row's own fold did not train (else stopping looks better than it is,
as each row's later decisions were fitted to its own outcome); the features are those of
`policyopt.runtime._scores.history`, with a ridge penalty; one family of policies for all budgets, read between
neighbouring prices, with what is left of the budget met by one common shift of all scores.

Fitted Q iteration: Ernst, Geurts & Wehenkel, JMLR 6 (2005), section 3.2, figure 1, on cached exits. Each step of
theirs regresses ``r + max_u Q(x', u)`` on the state x, Q being the estimate of the step before. Here a sample
meets its exits one after the other and never twice, so K-1 steps, last exit first, are all there are (their
remark on finite horizons), and the cache has both actions' outcomes:

- ``Q_k(stop)``: success at exit k, less the price of its cost, on what exits 0..k show;
- ``Q_k(go on)``: ``max(Q_{k+1}(stop), Q_{k+1}(go on))`` on the same; at the last exit, what it earns.

This is where it parts from `optimal_stopping`, whose target is what the later policy *earns* on the row. An
estimate has less noise than an outcome, but it hands its own error on: that of a linear Q, and the upward bias of
a maximum over estimates.

Departures: ridge regression on history features instead of trees, so that the rule is K-1 short sums; rows
weighted as `regression` says; undiscounted, as every episode ends. With ``cross=true``, the default, a row's
target comes from coefficients that its fold did not train, as a second estimator would give it (van Hasselt,
2010); with ``cross=false`` from all rows', as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._answers.logistic import weighted_logistic
from policyopt._methods.exit_batch import StoppingData
from policyopt._methods.lagrangian import LagrangianMethod, Stopping, per_cost
from policyopt._methods.regression import noise_weights, of_own_fold, ridge_without_each
from policyopt._methods.settings import POSITIVE, YES_OR_NO, Real
from policyopt.runtime._typing import Floats

#: Prices of the whole cost range, in units of accuracy. Negative ones order the samples beyond the
#: most accurate policy, for budgets larger than it needs: there the last to be sent on are those
#: whom continuing hurts, not a random draw.
PRICES = np.concatenate([-np.logspace(-1, -3.5, 10), [0.0], np.logspace(-3.5, 1.0, 31)])
#: The same of `Bolukbasi`, whose regressions take longer.
_FEWER_PRICES = np.concatenate([-np.logspace(-1, -3, 4), [0.0], np.logspace(-3, 1, 13)])


@dataclass(frozen=True)
class OptimalStopping(LagrangianMethod):
    """Backward induction on the advantage of stopping, one family of policies for all budgets.

    Parameters
    ----------
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
        costs = np.broadcast_to(costs, data.success.shape)
        return backward_induction(data, costs, self.penalty, per_cost(PRICES, costs))


@dataclass(frozen=True)
class Bolukbasi(LagrangianMethod):
    """Weighted logistic regression of whether to stop, exit by exit from the last.

    The paper's settings: ``answer=plain``, and ``soft=0``, which is 0/1 correctness.

    Parameters
    ----------
    penalty : float
        Of the regression, in rows of evidence that an exit decides the same for all.
    """

    penalty: float = 30.0

    label = "bolukbasi"
    allowed: ClassVar = {"penalty": POSITIVE}
    tuned: ClassVar = {"penalty": Real(1.0, 1000.0, log=True)}
    #: Deployed coefficients are those of all rows: with 20 folds, the folds' own differ little from them
    #: (with 5, costs scatter visibly more about the budget).
    groups = 20

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        costs = np.broadcast_to(costs, data.success.shape)
        return layer_by_layer(data, costs, self.penalty, per_cost(_FEWER_PRICES, costs))


@dataclass(frozen=True)
class FittedQ(LagrangianMethod):
    """Regress the worth of stopping and that of going on, backwards; leave where stopping is worth more.

    Parameters
    ----------
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
        costs = np.broadcast_to(costs, data.success.shape)
        return q_iteration(data, costs, self.penalty, per_cost(PRICES, costs), self.cross)


def backward_induction(
    data: StoppingData, costs: Floats, penalty: float, prices: Floats
) -> Stopping:
    """Regress the advantage of stopping by cross-fitted weighted ridge regression; `penalty` in rows."""

    def regress(k: int, stop: Floats, go_on: Floats) -> tuple[Floats, Floats]:
        weight = noise_weights(data.doubt[:, k])
        theta = ridge_without_each(data.columns[k], weight, stop - go_on, data.fold, penalty)
        return theta, _earned(data, k, theta, stop, go_on)

    return _backwards(data, costs, prices, regress)


def layer_by_layer(data: StoppingData, costs: Floats, penalty: float, prices: Floats) -> Stopping:
    """Classify whether stopping is worth more, by how much it is."""

    def classify(k: int, stop: Floats, go_on: Floats) -> tuple[Floats, Floats]:
        weight = np.abs(stop - go_on)
        total = weight.mean(axis=0)
        weight /= np.where(total > 0, total, 1.0)
        better = (stop >= go_on).astype(np.float64)
        theta = weighted_logistic(data.columns[k], better, weight, data.fold, penalty)
        return theta, _earned(data, k, theta, stop, go_on)

    return _backwards(data, costs, prices, classify)


def q_iteration(
    data: StoppingData, costs: Floats, penalty: float, prices: Floats, cross: bool
) -> Stopping:
    """Regress both actions' worth: what coming to an exit is worth is the larger estimate."""
    teacher = data.fold if cross else np.full(len(data.fold), data.fold.max(initial=0) + 1)

    def regress(k: int, stop: Floats, go_on: Floats) -> tuple[Floats, Floats]:
        both = np.concatenate([stop, go_on], axis=1)  # one solve for the two actions
        weight = noise_weights(data.doubt[:, k])
        found = ridge_without_each(data.columns[k], weight, both, data.fold, penalty)
        q_stop, q_on = np.split(found, 2, axis=2)
        estimates = (of_own_fold(data.columns[k], q, teacher) for q in (q_stop, q_on))
        return q_stop - q_on, np.maximum(*estimates)

    return _backwards(data, costs, prices, regress)


def _earned(data: StoppingData, k: int, theta: Floats, stop: Floats, go_on: Floats) -> Floats:
    """Return what rows earn from exit k on by coefficients that their own fold did not train, (N, L).

    By its own fold's stopping looks better than it is.
    """
    return np.where(of_own_fold(data.columns[k], theta, data.fold) >= 0, stop, go_on)


def _backwards(
    data: StoppingData,
    costs: Floats,
    prices: Floats,
    learn: Callable[[int, Floats, Floats], tuple[Floats, Floats]],
) -> Stopping:
    """Learn whether to stop at every exit and price, the last exit first, with the later decisions fixed.

    `learn(k, stop, go_on)` returns offsets and weights (G+1, M+1, L) whose products are at least 0 where it is
    better to stop, from what the two are worth to each row, (N, L), and what coming to exit k is worth, (N, L).
    All rows train all exits: whether a row gets to exit k depends on what the regression is given anyway, so
    nothing is selected and nothing need be thrown away. Shapes: costs (N, K), cumulative; prices (L,).
    """
    costs = np.broadcast_to(costs, data.success.shape)
    thetas, worth = [], data.success[:, -1:] - costs[:, -1:] * prices
    for k in range(len(data.columns) - 1, -1, -1):
        stop = data.success[:, k, None] - costs[:, k, None] * prices
        theta, worth = learn(k, stop, worth)
        thetas.insert(0, theta)
    return Stopping(prices, np.stack(thetas, axis=1))
