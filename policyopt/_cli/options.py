"""Options that several commands share, how their text is read, and where results may be written."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer

from policyopt._cache.data import ExitData
from policyopt._cache.places import address_of, shown
from policyopt._cli.output import Format, note, progress, writing
from policyopt._costs import money, parse_budget
from policyopt._engine import parallel
from policyopt._metrics import METRICS
from policyopt._optional import need
from policyopt._table import Tables
from policyopt._tables import STYLES
from policyopt.runtime._checks import check_one_of, check_seed
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._experts import load_any
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._family import at_level as level_of
from policyopt.runtime._files import write_file
from policyopt.runtime._text import printable


def option(default: Any, help: str, *names: str, **more: Any) -> Any:
    """Return an option, `...` for one that must be given; named as its parameter unless told."""
    return typer.Option(default, *names, help=help, **more)


def argument(help: str, metavar: str, default: Any = ...) -> Any:
    """Return what stands without an option's name."""
    return typer.Argument(default, help=help, metavar=metavar)


CACHE = argument("Directory of a cache.", "CACHE")
POLICY = argument("Policy file (JSON).", "POLICY")
STYLE = option(Format.table, "How to print.", "--format")
KEY = option(
    None, "What a key of the file is, e.g. labels=gt; several, one per exit: logits=A,B.", "--key",
    metavar="ROLE=KEY[,KEY]",
)  # fmt: skip
COST = option(None, "Name of the cost to use (default: the cache's first).", "--cost")
SETTINGS = option(None, "Setting of the method; may be repeated.", "--set", metavar="KEY=VALUE")
REPORT = option(None, "Page to write, one file to look at: report.html.", "--report")
SEED = option(0, "Seed.", "--seed", callback=check_seed)
SPLIT = option("test", "Split or stream to look at.", "--split")
TEST = option("test", "Split or stream to replay on.", "--test")
COUNTED = "A count (9), or a list: 0.2,0.4 in the unit, 20%,40% of the full model, '$3/1000'."
BUDGETS = option("9", COUNTED, "--budgets")
LEVEL = option(
    None, "Of a family: a number from 0 (the cheapest), a budget (35%, 2.5, '$3/1000'), or a name.",
    "--level",
)  # fmt: skip
#: Sizes in print, in inches: a column and a page of most journals.
PRINT_WIDTHS = {"column": 3.4, "page": 7.0}
#: What is asked for besides a budget, or in its place.
ACCURACY = option(None, "Least mean accuracy on unseen rows: 90%.", "--accuracy")
QUALITY = option(None, "Least mean quality on unseen rows, graded or not: 0.8.", "--quality")
MAX_DROP = option(None, "Most that the full model is better by, in points: 1%.", "--max-drop")
SAVING = option(None, "Least share of the full model's cost that is saved: 50%.", "--saving")
LIMIT = option(
    None, "Further limit, e.g. 'latency:p95<=20', 'mean<=5', 'worst<=40'; may be repeated.",
    "--limit", metavar="[COST:]mean|pNN|worst<=X",
)  # fmt: skip
ABSTAIN = option(None, "Share that may be declined and handed over, e.g. 5%.", "--abstain")
ABSTAIN_COST = option(None, "Cost of handing a sample over, in the unit.", "--abstain-cost")
ABSTAIN_QUALITY = option(
    None, "Quality of the answer that comes then (default: 1).", "--abstain-quality"
)
ABSTAIN_SCORE = option(
    None, "Whose low scores are declined: energy, max_logit, e2cm, ... (default: confidence).",
    "--abstain-score",
)  # fmt: skip
SEEDS = option(1, "Random splits (of a pool) or refits (named splits).", "--seeds", min=1)
HEAD_COST = option(
    None, "What exits' heads cost, saved where one is not kept: 0.1,0.1,0.2,0 in the unit, or 10% of each exit's own "
    "stage. NAME=... of another cost.",
    "--head-cost", metavar="[COST=]VALUES",
)  # fmt: skip
MAX_EXITS = option(
    None, "Keep at most so many exits: the best set of them at each budget.", "--max-exits", min=1
)


def _picture(path: Path | None) -> Path | None:
    """Refuse a picture of another kind, or where it cannot be written."""
    if path is not None:
        if path.suffix.lower() not in (".pdf", ".svg", ".png"):
            step = "E.g. --figure curve.pdf."
            raise input_error("--figure", "a name that ends in .pdf, .svg or .png", path.name, step)
        out_file(path, "--figure")
    return path


def inches(width: str | None) -> float | None:
    """Return the width of a picture: column, page, 8.5cm or 3.4in."""
    if width is None:
        return None
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?) ?(cm|in|)", width.strip())
    told = PRINT_WIDTHS.get(width) or (
        found and float(found[1]) / (1.0 if found[2] == "in" else 2.54)
    )
    if not told or not 1.0 <= told <= 40.0:
        allowed = "column, page, or a number from 1 to 40 inches: 8.5cm, 3.4in"
        raise input_error("--width", allowed, width, "E.g. --width column.")
    return told


def _checked(width: str | None) -> str | None:
    inches(width)
    return width


FIGURE = option(None, "Picture to write, by its ending .pdf, .svg or .png.", callback=_picture)
WIDTH = option(None, "Of --figure: column, page, 8.5cm, 3.4in.", callback=_checked)
TABLE = option(
    None, "Print a table for a paper instead: latex, markdown, csv.",
    callback=lambda style: (style and check_one_of("--table", style, STYLES, "E.g. latex.")) or style,
)  # fmt: skip


def _in_processes(context: typer.Context, jobs: int) -> int:
    """Do the command's work in processes; a scheduler, which comes after it, takes their place."""
    context.with_resource(parallel(jobs))
    return jobs


def _by_scheduler(context: typer.Context, address: str | None) -> str | None:
    if address is not None:
        if getattr(context.get_parameter_source("jobs"), "name", "") == "COMMANDLINE":
            raise input_error("--scheduler", "left out with --jobs", address, "Choose one of them.")
        context.with_resource(parallel(scheduler=address))
    return address


def jobs(default: int, told: str) -> Any:
    """Return the option that says in how many processes the parts of the work are done."""
    help = f"Processes (default: {told}); results are the same."
    how: dict[str, Any] = {"min": 1, "show_default": False, "is_eager": True}
    return option(default, help, "--jobs", callback=_in_processes, **how)


SCHEDULER = option(
    None, "Address of a Dask scheduler, whose workers do it: tcp://host:8786.", "--scheduler",
    callback=_by_scheduler,
)  # fmt: skip


def at_level(policy: Any, level: str | None) -> Any:
    """Return the policy of a level of a family, said as budgets are, too; of anything else, itself."""
    if isinstance(policy, PolicyFamily) and level is not None and level not in policy.names:
        united = re.match(r"[\d.]", level) and level.strip().endswith(policy.unit)
        if united or money(level, ""):
            return policy.at(parse_budget(level, np.array([policy.full]), policy.unit))
    return level_of(policy, level)


def methods(default: Any) -> Any:
    """Return the option that names methods."""
    help = "Names, comma-separated, or all. E.g. max_prob,margin:thresholds=joint"
    return option(default, help, "--methods")


def usual_budget(costs: Any) -> str:
    """Return a budget to begin with: 40 % of the full model, or half of the way where the cheapest exit costs more."""
    least = float(costs.min() / costs[-1])
    return "40%" if least < 0.4 else f"{50 * (1 + least):.3g}%"


def roles(items: list[str] | None) -> dict[str, list[str]]:
    """Read ROLE=KEY pairs."""
    found: dict[str, list[str]] = {}
    for item in items or ():
        role, mark, keys = item.partition("=")
        if not mark or not role or not all(keys.split(",")):
            raise input_error("--key", "ROLE=KEY", item, "E.g. --key labels=gt.")
        found.setdefault(role.strip(), []).extend(keys.split(","))
    return found


def title(cache: Path) -> str:
    """Return what a cache is called: the last part of its path, or of its address."""
    return Path(shown(address_of(cache)) or cache).resolve().name


SINCE = option(None, "Only rows appended since then: 2026-11-30, or with T06:00; UTC.", "--since")
LAST = option(None, "Only the last rows appended: 7d, 12h, or a number of each split.", "--last")


def read_cache(
    path: Path, incomplete: bool = False, since: str | None = None, last: str | None = None
) -> ExitData:
    """Open a cache, or a window of one that grows, with a progress bar while checksums are verified."""
    from policyopt._cache.reader import open_cache

    with progress("checking the cache"):
        data = open_cache(path, incomplete=incomplete, since=since, last=last)
    if (since or last) and not any(shard.time for shard in data.kept.shards):
        note("no row of this cache was appended: --since and --last leave all of them")
    return data


METRIC = option(None, f"What is told besides, of {', '.join(METRICS)}; needs labels.", "--metric")
UTILITY = option(
    None,
    "What answers are worth: weights per class (1,1,5), or a file (.npy, .csv, .json) with weights, a matrix by label "
    "and prediction, one per exit, or label maps.",
    "--utility",
)


def make_tables(
    data: ExitData,
    cost: str | None,
    splits: Sequence[str] = ("fit", "test"),
    utility: Any = None,
    head_cost: Any = None,
) -> Tables:
    """Make tables whose passes show a progress bar; for commands that fit."""
    if data.exits < 2:
        why = "With one exit there is nothing to decide: import the outputs of all exits."
        raise input_error("cache", "with at least 2 exits", data.exits, why)
    with progress("reading the outputs"):
        tables = Tables(data, cost, utility, head_cost)
        for split in splits:
            if split in data.split_names:
                tables.get(split, censored=True)  # passed over; who may have it says so later
    if tables.utility is not None and tables.utility.note:
        note(tables.utility.note)
    return tables


def read_settings(items: list[str] | None) -> dict[str, Any]:
    """Turn ``KEY=VALUE`` texts into a mapping."""
    from policyopt._methods.settings import key_values

    return {**key_values(items or (), "--set")}


# --- refused before the work, and not after it -----------------------------------------------


def out_file(path: Path, name: str = "--out") -> bool:
    """Refuse a file that cannot be written; return whether nothing stands there."""
    if path.is_dir():
        step = f"E.g. {name} {path / 'NAME'}."
        raise input_error(name, "a file", f"{path} (a directory)", step)
    if path.exists() and not path.is_file():
        raise input_error(name, "a file", f"{path} (a pipe or device)", "Name a file to write.")
    out_directory(path.parent, name)
    return not path.exists() or not path.stat().st_size


def out_policy(path: Path) -> str:
    """Refuse a place where no policy may be written; say which policy stands there, if one does."""
    if out_file(path):
        return ""
    try:
        policy = load_any(path)
    except InputError as error:
        raise _not_ours("a policy", path) from error
    told = policy.provenance  # it may hold anything
    if isinstance(policy, PolicyFamily):
        return f"a family of {policy.levels} levels"
    method, budget = told.get("method"), told.get("budget")
    at = f" at {budget:.4g} {policy.unit}" if isinstance(budget, (int, float)) else ""
    return f"{method if isinstance(method, str) else 'a policy'}{at}"


def out_page(path: Path | None, name: str = "--report") -> None:
    """Refuse a place where no page may be written, and to write one without the packages that it takes."""
    for package in ("jinja2", "plotly") if path is not None else ():
        need(package, "report", "to write a page")
    if path is None or out_file(path, name):
        return
    with path.open("rb") as file:
        if b'<meta name="generator" content="policyopt' not in file.read(4000):
            raise _not_ours("a page of policyopt's", path, name)


def out_table(path: Path, header: str, whole: bool = True) -> None:
    """Refuse a place where no such table may be written; not `whole`: where none that begins so."""
    if out_file(path):
        return
    with path.open("rb") as file:
        line = file.readline(1000).strip()
    if line != header.encode() if whole else not (line + b",").startswith(header.encode()):
        raise _not_ours(f"a table with {header}", path)


def _not_ours(what: str, path: Path, name: str = "--out") -> InputError:
    step = "Choose another name, or remove the file."
    return input_error(name, f"a new file, or {what} to replace", f"{path}, which is none", step)


def out_folder(
    path: Path | None, tables: Mapping[str, str] | None = None, policy: bool = False
) -> None:
    """Refuse a directory where a link or a user's file stands in the way; `tables`: their first words, by file."""
    out_directory(path)
    if path is None or not path.is_dir():
        return
    for entry in path.iterdir():
        ours = entry.suffix in (".csv", ".json", ".png", ".db") or entry.name.startswith("study.db")
        if ours and (entry.is_symlink() or (".db" in entry.name and entry.stat().st_nlink > 1)):
            allowed = "a directory without links where results go"
            step = "Remove it, or choose another directory."
            raise input_error("--out", allowed, f"{entry} (a link)", step)
    for name, begins in (tables or {}).items():
        out_table(path / name, begins, whole=False)
    if policy:
        out_policy(path / "policy.json")


def out_directory(path: Path | None, name: str = "--out", store: bool = False) -> None:
    """Refuse a directory that cannot be made or written to; one in a `store` says so itself."""
    if path is None or (store and address_of(path)):
        return
    if address := address_of(path):
        step = "Write it here and copy it; only caches are written to stores."
        raise input_error(name, "on this machine", shown(address), step)
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise input_error(name, "in a directory", f"{there} (a file)", "Choose another place.")
    if not os.access(there, os.W_OK | os.X_OK):
        allowed = "in a directory that you may write to"
        raise input_error(name, allowed, str(there), "Choose another.")


def write_page(path: Path | None, kind: str, *given: Any) -> None:
    """Write a page of a kind of results where one is asked for, and tell so."""
    if path is None:
        return
    from policyopt._page import results
    from policyopt._page.page import render

    content = getattr(results, f"{kind}_content")(*given)
    content["made"]["command"] = printable(shlex.join(["policyopt", *sys.argv[1:]]))
    with writing(path):
        write_file(path, render(content))
    note(f"wrote {path}: open it in a browser")
