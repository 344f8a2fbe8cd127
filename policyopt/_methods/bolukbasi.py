"""Layer-by-layer weighted classification: Bolukbasi et al., ICML 2017, arXiv:1702.07811.

The decisions to stop are learned from the last exit to the first. With the later ones fixed, a sample that
reaches exit k is worth ``S_k - l c_k`` if it stops, at price l of cost, and R if it goes on, what the later
decisions then earn. Which of the two is larger is its pseudo-label, and by how much, its weight: the best
decision is the classifier of least weighted error (their reduction to weighted binary classification), and
they minimise the logistic loss in the place of that error, over linear functions of what the exits' outputs
say. `optimal_stopping` regresses the difference itself instead of classifying its sign.

Departures: R comes from decisions that the row's own fold did not train (else stopping looks better than it
is, as each row's later decisions were fitted to its own outcome); the features are those of
`policyopt.runtime._scores.history`, with a ridge penalty; one family of policies for all budgets, read between
neighbouring prices, with what is left of the budget met by one common shift of all scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._answers.logistic import weighted_logistic
from policyopt._methods.exit_batch import StoppingData
from policyopt._methods.lagrangian import LagrangianMethod, Stopping, backwards, per_cost
from policyopt._methods.settings import POSITIVE, Real
from policyopt.runtime._typing import Floats, Ints

#: Prices of the whole cost range, in units of accuracy; negative ones for budgets beyond the peak.
PRICES = np.concatenate([-np.logspace(-1, -3, 4), [0.0], np.logspace(-3, 1, 13)])


@dataclass(frozen=True)
class Bolukbasi(LagrangianMethod):
    """Weighted logistic regression of whether to stop, exit by exit from the last.

    Parameters
    ----------
    answer, soft, folds, mix
        As of `LagrangianMethod`. The paper's: ``plain``, and 0, which is 0/1 correctness.
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
        """Classify backwards; see `layer_by_layer`."""
        return layer_by_layer(data.columns, data.success, costs, data.fold, self.penalty)


def layer_by_layer(
    columns: list[Floats],
    success: Floats,
    costs: Floats,
    fold: Ints,
    penalty: float,
    prices: Floats | None = None,
) -> Stopping:
    """Learn whether to stop at every exit and price, last exit first.

    Shapes: columns (N, M); success (N, K); costs (N, K) or (K,); fold (N,); prices (L,).
    """
    costs = np.broadcast_to(costs, success.shape)

    def classify(k: int, stop: Floats, go_on: Floats) -> Floats:
        weight = np.abs(stop - go_on)
        total = weight.mean(axis=0)
        weight /= np.where(total > 0, total, 1.0)
        better = (stop >= go_on).astype(np.float64)
        return weighted_logistic(columns[k], better, weight, fold, penalty)

    prices = per_cost(PRICES, costs) if prices is None else prices
    return backwards(columns, success, costs, fold, prices, classify)
