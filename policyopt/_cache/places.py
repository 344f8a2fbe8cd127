"""Folders of caches that are not on this machine: object stores, web servers, archives; reached through fsspec.

What a store is told stands in its address, in the environment and in the files of its own package; none of it is kept
or shown. A store knows no rename and no lock: files are written by one PUT each.
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
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np

from policyopt._cache.manifest import MANIFEST
from policyopt._optional import need
from policyopt._progress import report
from policyopt.runtime._errors import InputError, MissingExtraError, input_error
from policyopt.runtime._typing import Array

#: Most bytes that are under way at once, and of one request where a store takes several.
AT_ONCE, _PIECE = 64 << 20, 16 << 20
#: Seconds before a request that failed by chance is made again; what stores' packages try again comes besides.
_WAITS = (0.3, 1.5)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")
_ONE_SLASH = re.compile(r"((?:^|::)[A-Za-z][A-Za-z0-9+.-]+:)/(?!/)")
#: What may hold a key: a query, and for whom an address is opened.
_SECRET = re.compile(r"\?[^\s'\"]*?(?=::|[\s'\",)]|$)|(?<=//)[^/\s]+@")
_PACKAGES = (
    "aiohttp",
    "aiobotocore",
    "botocore",
    "gcsfs",
    "google",
    "azure",
    "requests",
    "urllib3",
)
#: What systems and stores say that say so again.
_LASTING = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EROFS, errno.ENAMETOOLONG, errno.EISDIR}
T = TypeVar("T")


def place_of(path: str | os.PathLike[str]) -> Path | Store:
    """Return a folder of this machine as a path, one at an address (``s3://bucket/folder``) as a store."""
    address = address_of(path)
    if address.lower().startswith("file://"):
        return Path(url2pathname(unquote(urlsplit(address).path)))
    return Store(address) if address else Path(path)


def address_of(path: str | os.PathLike[str]) -> str:
    """Return an address as it was written: a `Path` has one slash left of two; empty for a path of this machine."""
    text = path.as_posix() if isinstance(path, PurePath) else os.fspath(path)
    text = _ONE_SLASH.sub(r"\1//", text)
    return text if _ADDRESS.match(text) and not os.path.lexists(path) else ""


def shown(address: str) -> str:
    """Return an address as messages have it: no query, and nobody's name."""
    return _SECRET.sub("", address)


class Store:
    """A folder of a store: its files by name, read by ranges, written whole."""

    def __init__(self, address: str) -> None:
        self.address, self._shown = address, shown(address)
        fsspec = need("fsspec", "storage", f"to open {self._shown}")
        step = "E.g. s3://bucket/folder, https://host/folder, zip::https://host/file.zip."
        try:
            self.fs, root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            raise MissingExtraError(
                f"'{self._shown}' must be of a store whose package is installed. {error}."
            ) from None
        except Exception as error:  # an archive that is none, a protocol that nobody knows
            raise input_error("address", "of a store", self._told(error), step) from None
        self._web = "://" in root  # the whole address: what opens a folder opens its files
        root, mark, query = root.partition("?") if self._web else (root, "", "")
        self.root, self._query = root.rstrip("/"), mark + query

    def __str__(self) -> str:
        return self._shown

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.address,)

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.root.rpartition("/")[2]

    def listing(self) -> dict[str, dict[str, Any]]:
        """Return what the store says of each file by its name, in one listing; nothing where it lists none."""
        if self._web:
            return {}
        try:
            found = self._tried(self._listed, "")
        except FileNotFoundError:
            return {}
        names = [(one["name"].strip("/").rpartition("/")[2], one) for one in found]
        return {name: one for name, one in names if name}

    def _listed(self) -> list[dict[str, Any]]:
        self.fs.invalidate_cache()
        found = self.fs.ls(self.root, detail=True)
        return [one for one in found if one["name"].strip("/") != self.root.strip("/")]

    def find(self, name: str) -> tuple[int, str] | None:
        """Return the size of a file and a tag that is another where it was replaced; None where it is not there."""

        def look() -> dict[str, Any]:
            self.fs.invalidate_cache()
            return self.fs.info(self._path(name))

        try:
            found = self._tried(look, name)
        except FileNotFoundError:
            return None
        if found.get("type") == "directory" or found.get("size") is None:
            return None
        return int(found["size"]), tag_of(found)

    def whole(self, name: str, most: int) -> bytes | None:
        """Return a small file, its size checked first; None where it is not there."""
        found = self.find(name)
        if found and found[0] > most:
            step = "It is none of ours, or damaged."
            raise input_error(name, f"of at most {most} bytes", f"{found[0]} bytes", step)
        return self.read(name, 0, found[0]).tobytes() if found else None

    def read(self, name: str, low: int, high: int) -> Array:
        """Return the bytes of a file from `low` to `high` as uint8, fetched in pieces."""
        out = np.empty(high - low, np.uint8)
        size = _PIECE if self.fs.async_impl else AT_ONCE  # an archive is entered once
        for first in range(low, high, AT_ONCE):
            cuts = [*range(first, min(first + AT_ONCE, high), size), min(first + AT_ONCE, high)]
            try:
                pieces = self._tried(partial(self._pieces, name, cuts[:-1], cuts[1:]), name)
            except FileNotFoundError:
                step = "It was removed, or replaced with a newer cache: open it anew."
                raise input_error(name, f"a file in {self}", "none", step) from None
            for start, piece in zip(cuts, pieces, strict=False):
                out[start - low : start - low + len(piece)] = np.frombuffer(piece, np.uint8)
        return out

    def _pieces(self, name: str, starts: list[int], ends: list[int]) -> list[bytes]:
        paths = [self._path(name)] * len(starts)
        pieces = self.fs.cat_ranges(paths, starts, ends, on_error="return")
        for piece, start, end in zip(pieces, starts, ends, strict=True):
            if isinstance(piece, Exception):
                raise piece
            if len(piece) > end - start:
                raise ValueError("it sends whole files where ranges are asked for")
            if len(piece) < end - start:
                raise ConnectionError(f"{len(piece)} of {end - start} bytes came")
        return pieces

    def put(self, name: str, data: bytes, tag: str | None = None) -> None:
        """Write a file by one PUT; given its `tag` of before ("": none), only where no one else wrote it since.

        The store itself sees to that where it can (new files: most; replaced ones: S3); else the tag is looked at
        just before.
        """
        path, how = self._path(name), dict[str, Any]()
        if tag is not None:
            here = self.find(name)
            if (here[1] if here else "") != tag:
                raise self._taken()
            if not tag:
                how = {"mode": "create"}
            elif "s3" in self.fs.protocol:
                how = {"IfMatch": tag}

        def send() -> None:
            try:
                self.fs.pipe_file(path, data, **how)
            except OSError as error:
                if how and error.errno == errno.ENOSYS:  # a store that knows no conditions
                    self.fs.pipe_file(path, data)
                elif how and "PreconditionFailed" in repr(error.__cause__):
                    raise FileExistsError from None
                else:
                    raise

        try:
            self._tried(send, name, "writable")
        except FileExistsError:
            same = (self.find(name) or (0,))[0] == len(data) and self.whole(name, len(data)) == data
            if not same:  # else: written, and only the answer was lost
                raise self._taken() from None

    def _taken(self) -> InputError:
        allowed, got = "written by one writer at a time", "another that wrote to it meanwhile"
        return input_error(
            str(self), allowed, got, "What stands there now was left alone: write it again."
        )

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._tried(lambda: self.fs.rm_file(self._path(name)), name, "writable")

    def above(self) -> Store:
        """Return the folder that this is in."""
        folder = copy(self)
        folder.root = self.root.rpartition("/")[0]
        return folder

    def _path(self, name: str) -> str:
        return "/".join(filter(None, (self.root, name))) + self._query

    def _tried(self, action: Callable[[], T], name: str, allowed: str = "readable") -> T:
        """Do what may fail by chance, again where it does; of what is or is not there, the caller hears."""
        waits = iter(_WAITS)
        while True:
            try:
                return action()
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:  # stores' packages raise many kinds
                wait = next(waits, None) if _by_chance(error) else None
                if wait is None:
                    got = f"{self}{f'/{name}' * bool(name)} ({self._told(error)})"
                    step = "Check the address, your rights and the connection, then try again."
                    raise input_error("address", allowed, got, step) from None  # it may quote keys
            time.sleep(wait)

    def _told(self, error: Exception) -> str:
        """Return what an error says, without what may hold a key."""
        return _SECRET.sub("", " ".join(str(error).split()) or type(error).__name__)


def _by_chance(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in (408, 429)
    if isinstance(error, OSError):
        return not isinstance(error, PermissionError) and error.errno not in _LASTING
    return isinstance(error, TimeoutError) or type(error).__module__.partition(".")[0] in _PACKAGES


def tag_of(found: Mapping[str, Any]) -> str:
    """Return what is another where a file was replaced, of what a store says of it."""
    etag = found.get("ETag") or found.get("etag")
    more = ("generation", "md5Hash", "CRC", "LastModified", "last_modified", "mtime", "created")
    return str(etag or [found.get("size"), *(str(found[name]) for name in more if found.get(name))])


def fetched(address: str, folder: Path, suffixes: Collection[str]) -> Path:
    """Copy a file, or the files of a folder that have such a suffix, from a store into `folder`; return it there.

    A ``.npy`` brings its sidecars. Sizes are checked against the free room first.
    """
    store, file, sizes = Store(address), "", dict[str, int]()
    for name, one in store.listing().items():
        if name == MANIFEST:
            step = "It is a cache already: `policyopt info`, `fit`, `evaluate` take it as it is."
            raise input_error("SRC", "a file, or a folder of files", f"{store} (a cache)", step)
        if one.get("type") == "file" and Path(name.removesuffix(".gz")).suffix in suffixes:
            sizes[name] = int(one["size"])
    if not sizes:
        file, store = store.name, store.above()
        stem = file.removesuffix(".npy")
        sidecars = [f"{stem}.json", f"{stem}.labels.npy"] if stem != file else []
        found = {name: store.find(name) for name in (file, *sidecars)}
        sizes = {name: about[0] for name, about in found.items() if about}
        if file not in sizes:
            got = f"{shown(address)} (missing, or without any)"
            raise input_error("SRC", "a file, or a folder of files", got, "Check the address.")
    total, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if total > free:
        allowed = f"of at most {free} bytes, which are free in {folder}"
        got = f"{shown(address)} of {total} bytes"
        raise input_error("SRC", allowed, got, "Set TMPDIR to a folder with more room.")
    at, done = folder / (store.name or "files"), 0
    at.mkdir()
    for name, size in sizes.items():
        with (at / name).open("xb") as out:
            for low in range(0, size, AT_ONCE):
                out.write(store.read(name, low, min(low + AT_ONCE, size)).data)
                report(done + out.tell(), total, "fetching the files")
        done += size
    return at / file
