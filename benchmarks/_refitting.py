"""Policies fitted anew on recent unlabelled rows: is the budget kept, and what is left of accuracy?"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from _common import table

import policyopt as po
from policyopt._cache.data import ExitData
from policyopt._methods.fitted import Fitted
from policyopt._methods.registry import make_method
from policyopt._online.drift import refit
from policyopt._replay import trace
from policyopt._table import Table, Tables

METHODS = ("max_prob", "margin", "entropy", "optimal_stopping")
#: Fits that see the true labels of the recent rows: what labels would be worth.
KNOWING = ("optimal_stopping:soft=0", "max_prob:thresholds=joint")


def refitting(data: ExitData, shifts: list[str], recent: int, budget: str) -> dict[str, Any]:
    """Measure, per shift and method, cost over budget and accuracy on rows that fitted nothing."""
    tables = Tables(data)
    fit = tables.get("fit")
    out: dict[str, Any] = {"recent": recent, "budget": budget, "shifts": {}}
    for name in shifts:
        rows = tables.get(name)
        known, new = rows.take(np.arange(recent)), rows.take(np.arange(recent, len(rows)))
        limit = float(budget.rstrip("%")) / 100 * float(fit.mean_costs[-1])
        found = {}
        for method in METHODS:
            before = po.fit(data, budget, method, tables=tables)
            found[method] = {
                "before": _measure(before, new, limit),
                "refit": _measure(refit(before, fit, known), new, limit),
                "with labels": _measure(
                    make_method(method).fit_path(known, [limit], 0)[0], new, limit
                ),
            }
        for method in KNOWING:
            fitted = make_method(method).fit_path(known, [limit], 0)[0]
            found[method] = {"with labels": _measure(fitted, new, limit)}
        out["shifts"][name] = found
        print(f"refit: {name} done", file=sys.stderr)
    return out


def _measure(fitted: Fitted, rows: Table, limit: float) -> dict[str, float]:
    seen = trace(fitted.policy, rows)
    assert seen.quality_taken is not None
    return {
        "cost_over_budget": float(seen.cost.mean() / limit),
        "accuracy": float(seen.quality_taken.mean()),
    }


def refit_text(found: dict[str, Any]) -> str:
    """Return the table."""
    body = []
    for shift, methods in found["shifts"].items():
        for method, parts in methods.items():
            cells = [_cell(parts.get(part)) for part in ("before", "refit", "with labels")]
            body.append([shift, method, *cells])
    head = ["inputs", "method", "fitted before", "refit, no labels", "fitted on their labels"]
    title = (
        f"Budget {found['budget']} of the full model: realised cost over budget / accuracy in %, "
        f"{found['recent']:,} recent rows"
    )
    return table(title, head, body)


def _cell(part: dict[str, float] | None) -> str:
    if part is None:
        return ""
    return f"{part['cost_over_budget']:.3f} / {100 * part['accuracy']:.2f}"
