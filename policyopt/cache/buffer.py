"""Rows that wait for their shard."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from policyopt.cache.layout import Layout, storage_type, store
from policyopt.runtime.errors import input_error
from policyopt.runtime.typing import Array


class Buffer:
    """Rows of one split that wait for their shard; cut at fixed rows, whatever the batches."""

    def __init__(self, layout: Layout, block: dict[str, Array], shard_bytes: int) -> None:
        row = sum(a[:1].size * storage_type(n, layout).itemsize for n, a in block.items())
        self.size = max(1, shard_bytes // row)
        self.shapes = {name: array.shape[2:] for name, array in block.items()}
        self.rows = self.waiting = 0
        self.pieces: list[dict[str, Array]] = []

    def refuse_other(self, split: str, block: dict[str, Array]) -> None:
        """Refuse a batch with other arrays than the first one of the split."""
        shapes = {name: array.shape[2:] for name, array in block.items()}
        if shapes != self.shapes:
            raise input_error(
                f"split {split}",
                f"of the arrays {sorted(self.shapes)} in every batch",
                f"{sorted(shapes)} {sorted(shapes.values())}",
                "Give the same ones.",
            )

    def add(self, layout: Layout, block: dict[str, Array]) -> Iterator[dict[str, Array]]:
        """Take the rows in; yield a block whenever a shard is full."""
        rows, low = len(next(iter(block.values()))), 0
        while low < rows:
            count = min(self.size - self.waiting, rows - low)
            self.pieces.append({n: _own(layout, n, a[low : low + count]) for n, a in block.items()})
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


def _own(layout: Layout, name: str, array: Array) -> Array:
    """Return a copy in storage type: the caller may reuse its array before the shard is written."""
    kept = store(layout, name, array)
    return kept.copy() if np.may_share_memory(kept, array) else kept
