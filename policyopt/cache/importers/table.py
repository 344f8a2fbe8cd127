"""Records as a table, long or wide, to arrays with rows first; pandas does the columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.cache.importers.raw import Array, Raw, parse_key
from policyopt.cache.layout import MAX_EXITS
from policyopt.cache.optional import need
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.sizes import Room

_WIDE = re.compile(r"(.+)_(\d{1,4})")
#: Columns with one value per sample, whatever the exit.
_PER_SAMPLE = ("labels", "context", "split")
_HELP = (
    "Long: one row per sample and exit with columns sample, exit, confidence, prediction, label. "
    "Wide: one row per sample with conf_0, conf_1, ..., pred_0, ..., label."
)


#: Characters of a number that is text, and of the name of a split.
MAX_TEXT, MAX_NAME = 400, 64


def useful(column: object) -> bool:
    """Say whether a column is read at all; others are only named.

    Examples
    --------
    >>> useful("conf_0"), useful("label"), useful("comment")
    (True, True, False)
    """
    name = str(column).strip()
    match = _WIDE.fullmatch(name)
    known = parse_key(match[1]) if match else None
    known = known or parse_key(name) or (None, "", "")
    return name in ("sample", "exit", "split") or (
        known[1] not in ("", "metadata") and not known[0]
    )


def gather(path: Path, columns: Sequence[str], pieces: Iterator[tuple[Any, int]]) -> Raw:
    """Put the pieces of a table together, their bytes counted; then see `from_table`.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        Of the file, also those that are not read.
    pieces : iterator of (pandas.DataFrame, int)
        The useful columns, of about `PIECE` bytes each, and the bytes that it has in the file.

    Raises
    ------
    InputError
        Whatever a parser raises on a bad file; more than a file may unpack to.
    """
    pandas = need("pandas", "fit", "to read tables")
    room, frames = Room("SRC", str(path), "Save it as .npz."), []
    try:
        for frame, size in pieces:
            # Twice: the pieces stand beside the whole for a while.
            room.take(2 * int(frame.memory_usage(deep=True).sum()), 2 * size)
            frames.append(frame)
        whole = pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame()
    except InputError:
        raise
    except Exception as error:  # parsers raise many kinds on damaged files
        allowed, reason = f"a readable {path.suffix} table", " ".join(str(error).split())
        raise input_error(
            "SRC", allowed, f"{path} ({reason})", "Mend the file or save it anew."
        ) from error
    return from_table(whole, path.name, columns)


def from_table(frame: Any, name: str, columns: Sequence[str] | None = None) -> Raw:
    """Turn a table of records into arrays of shape (n, K) and (n,).

    Parameters
    ----------
    frame : pandas.DataFrame
        Long (columns ``sample`` and ``exit``) or wide (``conf_0``, ``pred_0``, ...).
    name : str
        The file, for notes and errors.
    columns : sequence of str, optional
        Of the file, where those without a use were not read.

    Returns
    -------
    Raw
        Keys as in the table, without the exit; axes are NKC.

    Raises
    ------
    InputError
        Missing or double entries, text where numbers belong, no confidence column.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"conf_0": [0.5, 0.9], "conf_1": [0.7, 1.0], "label": [0, 3]})
    >>> from_table(frame, "a.csv").arrays["conf"]
    array([[0.5, 0.7],
           [0.9, 1. ]])
    """
    frame = frame.rename(columns=lambda column: str(column).strip())
    columns = [column.strip() for column in (frame.columns if columns is None else columns)]
    if len(set(columns)) < len(columns):
        raise input_error(f"{name}: columns", "each of another name", f"{columns}", "Rename one.")
    if not len(frame):
        raise input_error(f"{name}: rows", "at least 1", 0, "Is it the right file?")
    long = "sample" in columns and "exit" in columns
    raw = _from_long(frame, name) if long else _from_wide(frame, name)
    unread = [column for column in columns if column not in frame.columns]
    raw.notes += [f"{name}: column {column!r} ignored" for column in unread]
    if not any((key := parse_key(k)) and key[1] == "confidence" for k in raw.arrays):
        shown = ", ".join(columns[:12])
        if len(columns) == 1 and name.endswith(".csv"):
            shown += " alone (are the columns separated by commas?)"
        raise input_error(f"{name}: columns", "with a confidence for each exit", shown, _HELP)
    return raw


def _from_long(frame: Any, name: str) -> Raw:
    pandas = need("pandas", "fit", "to read tables")
    codes, samples = pandas.factorize(frame["sample"])
    exits = _numbers(frame["exit"], f"{name}: exit")
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise input_error(
            f"{name}: sample", "given in every row", f"nothing in row {row}", "Fill it in."
        )
    if exits.dtype.kind != "i" or exits.min() != 0 or exits.max() >= MAX_EXITS:
        got = f"{exits.min():g} to {exits.max():g}"
        raise input_error(
            f"{name}: exit", f"whole numbers from 0 to K-1 < {MAX_EXITS}", got, "Renumber."
        )
    count, n = int(exits.max()) + 1, len(samples)
    places = codes * count + exits
    unique, first = np.unique(places, return_index=True)
    if len(unique) < len(places):
        row = int(np.setdiff1d(np.arange(len(places)), first)[0])
        got = f"a second row for sample {samples[codes[row]]}, exit {exits[row]}"
        raise input_error(f"{name}: rows", "one per sample and exit", got, "Drop the double.")
    if len(unique) < n * count:
        gap = (
            int(np.argmax(unique != np.arange(len(unique))))
            if unique[-1] >= len(unique)
            else len(unique)
        )
        got = f"none for sample {samples[gap // count]}, exit {gap % count}"
        raise input_error(
            f"{name}: rows", "one per sample and exit", got, "Add it or drop the sample."
        )
    order = np.argsort(places)
    raw = Raw(name, axes="NKC")
    for column in frame.columns:
        if column in ("sample", "exit"):
            continue
        known = ("", "split", "") if column == "split" else parse_key(column)
        if known is None or known[0]:
            raw.notes.append(f"{name}: column {column!r} ignored")
            continue
        single = known[1] in _PER_SAMPLE
        values = (
            _texts(frame[column], f"{name}: split")
            if column == "split"
            else _numbers(frame[column], f"{name}: {column}")
        )
        grid = values[order].reshape(n, count)
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
        known = parse_key(match[1]) if match else parse_key(column)
        if column == "split":
            raw.split = _texts(frame[column], f"{name}: split")
        elif match and known and not known[0] and known[1] not in (*_PER_SAMPLE, "metadata"):
            groups.setdefault(match[1], {})[int(match[2])] = column
        elif not match and known and not known[0] and known[1] in ("labels", "context"):
            raw.arrays[column] = _numbers(frame[column], f"{name}: {column}")
        else:
            raw.notes.append(f"{name}: column {column!r} ignored")
    for base, at in groups.items():
        if sorted(at) != list(range(len(at))):
            got = ", ".join(at[k] for k in sorted(at))
            allowed = f"{base}_0 to {base}_K-1 without gaps"
            raise input_error(f"{name}: columns", allowed, got, "Number the exits from 0.")
        parts = [_numbers(frame[at[k]], f"{name}: {at[k]}") for k in range(len(at))]
        raw.arrays[base] = np.stack(parts, axis=1)
    return raw


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
            got = f"{column.iloc[row]!r} in row {row}"
            step = "Mend that cell; encode names of classes as whole numbers from 0."
            raise input_error(argument, "numbers", got, step)
        column = numbers
    whole = not column.isna().any()
    if column.dtype.kind in "iu" and whole:
        return np.asarray(column.to_numpy(), dtype=np.int64)
    if column.dtype.kind == "b" and whole:
        return np.asarray(column.to_numpy(), dtype=bool)
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
