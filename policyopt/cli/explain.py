"""``policyopt explain``: what a policy does, exit by exit, class by class, row by row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.api import cost_for
from policyopt.cli.options import (
    CachePath,
    CostName,
    PolicyPath,
    Style,
    make_tables,
    out_folder,
    read_cache,
)
from policyopt.cli.output import (
    Format,
    note,
    number,
    percent,
    print_csv,
    print_json,
    print_table,
    say,
    threshold_text,
    writing,
)
from policyopt.report.explain import explain as explain_policy
from policyopt.report.explain.explanation import default_reference
from policyopt.report.explain.pictures import write_figures
from policyopt.runtime.errors import input_error
from policyopt.runtime.experts import ExpertPolicy
from policyopt.runtime.experts_file import load_any
from policyopt.runtime.files import write_file
from policyopt.runtime.policy import Policy

#: Classes and row numbers that the table names; files and JSON hold all.
_SOME = 10


def explain(
    policy: PolicyPath,
    cache: CachePath,
    split: Annotated[str, typer.Option("--split", help="Split or stream to explain.")] = "test",
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Policy file to compare with; default: max_prob fitted at the same budget.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory for explain.json, rows.csv, pictures.")
    ] = None,
    cost: CostName = None,
    style: Style = Format.table,
) -> None:
    """Show what a policy does at each exit, to each class, and beside a reference policy."""
    out_folder(out, {"rows.csv": "row,"})
    loaded = _single("POLICY", policy)
    against = None if reference is None else _single("--reference", reference)
    data = read_cache(cache)
    data.rows(split)  # raises where there is no such split, before the work
    needed = (split,) if reference is not None else ("fit", split)
    tables = make_tables(data, cost_for(loaded, data, cost), needed)
    remarks = []
    if against is None:
        against, remark = default_reference(loaded, tables)
        remarks.append(remark)
    explanation = explain_policy(loaded, tables.get(split), against)
    record = explanation.record
    if record["changes"] and record["changes"]["same_exit"] == record["rows"]:
        remarks.append("every row leaves where the reference lets it: --reference FILE for another")
    for remark in [*record["notes"], *remarks]:
        note(remark)
    if out is not None:
        title = f"{record['policy']['method'] or policy.name} on {cache.resolve().name}, {split}"
        with writing(out):
            write_file(out / "explain.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
            write_file(out / "rows.csv", explanation.rows_csv())
            write_figures(explanation, loaded, out, title)
    if style is Format.json:
        print_json(record)
    elif style is Format.csv:
        print_csv(record["exits"])
    else:
        _print(record)
        if out is not None:
            say(f"wrote explain.json, rows.csv and pictures to {out}")


def _single(name: str, path: Path) -> Policy:
    """Return the policy of a file that holds one, and not one per context."""
    found = load_any(path)
    if isinstance(found, ExpertPolicy):
        got = f"{path.name}, with one each for {', '.join(found.contexts)}"
        step = "`policyopt evaluate` replays it whole; fit without --experts for one policy."
        raise input_error(name, "a file of a single policy", got, step)
    return found


def _print(record: dict[str, Any]) -> None:
    unit, labelled = record["unit"], record["accuracy"] is not None
    told = f"{record['rows']:,} rows of {record['split']}: mean cost {number(record['realised_cost'])} {unit}"
    say(told + (f", accuracy {percent(record['accuracy'])} %" if labelled else ""))
    columns: dict[str, Any] = {
        "exit": lambda r: r["exit"],
        f"cost [{unit}]": lambda r: r["cost"],
        "threshold": lambda r: " or ".join(map(threshold_text, r["thresholds"])) or "-",
        "leave %": lambda r: percent(r["share_left"], 1),
        "of cost %": lambda r: _share(r["cost_share"]),
    }
    if labelled:
        columns |= {
            "right % of leavers": lambda r: _share(r["accuracy_left"]),
            "of stayers": lambda r: _share(r["accuracy_stayed"]),
            "of all": lambda r: _share(r["accuracy"]),
            "rescued": lambda r: f"{r['rescued']:,}",
            "overthought": lambda r: f"{r['overthought']:,}",
            "AUROC": lambda r: "-" if r["auroc"] is None else f"{r['auroc']:.3f}",
        }
    print_table(record["exits"], columns)
    if record["classes"]:
        _print_classes(record["classes"], unit)
    if record["changes"]:
        _print_changes(record["changes"], record["reference"]["method"], unit)


def _print_classes(classes: list[dict[str, Any]], unit: str) -> None:
    order = sorted(classes, key=lambda c: -c["cost"])
    shown = f", the {_SOME} dearest of {len(order)}" if len(order) > _SOME else ", dearest first"
    print_table(
        order[:_SOME],
        {
            "class": lambda r: r["class"],
            "rows": lambda r: f"{r['rows']:,}",
            f"cost [{unit}]": lambda r: r["cost"],
            "accuracy %": lambda r: percent(r["accuracy"], 1),
            "last exit %": lambda r: percent(r["accuracy_exits"][-1], 1),
            "leave at each exit %": lambda r: " ".join(f"{100 * s:.0f}" for s in r["exit_share"]),
        },
        title=f"classes{shown}",
    )


def _print_changes(changes: dict[str, Any], name: str | None, unit: str) -> None:
    exits = range(len(changes["transitions"]))
    print_table(
        [{"from": i, "to": row} for i, row in enumerate(changes["transitions"])],
        {
            "exit of the reference": lambda r: r["from"],
            **{
                f"now {j}": (lambda r, j=j: f"{r['to'][j]:,}" if r["to"][j] else "-") for j in exits
            },
        },
        title=f"rows by exit, against {name or 'the reference'}",
    )
    costs = f"mean cost {number(changes['reference_cost'])} -> {number(changes['cost'])} {unit}"
    say(
        f"{costs}; {changes['earlier']:,} rows leave earlier, {changes['later']:,} later, "
        f"{changes['same_exit']:,} as before"
    )
    if changes["accuracy"] is None:
        return
    accuracies = f"{percent(changes['reference_accuracy'])} -> {percent(changes['accuracy'])} %"
    say(f"accuracy {accuracies} (McNemar p = {changes['mcnemar_p']:.2g})")
    say(f"became right: {changes['better']:,} rows{_some(changes['rows_better'])}")
    say(f"became wrong: {changes['worse']:,} rows{_some(changes['rows_worse'])}")


def _some(rows: Sequence[int]) -> str:
    """Return ": 3 17 20 ..." or nothing."""
    text = " ".join(str(row) for row in rows[:_SOME])
    return f": {text}{' ...' if len(rows) > _SOME else ''}" if rows else ""


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value, 1)
