"""``python -m examples.model_zoo.train``: a folder of models, each with its logits on rows that it has not seen.

Writes ``OUT/NAME.npy``, (10000, 10) float16, of each model, ``labels.npy``, and ``costs.json``: million multiply-adds.
Models that are there are not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from examples.fashion_mnist.data import DEFAULT_FOLDER, DataError, Split, load_official
from examples.fashion_mnist.train import to_input

from .models import MODELS, multiply_adds

BATCH = 128
QUICK_ROWS = 1024


def train(model: nn.Module, rows: Split, epochs: int, seed: int) -> nn.Module:
    """Train with AdamW, one cycle, and mirrored images."""
    torch.manual_seed(seed)
    images, labels = torch.from_numpy(rows.images), torch.from_numpy(rows.labels)
    steps = len(labels) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, epochs * steps)
    model.train()
    for _ in range(epochs):
        for at in torch.randperm(len(labels))[: steps * BATCH].split(BATCH):
            mirrored = torch.rand(len(at)) < 0.5
            batch = torch.where(mirrored[:, None, None], images[at].flip(2), images[at])
            loss = F.cross_entropy(model(to_input(batch)), labels[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> int:
    """Train what is not there yet; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.model_zoo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the models' outputs")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the idx files")
    parser.add_argument("--models", default=",".join(MODELS), help="default: all")
    parser.add_argument("--epochs", type=int, default=4, help="default %(default)s")
    parser.add_argument("--quick", action="store_true", help="few rows and one epoch")
    given = parser.parse_args()
    try:
        seen, unseen = load_official(given.data)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.quick:
        seen, unseen = seen.head(QUICK_ROWS), unseen.head(QUICK_ROWS)
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "labels.npy", unseen.labels)
    told = out / "costs.json"
    costs: dict[str, float] = json.loads(told.read_text()) if told.exists() else {}
    for name in given.models.split(","):
        if (out / f"{name}.npy").exists():
            continue
        start, seed = time.perf_counter(), zlib.crc32(name.encode())
        torch.manual_seed(seed)
        model = MODELS[name]()
        costs[name] = round(multiply_adds(model), 4)
        train(model, seen, 1 if given.quick else given.epochs, seed)
        with torch.inference_mode():
            parts = torch.from_numpy(unseen.images).split(500)
            logits = torch.cat([model(to_input(part)) for part in parts]).numpy()
        right = (logits.argmax(axis=1) == unseen.labels).mean()
        told.write_text(json.dumps(dict(sorted(costs.items())), indent=1) + "\n")
        np.save(out / f"{name}.npy", logits.astype(np.float16))
        seconds = time.perf_counter() - start
        print(
            f"{name:12s} {costs[name]:8.4f} MMACs  {100 * right:.2f} %  {seconds:.0f} s", flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
