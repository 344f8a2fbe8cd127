"""``.csv``: records, long or wide."""

from __future__ import annotations

from pathlib import Path

from policyopt.cache.importers.raw import Raw
from policyopt.cache.importers.table import from_table, load
from policyopt.cache.optional import need


def read(path: Path) -> Raw:
    r"""Read a ``.csv`` table of records, see `from_table`.

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
    return from_table(
        load(lambda at: pandas.read_csv(at, compression=None), path),
        path.name,
    )
