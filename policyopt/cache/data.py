"""`ExitData`: the rows of a cache, validated, by split; memory-mapped where they come from disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.costs import Cost
from policyopt.runtime.checks import check_seed
from policyopt.runtime.errors import input_error

KINDS = ("logits", "probabilities", "record")
#: The splits with a meaning of their own; any other name is a stream.
RESERVED = ("fit", "calibrate", "test")
POOL = "pool"
#: Arrays `features:<k>` of a block: the model's feature vectors at exit k, (n, D_k).
FEATURES_PREFIX = "features:"
#: Array of a block: the number of each row's context, (n,), among `ExitData.contexts`.
CONTEXT = "context"

Arrays = Mapping[str, npt.NDArray[Any]]


def filled(block: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return a record block that has predictions: -1 all over where only ``correct`` was kept.

    Examples
    --------
    >>> filled({"confidence": np.zeros((1, 2)), "correct": np.ones((1, 2), bool)})["prediction"]
    array([[-1, -1]], dtype=int32)
    """
    if "outputs" in block or "prediction" in block:
        return block
    # A view of one number: it takes no memory.
    unknown = np.broadcast_to(np.int32(-1), block["confidence"].shape)
    return {**block, "prediction": unknown}


@dataclass(frozen=True, eq=False)
class Rows:
    """One split (or stream, or pool): a list of blocks, each a mapping of aligned arrays.

    A block holds, for its n rows:

    ``outputs``      (n, K, C) logits or probabilities; absent for records
    ``prediction``   (n, K) integers, -1 where the exit gave no answer or where a record has
                     ``correct`` but no predictions (records)
    ``confidence``   (n, K) in [0, 1] (records)
    ``top_prob``     (n, K, T) the few largest probabilities, largest first (records, optional)
    ``entropy``      (n, K) in nats (records, optional)
    ``correct``      (n, K) bool (records, optional when labels are there)
    ``labels``       (n,) integers, -1 where unknown; absent for unlabelled rows
    ``cost:<name>``  (n, K) cumulative cost per sample, in the unit of that cost (optional)
    ``features:<k>`` (n, D_k) the model's feature vectors at exit k: of every exit or of none
    ``context``      (n,) number of the context whose expert gave the outputs (optional)

    Examples
    --------
    >>> block = {"outputs": np.zeros((5, 2, 3), np.float32), "labels": np.zeros(5, np.int32)}
    >>> rows = Rows((block, block))
    >>> len(rows), rows.array("outputs").shape, [start for start, _ in rows.chunks(4)]
    (10, (10, 2, 3), [0, 4, 5, 9])
    """

    blocks: tuple[Arrays, ...]

    def __repr__(self) -> str:
        names = ", ".join(self.blocks[0]) if self.blocks else "empty"
        return f"Rows({len(self)} rows in {len(self.blocks)} blocks: {names})"

    def __len__(self) -> int:
        return sum(len(next(iter(block.values()))) for block in self.blocks)

    def has(self, name: str) -> bool:
        """Whether every block carries the array `name`."""
        return bool(self.blocks) and all(name in block for block in self.blocks)

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return one array over all rows (a view where there is one block, else a copy)."""
        if len(self.blocks) == 1:
            return self.blocks[0][name]
        return np.concatenate([block[name] for block in self.blocks])

    def chunks(self, size: int) -> Iterator[tuple[int, Arrays]]:
        """Yield ``(first row, block of at most `size` rows)``, without copying."""
        start = 0
        for block in self.blocks:
            n = len(next(iter(block.values())))
            for low in range(0, n, size):
                yield start + low, {name: a[low : low + size] for name, a in block.items()}
            start += n


@dataclass(frozen=True, eq=False)
class ExitData:
    """Per-exit outputs, labels, costs and metadata: what a cache holds, checked.

    Parameters
    ----------
    kind : {"logits", "probabilities", "record"}
        What ``outputs`` are.
    exits, classes : int
        K and C; ``classes`` is 0 where records do not say.
    splits : mapping of str to Rows
        Either named splits (``fit``, ``calibrate``, ``test``, and streams), or one ``pool``.
    costs : tuple of Cost
        The first is the default.
    shares : mapping of str to float
        How a pool is to be divided, e.g. ``{"fit": 0.5, "test": 0.5}``; empty where
        splits are named.
    split_seed : int
        Seed of that division.
    metadata : dict
        Free, JSON-able.
    fingerprint : str
        SHA-256 over the checksums of all arrays; names the cache in artifacts.
    contexts : tuple of str
        Names of the contexts that the rows' ``context`` counts; empty where they have none.

    Examples
    --------
    >>> rows = Rows(({"outputs": np.zeros((10, 2, 3), np.float32)},))
    >>> costs = (Cost("compute", "MMACs", (1, 2)),)
    >>> data = ExitData("logits", 2, 3, {"pool": rows}, costs, {"fit": 0.5, "test": 0.5})
    >>> data.split_names, len(data.rows("test")[1]), data.cost().unit
    (('fit', 'test'), 5, 'MMACs')
    """

    kind: str
    exits: int
    classes: int
    splits: Mapping[str, Rows]
    costs: tuple[Cost, ...]
    shares: Mapping[str, float] = field(default_factory=dict)
    split_seed: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    contexts: tuple[str, ...] = ()

    @property
    def pooled(self) -> bool:
        """Whether the rows are one pool, divided by a seed."""
        return POOL in self.splits

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits a user can ask for."""
        return tuple(self.shares) if self.pooled else tuple(self.splits)

    @property
    def feature_widths(self) -> tuple[int, ...]:
        """Width of each exit's feature vectors, D_k; empty where none are kept."""
        block = next(iter(self.splits.values())).blocks[0]
        found = [block.get(f"{FEATURES_PREFIX}{k}") for k in range(self.exits)]
        return tuple(array.shape[1] for array in found if array is not None)

    def cost(self, name: str | None = None) -> Cost:
        """Return the cost called `name` (default: the first)."""
        if name is None:
            return self.costs[0]
        for cost in self.costs:
            if cost.name == name:
                return cost
        names = ", ".join(c.name for c in self.costs)
        raise input_error(
            "cost", f"one of {names}", name, "`policyopt info CACHE` lists the costs."
        )

    def rows(self, split: str, seed: int | None = None) -> tuple[str, npt.NDArray[np.int64]]:
        """Say where the rows of `split` stand.

        Parameters
        ----------
        split : str
        seed : int, optional
            Division of a pool; default the cache's own.

        Returns
        -------
        (str, ndarray of int64)
            Key into `splits`, and the row numbers in it (ascending).

        Raises
        ------
        InputError
            No such split.
        """
        if split not in self.split_names:
            step = "`policyopt info CACHE` lists them."
            if split in RESERVED:
                step = (
                    f"This cache has no rows for it: import it with such rows (keys {split}_...), "
                    "or all rows as one pool to be divided (--split fit=0.5,test=0.5)."
                )
            raise input_error("split", f"one of {', '.join(self.split_names)}", split, step)
        if not self.pooled:
            return split, np.arange(len(self.splits[split]))
        n = len(self.splits[POOL])
        seed = self.split_seed if seed is None else check_seed(seed)
        order = np.random.default_rng(seed).permutation(n)
        edges = np.round(np.cumsum([0.0, *self.shares.values()]) * n).astype(int)
        at = list(self.shares).index(split)
        return POOL, np.sort(order[edges[at] : edges[at + 1]])
