"""What a request looks like while nothing has changed: cells of each statistic, rows in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import input_error
from ..typing import Floats, Ints

#: Cells of the table that come to each that is used, and cells that are too few to matter.
_RATIO, _FREE = 16, 1 << 22
_EVERY = 4  # of the rows, one in so many sets the edges and is not counted


@dataclass(frozen=True, eq=False)
class Reference:
    """Cells and counts of the J statistics of a watch.

    Statistics, in this order: score at the first exit; class predicted there; where not `steered`,
    the exit taken, and the score at every later exit among the requests that reached it.

    Attributes
    ----------
    path : tuple of K int
        The model's numbers of the exits that the policy runs.
    classes : int
        C, 0 where nobody knows; no class (-1) has a cell of its own.
    steered : bool
    edges : tuple of arrays
        Of each score: ascending; cell m holds edges[m-1] < score <= edges[m].
    pool : ndarray of shape (J, M), int64
        Rows per cell, 0 beyond a statistic's own cells.
    moments : ndarray of shape (J, 2), float64
        Mean and standard deviation of each score; 0 of a class or an exit.

    Examples
    --------
    >>> scores = np.column_stack([np.arange(8.0), np.arange(8.0)])
    >>> found = Reference.of(scores, np.zeros(8, int), np.arange(8) // 4, 2, (0, 1), False, 2)
    >>> found.names
    ('score at exit 0', 'class at exit 0', 'exit taken', 'score at exit 1')
    >>> found.widths, found.pool.sum(axis=1)
    ((2, 3, 2, 2), array([6, 6, 6, 3]))
    """

    path: tuple[int, ...]
    classes: int
    steered: bool
    edges: tuple[Floats, ...]
    pool: Ints
    moments: Floats

    @classmethod
    def of(
        cls, scores: Floats, predictions: Ints, positions: Ints, classes: int,
        path: tuple[int, ...], steered: bool, bins: int,
    ) -> Reference:  # fmt: skip
        """Count some rows.

        One row in four sets the edges and is not counted: edges that depend on rows of the pool
        would make those rows unlike the requests, and the p-values no longer exact.

        Parameters
        ----------
        scores : ndarray of shape (N, K)
            Columns past the exit taken are not read.
        predictions : ndarray of shape (N,)
            At the first exit.
        positions : ndarray of shape (N,)
            Column of the exit taken.
        classes : int
        path : tuple of K int
        steered : bool
        bins : int
            Cells per score, at most: quantiles.
        """
        columns = [0] if steered else list(range(len(path)))
        edges, moments = [], []
        for k in columns:
            reached = scores[positions >= k, k]
            base = np.sort(reached[::_EVERY])
            at = (np.arange(1, bins) * len(base)) // bins
            edges.append(np.unique(base[at]) if len(base) else np.zeros(0))
            moments.append((reached.mean(), reached.std()) if len(reached) else (0.0, 0.0))
        between = [(0.0, 0.0)] if steered else [(0.0, 0.0)] * 2
        blank = cls(
            path, classes, steered, tuple(edges), np.zeros((0, 0), np.int64),
            np.array([moments[0], *between, *moments[1:]]),
        )  # fmt: skip
        blank.check_size("Watch the first exit only: steered=True.")
        cells, _ = blank.read(scores, predictions, positions)
        # The rows that set a score's edges are every fourth of those that reach it.
        for j, k in enumerate(blank.columns):
            if k is not None:
                there = np.flatnonzero(positions >= k)
                cells[there[::_EVERY], j] = -1
            else:
                cells[::_EVERY, j] = -1
        return blank.counting(cells)

    def counting(self, cells: Ints) -> Reference:
        """Return the reference with the rows of these cells (N, J) counted, and no others."""
        pool = np.zeros((len(self.columns), max(self.widths)), dtype=np.int64)
        for j, column in enumerate(cells.T):
            pool[j] = np.bincount(column[column >= 0], minlength=pool.shape[1])
        return Reference(
            self.path, self.classes, self.steered, self.edges, pool, self.moments
        )  # fmt: skip

    @property
    def columns(self) -> tuple[int | None, ...]:
        """Column of the scores that each statistic reads; None of a class or an exit."""
        return (0, None) if self.steered else (0, None, None, *range(1, len(self.path)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the J statistics."""
        first, *later = (f"score at exit {k}" for k in self.path)
        names = (first, f"class at exit {self.path[0]}")
        return names if self.steered else (*names, "exit taken", *later)

    @property
    def widths(self) -> tuple[int, ...]:
        """Cells of each statistic."""
        first, *later = (len(e) + 1 for e in self.edges)
        more = () if self.steered else (len(self.path), *later)
        return (first, self.classes + 1, *more)

    def check_size(self, step: str) -> None:
        """Refuse a table far larger than what is used of it: a row is as long as the longest, often of classes."""
        rows, longest = len(self.widths), max(self.widths)
        most = max(_RATIO * sum(self.widths), _FREE) // longest
        if rows > most:
            allowed = f"{most} at most, where one has {longest} cells (classes {self.classes})"
            raise input_error("statistics", allowed, f"{rows}", step)

    def read(self, scores: Floats, predictions: Ints, positions: Ints) -> tuple[Ints, Floats]:
        """Return the cells (n, J), -1 where not reached, and the scores less their means (n, J)."""
        n = len(predictions)
        cells = np.full((n, len(self.columns)), -1, dtype=np.int64)
        values = np.zeros(cells.shape)
        inside = (predictions >= 0) & (predictions < self.classes)
        cells[:, 1] = np.where(inside, predictions, self.classes)
        if not self.steered:
            cells[:, 2] = positions
        scored = [(j, k) for j, k in enumerate(self.columns) if k is not None]
        for (j, k), edges in zip(scored, self.edges, strict=True):
            there = positions >= k
            column = scores[there, k]
            cells[there, j] = np.searchsorted(edges, column, side="left")
            values[there, j] = column - self.moments[j, 0]
        return cells, values

    def label(self, j: int, cell: int) -> str:
        """Return what a cell of a class or an exit is called."""
        if j == 1:
            return f"class {cell}" if cell < self.classes else "no class"
        return f"exit {self.path[cell]}"


def as_table(scores: Any) -> Floats:
    """Return scores as numbers (n, K), one row where one request is given; or raise `InputError`."""
    try:
        table = np.array(scores, dtype=np.float64, ndmin=2)
    except (TypeError, ValueError) as error:
        raise input_error(
            "scores", "numbers, (N, K)", str(error), "NaN where an exit was not run."
        ) from error
    if table.ndim != 2:
        raise input_error(
            "scores", "numbers, (N, K)", f"shape {table.shape}", "NaN past the exit taken."
        )
    return table


def checked_rows(
    scores: Any, predictions: Any, exits: Any, path: Sequence[int], steered: bool, classes: int
) -> tuple[Floats, Ints, Ints]:
    """Check n rows and return scores (n, K), predictions (n,) and columns of the exits taken (n,).

    Raises
    ------
    InputError
        Other shapes, exits that the policy does not run, classes that there are not (-1 stands for
        none; any will do where C is 0: unknown), scores that are not finite where reached.
    """
    table = as_table(scores)
    given = np.asarray(predictions)
    taken = np.asarray(exits) if exits is not None else np.full(len(table), path[0])
    width = 1 if steered else len(path)
    if not width <= table.shape[1] <= len(path):
        raise input_error(
            "scores", f"of shape (N, {len(path)})", table.shape, "NaN where an exit was not run."
        )
    for name, array in (("predictions", given), ("exits", taken)):
        if array.shape != (len(table),) or array.dtype.kind not in "iu":
            raise input_error(
                name, f"{len(table)} integers, one per row of the scores",
                f"shape {array.shape}, dtype {array.dtype}", "Predictions are those of the first exit.",
            )  # fmt: skip
    strange = given[(given < -1) | (given >= classes)]
    if classes and len(strange):
        allowed = f"classes from 0 to {classes - 1}, or -1 for none"
        raise input_error("predictions", allowed, int(strange[0]), "Those of the first exit.")
    positions = np.searchsorted(np.array(path), taken)
    unknown = np.array(path)[np.minimum(positions, len(path) - 1)] != taken
    if unknown.any():
        raise input_error(
            "exit", f"one of {', '.join(map(str, path))}", int(taken[unknown][0]),
            "Give the model's number of the exit taken.",
        )  # fmt: skip
    if steered:
        positions = np.zeros(len(table), dtype=np.int64)
    reached = np.arange(table.shape[1]) <= positions[:, None]
    if not np.isfinite(table[reached]).all():
        raise input_error(
            "scores", "finite at every exit up to the one taken",
            f"{table[reached & ~np.isfinite(table)][0]}", "Pass what `Policy.step` returned.",
        )  # fmt: skip
    return table, given.astype(np.int64), positions
