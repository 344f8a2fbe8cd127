"""``.npz``: arrays by key; every header is checked before its array is allocated."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from policyopt.cache.importers.raw import Raw, declared
from policyopt.runtime.errors import InputError, bad
from policyopt.runtime.npz_file import check_zip, read_member


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
            check_zip(archive, path, "SRC")
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    notes.append(f"{path.name}: member {info.filename!r} ignored (not .npy)")
                    continue
                key = info.filename.removesuffix(".npy")
                with archive.open(info) as file:
                    found[key] = read_member(file, info, f"{path.name}: {key}")
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
