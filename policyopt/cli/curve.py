"""``policyopt curve``: budget against accuracy for several methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from policyopt.budgets import parse_budgets
from policyopt.cli.options import (
    Budgets,
    CachePath,
    CostName,
    Methods,
    Seeds,
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
    print_csv,
    print_json,
    print_table,
    say,
    shares_text,
    to_csv,
    writing,
)
from policyopt.cli.progress import foretell, progress
from policyopt.frontier.curve import Frontier, over_seeds
from policyopt.frontier.curve import curve as make_curve
from policyopt.methods.registry import ROWS, apply_settings, method_list
from policyopt.report.figures import frontier_figure, save_figure
from policyopt.runtime.errors import input_error
from policyopt.runtime.files import write_file
from policyopt.table import Tables


def curve(
    cache: CachePath,
    methods: Methods = "max_prob,entropy,margin,patience",
    budgets: Budgets = "9",
    seeds: Seeds = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory for curve.csv and curve.png.")
    ] = None,
    settings: Settings = None,
    cost: CostName = None,
    test: Annotated[str, typer.Option("--test", help="Split or stream to replay on.")] = "test",
    bounds: Annotated[
        bool,
        typer.Option("--bounds", help="Add the hindsight bound (not deployable) to the output."),
    ] = False,
    style: Style = Format.table,
) -> None:
    """Fit methods at several budgets; show accuracy at realised cost on the test rows."""
    out_folder(out, {"curve.csv": "method,budget,"})
    data = read_cache(cache)
    frontier, _ = run_curve(
        make_tables(data, cost, ("fit", test)), methods, budgets, seeds, settings, test
    )
    records = frontier.records + (frontier.bound if bounds else [])
    if out is not None:
        with writing(out):
            write_curve(frontier, records, out, f"{cache.resolve().name}, split {test}")
    if style is Format.json:
        print_json(records)
    elif style is Format.csv:
        print_csv(records)
    else:
        print_curve(frontier, with_bound=bounds)
        if out is not None:
            say(f"wrote {out / 'curve.csv'} and {out / 'curve.png'}")


def run_curve(
    tables: Tables,
    methods: str,
    budgets: str,
    seeds: int,
    settings: list[str] | None,
    test: str = "test",
) -> tuple[Frontier, list[str]]:
    """Run `policyopt.curve` with command-line texts and a progress bar."""
    names, given = method_list(methods, "--methods"), read_settings(settings)
    if names == ["all"] and given:
        raise input_error(
            "--set", "used with methods by name", "--methods all", "Name the methods."
        )
    chosen: Any = names if names == ["all"] else apply_settings(names, given)
    told = [n for n, row in ROWS.items() if not row.trains] if names == ["all"] else names
    fit_rows = tables.get("fit")
    foretell(told, len(fit_rows), len(parse_budgets(budgets, fit_rows.mean_costs)), seeds)
    with progress("fitting") as step:
        frontier = make_curve(
            tables.data, chosen, budgets, seeds=seeds, test=test, tables=tables,
            progress=lambda what, done, total: step(done, total, what),
        )  # fmt: skip
    for text in frontier.notes:
        note(text)
    return frontier, list(dict.fromkeys(r["method"] for r in frontier.records))


def write_curve(
    frontier: Frontier, records: Sequence[dict[str, Any]], out: Path, title: str
) -> None:
    """Write curve.csv and curve.png into a directory."""
    write_file(out / "curve.csv", to_csv(records))
    save_figure(frontier_figure(frontier, title), out / "curve.png")


def print_curve(frontier: Frontier, with_bound: bool = False) -> None:
    """Print one line per method and budget, means over seeds."""
    print_table(
        mean_over_seeds(frontier.records),
        {
            "method": lambda r: r["method"],
            f"budget [{frontier.unit}]": lambda r: number(r["budget"]),
            "realised": lambda r: number(r["realised_cost"]),
            "off %": lambda r: (
                f"{100 * (r['realised_cost'] / r['budget'] - 1):+.1f}" if r["budget"] else "-"
            ),
            "accuracy % [95 %]": lambda r: (
                f"{percent(r['accuracy'])} [{percent(r['accuracy_low'])}, {percent(r['accuracy_high'])}]"
            ),
            "exit share %": lambda r: shares_text(r["exit_share"]),
        },
    )
    if with_bound:
        print_table(
            mean_over_seeds(frontier.bound),
            {
                "bound in hindsight (not deployable)": lambda r: r["method"],
                f"budget [{frontier.unit}]": lambda r: number(r["budget"]),
                "accuracy %": lambda r: percent(r["accuracy"]),
            },
        )


def mean_over_seeds(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records averaged over seeds; budgets that differ by seed are matched by position."""
    out = []
    for group in over_seeds(records):
        mean = dict(group[0])
        for name, value in group[0].items():
            if isinstance(value, float) or (name == "exit_share" and value is not None):
                mean[name] = np.mean([r[name] for r in group], axis=0).tolist()
        out.append(mean)
    return out
