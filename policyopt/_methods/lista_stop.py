"""Variational stopping: Chen et al., Learning to stop while learning to predict, ICML 2020, arXiv:2006.05082.

The time to stop, t, is a latent variable. Given the label y, exit t's loss ``l_t = -log p(y | t, x)`` and a
prior, the best distribution of t in the paper's beta-weighted bound is known in closed form::

    q*(t | x, y)  ~  prior(t) exp(-l_t / beta)

It knows the label; the policy, which does not, imitates it: stop probabilities pi_k, each a function of what
exits 0..k show, give ``q(t) = pi_t prod_{j<t} (1 - pi_j)``, and are fitted by the forward divergence
KL(q* || q), the paper's second stage. As ``log q`` is a sum over exits, that falls apart into one logistic
regression per exit, of the hazard ``q*(k) / q*(t >= k)``, a row weighing the probability ``q*(t >= k)`` that
it comes there: convex, and solved exactly. (The reverse divergence is maximum-entropy reinforcement learning,
as the paper shows; it needs rollouts and is not offered.)

The prior carries the price of cost, ``prior(t) ~ exp(-price c_t / beta)``, so that the price means nats of
loss per unit of cost. The paper allows a prior that penalises depth, and uses a uniform one.

Departures: the model is trained already, so the paper's first stage is only the closed form of q*; pi_k is
linear in the history features of `policyopt.runtime._scores.history`, with a ridge penalty, not a network on the
hidden state; a sample leaves where pi_k is at least 1/2, the budget met by the price, and what is left of
it by one common shift of the log odds; a label's probability counts as 1e-4 at least, so that no row outweighs
all others; ``loss=error`` takes the expected 0/1 error for the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._answers.logistic import weighted_logistic
from policyopt._methods.exit_batch import StoppingData
from policyopt._methods.lagrangian import LagrangianMethod, Stopping, per_cost
from policyopt._methods.settings import POSITIVE, Choice, Real
from policyopt.runtime._typing import Floats

#: In units of the loss's spread over exits (or of beta, where that is more) per range of the cost.
PRICES = np.concatenate([-np.logspace(0.5, -2, 4), [0.0], np.logspace(-2, 1.5, 15)])
_LOSSES = ("likelihood", "error")
#: Least probability of a label.
_LEAST = 1e-4


@dataclass(frozen=True)
class LISTAStop(LagrangianMethod):
    """Imitate the stopping posterior that knows the label.

    Parameters
    ----------
    answer, soft, folds, mix
        As of `LagrangianMethod`; `soft` only matters to the expected error.
    loss : {"likelihood", "error"}
        Of an exit's answer: its negative log-likelihood of the label (rows without one teach nothing), or
        its expected error. Records, which do not tell the label's probability, always take the error.
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
    groups = 20  # as of `bolukbasi`

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        """Imitate the posterior of every price."""
        if self.loss == "error" or data.table.kind == "record":
            loss, known = 1.0 - data.success, np.ones(len(data.success), bool)
        else:
            loss = -np.log(np.maximum(data.true_class, _LEAST))
            known = np.asarray(np.isfinite(loss).all(axis=1))
            loss = np.where(known[:, None], loss, 0.0)
        spread = max(float(np.ptp(loss, axis=1)[known].mean()), self.beta)
        prices = per_cost(PRICES * spread, np.broadcast_to(costs, loss.shape))
        exits = loss.shape[1]
        theta = np.zeros(
            (int(data.fold.max()) + 2, exits - 1, data.columns[0].shape[1] + 1, len(prices))
        )
        posterior = stop_posterior(loss, costs, prices, self.beta)
        for k, columns in enumerate(data.columns):
            reach = posterior[k:].sum(axis=0)
            hazard = posterior[k] / np.maximum(reach, 1e-300)
            theta[:, k] = weighted_logistic(
                columns, hazard, reach * known[:, None], data.fold, self.penalty
            )
        return Stopping(prices, theta)


def stop_posterior(loss: Floats, costs: Floats, prices: Floats, beta: float) -> Floats:
    """Return q*, the distribution of the time to stop that knows the losses, at every price.

    Shapes: loss (N, K); costs (N, K) or (K,); prices (L,); returns (K, N, L).
    """
    costs = np.broadcast_to(costs, loss.shape)
    logits = -(loss.T[:, :, None] + costs.T[:, :, None] * prices) / beta
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits
