"""Reinforcement learning from sampled episodes: REINFORCE and actor-critic, DQN, EPNet.

Episodes: a sample meets its exits, and leaves or goes on, many side by side. The Markov decision process that
reinforcement learning sees. State: what exits 0..k show of the sample, the exit, the price of cost. Actions: 0
goes on, 1 leaves. Going on from the last exit but one ends at the last one, where there is nothing to decide. An
episode earns its success less price times cost, cost in shares of the full model, undiscounted. Numpy only;
`policyopt.rl` gives it gymnasium's shape.

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

Networks: one small network for all prices, read at any budget. A subclass of `NeuralPolicyMethod` says how it
learns (`train`); the base gathers what episodes are played with, holds rows out, and finds on them the price
whose policy costs the budget. What is left of the budget goes by one common threshold: 0 and a shift. Networks
are trained by torch and deployed as the rule `network` by numpy.

Deep Q-network: Mnih et al., Nature 518 (2015), algorithm 1, for exits as Kim & Lee (Mathematics, 2024). Kim &
Lee, "To Exit or Not to Exit" (Mathematics 12(14):2263), and Vashist et al. (ICCE 2022) before them, decide at
each exit by a Q-network that weighs accuracy against cost. As in Mnih et al. the agent acts epsilon-greedily,
remembers its transitions, and regresses

    y = r                           where the episode ended
    y = r + max_a Q'(s', a)         else,

on random ones of them, Q' being the network as it was some time ago; errors beyond 1 count linearly.

Departures: the state is the history features with the exit and the price of cost, and the price is drawn anew for
each episode, so that one network serves all budgets (theirs is trained per weight of cost); rewards are divided
by 1 + price, or dear prices would have all of the error; undiscounted, as every episode ends; the rate falls to
0. With ``double=true`` the network chooses a and Q' rates it (van Hasselt et al., AAAI 2016), against the upward
bias of the maximum. Kim & Lee's and Vashist et al.'s own rewards could not be read at the source: theirs may
weigh cost otherwise.

EPNet's exit controllers: Dai, Kong & Guo, CIKM 2020, "Learning to Exit with Flexible Multi-Branch Network". The
paper puts a lightweight controller on every branch and learns when to exit as a Markov decision process whose
reward weighs accuracy against the cost of inference by a budget. So here: each exit has a network of its own with
one hidden layer, which gives the probability of leaving; the reward is success less weight times cost; the
controllers learn from sampled episodes, an actor with a critic of the same shape: a decision that was taken moves
its log-odds by ``(a - s)(G - V(x))`` as in `reinforce`, G being what the episode earned.

Departures: the weight is drawn anew for every episode and given to the controllers, so that one training serves
all budgets; the branches are given, not trained along; a controller sees the history features, and with
``inputs=both`` also the branch's vectors, in principal components, not its feature map. Only the paper's abstract and
two surveys' words on it could be read: the reward's exact form and the update rule are this reading of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from policyopt._cache.data import folds_of
from policyopt._methods.exit_batch import StoppingData, build_stopping_data, subsample_outputs
from policyopt._methods.fitted import Draft
from policyopt._methods.lagrangian import (
    PRICES,
    LagrangianMethod,
    Stopping,
    StoppingMethod,
    per_cost,
)
from policyopt._methods.settings import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    YES_OR_NO,
    Integer,
    Number,
    Real,
)
from policyopt._optional import need
from policyopt._progress import report
from policyopt._table import Table
from policyopt._thresholds.budget_search import bisect, common_shift
from policyopt._thresholds.degenerate_scores import collapse
from policyopt._thresholds.problem import Problem
from policyopt.runtime._arithmetic import sigmoid
from policyopt.runtime._policy import first_exit
from policyopt.runtime._scores import Network, ScoreRule
from policyopt.runtime._typing import Bools, Floats, Ints

Reals = npt.NDArray[np.floating]
GO_ON, LEAVE = 0, 1
#: How often each row is shown, at most, but for the least updates: more of them cost time and teach
#: nothing (benchmarks/few_rows.py).
EPOCHS, LEAST_UPDATES = 600, 500
_EVERY = 3  # of `PRICES`: between them coefficients of REINFORCE are interpolated
_MEMORY = 0.95  # of the running mean returns
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8  # of Adam
#: Prices played with, in success per cost of the full model: their logarithm is drawn evenly.
DRAWN = (0.002, 5.0)
_BISECTIONS = 20
_RENEW = 100  # updates after which Q' of the Q-network is renewed
_LEAST_RANDOM = 0.05  # of its actions, from half of the updates on
#: Weights (E, out, in) and biases (E, out) of each layer, E being 1 or K-1. What goes in is what
#: `Episodes.observe` shows: basis columns, exit one-hot (K), `log_price`.
Layers = list[tuple[Floats, Floats]]


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows that episodes are played with."""

    columns: npt.NDArray[np.float32]  # (N, K, M), of history features; zeros at the last exit
    success: Floats  # (N, K)
    costs: Floats  # (N, K), cumulative, in shares of the full model's mean cost

    def __len__(self) -> int:
        return len(self.success)

    @property
    def exits(self) -> int:
        """K."""
        return self.success.shape[1]

    def take(self, rows: Ints) -> Samples:
        """Return some of the rows."""
        return Samples(self.columns[rows], self.success[rows], self.costs[rows])


def samples_of(columns: list[Floats], success: Floats, costs: Floats) -> Samples:
    """Return what episodes are played with. Shapes: columns (N, M); success (N, K); costs (K,) or (N, K)."""
    filled = np.zeros((*success.shape, columns[0].shape[1]), dtype=np.float32)
    for k, basis in enumerate(columns):
        filled[:, k] = basis
    full = float(np.atleast_2d(costs).mean(axis=0)[-1])
    share = np.broadcast_to(costs, success.shape) / (full if full > 0 else 1.0)
    return Samples(filled, np.asarray(success, dtype=np.float64), np.ascontiguousarray(share))


class Episodes:
    """As many episodes side by side as there are rows, each at its exit; `late`: all exits are paid at the end."""

    def __init__(self, samples: Samples, late: bool = False) -> None:
        self.samples, self.late = samples, late
        self.rows = np.zeros(0, dtype=np.int64)
        self.exit = np.zeros(0, dtype=np.int64)
        self.prices = np.zeros(0)

    def start(self, rows: Ints, prices: Floats) -> None:
        """Put samples `rows`, (n,), before their first decision, each at a price."""
        self.rows, self.prices = np.array(rows), np.array(prices, dtype=np.float64)
        self.exit = np.zeros(len(rows), dtype=np.int64)

    def restart(self, which: Bools, rows: Ints, prices: Floats) -> None:
        """Put new samples in place of `which`, (n,)."""
        self.rows[which], self.prices[which], self.exit[which] = rows, prices, 0

    def step(self, actions: npt.NDArray[np.integer]) -> tuple[Floats, Bools]:
        """Return the rewards (n,) of these actions, and which episodes they end, (n,)."""
        here, last = self.exit, self.samples.exits - 1
        leaves = np.asarray(actions) == LEAVE
        then = np.where(leaves, here, here + 1)
        ended = leaves | (then == last)
        costs, success = self.samples.costs, self.samples.success
        if self.late:
            paid = np.where(ended, costs[self.rows, then], 0.0)
        else:  # exit 0 is paid for with the first decision, however it falls
            paid = costs[self.rows, then] - np.where(here == 0, 0.0, costs[self.rows, here])
        earned = np.where(ended, success[self.rows, then], 0.0)
        self.exit = then
        return earned - self.prices * paid, ended

    def observe(self) -> npt.NDArray[np.float32]:
        """Return what is seen, (n, M + K + 1): basis columns, exit one-hot, `log_price`."""
        return shown(self.samples, self.rows, self.exit, self.prices)


def shown(samples: Samples, rows: Ints, exits: Ints, prices: Floats) -> npt.NDArray[np.float32]:
    """Return what `Episodes.observe` shows of rows at exits, (..., M + K + 1)."""
    place = np.eye(samples.exits, dtype=np.float32)[exits]
    price = log_price(prices)[..., None].astype(np.float32)
    return np.concatenate([samples.columns[rows, exits], place, price], axis=-1)


def log_price(price: Floats) -> Floats:
    """Return the logarithm (base 10) of prices of 0 or more, told apart from 0.001 on."""
    return np.log10(np.asarray(price, dtype=np.float64) + 1e-3)


def roll(leave: Reals, draws: Reals) -> tuple[Bools, Bools]:
    """Play whole episodes by the toss of a coin per exit. Shapes: leave (n, K-1, ...)."""
    tails = draws < leave
    reached = np.ones((len(leave), leave.shape[1] + 1, *leave.shape[2:]), dtype=bool)
    np.logical_and.accumulate(~tails, axis=1, out=reached[:, 1:])
    return tails, reached


def updates(steps: int, batch: int, rows: int) -> int:
    """Return how many updates of `batch` rows are worth making with so many rows, at most `steps`."""
    return min(steps, max(LEAST_UPDATES, -(-EPOCHS * rows // batch)))


@dataclass(frozen=True)
class REINFORCE(LagrangianMethod):
    """Learn by playing episodes what an exact gradient would tell; leave where that is the likelier.

    Parameters
    ----------
    critic : bool
        Actor-critic instead of REINFORCE with a constant baseline.
    steps : int
        Updates, at most; few rows get fewer, see `policyopt._methods.reinforcement.updates`.
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
        """Play with random rows, the policies of all prices side by side."""
        rng = np.random.default_rng(seed)
        prices = per_cost(PRICES, costs)[::_EVERY]
        rows, exits = data.success.shape
        costs = np.broadcast_to(costs, (rows, exits))
        # Single precision: what is drawn is far noisier than that.
        columns = [np.insert(b, 0, 1.0, axis=1).astype(np.float32) for b in data.columns]
        success, paid = (a.astype(np.float32) for a in (data.success, costs))
        price = prices.astype(np.float32)
        # Of rewards, so that all prices are alike.
        size = 1 + np.abs(price) * np.float32(costs[:, -1].mean())
        shape = (exits - 1, columns[0].shape[1], len(prices))
        theta, value = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        steps = updates(self.steps, self.episodes, rows)
        actor = Adam(shape, self.learning_rate, steps)
        judge = Adam(shape, self.learning_rate, steps)
        mean = np.zeros((exits - 1, len(prices)))
        for step in range(steps):
            batch = rng.integers(0, rows, self.episodes)
            x = [basis[batch] for basis in columns]
            reward = (success[batch][:, :, None] - paid[batch][:, :, None] * price) / size
            odds = _products(x, theta)
            leave = 0.5 + 0.5 * np.tanh(0.5 * odds)  # the sigmoid, in single precision
            # One draw for all policies: what differs between them is not luck.
            tails, reached = roll(leave, rng.random((self.episodes, exits - 1, 1), np.float32))
            now = reached[:, :-1]
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
        return Stopping(prices, theta.astype(np.float64)[None])


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


@dataclass(frozen=True)
class NeuralPolicyMethod(StoppingMethod):
    """A network that scores leaving against going on, at any price of cost.

    Parameters
    ----------
    hold_out : float
        Share of the rows that does not train, and on which budgets are met.
    hidden : int
        Units of a hidden layer.
    steps : int
        Updates, at most; few rows get fewer, see `updates`.
    batch : int
        Episodes, or transitions, per update.
    learning_rate : float
        Of Adam; it falls to 0.
    """

    hold_out: float = 0.2
    hidden: int = 32
    steps: int = 4000
    batch: int = 256
    learning_rate: float = 0.002

    allowed: ClassVar = {
        "hold_out": Number(above=0, below=1),
        **dict.fromkeys(("hidden", "steps", "batch"), COUNT),
        "learning_rate": POSITIVE,
    }
    validates = False  # thresholds are chosen on rows that trained nothing
    tuned: ClassVar = {
        "hidden": Integer(8, 128, log=True),
        "learning_rate": Real(3e-4, 1e-2, log=True),
    }

    @abstractmethod
    def train(self, samples: Samples, seed: int) -> Layers:
        """Return a network of one output: by how much leaving is the better."""

    @abstractmethod
    def sizes(self, columns: int, exits: int) -> tuple[list[int], int]:
        """Return inputs, hidden units and output of what `train` returns, and the networks side by side."""

    def missing_columns(self, table: Table) -> list[str]:
        torch = [] if find_spec("torch") else ["torch (policyopt[torch])"]
        return [*super().missing_columns(table), *torch]

    def check(self, table: Table) -> None:
        """Refuse to train without torch, or to decide where there is nothing to decide."""
        need("torch", "torch", f"to train '{self.label}'")
        super().check(table)

    def gather(self, table: Table, seed: int) -> StoppingData:
        vectors = "features" in self.required_columns()
        table = subsample_outputs(table, seed, vectors)
        return build_stopping_data(table, self.answer, self.soft, self.folds, seed, vectors=vectors)

    def blank(self, data: StoppingData) -> tuple[ScoreRule, ...]:
        exits, columns = data.table.exits, data.columns[0].shape[1]
        sizes, each = self.sizes(columns, exits)
        shapes = [(each, out, into) for into, out in pairwise(sizes)]
        zeros = [(np.zeros(shape), np.zeros(shape[:2])) for shape in shapes]
        return (rule_at(at_price(zeros, columns, exits, 0.0), data),)

    def pose(self, table: Table, seed: int) -> Draft:
        """Train on some of the rows; the problem is of the others."""
        draft = super().pose(table, seed)
        data, whole = draft.data, draft.problem
        samples = samples_of(data.columns, data.success, whole.costs)
        group = draft.table.group
        held, rest = divided(len(samples), self.hold_out, seed, group)
        report(0, 1, f"training {self.label}")
        layers = self.train(samples.take(rest), seed)
        costs = whole.costs if whole.costs.ndim == 1 else whole.costs[held]
        kin = None if group is None else group[held]
        problem = Problem(whole.scores[held], whole.value[held], costs, whole.unit, group=kin)
        return replace(draft, problem=problem, data=(data, layers, samples.columns[held]))

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        """Read each budget off the prices on the rows that trained nothing."""
        return [_read(draft, budget) for budget in budgets]


def _read(draft: Draft, budget: float) -> Draft:
    """Find the price whose policy costs the budget on the rows held out."""
    problem, (data, layers, columns) = draft.problem, draft.data
    aim = problem.within_reach(budget)
    exits, size = columns.shape[1:]

    def too_dear(log_price: float) -> bool:
        scores = outputs_at(at_price(layers, size, exits, np.exp(log_price)), columns)
        taken = first_exit(scores, np.zeros(exits - 1))
        return float(problem.cost_at(taken).mean()) > aim

    dear, cheap = (float(np.log(p)) for p in (DRAWN[0] / 10, DRAWN[1]))
    _, price = bisect(too_dear, dear, cheap, _BISECTIONS)
    fixed = at_price(layers, size, exits, float(np.exp(price)))
    rule = rule_at(fixed, data)
    scores, flat = collapse(rule, outputs_at(fixed, columns))
    problem = replace(problem, scores=scores, flat=flat)
    return replace(draft, rule=rule, problem=problem, solution=common_shift(problem, aim))


def divided(rows: int, share: float, seed: int, group: Ints | None = None) -> tuple[Ints, Ints]:
    """Return the rows held out and those to train on; of a single row, or group, both have it."""
    parts = folds_of(rows, max(round(1 / share), 2), seed, group)
    return np.flatnonzero(parts == 0), np.flatnonzero(parts != 0 if parts.any() else parts == 0)


def drawn_prices(rng: np.random.Generator, count: int, ends: tuple[float, float] = DRAWN) -> Floats:
    """Return random prices, (count,), whose logarithms lie evenly between the ends."""
    low, high = np.log(ends)
    return np.exp(rng.uniform(low, high, count))


class Stack:
    """Layers (inputs, hidden units, outputs) with a ReLU between them; `each` of them side by side."""

    def __init__(self, sizes: list[int], seed: int, each: int = 1) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)  # of its own: the global one is the user's
        self.parameters: list[Any] = []
        for into, out in pairwise(sizes):
            # Torch's default for a linear layer.
            for shape in ((each, out, into), (each, out)):
                uniform = torch.rand(shape, generator=generator) * 2 - 1
                self.parameters.append((uniform / into**0.5).requires_grad_())

    def __call__(self, x: Any) -> Any:
        """Return the outputs (n, E, out) for inputs (n, E, in)."""
        import torch

        for i in range(0, len(self.parameters), 2):
            weight, bias = self.parameters[i : i + 2]
            if i:
                x = torch.relu(x)
            x = torch.einsum("nei,eoi->neo", x, weight) + bias
        return x

    def layers(self) -> Layers:
        """Return the weights as arrays."""
        arrays = [p.detach().double().numpy() for p in self.parameters]
        return list(zip(arrays[::2], arrays[1::2], strict=True))


def at_price(layers: Layers, columns: int, exits: int, price: float) -> Layers:
    """Return the layers with exit and price moved from the inputs into the first biases."""
    weight, bias = layers[0]
    own = np.broadcast_to(weight, (exits - 1, *weight.shape[1:]))
    places = own[np.arange(exits - 1), :, columns + np.arange(exits - 1)]
    moved = bias + places + own[:, :, -1] * float(log_price(np.array(price)))
    return [(weight[:, :, :columns], moved), *layers[1:]]


def outputs_at(layers: Layers, columns: npt.NDArray[np.float32]) -> Floats:
    """Return the scores (N, K) of layers of one output and no price; 0 at the last exit. Shapes: columns (N, K, M)."""
    out = np.zeros(columns.shape[:2], order="F")
    for k in range(columns.shape[1] - 1):
        x = columns[:, k].astype(np.float64)
        for i, (weight, bias) in enumerate(layers):
            x = np.maximum(x, 0.0) if i else x
            x = x @ weight[min(k, len(weight) - 1)].T + bias[min(k, len(bias) - 1)]
        out[:, k] = x[:, 0]
    return out


def rule_at(layers: Layers, data: StoppingData) -> Network:
    """Return the rule that scores as layers without a price do."""
    weights, biases = zip(*layers, strict=True)
    own = data.hidden
    more = () if own is None else (own.projection, own.shift)
    return Network(
        data.features, data.center, data.scale, "relu", list(weights), list(biases), *more
    )


@dataclass(frozen=True)
class DQN(NeuralPolicyMethod):
    """One Q-network for all prices; leave where Q(leave) is at least Q(go on).

    It has two hidden layers; an update takes `batch` transitions, and as many episodes are played at once.

    Parameters
    ----------
    memory : int
        Transitions remembered.
    double : bool
        Double Q-learning.
    """

    memory: int = 50_000
    double: bool = False

    label = "dqn"
    allowed: ClassVar = {"memory": COUNT, "double": YES_OR_NO}

    def sizes(self, columns: int, exits: int) -> tuple[list[int], int]:
        """Return two hidden layers, one network for all exits."""
        return [columns + exits + 1, self.hidden, self.hidden, 1], 1

    def train(self, samples: Samples, seed: int) -> Layers:
        import torch

        rng = np.random.default_rng(seed)
        sizes = [*self.sizes(samples.columns.shape[2], samples.exits)[0][:-1], 2]
        network = older = Stack(sizes, seed)
        adam = torch.optim.Adam(network.parameters, self.learning_rate)
        played, memory = Episodes(samples), Memory(self.memory)
        count = self.batch
        played.start(rng.integers(0, len(samples), count), drawn_prices(rng, count))
        now = played.observe()
        steps = updates(self.steps, count, len(samples))
        for step in range(steps):
            chance = max(1 - 2 * step / steps, _LEAST_RANDOM)
            with torch.no_grad():
                best = network(torch.from_numpy(now)[:, None])[:, 0].argmax(1).numpy()
            actions = np.where(rng.random(count) < chance, rng.integers(0, 2, count), best)
            rewards, ended = played.step(actions)
            then = played.observe()
            memory.add(now, actions, rewards / (1 + played.prices), then, ended)
            if ended.any():
                fresh = int(ended.sum())
                rows = rng.integers(0, len(samples), fresh)
                played.restart(ended, rows, drawn_prices(rng, fresh))
                then = played.observe()
            now = then
            if step % _RENEW == 0:
                older = deepcopy(network)
            for group in adam.param_groups:
                group["lr"] = self.learning_rate * (1 - step / steps)
            self._regress(network, older, adam, memory.draw(rng, self.batch))
        return difference(network.layers())

    def _regress(self, network: Stack, older: Stack, adam: Any, batch: tuple[Any, ...]) -> None:
        """Make one update."""
        import torch

        now, actions, rewards, then, ended = batch
        with torch.no_grad():
            after = torch.from_numpy(then)[:, None]
            rated = older(after)[:, 0]
            chosen = (network(after)[:, 0] if self.double else rated).argmax(1, keepdim=True)
            ahead = rated.gather(1, chosen)[:, 0] * torch.from_numpy(~ended)
            target = torch.from_numpy(rewards) + ahead
        guess = network(torch.from_numpy(now)[:, None])[:, 0]
        guess = guess.gather(1, torch.from_numpy(actions)[:, None])[:, 0]
        loss = torch.nn.functional.smooth_l1_loss(guess, target)
        adam.zero_grad()
        loss.backward()
        adam.step()


class Memory:
    """A ring of transitions."""

    def __init__(self, size: int) -> None:
        self.size, self.place, self.full = size, 0, False
        self.held: tuple[npt.NDArray[Any], ...] = ()

    def add(self, *columns: npt.NDArray[Any]) -> None:
        """Remember (n,) observations, actions, rewards, observations after, and whether it ended."""
        if not self.held:
            kinds = (np.float32, np.int64, np.float32, np.float32, np.bool_)
            like = zip(columns, kinds, strict=True)
            self.held = tuple(np.zeros((self.size, *c.shape[1:]), kind) for c, kind in like)
        n = len(columns[0])
        where = (self.place + np.arange(n)) % self.size
        for held, column in zip(self.held, columns, strict=True):
            held[where] = column
        self.full |= self.place + n >= self.size
        self.place = (self.place + n) % self.size

    def draw(self, rng: np.random.Generator, count: int) -> tuple[npt.NDArray[Any], ...]:
        """Return random ones."""
        rows = rng.integers(0, self.size if self.full else self.place, count)
        return tuple(held[rows] for held in self.held)


def difference(layers: Layers) -> Layers:
    """Return layers of two outputs, Q(go on) and Q(leave), as layers of their difference."""
    weight, bias = layers[-1]
    signs = np.where(np.arange(2) == LEAVE, 1.0, -1.0)
    last = (np.einsum("o,eoi->ei", signs, weight)[:, None], (bias @ signs)[:, None])
    return [*layers[:-1], last]


@dataclass(frozen=True)
class EPNet(NeuralPolicyMethod):
    """A small network per exit, trained as actor-critic; leave where it finds that the likelier.

    It has one hidden layer; an update takes `batch` episodes.

    Parameters
    ----------
    entropy : float
        As of `REINFORCE`; it falls to 0.
    inputs : {"history", "both"}
        History features, or also the vectors that the cache keeps, in 32 principal components at most.
    """

    entropy: float = 0.1
    inputs: str = "history"

    label = "epnet"
    allowed: ClassVar = {"entropy": NOT_NEGATIVE, "inputs": ("history", "both")}

    def required_columns(self) -> frozenset[str]:
        return frozenset() if self.inputs == "history" else frozenset({"features"})

    def sizes(self, columns: int, exits: int) -> tuple[list[int], int]:
        """Return one hidden layer, a network per exit that decides."""
        return [columns + exits + 1, self.hidden, 1], exits - 1

    def train(self, samples: Samples, seed: int) -> Layers:
        """Play whole episodes by the controllers' coins, a quarter of them for the critic alone."""
        import torch

        rng = np.random.default_rng(seed)
        sizes, each = self.sizes(samples.columns.shape[2], samples.exits)
        actor, critic = Stack(sizes, seed, each), Stack(sizes, seed + 1, each)
        climbers = [torch.optim.Adam(s.parameters, self.learning_rate) for s in (actor, critic)]
        steps = updates(self.steps, self.batch, len(samples))
        for step in range(steps):
            rows = rng.integers(0, len(samples), self.batch)
            prices = drawn_prices(rng, self.batch)
            exits = np.arange(samples.exits - 1)
            places = np.broadcast_arrays(rows[:, None], exits, prices[:, None])
            x = torch.from_numpy(shown(samples, *places))
            odds, value = actor(x)[:, :, 0], critic(x)[:, :, 0]
            log_odds = odds.detach().double().numpy()
            leave = sigmoid(log_odds)
            tails, reached = roll(leave, rng.random(leave.shape))
            reward = samples.success[rows] - samples.costs[rows] * prices[:, None]
            reward /= 1 + prices[:, None]
            guess = value.detach().double().numpy()
            off = (returns(reached, reward)[:, None] - guess) * reached[:, :-1]
            self._climb(climbers[1], value, off, step / steps)
            if step >= steps // 4:
                calmed = calm(log_odds, leave, self.entropy * (1 - step / steps))
                slope = (tails - leave) * off + calmed * reached[:, :-1]
                self._climb(climbers[0], odds, slope, step / steps)
        return actor.layers()

    def _climb(self, adam: Any, outputs: Any, slope: Floats, part: float) -> None:
        """Move outputs (n, K-1) up their slopes; `part` of the updates are made."""
        import torch

        for group in adam.param_groups:
            group["lr"] = self.learning_rate * (1 - part)
        adam.zero_grad()
        outputs.backward(gradient=torch.from_numpy(-slope / len(slope)).float())
        adam.step()
