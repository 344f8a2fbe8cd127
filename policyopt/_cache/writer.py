"""`CacheWriter`: streams rows into a cache that survives a crash at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache import data
from policyopt._cache.blocks import normalise, own, storage_type
from policyopt._cache.data import Layout
from policyopt._cache.files import sha256_file
from policyopt._cache.manifest import (
    MANIFEST,
    UNFINISHED,
    Manifest,
    Shard,
    check_metadata,
    dump,
    moment,
    window,
)
from policyopt._cache.places import Store, place_of
from policyopt._cache.reader import open_manifest, read_manifest
from policyopt._cache.shards import StoredShard
from policyopt._cache.statistics import FOLDER, clear, worth_keeping
from policyopt._costs import Cost
from policyopt._measures import measure_of
from policyopt._optional import need
from policyopt.runtime._checks import check_seed, check_whole
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._experts import checked_names
from policyopt.runtime._files import LOCK, TEMPORARY, FileLock, put, refusing, sync_folder
from policyopt.runtime._typing import Array

#: Names of shards: split, number, the beginning of their SHA-256.
_SHARD = re.compile(r"[A-Za-z0-9_.-]{1,64}-(\d{5,})-([0-9a-f]{16})\.safetensors")


class CacheWriter:
    """Write a cache batch by batch, from inside any inference loop.

    Rows are checked when they are appended, buffered per split, and written as shards of about
    `shard_bytes`. The ``with`` block locks the directory: a second writer, in any process, is
    refused. When it ends without an exception, one rename of the manifest makes the cache what is
    read there; until then an older one stays whole. After an exception or a crash, the finished
    shards can be read with ``open_cache(..., incomplete=True)``; the next writer removes them.

    Parameters
    ----------
    path : path
        Directory to make. One that holds a cache is refused unless `overwrite`; one that holds
        anything else is always refused (a lone README.md, the data card, is let be).
    costs : Cost or sequence of Cost
        Values None = given per sample with every batch. The first is the default.
    kind : str, default "logits"
        What the rows are: ``logits``, ``probabilities``, ``logit`` (one, binary), ``probability`` (its
        sigmoid), ``multilabel`` (logits), ``multilabel_probabilities``, ``regression``,
        ``regression_variances`` or ``summary``.
    dtype : {"float16", "float32", "float64"}, default "float32"
        Storage type of outputs and confidences (float64: summaries only).
    classes : int, optional
        C; taken from the outputs where not given. For summaries it bounds labels and predictions.
    shares : mapping of str to float, optional
        How the split ``pool`` is divided; default ``{"fit": 0.5, "test": 0.5}`` where it is used.
    split_seed : int, default 0
        Seed of that division.
    metadata : mapping, optional
        Free, JSON-able.
    contexts : sequence of str, optional
        Names of the contexts where every row has one (see `policyopt.fit_experts`).
    quality_of : {"subset", "hamming", "jaccard"}, optional
        Worth of sets of labels: whether all are right (default), the share that are, or Jaccard's index.
    error_scale : float, optional
        Needed for a regression: the error at which an answer is worth 1/e; quality is ``exp(-error / scale)``.
    shard_bytes : int, default 64 MiB
        Size at which a shard is written.
    overwrite : bool, default False
        Replace the cache at `path`, once the new one is whole; or an unfinished one.
    append : bool, default False
        Add rows to the cache at `path`, where there is one: its costs, kind and the rest hold, and need not be said.
        Until the end it is read as it was. What is kept of its rows (`statistics`) stays.
    time : str, optional
        Of appended rows, for windows: ``"2026-11-30"`` or with a time, UTC; default now.
    retain : str or int, optional
        Appending, drop what is older: keep the last ``"30d"``, ``"12h"`` or number of rows of each split, see
        `open_cache`.

    Raises
    ------
    InputError
        An argument is not what it must be; `path` is taken, or another writer is at it; the lock
        was lost, the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> place = tempfile.mkdtemp()
    >>> with po.CacheWriter(place, costs=[po.Cost("latency", "ms", [1.5, 4.0])]) as cache:
    ...     for _ in range(3):  # K = 2 exits, C = 10 classes
    ...         exits = [rng.normal(size=(8, 10)) for _ in range(2)]
    ...         cache.append("fit", exits, rng.integers(0, 10, 8))
    >>> sorted(file.name for file in Path(place).iterdir())
    ['fit-00000-....safetensors', 'manifest.json']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        costs: Cost | Sequence[Cost] | None = None,
        kind: str = "logits",
        dtype: str = "float32",
        classes: int | None = None,
        shares: Mapping[str, float] | None = None,
        split_seed: int = 0,
        metadata: Mapping[str, Any] | None = None,
        contexts: Sequence[str] = (),
        quality_of: str | None = None,
        error_scale: float | None = None,
        shard_bytes: int = 64 << 20,
        overwrite: bool = False,
        append: bool = False,
        time: str | None = None,
        retain: str | int | None = None,
    ) -> None:
        self._append, self._retain, self._time = append, retain, ""
        self._before = dict[str, frozenset[str]]()  # arrays of the splits that are appended to
        self.path = place_of(path)
        self._old = standing_cache(self.path, overwrite or append)
        if not append and (time is not None or retain is not None):
            raise input_error("time, retain", "given with append", "without", "append=True.")
        if append:
            if overwrite:
                raise input_error("overwrite", "absent with append", "both", "Leave one out.")
            window((), None, retain)  # refuses what it cannot be
            now = datetime.now(UTC) if time is None else moment("time", time)
            self._time = now.isoformat(timespec="seconds")
            if retain is not None and now > datetime.now(UTC) + timedelta(days=1):
                step = "Mend it: all other rows would be too old to stay."
                raise input_error("time", "no later than now, with retain", time, step)
        if append and costs is None and self._old is not None:
            costs = self._old.layout.costs
        given = (costs,) if isinstance(costs, Cost) else costs
        if not isinstance(given, Sequence) or not all(isinstance(c, Cost) for c in given):
            step = "E.g. [Cost('compute', 'MMACs', [1, 2])]."
            step = f"There is no cache at {self.path} yet. {step}" if append else step
            raise input_error("costs", "a sequence of Cost", costs, step)
        given = tuple(given)
        measure = measure_of(kind, quality_of, error_scale)
        named = checked_names(contexts, 0)
        layout = Layout(kind, 0, classes or 0, dtype, given, contexts=named, measure=measure)
        self._shares = None if shares is None else data.check_shares(shares)
        self._manifest = Manifest(layout, {}, check_seed(split_seed), check_metadata(metadata))
        self._shard_bytes = check_whole("shard_bytes", shard_bytes)
        self._buffers: dict[str, _Buffer] = {}
        self._hashes: dict[str, Array] = {}
        self._state = "new"  # new -> open -> closed
        self._overwrite, self._made, self._done = overwrite or append, False, False
        # A store has no lock: its manifest is replaced where it still has the tag that it had at first.
        local, self._tag = self.path if isinstance(self.path, Path) else None, ""
        self._lock = FileLock(local / LOCK, local) if local else None
        #: What was decided rather than declared, once it is closed.
        self.notes: list[str] = []
        #: Whether finished shards are listed as they come, for who must go on without the rest.
        self.lists_unfinished = True

    def __enter__(self) -> CacheWriter:
        if self._state != "new":
            raise input_error("CacheWriter", "entered once", "a second time", "Make another one.")
        self._state = "closed"
        with refusing(str(self.path)):
            if isinstance(self.path, Path):
                self._made = not self.path.exists()
                self.path.mkdir(parents=True, exist_ok=True)
            else:
                self._tag = (self.path.find(MANIFEST) or (0, ""))[1]
            try:
                if self._lock:
                    self._lock.__enter__()
                self._old = _standing(self.path, self._overwrite)  # now that no one else writes
                if self._lock:
                    _sweep(self.path)
                if self._append and self._old is not None:
                    self._begin_after(self._old)
            except BaseException:
                self._leave()
                raise
        self._state = "open"
        return self

    def _begin_after(self, old: Manifest) -> None:
        """Go on where the cache that stands there ends."""
        if not old.complete:
            step = "Write it anew (overwrite=True)."
            raise input_error("path", "a complete cache", f"{self.path}, an unfinished one", step)
        mine = self._manifest.layout
        if mine.costs != old.layout.costs or mine.kind not in ("logits", old.layout.kind):
            got = f"{mine.kind}; {', '.join(c.name for c in mine.costs)}"
            step = "Leave them out: those of the cache hold."
            raise input_error("costs and kind", "those of the cache, to append", got, step)
        told = self._manifest.metadata
        for name in ("class_names", "names"):
            if told.get(name) != old.metadata.get(name, told.get(name)):
                step = "Name and order them as there: rows keep their numbers."
                raise input_error(name, f"as there: {old.metadata[name]}", told[name], step)
        self._manifest = replace(old, complete=False, metadata={**told, **old.metadata})
        self._shares = dict(old.shares) or None
        for name, rows in open_manifest(self.path, old, verify=False).splits.items():
            self._before[name] = frozenset(rows.blocks[0])

    def append(
        self,
        split: str,
        outputs: Any = None,
        labels: Any = None,
        *,
        axes: str = "NKC",
        prediction: Any = None,
        confidence: Any = None,
        top_prob: Any = None,
        entropy: Any = None,
        correct: Any = None,
        quality: Any = None,
        sample_costs: Mapping[str, Any] | None = None,
        features: Sequence[Any] | None = None,
        context: Any = None,
        group: Any = None,
        query: Any = None,
        variances: Any = None,
        top_logits: Any = None,
        top_classes: Any = None,
        rest: Any = None,
    ) -> None:
        """Check a batch of n rows and add it to a split; all of it or, on an error, nothing.

        Parameters
        ----------
        split : str
            ``fit``, ``calibrate``, ``test``, another name for a stream, or ``pool``.
        outputs : array of shape (n, K, C), or sequence of K arrays of shape (n, C)
            Logits or probabilities; numpy or torch on any device. Logits may be ``-inf``. Of one number
            per row, (n, K) does, too.
        labels : array of shape (n,), optional
            Whole numbers in [0, C), -1 where unknown. Of several labels (n, C), 0 and 1; of a regression the
            true values, (n,) or (n, D).
        axes : str, default "NKC"
            Order of the axes of all arrays, e.g. ``"KNC"``.
        prediction : array of shape (n, K)
            Summaries: class numbers, -1 where there was no answer.
        confidence : array of shape (n, K)
            Summaries: in [0, 1]. The last exit's may be left out, or all where `quality` or `correct` says
            what answers are worth; it is then 1 for every row, which tells none from another.
        top_prob : array of shape (n, K, T), optional
            Summaries: the T largest probabilities, largest first.
        entropy : array of shape (n, K), optional
            Summaries: in nats.
        correct : array of shape (n, K), optional
            Summaries: booleans; must agree with `prediction` and `labels`.
        quality : array of shape (n, K), optional
            Graded worth of the exits' answers, in [0, 1]; it goes before `labels` and `correct`, and needs neither
            them nor `prediction`.
        sample_costs : mapping of str to array of shape (n, K), optional
            Cumulative cost per sample of each Cost whose values are None.
        features : sequence of K arrays of shape (n, D_k), optional
            The model's feature vectors at each exit, for every batch or for none.
        context : array of shape (n,), optional
            Number of each row's context, 0 for the first of `contexts`; `outputs` are its expert's.
        group : array of shape (n,), optional
            Whole numbers or names of what rows belong to (a patient, a video, a conversation): rows of one group
            are never divided, and resampled together.
        query : array of shape (n, D) or (n,), optional
            What is known of a row before any model is asked (an embedding, a length, a router's score), which
            `routing` chooses the first model by; for every batch or for none.
        variances : array as `outputs`, optional
            Kind ``regression_variances``: predicted variances of the values.
        top_logits, top_classes, rest : arrays of shape (n, K, M), (n, K, M), (n, K), optional
            Of `classes` classes the largest logits, largest first, which they are, the log of the rest's sum of exp.

        Raises
        ------
        InputError
            An array has wrong axes or a value that is not allowed; the first place is named.
        """
        arrays = {n: a for n, a in dict(locals()).items() if n not in ("self", "split", "axes")}
        self.add(split, arrays, axes)

    def add(self, split: str, arrays: Mapping[str, Any], axes: str = "NKC") -> None:
        """Append row arrays named as in `Rows` or as the arguments of `append`."""
        if self._state != "open":
            step = "Write `with CacheWriter(...) as cache:`."
            raise input_error("append", "inside the `with` block", f"a {self._state} writer", step)
        self._check_lock()
        data.check_name("split", split)
        if self._append and data.POOL in (split, *self._before):
            step = "Import its rows as named splits (fit=A.npz test=B.npz), and append to a stream (recent=C.npz)."
            allowed = "of a cache with named splits: a pool is divided anew with every row"
            raise input_error("append", allowed, f"a {data.POOL}", step)
        shares = self._shares
        if shares is None:
            shares = data.DEFAULT_SHARES if split == data.POOL else {}
        data.check_pool({split, *self._buffers, *self._before}, shares)
        buffer = self._buffers.get(split) or _Buffer()
        layout, block = normalise(self._manifest.layout, arrays, axes, split, buffer.rows)
        before = self._before.get(split, block.keys())
        if block.keys() != before - {"prediction"} and block.keys() != before:
            got, step = f"{sorted(block)}", "Give the same arrays."
            # A group is of the user's, or made of rows that repeat others.
            if data.GROUP in before - block.keys():
                step += " A group is a number per row, one of its own where it stands alone."
            raise input_error(f"split {split}", f"of the arrays {sorted(before)}", got, step)
        buffer.fix(split, layout, block, self._shard_bytes)
        self._manifest = replace(self._manifest, layout=layout, shares=shares)
        self._buffers[split] = buffer
        for ready in buffer.add(layout, block):
            self._write(split, ready)

    @property
    def layout(self) -> Layout:
        """What all rows have in common, as far as it is known."""
        return self._manifest.layout

    def _write(self, split: str, block: dict[str, Array]) -> None:
        """Write one shard, atomically, under a name that tells its content: an old cache's stay whole."""
        with refusing(str(self.path)):
            content = need("safetensors.numpy", "fit", "to write a cache").save(block)
            digest = hashlib.sha256(content).hexdigest()
            rows = len(next(iter(block.values())))
            twice = (s for s in self._manifest.shards if (s.split, s.sha256) == (split, digest))
            if self._append and (old := next(twice, None)):
                step = "Was it appended twice? What stands there was left alone."
                got = f"the {rows} rows of {old.time or 'the beginning'} again"
                raise input_error(f"split {split}", "appended rows that are new", got, step)
            file = f"{split}-{self._number():05d}-{digest[:16]}.safetensors"
            _put(self.path, file, content)
            if isinstance(self.path, Store):  # what is there need not be fetched for that
                self._hashes[file] = data.row_hashes(data.Rows((data.filled(block),)))
            shard = Shard(file, split, rows, len(content), digest, self._time)
            self._manifest = replace(self._manifest, shards=(*self._manifest.shards, shard))
            if self.lists_unfinished:
                _put(self.path, UNFINISHED, dump(self._manifest))

    def _check_lock(self) -> None:
        if self._lock:
            self._lock.check()

    def _number(self) -> int:
        """Return the number of the next shard; those that were retained keep theirs."""
        found = [_SHARD.fullmatch(shard.file) for shard in self._manifest.shards]
        return 1 + max((int(match[1]) for match in found if match), default=len(found) - 1)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._state = "closed"
        try:
            if kind is None:
                self._finish()
        finally:
            self._leave()

    def _finish(self) -> None:
        """Write the rest, check the whole, and switch to it."""
        self._check_lock()
        rows = {name: buffer.waiting for name, buffer in self._buffers.items()}
        for shard in self._manifest.shards:
            rows[shard.split] = rows.get(shard.split, 0) + shard.rows
        data.check_splits(rows, self._manifest.shares)
        for split, buffer in self._buffers.items():
            for ready in buffer.rest():
                self._write(split, ready)
        grown = {*self._buffers} & {*data.RESERVED}
        self._buffers.clear()
        if self._append:
            mine = window(self._manifest.shards, None, self._retain)
            if gone := [shard for shard in self._manifest.shards if shard not in mine]:
                told = f"{sum(shard.rows for shard in gone)} rows, the newest of {max(s.time for s in gone)}"
                self.notes.append(f"not retained ({self._retain}) and gone: {told}")
            self._manifest = replace(self._manifest, shards=mine)
        if not self._before:
            self._keep_equal_rows()
        whole = replace(self._manifest, complete=True)
        if grown:
            data.refuse_overlap(self._reopened(whole))
        self._check_lock()
        with refusing(str(self.path)):
            if self._made and isinstance(self.path, Path):
                sync_folder(self.path.parent)
            _put(self.path, MANIFEST, dump(whole), self._tag)
        if isinstance(self.path, Path) and not (self._append and worth_keeping(whole.shards)):
            clear(self.path)  # of what was overwritten
        self._done = True

    def _reopened(self, manifest: Manifest) -> Mapping[str, data.Rows]:
        """Return the rows that were written; of a store's, hashes as they were when they were."""
        splits = open_manifest(self.path, manifest, verify=False).splits
        for block in (block for rows in splits.values() for block in rows.blocks):
            if isinstance(block, StoredShard):
                block.hashes = self._hashes.get(block.shard.file)
        return splits

    def _keep_equal_rows(self) -> None:
        """Make groups of the rows of a split that are equal, and write its shards anew."""
        manifest = replace(self._manifest, complete=True)
        splits = self._reopened(manifest)
        found = data.equal_rows(splits, self.notes)
        if not found:
            return
        told = [*manifest.metadata.get("notes", []), *self.notes]
        self._manifest = replace(
            self._manifest, shards=(), metadata={**manifest.metadata, "notes": told}
        )
        blocks = {split: iter(splits[split].blocks) for split in found}
        for shard in manifest.shards:  # in their order
            if shard.split not in found:
                self._manifest = replace(self._manifest, shards=(*self._manifest.shards, shard))
                continue
            block, group = next(blocks[shard.split]), found[shard.split]
            kept = {n: np.ascontiguousarray(a) for n, a in block.items() if a.strides[0]}
            self._write(shard.split, {**kept, data.GROUP: group[: shard.rows]})
            found[shard.split] = group[shard.rows :]

    def _leave(self) -> None:
        """Remove what is neither read nor to be kept, and unlock the directory."""
        with contextlib.suppress(OSError, InputError):  # what stays, the next writer removes
            if self._lock is None or self._lock.held():
                if self._done:
                    _sweep(self.path)
                elif self._lock and not (self.lists_unfinished and self._manifest.shards):
                    # Where the disk failed at the switch, either may be the one that is read.
                    _sweep(self.path, keep=self._old)
        if self._lock:
            self._lock.__exit__(None, None, None)
        if self._made and isinstance(self.path, Path):
            with contextlib.suppress(OSError):  # it holds something
                self.path.rmdir()


class _Buffer:
    """Rows of one split that wait for their shard; cut at fixed rows, whatever the batches."""

    def __init__(self) -> None:
        self.rows = self.waiting = self.size = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.pieces: list[dict[str, Array]] = []

    def fix(self, split: str, layout: Layout, block: dict[str, Array], shard_bytes: int) -> None:
        """Take the first batch's arrays for all; refuse one with others."""
        shapes = {name: array.shape[2:] for name, array in block.items()}
        if not self.size:
            row = sum(a[:1].size * storage_type(n, layout).itemsize for n, a in block.items())
            self.size, self.shapes = max(1, shard_bytes // row), shapes
        if shapes != self.shapes:
            allowed = f"of the arrays {sorted(self.shapes)} in every batch"
            got = f"{sorted(shapes)} {sorted(shapes.values())}"
            raise input_error(f"split {split}", allowed, got, "Give the same ones.")

    def add(self, layout: Layout, block: dict[str, Array]) -> Iterator[dict[str, Array]]:
        """Take the rows in; yield a block whenever a shard is full."""
        rows, low = len(next(iter(block.values()))), 0
        while low < rows:
            count = min(self.size - self.waiting, rows - low)
            self.pieces.append({n: own(layout, n, a[low : low + count]) for n, a in block.items()})
            self.waiting, self.rows, low = self.waiting + count, self.rows + count, low + count
            if self.waiting == self.size:
                yield from self.rest()

    def rest(self) -> Iterator[dict[str, Array]]:
        """Yield what waits, as one block."""
        if self.pieces:
            names = self.pieces[0]
            block = {n: np.concatenate([piece[n] for piece in self.pieces]) for n in names}
            self.pieces, self.waiting = [], 0
            yield block


# --- what stands there already -----------------------------------------------------------------


def _put(place: Path | Store, name: str, data: bytes, tag: str | None = None) -> None:
    """Write a file whole or not at all."""
    if isinstance(place, Store):
        place.put(name, data, tag)
    else:
        put(place / name, data)


def standing_cache(path: Path | Store, overwrite: bool, argument: str = "path") -> Manifest | None:
    """Return the manifest of the cache that `path` holds and may be replaced, if any; all else is refused."""
    with refusing(str(path)):
        if not isinstance(path, Path) or not (path / LOCK).exists():
            return _standing(path, overwrite, argument)
        with FileLock(path / LOCK, path):  # refuses where a writer is at it
            return _standing(path, overwrite, argument)


def _standing(path: Path | Store, overwrite: bool, argument: str = "path") -> Manifest | None:
    if isinstance(path, Path):
        if not os.path.lexists(path):
            return None
        if not path.is_dir():
            raise input_error(argument, "a directory", f"{path} (a file)", "Choose another place.")
    names = _names(path) - {"README.md", LOCK, FOLDER}
    wanted = "a new or empty directory, or a policyopt cache"
    if not names & {MANIFEST, UNFINISHED}:
        if all(_is_left(path, name) for name in names):
            return None
        raise input_error(argument, wanted, f"{path}", "Other files stand there: choose another.")
    try:
        manifest = read_manifest(path)
    except InputError as error:
        raise input_error(argument, wanted, f"{path} ({error})", "Choose another place.") from error
    if not overwrite:
        got = f"{path}, which holds a{'' if manifest.complete else 'n unfinished'} cache"
        step = "Choose another place, or replace it with --overwrite (Python: overwrite=True), or add to it: --append."
        raise input_error(argument, "a new or empty directory", got, step)
    return manifest


def _names(place: Path | Store) -> set[str]:
    """Return the names of what stands in a place."""
    return {one.name for one in place.iterdir()} if isinstance(place, Path) else {*place.listing()}


def _sweep(path: Path | Store, keep: Manifest | None = None) -> None:
    """Remove what writers left in a locked folder: temporary files, shards that no list there or `keep` names."""
    there = _names(path)
    lists = [keep] if keep else []
    lists += [read_manifest(path)] if there & {MANIFEST, UNFINISHED} else []
    kept = {shard.file for one in lists for shard in one.shards}
    kept |= {MANIFEST, "README.md", LOCK, FOLDER}
    kept |= set() if MANIFEST in there else {UNFINISHED}
    for name in there - kept:
        with contextlib.suppress(OSError, InputError):  # the next writer tries again
            if _is_left(path, name):
                path.remove(name) if isinstance(path, Store) else (path / name).unlink()


def _is_left(path: Path | Store, name: str) -> bool:
    """Whether a file is a writer's own: temporary, an unfinished list, or a shard of the checksum in its name."""
    if name.startswith(".") and name.endswith(TEMPORARY):
        name = name[1:].removesuffix(TEMPORARY)
        return name in (MANIFEST, UNFINISHED) or _SHARD.fullmatch(name) is not None
    shard = _SHARD.fullmatch(name)
    if isinstance(path, Store):  # where looking inside would be to read it all
        return shard is not None or name == UNFINISHED
    if not shard or (path / name).is_symlink() or not (path / name).is_file():
        return name == UNFINISHED
    return sha256_file(path / name, name).startswith(shard[2])
