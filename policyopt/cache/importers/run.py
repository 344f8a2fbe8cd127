"""`import_sources`: files of any kind to one cache, with a note on all that was not declared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from policyopt.cache.contexts import name_contexts
from policyopt.cache.data import CONTEXT, POOL, ExitData
from policyopt.cache.detect import detect_kind
from policyopt.cache.features import feature_names
from policyopt.cache.files import Progress
from policyopt.cache.importers.costing import resolve, stated_values
from policyopt.cache.importers.keys import Group, group
from policyopt.cache.importers.raw import Raw
from policyopt.cache.importers.sources import label_arrays, listed, read_source, share_labels
from policyopt.cache.importers.turning import Part, divide, turn
from policyopt.cache.layout import COST_PREFIX, natural_dtype
from policyopt.cache.occupant import occupant
from policyopt.cache.orient import check_axes
from policyopt.cache.reader import open_cache
from policyopt.cache.splits import DEFAULT_SHARES
from policyopt.cache.writer import CacheWriter
from policyopt.runtime.errors import InputError, input_error

_PIECE_BYTES = 32 << 20


@dataclass(frozen=True)
class ImportReport:
    """What an import made.

    Parameters
    ----------
    data : ExitData
        The cache, opened.
    notes : tuple of str
        One line on each thing that was decided rather than declared.
    """

    data: ExitData
    notes: tuple[str, ...]


def import_sources(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    axes: str | None = None,
    kind: str | None = None,
    costs: Any = None,
    unit: str | None = None,
    cost_kind: str | None = None,
    cost_name: str | None = None,
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    labels: Any = None,
    overwrite: bool = False,
    dtype: str | None = None,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import files into a cache.

    Parameters
    ----------
    sources : path or sequence of paths
        ``PATH``, or ``SPLIT=PATH`` where a file holds one split. ``.npz``, ``.npy`` with a
        sidecar, ``.safetensors``, ``.pt``/``.pth``, and records as ``.csv``, ``.jsonl``,
        ``.parquet``.
    out : path
        Directory of the cache to make.
    axes : str, optional
        Order of the axes in the files, e.g. ``"KNC"``; found by a check where not given.
    kind : {"logits", "probabilities", "record"}, optional
        Found by key and values where not given.
    costs : sequence of K floats, ``"1,2,4"``, or the name of a cost in the file, optional
        Becomes the default cost.
    unit : str, optional
        Unit of the default cost and of costs whose key does not tell one.
    cost_kind : {"cumulative", "standalone"}, optional
        How all costs are given; default cumulative, with a note.
    cost_name : str, optional
        Name of the values under `costs`; default "cost".
    shares : mapping of str to float, optional
        How a pool of rows is divided; default ``{"fit": 0.5, "test": 0.5}``.
    seed : int, default 0
        Seed of that division.
    labels : array, path, or mapping of split to either, optional
        For files without labels.
    overwrite : bool, default False
        Replace a cache at `out`, once the new one is whole.
    dtype : {"float16", "float32", "float64"}, optional
        Storage type; default keeps float16, makes other outputs float32 (float64: records only).
    allow_pickle : bool, default False
        Load ``.pt`` files that need pickle. **They can run any code.**
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)``.

    Returns
    -------
    ImportReport

    Raises
    ------
    InputError
        A file or an argument is not what it must be. No cache is left behind.
    MissingExtraError
        A package that reads this kind of file is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> place, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    >>> np.savez(
    ...     place / "a.npz",
    ...     logits=rng.normal(size=(2, 50, 10)),
    ...     labels=rng.integers(0, 10, 50),
    ...     costs=[1.0, 3.0],
    ... )
    >>> report = import_sources(
    ...     place / "a.npz", place / "cache", unit="MFLOPs", cost_kind="cumulative"
    ... )
    >>> report.data.split_names, report.data.cost().values
    (('fit', 'test'), (1.0, 3.0))
    >>> print(report.notes[0])
    a.npz: pool logits: axes read as KNC (fits 50 labels)
    """
    if axes is not None:
        axes = check_axes(axes)
    target = Path(out)
    occupant(target, overwrite, "out")  # refuse before the work, not after it
    raws = [read_source(source, allow_pickle) for source in listed(sources)]
    notes: list[str] = []
    groups = [(g, g.rows) for split, raw in raws for g in group(raw, split, kind, axes)]
    for _, raw in raws:
        notes += raw.notes
    share_labels([g for g, _ in groups], label_arrays(labels, allow_pickle), notes)
    hint = len(stated_values(costs)[0] or ())
    parts = [part for g, rows in groups for part in divide(turn(g, hint or _exits(g), notes), rows)]
    _refuse_twice(parts)
    options = {key: text for _, raw in raws for key, text in raw.options.items()}
    stated = resolve(
        parts, costs=costs, unit=unit, kind=cost_kind, name=cost_name, options=options, notes=notes
    )
    found = _settle_kind(parts, notes)
    pooled = any(part.split == POOL for part in parts)
    contexts = _contexts(raws, parts, notes)
    if shares is not None and not pooled:
        raise input_error(
            "split",
            "given only where the rows are one pool",
            f"shares beside the splits {', '.join(part.split for part in parts)} of the file",
            "Leave --split out.",
        )
    if pooled and shares is None:
        notes.append(f"rows divided 50:50 into fit and test by seed {seed}; see --split")
    writer = CacheWriter(
        target,
        costs=stated,
        kind=found,
        dtype=dtype or natural_dtype(found, [part.lead for part in parts]),
        shares=dict(DEFAULT_SHARES) if pooled and shares is None else shares,
        split_seed=seed,
        metadata=_metadata(raws, notes),
        contexts=contexts,
        overwrite=overwrite,
    )
    writer.lists_unfinished = False  # the sources are still there
    with writer:
        _write(writer, parts, progress)
    return ImportReport(open_cache(target, verify=False), tuple(notes))


def _exits(g: Group) -> int:
    return next((len(cost) for cost in g.costs.values() if cost.ndim == 1), 0)


def _refuse_twice(parts: list[Part]) -> None:
    sources: dict[str, str] = {}
    for part in parts:
        if part.split in sources:
            raise input_error(
                "SRC",
                "one source per split",
                f"split {part.split!r} from {sources[part.split]} and {part.source}",
                "Name each: fit=A test=B.",
            )
        sources[part.split] = part.source
    exits = {part.lead.shape[1] for part in parts}
    if len(exits) > 1:
        shown = ", ".join(f"{p.split}: K = {p.lead.shape[1]}" for p in parts)
        raise input_error("SRC", "splits with the same number of exits", shown, "Check the axes.")


def _settle_kind(parts: list[Part], notes: list[str]) -> str:
    for part in parts:
        if part.kind is None:
            part.kind = detect_kind(part.arrays.get("outputs"))
            notes.append(
                f"{part.source}: {part.split} outputs read as {part.kind} (by their values)"
            )
    kinds = {part.split: part.kind for part in parts}
    if len(set(kinds.values())) > 1:
        raise input_error("kind", "the same for all splits", f"{kinds}", "State it with --kind.")
    return parts[0].kind or "record"


def _contexts(
    raws: list[tuple[str | None, Raw]], parts: list[Part], notes: list[str]
) -> tuple[str, ...]:
    """Return the names of the contexts, which all files that state any must share."""
    stated = {
        raw.name: raw.metadata.pop("contexts") for _, raw in raws if "contexts" in raw.metadata
    }
    given = list(stated.values())
    if any(names != given[0] for names in given):
        raise input_error("contexts", "the same in every file", f"{stated}", "Number them alike.")
    columns = [part.arrays.get(CONTEXT) for part in parts]
    if given and all(column is None for column in columns):
        notes.append("contexts are named, but no row has one (key context): left out")
        return ()
    names = name_contexts(given[0] if given else None, columns)
    if names and not given:
        notes.append(f"contexts have no names (key contexts): called {', '.join(names)}")
    return names


def _metadata(raws: list[tuple[str | None, Raw]], notes: list[str]) -> dict[str, Any]:
    """Merge what the files say about themselves; where they differ, by file."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for _, raw in raws for key in raw.metadata):
        values = {raw.name: raw.metadata[key] for _, raw in raws if key in raw.metadata}
        first = next(iter(values.values()))
        merged[key] = first if all(v == first for v in values.values()) else values
    return merged | {"sources": [raw.name for _, raw in raws], "notes": list(notes)}


def _write(writer: CacheWriter, parts: list[Part], progress: Progress | None) -> None:
    total = sum(array.nbytes for part in parts for array in part.arrays.values())
    done = 0
    for part in parts:
        size = sum(array.nbytes for array in part.arrays.values())
        step = max(1, _PIECE_BYTES * len(part.lead) // max(1, size))
        for low in range(0, len(part.lead), step):
            piece = {name: array[low : low + step] for name, array in part.arrays.items()}
            costs = {
                name.removeprefix(COST_PREFIX): piece.pop(name)
                for name in list(piece)
                if name.startswith(COST_PREFIX)
            }
            done += sum(a.nbytes for a in (*piece.values(), *costs.values()))
            # By exit, whatever order they stand in; of every exit or none, as `turn` has seen.
            named = [name for name in feature_names(part.lead.shape[1]) if name in piece]
            vectors = [piece.pop(name) for name in named] or None
            try:
                writer.append(
                    part.split, sample_costs=costs, features=vectors,
                    **cast(dict[str, Any], piece),
                )  # fmt: skip
            except InputError as error:
                raise InputError(f"{part.source}: {error}") from error
            if progress is not None:
                progress(done, total)
