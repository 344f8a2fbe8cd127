"""``python -m examples.expert_branches --out DIR``: train, route, cache, compare, draw.

``--quick`` does the same in seconds on few rows: it shows that the way works, not good branches.
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

import policyopt as po
from examples.fashion_mnist.data import DEFAULT_FOLDER, DataError, Split, load_splits
from examples.fashion_mnist.measure import multiply_adds
from examples.fashion_mnist.model import MultiExitNet, build_model
from examples.fashion_mnist.train import Recipe, train
from policyopt.runtime._files import write_file

from . import detector as detecting
from .branches import BranchedNet, train_experts
from .caches import in_memory, run_all, write
from .compare import BUDGETS, METHOD, at_cost, paths_of, play_adaee
from .distortions import KINDS
from .page import table
from .picture import draw

QUICK_ROWS = {"train": 1280, "fit": 300, "calibrate": 150, "test": 300}
EPOCHS = 6
BUDGET = "40%"


def main() -> int:
    """Run the example; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.expert_branches", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory of all that is written")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the idx files")
    parser.add_argument("--weights", type=Path, help="of the clean network: read, or else written")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; default %(default)s")
    parser.add_argument("--quick", action="store_true", help="few rows and one epoch")
    given = parser.parse_args()
    recipe = replace(Recipe(), epochs=1 if given.quick else EPOCHS, seed=given.seed)
    try:
        splits = load_splits(given.data)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.quick:
        splits = {name: split.head(QUICK_ROWS[name]) for name, split in splits.items()}
    torch.set_num_threads(1 if given.quick else given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    run(splits, recipe, given.out, given.weights or given.out / "clean.pt", given.quick)
    return 0


def run(splits: dict[str, Split], recipe: Recipe, out: Path, weights: Path, quick: bool) -> None:
    """Train on the rows of `train`, write the caches and what they show."""
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal began
        seconds[name] = time.perf_counter() - began
        print(f"{name}: {seconds[name]:.0f} s", file=sys.stderr)
        began = time.perf_counter()

    began = time.perf_counter()
    net = BranchedNet(clean_network(splits["train"], recipe, weights))
    lap("clean network")
    experts = train_experts(net, splits["train"], recipe.seed)
    lap("branches")
    detector = detecting.train_detector(splits["train"], recipe.seed)
    lap("detector")
    found = run_all(net, experts, detector, splits)
    lap("outputs")
    plain_costs = multiply_adds(net)
    light = detecting.multiply_adds(detector)
    expert_costs = [cost + light for cost in plain_costs]
    metadata = {
        "description": "Per-exit logits of five-exit branches on distorted Fashion-MNIST",
        "source": "Fashion-MNIST, Zalando SE, MIT licence; logits Apache-2.0",
        "training": recipe.describe(),
    }
    caches = {
        "plain": write(found, "clean", plain_costs, out / "plain", metadata),
        "mixed": in_memory(found, "mixed", plain_costs),
        "experts": write(found, "predicted", expert_costs, out / "experts", metadata),
        "oracle": in_memory(found, "true", plain_costs),
    }
    by_context = {"experts", "oracle"}
    fitted = po.fit_experts(caches["experts"], BUDGET, METHOD)
    fitted.save(out / "policy.json")
    policies = {
        "clean branches": ("plain", po.fit(caches["plain"], BUDGET, METHOD).policy),
        "experts": ("experts", fitted.policy),
    }
    spent = {
        kind: {
            label: float(po.evaluate(policy, caches[name], kind).cost.mean())
            for label, (name, policy) in policies.items()
        }
        for kind in KINDS
    }
    paths = paths_of(caches, by_context, 2 if quick else BUDGETS)
    lap("policies")
    adaee = play_adaee(caches["plain"], 1500 if quick else 30_000, 3 if quick else 20)
    lap("AdaEE")
    cost = 0.4 * plain_costs[-1]
    right = {kind: float((found[kind].predicted == found[kind].true).mean()) for kind in KINDS}
    rows = {stream: at_cost(paths, stream, cost, "plain") for stream in (*KINDS, "changing")}
    text = table(rows, paths, adaee, fitted, spent, right, light, cost, seconds)
    write_file(out / "results.md", text)
    draw(paths, adaee, "MMACs", out / "expert_branches.png")
    print(text)


def clean_network(split: Split, recipe: Recipe, weights: Path) -> MultiExitNet:
    """Return the network trained on clean images: from its weights, or trained and written."""
    if weights.is_file():
        model = build_model(recipe.seed)
        model.load_state_dict(torch.load(weights, weights_only=True)["weights"])
        return model.eval()
    with Progress(console=Console(stderr=True)) as progress:
        steps = recipe.epochs * (len(split) // recipe.batch)
        task = progress.add_task("training", total=steps)
        model = train(split, recipe, lambda step, _: progress.update(task, completed=step))
    torch.save({"weights": model.state_dict()}, weights)
    return model


if __name__ == "__main__":
    sys.exit(main())
