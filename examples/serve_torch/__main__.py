"""``python -m examples.serve_torch --out DIR``: train, wrap, export, fit, attach the policy, serve.

``--quick`` does the same in seconds on few rows: it shows that the way works, not what it saves.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import policyopt as po
from examples.fashion_mnist.data import DEFAULT_FOLDER, DataError, Split, load_splits
from examples.fashion_mnist.measure import cpu_name
from examples.fashion_mnist.train import Recipe, to_input
from policyopt.runtime._files import write_file
from policyopt.serving import export_cache, measure, serve

from .clock import Race, race
from .model import network, staged
from .picture import draw

ROUNDS = {1: 800, 16: 100, 256: 40}
QUICK_ROWS = {"train": 2560, "fit": 500, "calibrate": 10, "test": 512}
QUICK_ROUNDS = {1: 40, 16: 10, 256: 4}


def main() -> int:
    """Run the example; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.serve_torch", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory of what is written")
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the idx files")
    parser.add_argument("--weights", type=Path, help="weights.pt of an earlier run: no training")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs, help="default %(default)s")
    parser.add_argument("--budget", default="40%", help="of the multiply-adds; default %(default)s")
    parser.add_argument("--method", default="max_prob", help="default %(default)s")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile every stage (inductor)"
    )
    parser.add_argument("--quick", action="store_true", help="few rows, one epoch, few rounds")
    given = parser.parse_args()
    try:
        splits = load_splits(given.data)
        if given.quick:
            splits = {name: split.head(QUICK_ROWS[name]) for name, split in splits.items()}
        run(given, splits)
    except (DataError, po.PolicyOptError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(given: argparse.Namespace, splits: dict[str, Split]) -> None:
    """Go the whole way, and write what came of it."""
    given.out.mkdir(parents=True, exist_ok=True)
    net = network(given.weights, splits["train"], 1 if given.quick else given.epochs)
    torch.save(net.state_dict(), given.out / "weights.pt")
    torch.set_num_threads(1)  # the figures are for one core
    model = staged(net)
    inputs, labels = to_input(splits["test"].images), splits["test"].labels
    measured = measure(model, inputs[:1], runs=30 if given.quick else 300)
    if given.compile:
        model = model.compiled()
    rows = {name: (to_input(splits[name].images), splits[name].labels) for name in ("fit", "test")}
    export_cache(
        model, rows, given.out / "cache", costs=measured.costs, classes=10,
        metadata=measured.describe(), overwrite=True,
    )  # fmt: skip
    data = po.open_cache(given.out / "cache")
    fitted = po.fit(data, given.budget, method=given.method)
    fitted.save(given.out / "policy.json")

    server = serve(model, po.load_policy(given.out / "policy.json"))
    answers = [server(batch) for batch in inputs.split(256)]
    exits = np.concatenate([a.exit for a in answers])
    right = np.concatenate([a.prediction for a in answers]) == labels
    replayed = po.evaluate(fitted.policy, data)
    apart = int((exits != replayed.exit).sum())
    with torch.inference_mode():
        full = np.concatenate([model.last(x).argmax(1).numpy() for x in inputs.split(256)])
    races = [
        race(model, server, inputs, batch, rounds)
        for batch, rounds in (QUICK_ROUNDS if given.quick else ROUNDS).items()
    ]
    what = f"{given.method}, budget {given.budget}, {len(labels):,} test images"
    shares = " ".join(f"{s:.3f}" for s in np.bincount(exits, minlength=model.exits) / len(exits))
    text = (
        f"{what}: accuracy {right.mean():.2%} (full model {np.mean(full == labels):.2%}), "
        f"exits {shares}; other exits than the replay of the cache: {apart}\n\n{table(races)}"
        f"\n{cpu_name()}, one core, PyTorch {torch.__version__}; calls that had the core to "
        f"themselves: {', '.join(f'{r.alone:.0%}' for r in races)} (of the others, processor time is "
        "the steadier clock)\n"
    )
    write_file(given.out / "results.md", text)
    draw(races, what, given.out / "serve_torch.png")
    print(text)


def table(races: list[Race]) -> str:
    """Return the timings as a markdown table."""
    lines = [
        "| batch | clock | full model | with policy | ideal | with policy / ideal | faster |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r.batch} | {clock} | {r.full[i]:.3f} ms | {r.served[i]:.3f} ms | {r.ideal[i]:.3f} ms | "
        f"{r.ratio[i]:.2f} | {r.full[i] / r.served[i]:.2f} x |"
        for r in races
        for i, clock in enumerate(("wall", "processor"))
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
