"""``.npz``: arrays by key; every header is checked before its array is allocated."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from policyopt.cache.importers.raw import Array, Raw, declared
from policyopt.runtime.errors import InputError, bad

#: An archive that grows more than this is not made of measured numbers.
MAX_RATIO = 200
_FREE = 64 << 20  # small archives of constants may well shrink more


def read(path: Path) -> Raw:
    """Read an ``.npz`` file without pickle.

    Parameters
    ----------
    path : Path
        Written by `numpy.savez` or `numpy.savez_compressed`.

    Returns
    -------
    Raw

    Raises
    ------
    InputError
        Not a zip file, a header that does not fit its data, an object array.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "a.npz"
    >>> np.savez(place, labels=np.arange(3))
    >>> read(place).arrays["labels"]
    array([0, 1, 2])
    """
    found: dict[str, Any] = {}
    notes = []
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, path)
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    notes.append(f"{path.name}: member {info.filename!r} ignored (not .npy)")
                    continue
                key = info.filename.removesuffix(".npy")
                with archive.open(info) as file:
                    found[key] = _read_member(file, info, f"{path.name}: {key}")
    except InputError:
        raise
    except Exception as error:  # zip, deflate and numpy raise many kinds on damaged files
        raise bad(
            "SRC",
            "a readable .npz file",
            f"{path} ({error})",
            "It was cut or damaged: save or copy it anew.",
        ) from error
    raw = declared(path.name, found)
    raw.notes += notes
    return raw


def check_zip(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse an archive whose members are double, or unpack to far more than the file.

    Parameters
    ----------
    archive : ZipFile
        Opened for reading.
    path : Path
        Its file.

    Raises
    ------
    InputError

    Examples
    --------
    See `read`.
    """
    size = path.stat().st_size
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise bad("SRC", "an archive with each member once", f"{path}", "Save it anew.")
    total = sum(info.file_size for info in archive.infolist())
    if total > max(_FREE, MAX_RATIO * size):
        raise bad(
            "SRC",
            f"an archive that unpacks to at most {MAX_RATIO} times its size",
            f"{path} of {size} bytes, which claims {total}",
            "If you trust it, save it anew uncompressed (numpy.savez).",
        )


def _read_member(file: Any, info: zipfile.ZipInfo, argument: str) -> Array:
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
    except (ValueError, TypeError, SyntaxError, RecursionError, struct.error, EOFError) as error:
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
