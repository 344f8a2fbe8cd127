"""``policyopt fit``: one policy under a budget, or one per context, written as an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

from policyopt._api import DEFAULT_METHOD, method_of
from policyopt._api import fit as fit_policy
from policyopt._cache.data import ExitData
from policyopt._cli import options, output
from policyopt._cli.options import option
from policyopt._cli.output import chosen_method, interval, number, percent, shown, thresholds_text
from policyopt._frontier import threshold_fields
from policyopt._methods.base import Method
from policyopt._methods.fitted import Fitted
from policyopt._methods.registry import ROWS
from policyopt._progress import progress_callback
from policyopt._table import Tables
from policyopt.runtime._errors import input_error

#: Of the budget: to spend less than that is worth a remark.
_SPARED = 0.95
#: Seconds from which on work is foretold.
_LONG = 20.0


def fit(
    cache: Path = options.CACHE,
    budget: str | None = option(None, "Mean cost: 2.5 in the unit, or 40% of the full model."),
    method: str | None = option(
        None, "See `policyopt methods`. Default: auto, the best at this budget."
    ),
    out: Path = option(Path("policy.json"), "Policy file to write."),
    settings: list[str] | None = options.SETTINGS,
    calibrator: str | None = option(
        None, "Map to calibrated confidence: platt, beta, isotonic, histogram."
    ),
    experts: bool = option(
        False, "One policy per context of the rows; they share the budget.", "--experts"
    ),
    cost: str | None = options.COST,
    seed: int = options.SEED,
    style: output.Format = options.STYLE,
) -> None:
    """Fit a policy on split `fit` and write it."""
    held = options.out_policy(out)
    data = options.read_cache(cache)
    tables = options.make_tables(data, cost, ("fit",))
    # Built here, so that no setting is mistaken for an option of the fit.
    chosen = method_of(method, options.read_settings(settings))
    if experts:
        if calibrator is not None:
            raise input_error("--calibrator", "absent with --experts", calibrator, "Leave one out.")
        with output.writing(out, held):
            records = _fit_experts(data, tables, budget, chosen, seed, out)
        output.print_records(records, style, _EXPERTS)
        return
    foretell([method or DEFAULT_METHOD], len(tables.get("fit")), 1)
    with output.progress("fitting") as step, progress_callback(step):
        fitted = fit_policy(data, budget, chosen, seed=seed, calibrator=calibrator, tables=tables)
    with output.writing(out, held):
        fitted.save(out)
    provenance = fitted.policy.provenance
    if compared := provenance.get("compared", []):
        behind = ", ".join(
            f"{r['method']} {percent(r['behind_best'])} ± {percent(r['standard_error'])}"
            for r in compared
        )
        output.note(f"cross-validated, points behind the best (± standard error): {behind}")
    if fitted.budget is not None:
        _note_spared(f"{fitted.method} spends", fitted.expected.cost, fitted.budget)
    for remark in provenance.get("notes", []):
        output.note(remark)
    if calibrator is not None:
        output.note(f"decisions carry a confidence calibrated by {calibrator}")
    output.print_records([describe(fitted, str(out))], style, COLUMNS)


def foretell(methods: Sequence[str], rows: int, budgets: int, seeds: int = 1) -> None:
    """Say on standard error about how long fits will take, before they begin, where it is long."""
    known = {spec: ROWS[name] for spec in methods if (name := spec.partition(":")[0]) in ROWS}
    each = {spec: seeds * row.expected_seconds(rows, budgets) for spec, row in known.items()}
    if (total := sum(each.values())) < _LONG:
        return
    slow = sorted(each, key=lambda spec: -each[spec])[:4]
    most = ", ".join(f"{spec} {each[spec]:.0f} s" for spec in slow)
    rest = f" and {len(each) - len(slow)} more" if len(each) > len(slow) else ""
    output.note(f"about {total:.0f} s of processor time: {most}{rest}")


def describe(fitted: Fitted, path: str) -> dict[str, Any]:
    """Return a fit as a record, with the interval that its artifact states."""
    low, high = fitted.expected.stated
    return {
        "method": fitted.method,
        "chosen": fitted.policy.provenance.get("chosen", {}).get("method"),
        "budget": fitted.budget,
        "unit": fitted.policy.unit,
        "expected_cost": fitted.expected.cost,
        "expected_cost_low": low,
        "expected_cost_high": high,
        "effective_rows": fitted.expected.mean.effective_rows,
        "fit_accuracy": _known(fitted.accuracy),
        "fit_rows": fitted.expected.rows,
        **threshold_fields(fitted.policy),
        "policy": path,
    }


def _fit_experts(
    data: ExitData, tables: Tables, budget: str | None, method: Method, seed: int, out: Path
) -> list[dict[str, Any]]:
    """Fit and write one policy per context; return a record of each, then one of all (context None)."""
    from policyopt._experts import fit_experts

    if budget is None:
        raise input_error("--budget", "given with --experts", "none", "E.g. --budget 40%.")
    with output.progress("fitting") as step, progress_callback(step):
        fitted = fit_experts(data, budget, method, seed=seed, tables=tables)
    fitted.save(out)
    for part in filter(lambda part: part.pooled, fitted.parts):
        output.note(f"context {part.context} has {part.rows} rows: it has the policy of all rows")
    _note_spared("the experts spend", fitted.expected.cost, fitted.budget)

    whole, accuracy = fitted.expected, fitted.accuracy
    found = [
        (p.context, p.share, p.fitted.budget, p.cost, (None, None), p.accuracy, p.rows, p.pooled)
        for p in fitted.parts
    ]
    total = (None, 1.0, fitted.budget, whole.cost, whole.interval(), accuracy, whole.rows, None)
    return [
        {
            "context": context,
            "method": fitted.method,
            "share": share,
            "budget": limit,
            "unit": fitted.policy.unit,
            "expected_cost": _known(cost),
            "expected_cost_low": low,
            "expected_cost_high": high,
            "expected_accuracy": _known(right),
            "fit_rows": rows,
            "pooled": pooled,
            "policy": str(out),
        }
        for context, share, limit, cost, (low, high), right, rows, pooled in [*found, total]
    ]


def _note_spared(who: str, cost: float, budget: float) -> None:
    if cost < _SPARED * budget:
        share = f"{100 * cost / budget:.0f} %"
        output.note(f"{who} {share} of the budget: more bought nothing on these rows")


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def _budget(record: dict[str, Any]) -> str:
    return "-" if record["budget"] is None else f"{number(record['budget'])} {record['unit']}"


COLUMNS: output.Columns = {
    "method": chosen_method,
    "budget": _budget,
    "expected cost [95 %]": interval("expected_cost"),
    "thresholds, exit 0 on": thresholds_text,
    "policy": "policy",
}
_EXPERTS: output.Columns = {
    "context": lambda r: r["context"] or "all",
    "method": "method",
    "rows": "fit_rows",
    "share %": shown("share", percent),
    "budget": _budget,
    "expected cost [95 %]": lambda r: (
        shown("expected_cost", number)(r) if r["context"] else interval("expected_cost")(r)
    ),
    "expected accuracy %": shown("expected_accuracy", percent),
    "policy": lambda r: r["policy"] if r["context"] is None else "",
}
