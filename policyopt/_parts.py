"""Parts of rows: what a policy does in each value of a column; and which rows a fit has used."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.data import GROUP, TARGETS, ExitData, Rows, check_shares
from policyopt._frontier import told
from policyopt._replay import Replay
from policyopt._table import Table
from policyopt.runtime._checks import check_seed
from policyopt.runtime._errors import input_error
from policyopt.runtime._experts import ExpertPolicy
from policyopt.runtime._typing import Array

COLUMNS = ("context", "label", "group")
#: More parts than this are no parts: each would be a handful of rows.
MOST_PARTS = 1000


def by_part(
    outcome: Replay, parts: Any, seed: int = 0, span: float | None = None
) -> list[dict[str, Any]]:
    """Return what a policy did in each part of the rows: cost and quality with intervals, exit shares, coverage.

    Parameters
    ----------
    outcome : Replay
        From `evaluate`.
    parts : array of shape (N,)
        Name or number of each row's part; an empty text, None or NaN is none.
    seed : int
        Of the resampling; groups are resampled whole.
    span : float, optional
        How far rows' costs may lie apart on average, such as the policy's; default the largest less the least.

    Returns
    -------
    list of dict
        In the order of names: ``part``, the fields of `policyopt evaluate`, and ``worst``: whether quality is least.

    Raises
    ------
    InputError
        Not one value per row, or more than 1,000 parts.

    Examples
    --------
    >>> import policyopt as po
    >>> probs = np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.6, 0.4], [0.1, 0.9]]])
    >>> data = po.from_arrays(probs, [0, 0], costs=[1, 4], unit="ms", split={"test": 1.0})
    >>> outcome = po.evaluate(po.fit(data, split="test", method="max_prob", thresholds=[0.8]), data)
    >>> [(r["part"], r["quality"], r["worst"]) for r in po.by_part(outcome, ["day", "night"])]
    [('day', 1.0, False), ('night', 0.0, True)]
    """
    names, at = numbered(parts, len(outcome.exit), "parts")
    of_all = (
        float(np.ptp(outcome.cost)) if span is None else span,
        bool(outcome.abstained.any()),
        check_seed(seed),
    )
    records: list[dict[str, Any]] = [
        {"part": name, **told(outcome.take(np.flatnonzero(at == g)), *of_all)}
        for g, name in enumerate(names)
    ]
    least = min((r["quality"] for r in records if r["labelled"]), default=None)
    return [{**r, "worst": bool(r["labelled"]) and r["quality"] == least} for r in records]


def numbered(values: Any, rows: int, argument: str) -> tuple[list[str], Array]:
    """Return the names of parts, and of each row the number of its part, -1 for none."""
    given = np.array(values, dtype=object)
    if given.shape != (rows,):
        allowed, got = f"one value for each of the {rows:,} rows", f"shape {given.shape}"
        raise input_error(argument, allowed, got, "Give one per row of the split, in its order.")
    texts = ["" if one is None or one != one else str(one) for one in given]  # NaN is not itself
    found, at = np.unique(texts, return_inverse=True)
    rank = [(not name.isdecimal(), name.zfill(20), i) for i, name in enumerate(found) if name]
    order = [i for *_, i in sorted(rank)]
    if len(order) > MOST_PARTS:
        step = "Join values, and give a file or an array with one per row."
        raise input_error(argument, f"of {MOST_PARTS:,} values or fewer", f"{len(order):,}", step)
    place = np.full(len(found), -1)
    place[order] = np.arange(len(order))
    return found[order].tolist(), place[at]


def is_column(by: Any) -> bool:
    """Whether parts are said by a value per row, and not by names of streams."""
    text = str(by) if isinstance(by, (str, Path)) else ""
    return isinstance(by, np.ndarray) or text in COLUMNS or text.endswith((".npy", ".csv"))


def column(data: ExitData, table: Table, by: Any, argument: str = "by") -> Array:
    """Return the part of each of a table's rows, (N,): by context, label, group, a file, or a value per row."""
    labels, context, codes = table.statistics.labels, table.context, table.group
    if not is_column(by):
        allowed = f"{', '.join(COLUMNS)}, or a file with a value per row (.npy, .csv)"
        raise input_error(argument, allowed, by, f"E.g. --{argument} label.")
    if isinstance(by, np.ndarray) or by not in COLUMNS:
        values, whole = by, len(table) if table.source is None else len(table.source)
        if not isinstance(by, np.ndarray):
            values = _read(Path(by), argument, (len(table), whole))
        pooled = table.places is not None and len(values) == whole
        return values[table.places] if pooled else values
    if by == "context" and context is not None:
        return np.array(table.contexts)[context]
    if by == "group" and codes is not None:
        return codes
    if by == "label" and labels is not None:
        named: Any = data.metadata.get("class_names")
        known = isinstance(named, list) and len(named) > labels.max(initial=0)
        names = np.array([*(named if known else range(labels.max(initial=0) + 1)), ""]).astype(str)
        return names[labels]  # of -1 the last: none
    step = f"Import with the key {by}, or give a file with a value per row (.npy, .csv)."
    raise input_error(argument, f"a column of split '{table.split}'", f"{by}, which it lacks", step)


def _read(path: Path, argument: str, rows: tuple[int, int]) -> Array:
    """Return the values of a file, without a header, and without lines left empty at its end."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        lines = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
        if wide := [i for i, line in enumerate(lines, 1) if len(line) > 1]:
            raise ValueError(f"line {wide[0]} has several columns")
        values = [line[0].strip() if line else "" for line in lines]
        while len(values) - 1 > max(rows) and not values[-1]:
            values.pop()
        # A header; or values, of which the first comes again, and an empty line.
        if len(values) - 1 in rows:
            values.pop(-1 if not values[-1] and values[0] in values[1:] else 0)
        return np.array(values, dtype=str)
    except (ValueError, OSError, EOFError, csv.Error) as error:
        allowed, got = "a .npy or .csv file with a value per row", f"{path} ({error})"
        raise input_error(argument, allowed, got, "One column, a header or none.") from error


# --- rows that a fit has used ------------------------------------------------------------------


def origins(policy: Any, data: ExitData) -> Iterator[tuple[ExitData, str]]:
    """Return the rows of this cache that fitted a policy: data as they were divided then, and a split."""
    for one in policy.policies if isinstance(policy, ExpertPolicy) else (policy,):
        told: Any = one.provenance
        robust, refit = told.get("robust"), told.get("refit")
        parts = robust.get("parts") if isinstance(robust, Mapping) else None
        parts = [part for part in parts if isinstance(part, Mapping)] if parts else []
        for origin in (told, refit, *({**told, **part} for part in parts)):
            if not isinstance(origin, Mapping) or origin.get("cache") != data.fingerprint:
                continue
            then, pool = data, origin.get("pool")
            if data.pooled and isinstance(pool, Mapping):
                shares, seed = check_shares(pool.get("shares", {})), check_seed(pool.get("seed"))
                then = replace(data, shares=shares, split_seed=seed)
            yield then, str(origin.get("split"))


def took_part(policy: Any, data: ExitData, split: str) -> bool:
    """Whether a split has rows that fitted a policy, others of their groups, or copies of them in a stream."""
    return any(share_rows(data, split, then, other) for then, other in origins(policy, data))


def share_rows(data: ExitData, split: str, then: ExitData, other: str) -> bool:
    """Whether a split has rows, or groups, of another; `then`: the data as they were divided for that."""
    (key, rows), (place, others) = data.rows(split), then.rows(other)
    mine, theirs = data.splits[key], data.splits[place]
    if mine.has(GROUP) and theirs.has(GROUP):
        return bool(np.isin(theirs.array(GROUP)[others], mine.array(GROUP)[rows]).any())
    return alike(data.splits, place, key) and bool(np.isin(others, rows).any())


def alike(splits: Mapping[str, Rows], one: str, other: str) -> bool:
    """Whether two splits are, row by row, of the same inputs: streams of one length and the same truth."""
    if one == other or {one, other} & {"fit", "calibrate"}:
        return one == other
    mine, theirs = splits[one], splits[other]
    truth = next((n for n in ("labels", TARGETS) if mine.has(n) and theirs.has(n)), None)
    return truth is not None and np.array_equal(mine.array(truth), theirs.array(truth))
