"""Deep Q-network: Mnih et al., Nature 518 (2015), algorithm 1, for exits as Kim & Lee (Mathematics, 2024).

Kim & Lee, "To Exit or Not to Exit" (Mathematics 12(14):2263), and Vashist et al. (ICCE 2022) before
them, decide at each exit by a Q-network that weighs accuracy against cost. As in Mnih et al. the agent
acts epsilon-greedily, remembers its transitions, and regresses

    y = r                           where the episode ended
    y = r + max_a Q'(s', a)         else,

on random ones of them, Q' being the network as it was some time ago; errors beyond 1 count linearly.

Departures: the state is the history features with the exit and the price of cost, and the price is
drawn anew for each episode, so that one network serves all budgets (theirs is trained per weight of
cost); rewards are divided by 1 + price, or dear prices would have all of the error; undiscounted, as
every episode ends; the rate falls to 0. With ``double=true`` the network chooses a and Q' rates it (van
Hasselt et al., AAAI 2016), against the upward bias of the maximum. Kim & Lee's and Vashist et al.'s
own rewards could not be read at the source: theirs may weigh cost otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from policyopt._methods.episodes import LEAVE, Episodes, Samples
from policyopt._methods.neural import Layers, NeuralPolicyMethod, Stack, drawn_prices, updates
from policyopt._methods.settings import COUNT, YES_OR_NO

_RENEW = 100  # updates after which Q' is renewed
_LEAST_RANDOM = 0.05  # of the actions, from half of the updates on


@dataclass(frozen=True)
class DQN(NeuralPolicyMethod):
    """One Q-network for all prices; leave where Q(leave) is at least Q(go on).

    Parameters
    ----------
    answer, soft, folds, hold_out, hidden, steps, batch, learning_rate
        As of `NeuralPolicyMethod`; two hidden layers, `batch` transitions per update and as many episodes at once.
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
        """Play, remember, regress."""
        import torch

        rng = np.random.default_rng(seed)
        sizes = [*self.sizes(samples.columns.shape[2], samples.exits)[0][:-1], 2]
        network, older = Stack(sizes, seed), Stack(sizes, seed)
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
                network.copy_to(older)
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
            self.held = tuple(
                np.zeros((self.size, *c.shape[1:]), dtype=kind)
                for c, kind in zip(columns, kinds, strict=True)
            )
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
