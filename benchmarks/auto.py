"""What `auto` gains over max probability, and what it gives away of its own candidates. Resumable.

Of each cache all rows together are divided into fit and test rows ten times; from the fit rows 500, 1,000 and 5,000 are
drawn. Every candidate and `auto` is fitted at nine budgets and replayed on the test rows; its curve and that of
`max_prob`, through what their policies really cost there, are held against each other at the nine costs. Two
references, per cache, rows and, for the second, budget:

- *single*: the candidate that gains most on half of the divisions, valued on the other half, and the other way round;
- *simple*: the same among `max_prob`, `margin`, `entropy`.

`auto` sees neither. In brackets the same at the costs of each curve's own points, as `po.compare` tells it: there a
candidate is valued where it happens to spend. `always`, one model for all rows, takes few of a cascade's models, and on
`mmlu_llama5` spends 10 % of a budget of 20 % where `max_prob` is at its worst; within that budget others are better.

Each (cache, rows, division) is a line of ``results/auto.jsonl``.

    python benchmarks/auto.py
    python benchmarks/auto.py --caches resnet8_2exit_cifar10 --rows 500 --table
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from _caches import ROOT, caches
from _common import machine, table

from policyopt import from_arrays
from policyopt._cache.data import COST_PREFIX, ExitData
from policyopt._costs import parse_budgets
from policyopt._frontier import path_through
from policyopt._methods.base import fit_where_possible
from policyopt._methods.choosing import CANDIDATES, FOR_CASCADES
from policyopt._methods.registry import make_method
from policyopt._table import Tables

OUT = ROOT / "benchmarks" / "results" / "auto.jsonl"
ROWS, DIVISIONS, BUDGETS = (500, 1000, 5000), 10, 9
SIMPLE = ("max_prob", "margin", "entropy")
_KEPT = ("outputs", "labels", "prediction", "confidence", "top_prob", "entropy", "correct")


def together(data: ExitData) -> ExitData:
    """Return a cache's fit and test rows as one pool."""
    if data.pooled:
        return data
    parts = [data.splits[name] for name in ("fit", "test")]
    whole = {
        name: np.concatenate([np.asarray(part.array(name)) for part in parts])
        for name in _KEPT
        if parts[0].has(name)
    }
    cost = data.cost()
    more: dict[str, Any] = {"unit": cost.unit, "kind": data.kind}
    if cost.values is None:
        paid = np.concatenate([np.asarray(part.array(COST_PREFIX + cost.name)) for part in parts])
        more["sample_costs"] = {
            cost.name: np.diff(paid, axis=1, prepend=0.0) if cost.cascade else paid
        }
    else:
        more["costs"] = np.diff(cost.values, prepend=0.0) if cost.cascade else list(cost.values)
    if cost.cascade:
        more["cost_kind"] = "standalone"
    return from_arrays(**whole, **more)


def division(name: str, data: ExitData, count: int, seed: int) -> dict[str, Any]:
    """Return what all candidates and auto cost and come to on the test rows, at each budget."""
    tables = Tables(data)
    fit_rows, test = tables.get("fit", seed), tables.get("test", seed)
    drawn = np.random.default_rng(seed).permutation(len(fit_rows))[:count]
    fit_rows = fit_rows.take(np.sort(drawn))
    budgets = parse_budgets(BUDGETS, fit_rows.mean_costs)
    every = CANDIDATES + (FOR_CASCADES if fit_rows.cascade else ())
    methods = {label: m for label, m, _ in every if not m.missing_columns(fit_rows)}
    methods["auto"] = make_method("auto")
    points, took = {}, None
    for label, method in methods.items():
        fitted = fit_where_possible(method, fit_rows, budgets, seed, validate=False)
        if any(one is None for one in fitted):
            continue
        path = path_through([one.policy for one in fitted if one is not None], test)
        points[label] = [path.cost.mean(axis=0).tolist(), path.quality.mean(axis=0).tolist()]
        if label == "auto":
            took = [one.policy.provenance["chosen"]["method"] for one in fitted if one is not None]
    return {
        "cache": name, "rows": count, "division": seed,
        "budgets": budgets, "points": points, "took": took,
    }  # fmt: skip


def gains(record: dict[str, Any], label: str, own: bool = False) -> np.ndarray:
    """Return what a candidate's curve gains over max_prob's at the budgets, or at the costs of its own points, (B,)."""
    curves = []
    for name in (label, "max_prob"):
        cost, quality = np.array(record["points"][name])
        order = np.argsort(cost, kind="stable")
        curves.append((cost[order], quality[order]))
    (cost, quality), rival = curves
    at = np.array(record["points"][label][0][1:] if own else record["budgets"])
    return np.interp(at, cost, quality) - np.interp(at, *rival)


def likewise(found: np.ndarray, halves: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return what the best of M candidates on half of D divisions gains on the other, swapped, (D, B).

    Shapes: found (M, D, B); chosen for all budgets together.
    """
    out = np.empty(found.shape[1:])
    for chosen_on, valued_on in (halves, halves[::-1]):
        best = int(found[:, chosen_on].mean(axis=(1, 2)).argmax())
        out[valued_on] = found[best, valued_on]
    return out


def judge(records: list[dict[str, Any]]) -> tuple[list[tuple[str, ...]], np.ndarray, list[str]]:
    """Return a line per cell, sums (2, 2) of auto and the single candidate, and cells under the best simple rule."""
    lines, sums, under = [], np.zeros((2, 2)), []
    for cache, rows in sorted({(r["cache"], r["rows"]) for r in records}):
        found = sorted(
            (r for r in records if (r["cache"], r["rows"]) == (cache, rows)),
            key=lambda r: r["division"],
        )
        if len(found) < 2:
            continue
        labels = [
            k for k in found[0]["points"] if k != "auto" and all(k in r["points"] for r in found)
        ]
        order = np.arange(len(found))
        halves = order[order % 2 == 0], order[order % 2 == 1]
        means = np.empty((2, 2))
        own = [
            100 * np.array([[gains(r, k, at) for r in found] for k in (*labels, "auto")])
            for at in (False, True)
        ]
        for i, both in enumerate(own):
            means[i] = both[-1].mean(), likewise(both[:-1], halves).mean()
        each, auto = own[0][:-1], own[0][-1]
        best = labels[int(each.mean(axis=(1, 2)).argmax())]
        simple = each[[i for i, k in enumerate(labels) if k in SIMPLE]]
        for b in range(auto.shape[1]):
            gap = auto[:, b] - likewise(simple[:, :, [b]], halves)[:, 0]
            error = gap.std(ddof=1) / len(gap) ** 0.5
            if gap.mean() < -0.1 and gap.mean() < -3 * error:
                under.append(
                    f"{cache}, {rows} rows, budget {b + 1}: {gap.mean():+.2f} ({error:.2f})"
                )
        sums += means
        (ours, single), (ours_own, single_own) = means
        lines.append((
            cache, f"{rows:,}", str(len(found)), f"{ours:+.3f} ({ours_own:+.3f})",
            f"{single:+.3f} ({single_own:+.3f})", f"{likewise(simple, halves).mean():+.3f}", best,
        ))  # fmt: skip
    return lines, sums, under


def text(records: list[dict[str, Any]]) -> str:
    """Return the page."""
    lines, sums, under = judge(records)
    header = (
        "cache", "fit rows", "divisions", "auto", "single, chosen likewise", "simple",
        "best in hindsight",
    )  # fmt: skip
    told = "; ".join(under) or "none"
    (ours, single), (ours_own, single_own) = sums
    return (
        f"# auto\n\n{(__doc__ or '').split('Each (cache')[0].strip()}\n\n"
        f"{table('Mean gain over max_prob, points', header, lines)}\n\n"
        f"Sums over cells: auto {ours:+.3f}, single {single:+.3f}: {ours / single:.3f} of it "
        f"({ours_own:+.3f}, {single_own:+.3f}: {ours_own / single_own:.3f}). Cells (cache, rows, budget) under the "
        f"best simple rule by more than 0.1 point and 3 standard errors: {told}.\n\n{machine()}\n"
    )


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--caches", help="names, comma-separated; default all")
    parser.add_argument("--rows", default=",".join(map(str, ROWS)))
    parser.add_argument("--divisions", type=int, default=DIVISIONS)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    known = given.out.read_text().splitlines() if given.out.exists() else []
    records = [json.loads(line) for line in known]
    done = {(r["cache"], r["rows"], r["division"]) for r in records}
    names = given.caches.split(",") if given.caches else None
    with tempfile.TemporaryDirectory() as place, ProcessPoolExecutor(given.workers) as pool:
        for name, data in () if given.table else caches(Path(place), names, pools=True):
            if name == "fashion_mnist_pairs":
                continue
            data = together(data)
            most = len(Tables(data).get("fit"))
            counts = sorted({min(int(n), most) for n in given.rows.split(",")})
            tasks = [
                (n, d) for d in range(given.divisions) for n in counts if (name, n, d) not in done
            ]
            print(f"{name}: {len(tasks)} to do", file=sys.stderr, flush=True)
            futures = [pool.submit(division, name, data, n, d) for n, d in tasks]
            for future in futures:
                records.append(future.result())
                with given.out.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    page = text(records)
    given.out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
