"""EPNet's exit controllers: Dai, Kong & Guo, CIKM 2020, "Learning to Exit with Flexible Multi-Branch Network".

The paper puts a lightweight controller on every branch and learns when to exit as a Markov decision
process whose reward weighs accuracy against the cost of inference by a budget. So here: each exit has a
network of its own with one hidden layer, which gives the probability of leaving; the reward is success
less weight times cost; the controllers learn from sampled episodes, an actor with a critic of the same
shape: a decision that was taken moves its log-odds by ``(a - s)(G - V(x))`` as in `reinforce`, G being
what the episode earned.

Departures: the weight is drawn anew for every episode and given to the controllers, so that one training
serves all budgets; the branches are given, not trained along; a controller sees the history features,
not the branch's feature map. Only the paper's abstract and two surveys' words on it could be read: the
reward's exact form and the update rule are this reading of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from policyopt._methods.episodes import Samples, log_price, roll
from policyopt._methods.neural import Layers, NeuralPolicyMethod, Stack, drawn_prices, updates
from policyopt._methods.reinforce import calm, returns
from policyopt._methods.settings import NOT_NEGATIVE
from policyopt.runtime._arithmetic import sigmoid
from policyopt.runtime._typing import Floats


@dataclass(frozen=True)
class EPNet(NeuralPolicyMethod):
    """A small network per exit, trained as actor-critic; leave where it finds that the likelier.

    Parameters
    ----------
    answer, soft, folds, hold_out, hidden, steps, batch, learning_rate
        As of `NeuralPolicyMethod`; one hidden layer, `batch` episodes per update.
    entropy : float
        As of `REINFORCE`; it falls to 0.
    """

    entropy: float = 0.1

    label = "epnet"
    allowed: ClassVar = {"entropy": NOT_NEGATIVE}

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
            x = torch.from_numpy(seen_at_all(samples, rows, prices))
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
                slope = (tails - leave) * off + calm(
                    log_odds, leave, self.entropy * (1 - step / steps)
                ) * reached[:, :-1]
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


def seen_at_all(
    samples: Samples, rows: npt.NDArray[np.int64], prices: Floats
) -> npt.NDArray[np.float32]:
    """Return what `Episodes.observe` shows of rows at every exit that decides, (n, K-1, M + K + 1)."""
    n, exits = len(rows), samples.exits
    place = np.broadcast_to(np.eye(exits, dtype=np.float32)[:-1], (n, exits - 1, exits))
    price = np.broadcast_to(log_price(prices)[:, None, None], (n, exits - 1, 1))
    parts = [samples.columns[rows, :-1], place, price.astype(np.float32)]
    return np.concatenate(parts, axis=2)
