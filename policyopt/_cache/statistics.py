"""What a pass over a cache has found, kept beside its shards: which of them are whole, and columns of numbers by row.

A folder ``statistics`` in the cache (where nobody may write there: one of the user's): an index, and one file of
columns per split and meaning. A file is trusted while the system says that neither it nor the shards were touched since
(size, inode, times of change, which no program can set back): a copied, mended or damaged cache is read anew, and so is
all after the folder is removed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from policyopt._cache.data import RESERVED, Rows
from policyopt._cache.files import empty, map_tensors, sha256_file, take_room
from policyopt._cache.manifest import MAX_BYTES, Manifest, Shard
from policyopt.runtime import _strict_json as strict_json
from policyopt.runtime._errors import InputError
from policyopt.runtime._files import TEMPORARY, write_file
from policyopt.runtime._typing import Array

#: The folder in a cache, and the index in it.
FOLDER, _INDEX = "statistics", "index.json"
#: Shards that are smaller together are read anew faster than anything is kept.
_WORTH_KEEPING = 64 << 20
#: Columns beyond this are trusted without their checksum, as the system says they were not touched.
_MOST_HASHED = 1 << 26
_DTYPES = {"i8": "I64", "f8": "F64", "f4": "F32", "i4": "I32", "b1": "BOOL"}
_NAME = re.compile(r"[0-9a-f]{16}\.safetensors")
#: Seconds after which a file on its way has no writer any more.
_ABANDONED = 86_400
_FORM = strict_json.Form(
    "kept statistics", "policyopt-statistics", 1,
    {"format": str, "version": int, "whole": dict, "disjoint": list, "columns": list, "sha256": str},
    "", "Remove the folder.",
)  # fmt: skip
_COLUMNS = {"file": str, "of": str, "shards": list, "rows": list, "sha256": str, "stamp": str}

Spec = Mapping[str, tuple[tuple[int, ...], Any]]


def worth_keeping(shards: Sequence[Shard]) -> bool:
    """Whether shards are so large that what a pass finds is kept."""
    return sum(shard.bytes for shard in shards) >= _WORTH_KEEPING


def clear(directory: Path) -> None:
    """Remove what is kept of a cache that is no more."""
    place = directory / FOLDER
    if place.is_symlink() or not place.is_dir():
        return
    with suppress(OSError):  # in use, or others' files: they stay
        for file in place.iterdir():
            if file.name == _INDEX or _NAME.fullmatch(file.name):
                file.unlink()
        place.rmdir()


def stamp_of(file: Path) -> str:
    """Return what changes where a file is written to or replaced; empty where it is not there."""
    try:
        about = file.lstat()
    except OSError:
        return ""
    return f"{about.st_size}-{about.st_ino}-{about.st_mtime_ns}-{about.st_ctime_ns}"


def same_file(file: str | os.PathLike[str]) -> str:
    """Return what tells a file from all others of all machines while they run; empty where that is not known."""
    try:
        about, machine = os.stat(file), Path("/proc/sys/kernel/random/boot_id").read_text()  # noqa: PTH116
    except OSError:
        return ""
    return f"{machine.strip()} {about.st_dev} {about.st_ino}"


class _Columns(NamedTuple):
    """Columns that are kept: the checksums and rows of the shards that they are of, in order, and the arrays."""

    shards: list[str]
    rows: list[int]
    arrays: dict[str, Array]

    def start(self, shard: int) -> int:
        """Return the first row of a shard."""
        return sum(self.rows[:shard])


class Kept:
    """What is kept of the shards of an opened cache; `stamps`: of each file as it was opened, see `stamp_of`.

    `checked`: who reads a shard finds it whole, or is refused, as of stores.
    """

    def __init__(
        self, directory: Path, manifest: Manifest, stamps: Mapping[str, str], checked: bool = False
    ) -> None:
        self.checked, self.directory = checked, directory
        self.splits: Mapping[str, Rows] = {}  # as they were opened: data may be given others since
        self.shards, self.stamps, self.place = manifest.shards, stamps, directory / FOLDER
        self.worth = worth_keeping(manifest.shards)
        # A link in a cache of someone else's may lead to any folder of the user's.
        theirs = self.place.is_symlink() or (self.place / _INDEX).is_symlink()
        if self.worth and (theirs or not os.access(directory, os.W_OK)):
            name = hashlib.sha256(os.fsencode(directory.absolute())).hexdigest()[:16]
            try:
                home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
                self.place = home / "policyopt-statistics" / name  # that of libraries is private
            except RuntimeError:  # whose home nobody knows
                self.worth = False
        self._index = self._read()

    def _read(self) -> dict[str, Any]:
        """Return the index, an empty one where there is none that can be read."""
        none: dict[str, Any] = {"whole": {}, "disjoint": [], "columns": []}
        if not self.worth:
            return none
        try:
            text = strict_json.read_plain(self.place / _INDEX, _INDEX, MAX_BYTES)
            content = strict_json.parse(text, _INDEX, MAX_BYTES, "")
            _FORM.check(content, _INDEX)
            for entry in content["columns"]:
                strict_json.check_fields(entry, _COLUMNS, _INDEX, "")
                sums, rows = entry["shards"], entry["rows"]
                types = {*map(type, sums)}, {*map(type, rows)}
                if types != ({str}, {int}) or len(sums) != len(rows):
                    return none
        except InputError:  # none that can be read, or of another version: it is replaced
            return none
        return content

    def _write(self, **changes: Callable[[Any], Any]) -> None:
        """Change the index as it stands there now: others may have written to it."""

        def anew() -> str:
            old, names = self._read(), ("whole", "disjoint", "columns")
            kept = {n: changes[n](old[n]) if n in changes else old[n] for n in names}
            self._index = _FORM.signed(**kept)
            return json.dumps(self._index)

        if self.worth:
            with suppress(InputError):  # no room, no permission: found anew the next time
                write_file(self.place / _INDEX, anew)

    def whole(self, shard: Shard) -> bool:
        """Whether a shard was found to be as it was written, and was not touched since."""
        stamp = self.stamps.get(shard.file)
        return bool(stamp) and self._index["whole"].get(shard.file) == [shard.sha256, stamp]

    def disjoint(self) -> bool:
        """Whether the splits of these shards were found to share no rows."""
        return self._name() in self._index["disjoint"]

    def keep_whole(self) -> None:
        """Keep that all the shards are whole, and their splits disjoint."""
        found, name = self._stamped(self.shards), self._name()
        self._write(
            whole=lambda old: {
                **{n: told for n, told in old.items() if (self.directory / n).exists()},
                **found,
            },
            disjoint=lambda old: [*old, name][-10:],
        )

    def _stamped(self, shards: Sequence[Shard]) -> dict[str, list[str]]:
        return {s.file: [s.sha256, self.stamps.get(s.file, "")] for s in shards}

    def _name(self) -> str:
        # Of streams nobody asks whether they share rows.
        named = sorted((s.split, s.sha256) for s in self.shards if s.split in RESERVED)
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()

    # --- columns -------------------------------------------------------------------------------

    @contextmanager
    def columns(
        self, split: str, meaning: str, spec: Spec
    ) -> Iterator[tuple[dict[str, Array], list[int]]]:
        """Yield the columns (N, ...) of a split, and which of its shards' rows are to be filled in within the block.

        They are kept after it. Where that cannot be, they are in memory or a temporary file.
        """
        mine = [shard for shard in self.shards if shard.split == split]
        sums, every = [shard.sha256 for shard in mine], list(range(len(mine)))
        known = self.checked or all(map(self.whole, mine))
        old = self._trusted(meaning, spec) if self.worth and known else None
        for one in old or ():
            at = one.shards.index(sums[0]) if sums[0] in one.shards else len(one.shards)
            if one.shards[at : at + len(sums)] == sums:
                low = one.start(at)
                here = slice(low, low + sum(shard.rows for shard in mine))
                yield {name: array[here] for name, array in one.arrays.items()}, []
                return
        file = None if old is None else self._new_file(spec)
        if file is None:
            yield {name: empty(*of) for name, of in spec.items()}, every
            return
        path, columns = file
        try:
            read = _copied(old or (), mine, columns)
            yield columns, read
            if self.checked:
                found = self._stamped([mine[i] for i in read])
                self._write(whole=lambda old: {**old, **found})
            # What was changed meanwhile is of other rows. Mapped, columns are there, though nobody else finds them.
            same = all(stamp_of(self.directory / s.file) == self.stamps.get(s.file) for s in mine)
            with suppress(OSError):
                if self.checked or same:
                    self._keep(path, meaning, mine)
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _trusted(self, meaning: str, spec: Spec) -> list[_Columns]:
        """Return the columns that are kept of a meaning, and were not touched."""
        found = []
        for entry in self._index["columns"]:
            if entry["of"] != meaning or not _NAME.fullmatch(entry["file"]):
                continue
            path = self.place / entry["file"]
            if not entry["stamp"] or stamp_of(path) != entry["stamp"]:
                continue
            with suppress(InputError, OSError, ValueError):  # what cannot be read is made anew
                size = path.stat().st_size
                if size > _MOST_HASHED or sha256_file(path, "statistics") == entry["sha256"]:
                    arrays = {n: a for n, (_, a) in map_tensors(path, "statistics", size).items()}
                    one = _Columns(entry["shards"], entry["rows"], arrays)
                    n = sum(one.rows)
                    fits = {name: ((n, *of[0][1:]), np.dtype(of[1])) for name, of in spec.items()}
                    if fits == {name: (a.shape, a.dtype) for name, a in arrays.items()}:
                        found.append(one)
        return found

    def _new_file(self, spec: Spec) -> tuple[Path, dict[str, Array]] | None:
        """Return a file of columns on its way, mapped to be filled; None where it cannot be."""
        end, entries = 0, dict[str, Any]()
        for column, (shape, dtype) in spec.items():
            size = math.prod(shape) * np.dtype(dtype).itemsize
            kind = _DTYPES[np.dtype(dtype).str[1:]]
            entries[column] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
            end += size
        head = json.dumps(entries).encode()
        head += b" " * (-len(head) % 64)
        # Of another name each time: two threads may be at the same columns.
        path = self.place / f".{uuid4().hex}.safetensors{TEMPORARY}"
        columns = dict[str, Array]()
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            with path.open("xb+") as file:
                take_room(file.fileno(), 8 + len(head) + end)
                file.write(len(head).to_bytes(8, "little") + head)
                file.flush()
                for column, (shape, dtype) in spec.items():
                    low = 8 + len(head) + entries[column]["data_offsets"][0]
                    columns[column] = np.memmap(file, dtype, "r+", low, shape)
        except OSError:  # no room, no permission: they stand elsewhere
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        return path, columns

    def _keep(self, path: Path, meaning: str, mine: Sequence[Shard]) -> None:
        """Make a file that is filled one of those that the index names; others that it makes superfluous go."""
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        digest = sha256_file(path, "statistics")
        final = path.with_name(f"{digest[:16]}.safetensors")
        path.replace(final)
        sums, rows = [shard.sha256 for shard in mine], [shard.rows for shard in mine]
        entry = {"file": final.name, "of": meaning, "shards": sums, "rows": rows}
        entry |= {"sha256": digest, "stamp": stamp_of(final)}

        def with_it(old: list[dict[str, Any]]) -> list[dict[str, Any]]:
            others = [e for e in old if e["of"] != meaning or not {*e["shards"]} & {*sums}]
            alike = [e for e in old if e not in others and not {*e["shards"]} <= {*sums}]
            return [*others, *alike[-1:], entry]  # of windows the last two

        if entry["stamp"]:
            self._write(columns=with_it)
        named = {e["file"] for e in self._index["columns"]}
        for other in self.place.glob("*.safetensors"):
            if other.name not in named and _NAME.fullmatch(other.name):
                other.unlink(missing_ok=True)
        for other in self.place.glob(f".*{TEMPORARY}"):
            with suppress(OSError):
                if time.time() - other.stat().st_mtime > _ABANDONED:
                    other.unlink()


def _copied(
    old: Sequence[_Columns], mine: Sequence[Shard], columns: Mapping[str, Array]
) -> list[int]:
    """Fill in what kept columns know of the shards; return the numbers of those that none knows."""
    places = {s: (one, at) for one in old for at, s in enumerate(one.shards)}
    start, left = 0, list[int]()
    for number, shard in enumerate(mine):
        if shard.sha256 in places:
            one, at = places[shard.sha256]
            low = one.start(at)
            for name, array in columns.items():
                array[start : start + shard.rows] = one.arrays[name][low : low + shard.rows]
        else:
            left.append(number)
        start += shard.rows
    return left
