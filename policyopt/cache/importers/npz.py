"""``.npz``: arrays by key; every header is checked before its array is allocated."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.cache.importers.raw import OPTIONS, Raw, declared, parse_key
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.npz_file import Members

_KEPT = 1 << 20  # bytes of an array under a key of no meaning that may go into the metadata


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
    >>> import numpy as np
    >>> place = Path(tempfile.mkdtemp()) / "a.npz"
    >>> np.savez(place, labels=np.arange(3))
    >>> read(place).arrays["labels"]
    array([0, 1, 2])
    """
    found: dict[str, Any] = {}
    notes = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = Members(archive, path, "SRC")
            for member, info in members.infos.items():
                key, where = member.removesuffix(".npy"), f"{path.name}: {member}"
                if key == member:
                    notes.append(f"{path.name}: member {member!r} ignored (not .npy)")
                elif parse_key(key) or key in OPTIONS or info.file_size < _KEPT:
                    found[key] = members.read(member, where.removesuffix(".npy"))
                else:  # its shape is told, see `plain`
                    shape, dtype = members.shape(member, where)
                    found[key] = np.broadcast_to(np.empty((), dtype), shape)
    except InputError:
        raise
    except Exception as error:  # zip, deflate and numpy raise many kinds on damaged files
        raise input_error(
            "SRC",
            "a readable .npz file",
            f"{path} ({error})",
            "It was cut or damaged: save or copy it anew.",
        ) from error
    raw = declared(path.name, found)
    raw.notes += notes
    return raw
