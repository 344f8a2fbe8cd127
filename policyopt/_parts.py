"""Parts of rows: streams, or the values of a column; what a policy does in each, and which rows a fit has used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.data import GROUP, TARGETS, ExitData, Rows, check_shares
from policyopt._frontier import told
from policyopt._replay import Replay
from policyopt._table import Table, Tables
from policyopt.runtime._checks import check_seed
from policyopt.runtime._errors import input_error
from policyopt.runtime._experts import ExpertPolicy
from policyopt.runtime._strict_json import read_plain
from policyopt.runtime._typing import Array

COLUMNS = ("context", "label", "group")
#: More parts than this are no parts: each would be a handful of rows.
MOST_PARTS = 1000
_FILES = (".npy", ".csv")
_MOST_BYTES = 64 << 20


def by_part(outcome: Replay, parts: Any, seed: int = 0) -> list[dict[str, Any]]:
    """Return what a policy did in each part of the rows: cost, quality with intervals, exit shares, coverage.

    Parameters
    ----------
    outcome : Replay
        From `evaluate`.
    parts : array of shape (N,)
        Name or number of each row's part, as `parts_of` returns it; an empty text is none.
    seed : int
        Of the resampling.

    Returns
    -------
    list of dict
        Per part, in the order of names: ``part``, ``worst`` (whether its quality is the least), and the fields of
        `policyopt evaluate`. Groups are resampled whole.

    Raises
    ------
    InputError
        Not one value per row, or more than 1,000 parts.

    Examples
    --------
    >>> import policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> outcome = po.evaluate(po.fit(data, "60%", "max_prob"), data)
    >>> found = po.by_part(outcome, po.parts_of(data, "label"))
    >>> [one["part"] for one in found], sum(one["worst"] for one in found)
    (['0', '1', '2'], 1)
    """
    check_seed(seed)
    names, at = numbered(parts, len(outcome.exit), "parts")
    order, span = np.argsort(at, kind="stable"), float(np.ptp(outcome.cost))
    edges = np.searchsorted(at[order], np.arange(len(names) + 1))
    declines = bool(outcome.abstained.any())
    records = [
        {"part": name, **told(outcome.take(order[low:high]), span, declines, seed)}
        for name, low, high in zip(names, edges, edges[1:], strict=False)
    ]
    least = min((r["quality"] for r in records if r["quality"] is not None), default=None)
    return [{**r, "worst": least is not None and r["quality"] == least} for r in records]


def numbered(values: Any, rows: int, argument: str) -> tuple[list[str], Array]:
    """Return the names of parts, numbers in their order, and of each row the number of its part, -1: none."""
    given = np.asarray(values)
    if given.shape != (rows,):
        allowed, step = f"one value per row: {rows:,}", "Of the split that is looked at."
        raise input_error(argument, allowed, f"shape {given.shape}", step)
    found, at = np.unique(given.astype(str), return_inverse=True)
    order = sorted(range(len(found)), key=lambda i: (not found[i].isdecimal(), found[i].zfill(20)))
    order = [i for i in order if found[i]]
    if len(order) > MOST_PARTS:
        step = "Join values: --over FILE.csv with a value per row."
        raise input_error(argument, f"of {MOST_PARTS:,} values or fewer", f"{len(order):,}", step)
    place = np.full(len(found), -1)
    place[order] = np.arange(len(order))
    return [str(found[i]) for i in order], place[at]


def parts_of(data: ExitData, by: Any, split: str = "test") -> Array:
    """Return the part of each row of a split, as `by_part` takes it.

    Parameters
    ----------
    data : ExitData
    by : str, path or array
        ``"context"``, ``"label"`` (the class), ``"group"``, or a value per row: an array, or a file (.npy, .csv).
    split : str

    Returns
    -------
    array of shape (N,)
        Texts; an empty one where a row has no label.

    Raises
    ------
    InputError
        No such column or file, or not one value per row.

    Examples
    --------
    >>> import policyopt as po
    >>> data = po.from_arrays(np.zeros((4, 2, 3)), [0, 1, 2, 0], costs=[1, 2], split={"test": 1.0})
    >>> po.parts_of(data, "label").tolist()
    ['0', '1', '2', '0']
    """
    return column(data, Tables(data).get(split), by)


def is_column(by: Any) -> bool:
    """Whether parts are said by a value per row, and not by names of streams."""
    text = str(by) if isinstance(by, (str, Path)) else ""
    return isinstance(by, np.ndarray) or text in COLUMNS or Path(text).suffix in _FILES


def column(data: ExitData, table: Table, by: Any) -> Array:
    """Return the part of each of a table's rows, (N,) texts."""
    if not is_column(by):
        allowed = f"{', '.join(COLUMNS)}, a value per row, or a file of them (.npy, .csv)"
        raise input_error("by", allowed, by, "E.g. label.")
    split, text, labels = f"split '{table.split}'", str(by), table.statistics.labels
    if isinstance(by, np.ndarray) or text not in COLUMNS:
        whole = len(table) if table.source is None else len(table.source)
        values = by if isinstance(by, np.ndarray) else _read(Path(text), (len(table), whole))
        if table.places is not None and values.shape == (whole,) and whole != len(table):
            values = values[table.places]  # a value per row of the pool
        return values.astype(str)
    if text == "context":
        if table.context is None:
            step = "Import with a key 'context' (Python: context=), or give a file of values."
            raise input_error(split, "one whose rows have a context", "rows without", step)
        return np.array(table.contexts)[table.context]
    if text == "group":
        if table.group is None:
            step = "The key 'group' says which rows belong together; context names categories."
            raise input_error(split, "one whose rows have groups", "rows without", step)
        return table.group.astype(str)
    if labels is None:
        raise input_error(split, "one whose rows have labels", "rows without", "Import them.")
    called: Any = data.metadata.get("class_names")
    known = isinstance(called, list) and len(called) > int(labels.max(initial=0))
    names = np.array(list(map(str, called))) if known else np.arange(labels.max(initial=0) + 1)
    return np.where(labels >= 0, names.astype(str)[labels], "")


def _read(path: Path, rows: tuple[int, int]) -> Array:
    """Read a value per row: an array, or lines of text below a header or none."""
    if not path.is_file():
        raise input_error("by", "a file that is there", str(path), "Check the path.")
    if path.suffix == ".npy":
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            step = "Save numbers or texts with numpy.save."
            raise input_error("by", "a .npy file of values", f"{path} ({error})", step) from error
    text = read_plain(path, "by", _MOST_BYTES, "Save it as .npy.").decode("utf-8-sig", "replace")
    lines = [line.strip().strip('"') for line in text.splitlines()]
    if any("," in line for line in lines):
        raise input_error("by", "one column", f"several in {path}", "Keep the one that is meant.")
    head = len(lines) not in rows and len(lines) - 1 in rows
    return np.array(lines[head:])


# --- rows that a fit has used ------------------------------------------------------------------


def origins(policy: Any, data: ExitData) -> Iterator[tuple[ExitData, str]]:
    """Return the rows of this cache that a policy was fitted on: data as they were divided then, and a split."""
    for one in policy.policies if isinstance(policy, ExpertPolicy) else (policy,):
        provenance = one.provenance
        robust = provenance.get("robust")
        parts = robust.get("parts") if isinstance(robust, Mapping) else None
        more = [{**provenance, **p} for p in parts if isinstance(p, Mapping)] if isinstance(parts, list) else []
        for origin in (provenance, provenance.get("refit"), *more):
            if not isinstance(origin, Mapping) or origin.get("cache") != data.fingerprint:
                continue
            then, pool = data, origin.get("pool")
            if data.pooled and isinstance(pool, Mapping):
                shares, seed = check_shares(pool.get("shares", {})), check_seed(pool.get("seed"))
                then = replace(data, shares=shares, split_seed=seed)
            yield then, str(origin.get("split"))


def took_part(policy: Any, data: ExitData, split: str) -> bool:
    """Whether a split has rows that fitted a policy, others of their groups, or copies of them in another stream."""
    return any(share_rows(data, split, then, other) for then, other in origins(policy, data))


def share_rows(data: ExitData, split: str, then: ExitData, other: str) -> bool:
    """Whether a split has rows, or groups, of another; `then`: the data as they were divided for that."""
    (key, rows), (place, others) = data.rows(split), then.rows(other)
    mine, theirs = data.splits[key], data.splits[place]
    if mine.has(GROUP) and theirs.has(GROUP):
        return bool(np.isin(theirs.array(GROUP)[others], mine.array(GROUP)[rows]).any())
    alike = place == key or alike_rows(data.splits, place, key)
    return alike and bool(np.isin(others, rows).any())


def alike_rows(splits: Mapping[str, Rows], one: str, other: str) -> bool:
    """Whether rows of two splits are, number by number, the same inputs: streams of one length and the same truth."""
    if {one, other} & {"fit", "calibrate"}:
        return False
    pair = splits[one], splits[other]
    truth = next((n for n in ("labels", TARGETS) if all(rows.has(n) for rows in pair)), None)
    return truth is not None and np.array_equal(*(rows.array(truth) for rows in pair))
