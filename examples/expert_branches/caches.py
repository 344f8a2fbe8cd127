"""Outputs of every set of branches on every split, as caches: one set for all, or routed to experts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import policyopt as po
from examples.fashion_mnist.data import Split
from policyopt._cache.data import ExitData

from .branches import BranchedNet, Features, logits_of
from .detector import Detector, detect
from .distortions import KINDS, Ints, distorted, mixed

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    """What all sets of branches say on one split.

    Parameters
    ----------
    logits
        By set of branches, (n, K, C).
    labels
        Classes, (n,).
    true, predicted
        Kind of each image, and what the detector takes it for, (n,).
    """

    logits: dict[str, Floats]
    labels: npt.NDArray[np.int64]
    true: Ints
    predicted: Ints


def run_all(
    net: BranchedNet, experts: dict[str, Features], detector: Detector, splits: dict[str, Split]
) -> dict[str, Outputs]:
    """Run all branches on ``fit``, ``calibrate``, ``test`` (a third of each kind) and the streams.

    The streams ``clean``, ``blur`` and ``noise`` hold every test image in that kind.
    """
    found = {}
    for seed, name in enumerate(("fit", "calibrate", "test")):
        images, kind = mixed(splits[name], seed)
        found[name] = _outputs(net, experts, detector, images, kind)
    for number, kind in enumerate(KINDS):
        images = distorted(splits["test"], kind, seed=50)
        found[kind] = _outputs(net, experts, detector, images, np.full(len(images), number))
    return found


def _outputs(
    net: BranchedNet, experts: dict[str, Features], detector: Detector, split: Split, kind: Ints
) -> Outputs:
    features = net.features(split.images)
    logits = {name: logits_of(features, weights) for name, weights in experts.items()}
    return Outputs(logits, split.labels, kind, detect(detector, split.images))


def arrays(found: Outputs, of: str) -> dict[str, Any]:
    """Return the row arrays of a cache: of one set of branches, or of the experts.

    Parameters
    ----------
    found
        From `run_all`.
    of
        ``clean`` or ``mixed``: that set for all rows; ``predicted`` or ``true``: the expert of the
        kind that the detector names, or of the true one.
    """
    context = found.true if of == "true" else found.predicted
    outputs = found.logits.get(of)
    if outputs is None:
        outputs = po.route([found.logits[kind] for kind in KINDS], context)
    return {"outputs": outputs.astype(np.float16), "labels": found.labels, "context": context}


def in_memory(found: dict[str, Outputs], of: str, costs: list[float]) -> ExitData:
    """Return such a cache in memory."""
    return po.from_arrays(
        splits={name: arrays(split, of) for name, split in found.items()},
        costs=po.Cost("compute", "MMACs", tuple(costs)), contexts=KINDS,
    )  # fmt: skip


def write(
    found: dict[str, Outputs], of: str, costs: list[float], path: Path, metadata: dict[str, Any]
) -> ExitData:
    """Write such a cache, and return it as it reads back."""
    with po.CacheWriter(
        path, costs=po.Cost("compute", "MMACs", tuple(costs)), dtype="float16", contexts=KINDS,
        metadata=metadata, overwrite=True,
    ) as cache:  # fmt: skip
        for name, split in found.items():
            cache.append(name, **arrays(split, of))
    return po.open_cache(path)
