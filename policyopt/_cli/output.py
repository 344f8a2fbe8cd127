"""What commands print: data on standard output, remarks and progress on standard error.

Text in it may come from anyone's file: nothing is printed but through here (see `policyopt.runtime._text`).
"""

from __future__ import annotations

import csv
import enum
import io
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import floor, log10
from pathlib import Path
from typing import Any

from policyopt import _cli as cli
from policyopt.runtime._files import write_file
from policyopt.runtime._policy import ALWAYS, NEVER
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._text import csv_cell, printable

#: Names of files that a note lists.
_SOME = 8
#: Seconds after which a bar is drawn.
_PATIENCE = 1.0
#: What a table shows: by header the field of a record, or a function of the record.
Columns = Mapping[str, Any]


class Format(enum.StrEnum):
    """How data are printed."""

    table = "table"
    json = "json"
    csv = "csv"


def say(*lines: str) -> None:
    """Print lines on standard output."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def complain(*lines: str) -> None:
    """Print lines on standard error."""
    sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))


def note(text: str) -> None:
    """Print a remark on standard error."""
    complain(f"note: {text}")


def command(*words: Any) -> str:
    """Return a command to run next, with the plug-ins of this one."""
    plugins = (word for name in cli.plugins for word in ("--plugin", name))
    return shlex.join(["policyopt", *plugins, *map(str, words)])


def to_json(content: Any) -> str:
    """Return JSON (finite numbers only), one document, in visible ASCII."""
    return json.dumps(content, indent=1, allow_nan=False).replace("\x7f", "\\u007f") + "\n"


def to_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as CSV; lists and mappings as JSON in their cell."""
    buffer = io.StringIO()
    names = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.writer(buffer, lineterminator="\n")
    for values in [names, *([record.get(name, "") for name in names] for record in records)]:
        cells = (json.dumps(v) if isinstance(v, (list, dict)) else v for v in values)
        writer.writerow(map(csv_cell, cells))
    return buffer.getvalue()


def print_data(style: Format, content: Any, records: Sequence[Mapping[str, Any]]) -> bool:
    """Print all of `content` as JSON, or its records as CSV; False where a table is asked for."""
    if style is Format.table:
        return False
    sys.stdout.write(to_json(content) if style is Format.json else to_csv(records))
    return True


def print_records(
    records: Sequence[Mapping[str, Any]], style: Format, columns: Columns | None = None
) -> None:
    """Print records in any style; a table shows `columns`, by default every field."""
    if not print_data(style, list(records), records):
        print_table(records, columns)


def print_table(records: Sequence[Any], columns: Columns | None = None, title: str = "") -> None:
    """Print one line per record as a table; numbers to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    if columns is None:
        columns = {name: name for record in records for name in record}
    look: Any = {"box": SIMPLE_HEAD, "title_justify": "left", "pad_edge": False}
    table = Table(title=printable(title) or None, **look)
    cells = [
        [_text(r.get(c, "") if isinstance(c, str) else c(r)) for c in columns.values()]
        for r in records
    ]
    for i, header in enumerate(columns):
        numeric = all(row[i][:1] in "+-0123456789." for row in cells if row[i])
        table.add_column(printable(header), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = max(console.width, 140)  # piped: do not wrap at 80 columns
    console.print(table)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, tuple)):
        return " ".join(map(_text, value))
    return printable(str(value))


def number(value: float, digits: int = 4) -> str:
    """Return a number in `digits` significant digits, without an exponent where it can be read."""
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text else text


def percent(value: float, digits: int = 2) -> str:
    """Return a share in percent."""
    return f"{100 * value:.{digits}f}"


def points(value: float, digits: int = 2) -> str:
    """Return a difference of shares in points, with its sign."""
    return f"{100 * value:+.{digits}f}"


def shown(name: str, text: Callable[[Any], str]) -> Callable[[Mapping[str, Any]], str | None]:
    """Return the column of a field in words of its own, a dash where it is None."""
    return lambda r: None if r[name] is None else text(r[name])


def interval(name: str, text: Callable[[Any], str] = number) -> Callable[[Mapping[str, Any]], str]:
    """Return the column of a field with its interval: ``2.5 [2.4, 2.6]``."""

    def column(record: Mapping[str, Any]) -> str:
        value, low, high = (record[name + end] for end in ("", "_low", "_high"))
        if value is None:
            return "-"
        return f"{text(value)} [{'not stated' if low is None else f'{text(low)}, {text(high)}'}]"

    return column


def quality_word(graded: Any) -> str:
    """Return what the mean quality is called in tables: accuracy, where answers are right or wrong."""
    return "quality" if graded else "accuracy"


def quality_column(graded: Any) -> Columns:
    """Return the column of the mean quality with its interval, named by what it is."""
    return {f"{quality_word(graded)} % [95 %]": interval("quality", percent)}


def metric_column(metric: str | None) -> Columns:
    """Return the column of a metric besides the accuracy, if one is asked for."""
    if metric is None:
        return {}
    return {f"{metric.replace('_', ' ')} % [95 %]": interval(metric, percent)}


def coverage_columns(record: Mapping[str, Any], graded: Any) -> Columns:
    """Return the columns of a policy that may decline: who is not, and what those answers are worth."""
    if "coverage" not in record:
        return {}
    given = f"{quality_word(graded)} of answers %"
    return {"coverage %": shown("coverage", percent), given: shown("selective_quality", percent)}


#: Columns of a part of rows; of all of them it has no name.
PART: Columns = {
    "part": lambda r: (r["part"] or "all") + (" (worst)" if r.get("worst") else ""),
    "rows": "rows",
}


def share_columns(names: Sequence[str], head: str = "exit share %") -> Columns:
    """Return the column of the share that leaves at each exit, with their names where they have some."""
    told = f" ({', '.join(names)})" if names else ""
    return {f"{head}{told}": shares("exit_share")}


def shares(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return the column of shares in whole percent."""
    return lambda r: " ".join(f"{100 * share:.0f}" for share in r[name])


def chosen_method(record: Mapping[str, Any]) -> str:
    """Return a record's method, and which one it chose."""
    return (record["method"] or "-") + (f": {record['chosen']}" if record["chosen"] else "")


def tell_exploring(policy: Any) -> None:
    """Note that a policy explores, and what that means."""
    if share := getattr(policy, "explore", 0.0):
        told = f"about {percent(share, 1)} % of requests call a model at random, beside the budget"
        note(f"explores: {told}; policy.exploring(0) ends it")


def off_budget(record: Mapping[str, Any]) -> str:
    """Return by how many percent the realised cost misses the budget."""
    budget = record["budget"]
    return f"{100 * (record['realised_cost'] / budget - 1):+.1f}" if budget else "-"


def threshold_text(threshold: float) -> str:
    """Return a threshold for people: always, never, or four digits; more near 0 and 1."""
    if 0 < (near := abs(1 - threshold)) < 1e-3:
        return f"{threshold:.{1 - floor(log10(near))}f}"
    text = f"{threshold:.3g}" if 0 < abs(threshold) < 1e-3 else f"{threshold:.4f}"
    return {ALWAYS: "always", NEVER: "never"}.get(threshold, text)


def rule_column(record: Mapping[str, Any]) -> Columns:
    """Return the column of a fit's thresholds, or of the models that are asked first."""
    if "asked_first" not in record:
        return {"thresholds, exit 0 on": thresholds_text}
    return {"asked first": lambda r: " or ".join(r["asked_first"])}


def thresholds_text(record: Mapping[str, Any]) -> str:
    """Return the thresholds of a record, or of its two sets, for people."""
    mixture = record.get("mixture")
    sets = mixture["thresholds"] if mixture else [record["thresholds"]]
    between = f" or, for {percent(mixture['share'], 1)} %, " if mixture else ""
    return between.join(" ".join(map(threshold_text, one)) for one in sets)


def scale_text(policy: Any) -> str | None:
    """Return how thresholds are to be read where papers have another scale and direction; None: as they stand."""
    if isinstance(policy, RoutingPolicy):
        return None
    rule = policy.rule
    if rule.below is None:
        return None
    what, form = rule.below
    told = f"score {rule.name} is {form}: leave at or above the threshold"
    if not what:
        return told
    sets = [policy.thresholds, *([policy.mixture.thresholds] if policy.mixture else [])]
    theirs = [[t if t in (ALWAYS, NEVER) else rule.below_of(t) for t in one] for one in sets]
    there = " or ".join(" ".join(map(threshold_text, one)) for one in theirs)
    return f"{told}. Papers leave below, in {what}: {there or '-'}"


@contextmanager
def writing(out: Path | None, held: str = "") -> Iterator[None]:
    """Tell what in `out` this block replaces (by another inode) or removes; `held`: what a single file held."""
    before = _inodes(out)
    yield
    after = _inodes(out)
    replaced = [path for path, inode in after.items() if before.get(path, inode) != inode]
    removed = [path for path in before if path not in after]
    for what, paths in (("replaced", replaced), ("removed from", removed)):
        names = sorted(path.name for path in paths if path != out)
        more = f" and {len(names) - _SOME} more" if names[_SOME:] else ""
        which = f": {', '.join(names[:_SOME])}{more}" if names else ""
        if paths:
            note(f"{what} {out}{which}" + (f", which held {held}" if held else ""))


def write_results(
    out: Path | None,
    files: Mapping[str, Any],
    figure: Path | None = None,
    width: float | None = None,
) -> None:
    """Write texts and figures by file name into a directory, and tell what they replace.

    To `figure` goes the first picture, in its format and width; further ones beside it, their names added.
    """
    from policyopt._report.figures import save_figure  # which loads matplotlib when it draws

    if out is not None:
        with writing(out):
            for name, content in files.items():
                if isinstance(content, str):
                    write_file(out / name, content)
                else:
                    save_figure(content, out / name)
    pictures = [name for name, content in files.items() if not isinstance(content, str)]
    for i, name in enumerate(pictures):
        if figure is None:
            break
        path = figure.with_stem(f"{figure.stem}-{Path(name).stem}") if i else figure
        with writing(path):
            save_figure(files[name], path, width=width)


def _inodes(out: Path | None) -> dict[Path, int]:
    if out is None or not out.exists():
        return {}
    files = [p for p in out.iterdir() if p.name[0] not in "._"] if out.is_dir() else [out]
    return {path: path.stat().st_ino for path in files if path.exists()}


@contextmanager
def progress(title: str) -> Iterator[Callable[..., None]]:
    """Give a callback (done, in all, what is done) that draws a bar titled `title`, but for what is quick."""
    bar: Any = None
    started, told, closed = time.monotonic(), False, False
    in_terminal = sys.stderr.isatty()

    def step(done: int, total: int, what: str = "") -> None:
        nonlocal bar, told
        if closed or time.monotonic() - started <= _PATIENCE:
            return  # a callback kept beyond its bar has nothing to draw on
        if not in_terminal:
            if not told:
                complain(f"{title} ...")  # a log wants a line, not a bar
            told = True
            return
        if bar is None:
            bar = _started_bar()
        text = printable(f"{title} {what}".rstrip())
        bar.update(bar.task_ids[0], completed=done, total=total, description=text)

    try:
        yield step
    finally:
        closed = True
        if bar is not None:
            bar.stop()


def _started_bar() -> Any:
    from rich import progress as of
    from rich.console import Console

    text = of.TextColumn("{task.description}", markup=False)
    columns = (text, of.BarColumn(), of.TaskProgressColumn(), of.TimeRemainingColumn())
    kept = {"redirect_stdout": False, "redirect_stderr": False}
    bar = of.Progress(*columns, console=Console(stderr=True), transient=True, **kept)
    bar.start()
    bar.add_task("", total=None)
    return bar
