"""Export the logits of all exits through the streaming cache writer, and write the data card."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policyopt._cache.writer import CacheWriter
from policyopt._costs import Cost

from .data import FIT_ROWS, SPLIT_SEED, STREAMS, Split, distort, strengths
from .measure import cpu_name
from .model import MultiExitNet
from .train import EVALUATION_BATCH, Recipe, to_input

Accuracies = dict[str, tuple[int, list[float]]]


@torch.inference_mode()
def export(
    model: MultiExitNet,
    splits: dict[str, Split],
    path: Path,
    costs: list[Cost],
    metadata: dict[str, Any],
    on_rows: Callable[[int, str], None],
) -> Accuracies:
    """Write splits and distorted streams of the test set as a cache, batch by batch."""
    parts = {name: splits[name] for name in ("fit", "calibrate", "test")}
    accuracies: Accuracies = {}
    with CacheWriter(
        path, costs=costs, dtype="float16", classes=10, metadata=metadata, overwrite=True
    ) as writer:
        for name in (*parts, *STREAMS):
            part = parts[name] if name in parts else distort(parts["test"], name)
            correct = np.zeros(model.exits)
            for start in range(0, len(part), EVALUATION_BATCH):
                rows = slice(start, start + EVALUATION_BATCH)
                logits = model(to_input(part.images[rows]))
                labels = part.labels[rows]
                writer.append(name, logits, labels)
                # As the cache stores them: in float16 two logits may be equal that were not.
                stored = [exit_.numpy().astype(np.float16) for exit_ in logits]
                correct += [(exit_.argmax(axis=1) == labels).sum() for exit_ in stored]
                on_rows(len(labels), name)
            accuracies[name] = (len(part), (correct / len(part)).tolist())
    return accuracies


def data_card(
    accuracies: Accuracies, costs: list[Cost], recipe: Recipe, seconds: float, command: str
) -> str:
    """Return the data card of the cache, from what was measured."""
    exits = len(costs[0].values or ())
    head = " | ".join(f"exit {k}" for k in range(exits))
    rule = "|---|" + "---:|" * (exits + 1)
    rows = [
        f"| `{name}` | {count:,} | " + " | ".join(f"{100 * a:.2f}" for a in accuracy) + " |"
        for name, (count, accuracy) in accuracies.items()
    ]
    cost_rows = [
        f"| `{cost.name}` | {cost.unit} | "
        + " | ".join(f"{v:.4g}" for v in cost.values or ())
        + " |"
        for cost in costs
    ]
    distortions = ", ".join(f"`{name}` {value:g}" for name, value in strengths().items())
    return "\n".join(
        [
            "# Fashion-MNIST, five exits",
            "",
            "Per-exit logits of a small multi-exit convolutional network on Fashion-MNIST: real",
            "outputs to try exit policies on. Written by `examples/fashion_mnist`; this card is",
            "generated from what was measured.",
            "",
            "## Accuracy per exit [%]",
            "",
            f"| split | rows | {head} |",
            rule,
            *rows,
            "",
            f"`fit` ({FIT_ROWS:,} rows) and `calibrate` are rows of the official training set that were",
            f"held out from training (drawn with seed {SPLIT_SEED}); `test` is the official test set. The",
            "other splits are streams: the test set, distorted. Standard deviations of the Gaussian blur",
            f"(pixels) and of the Gaussian noise (pixels lie in [0, 1]): {distortions}.",
            "",
            "## Cumulative cost per exit",
            "",
            f"| cost | unit | {head} |",
            rule,
            *cost_rows,
            "",
            "`compute` is in million multiply-adds per image, stem and every head passed included, counted",
            "with `torch.utils.flop_counter`. `latency` is the median wall time of one image on one thread",
            f"({cpu_name()}; PyTorch {torch.__version__.partition('+')[0]}), heads included, until the",
            "logits of that exit are there. The arithmetic of the classic exit scores at 10 classes (about",
            "100 operations per exit) is below the last digit of `compute`.",
            "",
            "## How it was made",
            "",
            f"- Command: `{command}`",
            f"- Training: {recipe.epochs} epochs, all exits at once, "
            f"{seconds / 60:.1f} minutes on 2 threads.",
            f"- Recipe: {', '.join(f'{k} {v}' for k, v in recipe.describe().items())}.",
            f"- Python {platform.python_version()}, PyTorch {torch.__version__.partition('+')[0]}. Logits are float16.",
            "",
            "## Licence",
            "",
            "Fashion-MNIST is released by Zalando SE under the MIT licence (Xiao, Rasul & Vollgraf,",
            "arXiv:1708.07747). The logits and this card are released with the project, under Apache-2.0.",
            "",
        ]
    )
