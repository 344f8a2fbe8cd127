"""``.csv``: records, long or wide, read piece by piece."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policyopt.cache.importers.lines import lines_of
from policyopt.cache.importers.raw import Raw
from policyopt.cache.importers.table import gather, useful
from policyopt.cache.layout import MAX_EXITS
from policyopt.cache.optional import need
from policyopt.runtime.errors import input_error
from policyopt.runtime.sizes import PIECE

#: Columns of a table: sixteen values of each exit.
MAX_COLUMNS = 16 * MAX_EXITS


def read(path: Path) -> Raw:
    r"""Read a ``.csv`` table of records, see `table.from_table`.

    Parameters
    ----------
    path : Path
        Comma-separated, with a header line.

    Returns
    -------
    Raw

    Raises
    ------
    InputError
        Not a table, or not of records.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = place.write_text("conf_0,conf_1,label\n0.5,0.75,3\n")
    >>> read(place).arrays["conf"]
    array([[0.5 , 0.75]])
    """
    pandas = need("pandas", "fit", "to read .csv files")
    columns = _columns(path)
    _check_columns(path, columns)
    texts = {name: str for name in columns if name.strip() in ("sample", "split")}
    rows = max(1, PIECE // max(_longest(path, len(columns)), 16 * len(columns)))
    used = useful if any(map(useful, columns)) else [0]

    def pieces() -> Iterator[tuple[Any, int]]:
        with path.open("rb") as file:
            at = 0
            for frame in pandas.read_csv(file, chunksize=rows, dtype=texts, usecols=used):
                yield frame[[name for name in frame if useful(name)]], file.tell() - at
                at = file.tell()

    return gather(path, columns, pieces())


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(line.decode("utf-8-sig") for line in lines_of(path))
    except (UnicodeDecodeError, csv.Error) as error:
        step = "Mend the file or save it anew."
        raise input_error("SRC", "a readable .csv table", f"{path} ({error})", step) from error


def _columns(path: Path) -> list[str]:
    """Return the header: the first line that is not blank, as pandas has it."""
    return next((row for row in _rows(path) if len(row) > 1 or "".join(row).strip()), [])


def _longest(path: Path, count: int) -> int:
    """Return the bytes of the longest line; rows longer than the header are refused, which pandas would cut."""
    longest, quoted = 1, False
    for number, line in enumerate(lines_of(path), 1):
        longest, quoted = max(longest, len(line)), quoted or b'"' in line
        if not quoted and line.count(b",") >= count:
            _refuse_long(path, count, f"line {number}")
    if quoted:  # commas within quotes are none between cells
        for number, row in enumerate(_rows(path), 1):
            if len(row) > count:
                _refuse_long(path, count, f"row {number}")
    return longest


def _refuse_long(path: Path, count: int, where: str) -> None:
    allowed = f"of {count} cells, as the header"
    raise input_error(f"{path.name}: rows", allowed, f"more in {where}", "Mend header or rows.")


def _check_columns(path: Path, columns: list[str]) -> None:
    """Refuse what pandas takes long for: very many columns, and equal names, which it would change."""
    if len(columns) > MAX_COLUMNS:
        allowed, step = (
            f"at most {MAX_COLUMNS}",
            "Drop those that are not of an exit, or save it as .npz.",
        )
        raise input_error(f"{path.name}: columns", allowed, f"{len(columns)}", step)
    twice = [name for name, count in Counter(map(str.strip, columns)).items() if count > 1]
    if twice:
        got = f"{', '.join(map(repr, twice[:3]))} twice"
        raise input_error(f"{path.name}: columns", "each of another name", got, "Rename one.")
