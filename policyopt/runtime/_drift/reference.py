"""What a request looks like while nothing has changed: cells of each statistic, rows in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .._errors import input_error
from .._typing import Floats, Ints

#: Cells of the table that come to each that is used, and cells that are too few to matter.
_RATIO, _FREE = 16, 1 << 22
_EVERY = 4  # of the rows, one in so many sets the edges and is not counted


@dataclass(frozen=True, eq=False)
class Reference:
    """Cells and counts of the J statistics of a watch.

    Statistics, in this order: score at the first exit; class predicted there; where not `steered`,
    the exit taken, and the score at every later exit among the requests that reached it.
    """

    path: tuple[int, ...]  # the model's numbers of the exits that the policy runs
    classes: int  # C, 0 where nobody knows; no class (-1) has a cell of its own
    steered: bool
    edges: tuple[Floats, ...]  # of each score; cell m holds edges[m-1] < score <= edges[m]
    pool: Ints  # (J, M): rows per cell, 0 beyond a statistic's own cells
    moments: Floats  # (J, 2): mean and standard deviation of each score; 0 of a class or an exit
    # Of each statistic: its name, the column of the scores that it reads (None of a class or an exit), its cells.
    names: tuple[str, ...] = field(init=False)
    columns: tuple[int | None, ...] = field(init=False)
    widths: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        scores = enumerate(zip(self.path, self.edges, strict=False))
        first, *later = ((f"score at exit {k}", at, len(e) + 1) for at, (k, e) in scores)
        rows = [first, (f"class at exit {self.path[0]}", None, self.classes + 1)]
        if not self.steered:
            rows += [("exit taken", None, len(self.path)), *later]
        for name, column in zip(
            ("names", "columns", "widths"), zip(*rows, strict=True), strict=True
        ):
            object.__setattr__(self, name, column)

    @classmethod
    def of(
        cls, scores: Floats, predictions: Ints, positions: Ints, classes: int,
        path: tuple[int, ...], steered: bool, bins: int,
    ) -> Reference:  # fmt: skip
        """Count some rows.

        One row in four sets the edges and is not counted: edges that depend on rows of the pool
        would make those rows unlike the requests, and the p-values no longer exact.

        Of N rows: scores (N, K), whose columns past the exit taken are not read, predictions at the
        first exit (N,), columns of the exits taken (N,); `bins`: cells per score, at most (quantiles).
        """
        edges, moments = [], []
        for k in range(1 if steered else len(path)):
            reached = scores[positions >= k, k]
            base = np.sort(reached[::_EVERY])
            at = (np.arange(1, bins) * len(base)) // bins
            edges.append(np.unique(base[at]) if len(base) else np.zeros(0))
            moments.append((reached.mean(), reached.std()) if len(reached) else (0.0, 0.0))
        moments[1:1] = [(0.0, 0.0)] * (1 if steered else 2)
        none = np.zeros((0, 0), np.int64)
        blank = cls(path, classes, steered, tuple(edges), none, np.array(moments))
        blank.check_size("Watch the first exit only: steered=True.")
        cells, _ = blank.read(scores, predictions, positions)
        for j, k in enumerate(blank.columns):
            # The rows that set a score's edges are every fourth of those that reach it.
            cells[np.flatnonzero(positions >= (k or 0))[::_EVERY], j] = -1
        most = max(blank.widths)
        counts = [np.bincount(column[column >= 0], minlength=most) for column in cells.T]
        return replace(blank, pool=np.array(counts, dtype=np.int64))

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
    allowed = "numbers, (N, K), NaN where an exit was not run"
    try:
        table = np.array(scores, dtype=np.float64, ndmin=2)
    except (TypeError, ValueError) as error:
        raise input_error("scores", allowed, str(error)) from error
    if table.ndim != 2:
        raise input_error("scores", allowed, f"shape {table.shape}")
    return table


def check_exit(exit: Any, path: Sequence[int]) -> int:
    """Return the exit taken, refused where the policy does not run it."""
    if exit not in path:
        allowed = f"one of {', '.join(map(str, path))}"
        raise input_error("exit", allowed, exit, "The model's number of the exit taken.")
    return exit


def checked_rows(
    scores: Any, predictions: Any, exits: Any, path: Sequence[int], steered: bool, classes: int,
    step: str,
) -> tuple[Floats, Ints, Ints]:  # fmt: skip
    """Check n rows and return scores (n, K), predictions (n,) and columns of the exits taken (n,).

    Refused: no exits where they are needed (`step` says what then), other shapes, exits that the policy does
    not run, classes that there are not (-1 stands for none; any will do where C is 0: unknown), scores that
    are not finite where reached.
    """
    if exits is None and not steered:
        raise input_error("exits", "given", "none", step)
    table = as_table(scores)
    given = np.asarray(predictions)
    taken = np.asarray(exits) if exits is not None else np.full(len(table), path[0])
    width = 1 if steered else len(path)
    if not width <= table.shape[1] <= len(path):
        allowed = f"of shape (N, {len(path)})"
        raise input_error("scores", allowed, table.shape, "NaN where an exit was not run.")
    for name, array in (("predictions", given), ("exits", taken)):
        if array.shape != (len(table),) or array.dtype.kind not in "iu":
            allowed = f"{len(table)} integers, one per row of the scores"
            got = f"shape {array.shape}, dtype {array.dtype}"
            raise input_error(name, allowed, got, "Predictions are those of the first exit.")
    strange = given[(given < -1) | (given >= classes)]
    if classes and len(strange):
        allowed = f"classes from 0 to {classes - 1}, or -1 for none"
        raise input_error("predictions", allowed, int(strange[0]), "Those of the first exit.")
    positions = np.searchsorted(np.array(path), taken)
    unknown = np.array(path)[np.minimum(positions, len(path) - 1)] != taken
    if unknown.any():
        check_exit(int(taken[unknown][0]), path)
    if steered:
        positions = np.zeros(len(table), dtype=np.int64)
    reached = np.arange(table.shape[1]) <= positions[:, None]
    if not np.isfinite(table[reached]).all():
        allowed = "finite at every exit up to the one taken"
        got = float(table[reached & ~np.isfinite(table)][0])
        raise input_error("scores", allowed, got, "Pass what `Policy.step` returned.")
    return table, given.astype(np.int64), positions
