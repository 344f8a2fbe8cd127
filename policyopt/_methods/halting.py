"""Probabilities of halting, learned without sampling: ACT, variational stopping, the exact policy gradient.

ACT: Graves, 2016, arXiv:1603.08983, section 2; Figurnov et al., SACT, CVPR 2017. Exit k's halting score is ``h_k
= sigmoid(w_k . x_k + b_k)``; a sample leaves at the first exit N where the scores so far add up to ``1 - eps``
(section 2), at the last one at the latest. In training it counts at every exit before N, with weight h_k, and at
N with the remainder ``1 - sum_{j<N} h_j``: the mean-field output, here the expected correctness of the answers.
The price of cost times the ponder cost is taken off. The gradient is exact: ``dV/dh_k = v_k - v_N`` for k < N,
else 0, where v_k is correctness less price times cost of exit k.

Departures: x is not the hidden state (a cache may keep one as `features`; `berxit` reads it, this does not), but the
history features of `runtime/_scores/history.py`; each exit has weights of its own, since features' scales differ
by exit. The ponder cost of section 2.1, ``N + remainder``, jumps where N does (section 2.2 takes N as constant);
here it is the mean cost of the same weights, ``sum p_k c_k``, which does not (eps = 0 in training), so that
L-BFGS applies, and which is in the unit of the costs. What is deployed costs more than that, for it stops at N
itself: the price is chosen by the replayed cost. A ridge penalty keeps scores from saturating. As in the papers
one training serves one price; each starts from its neighbour's result.

Thresholds are set on the rows that trained the scores. Without a fold of the rows another optimum of near the
same value, but of another cost, is found: cross-fitted, the realised cost missed low budgets by a tenth and more.
The cost of the deployed scores needs no labels and is hardly flattered by the rows they were trained on: on 120,
400 and 4,000 rows realised costs are as near to the budget as those of max_prob. `Fitted.quality` is flattered,
more than that of methods that cross-fit.

Variational stopping: Chen et al., Learning to stop while learning to predict, ICML 2020, arXiv:2006.05082.
The time to stop, t, is a latent variable. Given the label y, exit t's loss ``l_t = -log p(y | t, x)`` and a
prior, the best distribution of t in the paper's beta-weighted bound is known in closed form::

    q*(t | x, y)  ~  prior(t) exp(-l_t / beta)

It knows the label; the policy, which does not, imitates it: stop probabilities pi_k, each a function of what
exits 0..k show, give ``q(t) = pi_t prod_{j<t} (1 - pi_j)``, and are fitted by the forward divergence KL(q* || q),
the paper's second stage. As ``log q`` is a sum over exits, that falls apart into one logistic regression per
exit, of the hazard ``q*(k) / q*(t >= k)``, a row weighing the probability ``q*(t >= k)`` that it comes there:
convex, and solved exactly. (The reverse divergence is maximum-entropy reinforcement learning, as the paper shows;
it needs rollouts and is not offered.)

The prior carries the price of cost, ``prior(t) ~ exp(-price c_t / beta)``, so that the price means nats of loss
per unit of cost. The paper allows a prior that penalises depth, and uses a uniform one.

Departures: the model is trained already, so the paper's first stage is only the closed form of q*; pi_k is linear
in the history features of `policyopt.runtime._scores.history`, with a ridge penalty, not a network on the hidden
state; a sample leaves where pi_k is at least 1/2, the budget met by the price, and what is left of it by one
common shift of the log odds; a label's probability counts as 1e-4 at least, so that no row outweighs all others;
``loss=error`` takes the expected 0/1 error for the loss.

Policy gradient without sampling: Sutton et al., NIPS 1999, theorem 1, summed out over cached outcomes. The policy
is a coin at each exit, ``s_k = sigmoid(b A_k(x))`` with A_k linear in the history features; a sample leaves at
exit k with probability ``p_k = s_k (1 - s_0) ... (1 - s_{k-1})`` and is worth ``J = mean_n sum_k p_nk R_nk``, R
being success less the price of cost. Outside of caches the gradient of J must be estimated from episodes
(REINFORCE); here every R is known, so it is exact:

    dJ/dz_k = (reach k) s_k (1 - s_k) (R_k - V_{k+1}),    z_k = b A_k,

V_{k+1} being what going on is worth under the same policy. The only noise left is that of the rows.

J is maximised by L-BFGS, with b = 2 and 5 in turn: the coins become the hard decisions that are deployed. It has
local maxima, in which folds differ and budgets are missed; so A starts at the advantages of `backward_induction`,
and a quadratic penalty holds it near them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._answers.logistic import descended, weighted_logistic
from policyopt._methods.exit_batch import StoppingData
from policyopt._methods.lagrangian import (
    PRICES,
    LagrangianMethod,
    Stopping,
    backward_induction,
    per_cost,
)
from policyopt._methods.settings import COUNT, NOT_NEGATIVE, POSITIVE, Choice, Number, Real
from policyopt.runtime._arithmetic import sigmoid
from policyopt.runtime._scores import Halting, ScoreRule
from policyopt.runtime._typing import Floats

#: Of ACT: prices of the whole cost range, in units of accuracy; the search starts at the middle one.
_PRICES = np.concatenate([[-0.03], [0.0], np.logspace(-3.0, 0.5, 15)])
_MIDDLE = 9
_STEPS = 60  # of L-BFGS per price: the start is near
#: Of LISTA-stop, in units of the loss's spread over exits (or of beta, where that is more) per range of the cost.
_LOSS_PRICES = np.concatenate([-np.logspace(0.5, -2, 4), [0.0], np.logspace(-2, 1.5, 15)])
_LOSSES = ("likelihood", "error")
_LEAST = 1e-4  # probability of a label
#: Of the policy gradient: b, and the part of `PRICES` between which coefficients are interpolated.
_SHARPNESS, _EVERY = (2.0, 5.0), 2


@dataclass(frozen=True)
class ACT(LagrangianMethod):
    """Leave where learned halting scores have added up to 1 - eps.

    Parameters
    ----------
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

    def rule_at(self, data: StoppingData, theta: Floats) -> ScoreRule:
        return Halting(
            data.features, data.center, data.scale, theta[:, 1:], theta[:, 0], eps=float(self.eps)
        )

    def shaped(self, sums: Floats) -> Floats:
        """Return what each row's halting scores have added up to, less 1 - eps, (N, K)."""
        sums[:, :-1] = np.cumsum(sigmoid(sums[:, :-1]), axis=1) - (1.0 - self.eps)
        sums[:, -1] = self.eps
        return sums

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        rows, exits = data.success.shape
        every = np.broadcast_to(costs, (rows, exits))
        prices = per_cost(_PRICES, every)
        theta = np.zeros((exits - 1, data.columns[0].shape[1] + 1, len(prices)))
        for way in (range(_MIDDLE, len(prices)), range(_MIDDLE - 1, -1, -1)):
            start = theta[..., _MIDDLE] if way[0] != _MIDDLE else neutral(theta[..., 0])
            for i in way:
                value = data.success - prices[i] * every
                start = theta[..., i] = halting_weights(data.columns, value, start, self.penalty)
        return Stopping(prices, theta[None])


def neutral(theta: Floats) -> Floats:
    """Return coefficients (K-1, M+1) by which all exits count alike: halting scores 1/K."""
    out = np.zeros_like(theta)
    out[:, 0] = -np.log(len(theta))  # sigmoid(-log(K-1)) = 1/K
    return out


def halting_weights(columns: list[Floats], value: Floats, start: Floats, penalty: float) -> Floats:
    """Maximise cumulative halting's mean-field value: columns (N, M), value (N, K), start and result (K-1, M+1)."""
    rows = len(value)

    def loss(flat: Floats) -> tuple[float, Floats]:
        theta = flat.reshape(start.shape)
        own = zip(columns, theta, strict=True)
        h = np.stack([sigmoid(c @ t[1:] + t[0]) for c, t in own], axis=1)
        worth, slope = mean_field(h, value)
        slope = slope * h * (1.0 - h) / rows
        pairs = zip(columns, slope.T, strict=True)
        gradient = np.stack([np.concatenate([[s.sum()], c.T @ s]) for c, s in pairs])
        shrink = penalty / rows * theta
        shrink[:, 0] *= 1e-2  # offsets hardly: they only must not run off
        return (float((shrink * theta).sum() / 2 - worth.mean()), (shrink - gradient).ravel())

    return descended(loss, start, maxiter=_STEPS)


def mean_field(h: Floats, value: Floats) -> tuple[Floats, Floats]:
    """Return the value of the mean-field output per row, (N,), and its gradient by h, (N, K-1)."""
    open_ = np.cumsum(h, axis=1) < 1.0  # exits before N
    halts = open_.sum(axis=1)
    last = np.take_along_axis(value, halts[:, None], axis=1)
    slope = np.where(open_, value[:, :-1] - last, 0.0)
    return last[:, 0] + (h * slope).sum(axis=1), slope


@dataclass(frozen=True)
class LISTAStop(LagrangianMethod):
    """Imitate the stopping posterior that knows the label.

    Parameters
    ----------
    loss : {"likelihood", "error"}
        Of an exit's answer: its negative log-likelihood of the label (rows without one teach nothing), or its
        expected error, to which alone `soft` matters. Records, which do not tell the label's probability, and graded
        quality always take the error.
    beta : float
        Temperature of the posterior: 1 is the plain posterior, near 0 it picks the single best exit. A large
        one spreads over all exits that are about as good, so that the first of them seldom has half of what
        is left, and few samples leave early whatever they look like.
    penalty : float
        Of the regressions, in rows of evidence that an exit decides the same for all.
    """

    loss: str = "likelihood"
    beta: float = 0.1
    penalty: float = 30.0

    label = "lista_stop"
    allowed: ClassVar = {"loss": _LOSSES, "beta": POSITIVE, "penalty": POSITIVE}
    tuned: ClassVar = {
        "loss": Choice(_LOSSES),
        "beta": Real(0.05, 5.0, log=True),
        "penalty": Real(1.0, 1000.0, log=True),
    }

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        if self.loss == "error" or not data.table.whole or data.table.graded:
            loss, known = 1.0 - data.success, np.ones(len(data.success), bool)
        else:
            loss = -np.log(np.maximum(data.true_class, _LEAST))
            known = np.asarray(np.isfinite(loss).all(axis=1))
            loss = np.where(known[:, None], loss, 0.0)
        spread = max(float(np.ptp(loss, axis=1)[known].mean()), self.beta)
        prices = per_cost(_LOSS_PRICES * spread, np.broadcast_to(costs, loss.shape))
        exits = loss.shape[1]
        theta = np.zeros((1, exits - 1, data.columns[0].shape[1] + 1, len(prices)))
        one_fold = np.zeros(len(loss), dtype=np.int64)
        posterior = stop_posterior(loss, costs, prices, self.beta)
        for k, columns in enumerate(data.columns):
            reach = posterior[k:].sum(axis=0)
            hazard = posterior[k] / np.maximum(reach, 1e-300)
            weight = reach * known[:, None]
            theta[0, k] = weighted_logistic(columns, hazard, weight, one_fold, self.penalty)[-1]
        return Stopping(prices, theta)


def stop_posterior(loss: Floats, costs: Floats, prices: Floats, beta: float) -> Floats:
    """Return q* at every price, (K, N, L). Shapes: loss (N, K); costs (N, K) or (K,); prices (L,)."""
    costs = np.broadcast_to(costs, loss.shape)
    logits = -(loss.T[:, :, None] + costs.T[:, :, None] * prices) / beta
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits


@dataclass(frozen=True)
class PolicyGradient(LagrangianMethod):
    """Climb the expected worth of a randomised policy; deploy its more likely decisions.

    Parameters
    ----------
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

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        prices = per_cost(PRICES, costs)[::_EVERY]
        found = backward_induction(data, costs, max(self.penalty, 1.0), prices)
        columns = [np.insert(basis, 0, 1.0, axis=1) for basis in data.columns]
        theta = found.theta[-1:]
        for i, price in enumerate(prices):
            reward = data.success - costs * price
            # Steps are taken where the mean advantage is 1; advantages come back, since between
            # prices these are nearly straight lines, and sizes are not.
            size = size_of(theta[0, ..., i], columns)
            start = theta[0, ..., i] / size
            theta[0, ..., i] = size * climb(start, columns, reward, self.penalty, self.steps)
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
            pairs = zip(columns, slope.T, strict=True)
            gradient = np.stack([basis.T @ own for basis, own in pairs])
            away = theta - start
            value = pull / 2 * float((away**2).sum()) - float(worth.mean())
            return value, (pull * away - sharpness * gradient / len(reward)).ravel()

        found = descended(loss, found, maxiter=steps)
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
