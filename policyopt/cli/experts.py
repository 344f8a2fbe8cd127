"""``policyopt fit --experts``: one policy per context, told as a table of what each got."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import Any

from policyopt.cache.data import ExitData
from policyopt.cli.output import Format, expected_text, note, number, percent, print_records
from policyopt.cli.progress import progress
from policyopt.experts import FittedExperts, fit_experts
from policyopt.methods import Method
from policyopt.progress import progress_callback
from policyopt.runtime.errors import input_error
from policyopt.table import Tables

SPARED = 0.95  # of the budget: less than that is worth a remark


def fit_by_context(
    data: ExitData,
    tables: Tables,
    budget: str | None,
    method: Method,
    seed: int,
    out: Path,
    style: Format,
) -> None:
    """Fit one policy per context on split `fit`, write them as one file, print what each got."""
    if budget is None:
        raise input_error("--budget", "given with --experts", "none", "E.g. --budget 40%.")
    with progress("fitting") as step, progress_callback(step):
        fitted = fit_experts(data, budget, method, seed=seed, tables=tables)
    fitted.save(out)
    for part in fitted.parts:
        if part.pooled:
            note(f"context {part.context} has {part.rows} rows: it has the policy of all rows")
    if fitted.expected.cost < SPARED * fitted.budget:
        part = 100 * fitted.expected.cost / fitted.budget
        note(f"the experts spend {part:.0f} % of the budget: more bought nothing on these rows")
    print_records(describe(fitted, str(out)), style, COLUMNS)


def describe(fitted: FittedExperts, path: str) -> list[dict[str, Any]]:
    """Return a record per context, then one (context None) for all of them together."""
    unit, low_high = fitted.policy.unit, fitted.expected.interval()
    parts = [
        {
            "context": part.context,
            "method": fitted.method,
            "share": part.share,
            "budget": part.fitted.budget,
            "unit": unit,
            "expected_cost": None if isnan(part.cost) else part.cost,
            "expected_cost_low": None,
            "expected_cost_high": None,
            "expected_accuracy": None if isnan(part.accuracy) else part.accuracy,
            "fit_rows": part.rows,
            "pooled": part.pooled,
            "policy": path,
        }
        for part in fitted.parts
    ]
    whole = {
        "context": None,
        "method": fitted.method,
        "share": 1.0,
        "budget": fitted.budget,
        "unit": unit,
        "expected_cost": fitted.expected.cost,
        "expected_cost_low": low_high[0],
        "expected_cost_high": low_high[1],
        "expected_accuracy": fitted.accuracy,
        "fit_rows": fitted.expected.rows,
        "pooled": None,
        "policy": path,
    }
    return [*parts, whole]


def _or_dash(value: float | None, show: Any) -> str:
    return "-" if value is None else show(value)


COLUMNS = {
    "context": lambda r: r["context"] or "all",
    "method": lambda r: r["method"],
    "rows": lambda r: f"{r['fit_rows']:,}",
    "share %": lambda r: percent(r["share"]),
    "budget": lambda r: f"{number(r['budget'])} {r['unit']}",
    "expected cost [95 %]": lambda r: (
        expected_text(r) if r["context"] is None else _or_dash(r["expected_cost"], number)
    ),
    "expected accuracy %": lambda r: _or_dash(r["expected_accuracy"], percent),
    "policy": lambda r: r["policy"] if r["context"] is None else "",
}
