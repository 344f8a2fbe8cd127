"""``python -m examples.training_strategies.slowdown OUT``: images changed to cost as much as can be.

DeepSloth (Hong, Kaya, Modoranu & Dumitras, "A Panda? No, It's a Sloth", ICLR 2021,
arXiv:2010.02432): projected gradient steps that make every early exit unsure, within a distance of
EPS of each pixel (pixels lie in [0, 1]). For each strategy that OUT has weights of, a policy is fitted
at a budget; then its cost, accuracy and early-exit efficacy on clean images, on images with random
noise of the same size, and on attacked ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
    model: nn.Module,
    policy: po.Policy,
    images: Tensor,
    labels: np.ndarray,
    distances: Sequence[float],
) -> list[tuple[str, float, float, float, float]]:
    """Return per kind of image and distance: mean cost, accuracy, efficacy, share at the last exit."""
    kinds = [("clean", 0.0, images)]
    for eps in distances:
        kinds += [("noise", eps, noisy(images, eps)), ("attack", eps, attack(model, images, eps))]
    rows = []
    for kind, eps, changed in kinds:
        logits = [each.cpu().numpy() for each in answers(model, changed)]
        said = policy.decide(logits)
        told = f"{kind} {eps:g}" if eps else kind
        worth = efficacy(np.searchsorted(policy.active_exits, said.exit), policy.costs)
        right, last = (said.prediction == labels).mean(), (said.exit == len(logits) - 1).mean()
        rows.append((told, float(said.cost.mean()), float(right), worth, float(last)))
    return rows


def main() -> None:
    """Attack and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.training_strategies.slowdown", description=__doc__
    )
    parser.add_argument("out", type=Path, help="directory that the example wrote")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the idx files")
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    parser.add_argument(
        "--strategies", nargs="+", choices=list(STRATEGIES)[1:], default=list(STRATEGIES)[1:]
    )
    parser.add_argument("--budget", default="50%", help="default %(default)s of the full cost")
    parser.add_argument("--eps", type=float, nargs="+", default=[0.01, 0.03, 0.1])
    parser.add_argument("--rows", type=int, default=500, help="test images; default %(default)s")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    test = load_splits(given.data)["test"].head(given.rows)
    images = to_input(test.images).to(given.device)
    print(
        "| strategy | images | cost [MMACs] | of the full cost | accuracy | efficacy | at the last exit |"
    )
    print("|---|---|---:|---:|---:|---:|---:|")
    for strategy in given.strategies:
        file = given.out / "models" / given.backbone / strategy / "0.pt"
        if not file.is_file():
            continue
        model = shape_of(strategy, given.backbone).to(given.device).eval()
        model.load_state_dict(
            torch.load(file, map_location=given.device, weights_only=True)["weights"]
        )
        cache = po.open_cache(given.out / given.backbone / strategy / "0")
        policy = po.fit(cache, given.budget, "max_prob").policy
        for kind, cost, right, worth, last in measure(
            model, policy, images, test.labels, given.eps
        ):
            print(
                f"| {strategy} | {kind} | {cost:.3f} | {cost / policy.costs[-1]:.0%} | {right:.1%} | "
                f"{worth:.3f} | {last:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
