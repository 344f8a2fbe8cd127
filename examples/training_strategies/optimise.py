"""One training loop for all strategies: minibatches, early stopping, the best epoch's weights."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Rows:
    """Images or features (n, ...), labels (n,), and the teacher's logits (n, C) where there is one."""

    inputs: Tensor
    labels: Tensor
    teacher: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Rows:
        teacher = None if self.teacher is None else self.teacher[rows]
        return Rows(self.inputs[rows], self.labels[rows], teacher)


@dataclass(frozen=True)
class Recipe:
    """How networks are trained; the study's numbers where it says them (section 5.3)."""

    rows: int = 10_000
    validation_rows: int = 2_000
    epochs: int = 40
    patience: int = 5
    plateau: int = 2
    """Epochs without a better validation loss after which SGD's rate is divided by ten."""
    batch: int = 128
    momentum: float = 0.9
    rates: dict[str, float] = field(
        default_factory=lambda: {"residual": 0.1, "depthwise": 0.001, "plain": 0.01}
    )

    def optimizer(self, backbone: str, parameters: Any) -> torch.optim.Optimizer:
        """Return Adam for the depthwise network, SGD with momentum for the others."""
        rate = self.rates[backbone]
        if backbone == "depthwise":
            return torch.optim.Adam(parameters, lr=rate)
        return torch.optim.SGD(parameters, lr=rate, momentum=self.momentum)

    def describe(self, backbone: str) -> dict[str, Any]:
        """Return the recipe for a cache's metadata."""
        optimizer = "Adam" if backbone == "depthwise" else f"SGD, momentum {self.momentum}"
        told = asdict(self) | {"optimizer": optimizer, "rate": self.rates[backbone]}
        return {k: v for k, v in told.items() if k not in ("rates", "momentum")}


@dataclass(frozen=True)
class Phase:
    """What one call of `optimise` did; losses are per epoch and exit, (E, len(exits))."""

    exits: list[int]
    seconds: float
    processor_seconds: float
    epochs: int
    best_epoch: int
    train_loss: list[list[float]]
    validation_loss: list[list[float]]
    validation_accuracy: list[list[float]]


def cross_entropy(logits: list[Tensor], batch: Rows) -> Tensor:
    """Return the cross-entropy of the only exit (equation 2)."""
    (only,) = logits
    return F.cross_entropy(only, batch.labels)


def outputs(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Return what a network puts out, as a list."""
    out = network(inputs)
    return out if isinstance(out, list) else [out]


@torch.no_grad()
def answers(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Return a network's outputs on many rows, as it is at run time."""
    network.eval()
    parts = [outputs(network, part) for part in inputs.split(EVALUATION_BATCH)]
    return [torch.cat(each) for each in zip(*parts, strict=True)]


def optimise(
    network: nn.Module,
    frozen: Sequence[nn.Module],
    exits: Sequence[int],
    train: Rows,
    validation: Rows,
    loss: Callable[[list[Tensor], Rows], Tensor],
    recipe: Recipe,
    backbone: str,
    seed: int,
) -> Phase:
    """Train a network on the outputs of frozen blocks; leave it with its best epoch's weights.

    Frozen blocks do not change, so that their outputs are worked out once for all epochs. The best
    epoch is the one of the least validation loss, of the same form as the training loss.
    """
    wall, processor = time.perf_counter(), time.process_time()
    if frozen:
        before = nn.Sequential(*frozen)
        train, validation = (
            Rows(answers(before, rows.inputs)[0], rows.labels, rows.teacher)
            for rows in (train, validation)
        )
    optimizer = recipe.optimizer(backbone, network.parameters())
    slower = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=recipe.plateau)
    torch.manual_seed(seed)  # of dropout
    generator = torch.Generator().manual_seed(seed)  # of the order
    best, best_epoch, kept = float("inf"), 0, copy.deepcopy(network.state_dict())
    curves: tuple[list[list[float]], ...] = ([], [], [])
    epoch = 0
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        order = torch.randperm(len(train.labels), generator=generator)
        whole = len(order) // recipe.batch * recipe.batch
        sums = torch.zeros(len(exits), device=train.labels.device)
        for rows in order[:whole].to(train.labels.device).split(recipe.batch):
            batch = train[rows]
            logits = outputs(network, batch.inputs)
            optimizer.zero_grad()
            loss(logits, batch).backward()
            optimizer.step()
            with torch.no_grad():
                sums += torch.stack([F.cross_entropy(o, batch.labels) for o in logits])
        logits = answers(network, validation.inputs)
        curves[0].append((sums * recipe.batch / whole).tolist())
        curves[1].append([F.cross_entropy(o, validation.labels).item() for o in logits])
        curves[2].append([accuracy(o, validation.labels) for o in logits])
        now = loss(logits, validation).item()
        if now < best:
            best, best_epoch, kept = now, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= recipe.patience:
            break
        if backbone != "depthwise":
            slower.step(now)
    network.load_state_dict(kept)
    network.eval()
    seconds = time.perf_counter() - wall, time.process_time() - processor
    return Phase(list(exits), *seconds, epoch, best_epoch, *curves)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows whose largest logit is the label's."""
    return (logits.argmax(1) == labels).float().mean().item()
