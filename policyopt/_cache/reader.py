"""`open_cache`: from a directory that may be damaged or hostile to a checked, mapped `ExitData`."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from policyopt._cache.data import Block, ExitData, Rows, filled, to_data
from policyopt._cache.files import map_tensors, sha256_file
from policyopt._cache.manifest import (
    MANIFEST,
    MAX_BYTES,
    UNFINISHED,
    Manifest,
    Shard,
    parse,
    window,
)
from policyopt._cache.places import Store, place_of, tag_of
from policyopt._cache.shards import StoredShard, check_digest, check_values, typed
from policyopt._cache.statistics import Kept, stamp_of
from policyopt._progress import report, working
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._strict_json import read_plain
from policyopt.runtime._typing import Array


@working("checking the cache")
def open_cache(
    path: str | os.PathLike[str],
    *,
    verify: bool = True,
    incomplete: bool = False,
    mmap: bool = True,
    since: str | None = None,
    last: str | int | None = None,
    only: Collection[str] | None = None,
) -> ExitData:
    """Open a cache: check it, and map its arrays read-only without copying.

    Writers never change a shard that a manifest lists: who has opened a cache goes on reading the
    old one while it is overwritten. But whatever else cuts a mapped file ends the process that reads
    beyond its new end (SIGBUS): where that may happen, e.g. on shared disks, say ``mmap=False``.

    Parameters
    ----------
    path : path
        Directory that `CacheWriter` or `policyopt import` wrote.
    verify : bool, default True
        Compare every shard with its SHA-256 and check all values, but of what was checked before and not
        touched since (the folder ``statistics`` says it; remove that, and all is read anew). False trusts the
        content; sizes, headers and shapes are checked all the same.
    incomplete : bool, default False
        Read the finished shards of a cache whose writing broke off, or still goes on.
    mmap : bool, default True
        Map the shards, their sizes checked once. False reads them into memory.
    since : str, optional
        Only rows that were appended since then (`CacheWriter(append=True)`): ``"2026-11-30"``, or with a time; UTC.
        Rows that were not appended always count.
    last : str or int, optional
        Only the last of each split: ``"7d"``, ``"12h"``, back from the newest, or a least number of rows, in whole
        shards.
    only : collection of str, optional
        Only these shards, by the names of their files (`ExitData.kept` has them).

    Returns
    -------
    ExitData

    Raises
    ------
    InputError
        Not a cache, incomplete, damaged (the shard is named), or with overlapping splits.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import policyopt as po
    >>> place = tempfile.mkdtemp()
    >>> rng = np.random.default_rng(0)
    >>> with po.CacheWriter(place, costs=[po.Cost("compute", "MMACs", [1, 2])]) as cache:
    ...     cache.append("fit", rng.normal(size=(20, 2, 3)), rng.integers(0, 3, 20))
    >>> data = po.open_cache(place)
    >>> data.kind, data.exits, data.classes, len(data.splits["fit"])
    ('logits', 2, 3, 20)
    """
    directory = place_of(path)
    while True:
        seen, manifest = _stamps(directory), read_manifest(directory, incomplete)
        try:
            if not manifest.complete and not incomplete:
                step = (
                    "Write it anew, or see what is whole with `policyopt info --incomplete` "
                    "(Python: incomplete=True)."
                )
                raise input_error("cache", "complete", f"{directory} not written to the end", step)
            left = [shard for shard in manifest.shards if only is None or shard.file in only]
            if only is not None and len(left) < len({*only}):
                got, step = f"another at {directory}", "It was overwritten: begin anew."
                raise input_error("cache", "the one that was opened at first", got, step)
            mine = replace(manifest, shards=window(left, since, last))
            if manifest.shards and not mine.shards:
                step = f"The newest are of {max(shard.time for shard in manifest.shards)}."
                raise input_error("since", "a time with rows after it", since, step)
            data = open_manifest(directory, mine, verify, mmap)
            # Of a store who reads a shard looks whether it is whole; on disk that is done.
            here = isinstance(directory, Path)
            again: dict[str, Any] = {"path": os.path.abspath(path) if here else str(path)}  # noqa: PTH100 links stay
            # By name: a cache may grow meanwhile.
            again["only"] = frozenset(shard.file for shard in mine.shards)
            again |= {"incomplete": incomplete, "mmap": mmap, "verify": verify and not here}
            object.__setattr__(data, "origin", again)
            for name, rows in data.splits.items():
                object.__setattr__(rows, "home", (again, data.fingerprint, name))
            return data
        except InputError:
            # Where it was overwritten meanwhile, the new one is read.
            if read_manifest(directory, incomplete) == manifest and _stamps(directory) == seen:
                raise


def _stamps(directory: Path | Store) -> list[str]:
    """Return what changes where a manifest on disk is replaced, be it by one that is alike."""
    if not isinstance(directory, Path):
        return []
    return [stamp_of(directory / name) for name in (MANIFEST, UNFINISHED)]


def open_manifest(
    directory: Path | Store,
    manifest: Manifest,
    verify: bool = True,
    mmap: bool = True,
) -> ExitData:
    """Open the cache that a manifest describes; see `open_cache`."""
    if not manifest.shards:
        allowed = "of at least one finished shard"
        raise input_error("cache", allowed, f"none in {directory}", "Write it anew.")
    at, here, starts, splits = manifest, isinstance(directory, Path), [], dict[str, list[Block]]()
    rows = dict.fromkeys((shard.split for shard in at.shards), 0)
    for shard in at.shards:
        starts.append(rows[shard.split])
        rows[shard.split] += shard.rows
    if isinstance(directory, Path):
        kept, blocks = _mapped(directory, at, starts, verify, mmap)
    else:
        kept, blocks = _stored(directory, at, starts, verify)
    for shard, block in zip(at.shards, blocks, strict=True):
        mine = splits.setdefault(shard.split, [])
        mine.append(block)
        if mine[0].keys() != block.keys():
            allowed = "of shards with the same arrays"
            raise input_error(f"split {shard.split}", allowed, "others", "Write it anew.")
    kept.splits, known = {n: Rows(tuple(mine)) for n, mine in splits.items()}, kept.disjoint()
    data = to_data(
        at.layout, kept.splits, at.shares, at.split_seed, at.metadata, at.fingerprint,
        disjoint=here and verify and not known,
    )  # fmt: skip
    if here and verify and not (known and all(map(kept.whole, at.shards))):
        kept.keep_whole()
    kept.splits = dict(kept.splits)  # whatever is put into the data's
    return replace(data, kept=kept)


def _mapped(
    directory: Path, at: Manifest, starts: Sequence[int], verify: bool, mmap: bool
) -> tuple[Kept, Sequence[Block]]:
    """Map all shards; read those that were not found whole before, or were touched since."""
    kept = Kept(directory, at, {s.file: stamp_of(directory / s.file) for s in at.shards})
    blocks, names = list[dict[str, Array]](), {s.file: f"shard {s.file}" for s in at.shards}
    for shard in at.shards:
        tensors = map_tensors(directory / shard.file, names[shard.file], shard.bytes, mmap=mmap)
        blocks.append(
            typed(shard, at.layout, {name: array for name, (_, array) in tensors.items()})
        )

    def check(one: tuple[Shard, Block, int]) -> int:
        check_digest(one[0], sha256_file(directory / one[0].file, names[one[0].file]))
        check_values(one[0], at.layout, *one[1:])
        return one[0].bytes

    each = zip(at.shards, blocks, starts, strict=True)
    open_ = [one for one in each if verify and not kept.whole(one[0])]
    total, done = sum(shard.bytes for shard, _, _ in open_), 0
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for size in pool.map(check, open_):
            done += size
            report(done, total, "")
    return kept, [*map(filled, blocks)]


def _stored(
    store: Store, at: Manifest, starts: Sequence[int], verify: bool
) -> tuple[Kept, Sequence[Block]]:
    """Look at the sizes of a store's shards, which are themselves read when they are needed."""
    there, blocks, first = store.listing(), list[StoredShard](), dict[str, Block]()
    stamps = {name: tag_of(one) for name, one in there.items()}
    kept = Kept(Path("/", str(store)), at, stamps, checked=verify)
    for shard, start in zip(at.shards, starts, strict=True):
        if there and (size := there.get(shard.file, {}).get("size")) != shard.bytes:
            step, got = "Copy or write the cache anew.", "none" if size is None else f"{size} bytes"
            raise input_error(f"shard {shard.file}", f"of {shard.bytes} bytes", got, step)
        known, like = not verify or kept.whole(shard), first.get(shard.split)
        blocks.append(StoredShard(store, shard, at.layout, start, known, like))
        first.setdefault(shard.split, blocks[-1].like)
    return kept, blocks


def read_manifest(directory: Path | Store, incomplete: bool = False) -> Manifest:
    """Read the manifest; `incomplete`, or where there is no other: that of a writing that broke off."""
    names = (UNFINISHED, MANIFEST) if incomplete else (MANIFEST, UNFINISHED)
    step = "Make one with `policyopt import SRC --out DIR`."
    if isinstance(directory, Store):
        step = f"Check address, bucket, rights and connection. {step}"
        texts = (directory.whole(name, MAX_BYTES) for name in names)
    else:
        there = (directory / name for name in names)
        there = (file for file in there if os.path.lexists(file))  # not without the right to look
        texts = (read_plain(file, file.name, MAX_BYTES, links=False) for file in there)
    if (text := next((text for text in texts if text is not None), None)) is None:
        raise input_error("cache", f"a directory with a {MANIFEST}", str(directory), step)
    return parse(text)
