"""Branches on a frozen backbone: one set per kind of distortion, and one for all kinds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.fashion_mnist.data import Bytes, Split
from examples.fashion_mnist.model import MultiExitNet
from examples.fashion_mnist.train import EVALUATION_BATCH, to_input

from .distortions import KINDS, distorted, mixed

GRID = 2
"""Branches see each channel's mean over GRID x GRID parts of the image, as the paper's code has it."""

EPOCHS, BATCH, RATE, DECAY = 6, 512, 0.01, 5e-4

Features = list[Tensor]
"""Per exit, what its branch sees of n images: (n, D_k)."""


class BranchedNet(MultiExitNet):
    """A trained network whose heads are replaced by branches.

    Parameters
    ----------
    trained
        The network; its backbone is shared, its heads are not used.

    Notes
    -----
    The released code of the paper freezes the backbone's weights, but trains in a mode in which its
    batch norm statistics go on moving. Here they are frozen too: one backbone serves all experts.
    """

    def __init__(self, trained: MultiExitNet) -> None:
        super().__init__()
        self.stem, self.blocks = trained.stem, trained.blocks
        self.heads = branches([head[-1].in_features for head in trained.heads])  # type: ignore[index]
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def features(self, images: Bytes) -> Features:
        """Return what the branches see, exit by exit."""
        found: list[list[Tensor]] = [[] for _ in self.blocks]
        for start in range(0, len(images), EVALUATION_BATCH):
            batch = images[start : start + EVALUATION_BATCH]
            # `stages` of the base class, with the classifiers left out.
            hidden = self.stem(standardised(to_input(batch)))
            for block, part in zip(self.blocks, found, strict=True):
                hidden = block(hidden)
                part.append(F.adaptive_avg_pool2d(hidden, GRID).flatten(1))
        return [torch.cat(parts) for parts in found]


def standardised(images: Tensor) -> Tensor:
    """Return images as the backbone was trained on them."""
    from examples.fashion_mnist.model import PIXEL_MEAN, PIXEL_STD

    return (images - PIXEL_MEAN) / PIXEL_STD


def branches(widths: Sequence[int], classes: int = 10) -> nn.ModuleList:
    """Return untrained branches for exits of so many channels."""
    return nn.ModuleList(
        nn.Sequential(nn.AdaptiveAvgPool2d(GRID), nn.Flatten(), nn.Linear(width * GRID**2, classes))
        for width in widths
    )


def tune(
    features: Features, labels: npt.NDArray[np.int64], seed: int, start: Features | None = None
) -> Features:
    """Train the branches' linear layers, all exits at once with the same weight.

    Parameters
    ----------
    features
        Of the training images, computed once: the backbone does not change.
    labels
        Their classes.
    seed
        Of the order of the images.
    start
        Weights to go on from; default zero.

    Returns
    -------
    list of Tensor
        Per exit (D_k + 1, 10), the last row the bias.
    """
    generator = torch.Generator().manual_seed(seed)
    target = torch.from_numpy(labels)
    if start is None:
        start = [torch.zeros(f.shape[1] + 1, 10) for f in features]
    weights = [w.clone().requires_grad_() for w in start]
    steps = max(len(target) // BATCH, 1) * EPOCHS
    optimizer = torch.optim.Adam(weights, lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    done = 0
    while done < steps:
        for rows in torch.randperm(len(target), generator=generator).split(BATCH):
            if done == steps or (len(rows) < BATCH <= len(target)):
                break
            loss = torch.zeros(())
            for f, w in zip(features, weights, strict=True):
                loss = loss + F.cross_entropy(f[rows] @ w[:-1] + w[-1], target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
    return [w.detach() for w in weights]


def logits_of(features: Features, weights: Features) -> npt.NDArray[np.float32]:
    """Return the logits of one set of branches, (n, K, C)."""
    exits = [f @ w[:-1] + w[-1] for f, w in zip(features, weights, strict=True)]
    return torch.stack(exits, dim=1).numpy()


def train_experts(net: BranchedNet, split: Split, seed: int) -> dict[str, Features]:
    """Return the weights of all sets of branches: one per kind, and ``mixed`` for all of them.

    As in the paper, the clean ones come first and the experts go on from them. An expert sees
    distorted images only, at all strengths, where the released code leaves half of them clean: what
    is routed to it is distorted.
    """
    clean = tune(net.features(split.images), split.labels, seed)
    found = {"clean": clean}
    for kind in KINDS[1:]:
        images = distorted(split, kind, seed=200 + seed).images
        found[kind] = tune(net.features(images), split.labels, seed, clean)
    images = mixed(split, seed=300 + seed)[0].images
    found["mixed"] = tune(net.features(images), split.labels, seed, clean)
    return found
