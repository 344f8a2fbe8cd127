"""One run: a strategy on a backbone from a seed, from rows to a cache, resumable."""

from __future__ import annotations

import functools
import os
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from examples.fashion_mnist.data import Split, load_splits
from examples.fashion_mnist.train import to_input

from .export import TRAIN_ROWS, per_exit, sizes_of, write_cache
from .model import build
from .optimise import Phase, Recipe, Rows
from .strategies import STRATEGIES, Task, Trained, shape_of


@dataclass(frozen=True)
class Run:
    """What is trained, and where it goes."""

    backbone: str
    strategy: str
    seed: int
    out: Path
    data: Path
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Name of the run, and its place in `out`."""
        return f"{self.backbone}/{self.strategy}/{self.seed}"


@dataclass(frozen=True)
class Sizes:
    """A recipe and how many rows of each split are cached; None for all."""

    recipe: Recipe
    fit: int | None = None
    test: int | None = None
    train: int = TRAIN_ROWS


@functools.cache
def _splits(folder: Path) -> dict[str, Split]:
    return load_splits(folder)


def is_done(run: Run) -> bool:
    """Whether the run's cache is there, whole: its manifest is written last."""
    return (run.out / run.name / "manifest.json").is_file()


def perform(run: Run, sizes: Sizes) -> None:
    """Train, or read what was trained, and write the cache."""
    torch.set_num_threads(1)
    splits = _splits(run.data)
    images, labels = splits["train"].images, splits["train"].labels
    recipe = sizes.recipe
    parts = []
    for rows in (slice(recipe.rows), slice(recipe.rows, recipe.rows + recipe.validation_rows)):
        inputs = to_input(images[rows]).to(memory_format=torch.channels_last)
        parts.append(Rows(inputs.to(run.device), torch.from_numpy(labels[rows]).to(run.device)))
    train, validation = parts

    def load(strategy: str) -> Trained:
        """Read a strategy's weights, or train it: others start from it."""
        model, phases, _ = _trained(run, strategy, task)
        return model, phases

    task = Task(run.backbone, run.seed, train, validation, recipe, load)
    model, phases, peak = _trained(run, run.strategy, task)
    table, costs = sizes_of(model, build(run.backbone, run.seed))
    training: dict[str, Any] = {
        "strategy": run.strategy,
        "backbone": run.backbone,
        "seed": run.seed,
        "seconds": sum(phase.seconds for phase in phases),
        "processor_seconds": sum(phase.processor_seconds for phase in phases),
        "peak_memory_bytes": peak,
        "epochs": sum(phase.epochs for phase in phases),
        "device": run.device,
        "recipe": recipe.describe(run.backbone),
        "phases": [asdict(phase) for phase in phases],
    }
    metadata = {
        "description": f"{run.strategy} training of a small {run.backbone} network on Fashion-MNIST",
        "source": "Fashion-MNIST, Zalando SE, MIT licence; logits Apache-2.0",
        "per_exit": {**table, **per_exit(model, phases, train, validation)},
        "training": training,
    }
    kept = {
        "fit": splits["fit"].head(sizes.fit),
        "test": splits["test"].head(sizes.test),
        "train": splits["train"].head(sizes.train),
    }
    distorted = run.backbone == "residual" and run.seed == 0
    write_cache(model, kept, distorted, run.out / run.name, costs, metadata)


def _trained(run: Run, strategy: str, task: Task) -> tuple[nn.Module, list[Phase], int]:
    """Return a strategy's network, phases and peak memory: from its file, or trained and filed."""
    file = run.out / "models" / run.backbone / strategy / f"{run.seed}.pt"
    if file.is_file():
        saved = torch.load(file, map_location=run.device, weights_only=True)
        model = shape_of(strategy, run.backbone).to(run.device)
        model.load_state_dict(saved["weights"])
        return model.eval(), [Phase(**phase) for phase in saved["phases"]], saved["peak"]
    model, phases = STRATEGIES[strategy](task)
    saved = {
        "weights": model.state_dict(),
        "phases": [asdict(phase) for phase in phases],
        "peak": _peak_memory(run.device),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(f".{os.getpid()}")
    torch.save(saved, half)
    half.replace(file)  # no one reads half a file
    return model.eval(), phases, saved["peak"]


def _peak_memory(device: str) -> int:
    """Return the most bytes this process has held, on the device it trains on."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
