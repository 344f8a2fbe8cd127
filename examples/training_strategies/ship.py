"""The small caches that come with the project: the first test rows of each, as one pool."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

import policyopt as po
from policyopt.runtime._files import write_file

ROWS = 1_000

CARD = """# Training strategies: {count} small caches

Per-exit logits (float16) of networks with early exits that were trained in nine ways on
Fashion-MNIST: real outputs to compare models with. One cache per backbone, strategy and seed, at
`BACKBONE/STRATEGY/SEED`:

| backbone | seeds | strategies |
|---|---:|---|
{table}

Written by [`examples/training_strategies`](../../examples/training_strategies/README.md), whose page
has the recipe and what came out:

```
python -m examples.training_strategies --out OUT
python -m examples.training_strategies --out OUT --ship cache/training_strategies
```

Each cache is one pool of the first {rows:,} images of the official test set, in their order. The
`group` of a row is the number of its image there, so that rows of any two caches can be matched one
by one. `OUT` has all 10,000 test rows, 5,000 rows `fit` that no network was trained on, 2,000
rows `train` it was trained on and, of the residual network's seed 0, six distorted streams.

Four exits; `backbone` is the network without early exits and has one. The cost `compute` is in
million multiply-adds per image, all heads passed included. `separate` shares no layers between exits:
who reaches exit k has run all models before it. The cost `shared` counts as if it did share them; for
all others the two are the same.

The metadata say under `per_exit` what each exit has (parameters and multiply-adds up to it, and those
of its head alone), what its training took (seconds, best epoch) and what came of it (accuracy and
loss on the training and validation rows); under `training` the recipe, wall and processor seconds, peak
memory, and the phases of the strategy.

## Licence

Fashion-MNIST is released by Zalando SE under the MIT licence (Xiao, Rasul & Vollgraf,
arXiv:1708.07747). The logits and this card are released with the project, under Apache-2.0.
"""


def found(out: Path) -> list[Path]:
    """Return the finished caches under a folder, at BACKBONE/STRATEGY/SEED, sorted."""
    return sorted(file.parent for file in out.glob("*/*/*/manifest.json"))


def compact(metadata: Any) -> dict[str, Any]:
    """Return a cache's metadata without the epochs' curves."""
    kept = ("exits", "seconds", "epochs", "best_epoch")
    training = metadata["training"]
    phases = [{name: phase[name] for name in kept} for phase in training["phases"]]
    return {**metadata, "training": {**training, "phases": phases}}


def ship(out: Path, folder: Path) -> None:
    """Write the small caches of all that is finished under `out`, and their card."""
    places = found(out)
    shutil.rmtree(folder, ignore_errors=True)
    for place in places:
        data = po.open_cache(place)
        rows = data.splits["test"]
        few = slice(min(ROWS, len(rows)))
        labels = rows.array("labels")[few]
        with po.CacheWriter(
            folder / place.relative_to(out), costs=data.costs, dtype="float16", classes=data.classes,
            metadata=compact(data.metadata),
        ) as writer:  # fmt: skip
            writer.append("pool", rows.array("outputs")[few], labels, group=np.arange(len(labels)))
    table = []
    for backbone in dict.fromkeys(place.parts[-3] for place in places):
        mine = [place for place in places if place.parts[-3] == backbone]
        names = list(dict.fromkeys(place.parts[-2] for place in mine))
        seeds = sorted({place.parts[-1] for place in mine})
        told = ", ".join(f"`{name}`" for name in names)
        table.append(f"| `{backbone}` | {len(seeds)} | {told} |")
    card = CARD.format(count=len(places), rows=ROWS, table="\n".join(table))
    write_file(folder / "README.md", card)
