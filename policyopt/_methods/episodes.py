"""Episodes of the exit problem, many at once: a sample meets its exits, and leaves or goes on.

The Markov decision process that reinforcement learning sees. State: what exits 0..k show of the sample, the exit,
the price of cost. Actions: 0 goes on, 1 leaves. Going on from the last exit but one ends at the last one, where
there is nothing to decide. An episode earns its success less price times cost, cost in shares of the full model,
undiscounted. Numpy only; `policyopt.rl` gives it gymnasium's shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policyopt.runtime._typing import Bools, Floats, Ints

Reals = npt.NDArray[np.floating]
GO_ON, LEAVE = 0, 1
#: How often each row is shown, at most, but for the least updates: more of them cost time and teach
#: nothing (benchmarks/few_rows.py).
EPOCHS, LEAST_UPDATES = 600, 500


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
    """As many episodes side by side as there are rows; each at an exit of its own.

    With `late` an episode pays for all exits at the end instead of for each when it is reached; it earns the same.
    """

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
        n, exits = len(self.rows), self.samples.exits
        place = np.zeros((n, exits), dtype=np.float32)
        place[np.arange(n), self.exit] = 1.0
        price = log_price(self.prices)[:, None].astype(np.float32)
        return np.concatenate([self.samples.columns[self.rows, self.exit], place, price], axis=1)


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
