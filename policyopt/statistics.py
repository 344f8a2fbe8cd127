"""The one pass over the logits: everything that scores and reports need, in a small table."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.cache.data import Rows
from policyopt.runtime.errors import InputError
from policyopt.runtime.files import refusing
from policyopt.runtime.output import (
    TOP,
    ExitOutput,
    reduce_logits,
    reduce_probabilities,
    reduce_record,
)
from policyopt.runtime.typing import Floats

Progress = Callable[[int, int], None]
#: Bytes of one exit's logits that are worked on at a time: they stay in the processor's cache.
_CHUNK_BYTES = 1 << 20
#: A table larger than this goes to a temporary file instead of memory.
_SPILL_BYTES = 128 << 20


@dataclass(frozen=True)
class ExitStatistics:
    """The reduced outputs of all exits for N samples.

    Attributes
    ----------
    top_prob : ndarray of shape (N, K, T), float64
        The T = min(3, C) largest probabilities, largest first; NaN where unknown.
    top_class : ndarray of shape (N, K, T), int32
        Their classes; -1 where unknown.
    entropy : ndarray of shape (N, K), float64
        In nats; NaN where unknown.
    log_sum_exp : ndarray of shape (N, K), float64
    correct : ndarray of shape (N, K), bool, or None without labels
    labels : ndarray of shape (N,), int32, or None
    """

    top_prob: Floats
    top_class: npt.NDArray[np.int32]
    entropy: Floats
    log_sum_exp: Floats
    correct: npt.NDArray[np.bool_] | None
    labels: npt.NDArray[np.int32] | None

    def __len__(self) -> int:
        return len(self.top_prob)

    @property
    def exits(self) -> int:
        """K."""
        return self.top_prob.shape[1]

    @property
    def prediction(self) -> npt.NDArray[np.int32]:
        """Predicted class, (N, K); -1 where an exit gave no answer."""
        return self.top_class[:, :, 0]

    @property
    def confidence(self) -> Floats:
        """Largest probability, (N, K)."""
        return self.top_prob[:, :, 0]

    @property
    def margin(self) -> Floats:
        """Largest less second probability, (N, K); NaN where unknown."""
        if self.top_prob.shape[2] < 2:
            return np.full(self.entropy.shape, np.nan)
        return self.top_prob[:, :, 0] - self.top_prob[:, :, 1]

    @property
    def known(self) -> frozenset[str]:
        """Which of the columns that a record may lack are there: ``entropy``, ``margin``."""
        first = self.take(np.arange(min(1, len(self))))
        columns = {"entropy": first.entropy, "margin": first.margin}
        return frozenset(name for name, c in columns.items() if not np.isnan(c).any())

    def output(self, k: int) -> ExitOutput:
        """Return exit k's columns as the runtime sees them."""
        return ExitOutput(
            self.top_class[:, k, 0],
            self.top_prob[:, k],
            self.top_class[:, k],
            self.entropy[:, k],
            self.log_sum_exp[:, k],
        )

    def outputs(self) -> list[ExitOutput]:
        """Return all exits' columns, first exit first."""
        return [self.output(k) for k in range(self.exits)]

    def take(self, rows: npt.NDArray[np.int64]) -> ExitStatistics:
        """Return the statistics of some rows."""
        picked = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{n: a if a is None else a[rows] for n, a in picked.items()})

    def keep_exits(self, kept: Sequence[int]) -> ExitStatistics:
        """Return the statistics of some exits, ascending."""
        picked = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "labels"}
        at = list(kept)
        return replace(self, **{n: a if a is None else a[:, at] for n, a in picked.items()})


def exit_statistics(
    rows: Rows, kind: str, *, threads: int | None = None, progress: Progress | None = None
) -> ExitStatistics:
    """Reduce all outputs of a split in one pass, chunk by chunk.

    Memory beyond the input: the table (about 57 bytes per sample and exit; in a temporary file
    once it is over 128 MiB) and a fixed working space per thread.

    Parameters
    ----------
    rows : Rows
        Rows of a cache; outputs of shape (n, K, C), read where they lie.
    kind : {"logits", "probabilities", "record"}
    threads : int, optional
        Default: the number of processors, at most 8.
    progress : callable, optional
        Called with (rows done, rows in all).

    Returns
    -------
    ExitStatistics

    Raises
    ------
    InputError
        NaN or infinity where a finite number must stand.

    Examples
    --------
    >>> from policyopt.cache.data import Rows
    >>> logits = np.log([[[0.6, 0.4], [0.9, 0.1]]])
    >>> table = exit_statistics(Rows(({"outputs": logits, "labels": np.array([0])},)), "logits")
    >>> table.confidence.round(3), table.correct
    (array([[0.6, 0.9]]), array([[ True,  True]]))
    """
    first = rows.blocks[0]
    if kind == "record":
        n, exits = first["prediction"].shape
        top = first["top_prob"].shape[2] if rows.has("top_prob") else 1
        width = max(exits * top, 1)
    else:
        _, exits, width = first["outputs"].shape
        top = min(TOP, width)
    n = len(rows)
    table = _allocate(n, exits, top)
    size = max(_CHUNK_BYTES // (4 * width), 16)
    chunks = list(rows.chunks(size))
    workers = min(threads or min(os.cpu_count() or 1, 8), max(len(chunks) // 8, 1))
    done, lock = 0, Lock()

    def work(span: list[tuple[int, Any]]) -> None:
        nonlocal done
        scratch = np.empty((2, size, width), dtype=np.float32) if kind != "record" else None
        for start, block in span:
            _reduce_block(table, start, block, kind, top, scratch)
            with lock:
                done += len(next(iter(block.values())))
                if progress:
                    progress(done, n)

    if workers == 1:
        work(chunks)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, [chunks[i::workers] for i in range(workers)]))
    _check(table, kind)
    return replace(table, **_labels(rows, table))


def _reduce_block(
    table: ExitStatistics, start: int, block: Any, kind: str, top: int, scratch: Any
) -> None:
    n = len(next(iter(block.values())))
    here = slice(start, start + n)
    for k in range(table.exits):
        if kind == "logits":
            output = reduce_logits(block["outputs"][:, k], top, scratch)
        elif kind == "probabilities":
            output = reduce_probabilities(block["outputs"][:, k], top, scratch)
        else:
            more = {name: block[name][:, k] for name in ("top_prob", "entropy") if name in block}
            output = reduce_record(block["prediction"][:, k], block["confidence"][:, k], **more)
        table.top_prob[here, k] = output.top_prob
        table.top_class[here, k] = output.top_class
        table.entropy[here, k] = output.entropy
        table.log_sum_exp[here, k] = output.log_sum_exp


def _allocate(n: int, exits: int, top: int) -> ExitStatistics:
    spill = n * exits * (12 * top + 16) > _SPILL_BYTES

    def array(shape: tuple[int, ...], dtype: type) -> npt.NDArray[Any]:
        if not spill:
            return np.empty(shape, dtype)
        # Lives as long as the mapping does. Room is taken first: a write to a mapped file for which
        # there is none ends the process.
        with refusing(tempfile.gettempdir()), tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
            return np.memmap(file, dtype=dtype, mode="w+", shape=shape)

    return ExitStatistics(
        top_prob=array((n, exits, top), np.float64),
        top_class=array((n, exits, top), np.int32),
        entropy=array((n, exits), np.float64),
        log_sum_exp=array((n, exits), np.float64),
        correct=None,
        labels=None,
    )


def _check(table: ExitStatistics, kind: str) -> None:
    """Refuse NaN and infinity; they surface in the log-sum-exp (or the confidence) of their row."""
    column = table.confidence if kind == "record" else table.log_sum_exp
    if not np.isfinite(column).all():
        row, exit_ = np.argwhere(~np.isfinite(column))[0]
        raise InputError(
            f"'outputs' must be finite. Got NaN or infinity in row {row} at exit {exit_}. "
            "Look for overflow (float16?) where the cache was written."
        )


def _labels(rows: Rows, table: ExitStatistics) -> dict[str, Any]:
    labels = rows.array("labels").astype(np.int32) if rows.has("labels") else None
    if rows.has("correct"):
        return {"labels": labels, "correct": np.asarray(rows.array("correct"), dtype=bool)}
    if labels is None:
        return {"labels": None, "correct": None}
    return {
        "labels": labels,
        "correct": (table.prediction == labels[:, None]) & (labels >= 0)[:, None],
    }
