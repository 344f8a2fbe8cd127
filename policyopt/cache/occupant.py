"""What stands already where a cache is to be written, and what of it may go."""

from __future__ import annotations

import os
import re
from pathlib import Path

from policyopt.cache.files import sha256_file
from policyopt.cache.manifest import MANIFEST, REPLACED, UNFINISHED, Manifest
from policyopt.cache.reader import read_list, read_manifest
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.files import LOCK, TEMPORARY, FileLock, refusing

#: Names of shards: split, number, and (older ones lack it) the beginning of their SHA-256. Not model-00001-of-00002,
#: as the weights of models are named.
_SHARD = re.compile(r"[A-Za-z0-9_.-]{1,64}(?<!-of)-\d{5,}(?:-([0-9a-f]{16}))?\.safetensors")
_NEVER = "Other files stand there: choose another place."


def occupant(path: Path, overwrite: bool, argument: str = "path") -> Manifest | None:
    """Return the manifest of the cache that `path` holds and may be replaced, if any.

    Refused, too, where a writer is at it.
    """
    with refusing(path):
        if (path / LOCK).exists():
            with FileLock(path / LOCK, path):
                return standing(path, overwrite, argument)
        return standing(path, overwrite, argument)


def standing(path: Path, overwrite: bool, argument: str = "path") -> Manifest | None:
    """Do the same where the lock is held."""
    if not os.path.lexists(path):
        return None
    if not path.is_dir():
        raise input_error(argument, "a directory", f"{path} (a file)", "Choose another place.")
    names = {entry.name for entry in path.iterdir()} - {"README.md", LOCK}
    wanted = "a new or empty directory, or a policyopt cache"
    if not names & {MANIFEST, UNFINISHED}:
        if all(_is_left(path / name, {}) for name in names):
            return None
        raise input_error(argument, wanted, f"{path}", _NEVER)
    try:
        manifest = read_manifest(path)
    except InputError as error:
        raise input_error(argument, wanted, f"{path} ({error})", "Choose another place.") from error
    if not overwrite:
        whole = "" if manifest.complete else "n unfinished"
        raise input_error(
            argument,
            "a new or empty directory",
            f"{path}, which holds a{whole} cache",
            "Choose another place, or replace it with --overwrite (Python: overwrite=True).",
        )
    return manifest


def sweep(path: Path, keep: Manifest | None = None) -> None:
    """Remove what writers left in a locked folder: temporary files, shards that are read no more.

    Those that the manifest there lists stay, and those to `keep`. A shard goes only where its
    checksum is the one in its name, or in the manifest that was replaced: whatever a manifest may
    say, a file that is not a shard of ours stays.
    """
    there = {entry.name for entry in path.iterdir()}
    lists = [read_manifest(path)] if there & {MANIFEST, UNFINISHED} else []
    kept = {shard.file for one in lists for shard in one.shards}
    more = {shard.file for shard in keep.shards} - kept if keep else set()
    kept |= more | {MANIFEST, "README.md", LOCK} | (set() if MANIFEST in there else {UNFINISHED})
    listed, stays = {}, bool(more)
    if REPLACED in there:
        try:
            listed = {shard.file: shard.sha256 for shard in read_list(path / REPLACED).shards}
        except InputError:  # damaged, or not to be read now: the next overwriting replaces it
            stays = True
    for name in sorted(there - kept, key=REPLACED.__eq__):  # that one last, and once all is gone
        try:
            if _is_left(path / name, listed) and not (stays and name == REPLACED):
                (path / name).unlink()
        except (OSError, InputError):  # cannot be read or removed: the next writer tries again
            stays = True


def _is_left(file: Path, listed: dict[str, str]) -> bool:
    """Whether a file is a writer's own: a temporary file, an unfinished list, or a whole shard."""
    name = file.name
    if name in (UNFINISHED, REPLACED):
        return True
    if name.startswith(".") and name.endswith(TEMPORARY):
        name = name[1:].removesuffix(TEMPORARY)
        return name in (MANIFEST, UNFINISHED, REPLACED) or _SHARD.fullmatch(name) is not None
    shard = _SHARD.fullmatch(name)
    digest = listed.get(name) or (shard and shard[1])
    if not shard or not digest or file.is_symlink() or not file.is_file():
        return False
    return sha256_file(file, name).startswith(digest)
