"""`Table`: what a method is fitted on and a policy is replayed on: statistics and costs of some rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.cache.data import ExitData
from policyopt.runtime.errors import InputError, bad
from policyopt.statistics import ExitStatistics, Progress, exit_statistics

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Statistics and costs of N rows of one split.

    Attributes
    ----------
    statistics : ExitStatistics
    costs : ndarray of shape (K,) or (N, K), float64
        Cumulative, in `unit`.
    unit, cost_name, kind, split, cache : str
        `cache` is the fingerprint of the cache.
    classes : int
    """

    statistics: ExitStatistics
    costs: Floats
    unit: str
    cost_name: str
    kind: str
    classes: int
    split: str
    cache: str

    def __len__(self) -> int:
        return len(self.statistics)

    @property
    def exits(self) -> int:
        """K."""
        return self.statistics.exits

    @property
    def mean_costs(self) -> Floats:
        """Mean cumulative cost per exit, (K,)."""
        return self.costs if self.costs.ndim == 1 else self.costs.mean(axis=0)

    @property
    def correct(self) -> Floats:
        """Correctness as 0.0 or 1.0, (N, K).

        Raises
        ------
        InputError
            The rows have no labels, or some labels are unknown.
        """
        stats = self.statistics
        unknown = stats.correct is None or (stats.labels is not None and (stats.labels < 0).any())
        if stats.correct is None or unknown:
            raise InputError(
                f"Split '{self.split}' must have a label for every row. Got rows without. "
                "Import with --labels FILE or a key 'labels' (Python: labels=), or leave those rows out."
            )
        return stats.correct.astype(np.float64)

    def paid(self, exits: npt.NDArray[np.int64]) -> Floats:
        """Return what each row pays for the exit it takes, (N,)."""
        if self.costs.ndim == 1:
            return self.costs[exits]
        return np.take_along_axis(self.costs, exits[:, None], axis=1)[:, 0]

    def take(self, rows: npt.NDArray[np.int64]) -> Table:
        """Return some of the rows."""
        costs = self.costs if self.costs.ndim == 1 else self.costs[rows]
        return replace(self, statistics=self.statistics.take(rows), costs=costs)


class Tables:
    """Makes tables from a cache; each physical part is passed over once, whatever is asked.

    Parameters
    ----------
    data : ExitData
    cost : str, optional
        Name of the cost to use; default the cache's first.
    progress : callable, optional
        Called with (rows done, rows in all) during a pass.
    """

    def __init__(
        self, data: ExitData, cost: str | None = None, progress: Progress | None = None
    ) -> None:
        self.data = data
        self.cost = data.cost(cost)
        self._progress = progress
        self._passed: dict[str, ExitStatistics] = {}

    def get(self, split: str, seed: int | None = None) -> Table:
        """Return the table of a split.

        Parameters
        ----------
        split : str
        seed : int, optional
            Division of a pool (default: the one the cache states).

        Returns
        -------
        Table

        Raises
        ------
        InputError
            No such split.
        """
        data = self.data
        key, rows = data.rows(split, seed)
        if not len(rows):
            raise bad(
                "split", "with at least one row", f"'{split}' with none", "Choose other shares."
            )
        if key not in self._passed:
            self._passed[key] = exit_statistics(
                data.splits[key], data.kind, progress=self._progress
            )
        if self.cost.values is not None:
            costs: Any = np.array(self.cost.values)
        else:
            costs = np.asarray(data.splits[key].array(f"cost:{self.cost.name}"), dtype=np.float64)
        table = Table(
            self._passed[key],
            costs,
            self.cost.unit,
            self.cost.name,
            data.kind,
            data.classes,
            split,
            data.fingerprint,
        )
        return table if len(rows) == len(table) else table.take(rows)
