"""``policyopt fit``: one policy under a budget, written as an artifact."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.api import DEFAULT_METHOD, method_of
from policyopt.api import fit as fit_policy
from policyopt.cli.experts import SPARED, fit_by_context
from policyopt.cli.options import (
    CachePath,
    CostName,
    Seed,
    Settings,
    Style,
    make_tables,
    out_policy,
    read_cache,
    read_settings,
)
from policyopt.cli.output import (
    Format,
    expected_text,
    note,
    number,
    print_records,
    thresholds_text,
    writing,
)
from policyopt.cli.progress import foretell, progress
from policyopt.frontier.curve import threshold_fields
from policyopt.methods import Fitted
from policyopt.progress import progress_callback
from policyopt.runtime.errors import input_error


def fit(
    cache: CachePath,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Mean cost: 2.5 in the unit, or 40% of the full model."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="`policyopt methods` lists them. Default: auto, the best at this budget.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Policy file to write.")] = Path("policy.json"),
    settings: Settings = None,
    confidence: Annotated[
        str | None,
        typer.Option(
            "--confidence",
            help="Map to calibrated confidence: platt, beta, isotonic or histogram.",
        ),
    ] = None,
    experts: Annotated[
        bool,
        typer.Option(
            "--experts", help="One policy per context of the rows; they share the budget."
        ),
    ] = False,
    cost: CostName = None,
    seed: Seed = 0,
    style: Style = Format.table,
) -> None:
    """Fit a policy on split `fit` and write it."""
    held = out_policy(out)
    data = read_cache(cache)
    tables = make_tables(data, cost, ("fit",))
    # Built here, so that no setting is mistaken for an option of the fit.
    chosen = method_of(method, read_settings(settings))
    if experts:
        if confidence is not None:
            raise input_error("--confidence", "absent with --experts", confidence, "Leave one out.")
        with writing(out, held):
            fit_by_context(data, tables, budget, chosen, seed, out, style)
        return
    foretell([method or DEFAULT_METHOD], len(tables.get("fit")), 1)
    with progress("fitting") as step, progress_callback(step):
        fitted = fit_policy(data, budget, chosen, seed=seed, confidence=confidence, tables=tables)
    with writing(out, held):
        fitted.save(out)
    compared = fitted.policy.provenance.get("compared", [])
    if compared:
        behind = ", ".join(
            f"{r['method']} {100 * r['behind_best']:.2f} ± {100 * r['standard_error']:.2f}"
            for r in compared
        )
        note(f"cross-validated, points behind the best (± standard error): {behind}")
    if fitted.budget is not None and fitted.expected.cost < SPARED * fitted.budget:
        part = 100 * fitted.expected.cost / fitted.budget
        note(
            f"{fitted.method} spends {part:.0f} % of the budget: more bought nothing on these rows"
        )
    for remark in fitted.policy.provenance.get("notes", []):
        note(remark)
    if confidence is not None:
        note(f"decisions carry a confidence calibrated by {confidence}")
    print_records([describe(fitted, str(out))], style, COLUMNS)


def describe(fitted: Fitted, path: str | None) -> dict[str, Any]:
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
        "fit_accuracy": None if isnan(fitted.accuracy) else fitted.accuracy,
        "fit_rows": fitted.expected.rows,
        **threshold_fields(fitted.policy),
        "policy": path,
    }


COLUMNS = {
    "method": lambda r: r["method"] + (f": {r['chosen']}" if r["chosen"] else ""),
    "budget": lambda r: "-" if r["budget"] is None else f"{number(r['budget'])} {r['unit']}",
    "expected cost [95 %]": expected_text,
    "thresholds, exit 0 on": thresholds_text,
    "policy": lambda r: r["policy"] or "-",
}
