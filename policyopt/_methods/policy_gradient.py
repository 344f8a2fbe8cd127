"""Policy gradients: exact, over cached outcomes; and by sampled episodes, REINFORCE and actor-critic.

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

REINFORCE: Guan et al., IJCAI 2018 (arXiv:1710.03368), a stopping policy after each classifier. As in the paper a
stochastic policy looks at the output probabilities of the classifiers so far, stops or goes on, and is trained by
REINFORCE (Williams, 1992) on how good the answer is less a price times the accumulated cost. An episode that
leaves at exit t with return G moves the log-odds z_k of every exit k <= t by ``(a_k - s_k)(G - b_k)``, a_k = 1
where it left, s_k the probability of that.

- ``critic=false``: b_k is the running mean return of the episodes that got to exit k.
- ``critic=true``: actor-critic (Sutton & Barto, 2nd ed., section 13.5): a linear V_k(x) is learned beside the
  policy, and G of an episode that went on is V_{k+1}(x), as it looks from the next exit.

Departures: the classifiers are given, not trained along, so the reward is the answer's success instead of its
negative loss; the policy is linear in the history features, which summarise the probabilities; all prices are
trained side by side on the same draws; what is deployed is the likelier decision, and its threshold moves with
the budget. Read from the paper's abstract and a review of it, not the full text. The exact gradient that these
samples estimate is that of `policy_gradient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from policyopt._methods.backward_induction import PRICES, backward_induction
from policyopt._methods.episodes import roll, updates
from policyopt._methods.exit_batch import StoppingData
from policyopt._methods.lagrangian import LagrangianMethod, Stopping, per_cost
from policyopt._methods.settings import COUNT, NOT_NEGATIVE, POSITIVE, YES_OR_NO, Integer, Real
from policyopt.runtime._arithmetic import sigmoid
from policyopt.runtime._typing import Bools, Floats

Reals = npt.NDArray[np.floating]
_SHARPNESS = (2.0, 5.0)
_EVERY, _EVERY_SAMPLED = 2, 3  # of `PRICES`: between them coefficients are interpolated
_MEMORY = 0.95  # of the running mean returns
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8  # of Adam


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

    def groups_of(self, rows: int) -> int:
        """More groups for few rows, where each matters more: with 5, 400 rows cost 2 % too much."""
        return max(self.groups, min(20, 10_000 // rows))

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        """Climb at each price, without each group of rows in turn, and on all rows."""
        prices = per_cost(PRICES, costs)[::_EVERY]
        found = backward_induction(data, costs, max(self.penalty, 1.0), prices)
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


@dataclass(frozen=True)
class REINFORCE(LagrangianMethod):
    """Learn by playing episodes what an exact gradient would tell; leave where that is the likelier.

    Parameters
    ----------
    critic : bool
        Actor-critic instead of REINFORCE with a constant baseline.
    steps : int
        Updates, at most; few rows get fewer, see `policyopt._methods.episodes.updates`.
    episodes : int
        Per update and price.
    learning_rate : float
        Of Adam; it falls to 0.
    entropy : float
        Worth of a coin's entropy, in reward: keeps the coins from falling on one side for good
        before they have learned which (Williams & Peng, 1991).
    """

    critic: bool = False
    steps: int = 1500
    episodes: int = 500
    learning_rate: float = 0.02
    entropy: float = 0.01

    label = "reinforce"
    allowed: ClassVar = {
        "critic": YES_OR_NO,
        **dict.fromkeys(("steps", "episodes"), COUNT),
        "learning_rate": POSITIVE,
        "entropy": NOT_NEGATIVE,
    }
    tuned: ClassVar = {"steps": Integer(100, 3000), "learning_rate": Real(0.01, 0.2, log=True)}

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        """Play with random rows; every fold's policy learns from the rows outside of the fold."""
        rng = np.random.default_rng(seed)
        prices = per_cost(PRICES, costs)[::_EVERY_SAMPLED]
        rows, exits = data.success.shape
        costs = np.broadcast_to(costs, (rows, exits))
        groups = int(data.fold.max(initial=0)) + 1
        # Single precision: what is drawn is far noisier than that.
        columns = [np.insert(b, 0, 1.0, axis=1).astype(np.float32) for b in data.columns]
        success, paid = (a.astype(np.float32) for a in (data.success, costs))
        # Policies side by side: one per set of rows and price.
        sets = np.repeat(np.arange(groups + 1), len(prices))
        price = np.tile(prices, groups + 1).astype(np.float32)
        # Of rewards, so that all prices are alike.
        size = 1 + np.abs(price) * np.float32(costs[:, -1].mean())
        shape = (exits - 1, columns[0].shape[1], len(sets))
        theta, value = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        steps = updates(self.steps, self.episodes, rows)
        actor = Adam(shape, self.learning_rate, steps)
        judge = Adam(shape, self.learning_rate, steps)
        mean = np.zeros((exits - 1, len(sets)))
        for step in range(steps):
            batch = rng.integers(0, rows, self.episodes)
            x = [basis[batch] for basis in columns]
            reward = (success[batch][:, :, None] - paid[batch][:, :, None] * price) / size
            odds = _products(x, theta)
            leave = 0.5 + 0.5 * np.tanh(0.5 * odds)  # the sigmoid, in single precision
            # One draw for all policies: what differs between them is not luck.
            tails, reached = roll(leave, rng.random((self.episodes, exits - 1, 1), np.float32))
            mine = data.fold[batch][:, None] != sets
            now = reached[:, :-1] & mine[:, None]
            if self.critic:
                baseline = _products(x, value)
                gain = bootstrapped(tails, reward, baseline)
            else:
                gain = np.broadcast_to(returns(reached, reward)[:, None], leave.shape)
                many = np.maximum(now.sum(axis=0), 1)
                got = np.where(now.any(axis=0), (gain * now).sum(axis=0) / many, mean)
                mean = got if step == 0 else _MEMORY * mean + (1 - _MEMORY) * got
                baseline = mean[None]
            off = (gain - baseline) * now
            if self.critic:
                value += judge.step(_gradients(x, off)).astype(np.float32)
            if not self.critic or step >= steps // 4:
                slope = (tails - leave) * off + calm(odds, leave, self.entropy) * now
                theta += actor.step(_gradients(x, slope)).astype(np.float32)
        theta = theta.reshape(exits - 1, -1, groups + 1, len(prices)).transpose(2, 0, 1, 3)
        return Stopping(prices, theta.astype(np.float64))


def _products(x: Sequence[Reals], theta: Reals) -> Reals:
    """Return (n, K-1, L) of K-1 rows (n, M+1) and coefficients (K-1, M+1, L)."""
    return np.stack([basis @ own for basis, own in zip(x, theta, strict=True)], axis=1)


def _gradients(x: Sequence[Reals], slope: Reals) -> Reals:
    """Return the mean gradient (K-1, M+1, L) of slopes (n, K-1, L)."""
    return np.stack([basis.T @ slope[:, k] for k, basis in enumerate(x)]) / len(slope)


def returns(reached: Bools, reward: Reals) -> Reals:
    """Return what episodes earn, (n, ...): the reward of the last exit they reached."""
    last = reached.sum(axis=1, keepdims=True) - 1
    return np.take_along_axis(np.broadcast_to(reward, reached.shape), last, axis=1)[:, 0]


def calm(odds: Reals, leave: Reals, entropy: float) -> Reals:
    """Return the slope of `entropy` times the entropy of coins ``leave = sigmoid(odds)``, along `odds`."""
    return -entropy * odds * leave * (1 - leave)


def bootstrapped(tails: Bools, reward: Reals, value: Reals) -> Reals:
    """Return what each decision leads to, (n, K-1, ...): the reward, or the next exit's value."""
    onward = np.concatenate([value[:, 1:], reward[:, -1:]], axis=1)
    return np.where(tails, reward[:, :-1], onward)


class Adam:
    """Adam (Kingma & Ba, ICLR 2015, algorithm 1) in numpy; the rate falls linearly to 0 over the steps."""

    def __init__(self, shape: tuple[int, ...], rate: float, steps: int) -> None:
        self.rate, self.steps, self.taken = rate, steps, 0
        self.mean, self.square = np.zeros(shape), np.zeros(shape)

    def step(self, gradient: npt.NDArray[np.floating]) -> Floats:
        """Return the change that a gradient asks for."""
        rate = self.rate * (1.0 - self.taken / self.steps)
        self.taken += 1
        self.mean += (1 - _FIRST) * (gradient - self.mean)
        self.square += (1 - _SECOND) * (gradient * gradient - self.square)
        mean = self.mean / (1 - _FIRST**self.taken)
        square = self.square / (1 - _SECOND**self.taken)
        return rate * mean / (np.sqrt(square) + _TINY)
