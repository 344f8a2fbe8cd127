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
    seed: int = 0

    def steps(self, split: Split) -> int:
        """Return the steps of an epoch."""
        return max(len(split) // self.batch, 1)

    def describe(self) -> dict[str, Any]:
        """Return the recipe for the metadata of the cache."""
        fixed = {"optimizer": "AdamW", "schedule": "one cycle with cosine annealing"}
        return {**fixed, "loss": "mean of the exits' cross-entropies", **asdict(self)}


#: What the networks differ in. `joint`: early heads are calibrated. `overfit`: trained for so long and with
#: so little regularisation that they are overconfident. `late`: the trunk serves the last exit alone.
RECIPES = {
    "joint": Recipe(),
    "overfit": Recipe(epochs=8, weight_decay=0.0, dropout=0.0),
    "late": Recipe(detached=True),
}


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
    return model.eval()
