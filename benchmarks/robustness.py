"""Where do policies hold that were fitted on clean rows? Every method on the shipped streams, thresholds as fitted.

Each method of `policyopt methods` that trains no network is fitted on split `fit` of ``cache/fashion_mnist`` at 40 % of
the full model's cost, and replayed on the test rows, on six distorted copies of these, and on each row's dearest copy.
Runs are resumed: each method is a line of ``results/robustness.jsonl``.

    python benchmarks/robustness.py            # all, two to three minutes
    python benchmarks/robustness.py --table    # what is there
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from _common import table

import policyopt as po
from policyopt._methods.registry import ROWS
from policyopt._report.figures import save_figure
from policyopt._study.figures import robustness_figure

CACHE = Path(__file__).parents[1] / "cache" / "fashion_mnist"
OUT = Path(__file__).parent / "results" / "robustness.jsonl"
BUDGET, DROP = "40%", "1%"


def run(out: Path) -> None:
    """Fit and replay each method that is not there yet."""
    done = {one["method"] for one in read(out)}
    data = po.open_cache(CACHE)
    tables = po.Tables(data)
    for name in data.split_names:  # passes are no method's time
        tables.get(name)
    for name in (name for name, row in ROWS.items() if not row.trains and name not in done):
        start = time.perf_counter()
        found = po.robustness(data, name, BUDGET, max_drop=DROP, tables=tables)
        spent = time.perf_counter() - start
        line = {"method": name, "seconds": round(spent, 2), "records": found.records}
        line |= {"dearest": found.dearest, "notes": found.notes}
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{name}: {spent:.1f} s", flush=True)


def read(out: Path) -> list[dict[str, Any]]:
    """Return the lines that are there."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def page(lines: list[dict[str, Any]]) -> str:
    """Return the tables as markdown."""
    by = {one["method"]: {r["stream"]: r for r in one["records"]} for one in lines}
    order = sorted(by, key=lambda m: -sum(r["quality"] for r in by[m].values()))
    streams = list(by[order[0]])

    def rows(text: Any) -> list[list[str]]:
        return [[name, *(text(by[name][stream]) for stream in streams)] for name in order]

    def marked(form: str, value: float, off: bool) -> str:
        return f"**{form.format(100 * value)}**" if off else form.format(100 * value)

    head = ["method", *streams]
    quality = rows(lambda r: marked("{:.2f}", r["quality"], r["below_floor"]))
    full = [f"{100 * by[order[0]][s]['full_quality']:.2f}" for s in streams[:-1]]
    cost = rows(lambda r: marked("{:+.1f}", r["off_budget"], r["over_budget"]))
    worst = [
        [
            name,
            f"{by[name][streams[0]]['efficacy']:.3f}",
            f"{by[name][streams[-1]]['efficacy']:.3f}",
            f"{by[name][streams[-1]]['slowdown']:.2f}",
            f"{by[name][streams[0]]['cost_cvar99']:.3f}",
            f"{by[name][streams[-1]]['worst_cost']:.3f}",
            f"{next(one['seconds'] for one in lines if one['method'] == name):.1f}",
        ]
        for name in order
    ]
    kept = [
        f"{stream}: {sum(not by[m][stream]['over_budget'] for m in order)} of {len(order)} keep the budget, "
        f"{sum(not by[m][stream]['below_floor'] for m in order)} the floor"
        for stream in streams
    ]
    slow = [
        "efficacy, clean", "efficacy, dearest", "slowdown, dearest", "cost of the dearest 1 %, clean [MMACs]",
        "worst row [MMACs]", "seconds",
    ]  # fmt: skip
    return "\n".join(
        [
            "# Robustness of policies",
            "",
            f"Written by `benchmarks/robustness.py`: {len(order)} methods, fitted on clean rows of "
            f"`cache/fashion_mnist` at {BUDGET} of the full model's cost, replayed with their thresholds as they are. "
            "Best method first, by the mean over the columns. Bold: worse than allowed by more than chance (95 % "
            "interval). Of each row's `dearest version` an adversary chose among all six and the clean image.",
            "",
            *(f"- {one}" for one in kept),
            "",
            "![Methods by streams](robustness.png)",
            "",
            table(
                f"Accuracy [%]; bold: more than {DROP} under the full model on the same stream",
                head,
                [["(full model)", *full, "-"], *quality],
            ),
            table("Cost off the budget [%]; bold: over it", head, cost),
            table("Slowdown", ["method", *slow], worst),
        ]
    )


def figure(lines: list[dict[str, Any]]) -> Any:
    """Return the picture of the page."""
    records = [record for one in lines for record in one["records"]]
    return robustness_figure(records, f"{len(lines)} methods, fitted on clean rows")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="only write the page of what is there")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    if not given.table:
        run(given.out)
    lines = read(given.out)
    text = page(lines)
    given.out.with_suffix(".md").write_text(text)
    save_figure(figure(lines), given.out.with_suffix(".png"), dpi=100)
    print(text)


if __name__ == "__main__":
    main()
