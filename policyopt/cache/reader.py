"""`open_cache`: from a directory that may be damaged or hostile to a checked, mapped `ExitData`."""

from __future__ import annotations

import os
from pathlib import Path

from policyopt.cache.checks import check_block
from policyopt.cache.data import ExitData, Rows, filled
from policyopt.cache.files import Progress, open_regular, sha256_file
from policyopt.cache.manifest import MANIFEST, MAX_BYTES, UNFINISHED, Manifest
from policyopt.cache.overlap import refuse_overlap
from policyopt.cache.parsing import parse
from policyopt.cache.shard import Array, map_shard
from policyopt.cache.splits import check_splits
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.strict_json import read_open


def open_cache(
    path: str | os.PathLike[str],
    *,
    verify: bool = True,
    incomplete: bool = False,
    mmap: bool = True,
    progress: Progress | None = None,
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
        Compare every shard with its SHA-256 and check all values. False trusts the content;
        sizes, headers and shapes are checked all the same.
    incomplete : bool, default False
        Read the finished shards of a cache whose writing broke off, or still goes on.
    mmap : bool, default True
        Map the shards, their sizes checked once. False reads them into memory.
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)`` while verifying.

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
    >>> from policyopt.cache import CacheWriter, open_cache
    >>> from policyopt.costs import Cost
    >>> place = tempfile.mkdtemp()
    >>> rng = np.random.default_rng(0)
    >>> with CacheWriter(place, costs=[Cost("compute", "MMACs", [1, 2])]) as cache:
    ...     cache.append("fit", rng.normal(size=(20, 2, 3)), rng.integers(0, 3, 20))
    >>> data = open_cache(place)
    >>> data.kind, data.exits, data.classes, len(data.splits["fit"])
    ('logits', 2, 3, 20)
    """
    directory = Path(path)
    while True:
        manifest = read_manifest(directory, incomplete)
        try:
            return open_manifest(directory, manifest, verify, incomplete, mmap, progress)
        except InputError:
            # Where it was overwritten meanwhile, the new one is read.
            if read_manifest(directory, incomplete) == manifest:
                raise


def open_manifest(
    directory: Path,
    manifest: Manifest,
    verify: bool = True,
    incomplete: bool = False,
    mmap: bool = True,
    progress: Progress | None = None,
) -> ExitData:
    """Open the cache that a manifest describes; see `open_cache`."""
    if not manifest.complete and not incomplete:
        raise input_error(
            "cache",
            "complete",
            f"{directory} whose writing did not end",
            "Write it anew, or see what is whole with `policyopt info --incomplete` "
            "(Python: incomplete=True).",
        )
    if not manifest.shards:
        raise input_error(
            "cache", "of at least one finished shard", f"none in {directory}", "Write it anew."
        )
    blocks = [map_shard(directory, shard, manifest.layout, mmap) for shard in manifest.shards]
    if verify:
        _verify(directory, manifest, blocks, progress)
    data = to_data(manifest, blocks)
    if verify:
        refuse_overlap(data.splits)
    return data


def read_manifest(directory: Path, incomplete: bool = False) -> Manifest:
    """Read ``manifest.json`` of a cache, with its size checked first.

    `incomplete`: rather the list of one whose writing broke off. It is read, too, where nothing
    else is there.

    Examples
    --------
    >>> read_manifest(Path("nothing-here"))
    Traceback (most recent call last):
        ...
    policyopt.runtime.errors.InputError: 'cache' must be a directory with a manifest.json...
    """
    try:
        order = (UNFINISHED, MANIFEST) if incomplete else (MANIFEST, UNFINISHED)
        found = next((name for name in order if (directory / name).exists()), None)
    except OSError:  # no permission to look
        found = None
    if found is None:
        raise input_error(
            "cache",
            f"a directory with a {MANIFEST}",
            str(directory),
            "Make one with `policyopt import SRC --out DIR`.",
        )
    return read_list(directory / found)


def read_list(path: Path) -> Manifest:
    """Read a manifest, or a list of its form, with its size checked first."""
    descriptor = open_regular(path, path.name)
    try:
        return parse(read_open(descriptor, path.name, MAX_BYTES))
    finally:
        os.close(descriptor)


def to_data(manifest: Manifest, blocks: list[dict[str, Array]]) -> ExitData:
    """Group mapped blocks by split.

    Parameters
    ----------
    manifest : Manifest
    blocks : list of dict of str to ndarray
        One per shard, in the manifest's order.

    Returns
    -------
    ExitData

    Raises
    ------
    InputError
        Splits beside a pool, or a share of the pool without a row.

    Examples
    --------
    See `open_cache`.
    """
    splits: dict[str, Rows] = {}
    for split in dict.fromkeys(shard.split for shard in manifest.shards):
        pairs = zip(manifest.shards, blocks, strict=True)
        mine = tuple(filled(block) for shard, block in pairs if shard.split == split)
        names = {frozenset(block) for block in mine}
        if len(names) > 1:
            raise input_error(
                f"split {split}", "of shards with the same arrays", "others", "Write it anew."
            )
        splits[split] = Rows(mine)
    check_splits({name: len(rows) for name, rows in splits.items()}, dict(manifest.shares))
    return ExitData(
        kind=manifest.layout.kind,
        exits=manifest.layout.exits,
        classes=manifest.layout.classes,
        splits=splits,
        costs=manifest.layout.costs,
        shares=dict(manifest.shares),
        split_seed=manifest.split_seed,
        metadata=manifest.metadata,
        fingerprint=manifest.fingerprint,
        contexts=manifest.layout.contexts,
    )


def _verify(
    directory: Path, manifest: Manifest, blocks: list[dict[str, Array]], progress: Progress | None
) -> None:
    total, done = sum(shard.bytes for shard in manifest.shards), 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    first: dict[str, int] = {}
    for shard, block in zip(manifest.shards, blocks, strict=True):
        found = sha256_file(directory / shard.file, f"shard {shard.file}", step)
        if found != shard.sha256:
            raise input_error(
                f"shard {shard.file}",
                f"of SHA-256 {shard.sha256[:12]}...",
                f"{found[:12]}...",
                "It was damaged or changed: write the cache anew.",
            )
        low = first.get(shard.split, 0)
        try:
            check_block(manifest.layout, block, f"split {shard.split!r}", low)
        except InputError as error:
            raise InputError(f"shard {shard.file}: {error}") from error
        first[shard.split] = low + shard.rows
