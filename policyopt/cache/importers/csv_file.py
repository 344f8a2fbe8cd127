"""``.csv``: records, long or wide, read piece by piece."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policyopt.cache.importers.lines import lines_of
from policyopt.cache.importers.raw import Raw
from policyopt.cache.importers.table import gather, useful
from policyopt.cache.optional import need
from policyopt.runtime.errors import bad
from policyopt.runtime.sizes import PIECE


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
    texts = {name: str for name in columns if name.strip() in ("sample", "split")}
    longest = max(map(len, lines_of(path)), default=1)
    rows = max(1, PIECE // max(longest, 16 * len(columns)))

    def pieces() -> Iterator[tuple[Any, int]]:
        with path.open("rb") as file:
            at = 0
            for frame in pandas.read_csv(file, chunksize=rows, dtype=texts):
                if type(frame.index) is not pandas.RangeIndex:  # taken for names of the rows
                    allowed, got = f"of {len(columns)} cells, as the header", "longer ones"
                    raise bad(f"{path.name}: rows", allowed, got, "Mend header or rows.")
                yield frame[[name for name in frame if useful(name)]], file.tell() - at
                at = file.tell()

    return gather(path, columns, pieces())


def _columns(path: Path) -> list[str]:
    """Return the header: the first line that is not blank, as pandas has it."""
    try:
        rows = csv.reader(line.decode("utf-8-sig") for line in lines_of(path))
        return next((row for row in rows if row), [])
    except (UnicodeDecodeError, csv.Error) as error:
        step = "Mend the file or save it anew."
        raise bad("SRC", "a readable .csv table", f"{path} ({error})", step) from error
