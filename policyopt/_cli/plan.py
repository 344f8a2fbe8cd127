"""``policyopt plan``: where to cut a model between tiers, which exits to keep, at which thresholds."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from policyopt._api import method_of
from policyopt._bounds import delta_of, share_high
from policyopt._cli import options, output
from policyopt._cli.options import option
from policyopt._cli.output import interval, number, percent, shares
from policyopt._export.folder import new_folder
from policyopt._limits import Limit
from policyopt._methods.targets import read_share
from policyopt._tiers.choose import Planned, check_cost_bound
from policyopt._tiers.choose import plan as choose
from policyopt._tiers.description import OBJECTIVES, Tiers, load_tiers
from policyopt._tiers.plans import references, summary
from policyopt._tiers.search import Goal
from policyopt._tiers.tier_policy import check_plan, emit
from policyopt.runtime._errors import input_error


def plan(
    cache: Path = options.CACHE,
    tiers: Path = option(..., "Description of tiers and links, TOML or JSON."),
    budget: float | None = option(None, "Most mean cost: ms, mJ or money."),
    accuracy: str | None = option(None, "Or: the least accuracy, e.g. 91%."),
    objective: str = option("latency", "What costs: latency, energy or price."),
    limit: list[str] | None = options.LIMIT,
    confidence: str | None = option(
        None, "Chance to keep budget, accuracy, limits on new rows: 95%. Default: in the mean."
    ),
    cost_bound: float | None = option(
        None, "Costs per row: what no sample exceeds, in their unit; for --confidence of means."
    ),
    method: str | None = option(
        None, "Competes with the search's own thresholds. Default: auto; none: nothing does."
    ),
    settings: list[str] | None = options.SETTINGS,
    shortlist: int = option(3, "Plans compared on held-out folds.", min=1, max=50),
    test: str = options.TEST,
    out: Path | None = option(
        None, "Directory for plan.json, policy.json, one policy per tier, plan.png."
    ),
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    seed: int = options.SEED,
    figure: Path | None = options.FIGURE,
    width: str | None = options.WIDTH,
    style: output.Format = options.STYLE,
) -> None:
    """Choose cuts, kept exits and thresholds together: on split `fit`, reported on held-out rows."""
    options.out_folder(out, policy=True)
    if out is not None and out.is_dir():
        check_plan(out)
    limits = tuple(Limit.parse(text) for text in limit or [])
    floor = None if accuracy is None else read_share(accuracy, "accuracy")
    goal = Goal(objective, budget, floor, limits)
    sure = None if confidence is None else 1.0 - delta_of(confidence)
    if cost_bound is not None and sure is None:  # before the work
        raise input_error("--cost-bound", "given with --confidence", "alone", "Leave it out.")
    described = load_tiers(tiers)
    chosen = None if method == "none" else method_of(method, options.read_settings(settings))
    tables = options.make_tables(options.read_cache(cache), cost, ("fit", test), utility)
    fit, rows = tables.get("fit"), tables.get(test)
    if cost_bound is not None:
        check_cost_bound(described, rows, goal, cost_bound)
    if goal.accuracy is not None and sure is None:
        output.note(
            "the accuracy is kept in the mean: on new rows more than every second such plan falls a "
            "little short of it; --confidence 95% keeps it"
        )
    with output.progress("planning"):
        further: dict[str, Any] = {"shortlist": shortlist, "seed": seed}
        further |= {"confidence": sure, "cost_bound": cost_bound}
        planned = choose(described, fit, goal, chosen, **further)
    policy, found = planned.fitted.policy, planned.searched
    reached = summary(described, planned.plan, policy, rows, objective, seed)
    alone = references(described, fit, objective, seed)
    others = [summary(described, *one, rows, objective, seed) for one in alone]
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
    picture = dict[str, Any]()
    if out is not None or figure is not None:
        from policyopt._report.figures import plan_figure

        title = f"{options.title(cache)}: {found.plans} plans"
        picture = {"plan.png": plan_figure(described, goal, planned, reached, others, title)}
    if out is not None:
        with output.writing(out), new_folder(out, check_plan) as folder:
            output.write_results(folder, picture)
            emit(policy, planned.plan, [tier.name for tier in described.tiers], report, folder)
    output.write_results(None, picture, figure, options.inches(width))
    records = [{"": f"planned, {planned.fitted.method}", **reached}]
    records += [{"": "full model, one tier", **one} for one in others]
    if output.print_data(style, report, records):
        return
    output.print_table(records, _columns(described, objective, reached["accuracy"] is None))
    if out is not None:
        output.say(f"wrote plan.json, plan.png, policy.json and a policy per tier to {out}")


def _columns(tiers: Tiers, objective: str, graded: bool) -> dict[str, Any]:
    text = partial(number, digits=3)
    costs = {f"{name} [{tiers.unit_of(name)}]": interval(name, text) for name in OBJECTIVES}
    return {
        "": "", "stages": "plan", **output.quality_column(graded), **costs,
        f"p95, worst {objective}": lambda r: f"{text(r['p95'])}, {text(r['worst'])}",
        "leave per tier %": shares("tier_share"),
    }  # fmt: skip


def _held_out(planned: Planned) -> dict[str, float] | None:
    """Return what is known from rows of split `fit` that did not fit the policy."""
    if planned.certificate is not None:
        return asdict(planned.certificate)
    one = planned.held_out
    if one is None:
        return None
    # Of grades, too: none spread more than right and wrong with the same mean.
    right, rows = round(one.accuracy * one.effective), one.effective
    low, high = 1.0 - share_high(rows - right, rows, 0.025), share_high(right, rows, 0.025)
    found = {"rows": one.rows, "accuracy": one.accuracy, "cost": one.cost}
    return {**found, "accuracy_low": low, "accuracy_high": high}


def _remarks(tiers: Tiers, goal: Goal, planned: Planned, reached: dict[str, Any]) -> None:
    """Say what the fit rows promise, and where the goal was missed."""
    seen, sure, unit = _held_out(planned), planned.certificate, tiers.unit_of(goal.objective)
    word = output.quality_word(reached["accuracy"] is None)
    if sure is not None:
        kept = [f"{word} at least {percent(goal.accuracy)} %"] if goal.accuracy is not None else []
        if goal.budget is not None:
            kept.append(f"{goal.objective} at most {number(goal.budget)} {unit}")
        kept += [f"{one.cost} {one.statistic} at most {number(one.most)}" for one in goal.limits]
        if sure.cost_high is None:
            kept.append(f"of mean {goal.objective} no bound without --cost-bound")
        output.note(
            f"with {percent(sure.confidence)} % confidence: {', '.join(kept)} "
            f"({sure.rows:,} rows of split fit that chose nothing)"
        )
    elif seen is not None:
        output.note(
            f"on {seen['rows']:,} rows of split fit, left out of the fit in two folds: {word} "
            f"{interval('accuracy', percent)(seen)} %, {goal.objective} {number(seen['cost'])} {unit}"
        )
    if not planned.met:
        output.note("on rows that did not fit it no plan met the goal: the nearest is shown")
    if goal.accuracy is not None and reached["quality"] < goal.accuracy:
        asked = f"less than {percent(goal.accuracy)} %"
        output.note(f"{word} {percent(reached['quality'])} % on the held-out rows, {asked}")
    if goal.budget is not None and reached[f"{goal.objective}_low"] > goal.budget:
        step = "" if sure else "; --confidence 95% leaves room for that"
        output.note(
            f"the held-out rows cost more than {number(goal.budget)} {unit}, beyond their error{step}"
        )
