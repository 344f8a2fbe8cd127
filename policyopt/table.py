"""`Table`: what a method is fitted on and a policy is replayed on: statistics and costs of some rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.cache.data import CONTEXT, FEATURES_PREFIX, ExitData, Rows
from policyopt.costs import kept_costs
from policyopt.overhead import rate_of
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.kept import exit_numbers
from policyopt.runtime.output import log_of, reduce_logits, with_log_prob
from policyopt.runtime.typing import Floats
from policyopt.statistics import ExitStatistics, Progress, exit_statistics

_CHUNK_BYTES = 16 << 20


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
    cascade : bool
        Whether an exit that is skipped costs nothing (see `policyopt.costs.Cost`).
    kept : tuple of K int, or None
        The model's numbers of the exits that the table is of; None: all.
    model_exits : int
        How many exits the model has; default K.
    contexts : tuple of str
        Names of the contexts; empty where the rows have none.
    """

    statistics: ExitStatistics
    costs: Floats
    unit: str
    cost_name: str
    kind: str
    classes: int
    split: str
    cache: str
    source: Rows | None = None
    places: npt.NDArray[np.int64] | None = None
    rate: float = 0.0
    cascade: bool = False
    kept: tuple[int, ...] | None = None
    model_exits: int = 0
    contexts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.model_exits:
            object.__setattr__(self, "model_exits", self.exits)

    def __len__(self) -> int:
        return len(self.statistics)

    @property
    def exits(self) -> int:
        """K, the exits that the table is of."""
        return self.statistics.exits

    @property
    def path(self) -> tuple[int, ...]:
        """The model's numbers of those exits, in order."""
        return tuple(range(self.exits)) if self.kept is None else self.kept

    @property
    def mean_costs(self) -> Floats:
        """Mean cumulative cost per exit, (K,)."""
        return self.costs if self.costs.ndim == 1 else self.costs.mean(axis=0)

    @property
    def alone(self) -> Floats:
        """Cost of a sample that looks at exit k only, (K,) or (N, K): what a cascade's model costs.

        Where a skipped exit is paid all the same, the cumulative cost.
        """
        return np.diff(self.costs, axis=-1, prepend=0.0) if self.cascade else self.costs

    @property
    def labelled(self) -> bool:
        """Whether it is known of every row which answers are right."""
        stats = self.statistics
        return stats.correct is not None and (
            stats.labels is None or bool((stats.labels >= 0).all())
        )

    @property
    def correct(self) -> Floats:
        """Correctness as 0.0 or 1.0, (N, K).

        Raises
        ------
        InputError
            The rows have no labels, or some labels are unknown.
        """
        stats = self.statistics
        if stats.correct is None or not self.labelled:
            raise InputError(
                f"Split '{self.split}' must have a label for every row. Got rows without. "
                "Import with --labels FILE or a key 'labels' (Python: labels=), or leave those rows out."
            )
        return stats.correct.astype(np.float64)

    @property
    def context(self) -> npt.NDArray[np.int64] | None:
        """Number of each row's context among `contexts`, (N,); None where the rows have none.

        Examples
        --------
        >>> import policyopt as po
        >>> data = po.from_arrays(
        ...     np.zeros((4, 3, 2)), [0, 1, 0, 1], context=[0, 1, 1, 0], contexts=["sun", "rain"]
        ... )
        >>> table = Tables(data).get("test")
        >>> table.contexts, len(table.context)
        (('sun', 'rain'), 2)
        """
        if not self.contexts or self.source is None:
            return None
        whole = self.source.array(CONTEXT).astype(np.int64)
        return whole if self.places is None else whole[self.places]

    def paid(self, exits: npt.NDArray[np.int64]) -> Floats:
        """Return what each row pays for the exit it takes, (N,)."""
        if self.costs.ndim == 1:
            return self.costs[exits]
        return np.take_along_axis(self.costs, exits[:, None], axis=1)[:, 0]

    def take(self, rows: npt.NDArray[np.int64]) -> Table:
        """Return some of the rows."""
        costs = self.costs if self.costs.ndim == 1 else self.costs[rows]
        places = rows if self.places is None else self.places[rows]
        return replace(self, statistics=self.statistics.take(rows), costs=costs, places=places)

    def keep_exits(self, kept: Sequence[int] | None) -> Table:
        """Return the same rows as if the model had some of its exits only.

        Costs of a cascade are counted anew without the exits left out; those of one model stay
        as they are, for what a head costs is not known apart.

        Parameters
        ----------
        kept : sequence of int, or None
            The model's exit numbers, ascending, of those that the table has; None: all.

        Returns
        -------
        Table

        Raises
        ------
        InputError
            Not ascending, or an exit that the table does not have.

        Examples
        --------
        >>> import policyopt as po
        >>> data = po.from_arrays(
        ...     np.zeros((4, 3, 2)), [0, 1, 0, 1], [1, 2, 4], cost_kind="standalone"
        ... )
        >>> small = Tables(data).get("test").keep_exits((0, 2))
        >>> small.exits, small.path, small.costs
        (2, (0, 2), array([1., 5.]))
        """
        numbers = self.path if kept is None else exit_numbers(kept, self.path)
        if numbers == self.path:
            return self
        at = [self.path.index(k) for k in numbers]
        return replace(
            self,
            statistics=self.statistics.keep_exits(at),
            costs=kept_costs(self.costs, at, self.cascade),
            kept=numbers,
        )

    def chunks(self) -> Iterator[tuple[slice, npt.NDArray[np.floating]]]:
        """Yield (rows, their outputs (n, K, C)), a few at a time.

        Raises
        ------
        InputError
            Only records are kept.
        """
        if self.source is None or not self.source.has("outputs"):
            raise InputError(
                f"Split '{self.split}' must hold all class outputs. Got records. "
                "Import full logits, or choose a method that works on records."
            )
        size = max(_CHUNK_BYTES // (4 * self.exits * max(self.classes, 1)), 16)
        places = np.arange(len(self)) if self.places is None else self.places
        start, low = 0, 0
        blocks = self.source.blocks
        if (
            np.diff(places) < 0
        ).any():  # not in the order in which they lie: one block to pick from
            blocks = ({"outputs": self.source.array("outputs")},)
        for block in blocks:
            outputs = block["outputs"]
            end = start + len(outputs)
            high = int((places < end).sum()) if len(blocks) > 1 else len(places)
            for first in range(low, high, size):
                rows = slice(first, min(first + size, high))
                chosen = places[rows] - start
                if self.kept is not None:
                    yield rows, outputs[chosen[:, None], np.array(self.kept)]
                else:
                    yield rows, outputs[chosen]
            start, low = end, high

    @property
    def has_features(self) -> bool:
        """Whether the cache keeps the model's feature vectors, exit by exit."""
        return self.source is not None and self.source.has(f"{FEATURES_PREFIX}0")

    @property
    def known(self) -> frozenset[str]:
        """Which of the columns a score may need are there: those of the statistics, and more.

        ``log_prob`` where all class outputs are kept, ``features`` where the cache has them.
        """
        whole = self.source is not None and self.source.has("outputs")
        more = {"log_prob": whole, "features": self.has_features}
        return self.statistics.known | {name for name, there in more.items() if there}

    def feature(self, k: int, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """Return the model's feature vectors at exit k, (N, D_k), float32.

        Parameters
        ----------
        k : int
            Its position among the table's exits.
        rows : slice, optional
            Of the table's rows; default all.

        Raises
        ------
        InputError
            The cache keeps none.

        Examples
        --------
        >>> import policyopt as po
        >>> vectors = [np.ones((4, 2)), np.zeros((4, 3))]
        >>> data = po.from_arrays(np.zeros((4, 2, 5)), [0, 1, 2, 3], features=vectors)
        >>> table = Tables(data).get("test")
        >>> table.has_features, table.feature(1).shape
        (True, (2, 3))
        """
        if not self.has_features:
            raise InputError(
                f"Split '{self.split}' must hold feature vectors. Got none. Import them with keys "
                "features_0, features_1, ... (Python: features=), or choose a method without them."
            )
        assert self.source is not None
        name = f"{FEATURES_PREFIX}{self.path[k]}"
        places = np.arange(len(self)) if self.places is None else self.places
        places, start = places[rows], 0
        out: npt.NDArray[np.float32] | None = None
        for block in self.source.blocks:
            vectors = block[name]
            here = np.flatnonzero((places >= start) & (places < start + len(vectors)))
            if out is None:
                out = np.empty((len(places), vectors.shape[1]), dtype=np.float32)
            out[here] = vectors[places[here] - start]
            start += len(vectors)
        assert out is not None
        return out

    def log_prob(self) -> npt.NDArray[np.float32]:
        """Return the logarithms of all class probabilities, (N, K, C), float32."""
        out = np.empty((len(self), self.exits, self.classes), dtype=np.float32)
        for rows, outputs in self.chunks():
            for k in range(self.exits):
                logits = log_of(outputs[:, k]) if self.kind == "probabilities" else outputs[:, k]
                out[rows, k] = with_log_prob(reduce_logits(logits), logits).log_prob
        return out


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
        if not isinstance(data, ExitData):
            raise input_error(
                "data", "an opened cache", type(data).__name__,
                "po.open_cache(folder), or po.from_arrays(logits, labels, costs).",
            )  # fmt: skip
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
            raise input_error(
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
            data.splits[key],
            rate=rate_of(self.cost, data.costs),
            cascade=self.cost.cascade,
            contexts=data.contexts,
        )
        return table if len(rows) == len(table) else table.take(rows)
