"""Shards of a cache, checked; those in a store are read when one of their arrays is first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from policyopt._cache.blocks import check_block, is_features, storage_type, to_block
from policyopt._cache.data import Block, Layout, Lazy, filled
from policyopt._cache.files import MAX_HEADER, header_length, stand_in, view
from policyopt._cache.manifest import Shard
from policyopt._cache.places import Store
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._sizes import Room
from policyopt.runtime._strict_json import parse
from policyopt.runtime._typing import Array

#: Bytes of the shards whose arrays stay in memory, and in which a header mostly is.
MOST, _HEAD = 128 << 20, 2048


def typed(shard: Shard, layout: Layout, arrays: dict[str, Array]) -> dict[str, Array]:
    """Return the arrays of a shard where their types and shapes are what the manifest says."""
    argument = f"shard {shard.file}"
    try:
        _, block = to_block(layout, arrays)
    except InputError as error:
        raise InputError(f"{argument}: {error} Write the cache anew.") from error
    for name, array in block.items():
        allowed = {storage_type(name, layout)} | ({np.dtype("f2")} if is_features(name) else set())
        if len(array) != shard.rows or array.dtype not in allowed or name not in arrays:
            wanted = f"{shard.rows} rows of {' or '.join(sorted(map(str, allowed)))}"
            got = f"{array.dtype} of shape {array.shape}"
            raise input_error(f"{argument}: {name}", wanted, got, "Write the cache anew.")
    return block


def check_digest(shard: Shard, digest: str) -> None:
    """Refuse a shard that is not as it was written, by its SHA-256."""
    if digest != shard.sha256:
        allowed = f"of SHA-256 {shard.sha256[:12]}..."
        step = "It was damaged or changed: write the cache anew."
        raise input_error(f"shard {shard.file}", allowed, f"{digest[:12]}...", step)


def check_values(shard: Shard, layout: Layout, block: Block, first_row: int) -> None:
    """Refuse a shard whose values are not allowed."""
    try:
        check_block(layout, block, shard.split, first_row)
    except InputError as error:
        raise InputError(f"shard {shard.file}: {error}") from error


class StoredShard(Lazy):
    """The arrays of a shard in a store: it is read whole and checked, or, where it is known to be `whole`, by array.

    Of shards that were read last, as many as `MOST` allows, all that was read stays; of others, what is 1-d.
    """

    def __init__(
        self, store: Store, shard: Shard, layout: Layout, first_row: int, whole: bool,
        like: Block | None,
    ) -> None:  # fmt: skip
        self.store, self.shard, self.layout, self.first_row = store, shard, layout, first_row
        self.whole = whole
        self._arrays, self._header, self._base = dict[str, Array](), dict[str, Any](), 0
        # The shards of a split have the same arrays: the header of the first tells.
        self.like = like or {}
        each = like or self._look(b"")
        first = {n: a[:1] for n, a in each.items()}
        self.like = {n: np.broadcast_to(a, (shard.rows, *a.shape[1:])) for n, a in first.items()}

    def __getitem__(self, name: str) -> Array:
        like, found = self.like[name], self._arrays.get(name)
        with self.store.lock if found is None else nullcontext():
            if (found := self._arrays.get(name, found)) is not None:
                return found
            read = {name: self._one(name, like)} if self.whole else filled(self._all())
            self._arrays = {**self._arrays, **read}
            others = [one for one in self.store.recent if one is not self]
            while others and sum(one.shard.bytes for one in (*others, self)) > MOST:
                old = others.pop(0)
                old._arrays = {n: a.copy() for n, a in old._arrays.items() if a.ndim == 1}
            self.store.recent = [*others, self]
            return read[name]

    def _look(self, content: bytes) -> dict[str, Array]:
        """Read where the arrays stand, in the content or the store; return what stands for them, checked."""
        shard, argument = self.shard, f"shard {self.shard.file}"
        head = content or self.store.read(shard.file, 0, min(_HEAD, shard.bytes))
        base = 8 + header_length(head, shard.bytes, argument, shard.file)
        head = head if base <= len(head) else self.store.read(shard.file, 0, base)
        with _damaged(argument):
            header = parse(head[8:base], "header", MAX_HEADER, "")
            header.pop("__metadata__", None)
            each = {name: stand_in(entry, shard.bytes - base) for name, entry in header.items()}
        each = filled(typed(shard, self.layout, each))
        shapes = [{n: a.shape[1:] for n, a in of.items()} for of in (each, self.like or each)]
        if shapes[0] != shapes[1]:
            allowed = "of shards with the same arrays"
            raise input_error(f"split {shard.split}", allowed, "others", "Write it anew.")
        self._header, self._base = header, base
        return each

    def _all(self) -> dict[str, Array]:
        """Read the shard whole, and check it."""
        shard = self.shard
        Room("cache", f"{self.store}/{shard.file}").take(2 * shard.bytes, shard.bytes)
        content = self.store.read(shard.file, 0, shard.bytes)
        check_digest(shard, hashlib.sha256(content).hexdigest())  # first: damage may say anything
        self._look(content)
        bare = np.frombuffer(content, np.uint8)
        with _damaged(f"shard {shard.file}"):
            arrays = {name: view(entry, bare, self._base) for name, entry in self._header.items()}
        check_values(shard, self.layout, arrays, self.first_row)
        self.whole = True
        return arrays

    def _one(self, name: str, like: Array) -> Array:
        """Read one array."""
        if not self._header:
            self._look(b"")
        if name not in self._header:  # see `filled`
            return like
        entry, low = self._header[name], self._base
        begin, end = entry["data_offsets"]
        Room("cache", f"{self.store}/{self.shard.file}").take(2 * (end - begin), end - begin)
        piece = self.store.read(self.shard.file, low + begin, low + end)
        with _damaged(f"shard {self.shard.file}"):
            return view({**entry, "data_offsets": [0, end - begin]}, np.frombuffer(piece, np.uint8))


@contextmanager
def _damaged(argument: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what is no header fails in many ways
        step = "It was cut or damaged: copy or write it anew."
        raise input_error(argument, "a safetensors file", f"{error}", step) from error
