"""Shards of a cache, checked; those in a store are read when one of their arrays is first asked for."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from threading import Lock
from typing import Any

import numpy as np

from policyopt._cache.blocks import check_block, is_features, storage_type, to_block
from policyopt._cache.data import Block, Layout, filled
from policyopt._cache.files import header_length, parse_header, stand_in, view
from policyopt._cache.manifest import Shard
from policyopt._cache.places import Store
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._sizes import Room
from policyopt.runtime._typing import Array

#: Bytes of arrays that stay in memory: of large ones, and of small ones, which are asked for again.
_MOST = 256 << 20
#: Bytes in which a header mostly is.
_HEAD = 2048


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


def check_shard(shard: Shard, layout: Layout, digest: str, block: Block, first_row: int) -> None:
    """Refuse a shard that is not as it was written, by its SHA-256, or whose values are not allowed."""
    argument = f"shard {shard.file}"
    if digest != shard.sha256:
        advice = "It was damaged or changed: write the cache anew."
        allowed = f"of SHA-256 {shard.sha256[:12]}..."
        raise input_error(argument, allowed, f"{digest[:12]}...", advice)
    try:
        check_block(layout, block, shard.split, first_row)
    except InputError as error:
        raise InputError(f"{argument}: {error}") from error


class Recent:
    """Arrays that were asked for last: one, or as many as fit into `_MOST` bytes."""

    def __init__(self) -> None:
        self._lock, self._size = Lock(), 0
        self._arrays: OrderedDict[Hashable, Array] = OrderedDict()

    def get(self, key: Hashable) -> Array | None:
        """Return an array, if it is still there."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def put(self, key: Hashable, array: Array) -> None:
        """Keep an array; others go."""
        with self._lock:
            if key not in self._arrays:
                self._arrays[key], self._size = array, self._size + array.nbytes
            while self._size > _MOST and len(self._arrays) > 1:
                self._size -= self._arrays.popitem(last=False)[1].nbytes


class StoredShard(Mapping[str, Array]):
    """The arrays of a shard in a store, by name; `like` stands for them where only types and shapes are asked for.

    Until the shard is known to be `whole`, it is read as a whole and checked, from then on by the array.
    """

    def __init__(
        self, store: Store, shard: Shard, layout: Layout, first_row: int, whole: bool,
        large: Recent, small: Recent, like: Mapping[str, Array] | None = None,
    ) -> None:  # fmt: skip
        self.store, self.shard, self.layout, self.first_row = store, shard, layout, first_row
        self.whole, self._large, self._small, self._lock = whole, large, small, Lock()
        self._header, self._base = dict[str, Any](), 0
        # The shards of a split have the same arrays: the header of the first tells.
        self.like: Mapping[str, Array] = {}
        own = self._look(None) if like is None else like
        self.like = {
            n: np.broadcast_to(a.flat[0], (shard.rows, *a.shape[1:])) for n, a in own.items()
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self.like)

    def __len__(self) -> int:
        return len(self.like)

    def __contains__(self, name: object) -> bool:
        return name in self.like

    def __getitem__(self, name: str) -> Array:
        kept, key = self._kept(self.like[name]), (self.shard.file, name)
        with self._lock:
            found = kept.get(key)
            if found is None and not self.whole:
                self._read_all()
                found = kept.get(key)
            if found is None:
                found = self._read(name)
                kept.put(key, found)
        return found

    def _kept(self, array: Array) -> Recent:
        return self._small if 4 * array.nbytes <= self.shard.bytes else self._large

    def _look(self, content: Array | None) -> dict[str, Array]:
        """Read where arrays stand, of the store or of the whole content; return stand-ins, checked."""
        shard, argument = self.shard, f"shard {self.shard.file}"

        def first(count: int) -> bytes:
            read = self.store.read(shard.file, 0, count) if content is None else content[:count]
            return read.tobytes()

        head = first(min(_HEAD, shard.bytes))
        self._base = 8 + header_length(head, shard.bytes, argument, shard.file)
        head = head if self._base <= len(head) else first(self._base)
        header = parse_header(head[8 : self._base], shard.bytes - self._base, argument, shard.file)
        own = filled(typed(shard, self.layout, {n: stand_in(entry) for n, entry in header.items()}))
        shapes = {name: array.shape for name, array in own.items()}
        if self.like and shapes != {name: array.shape for name, array in self.like.items()}:
            allowed = "of shards with the same arrays"
            raise input_error(f"split {shard.split}", allowed, "others", "Write it anew.")
        self._header = header
        return own

    def _read_all(self) -> None:
        """Read the shard as a whole and check it."""
        shard = self.shard
        Room("cache", f"{self.store}/{shard.file}").take(shard.bytes, shard.bytes)
        content = self.store.read(shard.file, 0, shard.bytes)
        content.flags.writeable = False
        self._look(content)
        arrays = {name: view(entry, content, self._base) for name, entry in self._header.items()}
        check_shard(
            shard, self.layout, hashlib.sha256(content.data).hexdigest(), arrays, self.first_row
        )
        self.whole = True
        for name, array in arrays.items():
            kept = self._kept(array)  # a small one by itself: the rest need not stay for it
            kept.put((shard.file, name), array.copy() if kept is self._small else array)

    def _read(self, name: str) -> Array:
        """Read one array."""
        if not self._header:
            self._look(None)
        if name not in self._header:  # see `filled`
            return self.like[name]
        entry = self._header[name]
        low, high = (self._base + offset for offset in entry["data_offsets"])
        Room("cache", f"{self.store}/{self.shard.file}").take(high - low, high - low)
        return view(
            {**entry, "data_offsets": [0, high - low]}, self.store.read(self.shard.file, low, high)
        )
