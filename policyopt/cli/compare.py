"""``policyopt compare``: differences at equal realised cost, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
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
    out_directory,
    read_cache,
)
from policyopt.cli.output import Format, number, print_csv, print_json, print_table, to_csv
from policyopt.frontier.compare import compare as compare_methods
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
    out_directory(out)
    data = read_cache(cache)
    tables = make_tables(data, cost, ("fit", test))
    frontier, _ = run_curve(tables, methods, budgets, seeds, settings, test)
    records = compare_methods(frontier, reference)
    if out is not None:
        write_file(out / "compare.csv", to_csv(records))
    if style is Format.json:
        print_json(records)
    elif style is Format.csv:
        print_csv(records)
    else:
        _print(records, frontier.unit, seeds)


def _print(records: list[dict[str, Any]], unit: str, seeds: int) -> None:
    points: dict[tuple[str, int], list[dict[str, Any]]] = {}
    areas: dict[str, list[dict[str, Any]]] = {}
    position: dict[tuple[str, int], int] = {}
    for record in records:
        if record["budget"] is None:
            areas.setdefault(record["method"], []).append(record)
            continue
        at = position[record["method"], record["seed"]] = (
            position.get((record["method"], record["seed"]), -1) + 1
        )
        points.setdefault((record["method"], at), []).append(record)
    reference = records[0]["reference"]
    over = f", mean of {seeds} seeds" if seeds > 1 else ""
    print_table(
        list(points.values()),
        {
            "method": lambda g: g[0]["method"],
            f"budget [{unit}]": lambda g: number(g[0]["budget"]),
            "at cost": lambda g: number(_mean(g, "realised_cost")),
            "accuracy %": lambda g: f"{100 * _mean(g, 'accuracy'):.2f}",
            "reference %": lambda g: f"{100 * _mean(g, 'reference_accuracy'):.2f}",
            "difference [95 %]": lambda g: (
                f"{100 * _mean(g, 'difference'):+.2f} "
                f"[{100 * _mean(g, 'difference_low'):+.2f}, {100 * _mean(g, 'difference_high'):+.2f}]"
            ),
            "McNemar p": lambda g: " ".join(f"{r['mcnemar_p']:.3f}" for r in g),
        },
        title=f"against {reference} at equal realised cost{over} (points of accuracy)",
    )
    print_table(
        list(areas.values()),
        {
            "method": lambda g: g[0]["method"],
            "area between curves [95 %]": lambda g: (
                f"{100 * _mean(g, 'area'):+.3f} [{100 * _mean(g, 'area_low'):+.3f}, {100 * _mean(g, 'area_high'):+.3f}]"
            ),
            **(
                {"sd over seeds": lambda g: f"{100 * np.std([r['area'] for r in g], ddof=1):.3f}"}
                if seeds > 1
                else {}
            ),
        },
    )


def _mean(group: list[dict[str, Any]], name: str) -> float:
    # Splits of one pool overlap: intervals are averaged over seeds, never narrowed by their number.
    return float(np.mean([record[name] for record in group]))
