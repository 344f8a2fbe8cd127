"""Time per sample: the full model, the served one, and what serving would cost without any loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from policyopt.runtime._typing import Floats
from policyopt.serving import Server, StagedModel

WARMUP = 3
ENOUGH = 5


@dataclass(frozen=True)
class Race:
    """Milliseconds per sample, by wall-clock and by the thread's processor time.

    Attributes
    ----------
    batch
        Samples per call.
    full
        The whole network without its early exits.
    served
        With the policy.
    ideal
        Share of each exit times what the network costs to there, all samples going together, early
        heads and the copy of the logits to the host included.
    shares
        Of the exits taken.
    alone
        Share of the calls during which no other process took the core; the others are left out,
        unless fewer than `ENOUGH` are left (long calls on a busy machine).
    """

    batch: int
    full: tuple[float, float]
    served: tuple[float, float]
    ideal: tuple[float, float]
    shares: tuple[float, ...]
    alone: float

    @property
    def ratio(self) -> tuple[float, float]:
        """Served over ideal."""
        return self.served[0] / self.ideal[0], self.served[1] / self.ideal[1]


def race(model: StagedModel, server: Server, inputs: torch.Tensor, batch: int, rounds: int) -> Race:
    """Run the three in random order, round by round on other samples.

    Figures are medians over the rounds; of single samples, medians over those that took the same
    exit, weighted by its share.
    """
    full, served = np.empty((rounds, 3)), np.empty((rounds, 3))
    to_exit = np.empty((rounds, model.exits, 3))
    taken = np.empty((rounds, batch), dtype=np.int64)
    places = len(inputs) // batch

    def run_full(number: int, images: torch.Tensor) -> None:
        with torch.inference_mode():
            full[number] = clocked(lambda: model.last(images).numpy())[0]

    def run_to_exits(number: int, images: torch.Tensor) -> None:
        with torch.inference_mode():
            to_exit[number] = _to_exits(model, images)

    def run_served(number: int, images: torch.Tensor) -> None:
        served[number], found = clocked(lambda: server(images))
        taken[number] = found.exit

    rng = np.random.default_rng(0)
    runs = [run_full, run_to_exits, run_served]
    for number in range(-WARMUP, rounds):
        at = number % places * batch
        # In a fresh order each time: a scheduler's slices have a rhythm of their own.
        for turn in rng.permutation(3):
            runs[turn](number, inputs[at : at + batch])
    shares = np.bincount(taken.ravel(), minlength=model.exits) / taken.size
    costs = np.array([typical(to_exit[:, k]) for k in range(model.exits)])
    kinds = taken[:, 0] if batch == 1 else np.zeros(rounds, dtype=np.int64)
    mine = np.zeros(2)
    for kind in np.unique(kinds):
        mine += (kinds == kind).mean() * typical(served[kinds == kind])
    alone = np.concatenate([full[:, 2], served[:, 2], to_exit[:, -1, 2]]) == 0
    return Race(
        batch, _per_sample(typical(full), batch), _per_sample(mine, batch),
        _per_sample(shares @ costs, batch), tuple(shares.tolist()), float(alone.mean()),
    )  # fmt: skip


def _per_sample(seconds: Floats, batch: int) -> tuple[float, float]:
    return float(seconds[0] / batch * 1e3), float(seconds[1] / batch * 1e3)


def clocked(run: Callable[[], Any]) -> tuple[tuple[float, float, float], Any]:
    """Return the seconds by wall-clock and of this thread, how often it was interrupted; the result."""
    before, wall, own = interruptions(), time.perf_counter(), time.thread_time()
    found = run()
    own, wall = time.thread_time() - own, time.perf_counter() - wall
    return (wall, own, interruptions() - before), found


def interruptions() -> float:
    """Return how often other processes have taken the core from this thread; 0 where unknown."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    except (ImportError, AttributeError):  # not Linux
        return 0


def typical(calls: Floats) -> Floats:
    """Return the median seconds by both clocks, (2,), of calls (n, 3) that had the core to themselves."""
    alone = calls[calls[:, 2] == 0]
    return np.median(alone if len(alone) >= ENOUGH else calls, axis=0)[:2]


def _to_exits(model: StagedModel, images: torch.Tensor) -> Floats:
    """Return seconds and interruptions until the logits of each exit are on the host, (K, 3)."""
    row, hidden = np.empty((model.exits, 3)), images
    before, wall, own = interruptions(), time.perf_counter(), time.thread_time()
    for k in range(model.exits):
        hidden, logits = model.stage(k, hidden)
        model.head(k, hidden, logits).numpy()
        row[k] = time.perf_counter() - wall, time.thread_time() - own, interruptions() - before
    return row
