"""Summaries as tables, long or wide: ``.csv``, ``.jsonl`` (also with lists per exit), ``.parquet``.

Each is read piece by piece, its bytes counted; pandas does the columns.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.blocks import WORTH
from policyopt._cache.data import GROUP, MAX_EXITS, group_codes
from policyopt._cache.parts import CONFIDENCES, Raw, parse_key
from policyopt._optional import need
from policyopt.runtime._errors import input_error
from policyopt.runtime._sizes import PIECE, Room
from policyopt.runtime._strict_json import BYTES_PER_VALUE, parse
from policyopt.runtime._typing import Array

#: Bytes of one line: 12 exits of 50,000 classes take half of it.
MAX_LINE = 16 << 20
#: Columns of a table: sixteen values of each exit.
MAX_COLUMNS = 16 * MAX_EXITS
#: Characters of a number that is text, and of the name of a split.
MAX_TEXT, MAX_NAME = 400, 64
_PER_ARRAY = 128  # bytes of an array beside its numbers
_WIDE = re.compile(r"(.+)_(\d{1,4})")
#: Columns with one value per sample, whatever the exit.
_PER_SAMPLE = ("labels", "context", GROUP, "split")
_HELP = (
    "Long: one row per sample and exit with columns sample, exit, confidence, prediction (or quality), label. "
    "Wide: one row per sample with conf_0, conf_1, ..., pred_0, ..., label."
)
#: Axes of a value in a line of lists, by role; others have one.
_AXES = {
    "labels": 0, "context": 0, GROUP: 0, "logits": 2, "probabilities": 2, "outputs": 2, "top_prob": 2,
}  # fmt: skip


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, refused where one is too long to be a sample."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                argument, allowed = f"{path.name} line {number}", f"of at most {MAX_LINE} bytes"
                step = "One sample a line; save many numbers per sample as .npz."
                raise input_error(argument, allowed, "more", step)
            yield line


def read_csv(path: Path) -> Raw:
    """Read comma-separated summaries with a header line."""
    pandas = need("pandas", "fit", "to read .csv files")
    columns = next((row for row in _rows(path) if len(row) > 1 or "".join(row).strip()), [])
    if len(columns) > MAX_COLUMNS:  # pandas takes long for very many
        allowed, step = f"at most {MAX_COLUMNS}", "Drop those not of an exit, or save it as .npz."
        raise input_error(f"{path.name}: columns", allowed, f"{len(columns)}", step)
    twice = [name for name, count in Counter(map(str.strip, columns)).items() if count > 1]
    if twice:  # which it would change
        got = f"{', '.join(map(repr, twice[:3]))} twice"
        raise input_error(f"{path.name}: columns", "each of another name", got, "Rename one.")
    texts = {name: str for name in columns if name.strip() in ("sample", "split")}
    rows = max(1, PIECE // max(_longest(path, len(columns)), 16 * len(columns)))
    used = useful if any(map(useful, columns)) else [0]

    def pieces() -> Iterator[tuple[Any, int]]:
        with path.open("rb") as file:
            at = 0
            # Without na_filter: a sample may be called NA, and no number may be missing.
            for frame in pandas.read_csv(
                file, chunksize=rows, dtype=texts, usecols=used, na_filter=False
            ):
                yield frame[[name for name in frame if useful(name)]], file.tell() - at
                at = file.tell()

    return _gather(path, columns, pieces())


def _rows(path: Path) -> Iterator[list[str]]:
    return csv.reader(line.decode("utf-8-sig") for line in lines_of(path))


def _longest(path: Path, count: int) -> int:
    """Return the bytes of the longest line; rows over the header's length, which pandas cuts, are refused."""
    longest, quoted, where = 1, False, None
    for number, line in enumerate(lines_of(path), 1):
        longest, quoted = max(longest, len(line)), quoted or b'"' in line
        if not quoted and line.count(b",") >= count:
            where = where or f"line {number}"
    if quoted and not where:  # commas within quotes are none between cells
        where = next((f"row {n}" for n, row in enumerate(_rows(path), 1) if len(row) > count), None)
    if where:
        allowed, got = f"of {count} cells, as the header", f"more in {where}"
        raise input_error(f"{path.name}: rows", allowed, got, "Mend header or rows.")
    return longest


def read_jsonl(path: Path) -> Raw:
    """Read a sample a line, ``{"logits": [[... C] x K], "label": 3}`` (as CATs writes), or summaries as a table."""
    first = next(_objects(path), None)
    if first is None:
        raise input_error("SRC", "a file of at least one line", f"{path} (empty)", "Check it.")
    if any(isinstance(value, list) for value in first[1].values()):
        return _from_lists(path, first[1])
    return _gather(path, list(first[1]), _frames(path, list(first[1])))


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Yield each line's number, object and bytes; fields that line 1 has not are refused."""
    known: set[str] | None = None
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            where, step = f"{path.name} line {number}", "Each line is a JSON object: mend it."
            row = parse(line, where, BYTES_PER_VALUE * len(line), step, MAX_LINE)
            if not isinstance(row, dict):
                raise input_error(where, "a JSON object", type(row).__name__, "Mend it.")
            known = set(row) if known is None else known
            if not row.keys() <= known:
                got = ", ".join(sorted(row.keys() - known))
                step = "Give line 1 every field (null where there is no value)."
                raise input_error(where, "of the fields of line 1", got, step)
            yield number, row, len(line)


def _frames(path: Path, columns: list[str]) -> Iterator[tuple[Any, int]]:
    """Yield the rows of a table in pieces, each with its bytes in the file."""
    pandas = need("pandas", "fit", "to read .jsonl tables")
    read, rows, size = [name for name in columns if useful(name)], [], 0
    for number, row, length in _objects(path):
        cells = tuple(row.get(name) for name in read)
        if any(isinstance(cell, (dict, list)) for cell in cells):
            where, got = f"{path.name} line {number}", "a list or an object"
            raise input_error(where, "of numbers and texts", got, "Mend the line.")
        rows.append(cells)
        size += length
        if size + len(rows) * (len(read) + 1) * 32 > PIECE:
            yield pandas.DataFrame.from_records(rows, columns=read), size
            rows, size = [], 0
    if rows:
        yield pandas.DataFrame.from_records(rows, columns=read), size


def _from_lists(path: Path, first: dict[str, Any]) -> Raw:
    """Read the lines one by one into small arrays."""
    raw, roles = Raw(path.name, axes="NKC"), dict[str, str]()
    for key in first:
        role = _role(key)
        if role in (None, "metadata"):
            raw.note(f"field {key!r} ignored")
            raw.unread.append(key)
        else:
            roles[key] = role
    room = Room("SRC", str(path), "Save it as .npz.")
    rows: dict[str, list[Array]] = {key: [] for key in roles}
    for number, row, length in _objects(path):
        where = f"{path.name} line {number}"
        for key, role in roles.items():
            if key not in row:
                raise input_error(where, f"with {key!r}, as line 1", f"{sorted(row)}", "Add it.")
            cell = _cell(row[key], role, f"{where}: {key}")
            shape = (rows[key] or [cell])[0].shape
            if cell.shape != shape:
                allowed, got = f"of shape {shape}, as line 1", f"shape {cell.shape}"
                raise input_error(f"{where}: {key}", allowed, got, "Mend the line.")
            rows[key].append(cell)
            # Twice: the small arrays stand beside the whole for a while.
            room.take(2 * cell.nbytes + _PER_ARRAY, length)
    raw.arrays = {key: np.stack(values) for key, values in rows.items()}
    raw.split = raw.arrays.pop("split", None)
    return raw


def _cell(value: Any, role: str, argument: str) -> Array:
    if role == "split":
        if not isinstance(value, str) or len(value) > MAX_NAME:
            raise input_error(argument, f"a text up to {MAX_NAME} characters", value, "Name it.")
        return np.array(value)
    if role == GROUP and not isinstance(value, (list, dict)) and len(str(value)) <= MAX_TEXT:
        return group_codes(np.array(value)[None])[0]
    axes = _AXES.get(role, 1)
    allowed = f"numbers with {axes} axes"
    try:
        array = np.array(value)
    except ValueError as error:
        raise input_error(argument, allowed, "lists of unequal length", "Mend the line.") from error
    if array.dtype.kind not in "biuf" or array.ndim != axes:
        raise input_error(argument, allowed, f"{array.dtype} with {array.ndim} axes", "Mend it.")
    with np.errstate(over="ignore"):  # becomes inf, which the value checks refuse by name
        return array.astype(np.float32) if axes == 2 else array


def read_parquet(path: Path) -> Raw:
    """Read summaries in flat columns, row group by row group; sizes are counted before and while."""
    parquet = need("pyarrow.parquet", "fit", "to read .parquet files (pip install pyarrow)")
    types = need("pyarrow", "fit", "to read .parquet files (pip install pyarrow)").types

    def pieces() -> Iterator[tuple[Any, int]]:
        # Texts stay as their file has them, each once: a long one may stand in every row.
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            for group in range(file.num_row_groups):
                count = max(file.metadata.row_group(group).num_rows, 1)
                size = _parquet_sizes(file, group, used)[1] / count
                for batch in file.iter_batches(rows, [group], used, use_threads=False):
                    yield batch.to_pandas(), int(size * batch.num_rows)

    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        used = [name for name in schema.names if useful(name)]
        texts = [name for name in used if not types.is_primitive(schema.field(name).type)]
        nested = [name for name in used if types.is_nested(schema.field(name).type)]
        rows = max(1, PIECE // (16 * max(len(used), 1)))
        room, held = Room("SRC", str(path), "Save it as .npz."), 0
        for group in range(file.num_row_groups):
            decoded, encoded = _parquet_sizes(file, group, used)
            held += encoded
            room.take(decoded, encoded)
        if held > path.stat().st_size:
            got = f"{path}, whose columns claim {held} bytes of {path.stat().st_size}"
            raise input_error("SRC", "a table as large as its columns", got, "Save it anew.")
    if nested:
        raise input_error(f"{path.name}: {nested[0]}", "a flat column", "nested", "Flatten it.")
    return _gather(path, schema.names, pieces())


def _parquet_sizes(file: Any, group: int, used: list[str]) -> tuple[int, int]:
    """Return the bytes of a row group's columns: unpacked, repeated values counted in full, and in the file."""
    meta = file.metadata.row_group(group)
    columns = [(meta.column(i), file.schema.column(i).length or 0) for i in range(meta.num_columns)]
    mine = [pair for pair in columns if pair[0].path_in_schema.split(".")[0] in used]
    decoded = sum(max(max(8, n) * meta.num_rows, c.total_uncompressed_size) for c, n in mine)
    return decoded, sum(column.total_compressed_size for column, _ in mine)


# --- from columns to arrays --------------------------------------------------------------------


def _role(name: str) -> str | None:
    """Return the role of a column's name; None where it is not known, or of one split only."""
    known = ("", "split", "") if name == "split" else parse_key(name)
    return known[1] if known and not known[0] else None


def useful(column: object) -> bool:
    """Say whether a column is read at all; others are only named."""
    name = str(column).strip()
    match = _WIDE.fullmatch(name)
    role = (match and _role(match[1])) or _role(name)
    return role not in (None, "metadata") or name in ("sample", "exit")


def _gather(path: Path, columns: Sequence[str], pieces: Iterator[tuple[Any, int]]) -> Raw:
    """Put a table together from pieces (useful columns, bytes in the file); `columns`: all of the file."""
    if not any(map(useful, columns)):
        raise _unlike(path.name, columns)
    pandas = need("pandas", "fit", "to read tables")
    room, frames = Room("SRC", str(path), "Save it as .npz."), []
    for frame, size in pieces:
        # Twice: the pieces stand beside the whole for a while.
        room.take(2 * int(frame.memory_usage(deep=True).sum()), 2 * size)
        frames.append(frame)
    whole = pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame()
    return _from_table(whole, path.name, [column.strip() for column in columns])


def _from_table(frame: Any, name: str, columns: list[str]) -> Raw:
    """Turn a table of summaries into arrays of shape (n, K) and (n,), by its keys without the exit."""
    frame = frame.rename(columns=lambda column: str(column).strip())
    if len(set(columns)) < len(columns):
        raise input_error(f"{name}: columns", "each of another name", f"{columns}", "Rename one.")
    if not len(frame):
        raise input_error(f"{name}: rows", "at least 1", 0, "Is it the right file?")
    long = "sample" in columns and "exit" in columns
    raw = _from_long(frame, name) if long else _from_wide(frame, name)
    unread = [column for column in columns if column not in frame.columns]
    raw.notes += [f"{name}: column {column!r} ignored" for column in unread]
    roles = {_role(key) for key in raw.arrays}
    if not roles & {"confidence", "conf_logprob", *WORTH}:
        raise _unlike(name, columns)
    return raw


def _unlike(name: str, columns: Sequence[str]) -> Exception:
    """Return the error of a table whose columns say nothing of the exits."""
    shown = ", ".join(columns[:12]) + (", ..." if columns[12:] else "")
    if len(columns) == 1 and name.endswith(".csv"):
        shown += " alone (are the columns separated by commas?)"
    allowed = "with a confidence for each exit (or quality, or correct)"
    return input_error(f"{name}: columns", allowed, shown or "none (is it empty?)", _HELP)


def _from_long(frame: Any, name: str) -> Raw:
    pandas = need("pandas", "fit", "to read tables")
    codes, samples = pandas.factorize(frame["sample"])
    exits = _numbers(frame["exit"], f"{name}: exit")
    nameless = (codes < 0) | np.asarray(frame["sample"] == "", dtype=bool)
    if nameless.any():
        got = f"nothing in row {int(np.argmax(nameless))}"
        raise input_error(f"{name}: sample", "given in every row", got, "Fill it in.")
    if exits.dtype.kind != "i" or exits.min() != 0 or exits.max() >= MAX_EXITS:
        allowed = f"whole numbers from 0 to K-1 < {MAX_EXITS}"
        got = f"{exits.min():g} to {exits.max():g}"
        raise input_error(f"{name}: exit", allowed, got, "Renumber.")
    count, n = int(exits.max()) + 1, len(samples)
    places = codes * count + exits
    unique, times = np.unique(places, return_counts=True)
    double = times.max() > 1
    if double or len(unique) < n * count:  # a grid of n * count is not made for a few rows
        off = np.flatnonzero(times > 1 if double else unique != np.arange(len(unique)))
        place = int(unique[off[0]]) if double else int(off[0]) if len(off) else len(unique)
        where = f"sample {samples[place // count]}, exit {place % count}"
        got, step = f"none for {where}", "Add it or drop the sample."
        if double:
            got, step = f"a second row for {where}", "Drop the double."
        raise input_error(f"{name}: rows", "one per sample and exit", got, step)
    order = np.argsort(places)
    raw = Raw(name, axes="NKC")
    for column in frame.columns:
        if column in ("sample", "exit"):
            continue
        role = _role(column)
        if role is None:
            raw.note(f"column {column!r} ignored")
            continue
        cells = frame[column]
        read = _texts if column == "split" else _groups if role == GROUP else _numbers
        if role in CONFIDENCES and _absent(cells[exits == count - 1]):
            cells = cells.mask(exits == count - 1)
        grid = read(cells, f"{name}: {column}")[order].reshape(n, count)
        single = role in _PER_SAMPLE
        if single and (grid != grid[:, :1]).any():
            sample = samples[int(np.argmax((grid != grid[:, :1]).any(axis=1)))]
            got = f"several for sample {sample}"
            raise input_error(f"{name}: {column}", "one value per sample", got, "Mend its rows.")
        if column == "split":
            raw.split = grid[:, 0]
        else:
            raw.arrays[column] = grid[:, 0] if single else grid
    return raw


def _from_wide(frame: Any, name: str) -> Raw:
    raw = Raw(name, axes="NKC")
    groups: dict[str, dict[int, str]] = {}
    for column in frame.columns:
        match = _WIDE.fullmatch(column)
        role = _role(match[1] if match else column)
        if column == "split":
            raw.split = _texts(frame[column], f"{name}: split")
        elif match and role not in (None, *_PER_SAMPLE, "metadata"):
            groups.setdefault(match[1], {})[int(match[2])] = column
        elif not match and role in ("labels", "context", GROUP):
            read = _groups if role == GROUP else _numbers
            raw.arrays[column] = read(frame[column], f"{name}: {column}")
        else:
            raw.note(f"column {column!r} ignored")
    count = 1 + max((k for at in groups.values() for k in at), default=0)
    for base, at in groups.items():
        least = count
        if _role(base) in CONFIDENCES and len(groups) > 1:  # the last exit needs none
            least -= 1
            if least in at and _absent(frame[at[least]]):
                del at[least]
        lacking = [f"{base}_{k}" for k in range(least) if k not in at]
        if lacking:
            last = " (the last exit needs none)" if least < count else ""
            allowed = f"{base}_0 to {base}_{least - 1}{last}, for the exits 0 to {count - 1}"
            got = ", ".join(at[k] for k in sorted(at)[:12]) or "none of them"
            more = f" and {len(lacking) - 3} more" if lacking[3:] else ""
            step = f"Add {', '.join(lacking[:3])}{more}; exits are numbered from 0."
            raise input_error(f"{name}: columns", allowed, got, step)
        if not at:
            continue
        parts = [_numbers(frame[at[k]], f"{name}: {at[k]}") for k in sorted(at)]
        raw.arrays[base] = np.stack(parts, axis=1)
    return raw


def _absent(column: Any) -> bool:
    """Say whether no cell of a column holds anything."""
    if column.dtype.kind in "biuf":
        return bool(column.isna().all())
    words = column[column.notna()].map(lambda v: v.strip().lower() if isinstance(v, str) else "-")
    return bool(words.isin(["", "nan", "null", "none"]).all())


def _refuse_long(column: Any, argument: str, most: int) -> Any:
    """Return a column of objects; one long text in many rows is refused before it is copied."""
    column = column.astype(object)
    length = max((len(v) if isinstance(v, (str, bytes)) else 0 for v in column), default=0)
    if length > most:
        got = f"one of {length} characters"
        raise input_error(argument, f"cells of at most {most} characters", got, "Mend that cell.")
    return column


def _texts(column: Any, argument: str) -> Array:
    texts = _refuse_long(column, argument, MAX_NAME)
    return np.asarray(texts.where(column.notna(), "").astype(str), dtype=np.str_)


def _groups(column: Any, argument: str) -> Array:
    """Return a column of names or whole numbers as codes of groups."""
    if column.dtype.kind in "iub":
        return group_codes(column.to_numpy())
    texts = np.asarray(
        _refuse_long(column, argument, MAX_TEXT).fillna("").astype(str), dtype=np.str_
    )
    if (texts == "").any():
        got = f"nothing in row {int(np.argmax(texts == ''))}"
        raise input_error(
            argument, "given for every row", got, "Give such a row a name of its own."
        )
    return group_codes(texts)


def _numbers(column: Any, argument: str) -> Array:
    """Return a column as numbers or booleans; text such as ``"true"`` counts as a boolean."""
    pandas = need("pandas", "fit", "to read tables")
    if column.dtype.kind not in "biuf":
        column = _refuse_long(column, argument, MAX_TEXT)
        words = column.astype(str).str.strip().str.lower()
        if words.isin(["true", "false"]).all():
            return (words == "true").to_numpy(dtype=bool)
        numbers = pandas.to_numeric(column, errors="coerce")
        odd = np.asarray(numbers.isna() & column.notna(), dtype=bool)
        if odd.any():
            row = int(np.argmax(odd))
            cell = column.iloc[row]
            got = f"{repr(cell) if cell else 'nothing'} in row {row}"
            step = "Mend that cell; encode names of classes as whole numbers from 0."
            raise input_error(argument, "numbers", got, step)
        column = numbers
    if column.dtype.kind in "iub" and not column.isna().any():
        return np.asarray(column.to_numpy(), bool if column.dtype.kind == "b" else np.int64)
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
