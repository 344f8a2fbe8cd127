"""Bias and coverage of the stated cost over many divisions of the rows: no bootstrap, one score."""

from __future__ import annotations

from typing import Any

import numpy as np
from _common import table
from _keeping import BUDGETS, SOLVERS, spec

from policyopt._cache.data import ExitData
from policyopt._costs import parse_budgets
from policyopt._methods.registry import make_method
from policyopt._replay import replay
from policyopt._table import Table, Tables

SCORE = "max_prob"


def many(data: ExitData, divisions: int) -> dict[str, Any]:
    """Choose thresholds on one part of the rows and replay them on the other, division by division.

    A pool is divided as it states. Of named splits, `fit` is divided in halves: the test rows
    are the same for all seeds, so they cannot tell a bias from the luck of one draw.
    """
    tables = Tables(data)
    budgets = parse_budgets(BUDGETS, tables.get("fit").mean_costs)
    shape = (len(SOLVERS), divisions, BUDGETS)
    off, inside, standard = np.empty(shape), np.empty(shape), np.empty(shape)
    for seed in range(divisions):
        chosen_on, unseen = _divide(tables, seed)
        for i, solver in enumerate(SOLVERS):
            path = make_method(spec(SCORE, solver)).fit_path(chosen_on, budgets, seed)
            for b, fitted in enumerate(path):
                cost = float(replay(fitted.policy, unseen).cost.mean())
                low, high = fitted.expected.interval(len(unseen))
                off[i, seed, b] = cost / budgets[b] - 1
                inside[i, seed, b] = low <= cost <= high
                standard[i, seed, b] = (cost - fitted.expected.cost) / max(
                    (high - low) / 3.92, 1e-300
                )
    return {
        spec(SCORE, solver): {
            "divisions": divisions,
            "mean_off": off[i].mean(axis=0).tolist(),
            "standard_error": (off[i].std(axis=0, ddof=1) / divisions**0.5).tolist(),
            "coverage": inside[i].mean(axis=0).tolist(),
            "sd_of_standardised": standard[i].std(axis=0, ddof=1).tolist(),
        }
        for i, solver in enumerate(SOLVERS)
    }


def many_text(name: str, found: dict[str, Any], shares: list[float]) -> str:
    """Return the table of one cache."""
    rows = []
    for method, f in found.items():
        pairs = zip(f["mean_off"], f["standard_error"], strict=True)
        rows.append(
            (f"{method}: off %", *(f"{100 * m:+.2f} ± {100 * s:.2f}" for m, s in pairs), "")
        )
        cover = [*f["coverage"], float(np.mean(f["coverage"]))]
        rows.append(("95 % interval covers, %", *(f"{100 * c:.0f}" for c in cover)))
    divisions = next(iter(found.values()))["divisions"]
    title = f"{name}: {divisions} divisions, realised cost over budget, less 1, ± standard error"
    return table(title, ("", *(f"{100 * s:.0f}%" for s in shares), "all"), rows)


def _divide(tables: Tables, seed: int) -> tuple[Table, Table]:
    if tables.data.pooled:
        return tables.get("fit", seed), tables.get("test", seed)
    rows = tables.get("fit")
    order = np.random.default_rng(seed).permutation(len(rows))
    half = len(rows) // 2
    return rows.take(np.sort(order[:half])), rows.take(np.sort(order[half:]))
