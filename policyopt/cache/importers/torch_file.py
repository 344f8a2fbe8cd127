"""``.pt``/``.pth``: tensors only; a file that needs pickle is refused unless it is trusted."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

from policyopt.cache.importers.raw import Array, Raw, declared
from policyopt.cache.importers.torch_pickle import OddPickle, scan
from policyopt.cache.optional import need
from policyopt.cache.orient import to_numpy
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.npz_file import check_zip
from policyopt.runtime.sizes import Room
from policyopt.runtime.strict_json import MAX_DEPTH

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
    room = Room("SRC", str(path), "Save it with torch.save: that does not compress.")
    whole = _begins(path, 4) == b"PK\x03\x04"  # as torch tells, whatever stands at the end
    members = _members(path, room) if whole else {}
    try:
        if not allow_pickle and whole:
            _scan_zip(path, members, room, torch)
        elif not allow_pickle:
            _scan_old(path, room)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated storage classes in old files
            loaded = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds on damaged files
        odd = isinstance(error, (OddPickle, pickle.UnpicklingError))
        if not odd or not (whole or _is_old(path)):
            raise input_error(
                "SRC",
                "a file that torch.save wrote",
                f"{path}, which torch.load cannot read",
                "It was cut or damaged, or written by something else: save or copy it anew.",
            ) from error
        why = f"needs pickle for {error}" if isinstance(error, OddPickle) else "needs pickle"
        raise input_error(
            "SRC",
            "a file of dense tensors only",
            f"{path}, which {why} and so could run code or be of any size",
            "Save tensors only, e.g. torch.save({'logits': logits, 'labels': labels}, path); "
            "or, for a file that you wrote yourself, pass --allow-pickle "
            "(Python: allow_pickle=True).",
        ) from error
    named = _named(path, loaded, torch)
    if not allow_pickle:
        walk = _Walk(room, torch)
        for key, value in named:
            walk.over(f"{path.name}: {key}", value)
    named = [pair for key, v in named for pair in _by_exit(key, v)]
    found = {key: _value(f"{path.name}: {key}", value, torch) for key, value in named}
    return declared(path.name, found)


def _begins(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise input_error(
            "SRC", "a readable file", f"{path} ({error})", "Check the path."
        ) from error


def _is_old(path: Path) -> bool:
    """Say whether torch before 1.6 may have written the file: it begins with a magic number."""
    return _OLD_MAGIC in _begins(path, 32)


def _members(path: Path, room: Room) -> dict[str, zipfile.ZipInfo]:
    """Return the members by torch's names for them, without the folder; their bytes are counted."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, path, "SRC")
            for info in archive.infolist():
                room.take(info.file_size, info.compress_size)
            folder = "".join(archive.namelist()[:1]).partition("/")[0] + "/"
            infos = [info for info in archive.infolist() if info.filename.startswith(folder)]
            return {info.filename.removeprefix(folder): info for info in infos}
    except (zipfile.BadZipFile, OSError) as error:
        raise input_error("SRC", "a readable file", f"{path} ({error})", "Save it anew.") from error


def _scan_zip(path: Path, members: dict[str, zipfile.ZipInfo], room: Room, torch: Any) -> None:
    """Look at the pickle, read by torch's own reader: another one may find another member of that name."""

    def backed(key: str, size: int) -> bool:
        info = members.get(f"data/{key}")
        return info is not None and size <= info.file_size

    if len({name.lower() for name in members}) < len(members):  # torch's reader sees no difference
        raise ValueError("two members whose names differ in case only")
    pickled = members["data.pkl"]
    data = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
    scan(io.BytesIO(data), room, min(pickled.compress_size / max(len(data), 1), 1.0), backed)


def _scan_old(path: Path, room: Room) -> None:
    """Look at the pickles of a file as torch before 1.6 wrote it: numbers, then values, then keys."""
    sizes: dict[str, int] = {}
    most = path.stat().st_size

    def backed(key: str, size: int) -> bool:
        sizes[key] = max(size, sizes.get(key, 0))
        return size <= most  # of each; of all together below

    if not _is_old(path):
        raise ValueError("no magic number")
    with path.open("rb") as file:
        for _ in range(5):
            scan(file, room, 1, backed)
    if sum(sizes.values()) > most:
        raise OddPickle("storages that the file does not hold")
    room.take(sum(sizes.values()), most)


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
    raise input_error(
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


class _Walk:
    """Counts what values come to unfolded: a list or a tensor that stands in several places counts in each."""

    def __init__(self, room: Room, torch: Any) -> None:
        self.room, self.torch = room, torch
        self.seen: set[int] = set()
        self.left: dict[int, int] = {}  # bytes of storages that no tensor has taken yet

    def over(self, argument: str, value: Any, depth: int = 0) -> None:
        """Go over a value, and refuse it before it is unfolded."""
        if isinstance(value, self.torch.Tensor):
            self._tensor(value)
        elif isinstance(value, (list, tuple, dict)):
            if depth == MAX_DEPTH:
                raise input_error(
                    argument, f"nested at most {MAX_DEPTH} deep", "deeper", "Save a tensor."
                )
            self._again(value, 64 * (1 + len(value)))
            for item in value.values() if isinstance(value, dict) else value:
                self.over(argument, item, depth + 1)
        elif isinstance(value, (str, bytes)):
            if len(value) > 64:
                self._again(value, len(value))
        elif not isinstance(value, (int, float, type(None), self.torch.dtype)):
            allowed = "a tensor, a number, a text, or lists and dicts of them"
            raise input_error(argument, allowed, type(value).__name__, "Save a tensor.")

    def _again(self, value: Any, size: int) -> None:
        """Count a value that was met before: once, it is in the bytes of the pickle."""
        if id(value) in self.seen:
            self.room.take(size)
        self.seen.add(id(value))

    def _tensor(self, tensor: Any) -> None:
        storage, size = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
        if size <= storage.nbytes():  # larger ones are views, which `_dense` refuses
            left = self.left.get(storage.data_ptr(), storage.nbytes())
            self.room.take(max(size - left, 0))
            self.left[storage.data_ptr()] = max(left - size, 0)


def _value(argument: str, value: Any, torch: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _dense(argument, value, torch)
    if isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value):
        parts = [_dense(argument, v, torch) for v in value]
        if len({p.shape for p in parts}) > 1:
            raise input_error(
                argument, "tensors of one shape, one per exit", f"{[p.shape for p in parts]}"
            )
        return parts
    return value


def _dense(argument: str, tensor: Any, torch: Any) -> Array:
    """Return the array of a plain tensor; a few bytes viewed as billions are refused."""
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise input_error(argument, "a dense tensor", f"{type(tensor).__name__}", "Save it dense.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise input_error(
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
        raise input_error(
            argument, "a tensor of numbers", f"{error}", "Convert it first."
        ) from error
