"""What stands already where a cache is to be written, and what of it may go."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from policyopt.cache.manifest import MANIFEST, Manifest
from policyopt.cache.reader import read_manifest
from policyopt.runtime.errors import InputError, bad


def occupant(path: Path, overwrite: bool, argument: str = "path") -> Manifest | None:
    """Return the manifest of the cache that `path` holds and may be replaced, if any."""
    if not os.path.lexists(path):
        return None
    if not path.is_dir():
        raise bad(argument, "a directory", f"{path} (a file)", "Choose another place.")
    names = {entry.name for entry in path.iterdir()} - {"README.md"}
    if not names:
        return None
    if MANIFEST not in names:
        raise bad(
            argument,
            "a new or empty directory, or a policyopt cache",
            f"{path}",
            "Other files stand there: choose another place.",
        )
    try:
        manifest = read_manifest(path)
    except InputError as error:
        raise bad(
            argument,
            "a new or empty directory, or a policyopt cache",
            f"{path} ({error})",
            "Choose another place.",
        ) from error
    if not overwrite:
        raise bad(
            argument,
            "a new or empty directory",
            f"{path}, which holds a cache",
            "Choose another place, or replace it with --overwrite (Python: overwrite=True).",
        )
    return manifest


def remove_shards(path: Path, manifest: Manifest | None) -> None:
    """Remove the shards of an old cache and what its crashes left; nothing else."""
    if manifest is None:
        return
    for shard in manifest.shards:
        with contextlib.suppress(OSError):
            (path / shard.file).unlink()
    for stray in path.glob(".*.safetensors.*.tmp"):
        with contextlib.suppress(OSError):
            stray.unlink()
