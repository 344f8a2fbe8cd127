"""``policyopt plan``: where to cut a model between tiers, which exits to keep, at which thresholds."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.api import method_of
from policyopt.cli.options import (
    CachePath,
    CostName,
    Seed,
    Settings,
    Style,
    make_tables,
    out_folder,
    read_cache,
    read_settings,
)
from policyopt.cli.output import (
    Format,
    note,
    number,
    percent,
    print_json,
    print_records,
    say,
    shares_text,
    writing,
)
from policyopt.cli.progress import progress
from policyopt.progress import progress_callback
from policyopt.report.figures import save_figure
from policyopt.report.plans import plan_figure
from policyopt.runtime.errors import input_error
from policyopt.tiers.bounds import share_high, share_low
from policyopt.tiers.certify import certified_plan, check_cost_bound
from policyopt.tiers.choose import Planned, make_plan
from policyopt.tiers.describe import Tiers
from policyopt.tiers.emit import emit
from policyopt.tiers.goal import Goal, Limit
from policyopt.tiers.read import load_tiers
from policyopt.tiers.summary import references, summary


def plan(
    cache: CachePath,
    tiers: Annotated[
        Path, typer.Option("--tiers", help="Description of tiers and links, TOML or JSON.")
    ],
    budget: Annotated[
        float | None, typer.Option("--budget", help="Most mean cost: ms, mJ or money.")
    ] = None,
    accuracy: Annotated[
        str | None, typer.Option("--accuracy", help="Or: the least accuracy, e.g. 91%.")
    ] = None,
    objective: Annotated[
        str, typer.Option("--objective", help="What costs: latency, energy or price.")
    ] = "latency",
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            help="A further limit, e.g. latency:p95=20, energy=5, latency:worst=40; may be repeated.",
        ),
    ] = None,
    confidence: Annotated[
        str | None,
        typer.Option(
            "--confidence",
            help="Keep budget, accuracy and limits on new rows with this chance, e.g. 95%. Default: in the mean.",
        ),
    ] = None,
    cost_bound: Annotated[
        float | None,
        typer.Option(
            "--cost-bound",
            help="Costs per row: what no sample can cost, in the cache's unit; --confidence needs it for means.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="Competes with the search's own thresholds on the best plan. Default: auto; none: nothing does.",
        ),
    ] = None,
    settings: Settings = None,
    shortlist: Annotated[
        int, typer.Option("--shortlist", min=1, max=50, help="Plans compared on held-out folds.")
    ] = 3,
    test: Annotated[str, typer.Option("--test", help="Split or stream to report on.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Directory for plan.json, policy.json, one policy per tier, plan.png."
        ),
    ] = None,
    cost: CostName = None,
    seed: Seed = 0,
    style: Style = Format.table,
) -> None:
    """Choose cuts, kept exits and thresholds together on split `fit`; report on held-out rows."""
    out_folder(out, policy=True)
    goal = Goal(
        objective, budget, _share(accuracy), tuple(Limit.parse(text) for text in limit or [])
    )
    sure = _share(confidence, "--confidence")
    if cost_bound is not None and sure is None:
        raise input_error("--cost-bound", "given with --confidence", "alone", "Leave it out.")
    described = load_tiers(tiers)
    chosen = None if method == "none" else method_of(method, read_settings(settings))
    tables = make_tables(read_cache(cache), cost, ("fit", test))
    if cost_bound is not None:
        check_cost_bound(described, tables.get(test), goal, cost_bound)
    if goal.accuracy is not None and sure is None:
        note(
            "the accuracy is kept in the mean: on new rows more than every second such plan falls a "
            "little short of it; --confidence 95% keeps it"
        )
    with progress("planning") as step, progress_callback(step):
        fit, further = tables.get("fit"), {"shortlist": shortlist, "seed": seed}
        if sure is None:
            planned = make_plan(described, fit, goal, chosen, **further)
        else:
            planned = certified_plan(
                described, fit, goal, sure, chosen, cost_bound=cost_bound, **further
            )
    rows, policy = tables.get(test), planned.fitted.policy
    reached = summary(described, planned.plan, policy, rows, objective, seed)
    others = [
        summary(described, one, alone, rows, objective, seed)
        for one, alone in references(described, tables.get("fit"), objective, seed)
    ]
    found = planned.searched
    report: dict[str, Any] = {
        "objective": objective, "budget": budget, "accuracy_asked": goal.accuracy,
        "confidence": sure, "cost_bound": cost_bound,
        "limits": limit or [], "split": test, "method": planned.fitted.method,
        "met_on_held_out_fit_rows": planned.met, "on_held_out_fit_rows": _held_out(planned),
        "chosen": reached, "without_a_plan": others,
        "compared": planned.compared,
        "search": {"sets_of_exits": found.sets, "plans": found.plans, "dominated": found.dominated},
        "cache": tables.data.fingerprint,
    }  # fmt: skip
    _remarks(described, goal, planned, reached)
    if out is not None:
        names = [tier.name for tier in described.tiers]
        title = f"{cache.resolve().name}: {found.plans} plans"
        figure = plan_figure(described, goal, planned, reached, others, title)
        with writing(out):
            emit(policy, planned.plan, names, report, out)
            save_figure(figure, out / "plan.png")
    if style is Format.json:
        print_json(report)
    else:
        records = [{"": f"planned, {planned.fitted.method}", **reached}]
        records += [{"": "full model, one tier", **one} for one in others]
        print_records(records, style, _columns(described, objective))
    if out is not None and style is Format.table:
        say(f"wrote plan.json, plan.png, policy.json and a policy per tier to {out}")


def _columns(tiers: Tiers, objective: str) -> dict[str, Any]:
    def spread(name: str, text: Any) -> Any:
        return lambda r: f"{text(r[name])} [{text(r[f'{name}_low'])}, {text(r[f'{name}_high'])}]"

    return {
        "": lambda r: r[""],
        "stages": lambda r: r["plan"],
        "accuracy % [95 %]": spread("accuracy", percent),
        **{
            f"{name} [{tiers.unit_of(name)}]": spread(name, lambda v: number(v, 3))
            for name in ("latency", "energy", "price")
        },
        f"p95, worst {objective}": lambda r: f"{number(r['p95'], 3)}, {number(r['worst'], 3)}",
        "leave per tier %": lambda r: shares_text(r["tier_share"]),
    }


def _held_out(planned: Planned) -> dict[str, float] | None:
    """Return what is known from rows of split `fit` that did not fit the policy."""
    if planned.certificate is not None:
        return asdict(planned.certificate)
    one = planned.held_out
    if one is None:
        return None
    right = round(one.accuracy * one.rows)
    return {
        "rows": one.rows, "accuracy": one.accuracy, "cost": one.cost,
        "accuracy_low": share_low(right, one.rows, 0.975),
        "accuracy_high": share_high(right, one.rows, 0.975),
    }  # fmt: skip


def _remarks(tiers: Tiers, goal: Goal, planned: Planned, reached: dict[str, Any]) -> None:
    """Say what the fit rows promise, and where the goal was missed."""
    seen, sure, unit = _held_out(planned), planned.certificate, tiers.unit_of(goal.objective)
    if sure is not None:
        bound = f"of {goal.objective} no bound without --cost-bound"
        if sure.cost_high is not None:
            bound = f"{goal.objective} at most {number(sure.cost_high)} {unit}"
        note(
            f"with {percent(sure.confidence)} % confidence: accuracy at least "
            f"{percent(sure.accuracy_low)} %, {bound} ({sure.rows:,} rows of split fit that chose nothing)"
        )
    elif seen is not None:
        note(
            f"on {seen['rows']:,} rows of split fit, left out of the fit in two folds: accuracy "
            f"{percent(seen['accuracy'])} [{percent(seen['accuracy_low'])}, "
            f"{percent(seen['accuracy_high'])}] %, {goal.objective} {number(seen['cost'])} {unit}"
        )
    if not planned.met:
        note("on rows that did not fit it no plan met the goal: the nearest is shown")
    if goal.accuracy is not None and reached["accuracy"] < goal.accuracy:
        note(
            f"accuracy {percent(reached['accuracy'])} % on the held-out rows, less than "
            f"{percent(goal.accuracy)} %"
        )
    if goal.budget is not None and reached[f"{goal.objective}_low"] > goal.budget:
        note(
            f"the held-out rows cost more than {number(goal.budget)} {unit}, beyond their error"
            + ("" if sure else "; --confidence 95% leaves room for that")
        )


def _share(text: str | None, option: str = "--accuracy") -> float | None:
    """Read a share: 91% or 0.91."""
    if text is None:
        return None
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = float("nan")
    value = value / 100 if text.strip().endswith("%") else value
    if not isfinite(value) or not 0 <= value <= 1:
        raise input_error(option, "a share such as 91% or 0.91", text, f"E.g. {option} 91%.")
    return value
