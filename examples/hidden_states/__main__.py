"""``python -m examples.hidden_states``: what hidden states add to policies of a network without early heads."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import policyopt as po
from policyopt._table import Tables

from .model import make_cache

METHODS = (
    "max_prob", "berxit", "berxit:inputs=both", "failure_prediction", "failure_prediction:inputs=both",
    "epnet", "epnet:inputs=both", "e2cm:answer=plain", "e2cm", "e2cm:vectors=features",
)  # fmt: skip


def main() -> None:
    """Train some networks, fit every method on each one's cache, and print what comes of it."""
    parser = argparse.ArgumentParser(prog="python -m examples.hidden_states", description=__doc__)
    parser.add_argument("--budget", default="50%", help="of the whole network")
    parser.add_argument(
        "--seeds", type=int, default=5, help="networks, each with a division of its own"
    )
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--out", type=Path, help="keep the first network's cache here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        play(given)
    except po.PolicyOptError as error:
        sys.exit(f"error: {error}")


def play(given: argparse.Namespace) -> None:
    """Print each exit's accuracy, and each method's accuracy and cost, on average over the networks."""
    methods = given.methods.split(",")
    found, exits = np.empty((given.seeds, len(methods), 2)), []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as place:
            folder = given.out if given.out and seed == 0 else Path(place) / "cache"
            tables = Tables(make_cache(str(folder), given.steps, seed))
            exits.append(tables.get("test").quality.mean(axis=0))
            for m, method in enumerate(methods):
                fitted = po.fit(tables.data, given.budget, method, tables=tables)
                played = po.evaluate(fitted, tables.data, split="test")
                found[seed, m] = 100 * played.quality.mean(), played.cost.mean()
    shown = " ".join(f"{100 * right:.0f}" for right in np.mean(exits, axis=0))
    print(f"exits are right in % of the test rows: {shown}")
    print(f"{'':34} right %   over the first   cost [blocks]")
    error = given.seeds**0.5
    for m, method in enumerate(methods):
        right, cost = found[:, m].mean(axis=0)
        gain = found[:, m, 0] - found[:, 0, 0]
        spread = gain.std(ddof=1) / error if given.seeds > 1 else 0.0
        print(f"{method:34} {right:7.1f}   {gain.mean():+5.1f} ± {spread:3.1f}      {cost:10.2f}")


if __name__ == "__main__":
    main()
