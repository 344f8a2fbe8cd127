"""How long every stage takes at every batch size, and where regrouping a batch's survivors pays."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from policyopt._costs import rising
from policyopt.runtime._errors import input_error
from policyopt.runtime._reading import as_array
from policyopt.runtime._typing import Floats

from ._staged import StagedModel, host, take


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Seconds by batch size and stage, from `measure`; as ``**metadata["latency_table"]`` of the cache again.

    Parameters
    ----------
    batches : sequence of B int
        Batch sizes, ascending.
    stages, heads, regroup : array of shape (B, K)
        Seconds that a batch takes in stage k; in head k, its output brought to the host; to be gathered from a
        batch after exit k. What falls with the batch size, by noise, is made level.

    Raises
    ------
    InputError
        Other shapes, sizes that do not ascend, seconds that are negative or not finite.

    Examples
    --------
    >>> table = LatencyTable([1, 8], [[1.0], [4.5]], [[0.0], [0.0]], [[0.1], [0.1]])
    >>> table.seconds(path=[0], most=17)[[1, 8, 16], 0].tolist()
    [1.0, 4.5, 9.0]
    """

    batches: Sequence[int]
    stages: Any
    heads: Any
    regroup: Any

    def __post_init__(self) -> None:
        sizes = as_array(self.batches, "batches")
        if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (np.diff(sizes, prepend=0) < 1).any():
            raise input_error("batches", "whole numbers from 1, ascending", self.batches, "")
        object.__setattr__(self, "batches", tuple(sizes.tolist()))
        exits = 0
        for name in ("stages", "heads", "regroup"):
            column = as_array(getattr(self, name), name)
            wanted = (len(sizes), column.shape[-1] if name == "stages" and column.ndim else exits)
            fits = column.dtype.kind in "iuf" and column.shape == wanted and column.size
            if not fits or not (np.isfinite(column) & (column >= 0)).all():
                allowed, got = f"seconds of shape {wanted}, 0 or more", f"shape {column.shape}"
                raise input_error(name, allowed, got, "From `measure` with batches.")
            exits = column.shape[1]
            object.__setattr__(self, name, rising(column.T.astype(np.float64)).T)

    def seconds(self, path: Sequence[int], most: int) -> Floats:
        """Return what 0..most-1 samples take from each exit of a path to the next, (most, P).

        Heads are passed on the path only: ``[K-1]`` is the full model.
        """
        spans = pairwise([-1, *path])
        columns = [self.stages[:, a + 1 : b + 1].sum(axis=1) + self.heads[:, b] for a, b in spans]
        return self._by_samples(columns, most)

    def gathering(self, path: Sequence[int], most: int) -> Floats:
        """Return what it takes to gather 0..most-1 samples after each exit of a path, (most, P)."""
        return self._by_samples([self.regroup[:, k] for k in path], most)

    def _by_samples(self, columns: Sequence[Floats], most: int) -> Floats:
        """Interpolate columns, each (B,); past the largest size in proportion to it."""
        n = np.arange(most)
        times = np.stack([np.interp(n, self.batches, column) for column in columns], axis=1)
        return times * np.maximum(n / self.batches[-1], 1.0)[:, None]

    def plan(self, path: Sequence[int]) -> Callable[[int, int], int]:
        """Return a function of a place on the path and a batch's size: the most survivors that regrouping pays for."""

        @cache
        def most(at: int, of: int) -> int:
            ahead = self.seconds(path, of + 1)[:, at + 1]
            pays = self.gathering(path, of + 1)[:, at] + ahead < ahead[of]
            return int(np.flatnonzero(pays).max(initial=0))

        return most

    def describe(self) -> dict[str, Any]:
        """Return it JSON-able."""
        return {n: np.asarray(values).tolist() for n, values in vars(self).items()}


def timed(model: StagedModel, example: Any, n: int, samples: int, whole: bool) -> Floats:
    """Return the seconds in stages, in heads until their output is on the host, and to gather the batch, (3, K).

    The batch: so many samples, of an example of n. Without `whole`, stages and heads are told apart on a CPU only.
    """
    import torch

    rows, times = np.arange(samples), list[float]()
    hidden = example if samples == n else take(example, rows % n, n)

    def note() -> None:
        if whole and torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    note()
    for k in range(model.exits):
        hidden, given = model.stage(k, hidden)
        note()
        host(model.head(k, hidden, given))
        note()
        if whole:
            take(hidden, rows, samples)
        note()
    return np.diff(times).reshape(-1, 3).T
