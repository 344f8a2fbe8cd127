"""Files of arrays by key: ``.npz``, ``.npy`` with a sidecar, ``.safetensors``; mapped where they can be."""

from __future__ import annotations

import zipfile
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.files import map_tensors
from policyopt._cache.keys import OPTIONS, may_be_used
from policyopt._cache.raw import Raw, Said, declared
from policyopt._optional import need
from policyopt.runtime._checks import check_type
from policyopt.runtime._errors import input_error
from policyopt.runtime._outputs_file import Members, read_header
from policyopt.runtime._sizes import Room
from policyopt.runtime._strict_json import parse, read_plain
from policyopt.runtime._typing import Array

#: Of labels for about 8 million rows.
_MAX_JSON = 64 << 20
_MAX_HEADER = 16 << 20
_KEPT = 1 << 20  # bytes of an array under a key of no meaning that may go into the metadata


def read_npz(path: Path, said: Said) -> Raw:
    """Read what `numpy.savez` wrote, without pickle; each header is checked before its array is made."""
    found, notes = dict[str, Any](), []
    with zipfile.ZipFile(path) as archive:
        members = Members(archive, path, "SRC")
        for member, info in members.infos.items():
            key, where = member.removesuffix(".npy"), f"{path.name}: {member}"
            if key == member:
                notes.append(f"{path.name}: member {member!r} ignored (not .npy)")
            elif key in OPTIONS or info.file_size < _KEPT or may_be_used(key, said):
                found[key] = members.read(member, where.removesuffix(".npy"))
            else:  # its shape is told, see `declared`
                shape, dtype = members.shape(member, where)
                found[key] = np.broadcast_to(np.empty((), dtype), shape)
    raw = declared(path.name, found, said)
    raw.notes += notes
    return raw


def read_npy(path: Path, said: Said) -> Raw:
    """Map ``X.npy``; labels, costs and the like come from ``X.json`` and ``X.labels.npy``, if there."""
    sidecar, labels = path.with_suffix(".json"), path.with_name(f"{path.stem}.labels.npy")
    content: Any = {}
    if sidecar.is_file():
        name, step = sidecar.name, "Put labels in X.labels.npy, and mend the sidecar."
        text = read_plain(sidecar, name, _MAX_JSON, step).removeprefix(BOM_UTF8)
        content = parse(text, name, _MAX_JSON, step)
        check_type(name, content, dict, "a JSON object", 'E.g. {"labels": [...]}.')
    raw = declared(sidecar.name, content, said)
    raw.name = path.name
    raw.arrays["outputs"] = _map_npy(path)
    if labels.is_file():
        raw.arrays["labels"] = _map_npy(labels)
    return raw


def _map_npy(path: Path) -> Array:
    """Map a ``.npy`` file read-only, after its header is checked against its size."""
    with path.open("rb") as file:
        shape, _, size = read_header(file, path.name)
    found = path.stat().st_size
    if found != size:
        allowed = f"of {size} bytes, as its header says"
        raise input_error(path.name, allowed, f"{found} bytes", "It is damaged: save it anew.")
    if 0 in shape:
        raise input_error(path.name, "of at least one row", f"shape {shape}", "Save it anew.")
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def read_safetensors(path: Path, said: Said) -> Raw:
    """Map a ``.safetensors`` file; ``unit``, ``axes``, ... may stand in its metadata."""
    found, room = {}, Room("SRC", str(path), "Save it as float16 or float32.")
    for name, (kind, array) in map_tensors(path.resolve(), path.name, None, _MAX_HEADER).items():
        room.take(2 * array.nbytes if kind == "BF16" else 0, array.nbytes)
        # bfloat16 is the upper half of a float32
        found[name] = (array.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else array
    with need("safetensors", "fit", "to read .safetensors").safe_open(str(path), "numpy") as file:
        notes = file.metadata() or {}
    found |= {key: text for key, text in notes.items() if key in (*OPTIONS, "cost_unit")}
    raw = declared(path.name, found, said)
    raw.ordered = False
    return raw
