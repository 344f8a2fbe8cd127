"""What commands print: data on standard output, remarks and progress on standard error.

Text in it may come from anyone's file: nothing is printed but through here (see `policyopt.runtime._text`).
"""

from __future__ import annotations

import csv
import enum
import io
import json
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from rich.cells import cell_len

from policyopt import _cli as cli
from policyopt._progress import working
from policyopt.runtime._files import write_file
from policyopt.runtime._text import csv_cell, printable
from policyopt.runtime._thresholds import thresholds_text

#: Names of files that a note lists.
_SOME = 8
#: What is not broken in tables: a number with its interval or %, else what stands between spaces.
_PIECE = re.compile(r"(?:[-+.\d]\S* )?\[[^\[\]]{,40}\](?!\S)|\S+(?: %(?!\S))?")
#: Between columns; the width of what is no terminal; lines of a cell that are tried.
_GAP, _UNBOUNDED, _MOST = "  ", 1 << 20, (1, 2, 3, 4, 6, 8, 12, 20, 50, 1000)
_NUMERIC = "+-0123456789."
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


def meant(got: str, known: Iterable[str]) -> str:
    """Return a question, which of the known words was meant, and a space; nothing where none is near."""
    close = get_close_matches(got.lower(), list(known), n=1)
    return f"Did you mean '{close[0]}'? " if close else ""


def command(*words: Any) -> str:
    """Return a command to run next, with the plug-ins of this one."""
    plugins = (word for name in cli.plugins for word in ("--plugin", name))
    shown = (place(word) if isinstance(word, Path) else str(word) for word in words)
    return shlex.join(["policyopt", *plugins, *shown])


def place(path: Path) -> str:
    """Return a path as people see it; an address with both its slashes."""
    from policyopt._cache.places import address_of, shown

    return shown(address_of(path)) or str(path)


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
    """Print one line per record; where that is too wide, so that no number or interval is broken.

    Headers wrap first, then texts; few records become columns; else further columns follow below, behind those
    that tell records apart. Piped, a table is as wide as it is.
    """
    if columns is None:
        columns = {name: name for record in records for name in record}
    heads = list(map(printable, columns))
    rows = [
        [text(r.get(c, "") if isinstance(c, str) else c(r)) for c in columns.values()]
        for r in records
    ]
    narrow = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    width = get_terminal_size().columns if narrow else _UNBOUNDED
    lines = textwrap.wrap(printable(title), width)
    for block in _tables(heads, rows, width):
        lines += [*block, ""]
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))


def print_panel(panel: Mapping[str, Any], most: int | None = None) -> None:
    """Print the table of a page's panel, or its first lines."""
    parts = {"percent": percent, "points": points}

    def told(value: Any, head: Mapping[str, Any]) -> str:
        if isinstance(value, list):
            return "{} [{}, {}]".format(*(told(part, head) for part in value))
        if value is None or head["kind"] not in parts:
            return text(value)
        return parts[head["kind"]](value, head["digits"])

    table = panel["table"]
    rows = [
        {head["name"]: told(value, head) for value, head in zip(row, table["columns"], strict=True)}
        for row in table["rows"][:most]
    ]
    print_table(rows, title=table["caption"])


def print_declared(id: str, records: Sequence[Any], **facts: Any) -> None:
    """Print records as `words.toml` declares a table of them; nothing of none."""
    from policyopt._page.panels import panel

    if records:
        print_panel(panel(id, facts, records))


def _tables(heads: list[str], rows: list[list[str]], width: int) -> Iterator[list[str]]:
    """Yield the lines of a table in one or several blocks that are no wider than `width`."""
    columns = [[head, *(row[i] for row in rows)] for i, head in enumerate(heads)]
    turned, single, wide = [heads, *rows], len(rows) == 1, [(n, 1) for n in (1, 2, 3, 5)]
    if widths := _widths(columns, width, wide[:2] if single else wide):
        return (yield _drawn(columns, widths))
    if len(rows) <= len(heads) and (
        widths := _widths(turned, width, [(m, m) for m in (_MOST if single else [1])])
    ):
        return (yield _drawn(turned, widths, right=not single))
    if widths := _widths(columns, width, [(5, 2), (8, 2), (8, 3)]):
        return (yield _drawn(columns, widths))
    told = [len({tuple(row[: i + 1]) for row in rows}) for i in range(len(heads))]
    key = columns[: told.index(max(told)) + 1]  # what tells records apart
    rest, deep = columns[len(key) :] or [key.pop()], [*wide, *((max(5, m), m) for m in _MOST[1:])]
    while rest:
        count = len(rest)
        while count > 1 and not _widths(key + rest[:count], width, [*wide, (5, 2)]):
            count -= 1
        block, rest = key + rest[:count], rest[count:]
        widths = _widths(block, width, deep)
        if widths is None and (first := _widths(block[:-1], width // 2, deep)):
            left = width - len(_GAP.join("x" * w for w in [*first, 0]))
            widths = [*first, left]  # words stick out
        if widths is None:  # a table per record
            half = width // 2
            yield from (_drawn([heads, row], [half - 2, half], right=False) for row in rows)
            return
        yield _drawn(block, widths)


def _widths(
    columns: list[list[str]], width: int, most: Sequence[tuple[int, int]]
) -> list[int] | None:
    """Return columns' widths at the first of `most`, lines of a header and of a cell, with which they fit."""
    for header, cell in most:
        widths = [max(_least([head], header), _least({*cells}, cell)) for head, *cells in columns]
        left = width - sum(widths) - len(_GAP) * (len(widths) - 1)
        if left >= 0:
            for i, texts in enumerate(columns):  # what is left unwraps the first
                more = min(left, _least(texts, 1) - widths[i])
                widths[i], left = widths[i] + more, left - more
            return widths
    return None


def _least(texts: Collection[str], lines: int) -> int:
    """Return the least width at which no text takes more lines."""
    low, high = 0, max(map(cell_len, texts), default=0)
    if lines > 1:
        low = max((cell_len(p) for text in texts for p in _PIECE.findall(text)), default=0)
        while low < high:
            middle = (low + high) // 2
            fits = all(len(_wrapped(text, middle)) <= lines for text in texts)
            low, high = (low, middle) if fits else (middle + 1, high)
    return high


def _wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines, broken where that breaks no number."""
    if cell_len(text) <= width:
        return [text]
    lines = [""]
    for piece in _PIECE.findall(text):
        longer = f"{lines[-1]} {piece}".lstrip()
        lines[-1:] = [longer] if not lines[-1] or cell_len(longer) <= width else [lines[-1], piece]
    return lines


def _drawn(columns: list[list[str]], widths: list[int], right: bool | None = None) -> list[str]:
    """Return the lines of a table; numbers to the right, or all but the first column, or none."""
    cells = [[_wrapped(t, w) for t in texts] for texts, w in zip(columns, widths, strict=True)]
    numbers = [all(len(c) == 1 and c[0][:1] in _NUMERIC for c in own[1:]) for own in cells]
    to_right = numbers if right is None else [right and i > 0 for i in range(len(cells))]
    lines: list[str] = []
    for row in zip(*cells, strict=True):
        step = 1 if lines else -1  # headers stand on the rule, cells hang from their line
        part = [
            _GAP.join(
                (text.rjust if r else text.ljust)(w - cell_len(text) + len(text))
                for text, w, r in zip(texts, widths, to_right, strict=True)
            )
            for texts in zip_longest(*(cell[::step] for cell in row), fillvalue="")
        ][::step]
        if not lines:
            rule = "─" if str(sys.stdout.encoding).lower().startswith("utf") else "-"
            part = [*(p for p in part if p.strip()), rule * len(_GAP.join("x" * w for w in widths))]
        lines += part
    return lines


def text(value: Any) -> str:
    """Return a value as tables show it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, tuple)):
        return " ".join(map(text, value))
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


def tell_unspent(pairs: Iterable[tuple[Mapping[str, Any], Any]]) -> None:
    """Note why over a tenth of a budget is left, where a fit found that more buys nothing."""
    if any(
        record["budget"] and record["realised_cost"] < 0.9 * record["budget"]
        and "spend=all" in str(policy.provenance.get("notes")) for record, policy in pairs
    ):  # fmt: skip
        note("more bought nothing on the fit rows, so it is not spent; --set spend=all spends it")


def rule_column(record: Mapping[str, Any]) -> Columns:
    """Return the column of a fit's thresholds, or of the models that are asked first."""
    if "asked_first" not in record:
        return {"thresholds, exit 0 on": thresholds_text}
    return {"asked first": lambda r: " or ".join(r["asked_first"])}


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
    out: Path | None, files: Mapping[str, Any], figure: Path | None = None, width: float | None = None
) -> None:  # fmt: skip
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


def progress(title: str) -> AbstractContextManager[None]:
    """Draw a bar titled `title` of what is reported within, or tell a log one line; nothing of what is quick."""
    return working(title, complain)
