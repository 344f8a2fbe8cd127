"""The caches that benchmarks run on: the one that ships, and those of others where they are present."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from policyopt._cache.arrays import from_arrays
from policyopt._cache.data import ExitData
from policyopt._cache.importers import import_sources
from policyopt._cache.reader import open_cache

ROOT = Path(__file__).resolve().parent.parent
_SHARED = ROOT.parent / "shared" / "data"
_HALVES = {"fit": 0.5, "test": 0.5}


def caches(
    place: Path, names: list[str] | None = None, pools: bool = False
) -> Iterator[tuple[str, ExitData]]:
    """Yield (name, data) of each cache that is there; the others are named on standard error.

    ``mmlu_llama5`` has records and a cost per query, the authors' split; the others are pools
    halved anew per seed, but for ``fashion_mnist``, whose test rows are the official ones. Its
    pairs (two images as one sample of 100 classes) stand for many classes. With `pools` also 19 models, ordered by
    cost and not by quality.
    """
    sources = {
        "fashion_mnist": [],
        "fashion_mnist_pairs": [],
        "cifar10_cascade5": [_SHARED / "cifar10_cascade5.npz"],
        "mmlu_llama5": [_SHARED / f"mmlu_llama5_{part}.npz" for part in ("train", "test")],
        "resnet8_2exit_cifar10": [_SHARED / "resnet8_2exit_cifar10.npz"],
        "alexnet2_cifar10_confidence": [_SHARED / "alexnet2_cifar10_confidence.npz"],
        **({"cifar10_pool19": [_SHARED / "cifar10_pool19.npz"]} if pools else {}),
    }
    for name, files in sources.items():
        if names and name not in names:
            continue
        if not all(file.exists() for file in files):
            print(f"{name}: skipped, {files[0]} is not there", file=sys.stderr)
            continue
        if name == "fashion_mnist":
            yield name, open_cache(ROOT / "cache" / name)
        elif name == "fashion_mnist_pairs":
            yield name, _pairs(open_cache(ROOT / "cache" / "fashion_mnist"))
        elif name == "mmlu_llama5":
            named = [f"fit={files[0]}", f"test={files[1]}"]
            yield name, import_sources(named, place / name, cost_kind="standalone").data
        elif name in ("cifar10_cascade5", "cifar10_pool19"):
            yield name, import_sources(
                files[0], place / name, unit="MFLOPs", cost_kind="standalone", shares=_HALVES
            ).data  # fmt: skip
        else:  # no costs stated: the second exit costs twice the first
            yield name, import_sources(
                files[0], place / name, costs=[1.0, 2.0], unit="units", shares=_HALVES
            ).data  # fmt: skip


def _pairs(data: ExitData) -> ExitData:
    """Return samples of two images each: logits of all 100 pairs of classes are sums, (N/2, K, 100)."""
    splits = {}
    for name in ("fit", "test"):
        rows = data.splits[name]
        logits = np.asarray(rows.array("outputs"), dtype=np.float32)
        labels = np.asarray(rows.array("labels")).astype(np.int32)
        first, second = np.array_split(np.random.default_rng(0).permutation(len(labels)), 2)
        both = logits[first][..., :, None] + logits[second][..., None, :]
        splits[name] = {
            "outputs": both.reshape(len(first), data.exits, -1),
            "labels": labels[first] * data.classes + labels[second],
        }
    cost = data.cost()
    return from_arrays(splits=splits, costs=cost.values, unit=cost.unit)
