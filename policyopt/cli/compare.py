"""``policyopt compare``: differences at equal realised cost, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.cli.curve import run_curve
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
)
from policyopt.cli.output import (
    Format,
    number,
    percent,
    print_csv,
    print_json,
    print_table,
    to_csv,
    writing,
)
from policyopt.frontier.compare import compare as compare_methods
from policyopt.frontier.curve import over_seeds
from policyopt.runtime.files import write_file


def compare(
    cache: CachePath,
    methods: Methods,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Method to compare with (default: the first).")
    ] = None,
    budgets: Budgets = "9",
    seeds: Seeds = 1,
    out: Annotated[Path | None, typer.Option("--out", help="Directory for compare.csv.")] = None,
    settings: Settings = None,
    cost: CostName = None,
    test: Annotated[str, typer.Option("--test", help="Split or stream to replay on.")] = "test",
    style: Style = Format.table,
) -> None:
    """Compare methods at equal realised cost: paired bootstrap, McNemar, area between curves."""
    out_folder(out, {"compare.csv": "method,reference,"})
    data = read_cache(cache)
    tables = make_tables(data, cost, ("fit", test))
    frontier, _ = run_curve(tables, methods, budgets, seeds, settings, test)
    records = compare_methods(frontier, reference)
    if out is not None:
        with writing(out):
            write_file(out / "compare.csv", to_csv(records))
    if style is Format.json:
        print_json(records)
    elif style is Format.csv:
        print_csv(records)
    else:
        _print(records, frontier.unit, seeds)


def _print(records: list[dict[str, Any]], unit: str, seeds: int) -> None:
    """Print the records over all seeds; p-values are each seed's."""
    single = [record for record in records if record["seed"] is not None]
    points = [group for group in over_seeds(single) if group[0]["budget"] is not None]
    shown = [record for record in records if seeds == 1 or record["seed"] is None]
    reference = records[0]["reference"]
    over = f", mean of {seeds} seeds" if seeds > 1 else ""
    print_table(
        list(zip((r for r in shown if r["budget"] is not None), points, strict=True)),
        {
            "method": lambda r: r[0]["method"],
            f"budget [{unit}]": lambda r: number(r[0]["budget"]),
            "at cost": lambda r: number(r[0]["realised_cost"]),
            "accuracy %": lambda r: percent(r[0]["accuracy"]),
            "reference %": lambda r: percent(r[0]["reference_accuracy"]),
            "difference [95 %]": lambda r: _interval(r[0], "difference", 2),
            "McNemar p": lambda r: " ".join(f"{one['mcnemar_p']:.3f}" for one in r[1]),
        },
        title=f"against {reference} at equal realised cost{over} (points of accuracy)",
    )
    print_table(
        [record for record in shown if record["budget"] is None],
        {
            "method": lambda r: r["method"],
            "area between curves [95 %]": lambda r: _interval(r, "area", 3),
            **({"sd over seeds": lambda r: percent(r["area_sd"], 3)} if seeds > 1 else {}),
        },
    )


def _interval(record: dict[str, Any], name: str, digits: int) -> str:
    middle, low, high = (100 * record[name + end] for end in ("", "_low", "_high"))
    return f"{middle:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
