"""Arrays in ``.npy`` and ``.npz`` files from anyone: headers are checked before memory is taken."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import input_error
from .sizes import PIECE, Room

_MOST_DEFLATED = 1040  # what deflate can make of a byte, 1032, and a little
_MOST_HEADER = 10_000  # numpy's own limit, which it looks at after reading the header
_MAPPED = 1 << 20  # smaller members are read


def check_zip(archive: zipfile.ZipFile, path: Path, argument: str) -> None:
    """Refuse an archive whose members are double, lie over each other, or claim the impossible.

    Parameters
    ----------
    archive : ZipFile
        Opened for reading.
    path : Path
        Its file.
    argument : str
        Name used in errors.

    Raises
    ------
    InputError

    Examples
    --------
    See `policyopt.cache.importers.npz.read`.
    """
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise input_error(argument, "an archive with each member once", f"{path}", "Save it anew.")
    if sum(info.compress_size for info in archive.infolist()) > path.stat().st_size:
        raise input_error(
            argument, "an archive as large as its members", f"{path}", "Save it anew."
        )
    for info in archive.infolist():
        most = _MOST_DEFLATED * info.compress_size + 64
        if info.compress_type == zipfile.ZIP_STORED:
            most = info.compress_size
        elif info.compress_type != zipfile.ZIP_DEFLATED:
            most = 0
        if info.file_size > most:
            raise input_error(
                argument, "an archive as numpy writes it",
                f"{path}, whose member {info.filename!r} claims {info.file_size} bytes of "
                f"{info.compress_size}", "It was damaged: save it anew.",
            )  # fmt: skip


class Members:
    """The arrays of an ``.npz``, read one by one; what they unpack to is counted before.

    Parameters
    ----------
    archive : ZipFile
        Opened for reading.
    path : Path
        Its file.
    argument : str
        Name used in errors.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path, argument: str) -> None:
        check_zip(archive, path, argument)
        self.archive, self.path = archive, path
        self.room = Room(argument, str(path), "Save it uncompressed (numpy.savez).")
        self.infos = {info.filename: info for info in archive.infolist()}

    def shape(self, name: str, argument: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and type of a member's array, from its header."""
        with self.archive.open(self.infos[name]) as file:
            return read_header(file, argument)[:2]  # type: ignore[arg-type]

    def read(self, name: str, argument: str) -> npt.NDArray[Any]:
        """Return a member's array: a large one that is not compressed is mapped, not read."""
        info = self.infos[name]
        with self.archive.open(info) as file:
            if info.compress_type != zipfile.ZIP_STORED or info.file_size < _MAPPED:
                self.room.take(info.file_size, info.compress_size)
                return read_member(file, info, argument)
            shape, fortran, dtype = _header(file, argument)
            at = self._begin(info) + file.tell()
            _check_size(at - self._begin(info) + math.prod(shape) * dtype.itemsize, info, argument)
            while file.read(PIECE):  # to its end, where the checksum is compared
                pass
        return np.memmap(self.path, dtype, "r", at, shape, "F" if fortran else "C")

    def _begin(self, info: zipfile.ZipInfo) -> int:
        """Return where a member's data begin: its own header may be longer than the directory says."""
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            return info.header_offset + 30 + sum(struct.unpack("<26x2H", file.read(30)))


def read_member(file: Any, info: zipfile.ZipInfo, argument: str) -> npt.NDArray[Any]:
    """Return the array of an open member, its header checked before memory is taken for it."""
    _check_size(read_header(file, argument)[2], info, argument)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _check_size(size: int, info: zipfile.ZipInfo, argument: str) -> None:
    if size != info.file_size:
        allowed = f"of {size} bytes, as its header says"
        raise input_error(argument, allowed, f"{info.file_size} bytes", "Save it anew.")


def read_header(file: BinaryIO, argument: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Read the header of a ``.npy`` stream.

    Parameters
    ----------
    file : binary stream
        At its beginning.
    argument : str
        Name used in errors.

    Returns
    -------
    (tuple of int, dtype, int)
        Shape, dtype, and the bytes that header and data take together.

    Raises
    ------
    InputError
        Not ``.npy``, Python objects inside, structured types.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> np.save(file, np.zeros((2, 3), np.float16))
    >>> _ = file.seek(0)
    >>> read_header(file, "x.npy")
    ((2, 3), dtype('float16'), 140)
    """
    shape, _, dtype = _header(file, argument)
    return shape, dtype, file.tell() + math.prod(shape) * dtype.itemsize


def _header(file: Any, argument: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether in Fortran order, and type."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version}")
        width = 2 if version == (1, 0) else 4
        length = int.from_bytes(file.read(width), "little")
        if length > _MOST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        file.seek(-width, 1)
        read_one = np.lib.format.read_array_header_1_0
        read_two = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = (read_one if version == (1, 0) else read_two)(file)
    except Exception as error:  # numpy, ast and tokenize raise many kinds on damaged headers
        raise input_error(argument, "a .npy array", f"{error}", "Save it anew.") from error
    if dtype.hasobject:
        raise input_error(
            argument,
            "an array of numbers",
            "Python objects (pickle), which may run code",
            "Save the numbers alone, e.g. numpy.savez(..., logits=numpy.stack(logits)).",
        )
    if dtype.kind not in "biufU" or any(n < 0 for n in shape):
        raise input_error(
            argument, "an array of numbers", f"dtype {dtype}, shape {shape}", "Convert it."
        )
    return shape, fortran, dtype
