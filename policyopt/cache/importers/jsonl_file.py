"""``.jsonl``: one sample a line with a value per exit (as CATs writes), or records as a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.cache.importers.lines import MAX_LINE, lines_of
from policyopt.cache.importers.raw import Array, Raw, parse_key
from policyopt.cache.importers.table import MAX_NAME, gather, useful
from policyopt.cache.optional import need
from policyopt.runtime.errors import input_error
from policyopt.runtime.sizes import PIECE, Room
from policyopt.runtime.strict_json import BYTES_PER_VALUE, parse

_STEP = "Each line is a JSON object: mend it."
_WIDE = {"logits": 2, "probabilities": 2, "outputs": 2, "top_prob": 2}


def read(path: Path) -> Raw:
    r"""Read ``.jsonl``.

    Parameters
    ----------
    path : Path
        Either lines such as ``{"logits": [[... C] x K], "label": 3, "split": "fit"}`` (also
        ``"conf": [... K]`` and the like), or a long or wide table, see `from_table`.

    Returns
    -------
    Raw

    Raises
    ------
    InputError
        A line is not a JSON object, or differs in shape from the first one.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "a.jsonl"
    >>> _ = place.write_text('{"logits": [[1, 2, 0], [3, 1, 0]], "label": 1}\n')
    >>> read(place).arrays["logits"].shape
    (1, 2, 3)
    """
    first = next(_lines(path), None)
    if first is None:
        raise input_error(
            "SRC", "a .jsonl file of at least one line", f"{path} (empty)", "Check the path."
        )
    if any(isinstance(value, list) for value in first[1].values()):
        return _from_lists(path, first[1])
    return gather(path, list(first[1]), _frames(path, list(first[1])))


def _frames(path: Path, columns: list[str]) -> Iterator[tuple[Any, int]]:
    """Yield the records of a table in pieces, each with its bytes in the file."""
    pandas = need("pandas", "fit", "to read .jsonl tables")
    read, rows, size, known = [name for name in columns if useful(name)], [], 0, set(columns)
    for number, row, length in _lines(path):
        if not row.keys() <= known:
            got = ", ".join(sorted(row.keys() - known))
            step = "Give line 1 every field (null where there is no value)."
            raise input_error(f"{path.name} line {number}", "of the fields of line 1", got, step)
        cells = tuple(row.get(name) for name in read)
        if any(isinstance(cell, (dict, list)) for cell in cells):
            got = "a list or an object"
            raise input_error(
                f"{path.name} line {number}", "of numbers and texts", got, "Mend the line."
            )
        rows.append(cells)
        size += length
        if size + len(rows) * (len(read) + 1) * 32 > PIECE:
            yield pandas.DataFrame.from_records(rows, columns=read), size
            rows, size = [], 0
    if rows:
        yield pandas.DataFrame.from_records(rows, columns=read), size


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Yield each line's number, object and bytes."""
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            where = f"{path.name} line {number}"
            row = parse(line, where, BYTES_PER_VALUE * len(line), _STEP, MAX_LINE)
            if not isinstance(row, dict):
                raise input_error(where, "a JSON object", type(row).__name__, "Mend it.")
            yield number, row, len(line)


def _from_lists(path: Path, first: dict[str, Any]) -> Raw:
    """Read the lines one by one into small arrays, stacked at the end."""
    raw = Raw(path.name, axes="NKC")
    roles = {}
    for key in first:
        known = parse_key(key)
        if key != "split" and known and not known[0] and known[1] != "metadata":
            roles[key] = known[1]
        elif key != "split":
            raw.notes.append(f"{path.name}: field {key!r} ignored")
    wanted = {**roles, "split": "split"} if "split" in first else roles
    room, done, waiting = Room("SRC", str(path), "Save it as .npz."), dict[str, list[Array]](), 0
    rows: dict[str, list[Array]] = {key: [] for key in wanted}
    for number, row, length in _lines(path):
        where = f"{path.name} line {number}"
        for key, role in wanted.items():
            if key not in row:
                raise input_error(
                    where, f"with the field {key!r}, as line 1", f"{sorted(row)}", "Add it."
                )
            cell = _cell(row[key], role, f"{where}: {key}")
            shape = done[key][0].shape[1:] if done else (rows[key] or [cell])[0].shape
            if cell.shape != shape:
                allowed, got = f"of shape {shape}, as line 1", f"shape {cell.shape}"
                raise input_error(f"{where}: {key}", allowed, got, "Mend the line.")
            rows[key].append(cell)
        waiting += length
        if waiting > PIECE:
            done, waiting = _stacked(done, rows, room, waiting), 0
    done = _stacked(done, rows, room, waiting)
    raw.arrays = {key: np.concatenate(parts) for key, parts in done.items()}
    raw.split = raw.arrays.pop("split", None)
    return raw


def _stacked(
    done: dict[str, list[Array]], rows: dict[str, list[Array]], room: Room, size: int
) -> dict[str, list[Array]]:
    """Move the rows that wait into one array per key."""
    for key, values in rows.items():
        if values:
            done.setdefault(key, []).append(np.stack(values))
            room.take(2 * done[key][-1].nbytes, 2 * size)
            values.clear()
    return done


def _cell(value: Any, role: str, argument: str) -> Array:
    if role == "split":
        if not isinstance(value, str) or len(value) > MAX_NAME:
            raise input_error(
                argument, f"a text of at most {MAX_NAME} characters", value, "Name it."
            )
        return np.array(value)
    axes = 0 if role in ("labels", "context") else _WIDE.get(role, 1)
    try:
        array = np.array(value)
    except ValueError as error:
        got = "lists of unequal length"
        raise input_error(argument, f"numbers with {axes} axes", got, "Mend the line.") from error
    if array.dtype.kind not in "biuf" or array.ndim != axes:
        got = f"{array.dtype} with {array.ndim} axes"
        raise input_error(argument, f"numbers with {axes} axes", got, "Mend the line.")
    with np.errstate(over="ignore"):  # becomes inf, which the value checks refuse by name
        return array.astype(np.float32) if axes == 2 else array
