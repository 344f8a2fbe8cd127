"""``python -m examples.fashion_mnist --out DIR``: train, measure, export.

``--quick`` does the same in seconds on few rows: it shows that the way works, not a good network.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from policyopt._costs import Cost
from policyopt.runtime._files import write_file

from .data import DEFAULT_FOLDER, STREAMS, DataError, Split, load_splits
from .export import data_card, export
from .measure import latency, multiply_adds
from .train import Recipe, train

QUICK_ROWS = {"train": 2560, "fit": 500, "calibrate": 250, "test": 500}


def main() -> int:
    """Run the example; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.fashion_mnist", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory of the cache")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the idx files")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="default %(default)s")
    parser.add_argument("--quick", action="store_true", help="few rows and one epoch")
    given = parser.parse_args()
    recipe = replace(Recipe(), epochs=1 if given.quick else given.epochs, seed=given.seed)
    try:
        splits = load_splits(given.data)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.quick:
        splits = {name: split.head(QUICK_ROWS[name]) for name, split in splits.items()}
    torch.set_num_threads(1 if given.quick else 2)  # the figures on the card are for two
    run(splits, recipe, given.out, runs=30 if given.quick else 400)
    return 0


def run(splits: dict[str, Split], recipe: Recipe, out: Path, runs: int) -> None:
    """Train on the rows of `train`, export the rest, and write the data card."""
    with Progress(console=Console(stderr=True)) as progress:
        steps = recipe.epochs * (len(splits["train"]) // recipe.batch)
        training = progress.add_task("training", total=steps)
        started = time.perf_counter()
        model = train(
            splits["train"],
            recipe,
            lambda step, loss: progress.update(
                training, completed=step, description=f"training, loss {loss:.3f}"
            ),
        )
        seconds = time.perf_counter() - started
        costs = [
            Cost("compute", "MMACs", tuple(multiply_adds(model))),
            Cost("latency", "ms", tuple(latency(model, splits["test"].images, runs))),
        ]
        rows = sum(len(splits[name]) for name in ("fit", "calibrate"))
        rows += (1 + len(STREAMS)) * len(splits["test"])
        exporting = progress.add_task("exporting", total=rows)
        metadata = {
            "description": "Per-exit logits of a five-exit convolutional network on Fashion-MNIST",
            "source": "Fashion-MNIST, Zalando SE, MIT licence; logits Apache-2.0",
            "training": recipe.describe(),
        }
        accuracies = export(
            model,
            splits,
            out,
            costs,
            metadata,
            lambda count, name: progress.update(
                exporting, advance=count, description=f"exporting {name}"
            ),
        )
    command = f"python -m examples.fashion_mnist --out {Path(*out.parts[-2:])}"
    write_file(out / "README.md", data_card(accuracies, costs, recipe, seconds, command))
    for name, (count, accuracy) in accuracies.items():
        print(f"{name:16s} {count:6,d} rows  accuracy " + " ".join(f"{a:.4f}" for a in accuracy))


if __name__ == "__main__":
    sys.exit(main())
