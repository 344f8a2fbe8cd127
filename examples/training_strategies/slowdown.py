"""``python -m examples.training_strategies.slowdown OUT``: images changed to cost as much as can be.

DeepSloth (Hong, Kaya, Modoranu & Dumitras, "A Panda? No, It's a Sloth", ICLR 2021,
arXiv:2010.02432): projected gradient steps that make every early exit unsure, within a distance of
EPS of each pixel (pixels lie in [0, 1]). For each strategy that OUT has weights of, a policy is fitted
at a budget; then its cost, accuracy and early-exit efficacy on clean images, on images with random
noise of the same size, and on attacked ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import policyopt as po
from examples.fashion_mnist.data import DEFAULT_FOLDER, load_splits
from examples.fashion_mnist.train import to_input

from .model import BACKBONES
from .optimise import answers
from .page import README, fill, table
from .strategies import STRATEGIES, shape_of

STEPS = 30
STEP = 1 / 15
"""Of the distance; DeepSloth: 30 steps of 0.002 within 0.03."""


def unsure(logits: list[Tensor]) -> Tensor:
    """Return the cross-entropy of the early exits to the uniform distribution, summed."""
    return torch.stack([-F.log_softmax(each, dim=1).mean() for each in logits[:-1]]).sum()


def attack(model: nn.Module, images: Tensor, eps: float) -> Tensor:
    """Return images within `eps` of the given ones at which early exits are as unsure as can be."""
    generator = torch.Generator().manual_seed(0)
    start = STEP * eps * (2 * torch.rand(images.shape, generator=generator) - 1)
    changed = (images + start.to(images.device)).clamp(0, 1)
    for _ in range(STEPS):
        changed.requires_grad_()
        (gradient,) = torch.autograd.grad(unsure(model(changed)), changed)
        changed = changed.detach() - STEP * eps * gradient.sign()
        changed = torch.clamp(changed, images - eps, images + eps).clamp(0, 1)
    return changed


def noisy(images: Tensor, eps: float) -> Tensor:
    """Return images with every pixel moved by `eps`, up or down at random."""
    generator = torch.Generator().manual_seed(0)
    up = torch.rand(images.shape, generator=generator) < 0.5
    return (images + eps * torch.where(up, 1.0, -1.0).to(images.device)).clamp(0, 1)


def efficacy(exits: np.ndarray, costs: np.ndarray) -> float:
    """Return the area under the share of inputs that have left by each share of the full cost.

    By trapezoids from no cost on, as DeepSloth has it (section 4).
    """
    cost = np.concatenate([[0.0], costs / costs[-1]])
    left = np.concatenate([[0.0], (exits[:, None] <= np.arange(len(costs))).mean(axis=0)])
    return float(np.diff(cost) @ (left[1:] + left[:-1]) / 2)


def measure(
    model: nn.Module, policy: po.Policy, images: Tensor, labels: np.ndarray, eps: float
) -> list[list[float]]:
    """Return cost, accuracy, efficacy and share at the last exit, each clean, noisy and attacked."""
    columns = []
    for changed in (images, noisy(images, eps), attack(model, images, eps)):
        said = policy.decide([each.cpu().numpy() for each in answers(model, changed)])
        place = np.searchsorted(policy.active_exits, said.exit)
        cost, right = said.cost.mean() / policy.costs[-1], (said.prediction == labels).mean()
        last = (place == len(policy.costs) - 1).mean()
        columns.append([100 * cost, 100 * right, 100 * efficacy(place, policy.costs), 100 * last])
    return np.transpose(columns).tolist()


def main() -> None:
    """Attack, and write the table into the README."""
    names = [name for name in STRATEGIES if name != "backbone"]
    parser = argparse.ArgumentParser(
        prog="python -m examples.training_strategies.slowdown", description=__doc__
    )
    parser.add_argument("out", type=Path, help="directory that the example wrote")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the idx files")
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    parser.add_argument("--strategies", nargs="+", choices=names, default=names)
    parser.add_argument("--budget", default="50%", help="default %(default)s of the full cost")
    parser.add_argument("--eps", type=float, nargs="+", default=[0.01, 0.03, 0.1])
    parser.add_argument("--rows", type=int, default=500, help="test images; default %(default)s")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--readme", type=Path, default=README, help="page to write into")
    given = parser.parse_args()
    torch.set_num_threads(1)
    test = load_splits(given.data)["test"].head(given.rows)
    images = to_input(test.images).to(given.device)
    rows = []
    for strategy in given.strategies:
        file = given.out / "models" / given.backbone / strategy / "0.pt"
        model = shape_of(strategy, given.backbone).to(given.device).eval()
        saved = torch.load(file, map_location=given.device, weights_only=True)
        model.load_state_dict(saved["weights"])
        cache = po.open_cache(given.out / given.backbone / strategy / "0")
        policy = po.fit(cache, given.budget, "max_prob").policy
        for eps in given.eps:
            table_row = measure(model, policy, images, test.labels, eps)
            cells = [", ".join(f"{number:.1f}" for number in three) for three in table_row]
            rows.append([strategy, f"{eps:g}", *cells])
    head = [
        "strategy",
        "eps",
        "cost [% of the last exit's]",
        "accuracy [%]",
        "efficacy [%]",
        "at the last exit [%]",
    ]
    text = "\n".join(
        [
            f"`{given.backbone}`, seed 0, a `max_prob` policy at {given.budget}, {len(test):,} test images.",
            "Each cell: clean images, images with every pixel moved by eps up or down at random, attacked",
            "images.",
            "",
            *table(head, rows, words=1),
            "",
        ]
    )
    fill(given.readme, "slowdown", text)
    print(text, end="")


if __name__ == "__main__":
    main()
