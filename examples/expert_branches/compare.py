"""One set of branches against experts, at equal realised cost, stream by stream and as the streams change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import policyopt as po
from policyopt._cache.data import ExitData
from policyopt._costs import parse_budgets
from policyopt._frontier import Path, path_through
from policyopt._intervals import bootstrap_means, interval
from policyopt._online.simulate import simulate
from policyopt._table import Tables

from .distortions import KINDS

METHOD = "max_prob"
BUDGETS = 9
OVERHEADS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Of AdaEE: what going on to the last exit must add in confidence to be worth it."""

Paths = dict[str, dict[str, Path]]
"""By column of the table, then by stream: what its policies cost and answer, all budgets."""


def paths_of(caches: Mapping[str, ExitData], by_context: set[str], budgets: int = BUDGETS) -> Paths:
    """Fit each cache's policies on its split `fit` and replay them on the streams.

    Parameters
    ----------
    caches
        By column; the same rows in each.
    by_context
        Columns that have one policy per context; the others have one for all rows.
    budgets
        How many, between the first exit and the last.
    """
    found: Paths = {}
    for name, data in caches.items():
        tables = Tables(data)
        asked = parse_budgets(budgets, tables.get("fit").mean_costs)
        fit = po.fit_experts if name in by_context else po.fit
        policies = [fit(data, budget, METHOD, tables=tables).policy for budget in asked]
        found[name] = {kind: path_through(policies, tables.get(kind)) for kind in KINDS}  # type: ignore[arg-type]
        parts = list(found[name].values())
        found[name]["changing"] = Path(
            np.concatenate([part.cost for part in parts]),
            np.concatenate([part.quality for part in parts]),
        )
    return found


def at_cost(
    paths: Paths, stream: str, cost: float, reference: str, seed: int = 0
) -> dict[str, tuple[float, float, float, float]]:
    """Return each column's accuracy at a realised cost, and its lead over the reference.

    Between two of its policies a column mixes them. Rows are resampled together for all columns;
    on the changing stream, where every test image stands once in each kind, whole images are.

    Returns
    -------
    dict
        Per column: accuracy, lead, and the ends of its 95 % interval.
    """
    columns = [np.concatenate([p[stream].cost, p[stream].quality], axis=1) for p in paths.values()]
    if stream == "changing":
        columns = [np.mean(np.split(column, len(KINDS)), axis=0) for column in columns]
    widths = np.cumsum([column.shape[1] for column in columns])[:-1]

    def accuracies(row: np.ndarray) -> np.ndarray:
        out = []
        for part in np.split(row, widths):
            costs, values = np.split(part, 2)
            order = np.argsort(costs, kind="stable")
            out.append(np.interp(cost, costs[order], values[order]))
        return np.array(out)

    joined = np.concatenate(columns, axis=1)
    exact = accuracies(joined.mean(axis=0))
    draws = np.array([accuracies(m) for m in bootstrap_means(joined, np.random.default_rng(seed))])
    at = list(paths).index(reference)
    low, high = interval(draws - draws[:, [at]])
    lead = exact - exact[at]
    return {
        name: (float(exact[i]), float(lead[i]), float(low[i]), float(high[i]))
        for i, name in enumerate(paths)
    }


def play_adaee(data: ExitData, rounds: int, repetitions: int) -> list[dict[str, Any]]:
    """Play AdaEE, UCB1 over thresholds, on the changing stream; one record per overhead.

    A third of the rounds is clean, then a third blurred, then a third noisy.
    """
    records = []
    for overhead in OVERHEADS:
        found = simulate(
            data, ["ucb1"], schedule="abrupt", streams=KINDS, rounds=rounds,
            repetitions=repetitions, arms="0:1:0.1", overhead=overhead, method=METHOD,
        )  # fmt: skip
        records.append(found.records[0])
    return records
