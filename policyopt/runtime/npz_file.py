"""Arrays in ``.npy`` and ``.npz`` files from anyone: headers are checked before memory is taken."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import bad

#: An archive that grows more than this is not made of measured numbers.
MAX_RATIO = 200
_FREE = 64 << 20  # small archives of constants may well shrink more
_MOST_DEFLATED = 1040  # what deflate can make of a byte, 1032, and a little


def check_zip(archive: zipfile.ZipFile, path: Path, argument: str) -> None:
    """Refuse an archive whose members are double, or unpack to far more than the file.

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
    size = path.stat().st_size
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise bad(argument, "an archive with each member once", f"{path}", "Save it anew.")
    for info in archive.infolist():
        most = _MOST_DEFLATED * info.compress_size + 64
        if info.compress_type == zipfile.ZIP_STORED:
            most = info.compress_size
        elif info.compress_type != zipfile.ZIP_DEFLATED:
            most = 0
        if info.file_size > most:
            raise bad(
                argument, "an archive as numpy writes it",
                f"{path}, whose member {info.filename!r} claims {info.file_size} bytes of "
                f"{info.compress_size}", "It was damaged: save it anew.",
            )  # fmt: skip
    total = sum(info.file_size for info in archive.infolist())
    if total > max(_FREE, MAX_RATIO * size):
        raise bad(
            argument,
            f"an archive that unpacks to at most {MAX_RATIO} times its size",
            f"{path} of {size} bytes, which claims {total}",
            "If you trust it, save it anew uncompressed (numpy.savez).",
        )


def read_member(file: Any, info: zipfile.ZipInfo, argument: str) -> npt.NDArray[Any]:
    """Return the array of an open member, its header checked before memory is taken for it."""
    header = read_header(file, argument)
    if header[2] != info.file_size:
        raise bad(
            argument,
            f"of {header[2]} bytes, as its header says",
            f"{info.file_size} bytes",
            "Save it anew.",
        )
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


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
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version}")
        read_one = np.lib.format.read_array_header_1_0
        read_two = np.lib.format.read_array_header_2_0
        shape, _, dtype = (read_one if version == (1, 0) else read_two)(file)
    except Exception as error:  # numpy, ast and tokenize raise many kinds on damaged headers
        raise bad(argument, "a .npy array", f"{error}", "Save it anew.") from error
    if dtype.hasobject:
        raise bad(
            argument,
            "an array of numbers",
            "Python objects (pickle), which may run code",
            "Save the numbers alone, e.g. numpy.savez(..., logits=numpy.stack(logits)).",
        )
    if dtype.kind not in "biufU" or any(n < 0 for n in shape):
        raise bad(argument, "an array of numbers", f"dtype {dtype}, shape {shape}", "Convert it.")
    return shape, dtype, file.tell() + math.prod(shape) * dtype.itemsize
