"""Files from anyone: opened without following links, hashed, safetensors mapped once their sizes fit."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._optional import need
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._files import refusing
from policyopt.runtime._strict_json import open_plain, parse
from policyopt.runtime._typing import Array

#: Headers beyond this are refused before they are parsed.
MAX_HEADER = 1 << 20
#: Arrays larger than this stand in a file instead of memory.
_SPILL_BYTES = 128 << 20
#: Bytes that are copied at a time.
_PIECE_BYTES = 16 << 20
_RESTORE = "Restore it or write the cache anew."
_DTYPES = {
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "BOOL": "|b1", "U8": "|u1", "I8": "|i1",
    "I16": "<i2", "I32": "<i4", "I64": "<i8", "U16": "<u2", "U32": "<u4", "U64": "<u8",
}  # fmt: skip


def sha256_file(path: Path, argument: str) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with os.fdopen(open_plain(path, argument, _RESTORE, links=False), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_arrays(arrays: Mapping[str, Array]) -> str:
    """Return the SHA-256 of arrays, their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def map_tensors(
    path: Path, argument: str, size: int | None = None, most: int = MAX_HEADER, mmap: bool = True
) -> dict[str, tuple[str, Array]]:
    """Map a checked safetensors file read-only: type and view per tensor; BF16 comes as uint16."""
    with os.fdopen(open_plain(path, argument, _RESTORE, links=False), "rb") as file:
        found = os.fstat(file.fileno()).st_size
        if size is not None and found != size:
            step = "It was cut or changed: copy or write the cache anew."
            raise input_error(argument, f"of {size} bytes", f"{found} bytes in {path.name}", step)
        length = header_length(file.read(8), found, argument, path.name, most)
        header_bytes = file.read(length)
        file.seek(0)
        try:  # the very file whose size was checked, whatever is put in its place meanwhile
            if mmap:
                whole: Array = np.memmap(file, dtype=np.uint8, mode="r")
            else:
                whole = np.frombuffer(file.read(found), np.uint8)
        except (OSError, ValueError) as error:
            got, step = f"{path.name} ({error})", "Or read it: mmap=False."
            raise input_error(argument, "a file that can be mapped", got, step) from error
    if len(whole) != found:
        raise input_error(argument, f"of {found} bytes", f"{len(whole)}", "It shrank: restore it.")
    safetensors = need("safetensors", "fit", "to read .safetensors files, as a cache holds")
    step = "It was cut or damaged: copy or write it anew."
    try:  # the library checks the header against the file: types, shapes, offsets, no holes
        with safetensors.safe_open(str(path), framework="numpy"):
            pass
        header = parse(header_bytes, "header", most, "")
        header.pop("__metadata__", None)
        if odd := {entry["dtype"] for entry in header.values()} - _DTYPES.keys():
            step = "Save it as float16 or float32."
            raise ValueError(f"type {min(odd)} has no numpy counterpart")
        return {n: (e["dtype"], view(e, whole, 8 + length)) for n, e in header.items()}
    except Exception as error:  # the library and numpy raise many kinds on damaged files
        raise InputError(
            f"'{argument}' must be a safetensors file that can be mapped. Got {path.name}: {error}. {step}"
        ) from error


def header_length(head: bytes, size: int, argument: str, name: str, most: int = MAX_HEADER) -> int:
    """Return the bytes of a safetensors file's header, as the first 8 of its `size` bytes say."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(most, size - 8):
        got = f"{name} of {size} bytes, which claims a header of {length}"
        step = "It was cut or damaged: copy or write it anew."
        raise input_error(argument, "a whole safetensors file", got, step)
    return length


def view(entry: Mapping[str, Any], whole: Array, base: int = 0) -> Array:
    """Return a tensor as it stands in the bytes of a file, whose tensors begin at `base`; read-only."""
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    size = math.prod(shape) * dtype.itemsize
    if end - begin != size or not 0 <= begin <= end <= len(whole) - base:
        raise ValueError("offsets and shape disagree")
    piece = np.asarray(whole[base + begin : base + end])
    if entry["dtype"] == "BOOL" and piece.size and piece.max() > 1:
        raise ValueError("a boolean is neither 0 nor 1")
    return piece.view(dtype).reshape(shape)


def stand_in(entry: Mapping[str, Any], size: int) -> Array:
    """Return an array of a tensor's type and shape that takes no memory, where it stands in `size` bytes."""
    if not 0 <= entry["data_offsets"][0] <= entry["data_offsets"][1] <= size:
        raise ValueError("offsets beyond the end")
    return np.broadcast_to(np.zeros((), _DTYPES[entry["dtype"]]), entry["shape"])


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an array to be filled: in memory, or where it is large in a file that goes with it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= _SPILL_BYTES:
        return np.empty(shape, dtype)
    with refusing(tempfile.gettempdir()), tempfile.TemporaryFile() as file:
        take_room(file.fileno(), size)
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def picked(whole: Array, rows: Array) -> Array:
    """Return some rows of an array, as `empty` has them."""
    shape = (len(rows), *whole.shape[1:])
    size = math.prod(shape) * whole.itemsize
    if size <= _SPILL_BYTES:
        return whole[rows]
    out, step = empty(shape, whole.dtype), max(len(rows) * _PIECE_BYTES // size, 1)
    for low in range(0, len(rows), step):
        out[low : low + step] = whole[rows[low : low + step]]
    return out


def take_room(descriptor: int, size: int) -> None:
    """Make a file so large: a write to a mapped one for which there is no room ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
