"""Time per sample: the full model, the served one, and what serving would cost without any loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from policyopt.serving import Server, StagedModel

WARMUP = 3
Floats = npt.NDArray[np.float64]


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
    """

    batch: int
    full: tuple[float, float]
    served: tuple[float, float]
    ideal: tuple[float, float]
    shares: tuple[float, ...]

    @property
    def ratio(self) -> tuple[float, float]:
        """Served over ideal."""
        return self.served[0] / self.ideal[0], self.served[1] / self.ideal[1]


def race(model: StagedModel, server: Server, inputs: torch.Tensor, batch: int, rounds: int) -> Race:
    """Run the three in turn, round by round on other samples, so that a busy moment meets them all.

    Figures are medians over the rounds; of single samples, medians over those that took the same
    exit, weighted by its share.
    """
    full, served = np.empty((rounds, 2)), np.empty((rounds, 2))
    to_exit = np.empty((rounds, model.exits, 2))
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
    counts = np.stack([np.bincount(row, minlength=model.exits) for row in taken])
    ideal = np.einsum("rk,rkc->rc", counts / batch, to_exit)
    kinds = taken[:, 0] if batch == 1 else np.zeros(rounds, dtype=np.int64)
    return Race(
        batch, _typical(full, 0 * kinds, batch), _typical(served, kinds, batch),
        _typical(ideal, kinds, batch), tuple((counts.sum(axis=0) / taken.size).tolist()),
    )  # fmt: skip


def clocked(run: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Return the seconds by wall-clock and of this thread, and what was returned."""
    wall, own = time.perf_counter(), time.thread_time()
    found = run()
    return (time.perf_counter() - wall, time.thread_time() - own), found


def _to_exits(model: StagedModel, images: torch.Tensor) -> Floats:
    """Return the seconds until the logits of each exit are on the host, (K, 2)."""
    row, hidden = np.empty((model.exits, 2)), images
    wall, own = time.perf_counter(), time.thread_time()
    for k in range(model.exits):
        hidden, logits = model.stage(k, hidden)
        model.head(k, hidden, logits).numpy()
        row[k] = time.perf_counter() - wall, time.thread_time() - own
    return row


def _typical(seconds: Floats, kinds: npt.NDArray[np.int64], batch: int) -> tuple[float, float]:
    """Return milliseconds per sample: medians within each kind of round, weighted by their numbers."""
    total = np.zeros(2)
    for kind in np.unique(kinds):
        mine = seconds[kinds == kind]
        total += len(mine) * np.median(mine, axis=0)
    per = total / len(seconds) / batch * 1e3
    return float(per[0]), float(per[1])
