"""Training: all exits at once, or the trunk by its last exit alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from .data import Split
from .model import TextNet


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    epochs: int = 5
    batch: int = 256
    peak_rate: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.02
    dropout: float = 0.1
    detached: bool = False  # early heads look at a trunk that only the last exit shapes
    head_epochs: int = 0  # of wide early heads afterwards, on the finished trunk, not regularised
    seed: int = 0

    def steps(self, split: Split) -> int:
        """Return the steps of an epoch."""
        return max(len(split) // self.batch, 1)

    def describe(self) -> dict[str, Any]:
        """Return the recipe for the metadata of the cache."""
        fixed = {"optimizer": "AdamW", "schedule": "one cycle with cosine annealing"}
        return {**fixed, "loss": "mean of the exits' cross-entropies", **asdict(self)}


#: What the networks differ in. `joint`: all exits shape the trunk. `late`: the last alone, so that early ones are
#: poor. `overfit`: as `late`, and early heads are overfitted, so that they are overconfident.
RECIPES = {
    "joint": Recipe(),
    "late": Recipe(detached=True),
    "overfit": Recipe(detached=True, head_epochs=20),
}
HEAD_WIDTH, HEAD_RATE = 256, 3e-3


def train(
    split: Split, classes: int, recipe: Recipe, on_step: Callable[[int, float], None]
) -> TextNet:
    """Train a network on a split; `on_step` hears the number of the step and its loss."""
    torch.manual_seed(recipe.seed)
    model = TextNet(classes, dropout=recipe.dropout, detached=recipe.detached)
    words, labels = torch.from_numpy(split.words), torch.from_numpy(split.labels)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.steps(split)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_rate, total_steps=recipe.epochs * steps, pct_start=recipe.warmup
    )
    step = 0
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(split)).split(recipe.batch)[:steps]:
            losses = [nn.functional.cross_entropy(o, labels[rows]) for o in model(words[rows])]
            loss = torch.stack(losses).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            on_step(step, loss.item())
    model.eval()
    if recipe.head_epochs:
        overfit_heads(model, split, classes, recipe)
    return model


def overfit_heads(model: TextNet, split: Split, classes: int, recipe: Recipe) -> None:
    """Replace the early heads by wide ones, trained for long on the features of a trunk that stays."""
    torch.manual_seed(recipe.seed)
    labels = torch.from_numpy(split.labels)
    with torch.no_grad():
        parts = [
            [*model.features(rows)] for rows in torch.from_numpy(split.words).split(recipe.batch)
        ]
    for k, features in enumerate(torch.cat(part) for part in list(zip(*parts, strict=True))[:-1]):
        width = features.shape[1]
        head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, HEAD_WIDTH), nn.GELU(), nn.Linear(HEAD_WIDTH, classes)
        )  # fmt: skip
        adam = torch.optim.Adam(head.parameters(), HEAD_RATE)
        for _ in range(recipe.head_epochs):
            for rows in torch.randperm(len(split)).split(recipe.batch):
                adam.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(head(features[rows]), labels[rows]).backward()
                adam.step()
        model.heads[k] = head.eval()
