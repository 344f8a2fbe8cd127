"""What `auto` gains over max probability, and what it gives away of its own candidates. Resumable.

Of each cache all rows together are divided into fit and test rows ten times; from the fit rows 500, 1,000 and 5,000 are
drawn. Every candidate and `auto` is fitted at nine budgets and held against `max_prob` on the test rows, at equal
realised cost (`po.compare`). Two references, per cache, rows and, for the second, budget:

- *single*: the candidate that gains most on half of the divisions, valued on the other half, and the other way round;
- *simple*: the same among `max_prob`, `margin`, `entropy`.

`auto` sees neither. Each (cache, rows, division) is a line of ``results/auto.jsonl``.

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
from policyopt._frontier import compare_paths, path_through
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
    """Return the gains over max_prob of all candidates and of auto at each budget."""
    tables = Tables(data)
    fit_rows, test = tables.get("fit", seed), tables.get("test", seed)
    drawn = np.random.default_rng(seed).permutation(len(fit_rows))[:count]
    fit_rows = fit_rows.take(np.sort(drawn))
    budgets = parse_budgets(BUDGETS, fit_rows.mean_costs)
    every = CANDIDATES + (FOR_CASCADES if fit_rows.cascade else ())
    methods = {label: m for label, m, _ in every if not m.missing_columns(fit_rows)}
    methods["auto"] = make_method("auto")
    paths, took = {}, None
    for label, method in methods.items():
        fitted = fit_where_possible(method, fit_rows, budgets, seed, validate=False)
        if any(one is None for one in fitted):
            continue
        paths[label] = path_through([one.policy for one in fitted if one is not None], test)
        if label == "auto":
            took = [one.policy.provenance["chosen"]["method"] for one in fitted if one is not None]
    gains = {
        label: [point["difference"] for point in compare_paths(path, paths["max_prob"], seed)]
        for label, path in paths.items()
    }
    return {"cache": name, "rows": count, "division": seed, "gains": gains, "took": took}


def likewise(gains: np.ndarray, halves: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return what the best of M candidates on half of D divisions gains on the other, swapped, (D, B).

    Shapes: gains (M, D, B); chosen for all budgets together.
    """
    out = np.empty(gains.shape[1:])
    for chosen_on, valued_on in (halves, halves[::-1]):
        best = int(gains[:, chosen_on].mean(axis=(1, 2)).argmax())
        out[valued_on] = gains[best, valued_on]
    return out


def judge(records: list[dict[str, Any]]) -> tuple[list[tuple[str, ...]], float, float, list[str]]:
    """Return a line per cell, the sums of auto and of the single candidate, and cells under the best simple rule."""
    lines, ours, single, under = [], 0.0, 0.0, []
    cells = sorted({(r["cache"], r["rows"]) for r in records})
    for cache, rows in cells:
        found = sorted(
            (r for r in records if (r["cache"], r["rows"]) == (cache, rows)),
            key=lambda r: r["division"],
        )
        labels = [
            k for k in found[0]["gains"] if k != "auto" and all(k in r["gains"] for r in found)
        ]
        gains = 100 * np.array([[r["gains"][k] for r in found] for k in labels])
        auto = 100 * np.array([r["gains"]["auto"] for r in found])
        order = np.arange(len(found))
        halves = order[order % 2 == 0], order[order % 2 == 1]
        if len(found) < 2:
            continue
        best = likewise(gains, halves)
        ours, single = ours + float(auto.mean()), single + float(best.mean())
        simple = gains[[i for i, k in enumerate(labels) if k in SIMPLE]]
        for b in range(auto.shape[1]):
            gap = auto[:, b] - likewise(simple[:, :, [b]], halves)[:, 0]
            error = gap.std(ddof=1) / len(gap) ** 0.5
            if gap.mean() < -0.1 and gap.mean() < -3 * error:
                under.append(
                    f"{cache}, {rows} rows, budget {b + 1}: {gap.mean():+.2f} ({error:.2f})"
                )
        lines.append((
            cache, f"{rows:,}", str(len(found)), f"{auto.mean():+.3f}", f"{best.mean():+.3f}",
            f"{likewise(simple, halves).mean():+.3f}", labels[int(gains.mean(axis=(1, 2)).argmax())],
        ))  # fmt: skip
    return lines, ours, single, under


def text(records: list[dict[str, Any]]) -> str:
    """Return the page."""
    lines, ours, single, under = judge(records)
    header = (
        "cache",
        "fit rows",
        "divisions",
        "auto",
        "single, chosen likewise",
        "simple",
        "best in hindsight",
    )
    share = f"{ours / single:.3f}" if single else "-"
    told = "; ".join(under) or "none"
    return (
        f"# auto\n\n{(__doc__ or '').split('Each (cache')[0].strip()}\n\n"
        f"{table('Mean gain over max_prob, points', header, lines)}\n\n"
        f"Sums over cells: auto {ours:+.3f}, single {single:+.3f}: {share} of it. Cells (cache, rows, budget) under "
        f"the best simple rule by more than 0.1 point and 3 standard errors: {told}.\n\n{machine()}\n"
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
        for name, data in () if given.table else caches(Path(place), names):
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
