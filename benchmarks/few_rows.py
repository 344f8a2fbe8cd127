"""What fits cost on few rows, and what bounding the updates of trained policies by the rows loses.

python benchmarks/few_rows.py [--caches NAMES] [--rows 549,2000] [--seeds N] [--methods NAMES] [--out DIR]

Processor seconds of a path of nine budgets for every method that `all` stands for, at several numbers of
fit rows; and, of those that play episodes, points of accuracy of the bounded training less the unbounded
one, each held at the other's realised costs on test rows (mean of nine budgets, over seeds: mean and
standard deviation). Writes DIR/few_rows.json and .md (default benchmarks/results).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _caches import ROOT, caches
from _common import machine, write

import policyopt._methods.reinforcement as played
from policyopt._costs import positions
from policyopt._frontier import compare_paths, path_through
from policyopt._methods.base import fit_where_possible
from policyopt._methods.registry import ROWS, make_method
from policyopt._table import Table, Tables

BUDGETS = 9
PLAYED = ("dqn", "epnet", "reinforce")


def fitted(name: str, rows: Table, seed: int) -> tuple[list[Any], float]:
    """Return the policies of nine budgets, and the processor seconds of fitting them."""
    budgets = positions(rows.mean_costs, BUDGETS).tolist()
    start = time.process_time()
    found = fit_where_possible(make_method(name), rows, budgets, seed)
    return [one.policy for one in found if one is not None], time.process_time() - start


def measured(tables: Tables, count: int, seed: int, methods: list[str]) -> dict[str, Any]:
    """Return seconds, and for those that are trained by episodes what the bound does."""
    rows, test = tables.get("fit", seed), tables.get("test", seed)
    if len(rows) > count:
        rows = rows.take(np.sort(np.random.default_rng(seed).permutation(len(rows))[:count]))
    out: dict[str, Any] = {}
    for name in methods:
        if make_method(name).missing_columns(rows):
            continue
        policies, seconds = fitted(name, rows, seed)
        out[name] = {"seconds": seconds}
        if name in PLAYED:
            bound, played.EPOCHS = played.EPOCHS, 1 << 30
            free, out[name]["unbounded_seconds"] = fitted(name, rows, seed)
            played.EPOCHS = bound
            points = compare_paths(path_through(policies, test), path_through(free, test), seed)
            out[name]["points"] = 100 * float(np.mean([p["difference"] for p in points]))
    return out


def text_of(found: dict[str, Any]) -> str:
    """Return both tables."""
    counts = found["rows"]
    lines = [
        "# What fits cost on few rows\n", f"`python benchmarks/few_rows.py`, {found['machine']['processor']}.\n",
        "Processor seconds of nine budgets, mean over caches and seeds, by fit rows:\n",
        "| method | " + " | ".join(f"{n:,}" for n in counts) + " |", "| --- |" + " ---: |" * len(counts),
    ]  # fmt: skip
    runs = found["runs"]

    def values(name: str, count: int, key: str) -> list[float]:
        return [
            r["found"][name][key]
            for r in runs
            if r["rows"] == count and key in r["found"].get(name, {})
        ]

    names = list(dict.fromkeys(name for run in runs for name in run["found"]))
    for name in names:
        cells = [
            f"{np.mean(values(name, n, 'seconds')):.2f}" if values(name, n, "seconds") else "-"
            for n in counts
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    totals = [sum(np.mean(values(name, n, "seconds") or [0.0]) for name in names) for n in counts]
    lines.append(f"| all of them | {' | '.join(f'{total:.1f}' for total in totals)} |")
    lines += [
        f"\nUpdates bounded to {played.EPOCHS} showings of each row (at least {played.LEAST_UPDATES}), against all "
        "that the settings allow: points of accuracy at equal realised cost, mean ± standard deviation over "
        "caches and seeds; seconds without the bound.\n",
        "| method | rows | bounded less unbounded | seconds | unbounded |", "| --- | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for name in (n for n in PLAYED if n in names):
        for n in counts:
            if points := values(name, n, "points"):
                mean, free = (np.mean(values(name, n, k)) for k in ("seconds", "unbounded_seconds"))
                change = f"{np.mean(points):+.2f} ± {np.std(points):.2f}"
                lines.append(f"| `{name}` | {n:,} | {change} | {mean:.1f} | {free:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--caches", default="fashion_mnist,cifar10_cascade5")
    parser.add_argument("--rows", default="549")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--methods", default=",".join(n for n, row in ROWS.items() if not row.trains)
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    counts, runs = [int(n) for n in given.rows.split(",")], []
    with tempfile.TemporaryDirectory() as place:
        for name, data in caches(Path(place), given.caches.split(",")):
            tables = Tables(data)
            for count in counts:
                for seed in range(given.seeds):
                    found = measured(tables, count, seed, given.methods.split(","))
                    runs.append({"cache": name, "rows": count, "seed": seed, "found": found})
                    print(name, count, seed, os.times().user, flush=True)
    found = {"machine": machine(), "rows": counts, "seeds": given.seeds, "runs": runs}
    write(given.out / "few_rows.json", found, text_of(found))


if __name__ == "__main__":
    main()
