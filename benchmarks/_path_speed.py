"""Seconds for the nine-budget path of optimal_stopping, beside EENet trained once per budget."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from _common import seconds, synthetic, table, times

import policyopt as po
from policyopt._costs import parse_budgets
from policyopt._methods.registry import make_method
from policyopt._table import Tables

ROWS, EXITS, CLASSES, BUDGETS = 5_000, 5, 100, 9
_ROUNDS = 3


def path_speed() -> dict[str, Any]:
    """Time both in turn at N=5,000, K=5, C=100; EENet for one budget, which the others repeat."""
    logits, labels = synthetic(ROWS, EXITS, CLASSES)
    data = po.from_arrays(
        splits={"fit": {"outputs": logits, "labels": labels.astype(np.int32)}},
        costs=[1.0, 2.0, 4.0, 8.0, 16.0],
        unit="ms",
    )
    rows = Tables(data).get("fit")
    budgets = list(parse_budgets(BUDGETS, rows.mean_costs))
    ours, theirs, warm = [], [], []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        make_method("optimal_stopping").fit_path(rows, budgets)
        ours.append(time.perf_counter() - start)
    for budget in (budgets[1], budgets[4], budgets[7]):
        start = time.perf_counter()
        make_method("eenet").fit_path(rows, [budget])
        theirs.append(time.perf_counter() - start)
    start = time.perf_counter()
    make_method("eenet:training=warm").fit_path(rows, budgets)
    warm.append(time.perf_counter() - start)
    return {
        "optimal_stopping_path_s": ours,
        "eenet_one_budget_s": theirs,
        "eenet_path_s": BUDGETS * float(np.mean(theirs)),
        "eenet_warm_path_s": warm[0],
        "ratio": BUDGETS * float(np.mean(theirs)) / float(np.median(ours)),
    }


def path_speed_text(found: dict[str, Any]) -> str:
    """Return the table."""
    path = float(np.median(found["optimal_stopping_path_s"]))
    rows = [
        ("optimal_stopping, nine budgets, cross-fitting included", seconds(path), ""),
        (
            "eenet, nine budgets, one training each (nine times the mean of three)",
            seconds(found["eenet_path_s"]),
            times(found["eenet_path_s"] / path),
        ),
        (
            "eenet, nine budgets, warm-started along the path",
            seconds(found["eenet_warm_path_s"]),
            times(found["eenet_warm_path_s"] / path),
        ),
    ]
    return table(f"N={ROWS:,}, K={EXITS}, C={CLASSES}", ["fit", "time", "times ours"], rows)
