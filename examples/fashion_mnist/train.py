"""Joint training of all exits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .data import Bytes, Split
from .model import MultiExitNet, build_model

Step = Callable[[int, float], None]
"""Called after every step with its number (from 1) and the loss."""

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Recipe:
    """How the network is trained."""

    epochs: int = 10
    batch: int = 128
    peak_rate: float = 0.01
    warmup: float = 0.2
    weight_decay: float = 0.02
    exit_weights: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    seed: int = 0

    def describe(self) -> dict[str, object]:
        """Return the recipe for the cache's metadata."""
        return {
            "optimizer": "AdamW",
            "schedule": "one cycle with cosine annealing",
            "augmentation": "random horizontal flip",
            "loss": "weighted mean of the exits' cross-entropies",
            **asdict(self),
        }


def to_input(images: Bytes | Tensor) -> Tensor:
    """Turn grey bytes (n, 28, 28) into the network's input (n, 1, 28, 28) in [0, 1]."""
    return torch.as_tensor(images).unsqueeze(1).float().div(255)


def joint_loss(logits: list[Tensor], labels: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Return the weighted mean of the exits' cross-entropies."""
    total = torch.zeros(())
    for weight, exit_logits in zip(weights, logits, strict=True):
        total = total + weight * F.cross_entropy(exit_logits, labels)
    return total / sum(weights)


def train(split: Split, recipe: Recipe, on_step: Step) -> MultiExitNet:
    """Train a fresh network, all exits at once."""
    model = build_model(recipe.seed).train()
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    per_epoch = len(labels) // recipe.batch
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.peak_rate,
        total_steps=recipe.epochs * per_epoch,
        pct_start=recipe.warmup,
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    step = 0
    for _ in range(recipe.epochs):
        order = torch.randperm(len(labels), generator=generator)
        for rows in order[: per_epoch * recipe.batch].split(recipe.batch):
            batch = images[rows]
            mirrored = torch.rand(len(rows), generator=generator) < 0.5
            batch = torch.where(mirrored[:, None, None], batch.flip(2), batch)
            loss = joint_loss(model(to_input(batch)), labels[rows], recipe.exit_weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            on_step(step, loss.item())
    return model.eval()


@torch.inference_mode()
def accuracy(model: MultiExitNet, split: Split) -> list[float]:
    """Return the accuracy of every exit on a split, in [0, 1]."""
    correct = torch.zeros(model.exits, dtype=torch.int64)
    labels = torch.from_numpy(split.labels)
    for start in range(0, len(split), EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        answers = torch.stack(model(to_input(split.images[rows]))).argmax(2)
        correct += (answers == labels[rows]).sum(1)
    return (correct / len(split)).tolist()
