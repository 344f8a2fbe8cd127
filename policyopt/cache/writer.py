"""`CacheWriter`: streams rows into a cache that survives a crash at any moment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from policyopt.cache.buffer import Buffer
from policyopt.cache.checks import check_block
from policyopt.cache.data import POOL
from policyopt.cache.layout import COST_PREFIX, Layout, check_name, to_block
from policyopt.cache.manifest import MANIFEST, REPLACED, UNFINISHED, Manifest, check_metadata, dump
from policyopt.cache.occupant import occupant, standing, sweep
from policyopt.cache.orient import orient
from policyopt.cache.overlap import refuse_overlap
from policyopt.cache.reader import open_manifest
from policyopt.cache.shard import write_shard
from policyopt.cache.splits import DEFAULT_SHARES, check_shares, check_splits
from policyopt.costs import Cost
from policyopt.runtime.checks import check_seed
from policyopt.runtime.contexts import checked_names
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.files import LOCK, FileLock, put, refusing, sync_folder
from policyopt.runtime.typing import Array


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
    kind : {"logits", "probabilities", "record"}, default "logits"
        What the rows are.
    dtype : {"float16", "float32", "float64"}, default "float32"
        Storage type of outputs and confidences (float64: records only).
    classes : int, optional
        C; taken from the outputs where not given. For records it bounds labels and predictions.
    shares : mapping of str to float, optional
        How the split ``pool`` is divided; default ``{"fit": 0.5, "test": 0.5}`` where it is used.
    split_seed : int, default 0
        Seed of that division.
    metadata : mapping, optional
        Free, JSON-able.
    contexts : sequence of str, optional
        Names of the contexts where every row has one (see `policyopt.experts`).
    shard_bytes : int, default 64 MiB
        Size at which a shard is written.
    overwrite : bool, default False
        Replace the cache at `path`, once the new one is whole; or an unfinished one.

    Raises
    ------
    InputError
        An argument is not what it must be; `path` is taken, or another writer is at it; the lock
        was lost, the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> place = tempfile.mkdtemp()
    >>> with CacheWriter(place, costs=[Cost("latency", "ms", [1.5, 4.0])]) as cache:
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
        costs: Cost | Sequence[Cost],
        kind: str = "logits",
        dtype: str = "float32",
        classes: int | None = None,
        shares: Mapping[str, float] | None = None,
        split_seed: int = 0,
        metadata: Mapping[str, Any] | None = None,
        contexts: Sequence[str] = (),
        shard_bytes: int = 64 << 20,
        overwrite: bool = False,
    ) -> None:
        several = isinstance(costs, Sequence) and all(isinstance(c, Cost) for c in costs)
        if not several and not isinstance(costs, Cost):
            raise input_error(
                "costs", "a sequence of Cost", costs, "E.g. [Cost('compute', 'MMACs', [1, 2])]."
            )
        if not isinstance(shard_bytes, int) or shard_bytes < 1:
            raise input_error("shard_bytes", "a positive number of bytes", shard_bytes)
        self.path = Path(path)
        self._shares = None if shares is None else check_shares(shares)
        given = (costs,) if isinstance(costs, Cost) else tuple(costs)
        layout = Layout(
            kind,
            0,
            0 if classes is None else classes,
            dtype,
            given,
            contexts=checked_names(contexts, 0),
        )
        self._manifest = Manifest(layout, {}, check_seed(split_seed), check_metadata(metadata))
        self._shard_bytes = shard_bytes
        self._buffers: dict[str, Buffer] = {}
        self._state = "new"  # new -> open -> closed
        self._overwrite, self._lock = overwrite, FileLock(self.path / LOCK, self.path)
        self._old, self._made, self._done = occupant(self.path, overwrite), False, False
        #: Whether finished shards are listed as they come, for who must go on without the rest.
        self.lists_unfinished = True

    def __enter__(self) -> CacheWriter:
        if self._state != "new":
            raise input_error("CacheWriter", "entered once", "a second time", "Make another one.")
        self._state = "closed"
        with refusing(self.path):
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.__enter__()
                self._old = standing(self.path, self._overwrite)  # now that no one else writes
                sweep(self.path)
            except BaseException:
                self._leave()
                raise
        self._state = "open"
        return self

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
        sample_costs: Mapping[str, Any] | None = None,
        features: Sequence[Any] | None = None,
        context: Any = None,
    ) -> None:
        """Check a batch of n rows and add it to a split; all of it or, on an error, nothing.

        Parameters
        ----------
        split : str
            ``fit``, ``calibrate``, ``test``, another name for a stream, or ``pool``.
        outputs : array of shape (n, K, C), or sequence of K arrays of shape (n, C)
            Logits or probabilities; numpy or torch on any device. Logits may be ``-inf``.
        labels : array of shape (n,), optional
            Whole numbers in [0, C), -1 where unknown.
        axes : str, default "NKC"
            Order of the axes of all arrays, e.g. ``"KNC"``.
        prediction : array of shape (n, K)
            Records: class numbers, -1 where there was no answer.
        confidence : array of shape (n, K)
            Records: in [0, 1].
        top_prob : array of shape (n, K, T), optional
            Records: the T largest probabilities, largest first.
        entropy : array of shape (n, K), optional
            Records: in nats.
        correct : array of shape (n, K), optional
            Records: booleans; must agree with `prediction` and `labels`.
        sample_costs : mapping of str to array of shape (n, K), optional
            Cumulative cost per sample of each Cost whose values are None.
        features : sequence of K arrays of shape (n, D_k), optional
            The model's feature vectors at each exit, for every batch or for none.
        context : array of shape (n,), optional
            Number of each row's context, 0 for the first of `contexts`; `outputs` are its expert's.

        Raises
        ------
        InputError
            An array has wrong axes or a value that is not allowed; the first place is named.

        Examples
        --------
        See `CacheWriter`.
        """
        if self._state != "open":
            raise input_error(
                "append",
                "inside the `with` block",
                f"a {self._state} writer",
                "Write `with CacheWriter(...) as cache:`.",
            )
        self._lock.check()
        check_name("split", split)
        self._check_pool(split)
        arrays = {
            "outputs": outputs,
            "labels": labels,
            "prediction": prediction,
            "confidence": confidence,
            "top_prob": top_prob,
            "entropy": entropy,
            "correct": correct,
            "features": features,
            "context": context,
        }
        if sample_costs is not None and not isinstance(sample_costs, Mapping):
            raise input_error("sample_costs", "a mapping of cost name to array", sample_costs)
        arrays |= {COST_PREFIX + name: value for name, value in (sample_costs or {}).items()}
        layout, block = to_block(self._manifest.layout, orient(arrays, axes))
        buffer = self._buffers.get(split) or Buffer(layout, block, self._shard_bytes)
        buffer.refuse_other(split, block)
        check_block(layout, block, f"split {split!r}", buffer.rows)
        self._manifest = replace(self._manifest, layout=layout)
        self._buffers[split] = buffer
        for ready in buffer.add(layout, block):
            self._write(split, ready)

    def _check_pool(self, split: str) -> None:
        others = set(self._buffers) - {split}
        if others and (split == POOL or POOL in others):
            raise input_error(
                "split",
                f"either {POOL!r} alone or named splits",
                f"{split!r} beside {sorted(others)}",
                "Name every split.",
            )
        if split == POOL:
            shares = dict(DEFAULT_SHARES) if self._shares is None else self._shares
            self._manifest = replace(self._manifest, shares=shares)
        elif self._shares:
            raise input_error(
                "shares",
                f"given only for the split {POOL!r}",
                f"shares and split {split!r}",
                "Append to the pool, or leave the shares out.",
            )

    def _write(self, split: str, block: dict[str, Array]) -> None:
        with refusing(self.path):
            shard = write_shard(self.path, split, len(self._manifest.shards), block)
            self._manifest = replace(self._manifest, shards=(*self._manifest.shards, shard))
            if self.lists_unfinished:
                put(self.path / UNFINISHED, dump(self._manifest))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._state = "closed"
        try:
            if kind is None:
                self._finish()
        finally:
            self._leave()

    def _finish(self) -> None:
        """Write the rest, check the whole, and switch to it."""
        self._lock.check()
        rows = {name: buffer.rows for name, buffer in self._buffers.items()}
        check_splits(rows, dict(self._manifest.shares))
        for split, buffer in self._buffers.items():
            for ready in buffer.rest():
                self._write(split, ready)
        self._buffers.clear()
        whole = replace(self._manifest, complete=True)
        refuse_overlap(open_manifest(self.path, whole, verify=False).splits)
        self._lock.check()
        with refusing(self.path):
            if self._made:
                sync_folder(self.path.parent)
            if self._old is not None:
                put(self.path / REPLACED, dump(self._old))
            put(self.path / MANIFEST, dump(whole))
        self._done = True

    def _leave(self) -> None:
        """Remove what is neither read nor to be kept, and unlock the directory."""
        with contextlib.suppress(OSError, InputError):  # what stays, the next writer removes
            if self._lock.held():
                if self._done:
                    sweep(self.path)
                elif not (self.lists_unfinished and self._manifest.shards):
                    # Where the disk failed at the switch, either may be the one that is read.
                    sweep(self.path, keep=self._old)
        self._lock.__exit__(None, None, None)
        if self._made:
            with contextlib.suppress(OSError):  # it holds something
                self.path.rmdir()
