"""What commands print: tables for people, JSON and CSV for machines, all on standard output.

Text in it may come from anyone's file: nothing is printed but through here (see `policyopt.runtime.text`).
"""

from __future__ import annotations

import csv
import enum
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.runtime.text import csv_cell, printable

#: Names of files that a note lists.
_SOME = 8


class Format(enum.StrEnum):
    """How data are printed."""

    table = "table"
    json = "json"
    csv = "csv"


def print_json(content: Any) -> None:
    """Print JSON (finite numbers only), one document, in visible ASCII."""
    text = json.dumps(content, indent=1, allow_nan=False)
    sys.stdout.write(text.replace("\x7f", "\\u007f") + "\n")


def say(*lines: str) -> None:
    """Print lines on standard output."""
    _write(sys.stdout, lines)


def note(text: str) -> None:
    """Print a remark on standard error."""
    complain(f"note: {text}")


def complain(*lines: str) -> None:
    """Print lines on standard error."""
    _write(sys.stderr, lines)


def print_csv(records: Sequence[Mapping[str, Any]]) -> None:
    """Print records as CSV."""
    sys.stdout.write(to_csv(records))


def _write(stream: TextIO, lines: Sequence[str]) -> None:
    stream.write("".join(f"{printable(line)}\n" for line in lines))


def to_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as CSV; lists and mappings as JSON in their cell."""
    buffer = io.StringIO()
    names = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([csv_cell(name) for name in names])
    for record in records:
        values = (record.get(name, "") for name in names)
        writer.writerow(
            [csv_cell(json.dumps(v) if isinstance(v, (list, dict)) else v) for v in values]
        )
    return buffer.getvalue()


def print_records(
    records: Sequence[Mapping[str, Any]],
    style: Format,
    columns: Mapping[str, Any] | None = None,
    title: str = "",
) -> None:
    """Print records.

    Parameters
    ----------
    records : sequence of mappings
    style : Format
    columns : mapping of header to function of a record, optional
        What the table shows; default every field.
    title : str
        Of the table.
    """
    if style is Format.json:
        print_json(list(records))
    elif style is Format.csv:
        print_csv(records)
    else:
        print_table(records, columns, title)


def print_table(
    records: Sequence[Any], columns: Mapping[str, Any] | None = None, title: str = ""
) -> None:
    """Print one line per record as a table; numbers to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    if columns is None:
        names = dict.fromkeys(name for record in records for name in record)
        columns = {name: (lambda r, name=name: r.get(name, "")) for name in names}
    table = Table(
        title=printable(title) or None, box=SIMPLE_HEAD, title_justify="left", pad_edge=False
    )
    cells = [[_text(function(record)) for function in columns.values()] for record in records]
    for i, header in enumerate(columns):
        numeric = all(row[i][:1] in "+-0123456789." for row in cells if row[i])
        table.add_column(printable(header), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 140)  # piped: do not wrap at 80 columns
    console.print(table)


def number(value: float, digits: int = 4) -> str:
    """Return a number in `digits` significant digits, without an exponent where it can be read."""
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e+" in text else text


def percent(value: float, digits: int = 2) -> str:
    """Return a share in percent."""
    return f"{100 * value:.{digits}f}"


def expected_text(record: dict[str, Any]) -> str:
    """Return the cost that a fit foretells, with its interval."""
    if record["expected_cost_low"] is None:
        return f"{number(record['expected_cost'])} [not stated]"
    low, high = number(record["expected_cost_low"]), number(record["expected_cost_high"])
    return f"{number(record['expected_cost'])} [{low}, {high}]"


def thresholds_text(record: Mapping[str, Any]) -> str:
    """Return the thresholds of a record, or of its two sets, for people."""
    mixture = record.get("mixture")
    if mixture:
        first, second = (_threshold_list(t) for t in mixture["thresholds"])
        return f"{first} or, for {percent(mixture['share'], 1)} %, {second}"
    return _threshold_list(record["thresholds"])


def shares_text(shares: Sequence[float]) -> str:
    """Return exit shares in whole percent."""
    return " ".join(f"{100 * share:.0f}" for share in shares)


@contextmanager
def writing(out: Path | None, held: str = "") -> Iterator[None]:
    """Tell which files of `out`, a file or directory, what is written in this block replaces.

    `held` is what a single file held. Files appear by renaming: one of another inode is a new one.
    """
    before = _standing(out)
    yield
    replaced = [path for path, inode in _standing(out).items() if before.get(path, inode) != inode]
    if replaced and out is not None:
        names = [str(path.relative_to(out)) for path in replaced if path != out]
        some = ", ".join(names[:_SOME]) + (
            f" and {len(names) - _SOME} more" if names[_SOME:] else ""
        )
        note(
            f"replaced {out}"
            + (f": {some}" if names else "")
            + (f", which held {held}" if held else "")
        )


def _standing(out: Path | None) -> dict[Path, int]:
    if out is None or not out.exists():
        return {}
    files = [p for p in sorted(out.iterdir()) if p.name[0] != "."] if out.is_dir() else [out]
    return {path: path.stat().st_ino for path in files if path.is_file()}


def threshold_text(threshold: float) -> str:
    """Return a threshold for people: always, never, or four digits."""
    return {ALWAYS: "always", NEVER: "never"}.get(threshold) or f"{threshold:.4f}"


def _threshold_list(thresholds: Sequence[float]) -> str:
    return " ".join(threshold_text(t) for t in thresholds)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, tuple)):
        return " ".join(_text(v) for v in value)
    return printable(str(value))
