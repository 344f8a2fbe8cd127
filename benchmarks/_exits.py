"""Many exits: what joint search and `auto` take, and what the shorter search gives away on unseen rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from _common import seconds, table

from policyopt._cache.arrays import from_arrays
from policyopt._costs import positions
from policyopt._methods.registry import make_method
from policyopt._replay import replay
from policyopt._table import Table, Tables
from policyopt._thresholds import joint

CLASSES, BUDGET = 10, "40%"
JOINT = "max_prob:thresholds=joint"


def many(rows: int, exits: tuple[int, ...], seeds: int) -> tuple[dict[str, Any], str]:
    """Run this part; return its record and its tables."""
    found, lines, worth = {}, [], []
    for count in exits:
        gains = []
        for seed in range(seeds):
            fit, test = made(rows, count, seed)
            base = curve(fit, test, "max_prob")
            short = curve(fit, test, JOINT) - base
            gains.append((short, whole(lambda fit=fit, test=test: curve(fit, test, JOINT)) - base))
        fit, _ = made(rows, count, 0)
        taken = {name: timed(fit, name) for name in (JOINT, "auto")}
        lines.append((count, *(f"{seconds(wall)}, {seconds(cpu)}" for wall, cpu in taken.values())))
        points = 100 * np.array(gains).mean(axis=2)  # (seeds, 2), over the budgets
        worth.append(
            (count, *(f"{m:+.2f}" for m in points.mean(axis=0)), str(points.round(2).tolist()))
        )
        found[str(count)] = {"seconds": taken, "gain_points": points.tolist()}
    title = f"{rows:,} rows, one budget: wall-clock time, processor time"
    gain = "Points over geometric quotas at equal realised cost, unseen rows, mean of nine budgets"
    text = table(title, ("K", JOINT, "auto"), lines)
    text += "\n" + table(
        gain, ("K", "as searched", "searched as few exits are", "each seed"), worth
    )
    return {"rows": rows, "exits": found}, text


def made(rows: int, exits: int, seed: int) -> tuple[Table, Table]:
    """Return rows to fit on and as many unseen, of exits that share most of their noise; the last ones overthink."""
    rng, n = np.random.default_rng(seed), 2 * rows
    labels, hardness = rng.integers(0, CLASSES, n), rng.normal(size=n)
    logits, depth = np.empty((n, exits, CLASSES), dtype=np.float32), np.linspace(0, 1, exits)
    kept = np.exp(-2.0 / max(exits - 1, 1))  # of the noise, from one exit to the next
    walk = rng.standard_normal((n, CLASSES), dtype=np.float32)
    for k, deep in enumerate(depth):
        fresh = rng.standard_normal((2, n, CLASSES), dtype=np.float32)
        walk = walk if k == 0 else kept * walk + (1 - kept**2) ** 0.5 * fresh[0]
        logits[:, k] = walk + 0.35 * fresh[1]
        logits[np.arange(n), k, labels] += 1.5 + 2.6 * deep**0.5 - 0.5 * deep**3 - 1.2 * hardness
    parts = {"fit": slice(0, rows), "test": slice(rows, n)}
    splits = {name: {"outputs": 1.5 * logits[p], "labels": labels[p]} for name, p in parts.items()}
    tables = Tables(from_arrays(splits=splits, costs=1.0 + 9.0 * depth, unit="ms"))
    return tables.get("fit"), tables.get("test")


def curve(fit: Table, test: Table, method: str) -> np.ndarray[Any, Any]:
    """Return the accuracy on unseen rows at nine realised costs, between those of the policies."""
    budgets = positions(fit.mean_costs, 9).tolist()
    path = replace(make_method(method), spend="all").fit_path(fit, budgets, 0)
    outcomes = [replay(one.policy, test) for one in path]
    points = sorted((float(o.cost.mean()), float(np.mean(o.quality))) for o in outcomes)
    return np.interp(budgets, *np.array(points).T)


def whole(run: Callable[[], Any]) -> Any:
    """Run with the search that few exits have."""
    held = joint._MANY
    try:
        joint._MANY = 1_000_000
        return run()
    finally:
        joint._MANY = held


def timed(fit: Table, name: str) -> tuple[float, float]:
    """Return what fitting one budget takes, by the wall clock and by the processor, in seconds."""
    start = time.perf_counter(), time.process_time()
    make_method(name).fit_path(fit, [BUDGET], 0)
    return time.perf_counter() - start[0], time.process_time() - start[1]
