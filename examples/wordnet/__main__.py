"""``python -m examples.wordnet --out DIR``: train, count what exits cost, export.

``--quick`` does the same in seconds on few rows: it shows that the way works, not a good network.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from policyopt._cache.writer import CacheWriter
from policyopt._costs import Cost
from policyopt.runtime._files import write_file

from .data import DEFAULT_FILE, LEAST, LENGTH, SPLIT_SEED, DataError, Split, load_splits
from .model import TextNet
from .train import RECIPES, Recipe, train

QUICK_ROWS, BATCH = 500, 500


def main() -> int:
    """Run the example; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.wordnet", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory of the cache")
    parser.add_argument("--data", type=Path, default=DEFAULT_FILE, help="WordNet's data.noun")
    parser.add_argument("--recipe", choices=RECIPES, default="overfit", help="default %(default)s")
    parser.add_argument("--quick", action="store_true", help="few rows and one epoch")
    given = parser.parse_args()
    recipe = RECIPES[given.recipe]
    try:
        splits, classes = load_splits(given.data)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.quick:
        recipe = replace(recipe, epochs=1)
        splits = {name: split.head(QUICK_ROWS) for name, split in splits.items()}
    torch.set_num_threads(1)
    run(splits, classes, given.recipe, recipe, given.out)
    return 0


def run(splits: dict[str, Split], classes: list[str], name: str, recipe: Recipe, out: Path) -> None:
    """Train on the rows of `train`, export the rest, and write the data card."""
    started = time.perf_counter()
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("training", total=recipe.epochs * recipe.steps(splits["train"]))
        model = train(
            splits["train"],
            len(classes),
            recipe,
            lambda step, loss: progress.update(
                bar, completed=step, description=f"training, loss {loss:.3f}"
            ),
        )
    minutes = (time.perf_counter() - started) / 60
    export(model, splits, classes, name, recipe, minutes, out)


def export(
    model: TextNet,
    splits: dict[str, Split],
    classes: list[str],
    name: str,
    recipe: Recipe,
    minutes: float,
    out: Path,
) -> None:
    """Write the cache and its card."""
    cost = Cost("compute", "MMACs", tuple(model.multiply_adds()))
    metadata = {
        "description": "Per-exit logits of a four-exit text transformer on WordNet's definitions of nouns",
        "source": "WordNet 3.0, Princeton University, WordNet licence; logits Apache-2.0",
        "classes": classes,
        "training": recipe.describe(),
    }
    found = {}
    with CacheWriter(
        out, costs=[cost], dtype="float16", classes=len(classes), metadata=metadata, overwrite=True
    ) as writer:
        for part in ("fit", "test"):
            logits = outputs(model, splits[part])
            writer.append(part, list(logits), splits[part].labels)
            found[part] = measured(logits, splits[part])
    write_file(out / "README.md", data_card(found, cost, classes, name, recipe, minutes, out))
    for part, (count, accuracy, excess) in found.items():
        print(
            f"{part:5s} {count:6,d} rows  accuracy {line(accuracy)}  overconfident by {line(excess)}"
        )


@torch.inference_mode()
def outputs(model: TextNet, split: Split) -> np.ndarray:
    """Return the logits as the cache stores them, (K, n, C)."""
    parts = [
        torch.stack(model(torch.from_numpy(split.words[start : start + BATCH])))
        for start in range(0, len(split), BATCH)
    ]
    return torch.cat(parts, dim=1).numpy().astype(np.float16)


def measured(logits: np.ndarray, split: Split) -> tuple[int, np.ndarray, np.ndarray]:
    """Return rows, and per exit accuracy, and mean confidence less accuracy."""
    right = (logits.argmax(axis=2) == split.labels).mean(axis=1)
    sure = torch.from_numpy(logits.astype(np.float32)).softmax(dim=2).amax(dim=2).mean(dim=1)
    return len(split), right, sure.numpy() - right


def line(values: np.ndarray) -> str:
    """Return shares as percent."""
    return " | ".join(f"{100 * value:.2f}" for value in values)


def data_card(
    found: dict[str, tuple[int, np.ndarray, np.ndarray]],
    cost: Cost,
    classes: list[str],
    name: str,
    recipe: Recipe,
    minutes: float,
    out: Path,
) -> str:
    """Return the data card of the cache, from what was measured."""
    values = cost.values or ()
    head = " | ".join(f"exit {k}" for k in range(len(values)))
    rule = "|---|" + "---:|" * (len(values) + 1)
    accuracy = [f"| `{part}` | {n:,} | {line(right)} |" for part, (n, right, _) in found.items()]
    excess = [f"| `{part}` | {n:,} | {line(more)} |" for part, (n, _, more) in found.items()]
    return f"""# WordNet's definitions, four exits

Per-exit logits of a small text transformer that tells, from the definition of a noun alone, which of
{len(classes)} categories it belongs to: {", ".join(classes)}. Written by
`examples/wordnet`; this card is generated from what was measured.

## Accuracy per exit [%]

| split | rows | {head} |
{rule}
{chr(10).join(accuracy)}

All splits are held out from training, drawn at random with seed {SPLIT_SEED}.

## Mean confidence less accuracy per exit [points]

| split | rows | {head} |
{rule}
{chr(10).join(excess)}

## Cumulative cost per exit

| cost | unit | {head} |
{rule}
| `{cost.name}` | {cost.unit} | {" | ".join(f"{value:.4g}" for value in values)} |

In million multiply-adds per definition of {LENGTH} words (shorter ones are padded), heads passed included.

## How it was made

- Command: `python -m examples.wordnet --recipe {name} --out {Path(*out.parts[-2:])}`
- Text: of each noun in WordNet 3.0 (Debian's `wordnet-base`) the definition without its examples, a definition once, of
  categories (lexicographer files) with {LEAST:,} definitions or more. Words are hashed; no text is in the cache.
- Training: {minutes:.0f} minutes on one thread of a machine that did other work meanwhile.
- Recipe `{name}`: {", ".join(f"{k} {v}" for k, v in recipe.describe().items())}.
- Python {platform.python_version()}, PyTorch {torch.__version__.partition("+")[0]}. Logits are float16.

## Licence

WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. Its licence permits to use, copy, modify and
distribute it for any purpose and without fee. The logits and this card are released with the project, under Apache-2.0.
"""


if __name__ == "__main__":
    sys.exit(main())
