"""``.parquet``: records, long or wide, read group by group; sizes are counted before and while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policyopt.cache.importers.raw import Raw
from policyopt.cache.importers.table import gather, useful
from policyopt.cache.optional import need
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.sizes import PIECE, Room


def read(path: Path) -> Raw:
    """Read a ``.parquet`` table of records, see `table.from_table`.

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
    types = need("pyarrow", "fit", "to read .parquet files (pip install pyarrow)").types

    def pieces() -> Iterator[tuple[Any, int]]:
        # Texts stay as their file has them, each once: a long one may stand in every row.
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            for group in range(file.num_row_groups):
                size = _sizes(file, group, used)[1] / max(
                    file.metadata.row_group(group).num_rows, 1
                )
                for batch in file.iter_batches(rows, [group], used, use_threads=False):
                    yield batch.to_pandas(), int(size * batch.num_rows)

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            used = [name for name in schema.names if useful(name)]
            texts = [name for name in used if not types.is_primitive(schema.field(name).type)]
            nested = [name for name in used if types.is_nested(schema.field(name).type)]
            rows = max(1, PIECE // (16 * max(len(used), 1)))
            room, held = Room("SRC", str(path), "Save it as .npz."), 0
            for group in range(file.num_row_groups):
                decoded, encoded = _sizes(file, group, used)
                held += encoded
                room.take(decoded, encoded)
            if held > path.stat().st_size:
                got = f"{path}, whose columns claim {held} bytes of {path.stat().st_size}"
                raise input_error("SRC", "a table as large as its columns", got, "Save it anew.")
    except InputError:
        raise
    except Exception as error:  # Arrow raises many kinds on damaged files
        step = "Mend the file or save it anew."
        raise input_error("SRC", "a readable .parquet table", f"{path} ({error})", step) from error
    if nested:
        raise input_error(
            f"{path.name}: {nested[0]}", "a flat column", "a nested one", "Flatten it."
        )
    return gather(path, schema.names, pieces())


def _sizes(file: Any, group: int, used: list[str]) -> tuple[int, int]:
    """Return the bytes that a row group's columns come to, and those that they have in the file.

    Runs of equal values and repeated ones take no room in a file, so rows are counted too: of texts of
    one length each in full, as Arrow unpacks them.
    """
    meta = file.metadata.row_group(group)
    columns = [(meta.column(i), file.schema.column(i).length or 0) for i in range(meta.num_columns)]
    mine = [pair for pair in columns if pair[0].path_in_schema.split(".")[0] in used]
    decoded = sum(max(max(8, n) * meta.num_rows, c.total_uncompressed_size) for c, n in mine)
    return decoded, sum(column.total_compressed_size for column, _ in mine)
