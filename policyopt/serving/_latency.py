"""How long every stage takes at every batch size, and where regrouping a batch's survivors pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._costs import rising
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Array, Floats

_COLUMNS = ("stages", "heads", "regroup")
_MOST = 1000  # batch sizes of a table


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Seconds by batch size and stage; `measure` makes one.

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
    >>> table.seconds([1, 2, 16]).ravel().tolist()
    [1.0, 1.5, 9.0]
    """

    batches: Sequence[int]
    stages: Floats
    heads: Floats
    regroup: Floats

    def __post_init__(self) -> None:
        sizes = np.asarray(self.batches)
        whole = sizes.ndim == 1 and sizes.dtype.kind in "iu" and 0 < sizes.size <= _MOST
        if not whole or sizes[0] < 1 or (np.diff(sizes) <= 0).any():
            raise input_error("batches", "whole numbers from 1, ascending", self.batches, "")
        object.__setattr__(self, "batches", tuple(sizes.tolist()))
        wanted = (len(sizes), np.shape(self.stages)[-1] if np.ndim(self.stages) else 0)
        for name in _COLUMNS:
            try:
                column = np.asarray(getattr(self, name), dtype=np.float64)
            except (TypeError, ValueError):
                column = np.empty(0)
            if column.shape != wanted or not (np.isfinite(column) & (column >= 0)).all():
                allowed = f"of shape {wanted}, seconds of 0 or more"
                raise input_error(name, allowed, f"shape {column.shape}", "See `measure`.")
            object.__setattr__(self, name, rising(column.T).T)

    @property
    def exits(self) -> int:
        """K."""
        return self.stages.shape[1]

    def seconds(self, n: npt.ArrayLike, path: Sequence[int] | None = None) -> Floats:
        """Return what n samples take from each exit of a path to the next, head included.

        Parameters
        ----------
        n : int or array of shape (m,), int
            Between two sizes a straight line; past the largest in proportion to it.
        path : sequence of P int, optional
            Exits whose heads are run; default all. ``(K-1,)`` is the full model.

        Returns
        -------
        ndarray of shape (P,) or (m, P)
        """
        path = range(self.exits) if path is None else path
        spans = pairwise([-1, *path])
        columns = [self.stages[:, a + 1 : b + 1].sum(axis=1) + self.heads[:, b] for a, b in spans]
        return np.stack([self._at(column, n) for column in columns], axis=-1)

    def gathering(self, n: npt.ArrayLike, path: Sequence[int]) -> Floats:
        """Return the seconds to gather n samples after each exit of a path, as `seconds` has them."""
        return np.stack([self._at(self.regroup[:, k], n) for k in path], axis=-1)

    def _at(self, column: Floats, n: npt.ArrayLike) -> Array:
        """Return seconds at batch sizes, of those at `batches`, (B,)."""
        last = self.batches[-1]
        return np.interp(n, self.batches, column) * np.maximum(np.asarray(n) / last, 1.0)

    def plan(self, path: Sequence[int]) -> Callable[[int, int], int]:
        """Return a function of a place on the path and a batch's size: the most survivors that regrouping pays for."""
        known: dict[tuple[int, int], int] = {}

        def most(at: int, of: int) -> int:
            if (at, of) not in known:
                sizes = np.arange(of + 1)
                ahead = self.seconds(sizes, path)[:, at + 1]
                pays = self.gathering(sizes, path)[:, at] + ahead < ahead[of]
                known[at, of] = int(np.flatnonzero(pays).max(initial=0))
            return known[at, of]

        return most

    def describe(self) -> dict[str, Any]:
        """Return it, JSON-able, e.g. for a cache's metadata; `LatencyTable.of` reads that."""
        return {"batches": [*self.batches], **{n: getattr(self, n).tolist() for n in _COLUMNS}}

    @classmethod
    def of(cls, described: Any) -> LatencyTable:
        """Return the table that `describe` gave, or that a cache's metadata holds as ``latency_table``."""
        found: Any = described.get("latency_table", described) if described else None
        if not isinstance(found, Mapping) or {*found} != {"batches", *_COLUMNS}:
            allowed = f"a mapping with batches, {', '.join(_COLUMNS)}"
            step = "E.g. the metadata of a cache exported with measure(..., batches=...)."
            raise input_error("latency table", allowed, type(found).__name__, step)
        return cls(**found)
