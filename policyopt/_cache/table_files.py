"""Tables, long or wide, and samples with lists: ``.csv``, ``.tsv``, ``.jsonl``, ``.json``, ``.parquet``.

Each is read piece by piece, its bytes counted; pandas does the columns.
"""

from __future__ import annotations

import csv
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.blocks import WORTH
from policyopt._cache.data import GROUP, MAX_EXITS, group_codes
from policyopt._cache.exits import CONFIDENCES
from policyopt._cache.keys import PER_SAMPLE, Place, counted, parse_key, place_of
from policyopt._cache.raw import TEXTUAL, Raw, Said, coded, declared, without_texts
from policyopt._optional import need
from policyopt.runtime._checks import check_type
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._reading import MISSING
from policyopt.runtime._sizes import PIECE, Room
from policyopt.runtime._strict_json import BYTES_PER_VALUE, parse, read_plain
from policyopt.runtime._typing import Array

#: Bytes of one line: 12 exits of 50,000 classes take half of it.
MAX_LINE = 16 << 20
#: Columns of a table: sixteen values of each exit.
MAX_COLUMNS = 16 * MAX_EXITS
#: Characters of a number that is text, and of the name of a split.
MAX_TEXT, MAX_NAME = 400, 64
MAX_ANSWER = 1 << 16
#: Bytes of a .json, all of which is in memory at once; a value takes up to so many there.
_MAX_JSON, _PER_VALUE = 256 << 20, 64
_PER_ARRAY = 128  # bytes of an array beside its numbers
_HELP = (
    "Long: one row per sample and exit with columns sample, exit, confidence, prediction (or quality), label. "
    "Wide: one row per sample with conf_0, conf_1, ..., pred_0, ..., label. Of other names say --key conf_0=COLUMN. "
    "Prices per row are a key per exit: --key small_cost_usd=small_price --key large_cost_usd=large_price."
)
#: Axes of a value in a line of lists, by role; others have one.
_AXES = {
    "labels": 0, "context": 0, GROUP: 0, "logits": 2, "probabilities": 2, "outputs": 2, "top_prob": 2,
}  # fmt: skip
#: What else says something of the exits, or is the labels given apart.
_TELLING = (*WORTH, "logits", "probabilities", "logit", "outputs", "values", "prediction", "labels")
#: A sample's number, its fields, and its bytes in the file.
Line = tuple[int, dict[str, Any], int]


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, refused where one is too long to be a sample; a byte-order mark is left out."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                argument, allowed = f"{path.name} line {number}", f"of at most {MAX_LINE} bytes"
                step = "One sample a line; save many numbers per sample as .npz."
                raise input_error(argument, allowed, "more", step)
            if number == 1 and line.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
                got = "UTF-16, by its byte-order mark"
                raise input_error(path.name, "text in UTF-8", got, "Save it as UTF-8.")
            yield line.removeprefix(BOM_UTF8) if number == 1 else line


def read_csv(path: Path, said: Said) -> Raw:
    """Read a table with a header line, its columns separated by commas, tabs, semicolons or bars."""
    pandas = need("pandas", "fit", "to read .csv files")
    mark = _separator(path)
    columns = next((row for row in _rows(path, mark) if len(row) > 1 or "".join(row).strip()), [])
    if len(columns) > MAX_COLUMNS:  # pandas takes long for very many
        allowed, step = f"at most {MAX_COLUMNS}", "Drop those not of an exit, or save it as .npz."
        raise input_error(f"{path.name}: columns", allowed, f"{len(columns)}", step)
    raw = Raw(path.name)
    at = raw.plan([column.strip() for column in columns], said)
    named = {key for key, place in at.items() if place.key in ("sample", "split")}
    texts = {name: str for name in columns if name.strip() in named}
    rows = max(1, PIECE // max(_longest(path, max(len(columns), 1), mark), 16 * len(columns)))
    used = [name for name in columns if name.strip() in at] or [0]
    first = b"".join(islice(lines_of(path), 1, 9))
    point = "," if re.search(rb"\d,\d", first) and not re.search(rb"\d\.\d", first) else "."
    if point == "," != mark:
        raw.note("commas within numbers read as decimal points")

    def pieces() -> Iterator[tuple[Any, int]]:
        with path.open("rb") as file:
            done = 0
            # Without na_filter: a sample may be called NA.
            for frame in pandas.read_csv(
                file, chunksize=rows, dtype=texts, usecols=used, na_filter=False, sep=mark,
                encoding="utf-8-sig", decimal=point if point != mark else ".",
            ):  # fmt: skip
                yield frame, file.tell() - done
                done = file.tell()

    return _gather(raw, at, pieces(), path)


def _separator(path: Path) -> str:
    """Return what separates the columns, by the header: commas unless it has none."""
    header = next((line for line in lines_of(path) if line.strip()), b"")
    found = [mark for mark in (",", "\t", ";", "|") if mark.encode() in header]
    return "\t" if "\t" in found and path.suffix == ".tsv" else found[0] if found else ","


def _rows(path: Path, mark: str) -> Iterator[list[str]]:
    return csv.reader((line.decode("utf-8") for line in lines_of(path)), delimiter=mark)


def _longest(path: Path, count: int, mark: str) -> int:
    """Return the bytes of the longest line; rows over the header's length, which pandas cuts, are refused."""
    longest, quoted, where = 1, False, None
    for number, line in enumerate(lines_of(path), 1):
        longest, quoted = max(longest, len(line)), quoted or b'"' in line
        if not quoted and line.count(mark.encode()) >= count:
            where = where or f"line {number}"
    if quoted and not where:  # commas within quotes are none between cells
        rows = enumerate(_rows(path, mark), 1)
        where = next((f"row {n}" for n, row in rows if len(row) > count), None)
    if where:
        allowed, got = f"of {count} cells, as the header", f"more in {where}"
        raise input_error(f"{path.name}: rows", allowed, got, "Mend header or rows.")
    return longest


def read_jsonl(path: Path, said: Said) -> Raw:
    """Read a sample a line, ``{"logits": [[... C] x K], "label": 3}`` (as CATs writes), or summaries as a table."""
    return _from_objects(path, lambda: _objects(path), said)


def read_json(path: Path, said: Said) -> Raw:
    """Read a list of samples, each an object, as the lines of a ``.jsonl``; or an object of an ``.npz``'s keys."""
    step = "It is one JSON text: mend it."
    text = read_plain(path, "SRC", _MAX_JSON, step).removeprefix(BOM_UTF8)
    values = sum(map(text.count, (b",", b"[", b"{"))) + 1
    Room("SRC", str(path), "Save it as .npz.").take(_PER_VALUE * values, len(text))
    content = parse(text, path.name, BYTES_PER_VALUE * values, step, MAX_LINE)
    head = list[str]()
    if isinstance(content, dict):
        lists = {key: v for key, v in content.items() if isinstance(v, list) and v}
        if len(lists) == 1 and all(isinstance(row, dict) for row in next(iter(lists.values()))):
            head = [key for key in content if key not in lists]
            (content,) = lists.values()  # the samples under one key, perhaps beside a head
    if isinstance(content, dict):
        return declared(path.name, content, said)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        allowed = "a list of objects, one per sample, or an object"
        raise input_error(path.name, allowed, type(content).__name__, "Save one of them.")
    size = len(text) // max(len(content), 1)
    raw = _from_objects(path, lambda: ((i, row, size) for i, row in enumerate(content, 1)), said)
    if head:
        raw.note(f"keys {', '.join(head[:8])} beside the samples not used")
    return raw


def _from_objects(path: Path, objects: Callable[[], Iterator[Line]], said: Said) -> Raw:
    first = next(objects(), None)
    if first is None:
        raise input_error("SRC", "a file of at least one line", f"{path} (empty)", "Check it.")
    # Objects within, of models by name, are read as columns NAME_FIELD, as the first line has them.
    fields = [(key, value) for key, value in first[1].items() if isinstance(value, dict)]
    inner = [key for key, value in fields if any(place_of(f"{key}_{k}") for k in value)]
    rows = ((i, _flattened(row, inner), size) for i, row, size in objects())
    raw, head = Raw(path.name), _flattened(first[1], inner)
    at = without_texts(raw, raw.plan(head, said), head)
    if any(isinstance(head[key], (list, dict)) for key in at):
        return _from_lists(raw, at, rows, path)
    return _gather(raw, at, _frames(path, list(at), rows), path)


def _flattened(row: dict[str, Any], inner: list[str]) -> dict[str, Any]:
    for key in inner:
        if isinstance(row.get(key), dict):
            row = {**row, **{f"{key}_{k}": v for k, v in row[key].items()}}
    return {k: v for k, v in row.items() if k not in inner} if inner else row


def _objects(path: Path) -> Iterator[Line]:
    """Yield each line's number, object and bytes; fields that line 1 has not are refused."""
    known: set[str] | None = None
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            where, step = f"{path.name} line {number}", "Each line is a JSON object: mend it."
            row = parse(line, where, BYTES_PER_VALUE * len(line), step, MAX_LINE)
            step = "Save a sample a line; call a file that is one list of them .json."
            check_type(where, row, dict, "a JSON object", step)
            known = set(row) if known is None else known
            if not row.keys() <= known:
                got = ", ".join(sorted(row.keys() - known))
                step = "Give line 1 every field (null where there is no value)."
                raise input_error(where, "of the fields of line 1", got, step)
            yield number, row, len(line)


def _frames(path: Path, read: list[str], objects: Iterator[Line]) -> Iterator[tuple[Any, int]]:
    """Yield the rows of a table in pieces, each with its bytes in the file."""
    pandas = need("pandas", "fit", "to read .jsonl tables")
    rows, size = [], 0
    for number, row, length in objects:
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


def _from_lists(raw: Raw, at: Mapping[str, Place], objects: Iterator[Line], path: Path) -> Raw:
    """Read the lines one by one into small arrays."""
    room = Room("SRC", str(path), "Save it as .npz.")
    rows: dict[str, list[Array]] = {key: [] for key in at}
    names = raw.texts.setdefault("ids", {})
    for number, row, length in objects:
        where = f"{path.name} line {number}"
        for key, place in at.items():
            if key not in row:
                raise input_error(where, f"with {key!r}, as line 1", f"{sorted(row)}", "Add it.")
            cell = _cell(row[key], place, f"{where}: {key}", names)
            shape = (rows[key] or [cell])[0].shape
            if cell.shape != shape:
                allowed, got = f"of shape {shape}, as line 1", f"shape {cell.shape}"
                raise input_error(f"{where}: {key}", allowed, got, "Mend the line.")
            rows[key].append(cell)
            # Twice: the small arrays stand beside the whole for a while.
            room.take(2 * cell.nbytes + _PER_ARRAY, length)
    arrays = {key: np.stack(values) for key, values in rows.items() if values}
    for key, array in arrays.items():
        if array.dtype.kind == "O":
            arrays[key] = _unboxed(raw, key, at[key], array)
    for key in raw.unread:
        raw.ignore("field", key)
    _take(raw, at, arrays)
    return raw


def _unboxed(raw: Raw, key: str, place: Place, cells: Array) -> Array:
    """Return labels or predictions that JSON holds as numbers, NaN where null, or as codes of texts."""
    flat = cells.ravel().tolist()
    if any(isinstance(value, str) for value in flat):
        raw.as_text.add((place.key, place.exit))
        return coded(flat, raw.texts.setdefault(place.key, {})).reshape(cells.shape)
    try:
        found = np.array(flat, dtype=np.float64 if None in flat else None).reshape(cells.shape)
    except (TypeError, ValueError):
        found = cells
    if found.dtype.kind not in "biuf":
        got, step = "lists or objects", "Mend the lines."
        raise input_error(f"{raw.name}: {key}", "numbers or texts", got, step)
    return found


def _take(raw: Raw, at: Mapping[str, Place], arrays: Mapping[str, Array]) -> None:
    """Put arrays with rows first where they belong."""
    raw.axes = "NKC"
    for key, array in arrays.items():
        place, role = at[key], at[key].role
        if role in ("split", "sample"):
            raw.split, raw.ids = (array, raw.ids) if role == "split" else (raw.split, array)
        elif role == "exit":
            raw.note(f"{key!r} not used")
        elif role != "metadata":
            if role in TEXTUAL:
                array = _answered(raw, key, place, array)
            raw.put(key, place, _sure(raw, key, array) if role in CONFIDENCES else array)


def _cell(value: Any, place: Place, argument: str, texts: dict[int, str]) -> Array:
    role = place.role
    if role == "split":
        if not isinstance(value, str) or len(value) > MAX_NAME:
            raise input_error(argument, f"a text up to {MAX_NAME} characters", value, "Name it.")
        return np.array(value)
    scalar = not isinstance(value, (list, dict))
    if role == "sample" and scalar:
        return coded([value], texts)[0]
    if role in ("metadata", "sample", "exit"):
        return np.array(0)
    if role == GROUP and scalar and len(str(value)) <= MAX_TEXT:
        return group_codes(np.array(value)[None])[0]
    axes = _AXES.get(role, 1) - (place.exit is not None)
    allowed = f"numbers with {axes} axes"
    try:
        if role in TEXTUAL:  # numbers or texts: all rows tell
            return np.array(value, dtype=object)
        array = np.array(value)
        if array.dtype.kind == "O":  # null where a number is missing
            array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise input_error(argument, allowed, "lists of unequal length", "Mend the line.") from error
    if array.dtype.kind not in "biuf" or array.ndim not in (axes, axes - 1):  # of one exit
        raise input_error(argument, allowed, f"{array.dtype} with {array.ndim} axes", "Mend it.")
    with np.errstate(over="ignore"):  # becomes inf, which the value checks refuse by name
        return array.astype(np.float32) if _AXES.get(role) == 2 else array


def read_parquet(path: Path, said: Said) -> Raw:
    """Read columns, flat or of lists, row group by row group; sizes are counted before and while."""
    parquet = need("pyarrow.parquet", "fit", "to read .parquet files (pip install pyarrow)")
    types = need("pyarrow", "fit", "to read .parquet files (pip install pyarrow)").types
    raw = Raw(path.name)

    def batches() -> Iterator[tuple[Any, int]]:
        # Texts stay as their file has them, each once: a long one may stand in every row.
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            for group in range(file.num_row_groups):
                count = max(file.metadata.row_group(group).num_rows, 1)
                size = _parquet_sizes(file, group, used)[1] / count
                for batch in file.iter_batches(rows, [group], used, use_threads=False):
                    yield batch, int(size * batch.num_rows)

    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        at = raw.plan(schema.names, said)
        used = list(at)
        nested = [name for name in used if types.is_nested(schema.field(name).type)]
        flat = [name for name in used if name not in nested]
        texts = [name for name in flat if not types.is_primitive(schema.field(name).type)]
        widest, room, held = 16 * max(len(used), 1), Room("SRC", str(path), "Save it as .npz."), 0
        for group in range(file.num_row_groups):
            decoded, encoded = _parquet_sizes(file, group, used)
            count = max(file.metadata.row_group(group).num_rows, 1)
            widest, held = max(widest, decoded // count), held + encoded
            room.take((1 + bool(nested)) * decoded, encoded)
        rows = max(1, PIECE // widest)
        if held > path.stat().st_size:
            got = f"{path}, whose columns claim {held} bytes of {path.stat().st_size}"
            raise input_error("SRC", "a table as large as its columns", got, "Save it anew.")
    if not nested:
        whole = ((batch.to_pandas(ignore_metadata=True), size) for batch, size in batches())
        return _gather(raw, at, whole, path)
    parts: dict[str, list[Array]] = {name: [] for name in used}
    for batch, _ in batches():
        for name in used:
            parts[name].append(_column(raw, batch.column(name), at[name], name, types))
    arrays = dict[str, Array]()
    for name, each in parts.items():
        if len({a.shape[1:] for a in each}) > 1:
            got = "lists of other lengths further down"
            raise input_error(f"{path.name}: {name}", "lists of one length", got, "Mend the rows.")
        if (at[name].key, at[name].exit) in raw.as_text:  # codes, which floats would round
            each = [np.nan_to_num(a, nan=-1).astype(np.int64) for a in each]
        if each:
            arrays[name] = np.concatenate(each)
    if not arrays:
        raise input_error(f"{path.name}: rows", "at least 1", 0, "Is it the right file?")
    _take(raw, at, arrays)
    return raw


def _column(raw: Raw, column: Any, place: Place, name: str, types: Any) -> Array:
    """Return a column of lists, or a flat one beside such, as an array with rows first."""
    shape, argument = [len(column)], f"{raw.name}: {name}"
    if not types.is_nested(column.type):
        return _by_role(column.to_pandas(), argument, raw, place)
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    while any(is_list(column.type) for is_list in lists):
        sizes = set(column.value_lengths().to_pylist()) if len(column) else {1}
        if len(sizes) > 1 or None in sizes:
            got = f"of {sorted(map(str, sizes))[:4]} elements"
            raise input_error(argument, "lists of one length in every row", got, "Mend the rows.")
        shape.append(sizes.pop())
        column = column.flatten()
    if types.is_nested(column.type):
        allowed = "a flat column, or lists of numbers"
        raise input_error(argument, allowed, f"{column.type}", "Flatten it.")
    return _values(column.to_pandas(), argument, raw, place).reshape(shape)


def _parquet_sizes(file: Any, group: int, used: list[str]) -> tuple[int, int]:
    """Return the bytes of a row group's columns: unpacked, repeated values counted in full, and in the file."""
    meta = file.metadata.row_group(group)
    columns = [(meta.column(i), file.schema.column(i).length or 0) for i in range(meta.num_columns)]
    mine = [pair for pair in columns if pair[0].path_in_schema.split(".")[0] in used]
    rows = meta.num_rows
    sizes = [max(max(8, n) * max(rows, c.num_values), c.total_uncompressed_size) for c, n in mine]
    return sum(sizes), sum(column.total_compressed_size for column, _ in mine)


# --- from columns to arrays --------------------------------------------------------------------


def _gather(
    raw: Raw, at: Mapping[str, Place], pieces: Iterator[tuple[Any, int]], path: Path
) -> Raw:
    """Put a table together from pieces (useful columns, bytes in the file)."""
    if not at:
        raise _unlike(raw)
    pandas = need("pandas", "fit", "to read tables")
    room, frames = Room("SRC", str(path), "Save it as .npz."), []
    for frame, size in pieces:
        # Twice: the pieces stand beside the whole for a while.
        room.take(2 * int(frame.memory_usage(deep=True).sum()), 2 * size)
        frames.append(frame)
    frame = pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame()
    frame = frame.rename(columns=lambda column: str(column).strip())
    if not len(frame):
        raise input_error(f"{raw.name}: rows", "at least 1", 0, "Is it the right file?")
    raw.axes, raw.table = "NKC", True
    at = without_texts(raw, at, frame.iloc[0])
    for column in raw.unread:
        raw.unread[column] = (len(frame),)
        raw.ignore("column", column)
    keys = [(p.key, column) for column, p in at.items() if p.key in ("sample", "exit")]
    called = dict(reversed(keys))
    exits = frame[called["exit"]] if "exit" in called else None
    stated = "sample" in called and called.get("exit") == "exit"
    if exits is not None and (stated or exits.nunique() > 1):
        _from_long(raw, at, frame, called)
    else:
        _from_wide(raw, at, frame)
    found = {(parse_key(key) or (None, key))[1] for key in (*raw.arrays, *raw.pieces)}
    if not found & {*CONFIDENCES, *_TELLING}:
        raise _unlike(raw)
    return raw


def _unlike(raw: Raw) -> Exception:
    """Return the error of a table whose columns say nothing of the exits."""
    shown = ", ".join(raw.keys[:12]) + (", ..." if raw.keys[12:] else "")
    if len(raw.keys) == 1 and raw.name.endswith(".csv"):
        shown += " alone (are the columns separated by commas?)"
    allowed = "with a confidence for each exit (or quality, or correct)"
    return input_error(f"{raw.name}: columns", allowed, shown or "none (is it empty?)", _HELP)


def _from_long(raw: Raw, at: Mapping[str, Place], frame: Any, called: Mapping[str, str]) -> None:
    """Put a table of one row per sample and exit in order."""
    pandas, name = need("pandas", "fit", "to read tables"), raw.name
    if "sample" not in called:
        got = f"{called['exit']}, and no column that tells which rows are of one sample"
        step = "Add it: a number or a name per sample."
        raise input_error(f"{name}: columns", "with a column sample", got, step)
    cells = frame[called["sample"]]
    codes, samples = pandas.factorize(cells)
    nameless = (codes < 0) | np.asarray(cells == "", dtype=bool)
    if nameless.any():
        got = f"nothing in row {int(np.argmax(nameless))}"
        raise input_error(f"{name}: {called['sample']}", "given in every row", got, "Fill it in.")
    exits, count = _exits_of_rows(raw, frame[called["exit"]], called["exit"])
    n = len(samples)
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
    classes: dict[str, dict[int, Array]] = {}
    for column, place in at.items():
        role, argument = place.role, f"{name}: {column}"
        if role in ("sample", "exit", "metadata"):
            continue
        grid = _by_role(frame[column], argument, raw, place)
        if role in CONFIDENCES:
            last_lacks = np.isnan(grid[exits == count - 1]).all()
            grid = _sure(raw, column, grid, exits < count - bool(last_lacks))
        elif role in TEXTUAL:
            grid = _answered(raw, column, place, grid)
        grid = grid[order].reshape(n, count)
        if role in PER_SAMPLE and (grid != grid[:, :1]).any():
            sample = samples[int(np.argmax((grid != grid[:, :1]).any(axis=1)))]
            got = f"several for sample {sample}"
            raise input_error(argument, "one value per sample", got, "Mend its rows.")
        if role == "split":
            raw.split = grid[:, 0]
        elif place.exit is not None:  # a number beside the exit's is a class's
            base = "logits" if place.key == "logit" else place.key
            classes.setdefault(base, {})[place.exit] = grid  # type: ignore[index]
        else:
            raw.put(column, place, grid[:, 0] if role in PER_SAMPLE else grid)
    for key, columns in classes.items():
        raw.arrays[key] = np.stack([columns[c] for c in sorted(columns)], axis=2)


def _exits_of_rows(raw: Raw, column: Any, called: str) -> tuple[Array, int]:
    """Return the exit of each row, 0 to K-1, and K: numbered from 0 or 1, or named in the order of the table."""
    pandas = need("pandas", "fit", "to read tables")
    numbers = pandas.to_numeric(column, errors="coerce")
    argument = f"{raw.name}: {called}"
    if numbers.isna().any():
        words = _refuse_long(column, argument, MAX_NAME)
        words = words.where(column.notna(), "").map(lambda v: str(v).strip())
        codes, names = pandas.factorize(words)
        if "" in names or len(names) > MAX_EXITS:
            got = "nothing in some row" if "" in names else f"{len(names)} names"
            raise input_error(argument, "a number or a name in every row", got, "Fill it in.")
        order = counted(names)
        raw.metadata["names"] = names = [names[k] for k in order]
        raw.note(f"exits in the order of the table, or their numbers: {', '.join(names)}")
        return np.argsort(order)[codes], len(names)
    found = np.unique(numbers)
    given = np.asarray(numbers)
    most = np.inf if called == "layer" else MAX_EXITS
    if (found != np.floor(found)).any() or found[0] < 0 or found[-1] > most:
        allowed = f"whole numbers from 0 to K-1 < {MAX_EXITS}"
        raise input_error(argument, allowed, f"{found[0]:g} to {found[-1]:g}", "Renumber.")
    if called == "layer" and found[-1] != len(found) - 1:
        raw.metadata["names"] = [f"layer {e:g}" for e in found]
        raw.note(f"exits are the layers {', '.join(f'{e:g}' for e in found)}")
        return np.searchsorted(found, given), len(found)
    first = int(found[0] == 1)
    if first:
        raw.note(f"exits numbered from 1 to {found[-1]:g}: called 0 to {found[-1] - 1:g}")
    return given.astype(np.int64) - first, int(found[-1]) + 1 - first


def _from_wide(raw: Raw, at: Mapping[str, Place], frame: Any) -> None:
    """Take a table of one row per sample, its columns of one exit each; see `by_exit`."""
    arrays = dict[str, Array]()
    by_number = any(place.exit is not None for place in at.values())
    for column, place in at.items():
        if by_number and place.exit is None and place.role not in PER_SAMPLE:
            raw.note(f"column {column!r} not used: it is of no exit")
        else:
            arrays[column] = _by_role(frame[column], f"{raw.name}: {column}", raw, place)
    _take(raw, at, arrays)


def _sure(raw: Raw, column: str, conf: Array, of: Any = True) -> Array:
    """Return confidences, 0 for the few that are missing: no policy stops there by them; all missing: as they are."""
    if conf.dtype.kind != "f":
        return conf
    missing = np.isnan(conf) & of
    if conf.ndim == 2:
        missing &= ~np.isnan(conf).all(axis=0)
    if not missing.any() or missing.all():
        return conf
    raw.note(f"{column}: {int(missing.sum())} missing, taken as the least sure")
    logarithms = "logprob" in column.lower() or np.nanmin(conf) < 0
    return np.where(missing, -np.inf if logarithms else 0.0, conf)


def _answered(raw: Raw, column: str, place: Place, numbers: Array) -> Array:
    """Return class numbers, -1 for those that are missing, which is told; codes of texts have them as -1 already."""
    codes = numbers.dtype.kind != "f"
    if codes and (place.key, place.exit) not in raw.as_text:
        return numbers
    missing = numbers == -1 if codes else np.isnan(numbers)
    if missing.any():
        raw.note(f"{column}: {int(missing.sum())} missing, taken as -1 (unknown, or no answer)")
        numbers = numbers if codes else np.where(missing, -1, numbers)
    whole = not codes and ((numbers == np.floor(numbers)) & (np.abs(numbers) < 2**53)).all()
    return numbers.astype(np.int64) if whole else numbers


def _refuse_long(column: Any, argument: str, most: int) -> Any:
    """Return a column of objects; one long text in many rows is refused before it is copied."""
    column = column.astype(object)
    length = max((len(v) if isinstance(v, (str, bytes)) else 0 for v in column), default=0)
    if length > most:
        got = f"one of {length} characters"
        raise input_error(argument, f"cells of at most {most} characters", got, "Mend that cell.")
    return column


def _by_role(column: Any, argument: str, raw: Raw, place: Place) -> Array:
    """Return a column by its role, nothing of one that is not used."""
    if place.role == "sample":
        return coded(column.tolist(), raw.texts.setdefault("ids", {}))
    if place.role in ("split", GROUP):
        return (_texts if place.role == "split" else _groups)(column, argument)
    used = place.role not in ("exit", "metadata")
    return _values(column, argument, raw, place) if used else np.empty(0)


def _texts(column: Any, argument: str) -> Array:
    texts = _refuse_long(column, argument, MAX_NAME)
    return np.asarray(texts.where(column.notna(), "").astype(str), dtype=np.str_)


def _groups(column: Any, argument: str) -> Array:
    """Return a column of names or whole numbers as codes of groups."""
    if column.dtype.kind in "iub":
        return group_codes(column.to_numpy())
    column = _refuse_long(column, argument, MAX_TEXT)
    texts = np.asarray(column.fillna("").astype(str), dtype=np.str_)
    if (texts == "").any():
        got = f"nothing in row {int(np.argmax(texts == ''))}"
        step = "Give such a row a name of its own."
        raise input_error(argument, "given for every row", got, step)
    return group_codes(texts)


def _values(column: Any, argument: str, raw: Raw, place: Place) -> Array:
    """Return a column as numbers; of labels and predictions also as codes of texts, see `_answered`."""
    if place.role not in TEXTUAL:
        return _numbers(column, argument, place.role in CONFIDENCES)
    try:
        return _numbers(column, argument, True)
    except InputError:
        column = _refuse_long(column, argument, MAX_ANSWER)
        raw.as_text.add((place.key, place.exit))
        return coded(column.tolist(), raw.texts.setdefault(place.key, {}))


def _numbers(column: Any, argument: str, gaps: bool = False) -> Array:
    """Return a column as numbers or booleans; text such as ``"true"`` counts as a boolean; `gaps`: NaN where empty."""
    pandas = need("pandas", "fit", "to read tables")
    if column.dtype.kind not in "biuf":
        column = _refuse_long(column, argument, MAX_TEXT)
        words = column.astype(str).str.strip().str.lower()
        if words.isin(["true", "false"]).all():
            return (words == "true").to_numpy(dtype=bool)
        if gaps:
            column = column.mask(words.isin(MISSING))
        numbers = pandas.to_numeric(column, errors="coerce")
        odd = np.asarray(numbers.isna() & column.notna(), dtype=bool)
        if odd.any():
            row = int(np.argmax(odd))
            cell = column.iloc[row]
            got = f"{repr(cell) if cell else 'nothing'} in row {row}"
            step = "Fill it in, or leave the row out: only labels, answers, confidences may lack."
            raise input_error(argument, "numbers", got, "Mend that cell." if cell else step)
        column = numbers
    if column.dtype.kind in "iub" and not column.isna().any():
        return np.asarray(column.to_numpy(), bool if column.dtype.kind == "b" else np.int64)
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
