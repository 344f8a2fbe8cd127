"""The same decision everywhere, on every level: families of several methods on all test rows, by every export.

python benchmarks/families.py [--only NAME,...]
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _caches import caches
from _common import machine, machine_line, table, write

import policyopt as po
from policyopt._export.bundle import write_bundle
from policyopt._export.golden import expect, joined
from policyopt._export.rounding import scaled_error
from policyopt._export.samples import from_cache
from policyopt._export.symbolic import trace_policy
from policyopt._export.verify import RUNNERS, run_torch
from policyopt._table import Tables

OUT = Path(__file__).parent / "results" / "families.json"
CACHES = ["fashion_mnist", "cifar10_cascade5"]
METHODS = [
    "max_prob",
    "margin:answer=combined",
    "patience",
    "frugalgpt",
    "optimal_stopping",
    "auto",
]
LEVELS = 12


def main() -> None:
    """Export a family of every method, and run all forms on all test rows, on each level."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="methods, comma-separated")
    only = [name for name in parser.parse_args().only.split(",") if name]
    start, rows = machine(), []
    with tempfile.TemporaryDirectory() as place:
        for name, data in caches(Path(place), CACHES):
            for method in only or METHODS:
                rows.append({"cache": name, "method": method, **_compared(data, method)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    write(OUT, {"levels": LEVELS, "rows": rows, "machine": [start, machine()]}, text(rows, start))


def _compared(data: Any, method: str) -> dict[str, Any]:
    """Return, per form, how many exits and answers differ from the level's own policy, all levels together."""
    family = po.fit_family(data, LEVELS, method, tables=Tables(data)).policy
    graphs = trace_policy(family)
    parts = from_cache(family, graphs, data, "test", 8192)
    whole = functools.reduce(joined, [expect(family, *part) for part in parts])
    found: dict[str, Any] = {"rows": len(whole), "levels": len(family)}
    runs = {"torch": lambda _, golden: run_torch(family, golden), **RUNNERS}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "out"
        write_bundle(family, folder, ["python", "onnx", "c"], whole, graphs)
        found["bytes"] = {
            form: (folder / file).stat().st_size
            for form, file in (("file", "policy.json"), ("c", "policyopt_policy.h"))
        }
        for level in range(len(family)):
            sample = np.stack([np.arange(len(whole)), np.full(len(whole), level)], axis=1)
            golden = expect(family, whole.inputs, sample)
            outputs: list[Any] = [None] * family.model_exits
            for k, given in zip(family.active_exits, whole.inputs, strict=True):
                outputs[k] = given[family.kind]
            alone, path = family.at(level).decide(outputs), np.asarray(family.active_exits)
            taken, rows = golden.expected.exit, np.arange(len(golden))
            said = golden.expected.prediction[rows, taken]
            own = (path[taken] != alone.exit).sum() + (said != alone.prediction).sum()
            found["numpy"] = found.get("numpy", 0) + int(own)
            for form, run in runs.items():
                ran = run(folder, golden)
                if isinstance(ran, str):
                    found[form] = ran
                    continue
                differ = (ran.exit != taken).sum() + (ran.prediction[rows, taken] != said).sum()
                found[form] = found.get(form, 0) + int(differ)
                reached = np.arange(family.exits) <= taken[:, None]
                error = np.where(reached, scaled_error(ran.score, golden.expected.score), 0.0)
                found["ulps"] = max(found.get("ulps", 0.0), float(error.max()))
    return found


def text(rows: list[dict[str, Any]], start: Any) -> str:
    """Return the table."""
    names = ["numpy", "torch", *RUNNERS]
    checked = sum(r["rows"] * r["levels"] * sum(isinstance(r[n], int) for n in names) for r in rows)
    total = sum(r[n] for r in rows for n in names if isinstance(r[n], int))
    shown = [
        [
            r["cache"], r["method"], r["levels"],
            *(r[n] if isinstance(r[n], int) else "absent" for n in names), f"{r['ulps']:.2g}",
            f"{r['bytes']['file'] / 1000:.0f}", f"{r['bytes']['c'] / 1000:.0f}",
        ]
        for r in rows
    ]  # fmt: skip
    head = (
        "# Families\n\nWritten by `python benchmarks/families.py`. Each method fitted at "
        f"{LEVELS} budgets as one family; exits and answers on *all* test rows on *every* level, by the "
        "family's exports with the level as an input, that differ from the level's own policy in numpy. "
        "Scores: largest difference at exits that were reached, in units of float32 rounding of the larger "
        f"of score and 1.\n\n**{total} differences in {checked:,} decisions.**\n"
    )
    columns = ["cache", "method", "levels", *names, "scores off by", "file kB", "header kB"]
    body = table("Exits and answers that differ", columns, shown)
    return f"{head}\n{body}\n{machine_line(start, machine())}\n"


if __name__ == "__main__":
    main()
