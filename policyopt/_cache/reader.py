"""`open_cache`: from a directory that may be damaged or hostile to a checked, mapped `ExitData`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.blocks import check_block, is_features, storage_type, to_block
from policyopt._cache.data import Block, ExitData, Layout, Rows, filled, to_data
from policyopt._cache.files import map_tensors, open_regular, sha256_file
from policyopt._cache.manifest import MANIFEST, MAX_BYTES, UNFINISHED, Manifest, Shard, parse
from policyopt._progress import report, working
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._strict_json import read_open
from policyopt.runtime._typing import Array


@working("checking the cache")
def open_cache(
    path: str | os.PathLike[str],
    *,
    verify: bool = True,
    incomplete: bool = False,
    mmap: bool = True,
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
    directory = Path(path)
    while True:
        manifest = read_manifest(directory, incomplete)
        try:
            if not manifest.complete and not incomplete:
                step = (
                    "Write it anew, or see what is whole with `policyopt info --incomplete` "
                    "(Python: incomplete=True)."
                )
                raise input_error("cache", "complete", f"{directory} not written to the end", step)
            data = open_manifest(directory, manifest, verify, mmap)
            again = {"path": os.path.abspath(path), "incomplete": incomplete, "mmap": mmap}  # noqa: PTH100 links stay
            object.__setattr__(data, "origin", again)
            return data
        except InputError:
            # Where it was overwritten meanwhile, the new one is read.
            if read_manifest(directory, incomplete) == manifest:
                raise


def open_manifest(
    directory: Path,
    manifest: Manifest,
    verify: bool = True,
    mmap: bool = True,
) -> ExitData:
    """Open the cache that a manifest describes; see `open_cache`."""
    if not manifest.shards:
        allowed = "of at least one finished shard"
        raise input_error("cache", allowed, f"none in {directory}", "Write it anew.")
    total, done = sum(shard.bytes for shard in manifest.shards), 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        report(done, total, "")

    splits: dict[str, Rows] = {}
    for shard in manifest.shards:
        before = splits.get(shard.split, Rows(()))
        block = _map_shard(directory, shard, manifest.layout, mmap)
        if verify:
            _verify(directory, shard, manifest.layout, block, len(before), step)
        whole = Rows((*before.blocks, filled(block)))
        if whole.blocks[0].keys() != whole.blocks[-1].keys():
            allowed = "of shards with the same arrays"
            raise input_error(f"split {shard.split}", allowed, "others", "Write it anew.")
        splits[shard.split] = whole
    at = manifest
    return to_data(
        at.layout, splits, at.shares, at.split_seed, at.metadata, at.fingerprint, disjoint=verify
    )


def read_manifest(directory: Path, incomplete: bool = False) -> Manifest:
    """Read the manifest; `incomplete`, or where there is no other: that of a writing that broke off."""
    try:
        order = (UNFINISHED, MANIFEST) if incomplete else (MANIFEST, UNFINISHED)
        found = next((name for name in order if (directory / name).exists()), None)
    except OSError:  # no permission to look
        found = None
    if found is None:
        step = "Make one with `policyopt import SRC --out DIR`."
        raise input_error("cache", f"a directory with a {MANIFEST}", str(directory), step)
    descriptor = open_regular(directory / found, found)
    try:
        return parse(read_open(descriptor, found, MAX_BYTES))
    finally:
        os.close(descriptor)


def _map_shard(directory: Path, shard: Shard, layout: Layout, mmap: bool) -> dict[str, Array]:
    """Map one shard of a cache, its arrays checked against what the manifest says."""
    argument = f"shard {shard.file}"
    tensors = map_tensors(directory / shard.file, argument, shard.bytes, mmap=mmap)
    arrays = {name: array for name, (_, array) in tensors.items()}
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


def _verify(
    directory: Path, shard: Shard, layout: Layout, block: Block, first_row: int, step: Any
) -> None:
    """Refuse a shard that is not as it was written, or whose values are not allowed."""
    argument = f"shard {shard.file}"
    found = sha256_file(directory / shard.file, argument, step)
    if found != shard.sha256:
        advice = "It was damaged or changed: write the cache anew."
        allowed = f"of SHA-256 {shard.sha256[:12]}..."
        raise input_error(argument, allowed, f"{found[:12]}...", advice)
    try:
        check_block(layout, block, shard.split, first_row)
    except InputError as error:
        raise InputError(f"{argument}: {error}") from error
