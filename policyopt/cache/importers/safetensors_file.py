"""``.safetensors``: the keys of an ``.npz``, mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from policyopt.cache.importers.raw import OPTIONS, Raw, declared
from policyopt.cache.optional import need
from policyopt.cache.shard import map_tensors
from policyopt.runtime.sizes import Room

_MAX_HEADER = 16 << 20


def read(path: Path) -> Raw:
    """Map a ``.safetensors`` file; ``unit``, ``axes``, ... may stand in its metadata.

    Parameters
    ----------
    path : Path
        With the keys of an ``.npz``.

    Returns
    -------
    Raw

    Raises
    ------
    InputError
        Truncated, or not a safetensors file.

    Examples
    --------
    >>> import tempfile
    >>> from safetensors.numpy import save_file
    >>> place = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> save_file({"labels": np.arange(3)}, place)
    >>> read(place).arrays["labels"]
    array([0, 1, 2])
    """
    found, room = {}, Room("SRC", str(path), "Save it as float16 or float32.")
    for name, (kind, array) in map_tensors(path.resolve(), path.name, None, _MAX_HEADER).items():
        room.take(2 * array.nbytes if kind == "BF16" else 0, array.nbytes)
        # bfloat16 is the upper half of a float32
        found[name] = (array.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else array
    with need("safetensors", "fit", "to read .safetensors").safe_open(str(path), "numpy") as file:
        notes = file.metadata() or {}
    found |= {key: text for key, text in notes.items() if key in (*OPTIONS, "cost_unit")}
    return declared(path.name, found)
