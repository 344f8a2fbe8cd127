"""``.jsonl``: one sample a line with a value per exit (as CATs writes), or records as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.cache.importers.raw import Array, Raw, parse_key
from policyopt.cache.importers.table import from_table, load
from policyopt.cache.optional import need
from policyopt.runtime.errors import bad

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
        raise bad("SRC", "a .jsonl file of at least one line", f"{path} (empty)", "Check the path.")
    if any(isinstance(value, list) for value in first[1].values()):
        return _from_lists(path, first[1])
    pandas = need("pandas", "fit", "to read .jsonl tables")
    frame = load(lambda at: pandas.DataFrame.from_records([row for _, row in _lines(at)]), path)
    return from_table(frame, path.name)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _object(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise bad("SRC", "readable UTF-8 text", f"{path} ({error})", "Check the file.") from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad(f"{path.name} line {number}", "a JSON object", f"{error}", "Mend it.") from error
    if not isinstance(row, dict):
        raise bad(f"{path.name} line {number}", "a JSON object", type(row).__name__, "Mend it.")
    return row


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
    rows: dict[str, list[Array]] = {key: [] for key in roles}
    splits: list[str] = []
    for number, row in _lines(path):
        where = f"{path.name} line {number}"
        for key, role in roles.items():
            if key not in row:
                raise bad(where, f"with the field {key!r}, as line 1", f"{sorted(row)}", "Add it.")
            rows[key].append(_cell(row[key], role, f"{where}: {key}"))
            if rows[key][-1].shape != rows[key][0].shape:
                got = f"shape {rows[key][-1].shape}"
                allowed = f"of shape {rows[key][0].shape}, as line 1"
                raise bad(f"{where}: {key}", allowed, got, "Mend the line.")
        if "split" in first:
            if not isinstance(row.get("split"), str):
                raise bad(f"{where}: split", "a text", row.get("split"), "Add it.")
            splits.append(row["split"])
    raw.arrays = {key: np.stack(values) for key, values in rows.items()}
    raw.split = np.array(splits) if splits else None
    return raw


def _cell(value: Any, role: str, argument: str) -> Array:
    axes = 0 if role in ("labels", "context") else _WIDE.get(role, 1)
    try:
        array = np.array(value)
    except ValueError as error:
        got = "lists of unequal length"
        raise bad(argument, f"numbers with {axes} axes", got, "Mend the line.") from error
    if array.dtype.kind not in "biuf" or array.ndim != axes:
        got = f"{array.dtype} with {array.ndim} axes"
        raise bad(argument, f"numbers with {axes} axes", got, "Mend the line.")
    with np.errstate(over="ignore"):  # becomes inf, which the value checks refuse by name
        return array.astype(np.float32) if axes == 2 else array
