"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.cache.data import ExitData
from policyopt.cli.output import Format
from policyopt.cli.progress import progress
from policyopt.runtime.errors import bad
from policyopt.table import Tables

CachePath = Annotated[Path, typer.Argument(metavar="CACHE", help="Directory of a cache.")]
PolicyPath = Annotated[Path, typer.Argument(metavar="POLICY", help="Policy file (JSON).")]
Style = Annotated[Format, typer.Option("--format", help="How to print.")]
CostName = Annotated[
    str | None, typer.Option("--cost", help="Name of the cost to use (default: the cache's first).")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Setting of the method; may be repeated."),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed.")]
Incomplete = Annotated[
    bool, typer.Option("--incomplete", help="Read a cache whose writing was cut off.")
]
Methods = Annotated[
    str,
    typer.Option(
        "--methods", help="Names, comma-separated, or all. E.g. max_prob,margin:thresholds=joint"
    ),
]
Budgets = Annotated[
    str,
    typer.Option(
        "--budgets",
        help="A count (9), or a list: 0.2,0.4 in the unit, or 20%,40% of the full model.",
    ),
]
Seeds = Annotated[
    int, typer.Option("--seeds", min=1, help="Random splits (of a pool) or refits (named splits).")
]


def read_cache(path: Path, incomplete: bool = False) -> ExitData:
    """Open a cache, with a progress bar while checksums are verified."""
    from policyopt.cache import open_cache

    with progress("checking the cache") as step:
        return open_cache(path, incomplete=incomplete, progress=step)


def make_tables(data: ExitData, cost: str | None) -> Tables:
    """Make tables whose passes show a progress bar."""

    def told(done: int, total: int) -> None:
        step(done, total)

    with progress("reading the outputs") as step:
        tables = Tables(data, cost, told)
        for split in ("fit", "test"):
            if split in data.split_names:
                tables.get(split)
    return tables


def read_settings(items: list[str] | None) -> dict[str, Any]:
    """Turn ``KEY=VALUE`` texts into a mapping."""
    settings = {}
    for item in items or []:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise bad("--set", "KEY=VALUE", item, "E.g. --set thresholds=joint.")
        settings[key.strip()] = value.strip()
    return settings


def method_list(text: str) -> list[str]:
    """Divide a list of methods at its commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
