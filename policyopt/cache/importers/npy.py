"""``.npy`` with a sidecar: the outputs are mapped, not loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from policyopt.cache.importers.raw import Array, Raw, declared
from policyopt.runtime.errors import input_error
from policyopt.runtime.npz_file import read_header
from policyopt.runtime.strict_json import parse, read_plain

#: Of labels for about 8 million rows.
_MAX_JSON = 64 << 20


def read(path: Path) -> Raw:
    """Map ``X.npy``; labels, costs and the like come from ``X.json`` and ``X.labels.npy``.

    Parameters
    ----------
    path : Path
        Logits or probabilities. Either sidecar may be missing.

    Returns
    -------
    Raw

    Raises
    ------
    InputError
        A header that does not fit the file, or a sidecar that is not a JSON object.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp())
    >>> np.save(place / "x.npy", np.zeros((2, 5, 3)))
    >>> _ = (place / "x.json").write_text('{"unit": "ms", "costs": [1, 2]}')
    >>> raw = read(place / "x.npy")
    >>> sorted(raw.arrays), raw.options
    (['costs', 'outputs'], {'unit': 'ms'})
    """
    sidecar = path.with_suffix(".json")
    raw = declared(sidecar.name, _read_json(sidecar)) if sidecar.is_file() else Raw(path.name)
    raw.name = path.name
    raw.arrays["outputs"] = map_npy(path)
    labels = path.with_name(f"{path.stem}.labels.npy")
    if labels.is_file():
        raw.arrays["labels"] = map_npy(labels)
    return raw


def map_npy(path: Path) -> Array:
    """Map a ``.npy`` file read-only, after its header is checked against its size.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "x.npy"
    >>> np.save(place, np.arange(3))
    >>> map_npy(place)
    array([0, 1, 2])
    """
    try:
        with path.open("rb") as file:
            shape, _, size = read_header(file, path.name)
        found = path.stat().st_size
        if found != size:
            raise input_error(
                path.name,
                f"of {size} bytes, as its header says",
                f"{found} bytes",
                "It was cut or damaged: save it anew.",
            )
        if 0 in shape:
            raise input_error(path.name, "of at least one row", f"shape {shape}", "Save it anew.")
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        raise input_error(
            "SRC", "a readable file", f"{path} ({error})", "Check the path."
        ) from error


def _read_json(path: Path) -> dict:
    step = "Put labels in X.labels.npy, and mend the sidecar."
    content = parse(read_plain(path, path.name, _MAX_JSON, step), path.name, _MAX_JSON, step)
    if not isinstance(content, dict):
        raise input_error(
            path.name, "a JSON object", type(content).__name__, 'E.g. {"labels": [...]}.'
        )
    return content
