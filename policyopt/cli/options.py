"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.cache.data import ExitData
from policyopt.cli.output import Format
from policyopt.cli.progress import progress
from policyopt.runtime.checks import check_seed
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.experts_file import load_any
from policyopt.table import Tables

#: How names of results end.
_OURS = {".csv", ".json", ".png", ".db"}
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
Seed = Annotated[int, typer.Option("--seed", help="Seed.", callback=check_seed)]
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


def make_tables(
    data: ExitData, cost: str | None, splits: Sequence[str] = ("fit", "test")
) -> Tables:
    """Make tables whose passes show a progress bar; for commands that fit."""
    if data.exits < 2:
        why = "With one exit there is nothing to decide: import the outputs of all exits."
        raise input_error("cache", "with at least 2 exits", data.exits, why)

    def told(done: int, total: int) -> None:
        step(done, total)

    with progress("reading the outputs") as step:
        tables = Tables(data, cost, told)
        for split in splits:
            if split in data.split_names:
                tables.get(split)
    return tables


def read_settings(items: list[str] | None) -> dict[str, Any]:
    """Turn ``KEY=VALUE`` texts into a mapping."""
    settings = {}
    for item in items or []:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise input_error("--set", "KEY=VALUE", item, "E.g. --set thresholds=joint.")
        settings[key.strip()] = value.strip()
    return settings


def out_file(path: Path) -> None:
    """Refuse a file that cannot be written, before the work and not after it."""
    if path.is_dir():
        raise input_error(
            "--out", "a file", f"{path} (a directory)", f"E.g. --out {path / 'NAME'}."
        )
    if path.exists() and not path.is_file():
        raise input_error("--out", "a file", f"{path} (a pipe or device)", "Name a file to write.")
    out_directory(path.parent)


def out_policy(path: Path) -> str:
    """Refuse a place where no policy may be written; say which policy stands there, if one does."""
    out_file(path)
    if not path.exists() or not path.stat().st_size:
        return ""
    try:
        policy = load_any(path)
    except InputError as error:
        raise input_error(
            "--out", "a new file, or a policy to replace", f"{path}, which is none",
            "Choose another name, or remove the file.",
        ) from error  # fmt: skip
    told = policy.provenance  # it may hold anything
    method, budget = told.get("method"), told.get("budget")
    at = f" at {budget:.4g} {policy.unit}" if isinstance(budget, (int, float)) else ""
    return f"{method if isinstance(method, str) else 'a policy'}{at}"


def out_table(path: Path, header: str, whole: bool = True) -> None:
    """Refuse a place where no such table may be written; not `whole`: where none that begins so."""
    out_file(path)
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            line = file.readline(1000).strip()
            if line != header.encode() if whole else not line.startswith(header.encode()):
                raise input_error(
                    "--out", f"a new file, or a table with {header} to replace", f"{path}, which is none",
                    "Choose another name, or remove the file.",
                )  # fmt: skip


def out_folder(
    path: Path | None, tables: Mapping[str, str] | None = None, policy: bool = False
) -> None:
    """Refuse a directory where what is written would go through a link, or replace a user's own file.

    Parameters
    ----------
    path : Path, optional
    tables : mapping
        How the tables begin that are written there, by file name.
    policy : bool
        Whether a policy is.
    """
    out_directory(path)
    if path is None or not path.is_dir():
        return
    for entry in path.iterdir():
        ours = entry.suffix in _OURS or entry.name.startswith("study.db")
        if ours and (entry.is_symlink() or (".db" in entry.name and entry.stat().st_nlink > 1)):
            step = "Remove it, or choose another directory."
            raise input_error(
                "--out", "a directory without links where results go", f"{entry} (a link)", step
            )
    for name, begins in (tables or {}).items():
        out_table(path / name, begins, whole=False)
    if policy:
        out_policy(path / "policy.json")


def out_directory(path: Path | None) -> None:
    """Refuse a directory that cannot be made or written to, before the work and not after it."""
    if path is None:
        return
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise input_error("--out", "in a directory", f"{there} (a file)", "Choose another place.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise input_error(
            "--out", "in a directory that you may write to", str(there), "Choose another."
        )
