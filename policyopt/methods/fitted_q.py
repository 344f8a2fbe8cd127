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
rows weighted as `ridge` says; undiscounted, as every episode ends. With ``cross=true``, the default, a
row's target comes from coefficients that its fold did not train, as a second estimator would give it
(van Hasselt, 2010); with ``cross=false`` from all rows', as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policyopt.methods.backward_induction import Stopping, prices_of
from policyopt.methods.evidence import Evidence
from policyopt.methods.priced import Priced
from policyopt.methods.ridge import certainty, of_own_fold, ridge_without_each
from policyopt.methods.settings import check_choice, check_number
from policyopt.methods.space import Domain, Real
from policyopt.runtime.typing import Floats, Ints


@dataclass(frozen=True)
class FittedQ(Priced):
    """Regress the worth of stopping and that of going on, backwards; leave where stopping is worth more.

    Parameters
    ----------
    answer, soft, folds, mix
        As of `Priced`.
    penalty : float
        Of the ridge regressions, in rows of evidence that an exit's Q is constant.
    cross : bool
        Whether targets come from coefficients that the row's fold did not train.

    Examples
    --------
    >>> FittedQ(penalty=100)
    FittedQ(answer='combined', soft=1.0, folds=5, mix=False, penalty=100, cross=True)
    """

    penalty: float = 300.0
    cross: bool = True

    label = "fitted_q"
    groups = 50  # as of optimal_stopping, for the same reason

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("penalty", self.penalty, above=0)
        check_choice("cross", self.cross, (True, False))

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {**super().space(), "penalty": Real(10.0, 10_000.0, log=True)}

    def train(self, seen: Evidence, costs: Floats, seed: int) -> Stopping:
        """Regress backwards; see `iterate`."""
        del seed
        return iterate(
            seen.columns, seen.doubt, seen.success, costs, seen.fold, self.penalty, self.cross
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
    """Return the coefficients of ``Q_k(stop) - Q_k(go on)`` at every exit and price.

    Parameters
    ----------
    columns, doubt, success, costs, fold, penalty, prices
        As of `backward_induction`.
    cross : bool
        As of `FittedQ`.

    Returns
    -------
    Stopping

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = np.sign(rng.normal(size=(4000, 1)))
    >>> # The first exit is right where x > 0, the last one always.
    >>> success = np.concatenate([x > 0, np.ones((4000, 1))], axis=1).astype(float)
    >>> fold, doubt, price = np.arange(4000) % 5, np.ones((4000, 1)), np.array([0.1])
    >>> found = iterate([x], doubt, success, np.array([0.0, 1.0]), fold, 1.0, True, price)
    >>> bool((found.exits[:, 0] == (x[:, 0] < 0)).all())
    True
    """
    rows, exits = success.shape
    costs = np.broadcast_to(costs, (rows, exits))
    prices = prices_of(costs) if prices is None else prices
    groups = int(fold.max(initial=0)) + 1
    theta = np.zeros((groups + 1, exits - 1, columns[0].shape[1] + 1, len(prices)))
    worth = success[:, -1:] - costs[:, -1:] * prices
    taken = np.full((rows, len(prices)), exits - 1, dtype=np.int8)
    for k in range(exits - 2, -1, -1):
        earned = success[:, k, None] - costs[:, k, None] * prices
        both = np.concatenate([earned, worth], axis=1)  # one solve for the two actions
        found = ridge_without_each(columns[k], certainty(doubt[:, k]), both, fold, groups, penalty)
        stop, on = np.split(found, 2, axis=2)
        theta[:, k] = stop - on
        teacher = fold if cross else np.full(rows, groups)
        q_stop, q_on = (of_own_fold(columns[k], part, teacher) for part in (stop, on))
        worth = np.maximum(q_stop, q_on)
        own = q_stop - q_on if cross else of_own_fold(columns[k], theta[:, k], fold)
        taken[own >= 0] = k
    return Stopping(prices, theta, taken)
