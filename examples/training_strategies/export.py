"""Cache a trained network: logits of all rows, costs, and what its training took."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from examples.fashion_mnist.data import STREAMS, Split, distort
from examples.fashion_mnist.train import to_input
from policyopt._cache.writer import CacheWriter
from policyopt._costs import Cost

from .model import StagedNet
from .optimise import EVALUATION_BATCH, Phase, Rows, accuracy, answers

TRAIN_ROWS = 2_000
"""Of the training rows, in the stream ``train``: they tell how far a network overfits."""


def _counts(module: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, float, int]:
    """Return a module's output on one row, its million multiply-adds, and its parameters."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = module.eval()(inputs)
    # The counter reports two operations, a product and a sum, per multiply-add.
    macs = counter.get_total_flops() / 2 / 1e6
    return out, macs, sum(p.numel() for p in module.parameters())


def _image(module: nn.Module) -> torch.Tensor:
    return torch.zeros(1, 1, 28, 28, device=next(module.parameters()).device)


def sizes(net: StagedNet) -> dict[str, list[float]]:
    """Return parameters and MMACs: up to each exit with all heads passed, and of each head alone."""
    hidden = _image(net)
    table: dict[str, list[float]] = {
        "parameters": [], "multiply_adds": [], "head_parameters": [], "head_multiply_adds": []
    }  # fmt: skip
    macs, parameters = 0.0, 0
    for block, head in zip(net.blocks, net.heads, strict=True):
        hidden, block_macs, block_parameters = _counts(block, hidden)
        _, head_macs, head_parameters = _counts(head, hidden)
        macs += block_macs + head_macs
        parameters += block_parameters + head_parameters
        row = (parameters, macs, head_parameters, head_macs)
        for column, value in zip(table.values(), row, strict=True):
            column.append(value)
    return table


def sizes_of(model: nn.Module, shared: StagedNet) -> tuple[dict[str, list[float]], list[Cost]]:
    """Return a model's sizes, and its costs: as it is, and as if its exits shared their layers.

    Models per exit share nothing: who reaches exit k has run those before, unless they are skipped.
    """
    table = sizes(model if isinstance(model, StagedNet) else shared)
    usual = Cost("shared", "MMACs", tuple(table["multiply_adds"]))
    if isinstance(model, StagedNet):
        return table, [replace(usual, name="compute"), usual]
    alone = [_counts(each, _image(each))[1:] for each in model.models]
    cost = Cost("compute", "MMACs", tuple(macs for macs, _ in alone), kind="standalone")
    table["multiply_adds"] = list(cost.values or ())
    table["parameters"] = list(itertools.accumulate(parameters for _, parameters in alone))
    return table, [cost, usual]


def per_exit(
    model: nn.Module, phases: list[Phase], train: Rows, validation: Rows
) -> dict[str, list[float]]:
    """Return what training made of every exit, and the seconds it took.

    The time of a phase that trains several exits at once counts in equal parts for each.
    """
    exits = model.exits
    seconds, best = [0.0] * exits, [0] * exits
    for phase in phases:
        for exit_ in phase.exits:
            index = exit_ if exits > 1 else 0
            seconds[index] += phase.seconds / len(phase.exits)
            best[index] = phase.best_epoch
    told: dict[str, list[float]] = {"train_seconds": seconds, "best_epoch": best}
    for name, rows in (("train", train), ("validation", validation)):
        logits = answers(model, rows.inputs)
        told[f"{name}_accuracy"] = [accuracy(o, rows.labels) for o in logits]
        told[f"{name}_loss"] = [F.cross_entropy(o, rows.labels).item() for o in logits]
    return told


def rounded(value: Any, digits: int = 5) -> Any:
    """Round all numbers of a JSON value to significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    return [rounded(v, digits) for v in value] if isinstance(value, list | tuple) else value


def batches(model: nn.Module, split: Split) -> Iterator[tuple[list[torch.Tensor], Any]]:
    """Yield logits and labels batch by batch."""
    device = next(model.parameters()).device
    for start in range(0, len(split), EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        yield answers(model, to_input(split.images[rows]).to(device)), split.labels[rows]


def write_cache(
    model: nn.Module,
    splits: dict[str, Split],
    distorted: bool,
    path: Path,
    costs: list[Cost],
    metadata: dict[str, Any],
) -> None:
    """Write ``fit``, ``test``, the stream ``train`` and, where asked, the distorted test rows."""
    with CacheWriter(
        path, costs=costs, dtype="float16", classes=10, metadata=rounded(metadata), overwrite=True
    ) as writer:
        parts = {
            "fit": splits["fit"],
            "test": splits["test"],
            "train": splits["train"].head(TRAIN_ROWS),
        }
        for name in (*parts, *(STREAMS if distorted else ())):
            split = parts[name] if name in parts else distort(splits["test"], name)
            for logits, labels in batches(model, split):
                writer.append(name, logits, labels)
