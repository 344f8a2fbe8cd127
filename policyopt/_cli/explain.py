"""``policyopt explain``, ``calibration``, ``risk-coverage``: what a policy does, how far to trust its confidence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._api import cost_for, utility_for
from policyopt._api import evaluate as evaluate_policy
from policyopt._api import fit as fit_policy
from policyopt._api import risk_coverage as curve_of_risk
from policyopt._cli import options, output
from policyopt._cli.options import option
from policyopt._cli.output import interval, percent, points, shown
from policyopt._page.panels import OWN, calibration_panels, explanation_panels, routes_panels
from policyopt._report.calibration import MAPS, Calibration
from policyopt._report.calibration import calibration as calibrate
from policyopt._report.explanation import REFERENCE
from policyopt._report.explanation import explain as explain_policy
from policyopt._report.figures import panel_figure
from policyopt._report.routes import Routes, routes_figure
from policyopt._utility import coarse_note
from policyopt.runtime._errors import input_error
from policyopt.runtime._experts import ExpertPolicy, load_any
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._routing import RoutingPolicy, no_thresholds
from policyopt.runtime._thresholds import scale_text

#: Classes and row numbers that the table names; files and JSON hold all.
_SOME = 10
#: Shares of the answers at which a risk-coverage curve is told.
_COVERAGES = (1.0, 0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_share = partial(percent, digits=1)


def explain(
    policy: Path = options.POLICY,
    cache: Path = options.CACHE,
    split: str = options.SPLIT,
    reference: Path | None = option(
        None, "Policy file to compare with; default: max_prob fitted at the same budget."
    ),
    out: Path | None = option(None, "Directory for explain.json, rows.csv, pictures."),
    report: Path | None = options.REPORT,
    utility: str | None = options.UTILITY,
    level: str | None = options.LEVEL,
    cost: str | None = options.COST,
    figure: Path | None = options.FIGURE,
    width: str | None = options.WIDTH,
    style: output.Format = options.STYLE,
) -> None:
    """Show what a policy does: at each exit, to each class, and beside a reference policy."""
    options.out_folder(out, {"rows.csv": "row,"})
    options.out_page(report)
    loaded = _single("POLICY", policy, level, routes=True)
    routing = isinstance(loaded, RoutingPolicy)
    if routing and reference is not None:
        step = "Leave it out; `policyopt compare` holds methods against each other."
        raise input_error("--reference", "absent with routing", str(reference), step)
    against = REFERENCE if reference is None else _single("--reference", reference, level)
    data = options.read_cache(cache)
    data.rows(split)  # raises where there is no such split, before the work
    needed = (split,) if reference is not None or routing else ("fit", split)
    worth, _ = utility_for(loaded, data, utility)
    tables = options.make_tables(data, cost_for(loaded, data, cost), needed, worth)
    given = {"reference": against, "utility": utility, "tables": tables}
    explanation = explain_policy(loaded, data, split, **given)
    record = explanation.record
    for remark in filter(None, [*record["notes"], scale_text(loaded)]):
        output.note(remark)
    title = f"{record['policy']['method'] or policy.name} on {options.title(cache)}, {split}"
    options.write_page(report, "explanation", explanation, title, tables.get(split))
    if isinstance(explanation, Routes):
        panels = routes_panels(explanation)
    else:
        panels = explanation_panels(explanation, tables.get(split).class_names)
    if out is not None or figure is not None:
        if coarse := coarse_note(loaded.provenance):
            output.note(coarse)
        files = {"explain.json": output.to_json(record)}
        files |= {"rows.csv": output.to_csv(explanation.rows())}
        if routing:  # matplotlib has no flows
            files["routes.png"] = routes_figure(record, title)
        for panel in () if routing else panels:
            files[f"{panel['id']}.png"] = panel_figure(panel, title=f"{title}: {panel['title']}")
        output.write_results(out, files, figure, options.inches(width))
    if output.print_data(style, record, record["ways" if routing else "exits"]):
        return
    output.say(panels[0]["words"].partition(". ")[0])
    if routing:
        output.print_declared("models", record["models"], unit=record["unit"])
        if record["rare"] >= 0.0005:  # it shows
            rare = f"{_share(record['rare'])} % go ways that under 1 % go each"
            output.say(f"{rare}, which are left out")
    for panel in panels:
        if panel["table"]:
            output.print_panel(panel, None if routing else _SOME)
    if not routing and record["changes"]:
        output.say(panels[-1]["words"])
        if record["changes"]["quality"] is not None:
            _tell_changes(record["changes"])
    if out is not None:
        output.say(f"wrote explain.json, rows.csv and pictures to {out}")


def _single(name: str, path: Path, level: str | None, routes: bool = False) -> Any:
    """Return the policy of a file that holds one, or of a family's level; not one per context."""
    found = load_any(path)
    if isinstance(found, (PolicyFamily, RoutingPolicy)):
        found = options.at_level(found, level)
    if isinstance(found, RoutingPolicy) and not routes:
        raise no_thresholds(name)
    if isinstance(found, ExpertPolicy):
        got = f"{path.name}, with one each for {', '.join(found.contexts)}"
        step = "`policyopt evaluate` replays it whole; fit without --experts for one policy."
        raise input_error(name, "a file of a single policy", got, step)
    return found


def _tell_changes(changes: dict[str, Any]) -> None:
    """Say what became of the answers, how sure that is, and of which rows."""
    graded, p = changes["accuracy"] is None, changes["mcnemar_p"]
    change = f"{percent(changes['reference_quality'])} -> {percent(changes['quality'])} %"
    apart = interval("difference", points)(changes)
    sure = f"{apart} points" if p is None else f"McNemar p = {p:.2g}"
    up, down = ("better", "worse") if graded else ("right", "wrong")
    output.say(
        f"{output.quality_word(graded)} {change} ({sure})",
        f"became {up}: {changes['better']:,} rows{_some(changes['rows_better'])}",
        f"became {down}: {changes['worse']:,} rows{_some(changes['rows_worse'])}",
    )


def _some(rows: Sequence[int]) -> str:
    """Return ": 3 17 20 ..." or nothing."""
    text = " ".join(str(row) for row in rows[:_SOME])
    return f": {text}{' ...' if len(rows) > _SOME else ''}" if rows else ""


def calibration(
    cache: Path = options.CACHE,
    policy: Path | None = option(None, "Policy file whose leavers are looked at."),
    budget: str | None = option(None, "Without --policy: its budget. Default: 40%, or more."),
    method: str | None = option(None, "Without --policy: its method."),
    maps: str | None = option(None, f"Of {','.join(MAPS)}. Default: all that can be."),
    split: str = options.SPLIT,
    out: Path | None = option(None, "Directory for calibration.json and a diagram per map."),
    level: str | None = options.LEVEL,
    cost: str | None = options.COST,
    figure: Path | None = options.FIGURE,
    width: str | None = options.WIDTH,
    style: output.Format = options.STYLE,
) -> None:
    """Show how far confidence can be trusted: calibration errors overall and on leavers.

    Every map to calibrated confidence is fitted on split `fit`.
    """
    options.out_folder(out)
    if policy is not None and (budget is not None or method is not None):
        raise input_error("--policy", "given alone", "--budget or --method besides", "Drop one.")
    loaded = None if policy is None else _single("--policy", policy, level)
    data = options.read_cache(cache)
    name = cost if loaded is None else cost_for(loaded, data, cost)
    tables = options.make_tables(data, name, ("fit", split))
    if loaded is None:
        budget = budget or options.usual_budget(tables.get("fit").mean_costs)
        loaded = fit_policy(data, budget, method, tables=tables).policy
    with output.progress("calibrating"):
        found = calibrate(loaded, data, split, maps, tables=tables)
    for note in found.notes:
        output.note(note)
    told = {name: getattr(found, name) for name in ("split", "method", "budget", "unit", "records")}
    content = {"rows": len(found.exits), **told}
    names = {n: f"reliability{f'_{n}' if i else ''}.png" for i, n in enumerate(found.seen)}
    drawn = out is not None or figure is not None
    diagrams = {
        file: panel_figure(_panel(found, name), title=f"Calibration: {OWN.get(name, name)}, split {split}")
        for name, file in names.items() if drawn
    }  # fmt: skip
    files = {"calibration.json": output.to_json(content), **diagrams}
    output.write_results(out, files, figure, options.inches(width))
    if out is not None:
        written = f"wrote {out / 'calibration.json'} and {len(diagrams)} diagrams"
        output.note(f"{written}, reliability.png first")
    if not output.print_data(style, content, found.records):
        output.print_panel(_panel(found))


def _panel(found: Calibration, name: str | None = None) -> dict[str, Any]:
    """Return the page's panel of one map, or of all."""
    seen = {n: one for n, one in found.seen.items() if name in (None, n)}
    columns = {n: (one.confidence, one.correct, found.exits) for n, one in seen.items()}
    records = [one for one in found.records if one["calibration"] in seen]
    return calibration_panels(records, columns, found.group)[0]


def risk_coverage(
    policy: Path = options.POLICY,
    cache: Path = options.CACHE,
    split: str = options.SPLIT,
    out: Path | None = option(None, "Directory for risk_coverage.csv and risk_coverage.png."),
    level: str | None = options.LEVEL,
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    figure: Path | None = options.FIGURE,
    width: str | None = options.WIDTH,
    style: output.Format = options.STYLE,
) -> None:
    """Show what answers are worth if only the surest are given: risk at every coverage, and the area (AURC).

    Sure is what the policy's own abstaining looks at, else its confidence (calibrated where it has a map).
    """
    options.out_folder(out, {"risk_coverage.csv": "coverage,"})
    loaded, data = _single("POLICY", policy, level), options.read_cache(cache)
    given = {"cost": cost, "utility": utility}
    found = curve_of_risk(loaded, data, split, **given)
    replayed = evaluate_policy(loaded, data, split, **given)
    word, kept = output.quality_word(replayed.graded), ~replayed.abstained
    own, known, n = None, ~np.isnan(replayed.quality), len(found.coverage)
    if left := len(known) - n:
        output.note(f"{left} of the {len(known)} rows of split {split} have no label: left out")
    if loaded.abstention is not None:
        answered = replayed.quality[kept & known]
        risk = 1.0 - float(answered.mean()) if len(answered) else None
        own = {"coverage": float(kept.mean()), "risk": risk}
    records = [
        {"coverage": share, "answers": max(int(share * n + 1e-9), 1), "risk": 1 - found.quality_at(share),
         "selective_quality": found.quality_at(share)}
        for share in _COVERAGES
    ]  # fmt: skip
    if out is not None or figure is not None:
        from policyopt._report.figures import risk_coverage_figure

        title = f"{policy.name} on {options.title(cache)}, split {split}"
        picture = risk_coverage_figure(found, word, own, title)
        files = {"risk_coverage.csv": output.to_csv(records), "risk_coverage.png": picture}
        output.write_results(out, files, figure, options.inches(width))
    content = {
        "split": split, "rows": n, "area": found.area, "policy": own, "records": records,
    }  # fmt: skip
    if output.print_data(style, content, records):
        return
    columns = {
        "coverage %": shown("coverage", _share), "answers": "answers",
        f"{word} of answers %": shown("selective_quality", percent), "risk %": shown("risk", percent),
    }  # fmt: skip
    output.print_table(records, columns, title=f"split {split}, {n:,} rows, surest first")
    output.say(f"area (AURC, the mean risk over all coverages; 0 is best): {percent(found.area)} %")
    if own is not None:
        risk = "none" if own["risk"] is None else f"{percent(own['risk'])} %"
        output.say(f"the policy itself: coverage {percent(own['coverage'])} %, risk {risk}")
    if out is not None:
        output.say(f"wrote risk_coverage.csv and risk_coverage.png to {out}")
