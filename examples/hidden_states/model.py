"""A residual network trained at its last block alone, and its outputs and hidden states block by block."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits

import policyopt as po

WIDTH, BLOCKS, NOISE = 64, 8, 4.0
ROWS = {"train": 600, "fit": 600, "test": 597}


def digits(seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return scikit-learn's 1,797 handwritten digits in a random order, noise of a quarter of the range added."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    noisy = (images[order] + NOISE * rng.normal(size=images.shape)) / 16
    return noisy.astype(np.float32), labels[order]


class Network(torch.nn.Module):
    """A stem and residual blocks, all of one width, and one head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Linear(64, WIDTH)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS))
        self.head = torch.nn.Linear(WIDTH, 10)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the hidden states after the stem and after each block."""
        states = [torch.relu(self.stem(images))]
        for block in self.blocks:
            states.append(states[-1] + torch.relu(block(states[-1])))
        return states


def train(images: torch.Tensor, labels: torch.Tensor, steps: int, seed: int) -> Network:
    """Train by the last block's loss: earlier exits are never seen."""
    torch.manual_seed(seed)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.05)
    for _ in range(steps):
        rows = torch.randint(0, len(labels), (128,))
        last = network.head(network(images[rows])[-1])
        loss = torch.nn.functional.cross_entropy(last, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def make_cache(place: str, steps: int, seed: int) -> po.ExitData:
    """Train, and write a cache: each block answers through the last one's head (a logit lens); its state is kept."""
    images, labels = (torch.from_numpy(array) for array in digits(seed))
    network = train(images[: ROWS["train"]], labels[: ROWS["train"]], steps, seed)
    with torch.no_grad():
        states = network(images)
        outputs = torch.stack([network.head(state) for state in states], dim=1).numpy()
    costs = [po.Cost("compute", "blocks", tuple(float(k) for k in range(1, BLOCKS + 2)))]
    first = ROWS["train"]
    with po.CacheWriter(place, costs=costs) as cache:
        for split in ("fit", "test"):
            rows = slice(first, first + ROWS[split])
            vectors = [state[rows].numpy() for state in states]
            cache.append(split, outputs[rows], labels[rows].numpy(), features=vectors)
            first += ROWS[split]
    return po.open_cache(place)
