"""Folders of caches that are not on this machine: object stores, web servers, archives; reached through fsspec.

What a store is told stands in the address, the environment and the files of its own package, and is never shown. It
knows no rename and no lock: a file is written by one PUT.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from copy import copy
from functools import partial
from pathlib import Path, PurePath
from threading import Lock
from typing import Any, TypeVar

from policyopt._cache.manifest import MANIFEST
from policyopt._optional import need
from policyopt._progress import report
from policyopt.runtime._errors import MissingExtraError, input_error

#: Most bytes that are under way at once, and of one request where a store takes several.
AT_ONCE, _PIECE = 64 << 20, 16 << 20
#: Seconds before what failed by chance is tried again; stores' packages try again by themselves besides.
_WAITS = (0.3, 1.5)
#: What is no accident of the moment.
_LASTING = (
    PermissionError,
    ValueError,
    LookupError,
    NotImplementedError,
    IsADirectoryError,
    NotADirectoryError,
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|(zip|tar)::")
_ONE_SLASH = re.compile(r"((?:^|::)[A-Za-z][A-Za-z0-9+.-]+:)/(?!/)")
#: What may hold a key: a query, and for whom an address is opened.
_SECRET = re.compile(r"\?\S*?(?=::[A-Za-z][A-Za-z0-9+.-]*:/|\s|$)|(?<=//)[^/\s]+@")
T = TypeVar("T")


def place_of(path: str | os.PathLike[str]) -> Path | Store:
    """Return a folder of this machine as a path, one at an address (``s3://bucket/folder``) as a store."""
    address = address_of(path)
    if not address or address.startswith("file://"):
        return Path(address[7:] or path)
    return Store(address)


def address_of(path: str | os.PathLike[str]) -> str:
    """Return an address as it was written: a `Path` has one slash left of two; empty for a path of this machine."""
    text = path.as_posix() if isinstance(path, PurePath) else os.fspath(path)
    text = _ONE_SLASH.sub(r"\1//", text)
    return text if _ADDRESS.match(text) and not os.path.lexists(path) else ""


def shown(text: str) -> str:
    """Return an address, or what quotes one, as messages have it: no query, and nobody's name."""
    return _SECRET.sub("", text)


class Store:
    """A folder of a store: its files by name, read by ranges, written whole."""

    def __init__(self, address: str) -> None:
        self.address, told = address, shown(address)
        fsspec = need("fsspec", "storage", f"to open {told}")
        try:
            self.fs, root = fsspec.core.url_to_fs(address)
        except ImportError as error:  # it names the package
            raise MissingExtraError(f"'{told}' cannot be opened: {error}.") from None
        except Exception as error:  # an archive that is none, a protocol that nobody knows
            got, step = f"{told} ({shown(str(error))})", "E.g. s3://bucket/folder."
            raise input_error("address", "of a store", got, step) from None
        # On the web the root is the whole address: the query that opens a folder opens its files.
        self._web = "://" in root
        root, mark, query = root.partition("?") if self._web else (root, "", "")
        self.root, self._query = root.rstrip("/"), mark + query
        self.lock, self.recent = Lock(), list[Any]()  # for who reads: one at a time; what was last

    def __str__(self) -> str:
        return shown(self.address)

    def listing(self) -> dict[str, dict[str, Any]]:
        """Return what the store says of each entry, by name, in one listing; nothing where it lists none."""
        found = [] if self._web else self._asked(partial(self.fs.ls, detail=True)) or []
        each = {one["name"].strip("/"): one for one in found}
        each.pop(self.root.strip("/"), None)
        return {at.rpartition("/")[2]: one for at, one in each.items()}

    def find(self, name: str) -> tuple[int, str] | None:
        """Return the size of a file and a tag that is another where it was replaced; None where it is not there."""
        found = self._asked(self.fs.info, name) or {}
        known = found.get("type") == "file" and found.get("size") is not None
        return (int(found["size"]), tag_of(found)) if known else None

    def _asked(self, what: Callable[[str], Any], name: str = "") -> Any:
        """Return what the store says now, not what it said before; None where nothing is there."""

        def ask() -> Any:
            self.fs.invalidate_cache()
            return what(self._path(name))

        with suppress(FileNotFoundError):
            return self._tried(ask, name)
        return None

    def whole(self, name: str, most: int) -> bytes | None:
        """Return a small file, its size checked first; None where it is not there."""
        size, _ = self.find(name) or (-1, "")
        if size > most:
            got, step = f"{size} bytes", "It is none of ours, or damaged."
            raise input_error(name, f"of at most {most} bytes", got, step)
        return self.read(name, 0, size) if size >= 0 else None

    def read(self, name: str, low: int, high: int) -> bytes:
        """Return the bytes of a file from `low` to `high`, fetched in pieces."""
        pieces, size = list[bytes](), _PIECE if self.fs.async_impl else AT_ONCE
        for first in range(low, high, AT_ONCE):
            cuts = [*range(first, min(first + AT_ONCE, high), size), min(first + AT_ONCE, high)]
            try:
                pieces += self._tried(partial(self._ranges, name, cuts[:-1], cuts[1:]), name)
            except FileNotFoundError:
                step = "It was removed, or replaced with a newer cache: open it anew."
                raise input_error(name, f"a file in {self}", "none", step) from None
        return b"".join(pieces)

    def _ranges(self, name: str, starts: list[int], ends: list[int]) -> list[bytes]:
        found = self.fs.cat_ranges([self._path(name)] * len(starts), starts, ends)
        for piece, start, end in zip(found, starts, ends, strict=True):
            if isinstance(piece, Exception):
                raise piece
            if len(piece) > end - start:
                raise ValueError("it sends whole files where ranges are asked for")
            if len(piece) < end - start:
                raise ConnectionError(f"{len(piece)} of {end - start} bytes came")
        return found

    def put(self, name: str, data: bytes, tag: str | None = None) -> None:
        """Write a file; given its `tag` of before ("": none), only where no one else wrote it since.

        Most stores see to that by themselves for new files, S3 for all; else the tag is looked at just before.
        """
        how: dict[str, str] = {"mode": "create"} if tag == "" else {}
        if tag and "s3" in self.fs.protocol:
            how = {"IfMatch": tag}

        def send() -> None:
            if tag is not None and (self.find(name) or (0, ""))[1] != tag:
                raise FileExistsError
            try:
                self.fs.pipe_file(self._path(name), data, **how)
            except OSError as error:
                if how and "PreconditionFailed" in repr(error.__cause__):
                    raise FileExistsError from None
                if not how or error.errno != errno.ENOSYS:
                    raise
                self.fs.pipe_file(self._path(name), data)  # a store that knows no conditions

        try:
            self._tried(send, name, "writable")
        except FileExistsError:  # or it was written, and only the answer was lost
            if (self.find(name) or (0,))[0] != len(data) or self.whole(name, len(data)) != data:
                allowed, got = "written by one writer at a time", "another that wrote to it"
                step = "What that wrote was left alone: write yours again."
                raise input_error(str(self), allowed, got, step) from None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._tried(lambda: self.fs.rm_file(self._path(name)), name, "writable")

    def _path(self, name: str) -> str:
        return "/".join(filter(None, (self.root, name))) + self._query

    def _tried(self, action: Callable[[], T], name: str, allowed: str = "readable") -> T:
        """Do what may fail by chance, again where it does; whether a file is there, the caller hears."""
        waits = iter(_WAITS)
        while True:
            try:
                return action()
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:  # stores' packages raise many kinds
                status = getattr(error, "status", None)  # of the web
                refused = status in range(400, 500) and status not in (408, 429)
                lasts = (
                    refused
                    or isinstance(error, _LASTING)
                    or error.args[:1] == (errno.ENAMETOOLONG,)
                )
                wait = None if lasts else next(waits, None)
                if wait is None:
                    told = shown(" ".join(str(error).split())) or type(error).__name__
                    step = "Check the address, your rights and the connection, then try again."
                    got = f"{self}{'/' * bool(name)}{name} ({told})"
                    raise input_error("address", allowed, got, step) from None  # it may quote keys
            time.sleep(wait)


def tag_of(found: Mapping[str, Any]) -> str:
    """Return what is another where a file was replaced, of what a store says of it."""
    more = ("size", "generation", "CRC", "LastModified", "last_modified", "mtime", "created")
    return str(found.get("ETag") or found.get("etag") or [str(found.get(name)) for name in more])


def fetched(address: str, folder: Path, suffixes: Collection[str]) -> Path:
    """Copy a file (and the sidecars of a ``.npy``), or a folder's files of such suffixes, into `folder` if they fit."""
    store, file = Store(address), ""
    found = {n: one["size"] for n, one in store.listing().items() if one["type"] == "file"}
    if MANIFEST in found:
        step = "It is a cache already: `policyopt info`, `fit`, `evaluate` take it as it is."
        raise input_error("SRC", "a file, or a folder of files", f"{store} (a cache)", step)
    sizes = {n: found[n] for n in found if Path(n.removesuffix(".gz")).suffix in suffixes}
    if not sizes:
        store = copy(store)
        store.root, _, file = store.root.rpartition("/")
        stem = file.removesuffix(".npy")
        each = [file] if stem == file else [file, f"{stem}.json", f"{stem}.labels.npy"]
        sizes = {name: about[0] for name in each if (about := store.find(name))}
        if file not in sizes:
            got = f"{shown(address)} (missing, or without any)"
            raise input_error("SRC", "a file, or a folder of files", got, "Check the address.")
    total, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if total > free:
        allowed, got = f"of at most {free} bytes, which are free in {folder}", f"{total} bytes"
        raise input_error("SRC", allowed, got, "Set TMPDIR to a folder with more room.")
    at, done = folder / (store.root.rpartition("/")[2] or "files"), 0
    at.mkdir()
    for name, size in sizes.items():
        with (at / name).open("xb") as out:
            for low in range(0, size, AT_ONCE):
                done += out.write(store.read(name, low, min(low + AT_ONCE, size)))
                report(done, total, "fetching the files")
    return at / file
