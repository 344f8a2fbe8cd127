"""``.pt``/``.pth``: tensors only; a file that needs pickle is refused unless it is trusted."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

from policyopt.cache.importers.raw import Array, Raw, declared
from policyopt.cache.optional import need
from policyopt.cache.orient import to_numpy
from policyopt.runtime.errors import InputError, bad
from policyopt.runtime.npz_file import check_zip
from policyopt.runtime.sizes import Room

#: torch's magic number 0x1950A86A20F9469CFC6C, as a pickle holds it.
_OLD_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")


def read(path: Path, allow_pickle: bool = False) -> Raw:
    """Load a tensor, a dict with the keys of an ``.npz``, or MSDNet's list of four.

    Parameters
    ----------
    path : Path
        Written by ``torch.save``. A list of four is MSDNet's ``[val_pred, val_target, test_pred,
        test_target]``; a list of K tensors (N, C) is one tensor per exit.
    allow_pickle : bool, default False
        Load files that hold other objects. **Such a file can run any code**: only for files
        that you wrote.

    Returns
    -------
    Raw

    Raises
    ------
    InputError
        Damaged, needs pickle, or holds something else.

    Examples
    --------
    >>> import tempfile, torch
    >>> place = Path(tempfile.mkdtemp()) / "a.pt"
    >>> torch.save({"logits": torch.zeros(2, 5, 3), "unit": "ms"}, place)
    >>> raw = read(place)
    >>> raw.arrays["logits"].shape, raw.options
    ((2, 5, 3), {'unit': 'ms'})
    """
    torch = need("torch", "torch", "to read .pt and .pth files")
    whole = zipfile.is_zipfile(path)
    if whole:
        try:
            with zipfile.ZipFile(path) as archive:
                check_zip(archive, path, "SRC")
                room = Room("SRC", str(path), "Save it with torch.save: that does not compress.")
                for info in archive.infolist():
                    room.take(info.file_size, info.compress_size)
        except (zipfile.BadZipFile, OSError) as error:
            raise bad("SRC", "a readable file", f"{path} ({error})", "Save it anew.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated storage classes in old files
            loaded = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except Exception as error:  # torch raises many kinds on damaged files
        if not isinstance(error, pickle.UnpicklingError) or not (whole or _is_old(path)):
            raise bad(
                "SRC",
                "a file that torch.save wrote",
                f"{path}, which torch.load cannot read",
                "It was cut or damaged, or written by something else: save or copy it anew.",
            ) from error
        raise bad(
            "SRC",
            "a file of tensors only",
            f"{path}, which needs pickle and so could run code",
            "Save tensors only, e.g. torch.save({'logits': logits, 'labels': labels}, path); "
            "or, for a file that you wrote yourself, pass --allow-pickle "
            "(Python: allow_pickle=True).",
        ) from error
    named = [pair for key, v in _named(path, loaded, torch) for pair in _by_exit(key, v)]
    found = {key: _value(f"{path.name}: {key}", value, torch) for key, value in named}
    return declared(path.name, found)


def _is_old(path: Path) -> bool:
    """Say whether torch before 1.6 may have written the file: it begins with a magic number."""
    with path.open("rb") as file:
        return _OLD_MAGIC in file.read(32)


def _named(path: Path, loaded: Any, torch: Any) -> list[tuple[str, Any]]:
    if isinstance(loaded, dict) and all(isinstance(key, str) for key in loaded):
        return list(loaded.items())
    if hasattr(loaded, "shape"):
        return [("outputs", loaded)]
    if isinstance(loaded, (list, tuple)) and loaded:
        ranks = [getattr(item, "ndim", None) for item in loaded]
        if ranks == [3, 1, 3, 1]:  # MSDNet: logits_single.pth
            keys = ("val_logits", "val_labels", "test_logits", "test_labels")
            return list(zip(keys, loaded, strict=True))
        if set(ranks) == {2}:
            return [("outputs", list(loaded))]
    raise bad(
        "SRC",
        "a tensor, a dict of tensors, K tensors, or [val_pred, val_target, test_pred, test_target]",
        f"{path} with a {type(loaded).__name__}",
        "Save a dict, e.g. torch.save({'logits': logits, 'labels': labels}, path).",
    )


def _by_exit(key: str, value: Any) -> list[tuple[str, Any]]:
    """Name each exit's feature vectors, where they come as a list: their widths may differ."""
    if key.endswith("features") and isinstance(value, (list, tuple)):
        return [(f"{key}_{k}", vectors) for k, vectors in enumerate(value)]
    return [(key, value)]


def _value(argument: str, value: Any, torch: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _dense(argument, value, torch)
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
        parts = [_dense(argument, v, torch) for v in value]
        if len({p.shape for p in parts}) > 1:
            raise bad(argument, "tensors of one shape, one per exit", f"{[p.shape for p in parts]}")
        return parts
    return value


def _dense(argument: str, tensor: Any, torch: Any) -> Array:
    """Return the array of a plain tensor; a few bytes viewed as billions are refused."""
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise bad(argument, "a dense tensor", f"{type(tensor).__name__}", "Save it dense.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise bad(
            argument,
            "a tensor that holds all its elements",
            "an expanded view",
            "Save tensor.contiguous().",
        )
    try:
        return to_numpy(argument, tensor)
    except (RuntimeError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise bad(argument, "a tensor of numbers", f"{error}", "Convert it first.") from error
