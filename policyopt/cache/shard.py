"""One safetensors file: written whole, checked before it is mapped, mapped without a copy."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.cache.data import CONTEXT
from policyopt.cache.features import feature_names
from policyopt.cache.files import open_regular
from policyopt.cache.layout import (
    COST_PREFIX,
    RECORD_ARRAYS,
    ROW_NUMBERS,
    Layout,
    storage_type,
)
from policyopt.cache.manifest import Shard
from policyopt.cache.optional import need
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.files import put
from policyopt.runtime.strict_json import parse
from policyopt.runtime.typing import Array

#: Headers beyond this are refused before they are parsed.
MAX_HEADER = 1 << 20
_DTYPES = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "BF16": "<u2",
}


def write_shard(directory: Path, split: str, number: int, block: dict[str, Array]) -> Shard:
    """Write a block as one safetensors file, atomically, under a name that tells its content.

    So a new cache is written beside an old one, and a shard that no manifest lists is known for ours.

    Parameters
    ----------
    directory : Path
        The cache, which its writer has locked.
    split : str
        That the rows belong to.
    number : int
        Of the shard within the cache.
    block : dict of str to ndarray
        Aligned arrays in storage type, contiguous.

    Returns
    -------
    Shard
        What the manifest says of it.

    Examples
    --------
    >>> import tempfile
    >>> labels = np.zeros(3, np.int32)
    >>> write_shard(Path(tempfile.mkdtemp()), "fit", 0, {"labels": labels}).file
    'fit-00000-fc992a274da50fac.safetensors'
    """
    data = need("safetensors.numpy", "fit", "to write a cache").save(block)
    digest = hashlib.sha256(data).hexdigest()
    file = f"{split}-{number:05d}-{digest[:16]}.safetensors"
    put(directory / file, data)
    return Shard(file, split, len(next(iter(block.values()))), len(data), digest)


def map_tensors(
    path: Path,
    argument: str,
    size: int | None = None,
    max_header: int = MAX_HEADER,
    mmap: bool = True,
) -> dict[str, tuple[str, Array]]:
    """Map the arrays of a safetensors file read-only, after its size and header are checked.

    Parameters
    ----------
    path : Path
        The file.
    argument : str
        Name used in errors.
    size : int, optional
        Bytes it must have.
    max_header : int
        Largest header in bytes.
    mmap : bool
        False: the file is read into memory instead.

    Returns
    -------
    dict of str to (str, ndarray)
        Per tensor its safetensors type and a view of the file. BF16 comes as uint16.

    Raises
    ------
    InputError
        Missing, truncated, not a safetensors file, or of a type numpy does not have.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp())
    >>> shard = write_shard(place, "fit", 0, {"labels": np.arange(3)})
    >>> map_tensors(place / shard.file, "shard")["labels"]
    ('I64', array([0, 1, 2]))
    """
    with os.fdopen(open_regular(path, argument), "rb") as file:
        found = os.fstat(file.fileno()).st_size
        if size is not None and found != size:
            raise input_error(
                argument,
                f"of {size} bytes",
                f"{found} bytes in {path.name}",
                "It was cut or changed: copy or write the cache anew.",
            )
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(max_header, found - 8):
            raise input_error(
                argument,
                "a whole safetensors file",
                f"{path.name} of {found} bytes, which claims a header of {length}",
                "It was cut or damaged: copy or write it anew.",
            )
        header_bytes = file.read(length)
        file.seek(0)
        try:  # the very file whose size was checked, whatever is put in its place meanwhile
            whole = (
                np.memmap(file, dtype=np.uint8, mode="r")
                if mmap
                else np.frombuffer(file.read(found), np.uint8)
            )
        except (OSError, ValueError) as error:
            got = f"{path.name} ({error})"
            raise input_error(
                argument, "a file that can be mapped", got, "Or read it: mmap=False."
            ) from error
    if len(whole) != found:
        raise input_error(argument, f"of {found} bytes", f"{len(whole)}", "It shrank: restore it.")
    safetensors = need("safetensors", "fit", "to read a cache")
    try:  # the library checks the header against the file: types, shapes, offsets, no holes
        with safetensors.safe_open(str(path), framework="numpy"):
            pass
        header = parse(header_bytes, "header", max_header, "")
        header.pop("__metadata__", None)
        return {name: _view(entry, whole, 8 + length) for name, entry in header.items()}
    except Exception as error:  # the library and numpy raise many kinds on damaged files
        raise InputError(
            f"'{argument}' must be a safetensors file that can be mapped. "
            f"Got {path.name}: {error}. It was cut or damaged: copy or write it anew."
        ) from error


def _view(entry: dict[str, Any], whole: Array, base: int) -> tuple[str, Array]:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"type {entry['dtype']} has no numpy counterpart")
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if (
        end - begin != math.prod(shape) * dtype.itemsize
        or not 0 <= begin <= end <= len(whole) - base
    ):
        raise ValueError("offsets and shape disagree")
    piece = np.asarray(whole[base + begin : base + end])
    if entry["dtype"] == "BOOL" and piece.size and piece.max() > 1:
        raise ValueError("a boolean is neither 0 nor 1")
    return entry["dtype"], piece.view(dtype).reshape(shape)


def map_shard(directory: Path, shard: Shard, layout: Layout, mmap: bool = True) -> dict[str, Array]:
    """Map one shard of a cache, its arrays checked against what the manifest says.

    Parameters
    ----------
    directory : Path
        The cache.
    shard : Shard
        Its line in the manifest.
    layout : Layout
        Kind, K, C, storage types.
    mmap : bool
        As in `map_tensors`.

    Returns
    -------
    dict of str to ndarray
        Read-only views of the file.

    Raises
    ------
    InputError
        As `map_tensors`; or a missing, superfluous or wrongly shaped array.

    Examples
    --------
    See `open_cache`.
    """
    argument = f"shard {shard.file}"
    tensors = map_tensors(directory / shard.file, argument, shard.bytes, mmap=mmap)
    allowed = {"labels", *(COST_PREFIX + name for name in layout.sample_costs)}
    allowed |= set(RECORD_ARRAYS) if layout.kind == "record" else {"outputs"}
    widths = dict(zip(feature_names(layout.exits), layout.features or (), strict=False))
    allowed |= set(widths) | ({CONTEXT} if layout.contexts else set())
    needed = allowed - {"labels", *RECORD_ARRAYS}
    if layout.kind == "record":
        needed |= {"confidence"}
        needed |= {"prediction"} if "correct" not in tensors else set()
    if not needed <= set(tensors) <= allowed:
        raise input_error(
            argument,
            f"with arrays {sorted(needed)} among {sorted(allowed)}",
            f"{sorted(tensors)}",
            "Write the cache anew.",
        )
    block = {}
    for name, (_, array) in tensors.items():
        shape: tuple[int, ...] = (shard.rows, layout.exits)
        if name in ROW_NUMBERS:
            shape = shape[:1]
        elif name == "outputs":
            shape = (*shape, layout.classes)
        elif name == "top_prob" and array.ndim == 3 and array.shape[2]:
            shape = (*shape, array.shape[2])
        elif name in widths:
            shape = (shard.rows, widths[name])
        dtype = storage_type(name, layout)
        if name in widths and array.dtype == np.float16:
            dtype = array.dtype
        if array.shape != shape or array.dtype != dtype:
            raise input_error(
                f"{argument}: {name}",
                f"{dtype} of shape {shape}",
                f"{array.dtype} of shape {array.shape}",
                "Write the cache anew.",
            )
        block[name] = array
    return block
