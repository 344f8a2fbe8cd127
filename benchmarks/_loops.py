"""Threshold finding and replay sample by sample: the peers' way, in code of our own.

What the published evaluation code does, by its description and a look at what it holds:

- MSDNet (Huang et al., ICLR 2018, section 4.2; kalviny/MSDNet-PyTorch, adaptive_inference.py) fixes
  the share of samples that should leave at each exit, walks an exit's samples from the readiest on,
  counting those that have not left before, and takes the score at which the count is full. It then
  decides sample by sample, exit by exit, reading torch tensors one element at a time. It meets no
  budget: it does all that for 40 geometric ratios and reports the cost that each has.
- EENet (Ilhan et al., WACV 2024, Algorithm 1; git-disl/EENet, utils/predict_*.py) finds the same
  thresholds by sorting, and decides as MSDNet does.

MSDNet's walk is also timed on numpy arrays read one element at a time and on plain Python lists, the
best that such a loop can do. Both peers replay twice, on the rows that chose the thresholds and on
the test rows; here everybody replays once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

NEVER, ALWAYS = 1e8, -1e8


class Walk(NamedTuple):
    """What a loop found: thresholds per exit, samples per exit, mean cost, accuracy."""

    thresholds: list[float]
    counts: list[int]
    cost: float
    accuracy: float


def walk(
    scores: Any, predictions: Any, labels: Any, costs: Any, shares: Any, order_of: Callable
) -> Walk:
    """Find thresholds and replay them, sample by sample; scores and predictions are (K, N).

    `order_of` sorts one exit's scores, readiest first. Works on lists and on numpy arrays.
    """
    exits, n = len(scores), len(scores[0])
    thresholds = [NEVER] * exits
    gone = [False] * n
    for k in range(exits - 1):
        order = order_of(scores[k])
        quota, count = math.floor(n * shares[k]), 0
        for i in range(n):
            sample = order[i]
            if not gone[sample]:
                count += 1
                if count == quota:
                    thresholds[k] = scores[k][sample]
                    break
        for i in range(n):
            if scores[k][i] >= thresholds[k]:
                gone[i] = True
    thresholds[exits - 1] = ALWAYS
    counts, cost, right = [0] * exits, 0.0, 0
    for i in range(n):
        for k in range(exits):
            if scores[k][i] >= thresholds[k]:
                counts[k] += 1
                cost += costs[k]
                right += int(predictions[k][i] == labels[i])
                break
    return Walk([float(t) for t in thresholds], counts, float(cost) / n, right / n)


def walk_tensors(scores: Any, predictions: Any, labels: Any, costs: Any, shares: Any) -> Walk:
    """Do the same on torch tensors, read element by element; the marking is one tensor call."""
    import torch

    exits, n = scores.shape
    order = scores.sort(dim=1, descending=True).indices
    thresholds = torch.full((exits,), NEVER, dtype=scores.dtype)
    gone = torch.zeros(n, dtype=torch.bool)
    for k in range(exits - 1):
        quota, count = math.floor(n * float(shares[k])), 0
        for i in range(n):
            sample = order[k][i]
            if not gone[sample]:
                count += 1
                if count == quota:
                    thresholds[k] = scores[k][sample]
                    break
        gone |= scores[k] >= thresholds[k]
    thresholds[exits - 1] = ALWAYS
    return _replay_tensors(scores, predictions, labels, costs, thresholds)


def sort_tensors(scores: Any, predictions: Any, labels: Any, costs: Any, shares: Any) -> Walk:
    """Find the thresholds by sorting who is left at each exit; replay element by element."""
    import torch

    exits, n = scores.shape
    thresholds = torch.full((exits,), NEVER, dtype=scores.dtype)
    left = scores
    for k in range(exits - 1):
        quota = math.floor(n * float(shares[k]))
        if quota:
            order = left[k].argsort(descending=True)
            thresholds[k] = left[k, order[quota - 1]]
            left = left[:, order[quota:]]
    thresholds[exits - 1] = ALWAYS
    return _replay_tensors(scores, predictions, labels, costs, thresholds)


def _replay_tensors(
    scores: Any, predictions: Any, labels: Any, costs: Any, thresholds: Any
) -> Walk:
    import torch

    exits, n = scores.shape
    counts, right = torch.zeros(exits), 0
    for i in range(n):
        for k in range(exits):
            if scores[k][i].item() >= thresholds[k]:
                counts[k] += 1
                right += int(predictions[k][i].item() == labels[i].item())
                break
    cost = float(counts.double() @ costs) / n
    return Walk(thresholds.tolist(), counts.long().tolist(), cost, right / n)


def on_lists(scores: Any, predictions: Any, labels: Any, costs: Any) -> Callable[[Any], Walk]:
    """Return the loop over Python lists, as a function of the shares."""
    s, p, y, c = scores.T.tolist(), predictions.T.tolist(), labels.tolist(), costs.tolist()

    def order_of(row: list[float]) -> list[int]:
        return sorted(range(len(row)), key=row.__getitem__, reverse=True)

    return lambda shares: walk(s, p, y, c, shares.tolist(), order_of)


def on_arrays(scores: Any, predictions: Any, labels: Any, costs: Any) -> Callable[[Any], Walk]:
    """Return the loop over numpy arrays, as a function of the shares."""
    s, p = np.ascontiguousarray(scores.T), np.ascontiguousarray(predictions.T)
    return lambda shares: walk(s, p, labels, costs, shares, lambda row: np.argsort(row)[::-1])


def on_tensors(
    scores: Any, predictions: Any, labels: Any, costs: Any, loop: Callable[..., Walk] = walk_tensors
) -> Callable[[Any], Walk]:
    """Return a loop over torch tensors, as a function of the shares."""
    import torch

    tensors = (torch.tensor(np.ascontiguousarray(a)) for a in (scores.T, predictions.T, labels))
    held = (*tensors, torch.tensor(costs))
    return lambda shares: loop(*held, shares)


def grid_shares(exits: int) -> list[np.ndarray]:
    """Return the geometric shares of the 40 ratios 0.05, 0.10, ... 2.00 that MSDNet tries."""
    powers = [(0.05 * step) ** np.arange(exits) for step in range(1, 41)]
    return [p / p.sum() for p in powers]


def scan(loop: Callable[[Any], Walk], exits: int, budgets: Sequence[float]) -> list[Walk]:
    """Walk all 40 ratios; return the dearest walk within each budget."""
    walks = [loop(shares) for shares in grid_shares(exits)]
    cheapest = min(walks, key=lambda w: w.cost)
    return [
        max((w for w in walks if w.cost <= budget), key=lambda w: w.cost, default=cheapest)
        for budget in budgets
    ]
