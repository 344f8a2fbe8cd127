"""Policy gradient without sampling: Sutton et al., NIPS 1999, theorem 1, summed out over cached outcomes.

The policy is a coin at each exit, ``s_k = sigmoid(b A_k(x))`` with A_k linear in the history features;
a sample leaves at exit k with probability ``p_k = s_k (1 - s_0) ... (1 - s_{k-1})`` and is worth
``J = mean_n sum_k p_nk R_nk``, R being success less the price of cost. Outside of caches the gradient of
J must be estimated from episodes (REINFORCE); here every R is known, so it is exact:

    dJ/dz_k = (reach k) s_k (1 - s_k) (R_k - V_{k+1}),    z_k = b A_k,

V_{k+1} being what going on is worth under the same policy. The only noise left is that of the rows.

J is maximised by L-BFGS, with b = 2 and 5 in turn: the coins become the hard decisions that are
deployed. It has local maxima, in which folds differ and budgets are missed; so A starts at the advantages
of `backward_induction`, and a quadratic penalty holds it near them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._methods.exit_batch import StoppingData
from policyopt._methods.lagrangian import LagrangianMethod, Stopping, per_cost
from policyopt._methods.optimal_stopping import PRICES, backward_induction
from policyopt._methods.settings import COUNT, NOT_NEGATIVE, Real
from policyopt.runtime._arithmetic import sigmoid
from policyopt.runtime._typing import Floats

_SHARPNESS = (2.0, 5.0)
_EVERY = 2  # of `PRICES`: between them coefficients are interpolated


@dataclass(frozen=True)
class PolicyGradient(LagrangianMethod):
    """Climb the expected worth of a randomised policy; deploy its more likely decisions.

    Parameters
    ----------
    answer, soft, folds, mix
        As of `LagrangianMethod`.
    penalty : float
        What holds the coefficients near their start, in rows.
    steps : int
        Of L-BFGS, at most, at each sharpness.
    """

    penalty: float = 1000.0
    steps: int = 10

    label = "policy_gradient"
    allowed: ClassVar = {"penalty": NOT_NEGATIVE, "steps": COUNT}
    tuned: ClassVar = {"penalty": Real(10.0, 10_000.0, log=True)}

    def groups_of(self, rows: int) -> int:
        """More groups for few rows, where each matters more: with 5, 400 rows cost 2 % too much."""
        return max(self.groups, min(20, 10_000 // rows))

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        """Climb at each price, without each group of rows in turn, and on all rows."""
        prices = per_cost(PRICES, costs)[::_EVERY]
        found = backward_induction(
            data.columns, data.doubt, data.success, costs, data.fold, max(self.penalty, 1.0), prices
        )
        columns = [np.insert(basis, 0, 1.0, axis=1) for basis in data.columns]
        theta = np.empty_like(found.theta)
        for g in range(len(theta)):
            rows = np.flatnonzero(data.fold != g)  # of the last set: all
            mine = [basis[rows] for basis in columns]
            for i in range(len(prices)):
                reward = (data.success - costs * prices[i])[rows]
                # Steps are taken where the mean advantage is 1; advantages come back, since between
                # prices these are nearly straight lines, and sizes are not.
                size = size_of(found.theta[-1, ..., i], columns)
                start = found.theta[g, ..., i] / size
                theta[g, ..., i] = size * climb(start, mine, reward, self.penalty, self.steps)
        return Stopping(prices, theta)


def size_of(theta: Floats, columns: list[Floats]) -> float:
    """Return the mean size of the advantages that coefficients (K-1, M+1) give; 1 where all are 0."""
    pairs = zip(columns, theta, strict=True)
    size = float(np.mean([np.abs(basis @ own).mean() for basis, own in pairs]))
    return size if size > 1e-12 else 1.0


def climb(
    start: Floats, columns: list[Floats], reward: Floats, penalty: float, steps: int
) -> Floats:
    """Return coefficients (K-1, M+1) that maximise the expected worth, from `start` on."""
    from scipy.optimize import minimize

    if not len(reward):
        return start
    stakes = float(np.abs(reward[:, :-1] - reward[:, -1:]).mean())
    pull = penalty * stakes / len(reward)
    found = start
    for sharpness in _SHARPNESS:

        def loss(flat: Floats, sharpness: float = sharpness) -> tuple[float, Floats]:
            theta = flat.reshape(start.shape)
            z = np.stack([basis @ own for basis, own in zip(columns, theta, strict=True)], axis=1)
            worth, slope = worth_and_slope(sharpness * z, reward)
            gradient = np.stack(
                [basis.T @ own for basis, own in zip(columns, slope.T, strict=True)]
            )
            away = theta - start
            value = pull / 2 * float((away**2).sum()) - float(worth.mean())
            return value, (pull * away - sharpness * gradient / len(reward)).ravel()

        found = minimize(
            loss, found.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": steps}
        ).x.reshape(start.shape)
    return found


def worth_and_slope(z: Floats, reward: Floats) -> tuple[Floats, Floats]:
    """Return what the policy ``sigmoid(z)`` is worth on each row, (N,), and its derivative, (N, K-1)."""
    leave = sigmoid(z)
    slope = leave * (1.0 - leave)
    worth = reward[:, -1]
    for k in range(z.shape[1] - 1, -1, -1):
        gain = reward[:, k] - worth
        slope[:, k] *= gain
        worth = worth + leave[:, k] * gain
    slope[:, 1:] *= np.cumprod(1.0 - leave[:, :-1], axis=1)
    return worth, slope
