"""``policyopt fit``: one policy under a budget; ``curve``, ``compare``, ``demo``: methods over a range of budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

from policyopt._api import DEFAULT_METHOD, method_of
from policyopt._api import fit as fit_policy
from policyopt._cache.data import ExitData
from policyopt._cli import options, output
from policyopt._cli.options import option
from policyopt._cli.output import interval, number, percent, points, shown
from policyopt._costs import Budget, parse_budgets, per_thousand, positions
from policyopt._frontier import (
    Comparison,
    Frontier,
    exit_means,
    means_over,
    over_seeds,
    targets_in,
    threshold_fields,
)  # fmt: skip
from policyopt._frontier import compare as compare_methods
from policyopt._frontier import curve as make_curve
from policyopt._intervals import with_interval, worth_fields
from policyopt._limits import Limit
from policyopt._methods.base import Method
from policyopt._methods.fitted import Fitted
from policyopt._methods.levels import MOST_REPLAYED, SPARED
from policyopt._methods.registry import ROWS, apply_settings, at_most, method_list
from policyopt._methods.targets import Target
from policyopt._replay import trace
from policyopt._table import Table, Tables, known_rows, subsample
from policyopt._verdict import verdict
from policyopt.runtime._errors import input_error
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._thresholds import scale_text

#: What the provenance of a policy says that may decline.
_DECLINES = ("abstain", "expected_abstained", "expected_selective_quality")
#: Seconds from which on work is foretold.
_LONG = 20.0
#: Budgets, at even positions, that draw the frontiers of methods compared at fewer.
_LINE = 9
_DEMO = "max_prob,max_prob:thresholds=joint,margin,entropy,patience,optimal_stopping,auto"
_SHIPPED = Path("cache") / "fashion_mnist"


def fit(
    cache: Path = options.CACHE,
    budget: str | None = option(
        None, "Most mean cost: 2.5 in the unit, 40% of the full, '$3/1000'."
    ),
    accuracy: str | None = options.ACCURACY,
    quality: str | None = options.QUALITY,
    max_drop: str | None = options.MAX_DROP,
    saving: str | None = options.SAVING,
    limit: list[str] | None = options.LIMIT,
    risk: list[str] | None = option(None, "Certify it instead: see `policyopt certify`."),
    method: str | None = option(
        None, "See `policyopt methods`. Default: auto, the best at this budget."
    ),
    out: Path = option(Path("policy.json"), "Policy file to write."),
    settings: list[str] | None = options.SETTINGS,
    calibrator: str | None = option(
        None, "Map to calibrated confidence: platt, beta, isotonic, histogram."
    ),
    budgets: str | None = option(
        None,
        "A family, a level per budget: a count (30), or a list (20%,40%). In the place of --budget.",
    ),
    abstain: str | None = options.ABSTAIN,
    abstain_cost: float | None = options.ABSTAIN_COST,
    abstain_quality: float | None = options.ABSTAIN_QUALITY,
    abstain_score: str | None = options.ABSTAIN_SCORE,
    max_exits: int | None = options.MAX_EXITS,
    head_cost: list[str] | None = options.HEAD_COST,
    robust: str | None = option(None, "Fit for the mean or the worst of the parts in --over."),
    over: str | None = option(
        None, "streams, names of streams, context, label, group, or a file with a value per row."
    ),
    experts: bool = option(False, "One policy per context; they share the budget.", "--experts"),
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    seed: int = options.SEED,
    since: str | None = options.SINCE,
    last: str | None = options.LAST,
    jobs: int = options.jobs(1, "1"),
    scheduler: str | None = options.SCHEDULER,
    style: output.Format = options.STYLE,
) -> None:
    """Fit a policy on split `fit` and write it."""
    if risk:
        from policyopt._cli.certify import certify

        others = {
            "--accuracy": accuracy, "--quality": quality, "--max-drop": max_drop, "--saving": saving,
            "--limit": limit or None, "--calibrator": calibrator, "--abstain": abstain,
            "--abstain-cost": abstain_cost, "--abstain-quality": abstain_quality, "--abstain-score": abstain_score,
            "--experts": experts or None, "--max-exits": max_exits, "--head-cost": head_cost or None,
            "--robust": robust, "--over": over,
        }  # fmt: skip
        if given := [name for name, value in others.items() if value is not None]:
            raise input_error("--risk", f"given without {given[0]}", "both", "State it as a risk.")
        certify(
            cache, risk, confidence="95%", budget=budget, method=method, policy=None, budgets=budgets or "30",
            split="calibrate", procedure=None, testing="pareto", starts=1, covers="blind", cost_bound=None,
            settings=settings, out=out, family=False, report=None, utility=utility, cost=cost, seed=seed, jobs=jobs,
            scheduler=scheduler, style=style,
        )  # fmt: skip
        return
    held = options.out_policy(out)
    declines = {
        "abstain": abstain, "abstain_cost": abstain_cost, "abstain_quality": abstain_quality,
        "abstain_score": abstain_score,
    }  # fmt: skip
    data = options.read_cache(cache, since=since, last=last)
    tables = options.make_tables(data, cost, ("fit",), utility, head_cost)
    # Built here, so that no setting is mistaken for an option of the fit.
    chosen = at_most(method_of(method, options.read_settings(settings)), max_exits)
    others = [accuracy, quality, max_drop, saving, limit or None, robust, over]
    if (experts or budgets is not None) and any(one is not None for one in others):
        allowed = "absent with --experts and --budgets, which have budgets only"
        names = "--accuracy, --max-drop, --saving, --limit, --robust"
        raise input_error(names, allowed, "given", "Leave them out.")
    if experts:
        for name, value in {"calibrator": calibrator, **declines}.items():
            if value is not None:
                option_name = f"--{name.replace('_', '-')}"
                raise input_error(option_name, "absent with --experts", value, "Leave one out.")
        with output.writing(out, held):
            records = _fit_experts(data, tables, budget, chosen, seed, out)
        output.print_records(records, style, {**_EXPERTS, **_expected_column(records[-1])})
        return
    if budgets is not None:
        if budget is not None:
            raise input_error("--budgets", "given without --budget", budgets, "Leave one out.")
        with output.writing(out, held):
            records = _fit_family(data, tables, budgets, chosen, seed, calibrator, out, declines)
        output.print_records(records, style, {"level": "level", **columns_of(records[0])})
        return
    fits = 6 if robust == "worst" and not chosen.chooses else 1  # as many weightings of the parts
    foretell([method or DEFAULT_METHOD], len(tables.get("fit", censored=True)), 1, fits)
    with output.progress("fitting"):
        fitted = fit_policy(
            data, budget, chosen, quality=quality, accuracy=accuracy, max_drop=max_drop, saving=saving,
            limits=limit or (), seed=seed, calibrator=calibrator, tables=tables, robust=robust, over=over, **declines,
        )  # fmt: skip
    with output.writing(out, held):
        fitted.save(out)
    provenance = fitted.policy.provenance
    if compared := provenance.get("compared", []):
        behind = ", ".join(
            f"{r['method']} {percent(r['behind_best'])} ± {percent(r['standard_error'])}"
            for r in compared
        )
        output.note(f"cross-validated, points behind the best (± standard error): {behind}")
    for remark in provenance.get("notes", []):
        output.note(remark)
    if scale := scale_text(fitted.policy):
        output.note(scale)
    _tell_costs(fitted.policy, None if max_exits else tables)
    if (told := provenance.get("expected_abstained")) is not None:
        share = provenance["abstain"]["share"]
        most = "" if share is None else f", of {100 * share:g} % at most"
        output.note(
            f"declines {percent(told)} % of the rows{most}; accuracy and cost count their handing over"
        )
    if calibrator is not None:
        output.note(f"decisions carry a confidence calibrated by {calibrator}")
    record = describe(fitted, str(out), tables)
    parts = provenance["robust"]["parts"] if robust else []
    if output.print_data(style, [{**record, "parts": parts}] if parts else [record], [record]):
        return
    output.print_table([record], columns_of(record))
    if parts:
        least = min(part["quality"] for part in parts)
        records = [{**part, "worst": part["quality"] == least} for part in parts]
        output.print_table(records, {
            **output.PART, "weight %": shown("weight", percent),
            f"expected cost [{record['unit']}]": "cost", "expected quality %": shown("quality", percent),
        })  # fmt: skip


def _fit_family(
    data: ExitData, tables: Tables, budgets: str, method: Method, seed: int,
    calibrator: str | None, out: Path, declines: dict[str, Any],
) -> list[dict[str, Any]]:  # fmt: skip
    """Fit and write a family; return a record of each level."""
    from policyopt._family import fit_family

    table = tables.get("fit", censored=method.logs)
    foretell([method.name], len(table), len(parse_budgets(budgets, table.mean_costs, table.unit)))
    with output.progress("fitting"):
        more = {"seed": seed, "calibrator": calibrator, "tables": tables, **declines}
        fitted = fit_family(data, budgets, method, **more)
    fitted.save(out)
    for text in fitted.notes:
        output.note(text)
    notes = (n for one in fitted.parts for n in one.policy.provenance.get("notes", []))
    for text in dict.fromkeys(notes):
        output.note(text)
    if scale := scale_text(fitted.parts[0].policy):
        output.note(f"level 0: {scale}")
    _tell_costs(fitted.parts[0].policy)
    return [{"level": a, **describe(one, str(out), tables)} for a, one in enumerate(fitted.parts)]


def _tell_costs(policy: Any, tables: Tables | None = None) -> None:
    """Note arithmetic over 1 % of some exit's cost, and exits that run though hardly a row of the fit leaves there."""
    if isinstance(policy, RoutingPolicy):
        return
    if (policy.overhead > 0.01 * policy.costs).any():
        costs, own = (", ".join(map(number, a.tolist())) for a in (policy.costs, policy.overhead))
        told = f"{costs} {policy.unit}, of which {own}"
        output.note(f"costs include the policy's own arithmetic: {told}")
    if tables is None or len(policy.active_exits) < 3:
        return
    seen = trace(policy, subsample(tables.get("fit"), MOST_REPLAYED, 0))
    rare = [k for k in policy.active_exits if (seen.exit == k).mean() < 0.005]
    if rare:
        which = " and ".join(f"exit {tables.data.called(k)}" for k in rare)
        fewer = f"--max-exits {max(len(policy.active_exits) - len(rare), 1)}, or --method subset,"
        output.note(f"under 0.5 % of the fit rows leave at {which}: {fewer} does without")


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


def describe(fitted: Fitted, path: str, tables: Tables | None = None) -> dict[str, Any]:
    """Return a fit as a record, with the interval that its artifact states, beside the full model on these rows."""
    routes = isinstance(fitted.policy, RoutingPolicy)
    return {
        "method": fitted.method, "chosen": fitted.policy.provenance.get("chosen", {}).get("method"),
        "budget": fitted.budget, "unit": fitted.policy.unit,
        **with_interval("expected_cost", fitted.expected.cost, *fitted.expected.stated),
        "effective_rows": fitted.expected.mean.effective_rows,
        **_expected(fitted.quality, fitted.policy.provenance), "fit_rows": fitted.expected.rows,
        **(_beside(tables, fitted.expected.cost) if tables else {}),
        **({"asked_first": fitted.policy.asked_first} if routes else {}),
        **threshold_fields(fitted.policy), "active_exits": list(fitted.policy.active_exits), "policy": path,
        **{name: fitted.policy.provenance[name] for name in _DECLINES if name in fitted.policy.provenance},
    }  # fmt: skip


def _beside(tables: Tables, cost: float) -> dict[str, Any]:
    """Return what the full model, of a cascade the last by itself, costs and is worth on the rows of the fit."""
    table = tables.get("fit", censored=True)
    (*_, full), (*_, worth) = exit_means(known_rows(table))
    worth = None if table.log else worth  # a log knows it of the rows that came so far
    found = worth_fields(worth, table.graded, "full_")
    return {"full_cost": full, **found, "saving": 1.0 - cost / full}


def _fit_experts(
    data: ExitData, tables: Tables, budget: str | None, method: Method, seed: int, out: Path
) -> list[dict[str, Any]]:
    """Fit and write one policy per context; return a record of each, then one of all (context None)."""
    from policyopt._experts import fit_experts

    if budget is None:
        raise input_error("--budget", "given with --experts", "none", "E.g. --budget 40%.")
    with output.progress("fitting"):
        fitted = fit_experts(data, budget, method, seed=seed, tables=tables)
    fitted.save(out)
    for part in filter(lambda part: part.pooled, fitted.parts):
        output.note(f"context {part.context} has {part.rows} rows: it has the policy of all rows")
    if fitted.expected.cost < SPARED * fitted.budget:
        spent = f"{100 * fitted.expected.cost / fitted.budget:.0f} %"
        output.note(f"the experts spend {spent} of the budget: more bought nothing on these rows")
    whole, quality = fitted.expected, fitted.quality
    found = [
        (p.context, p.share, p.fitted.budget, p.cost, (None, None), p.quality, p.rows, p.pooled)
        for p in fitted.parts
    ]
    total = (None, 1.0, fitted.budget, whole.cost, whole.interval(), quality, whole.rows, None)
    records = [
        {
            "context": context, "method": fitted.method, "share": share, "budget": limit,
            "unit": fitted.policy.unit, **with_interval("expected_cost", _known(cost), *ends),
            **_expected(right, fitted.policy.provenance), "fit_rows": rows, "pooled": pooled, "policy": str(out),
        }
        for context, share, limit, cost, ends, right, rows, pooled in [*found, total]
    ]  # fmt: skip
    beside = _beside(tables, whole.cost)
    return [{**r, **(beside if r["context"] is None else dict.fromkeys(beside))} for r in records]


def _expected(quality: float, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the quality to expect."""
    graded = bool(provenance.get("graded"))
    found = worth_fields(_known(quality), graded, "expected_")
    ends = provenance.get("expected_quality_95") or (None, None)
    for end, value in zip(("low", "high"), ends, strict=True):
        fields = worth_fields(value, graded, "expected_")
        found |= {f"{name}_{end}": worth for name, worth in fields.items()}
    return found


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def _budget(record: dict[str, Any]) -> str:
    if record["budget"] is None:
        return "-"
    budget, unit = record["budget"], record["unit"]
    return f"{number(budget)} {unit}{per_thousand(budget, unit)}"


def columns_of(record: Mapping[str, Any]) -> output.Columns:
    """Return the columns of a fit."""
    return {
        "method": output.chosen_method, "budget": _budget,
        "expected cost [95 %]": lambda r: (
            interval("expected_cost")(r) + per_thousand(r["expected_cost"], r["unit"])
        ),
        **_expected_column(record), **output.rule_column(record), "policy": "policy",
    }  # fmt: skip


def _expected_column(record: Mapping[str, Any]) -> output.Columns:
    """Return the columns of the quality to expect, and of the full model beside it."""
    word = output.quality_word(record["expected_accuracy"] != record["expected_quality"])
    found = {f"expected {word} % [95 %]": interval("expected_quality", percent)}
    full: output.Columns = {
        "saving %": shown("saving", partial(percent, digits=1)),
        "full model costs": "full_cost", f"its {word} %": shown("full_quality", percent),
    }  # fmt: skip
    return {**found, **(full if "saving" in record else {})}


_EXPERTS: output.Columns = {
    "context": lambda r: r["context"] or "all",
    "method": "method",
    "rows": "fit_rows",
    "share %": shown("share", percent),
    "budget": _budget,
    "expected cost [95 %]": lambda r: (
        shown("expected_cost", number)(r) if r["context"] else interval("expected_cost")(r)
    ),
    "policy": lambda r: r["policy"] if r["context"] is None else "",
}


# --- over a range of budgets ----------------------------------------------------------------------


def curve(
    cache: Path = options.CACHE,
    methods: str = options.methods("max_prob,entropy,margin,patience"),
    budgets: str | None = option(None, f"{options.COUNTED} Default: 9.", "--budgets"),
    accuracy: str | None = option(None, "Floors in the place of budgets: 85%,90%.", "--accuracy"),
    quality: str | None = option(None, "The same of any quality: 0.7,0.8.", "--quality"),
    max_drop: str | None = option(None, "Floors below the full model: 0.5%,1%.", "--max-drop"),
    saving: str | None = option(None, "Savings in the place of budgets: 25%,50%.", "--saving"),
    limit: list[str] | None = options.LIMIT,
    seeds: int = options.SEEDS,
    out: Path | None = option(None, "Directory for curve.csv and curve.png."),
    report: Path | None = options.REPORT,
    settings: list[str] | None = options.SETTINGS,
    utility: str | None = options.UTILITY,
    metric: str | None = options.METRIC,
    cost: str | None = options.COST,
    test: str = options.TEST,
    max_exits: int | None = options.MAX_EXITS,
    head_cost: list[str] | None = options.HEAD_COST,
    abstain: str | None = options.ABSTAIN,
    abstain_cost: float | None = options.ABSTAIN_COST,
    abstain_quality: float | None = options.ABSTAIN_QUALITY,
    abstain_score: str | None = options.ABSTAIN_SCORE,
    bounds: bool = option(False, "Add the bound in hindsight (not deployable).", "--bounds"),
    keep: Path | None = option(None, "Folder of what is fitted: the same command goes on there."),
    jobs: int = options.jobs(1, "1"),
    scheduler: str | None = options.SCHEDULER,
    figure: Path | None = options.FIGURE,
    width: str | None = options.WIDTH,
    table: str | None = options.TABLE,
    since: str | None = options.SINCE,
    last: str | None = options.LAST,
    style: output.Format = options.STYLE,
) -> None:
    """Fit methods at several budgets; show accuracy at realised cost on the test rows."""
    options.out_folder(out, {"curve.csv": "method,budget,"})
    options.out_page(report)
    options.out_directory(keep, "--keep")
    declines = {
        "abstain": abstain, "abstain_cost": abstain_cost, "abstain_quality": abstain_quality,
        "abstain_score": abstain_score,
    }  # fmt: skip
    if bounds and (abstain is not None or abstain_cost is not None):
        got, step = "both", "Leave one out: the bound knows nobody to hand over to."
        raise input_error("--bounds", "given without --abstain and --abstain-cost", got, step)
    data = options.read_cache(cache, since=since, last=last)
    tables = options.make_tables(data, cost, ("fit", test), utility, head_cost)
    asked = _targets(tables, budgets, accuracy, quality, max_drop, saving, limit)
    try:
        frontier = _run(
            tables, methods, asked, seeds, settings, test, metric, max_exits=max_exits, keep=keep, **declines,
        )  # fmt: skip
    except KeyboardInterrupt:
        if keep is not None:
            output.note("what is fitted is kept: the same command goes on where it stopped")
        raise
    options.write_page(report, "curve", frontier, f"Curve on {options.title(cache)}")
    records = frontier.records + (frontier.bound if bounds else [])
    title = f"{options.title(cache)}, split {test}"
    _write(frontier, records, out, title, figure, options.inches(width))
    if table:
        output.say(*frontier.table(table).splitlines())
        return
    if output.print_data(style, records, records):
        return
    _print_curve(frontier, tables.data.names, metric)
    policies = (fitted.policy for fitted in frontier.fitted.values())
    output.tell_unspent(zip(frontier.records, policies, strict=True))
    _print_verdict(frontier)
    if bounds:
        columns = {
            "bound in hindsight (not deployable)": "method",
            f"budget [{frontier.unit}]": "budget",
            f"{output.quality_word(frontier.graded)} %": shown("quality", percent),
        }
        output.print_table(_mean_over_seeds(frontier.bound), columns)
    if out is not None:
        output.say(f"wrote {out / 'curve.csv'} and {out / 'curve.png'}")


def _targets(
    tables: Tables, budgets: str | None, accuracy: str | None, quality: str | None,
    max_drop: str | None, saving: str | None, limit: list[str] | None,
) -> str | list[Target]:  # fmt: skip
    """Return budgets as they are written, or the targets that lists of floors or savings make with one budget."""
    lists = {"accuracy": accuracy, "quality": quality, "max_drop": max_drop, "saving": saving}
    given = {name: text.split(",") for name, text in lists.items() if text is not None}
    if not given and not limit:
        return budgets or "9"
    if len(given) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise input_error(names, "one of them, a list", "several", "Leave all but one out.")
    limits, table = tuple(map(Limit.parse, limit or ())), tables.get("fit")
    if not given:
        return [Target(budget, limits=limits) for budget in _each(budgets or "9", table)]
    most = [None] if budgets is None else _each(budgets, table)
    if len(most) > 1:
        step = "E.g. --budgets 40% --accuracy 85%,90%."
        raise input_error("--budgets", "one beside a list of floors or savings", budgets, step)
    (name, values), *_ = given.items()
    return [Target(most[0], **{name: value.strip()}, limits=limits) for value in values]


def _each(budgets: str, table: Table) -> Sequence[Budget]:
    """Return several budgets, shares as they are written: each division of the rows has costs of its own."""
    texts = [text.strip() for text in budgets.split(",") if text.strip()]
    shares = all(text.endswith("%") for text in texts)
    found = parse_budgets(budgets, table.mean_costs, table.unit)  # refuses what is none
    return texts if shares else found


def compare(
    cache: Path = options.CACHE,
    methods: str = options.methods(...),
    reference: str | None = option(None, "Method to compare with (default: the first)."),
    budgets: str = options.BUDGETS,
    seeds: int = options.SEEDS,
    out: Path | None = option(
        None, "Directory for compare.csv, ranking.csv, pairs.csv and compare.png."
    ),
    settings: list[str] | None = options.SETTINGS,
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    test: str = options.TEST,
    jobs: int = options.jobs(1, "1"),
    scheduler: str | None = options.SCHEDULER,
    figure: Path | None = options.FIGURE,
    width: str | None = options.WIDTH,
    table: str | None = options.TABLE,
    style: output.Format = options.STYLE,
) -> None:
    """Compare and rank methods at equal realised cost: paired bootstrap, McNemar, area, Holm."""
    begins = {"compare.csv": "method,reference,", "ranking.csv": "budget,", "pairs.csv": "budget,"}
    options.out_folder(out, begins)
    tables = options.make_tables(options.read_cache(cache), cost, ("fit", test), utility)
    fit_rows = tables.get("fit")
    asked = _each(budgets, fit_rows)
    # Frontiers of a few points alone are coarse lines: what lies between is a coin, and no rival.
    line = [*map(Target, [*asked, *positions(fit_rows.mean_costs, _LINE).tolist()])]
    wanted = line if len(asked) < _LINE else budgets
    frontier = _run(tables, methods, wanted, seeds, settings, test)
    found = compare_methods(frontier, reference, len(asked))
    lists = (found.records, found.ranking, found.pairs)
    files: dict[str, Any] = {
        begin: output.to_csv(of) for begin, of in zip(begins, lists, strict=True)
    }
    if out is not None or figure is not None:
        from policyopt._report.figures import comparison_figure

        files["compare.png"] = comparison_figure(found, f"{options.title(cache)}, split {test}")
    output.write_results(out, files, figure, options.inches(width))
    if table:
        output.say(*found.table(table).splitlines())
    elif not output.print_data(style, found.records, found.records):
        _print_comparison(found.records, frontier, seeds)
        _print_ranking(found)


def demo(
    out: Path = option(Path("demo"), "Directory for what the demo makes."),
    cache: Path | None = option(None, "Another cache."),
    budget: str = option("40%", "Budget of the policy file."),
) -> None:
    """Compare policies on a real cache, fit one, and write it: table, curve.png, policy.json."""
    options.out_folder(out, {"curve.csv": "method,budget,"}, policy=True)
    path = cache or _shipped()
    data = options.read_cache(path)
    tables = options.make_tables(data, None)
    fitted = fit_policy(data, budget, tables=tables)  # a budget out of range ends it here
    rows = f"{path.name}, {len(tables.get('test')):,} test rows"
    output.say(f"1. Policies at nine budgets, on rows that chose nothing ({rows})")
    frontier = _run(tables, _DEMO, "9", 1, None)
    _print_curve(frontier, data.names)
    word = output.quality_word(frontier.graded)
    _write(frontier, frontier.records, out, f"{path.name}: {word} at realised cost")
    output.say(f"2. One policy for a budget of {budget}")
    with output.writing(out):
        fitted.save(out / "policy.json")
    record = describe(fitted, str(out / "policy.json"), tables)
    output.print_table([record], columns_of(record))
    then = "the same on your own outputs: policyopt import, info, fit, curve."
    output.say("3. Does leaving early pay?")
    _print_verdict(frontier)
    output.say(f"Look at {out / 'curve.png'}; {then}")


def _shipped() -> Path:
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (root / _SHIPPED / "manifest.json").is_file():
            return root / _SHIPPED
    allowed = f"{_SHIPPED} under this folder or the checkout"
    raise input_error("cache", allowed, "none", "Run it in a checkout, or give --cache.")


def _run(
    tables: Tables,
    methods: str,
    budgets: str | list[Target],
    seeds: int,
    settings: Any,
    test: str = "test",
    metric: str | None = None,
    **more: Any,
) -> Frontier:
    """Run `policyopt.curve` with command-line texts and a progress bar."""
    names, given = method_list(methods, "--methods"), options.read_settings(settings)
    everything, fit_rows = names == ["all"], tables.get("fit")
    if everything and given:
        raise input_error("--set", "used on methods by name", "--methods all", "Name the methods.")
    chosen: Any = names if everything else apply_settings(names, given)
    told = [n for n, row in ROWS.items() if not row.trains] if everything else names
    foretell(told, len(fit_rows), len(targets_in(budgets, fit_rows)), seeds)
    with output.progress("fitting"):
        frontier = make_curve(
            tables.data, chosen, budgets, seeds=seeds, test=test, tables=tables, metric=metric, **more,
        )  # fmt: skip
    for text in frontier.notes:
        output.note(text)
    return frontier


def _write(
    frontier: Frontier, records: Sequence[dict[str, Any]], out: Path | None, title: str,
    figure: Path | None = None, width: float | None = None,
) -> None:  # fmt: skip
    from policyopt._report.figures import frontier_figure

    if out is not None or figure is not None:
        files = {"curve.csv": output.to_csv(records), "curve.png": frontier_figure(frontier, title)}
        output.write_results(out, files, figure, width)


def _print_curve(frontier: Frontier, names: Sequence[str], metric: str | None = None) -> None:
    """Print one line per method and budget, means over seeds; which exits are kept, where some are not."""
    fewer = any(len(r["active_exits"]) < len(r["exit_share"]) for r in frontier.records)
    columns = {
        "method": output.chosen_method, **_asked_column(frontier), "realised": "realised_cost",
        "off %": output.off_budget, **output.quality_column(frontier.graded),
        **output.metric_column(metric), **({"exits kept": "kept"} if fewer else {}),
        **output.share_columns(names),
        **output.coverage_columns(frontier.records[0], frontier.graded),
    }  # fmt: skip
    output.print_table(_mean_over_seeds(frontier.records, names), columns)


def _print_verdict(frontier: Frontier) -> None:
    """Print the best method at each budget, as the rows of the fit say, and whether it pays, in words."""
    found = verdict(frontier)
    columns = {
        **_asked_column(frontier), "best by the fit": output.chosen_method,
        "saving %": shown("saving", partial(percent, digits=1)),
        "points to full [95 %]": interval("to_full", partial(points, digits=1)),
        "to single exits of equal cost": interval("to_singles", partial(points, digits=1)),
    }  # fmt: skip
    if budgets := found.record["budgets"]:
        output.print_table(budgets, columns)
    for text in found.notes:
        output.note(text)
    output.say(*str(found).splitlines(), "")


def _asked_column(frontier: Frontier) -> output.Columns:
    """Return the column of what was asked for: budgets, or targets as they read."""
    plain = all(record["target"] == f"budget {record['budget']}" for record in frontier.records)
    return {f"budget [{frontier.unit}]": "budget"} if plain else {"target": "target"}


def _mean_over_seeds(
    records: Sequence[dict[str, Any]], names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    found = []
    for group in over_seeds(records):
        sets = dict.fromkeys(tuple(r["active_exits"] or ()) for r in group)
        kept = [" ".join(names[k] if names else str(k) for k in one) for one in sets]
        found.append({**group[0], "kept": " or ".join(kept), **means_over(group)})
    return found


def _print_comparison(records: list[dict[str, Any]], frontier: Frontier, seeds: int) -> None:
    """Print the records over all seeds; p-values are each seed's."""
    unit, word = frontier.unit, output.quality_word(frontier.graded)
    groups = over_seeds([r for r in records if r["seed"] is not None and r["budget"] is not None])
    means = [record for record in records if seeds == 1 or record["seed"] is None]
    by_budget = [record for record in means if record["budget"] is not None]
    for record, group in zip(by_budget, groups, strict=True):
        if not frontier.graded:
            record["p"] = " ".join(f"{one['mcnemar_p']:.3f}" for one in group)
    over = f", mean of {seeds} seeds" if seeds > 1 else ""
    if frontier.graded:
        output.note(
            "graded quality: no McNemar p, which needs right or wrong; intervals are of the paired bootstrap"
        )
    facts = {"unit": unit, "word": word, "over": over, "reference": records[0]["reference"]}
    output.print_declared("comparison", by_budget, **facts)
    output.print_declared("areas", [record for record in means if record["budget"] is None])


def _print_ranking(found: Comparison) -> None:
    """Print methods by rank over all budgets; the groups at each budget are in ranking.csv."""
    tested = {"rows": "over rows", "refits": f"over rows and {found.seeds} refits"}
    told = tested.get(found.test, f"over {found.seeds} divisions of the rows, corrected")
    facts = {"word": output.quality_word(found.graded), "reference": found.reference, "told": told}
    output.print_declared("ranking", [r for r in found.ranking if r["budget"] is None], **facts)
    output.say(
        "methods that share a letter are not told apart; each may cost the budget here, and to need "
        "less earns nothing; above they cost the same"
    )
