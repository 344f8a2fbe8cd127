"""Do learned policies cost what they are to cost? Many random divisions of one pool of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from _common import table

from policyopt._cache.data import ExitData
from policyopt._costs import parse_budgets
from policyopt._methods.registry import make_method
from policyopt._replay import replay
from policyopt._table import Tables

#: EENet with little training: how well a network is trained says nothing about its thresholds'
#: costs, and 50 divisions at full length would take a day.
METHODS = (
    "max_prob", "optimal_stopping", "auto", "eenet:max_epochs=10+restarts=1+training=warm",
    "eenet_released:max_epochs=10+restarts=1",
)  # fmt: skip
BUDGETS = 9


def keeping(name: str, data: ExitData, seeds: int) -> dict[str, Any]:
    """Divide a pool (or the rows of split fit) in halves, fit on one, replay on the other."""
    del name
    tables = Tables(data)
    pool = tables.get("fit")
    methods = [m for m in METHODS if not make_method(m).missing_columns(pool)]
    off: dict[str, list[list[float]]] = {m: [] for m in methods}
    inside: dict[str, list[bool]] = {m: [] for m in methods}
    rows = (0, 0)
    for seed in range(seeds):
        if data.pooled:
            fit_rows, test = tables.get("fit", seed), tables.get("test", seed)
        else:
            order = np.random.default_rng(seed).permutation(len(pool))
            half = len(pool) // 2
            fit_rows, test = pool.take(np.sort(order[:half])), pool.take(np.sort(order[half:]))
        rows = (len(fit_rows), len(test))
        budgets = parse_budgets(BUDGETS, fit_rows.mean_costs)
        for method in methods:
            row = []
            for fitted in make_method(method).fit_path(fit_rows, budgets, seed):
                cost = float(replay(fitted.policy, test).cost.mean())
                row.append(cost / float(fitted.budget or 1) - 1)
                low, high = fitted.expected.interval(len(test))
                inside[method].append(bool(low <= cost <= high))
            off[method].append(row)
    return {
        "divisions": seeds,
        "fit_rows": rows[0],
        "test_rows": rows[1],
        "methods": {
            m: {
                "mean_off": np.mean(off[m], axis=0).tolist(),
                "standard_error": (np.std(off[m], axis=0, ddof=1) / seeds**0.5).tolist(),
                "average": float(np.abs(np.mean(off[m], axis=0)).mean()),
                "largest": float(np.abs(np.mean(off[m], axis=0)).max()),
                "single_average": float(np.abs(off[m]).mean()),
                "coverage": float(np.mean(inside[m])),
            }
            for m in methods
        },
    }


def keeping_text(name: str, found: dict[str, Any]) -> str:
    """Return the table of one cache."""
    rows = [
        (
            method,
            *(
                f"{100 * v:+.2f} ({100 * e:.2f})"
                for v, e in zip(f["mean_off"], f["standard_error"], strict=True)
            ),
            f"{100 * f['average']:.2f}",
            f"{100 * f['largest']:.2f}",
            f"{100 * f['single_average']:.2f}",
            f"{100 * f['coverage']:.0f}",
        )
        for method, f in found["methods"].items()
    ]
    header = [
        "method", *(f"{10 * (i + 1)}%" for i in range(BUDGETS)), "average", "largest",
        "one division", "covered %",
    ]  # fmt: skip
    title = "Realised cost over budget, less 1, in % (standard error over divisions)"
    head = (
        f"## {name}\n\n{found['divisions']} random divisions: {found['fit_rows']:,} rows to fit, "
        f"{found['test_rows']:,} to replay on. Average and largest: of the means over divisions, over "
        "the budgets; one division: mean absolute deviation of a single one; covered: how often the "
        "fit's 95 % interval holds the realised cost.\n"
    )
    return head + "\n" + table(title, header, rows)
