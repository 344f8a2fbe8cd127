"""``python -m examples.training_strategies --out OUT``: train every strategy, cache what it answers.

One cache per backbone, strategy and seed, at OUT/BACKBONE/STRATEGY/SEED. What is there already is
left out: a run that was stopped goes on where it was. ``--quick`` shows in minutes that the way
works; ``--ship DIR`` makes the small caches that come with the project from those in OUT.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import torch

from examples.fashion_mnist.data import DEFAULT_FOLDER, DataError, locate

from .model import BACKBONES
from .optimise import Recipe
from .runs import Run, Sizes, is_done, perform
from .ship import ship
from .strategies import STRATEGIES

SEEDS = {"residual": 5, "depthwise": 3, "plain": 3}
QUICK = Sizes(Recipe(rows=1280, validation_rows=256, epochs=1), fit=256, test=512, train=128)


def main() -> int:
    """Run the example; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.training_strategies", description=__doc__
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of caches and weights")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the idx files")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument(
        "--seeds", type=int, help="of each backbone; default 5 of residual, 3 of others"
    )
    parser.add_argument("--device", default="cpu", help="e.g. cuda; default %(default)s")
    parser.add_argument("--quick", action="store_true", help="few rows, one epoch, two seeds")
    parser.add_argument(
        "--ship", type=Path, metavar="DIR", help="write small caches from OUT's; train nothing"
    )
    given = parser.parse_args()
    if given.ship:
        ship(given.out, given.ship)
        return 0
    try:
        locate(given.data)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sizes = QUICK if given.quick else Sizes(Recipe())
    seeds = {b: given.seeds or (2 if given.quick else SEEDS[b]) for b in given.backbones}
    # Seed by seed: wherever it stops, what is there compares.
    order = [
        Run(backbone, strategy, seed, given.out, given.data, given.device)
        for seed in range(max(seeds.values()))
        for backbone in given.backbones
        if seed < seeds[backbone]
        for strategy in STRATEGIES
    ]
    failed = 0
    for number, run in enumerate(order, start=1):
        if is_done(run):
            continue
        started = time.perf_counter()
        if given.quick:
            torch.set_num_threads(1)
            perform(run, sizes)
        else:
            # A process of its own: its peak memory is that of this run alone.
            process = multiprocessing.get_context("spawn").Process(
                target=perform, args=(run, sizes)
            )
            process.start()
            process.join()
            failed += process.exitcode != 0
        seconds = time.perf_counter() - started
        print(f"{number:3d}/{len(order)} {run.name:32s} {seconds:6.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
