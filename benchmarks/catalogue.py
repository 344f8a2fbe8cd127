"""Every method on every cache at equal realised cost: nine budgets, five seeds; fit time, decision cost.

python benchmarks/catalogue.py [--caches NAMES] [--methods NAMES] [--seeds N] [--jobs N] [--out DIR]

Writes DIR/catalogue.json and .md (default benchmarks/results) and docs/catalogue.png; methods that
--methods does not name keep what was found before. Caches of others are skipped where they are not
there. Methods are compared with max_prob with geometric quotas, each point at its own realised cost;
see `policyopt._frontier`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path as File
from typing import Any

import numpy as np
from _caches import ROOT, caches
from _catalogue_picture import draw
from _catalogue_text import text_of
from _common import machine, paired, write
from _gains import against, over_seeds

from policyopt._cache.reader import open_cache
from policyopt._costs import positions
from policyopt._frontier import Path, path_through, split_for_seed
from policyopt._methods.base import fit_where_possible
from policyopt._methods.registry import ROWS, make_method
from policyopt._table import Table, Tables
from policyopt.runtime._policy import Policy

REFERENCE = "max_prob"
BUDGETS = 9
CACHES = (
    "fashion_mnist", "cifar10_cascade5", "resnet8_2exit_cifar10", "alexnet2_cifar10_confidence",
    "mmlu_llama5",
)  # fmt: skip
#: EENet's paper trains once per budget, for minutes; here one budget starts from the next. At the
#: release's learning rate its formulas need 1,000 epochs; at this one, fewer.
SPECS = {
    # These caches' heads are trained.
    "e2cm": "e2cm:answer=plain",
    "eenet": "eenet:training=warm+restarts=1",
    "eenet_released": "eenet_released:learning_rate=0.01+max_epochs=100",
}


def one_seed(place: str, methods: list[str], seed: int, seeds: int) -> dict[str, Any]:
    """Fit and replay every method on one division (or refit); return what is said of each."""
    import torch

    torch.set_num_threads(1)
    tables = Tables(open_cache(File(place)))
    fit_rows, test_rows = split_for_seed(tables, seed, "test", max(seeds, 2))
    budgets = positions(fit_rows.mean_costs, BUDGETS).tolist()
    reference, found = None, {}
    for name in methods:
        method = make_method(SPECS.get(name, name))
        missing = method.missing_columns(fit_rows)
        if missing:
            found[name] = {"lacks": missing}
            continue
        start = time.perf_counter()
        path = [f for f in fit_where_possible(method, fit_rows, budgets, seed) if f is not None]
        seconds = time.perf_counter() - start
        met = path_through([fitted.policy for fitted in path], test_rows)
        reference = met if reference is None else reference
        found[name] = {
            "fit_s": seconds,
            "budgets_met": len(path),
            "off_budget": _off(met, [f.budget or 0.0 for f in path]),
            "at_budget": _at(met, budgets),
            **(against(met, reference, seed) if len(path) == BUDGETS else {}),
        }
    return found


def _off(met: Path, budgets: list[float]) -> float:
    """Return how far realised costs are from their budgets on average, in parts of the budget."""
    realised = met.cost[:, 1:].mean(axis=0)
    return float(np.mean(realised / np.array(budgets) - 1.0))


def _at(met: Path, budgets: list[float]) -> list[float]:
    """Return the accuracy at a realised cost of exactly each budget: neighbours mixed."""
    cost, accuracy = met.cost.mean(axis=0), met.quality.mean(axis=0)
    order = np.argsort(cost, kind="stable")
    return np.interp(budgets, cost[order], accuracy[order]).tolist()


def decision_cost(place: str, methods: list[str]) -> dict[str, Any]:
    """Time one decision at one exit for one sample, and per sample of a batch, of each method."""
    tables = Tables(open_cache(File(place)))
    table = tables.get("fit", 0) if tables.data.pooled else tables.get("fit")
    table = table.take(np.arange(min(len(table), 2000)))
    budget = float(positions(table.mean_costs, 1)[0])
    calls: dict[str, Any] = {}
    policies: dict[str, Policy] = {}
    for name in methods:
        method = make_method(SPECS.get(name, name))
        if not method.missing_columns(table):
            policies[name] = method.fit_path(table, [budget])[0].policy
            calls[name] = _stepper(policies[name], table)
    times = paired(calls, rounds=5, calls=dict.fromkeys(calls, 20))
    exits = {name: max(policy.exits - 1, 1) for name, policy in policies.items()}
    return {name: timing.best / exits[name] for name, timing in times.items()}


def _stepper(policy: Policy, table: Table) -> Any:
    """Return a call that steps one sample through all exits but the last."""
    if table.kind == "summary":
        rows: list[Any] = [output.take(slice(0, 1)) for output in table.statistics.outputs()]
    else:
        _, outputs = next(iter(table.take(np.arange(1)).chunks()))
        rows = list(np.asarray(outputs[0]))

    def run() -> None:
        state = policy.start()
        for k in policy.active_exits[:-1] or policy.active_exits:
            policy.step(k, rows[k], state)

    return run


def measure(places: dict[str, str], methods: list[str], seeds: int, jobs: int) -> Iterator[Any]:
    """Yield (cache, what was found of its methods), all seeds of a cache done."""
    with ProcessPoolExecutor(jobs) as pool:
        work = {
            pool.submit(one_seed, place, methods, seed, seeds): (name, seed)
            for name, place in places.items()
            for seed in range(seeds)
        }
        seen: dict[str, dict[int, Any]] = {name: {} for name in places}
        for done in as_completed(work):
            name, seed = work[done]
            seen[name][seed] = done.result()
            print(f"{name}: seed {seed}", file=sys.stderr, flush=True)
            if len(seen[name]) == seeds:
                yield name, {m: _joined([seen[name][s][m] for s in range(seeds)]) for m in methods}


def _joined(each: list[dict[str, Any]]) -> dict[str, Any]:
    if "lacks" in each[0]:
        return each[0]
    said = {
        "fit_s": float(np.median([one["fit_s"] for one in each])),
        "off_budget": float(np.mean([one["off_budget"] for one in each])),
        "at_budget": np.mean([one["at_budget"] for one in each], axis=0).tolist(),
    }
    if any("difference" not in one for one in each):
        return {**said, "budgets_met": min(one["budgets_met"] for one in each)}
    keys = ("difference", "low", "high", "accuracy", "realised_cost", "average_low", "average_high")
    return {**said, **over_seeds([{key: one[key] for key in keys} for one in each])}


def main() -> None:
    """Run all methods on the caches that are there, and write tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--caches", default=",".join(CACHES), help="names, comma-separated")
    parser.add_argument("--methods", help="names, comma-separated; default all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=File, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    for said, known in ((options.caches, CACHES), (options.methods, ROWS)):
        if odd := set((said or "").split(",")) - {"", *known}:
            parser.error(f"{', '.join(sorted(odd))}: none of {', '.join(known)}")
    methods = options.methods.split(",") if options.methods else list(ROWS)
    methods = [REFERENCE, *(m for m in methods if m != REFERENCE)]
    start, results = time.perf_counter(), {"machine": machine(), "seeds": options.seeds}
    results["methods"] = {m: SPECS.get(m, m) for m in methods}
    with tempfile.TemporaryDirectory() as folder:
        places = {}
        for name, _ in caches(File(folder), options.caches.split(",")):
            shipped = ROOT / "cache" / name
            places[name] = str(shipped if shipped.exists() else File(folder) / name)
        results["caches"] = {}
        for name, found in measure(places, methods, options.seeds, options.jobs):
            results["caches"][name] = found
        results["caches"] = {name: results["caches"][name] for name in places}
        results["decision_s"] = {
            name: decision_cost(places[name], methods)
            for name in ("cifar10_cascade5", "mmlu_llama5")
            if name in places
        }
    results["wall_s"] = time.perf_counter() - start
    out = options.out / "catalogue.json"
    if options.methods and out.exists():
        results = joined(json.loads(out.read_text()), results)
    write(out, results, text_of(results))
    draw(results)


def joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return old results with those of the methods named put in their place."""
    if (old["seeds"], [*old["caches"]]) != (new["seeds"], [*new["caches"]]):
        sys.exit("Results of other seeds or caches stand there: choose another --out.")
    for part in ("caches", "decision_s"):
        for name, found in new[part].items():
            if part == "decision_s":  # timed together, so in parts of the reference of each run
                scale = old[part][name][REFERENCE] / found[REFERENCE]
                found = {m: scale * v for m, v in found.items()}
            old[part][name] |= found
    every = old["methods"] | new["methods"]
    return {**old, "methods": {m: every[m] for m in ROWS if m in every}}


if __name__ == "__main__":
    main()
