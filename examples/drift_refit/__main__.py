"""``python -m examples.drift_refit``."""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

import policyopt as po
from policyopt._costs import parse_budget
from policyopt._table import Tables
from policyopt.runtime._checks import check_names, check_whole
from policyopt.runtime._errors import input_error

from .picture import check_path, draw
from .server import Server


def main() -> int:
    """Serve clean requests, then changed ones; say what happened and what it cost.

    Returns
    -------
    int
        As the command line's: 0 done, 2 bad usage or input, 3 the budget cannot be met.
    """
    parser = argparse.ArgumentParser(prog="python -m examples.drift_refit", description=__doc__)
    parser.add_argument("cache", nargs="?", default="cache/fashion_mnist", type=Path)
    parser.add_argument("--streams", default="test,blur_medium", help="one after the other")
    parser.add_argument("--rounds", type=int, default=8_000, help="requests of each stream")
    parser.add_argument("--budget", default="40%")
    parser.add_argument("--method", default="max_prob:spend=all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also draw cost and accuracy over time (PNG)")
    options = parser.parse_args()
    try:
        play(options)
    except po.PolicyOptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: '{error.filename}': {error.strerror}.", file=sys.stderr)
        return 2
    return 0


def play(options: argparse.Namespace) -> None:
    """Play the streams, one request at a time."""
    check_whole("--rounds", options.rounds, step="E.g. 8000.")
    check_whole("--seed", options.seed, 0, step="E.g. 0.")
    if options.out is not None:
        check_path(options.out)
    tables = Tables(po.open_cache(options.cache))
    streams = [one.strip() for one in options.streams.split(",")]  # a stream may come again
    known = tables.data.split_names
    for stream in check_names("--streams", list(dict.fromkeys(streams)), "E.g. test,blur_medium."):
        if stream not in known:
            raise input_error(
                "--streams", f"among {', '.join(known)}", stream, "Streams of the cache."
            )
    server = Server(tables, options.budget, options.method, options.seed)
    limit = parse_budget(options.budget, tables.get("fit").mean_costs)
    unit = tables.data.cost().unit
    rng, cost, correct, left_alone = np.random.default_rng(options.seed), [], [], []
    first = server.fitted.policy
    for stream in streams:
        key, places = tables.data.rows(stream)
        rows = places[rng.integers(len(places), size=options.rounds)]
        outputs = tables.data.splits[key].array("outputs")[rows]
        labels = tables.data.splits[key].array("labels")[rows]
        left_alone.append(first.decide(outputs).cost)
        for number, (row, label) in enumerate(zip(outputs, labels, strict=True), len(cost)):
            paid, answer = server.serve(number, row)
            cost.append(paid)
            correct.append(answer == label)
    for number, event in server.events:
        print(f"request {number:,}: {event}")
    changes = [options.rounds * i for i in range(1, len(streams))]
    edges = sorted({0, *changes, *(number for number, _ in server.events), len(cost)})
    alone = np.concatenate(left_alone)
    print(f"budget {options.budget}: {limit:.3f} {unit}")
    print(f"{'requests':>17}  {'cost':>7}  {'left alone':>10}  {'accuracy':>8}")
    for low, high in pairwise(edges):
        part = slice(low, high)
        print(
            f"{low:>8,} to {high - 1:>5,}  {np.mean(cost[part]):>7.3f}  {alone[part].mean():>10.3f}  "
            f"{np.mean(correct[part]):>8.2%}"
        )
    if options.out is not None:
        draw(
            np.array(cost), alone, np.array(correct), changes, server.events, limit, unit,
            options.out,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
