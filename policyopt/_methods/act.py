"""Adaptive computation time: Graves, 2016, arXiv:1603.08983, section 2; Figurnov et al., SACT, CVPR 2017.

Exit k's halting score is ``h_k = sigmoid(w_k . x_k + b_k)``; a sample leaves at the first exit
N where the scores so far add up to ``1 - eps`` (section 2), at the last one at the latest. In training
it counts at every exit before N, with weight h_k, and at N with the remainder ``1 - sum_{j<N} h_j``:
the mean-field output, here the expected correctness of the answers. The price of cost times the
ponder cost is taken off. The gradient is exact: ``dV/dh_k = v_k - v_N`` for k < N, else 0,
where v_k is correctness less price times cost of exit k.

Departures: x is not the hidden state (a cache may keep one as `features`, which is not read here), but the history
features of `runtime/_scores/history.py`; each exit has weights of its own, since features' scales differ by exit.
The ponder cost of section 2.1, ``N + remainder``, jumps where N does (section 2.2 takes N as constant);
here it is the mean cost of the same weights, ``sum p_k c_k``, which does not (eps = 0 in training),
so that L-BFGS applies, and which is in the unit of the costs. What is deployed costs more than that,
for it stops at N itself: the price is chosen by the replayed cost. A ridge penalty keeps scores from
saturating. As in the papers one training serves one price; each starts from its neighbour's result.

Thresholds are set on the rows that trained the scores. Without a fold of the rows another optimum of
near the same value, but of another cost, is found: cross-fitted, the realised cost missed low
budgets by a tenth and more. The cost of the deployed scores needs no labels and is hardly flattered by the
rows they were trained on: on 120, 400 and 4,000 rows realised costs are as near to the budget as those
of max_prob. `Fitted.accuracy` is flattered, more than that of methods that cross-fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._methods.exit_batch import StoppingData
from policyopt._methods.lagrangian import LagrangianMethod, Stopping, per_cost
from policyopt._methods.settings import POSITIVE, Number, Real
from policyopt.runtime._arithmetic import sigmoid
from policyopt.runtime._scores import Halting, ScoreRule
from policyopt.runtime._typing import Floats

#: Prices of the whole cost range, in units of accuracy; the search starts at the middle one.
_PRICES = np.concatenate([[-0.03], [0.0], np.logspace(-3.0, 0.5, 15)])
_MIDDLE = 9
_STEPS = 60  # of L-BFGS per price: the start is near


@dataclass(frozen=True)
class ACT(LagrangianMethod):
    """Leave where learned halting scores have added up to 1 - eps.

    Parameters
    ----------
    answer, soft, folds, mix
        As of `LagrangianMethod`.
    eps : float
        In (0, 1); 0.01 in both papers.
    penalty : float
        Of the weights, in rows that gain or lose one answer.
    """

    eps: float = 0.01
    penalty: float = 1.0

    label = "act"
    allowed: ClassVar = {"eps": Number(above=0, below=1), "penalty": POSITIVE}
    tuned: ClassVar = {"penalty": Real(0.1, 100.0, log=True)}
    groups = 1  # thresholds are set on the rows that train: see above

    def rule_at(self, data: StoppingData, theta: Floats) -> ScoreRule:
        """Return the deployed rule of coefficients (K-1, M+1)."""
        return Halting(
            data.features, data.center, data.scale, theta[:, 1:], theta[:, 0], float(self.eps)
        )

    def scores_at(self, data: StoppingData, theta: Floats) -> Floats:
        """Return what each row's halting scores have added up to, less 1 - eps, (N, K)."""
        out = super().scores_at(data, theta)
        out[:, :-1] = np.cumsum(sigmoid(out[:, :-1]), axis=1) - (1.0 - self.eps)
        out[:, -1] = self.eps
        return out

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        """Train the halting scores at every price."""
        rows, exits = data.success.shape
        every = np.broadcast_to(costs, (rows, exits))
        prices = per_cost(_PRICES, every)
        theta = np.zeros((exits - 1, data.columns[0].shape[1] + 1, len(prices)))
        for way in (range(_MIDDLE, len(prices)), range(_MIDDLE - 1, -1, -1)):
            start = theta[..., _MIDDLE] if way[0] != _MIDDLE else neutral(theta[..., 0])
            for i in way:
                value = data.success - prices[i] * every
                start = theta[..., i] = halting_weights(data.columns, value, start, self.penalty)
        # Those of the one group of rows, and those deployed.
        return Stopping(prices, np.stack([theta, theta]))


def neutral(theta: Floats) -> Floats:
    """Return coefficients (K-1, M+1) by which all exits count alike: halting scores 1/K."""
    out = np.zeros_like(theta)
    out[:, 0] = -np.log(len(theta))  # sigmoid(-log(K-1)) = 1/K
    return out


def halting_weights(columns: list[Floats], value: Floats, start: Floats, penalty: float) -> Floats:
    """Return coefficients that maximise the mean-field value of cumulative halting.

    Shapes: columns (N, M); value (N, K); start (K-1, M+1); returns (K-1, M+1).
    """
    from scipy.optimize import minimize

    rows = len(value)

    def loss(flat: Floats) -> tuple[float, Floats]:
        theta = flat.reshape(start.shape)
        h = np.stack(
            [sigmoid(c @ t[1:] + t[0]) for c, t in zip(columns, theta, strict=True)], axis=1
        )
        worth, slope = mean_field(h, value)
        slope = slope * h * (1.0 - h) / rows
        gradient = np.stack(
            [np.concatenate([[s.sum()], c.T @ s]) for c, s in zip(columns, slope.T, strict=True)]
        )
        shrink = penalty / rows * theta
        shrink[:, 0] *= 1e-2  # offsets hardly: they only must not run off
        return (float((shrink * theta).sum() / 2 - worth.mean()), (shrink - gradient).ravel())

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS})
    return np.asarray(found.x).reshape(start.shape)


def mean_field(h: Floats, value: Floats) -> tuple[Floats, Floats]:
    """Return the value of the mean-field output per row, (N,), and its gradient by h, (N, K-1)."""
    sums = np.cumsum(h, axis=1)
    open_ = sums < 1.0  # exits before N
    halts = open_.sum(axis=1)
    last = np.take_along_axis(value, halts[:, None], axis=1)
    slope = np.where(open_, value[:, :-1] - last, 0.0)
    return last[:, 0] + (h * slope).sum(axis=1), slope
