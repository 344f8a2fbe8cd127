"""``policyopt calibration``: how far confidence can be trusted, before and after calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.api import evaluate
from policyopt.api import fit as fit_policy
from policyopt.cache.data import ExitData
from policyopt.cli.options import CachePath, CostName, Style, make_tables, out_folder, read_cache
from policyopt.cli.output import (
    Format,
    note,
    percent,
    print_csv,
    print_json,
    print_table,
    writing,
)
from policyopt.cli.progress import progress
from policyopt.report.calibrated import ANSWER_MAPS, MAPS, Observed, apply_map, fit_map, observe
from policyopt.report.calibration import calibration_records
from policyopt.report.figures import save_figure
from policyopt.report.reliability import reliability_figure
from policyopt.runtime.answers import Plain
from policyopt.runtime.artifact import load_policy
from policyopt.runtime.errors import input_error
from policyopt.runtime.files import write_file
from policyopt.runtime.policy import Policy
from policyopt.table import Tables


def calibration(
    cache: CachePath,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Policy file whose leavers are looked at.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Without --policy: budget of the policy. Default: 40%."),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Without --policy: its method.")
    ] = None,
    maps: Annotated[
        str | None, typer.Option("--maps", help=f"Of {','.join(MAPS)}. Default: all that can be.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split or stream to report on.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Directory for calibration.json and a diagram per map."),
    ] = None,
    cost: CostName = None,
    style: Style = Format.table,
) -> None:
    """Fit calibrations on split `fit`; show calibration errors overall and on leavers."""
    out_folder(out)
    if policy is not None and (budget is not None or method is not None):
        raise input_error(
            "--policy", "given alone", "--budget or --method besides", "Drop one of the two."
        )
    wanted = None if maps is None else _names(maps)
    loaded = None if policy is None else load_policy(policy)
    data = read_cache(cache)
    if split == "fit":
        note("calibrations are fitted on these very rows: they look better than they are")
    tables = make_tables(data, cost, ("fit", split))
    if loaded is None:
        loaded = fit_policy(data, budget or "40%", method, tables=tables).policy
    exits = evaluate(loaded, data, split, cost=cost).exit
    names = _possible(wanted, data, loaded)
    found = _calibrate(tables, names, split, loaded)
    records, figures = [], {}
    with progress("measuring") as step:
        for i, (name, seen) in enumerate(found.items()):
            columns = (seen.confidence, seen.correct, exits)
            records += calibration_records(name, *columns, seen.losses, loaded.path)
            if out is not None:
                title = f"{name if name != 'none' else 'no calibration'}, split {split}"
                figures[name] = reliability_figure(*columns, title, loaded.path)
            step(i + 1, len(found), name)
    content = {
        "split": split,
        "rows": len(exits),
        "method": loaded.provenance.get("method"),
        "budget": loaded.provenance.get("budget"),
        "unit": loaded.unit,
        "records": records,
    }
    if out is not None:
        with writing(out):
            _write(out, content, figures)
    if style is Format.json:
        print_json(content)
    elif style is Format.csv:
        print_csv(records)
    else:
        _print(records, split)


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in MAPS]
    if unknown or not names:
        raise input_error(
            "--maps", f"some of {','.join(MAPS)}", unknown or "none", "E.g. --maps none,platt."
        )
    return names


def _possible(wanted: list[str] | None, data: ExitData, policy: Policy) -> list[str]:
    """Leave out the maps of class probabilities where there are none, or others are combined."""
    why = ""
    if data.kind == "record":
        why = "records hold no class probabilities"
    elif not isinstance(policy.answer, Plain):
        why = f"the policy's answers are {policy.answer.name} ones (--method max_prob has the exits' own)"
    names = wanted or list(MAPS)
    left = [name for name in names if not (why and name in ANSWER_MAPS)]
    if not left:
        raise input_error(
            "--maps", f"some of {','.join(m for m in MAPS if m not in ANSWER_MAPS)}", names, why
        )
    if len(left) < len(names):
        note(f"without {' and '.join(n for n in names if n not in left)}: {why}")
    return left


def _calibrate(tables: Tables, names: list[str], split: str, policy: Policy) -> dict[str, Observed]:
    """Fit every map on split `fit` and apply it to `split`."""
    fit, test = (tables.get(name).keep_exits(policy.path) for name in ("fit", split))
    found = {}
    with progress("calibrating") as step:
        step(0, len(names) + 1, "reading the outputs")
        before, after = observe(fit, policy.answer), observe(test, policy.answer)
        for i, name in enumerate(names):
            step(i + 1, len(names) + 1, name)
            found[name] = apply_map(fit_map(name, fit, before), test, after)
    return found


def _write(out: Path, content: dict[str, Any], figures: dict[str, Any]) -> None:
    from json import dumps

    write_file(out / "calibration.json", dumps(content, indent=1, allow_nan=False) + "\n")
    for i, (name, figure) in enumerate(figures.items()):
        save_figure(figure, out / ("reliability.png" if i == 0 else f"reliability_{name}.png"))
    note(f"wrote {out / 'calibration.json'} and {len(figures)} diagrams, reliability.png first")


def _print(records: list[dict[str, Any]], split: str) -> None:
    pairs = list(zip(records[::2], records[1::2], strict=True))  # all rows, leavers
    with_nll = any(a["nll"] is not None for a, _ in pairs)
    nll = {"nll": lambda p: "-" if p[0]["nll"] is None else f"{p[0]['nll']:.4f}"}
    print_table(
        pairs,
        {
            "calibration": lambda p: p[0]["calibration"],
            "exit": lambda p: p[0]["exit"],
            "ECE % [95 %]": lambda p: _error(p[0]),
            "gap": lambda p: _gap(p[0]),
            "accuracy %": lambda p: percent(p[0]["accuracy"]),
            **(nll if with_nll else {}),
            "leavers": lambda p: f"{p[1]['rows']:,}",
            "their ECE % [95 %]": lambda p: _error(p[1]),
            "their gap": lambda p: _gap(p[1]),
        },
        title=f"split {split}; gap = mean confidence less accuracy, in points: over 0 is overconfident",
    )


def _error(record: dict[str, Any]) -> str:
    if record["ece"] is None:
        return "-"
    low, high = percent(record["ece_low"]), percent(record["ece_high"])
    return f"{percent(record['ece'])} [{low}, {high}]"


def _gap(record: dict[str, Any]) -> str:
    return "-" if record["gap"] is None else f"{100 * record['gap']:+.2f}"
