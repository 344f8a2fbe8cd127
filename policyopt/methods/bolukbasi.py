"""Layer-by-layer weighted classification: Bolukbasi et al., ICML 2017, arXiv:1702.07811.

The decisions to stop are learned from the last exit to the first. With the later ones fixed, a sample that
reaches exit k is worth ``S_k - l c_k`` if it stops, at price l of cost, and R if it goes on, what the later
decisions then earn. Which of the two is larger is its pseudo-label, and by how much, its weight: the best
decision is the classifier of least weighted error (their reduction to weighted binary classification), and
they minimise the logistic loss in the place of that error, over linear functions of what the exits' outputs
say. `optimal_stopping` regresses the difference itself instead of classifying its sign.

Departures: R comes from decisions that the row's own fold did not train (else stopping looks better than it
is, as each row's later decisions were fitted to its own outcome); the features are those of
`policyopt.runtime.features`, with a ridge penalty; one family of policies for all budgets, read between
neighbouring prices, with what is left of the budget met by one common shift of all scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policyopt.methods.backward_induction import Stopping
from policyopt.methods.evidence import Evidence
from policyopt.methods.priced import Priced
from policyopt.methods.ridge import of_own_fold
from policyopt.methods.settings import check_number
from policyopt.methods.space import Domain, Real
from policyopt.methods.weighted_logistic import weighted_logistic
from policyopt.runtime.typing import Floats, Ints

#: Prices of the whole cost range, in units of accuracy; negative ones for budgets beyond the peak.
PRICES = np.concatenate([-np.logspace(-1, -3, 4), [0.0], np.logspace(-3, 1, 13)])


@dataclass(frozen=True)
class Bolukbasi(Priced):
    """Weighted logistic regression of whether to stop, exit by exit from the last.

    Parameters
    ----------
    answer, soft, folds, mix
        As of `Priced`. The paper's: ``plain``, and 0, which is 0/1 correctness.
    penalty : float
        Of the regression, in rows of evidence that an exit decides the same for all.

    Examples
    --------
    >>> Bolukbasi(answer="plain", soft=0.0)
    Bolukbasi(answer='plain', soft=0.0, folds=5, mix=False, penalty=30.0)
    """

    penalty: float = 30.0

    label = "bolukbasi"
    #: Deployed coefficients are those of all rows: with 20 folds, the folds' own differ little from them
    #: (with 5, costs scatter visibly more about the budget).
    groups = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("penalty", self.penalty, above=0)

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {**super().space(), "penalty": Real(1.0, 1000.0, log=True)}

    def train(self, seen: Evidence, costs: Floats, seed: int) -> Stopping:
        """Classify backwards; see `layer_by_layer`."""
        del seed
        return layer_by_layer(seen.columns, seen.success, costs, seen.fold, self.penalty)


def layer_by_layer(
    columns: list[Floats],
    success: Floats,
    costs: Floats,
    fold: Ints,
    penalty: float,
    prices: Floats | None = None,
) -> Stopping:
    """Learn whether to stop at every exit and price, last exit first.

    Parameters
    ----------
    columns : list of K-1 arrays of shape (N, M)
        Basis columns of each exit but the last.
    success : ndarray of shape (N, K)
        Correctness of each exit's answer, or its expectation.
    costs : ndarray of shape (N, K) or (K,)
        Cumulative.
    fold : ndarray of shape (N,), int
    penalty : float
        See `weighted_logistic`; rows weigh 1 on average.
    prices : ndarray of shape (L,), optional
        Ascending; default `PRICES` over the range of the mean cost.

    Returns
    -------
    Stopping
        Whose coefficients give the log odds of stopping.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(4000, 1))  # exit 0 is right where x > 0
    >>> success = np.stack([x[:, 0] > 0, np.ones(4000)], axis=1).astype(float)
    >>> fold, costs, price = np.arange(4000) % 5, np.array([0.0, 1.0]), np.array([0.5])
    >>> found = layer_by_layer([np.sign(x)], success, costs, fold, 1.0, price)
    >>> float((found.exits[:, 0] == (x[:, 0] <= 0)).mean())
    1.0
    """
    rows, exits = success.shape
    costs = np.broadcast_to(costs, (rows, exits))
    if prices is None:
        span = float(np.ptp(costs.mean(axis=0)))
        prices = PRICES / (span if span > 0 else 1.0)
    groups = int(fold.max(initial=0)) + 1
    theta = np.zeros((groups + 1, exits - 1, columns[0].shape[1] + 1, len(prices)))
    reward = success[:, -1:] - costs[:, -1:] * prices
    taken = np.full(reward.shape, exits - 1, dtype=np.int8)
    for k in range(exits - 2, -1, -1):
        stop = success[:, k, None] - costs[:, k, None] * prices
        weight = np.abs(stop - reward)
        total = weight.mean(axis=0)
        weight /= np.where(total > 0, total, 1.0)
        theta[:, k] = weighted_logistic(
            columns[k], (stop >= reward).astype(np.float64), weight, fold, penalty
        )
        leave = of_own_fold(columns[k], theta[:, k], fold) >= 0
        reward = np.where(leave, stop, reward)
        taken[leave] = k
    return Stopping(prices, theta, taken)
