"""``.parquet``: records, long or wide; the declared size is checked before it is unpacked."""

from __future__ import annotations

from pathlib import Path

from policyopt.cache.importers.raw import Raw
from policyopt.cache.importers.table import from_table, load
from policyopt.cache.optional import need
from policyopt.runtime.errors import bad

#: More cells than this take more than 8 GiB.
MAX_CELLS = 1 << 30


def read(path: Path) -> Raw:
    """Read a ``.parquet`` table of records, see `from_table`.

    Parameters
    ----------
    path : Path
        Flat columns.

    Returns
    -------
    Raw

    Raises
    ------
    InputError
        Not a table, too large, or not of records.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> place = Path(tempfile.mkdtemp()) / "a.parquet"
    >>> pd.DataFrame({"conf_0": [0.5], "conf_1": [0.75], "label": [3]}).to_parquet(place)
    >>> read(place).arrays["conf"]
    array([[0.5 , 0.75]])
    """
    parquet = need("pyarrow.parquet", "fit", "to read .parquet files (pip install pyarrow)")
    need("pandas", "fit", "to read tables")

    def unpack(at: Path) -> object:
        # Runs of equal values take no room: a small file may claim any number of rows.
        with parquet.ParquetFile(at) as file:
            cells = file.metadata.num_rows * file.metadata.num_columns
            if cells > MAX_CELLS:
                raise bad(
                    "SRC",
                    f"a table of at most {MAX_CELLS} cells",
                    f"{cells} in {at}",
                    "Divide it, or write the cache with CacheWriter.",
                )
            return file.read().to_pandas()

    return from_table(load(unpack, path), path.name)
