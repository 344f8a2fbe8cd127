"""``.pt`` and ``.pth``: tensors only; a file that needs pickle is refused unless it is trusted.

``torch.load(weights_only=True)`` runs no code of the file, but calls what takes memory (``bytearray(n)``). So the
pickle is looked at before, executing nothing: calls are those that ``torch.save`` writes for dense tensors, and
each storage is one that the file holds.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

from policyopt._cache.blocks import to_numpy
from policyopt._cache.keys import may_be_used
from policyopt._cache.raw import Raw, Said, declared, flat
from policyopt._optional import need
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._outputs_file import check_zip
from policyopt.runtime._sizes import Room
from policyopt.runtime._strict_json import MAX_DEPTH
from policyopt.runtime._typing import Array

#: torch's magic number 0x1950A86A20F9469CFC6C, as a pickle holds it.
_OLD_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
_EXAMPLE = "torch.save({'logits': logits, 'labels': labels}, path)"
#: Bytes of an element, by the storage that torch names.
_STORAGES = {
    "Untyped": 1, "Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Half": 2, "BFloat16": 2, "Int": 4, "Float": 4,
    "Long": 8, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16,
}  # fmt: skip
_STORAGE = re.compile(rf"torch(?:\.cuda|\.storage)?\.({'|'.join(_STORAGES)})Storage")
_DTYPE = re.compile(r"torch\.(?:u?int\d+|b?float[0-9a-z_]+|bool|complex\d+)")
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
_PARAMETER, _DICT = "torch._utils._rebuild_parameter", "collections.OrderedDict"
_SIZE = "torch.Size"
#: Operations of a pickle of protocol 2, as torch.save writes it.
_PUTS = ("BINPUT", "LONG_BINPUT")
_GETS = ("BINGET", "LONG_BINGET")
_PLAIN = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
_SINGLE = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
#: Bytes that an operation takes at most: a list, a tuple, an entry of the memo; a tensor with all that is its own.
_PER_STEP, _PER_CALL = 128, 1000
_PIECE = 1 << 20


def read_torch(path: Path, said: Said, allow_pickle: bool = False) -> Raw:
    """Load a tensor, a dict with an ``.npz``'s keys, or MSDNet's four; with `allow_pickle` **it can run any code**."""
    torch = need("torch", "torch", "to read .pt and .pth files")
    room = Room("SRC", str(path), "Save it with torch.save: that does not compress.")
    with path.open("rb") as file:
        begin = file.read(32)
    # As torch tells, whatever stands at the end; before 1.6 it began with a magic number.
    whole, old = begin.startswith(b"PK\x03\x04"), _OLD_MAGIC in begin
    try:
        members = _members(path, room) if whole else {}
        if not allow_pickle and whole:
            _scan_zip(path, members, room, torch)
        elif not allow_pickle and old:
            _scan_old(path, room)
        elif not allow_pickle:
            raise ValueError("no magic number")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated storage classes in old files
            loaded = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds on damaged files
        if not isinstance(error, (_OddPickle, pickle.UnpicklingError)) or not (whole or old):
            got = f"{path}, which torch.load cannot read"
            step = "It was cut or damaged, or written by something else: save or copy it anew."
            raise input_error("SRC", "a file that torch.save wrote", got, step) from error
        why = f"needs pickle for {error}" if isinstance(error, _OddPickle) else "needs pickle"
        got = f"{path}, which {why} and so could run code or be of any size"
        step = (
            f"Save tensors only, e.g. {_EXAMPLE}; or, for a file that you wrote yourself, pass "
            "--allow-pickle (Python: allow_pickle=True)."
        )
        raise input_error("SRC", "a file of dense tensors only", got, step) from error
    named = _named(path, loaded, torch)
    if not allow_pickle:
        walk = _Walk(room, torch)
        for key, value in named:
            walk.over(f"{path.name}: {key}", value)
    found = {}
    for key, value in flat(dict(named)).items():
        several, where = {key: value}, f"{path.name}: {key}"
        if key.endswith("features") and isinstance(value, (list, tuple)):
            # Each exit's feature vectors by name: their widths may differ.
            several = {f"{key}_{k}": one for k, one in enumerate(value)}
        for name, one in several.items():
            try:
                found[name] = _value(where, one, torch)
            except InputError:
                if may_be_used(key, said):
                    raise
                found[name] = one  # of no use, so it may be anything: see `declared`
    return declared(path.name, found, said)


def _members(path: Path, room: Room) -> dict[str, zipfile.ZipInfo]:
    """Return the members by torch's names for them, without the folder; their bytes are counted."""
    with zipfile.ZipFile(path) as archive:
        check_zip(archive, path, "SRC")
        for info in archive.infolist():
            room.take(info.file_size, info.compress_size)
        folder = "".join(archive.namelist()[:1]).partition("/")[0] + "/"
        infos = [info for info in archive.infolist() if info.filename.startswith(folder)]
        return {info.filename.removeprefix(folder): info for info in infos}


def _scan_zip(path: Path, members: dict[str, zipfile.ZipInfo], room: Room, torch: Any) -> None:
    """Look at the pickle, read by torch's own reader: another one may find another member of that name."""

    def backed(key: str, size: int) -> bool:
        info = members.get(f"data/{key}")
        return info is not None and size <= info.file_size

    if len({name.lower() for name in members}) < len(members):  # torch's reader sees no difference
        raise ValueError("two members whose names differ in case only")
    pickled = members["data.pkl"]
    data = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
    _scan(io.BytesIO(data), room, min(pickled.compress_size / max(len(data), 1), 1.0), backed)


def _scan_old(path: Path, room: Room) -> None:
    """Look at the pickles of a file as torch before 1.6 wrote it: numbers, then values, then keys."""
    sizes: dict[str, int] = {}
    most = path.stat().st_size

    def backed(key: str, size: int) -> bool:
        sizes[key] = max(size, sizes.get(key, 0))
        return size <= most  # of each; of all together below

    with path.open("rb") as file:
        for _ in range(5):
            _scan(file, room, 1, backed)
    if sum(sizes.values()) > most:
        raise _OddPickle("storages that the file does not hold")
    room.take(sum(sizes.values()), most)


def _named(path: Path, loaded: Any, torch: Any) -> list[tuple[str, Any]]:
    if isinstance(loaded, dict) and all(type(key) in (str, int) for key in loaded):
        return [(str(key), value) for key, value in loaded.items()]
    if hasattr(loaded, "shape"):
        return [("outputs", loaded)]
    if isinstance(loaded, (list, tuple)) and loaded:
        ranks = [getattr(item, "ndim", None) for item in loaded]
        if ranks == [3, 1, 3, 1]:  # MSDNet: logits_single.pth
            keys = ("val_logits", "val_labels", "test_logits", "test_labels")
            return list(zip(keys, loaded, strict=True))
        if set(ranks) == {2}:
            return [("outputs", list(loaded))]
        if len(ranks) > 2 and ranks[-1] == 1 and set(ranks[:-1]) == {2}:
            return [("outputs", list(loaded[:-1])), ("labels", loaded[-1])]
        if ranks[1:] == [1] and (ranks[0] == 3 or isinstance(loaded[0], (list, tuple))):
            return [("outputs", loaded[0]), ("labels", loaded[1])]
    allowed = "a tensor, a dict or K of them, [outputs, labels], or [val_pred, val_target, test_pred, test_target]"
    got = f"{path} with a {type(loaded).__name__}"
    raise input_error("SRC", allowed, got, f"Save a dict, e.g. {_EXAMPLE}.")


class _Walk:
    """Counts what values come to unfolded: a list or a tensor that stands in several places counts in each."""

    def __init__(self, room: Room, torch: Any) -> None:
        self.room, self.torch = room, torch
        self.seen: set[int] = set()
        self.left: dict[int, int] = {}  # bytes of storages that no tensor has taken yet

    def over(self, argument: str, value: Any, depth: int = 0) -> None:
        """Go over a value, and refuse it before it is unfolded."""
        items, size = (), 0
        if isinstance(value, self.torch.Tensor):
            storage, size = value.untyped_storage(), value.numel() * value.element_size()
            if size <= storage.nbytes():  # larger ones are views, which `_dense` refuses
                left = self.left.get(storage.data_ptr(), storage.nbytes())
                self.room.take(max(size - left, 0))
                self.left[storage.data_ptr()] = max(left - size, 0)
            return
        if isinstance(value, (list, tuple, dict)):
            if depth == MAX_DEPTH:
                allowed = f"nested at most {MAX_DEPTH} deep"
                raise input_error(argument, allowed, "deeper", "Save a tensor.")
            items = value.values() if isinstance(value, dict) else value
            size = 64 * (1 + len(value))
        elif isinstance(value, (str, bytes)):
            size = len(value) if len(value) > 64 else 0
        elif not isinstance(value, (int, float, type(None), self.torch.dtype)):
            allowed = "a tensor, a number, a text, or lists and dicts of them"
            raise input_error(argument, allowed, type(value).__name__, "Save a tensor.")
        if size:  # once, it is in the bytes of the pickle
            self.room.take(size if id(value) in self.seen else 0)
            self.seen.add(id(value))
        for item in items:
            self.over(argument, item, depth + 1)


def _value(argument: str, value: Any, torch: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _dense(argument, value, torch)
    if isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value):
        value = [_dense(argument, v, torch) for v in value]
        shapes = [v.shape for v in value]
        if len(set(shapes)) > 1:
            raise input_error(argument, "tensors of one shape, one per exit", f"{shapes}")
    return value


def _dense(argument: str, tensor: Any, torch: Any) -> Array:
    """Return the array of a plain tensor; a few bytes viewed as billions are refused."""
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise input_error(argument, "a dense tensor", f"{type(tensor).__name__}", "Save it dense.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        allowed = "a tensor that holds all its elements"
        raise input_error(argument, allowed, "an expanded view", "Save tensor.contiguous().")
    try:
        return to_numpy(argument, tensor)
    except (RuntimeError, TypeError) as error:
        raise input_error(argument, "a tensor of numbers", f"{error}", "Convert it.") from error


class _OddPickle(Exception):
    """Holds what a pickle has that `torch.save` does not write for tensors, lists, dicts, numbers and texts."""


class _Made:
    """Stands for a value that is not looked into."""


class _Global(str):
    """A name that the pickle would import."""


_CONTAINER, _ORDERED, _BACKED, _TENSOR = _Made(), _Made(), _Made(), _Made()


def _scan(file: BinaryIO, room: Room, share: float, backed: Callable[[str, int], bool]) -> None:
    """Look at a file's next pickle: memory out of `room`, `share` bytes of file for one; `backed`: known storages."""
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    taken, steps, begin = 0, 0, file.tell()
    operations = cast("Iterable[tuple[Any, Any, Any]]", pickletools.genops(file))
    for operation, argument, place in operations:
        name = operation.name
        steps, taken = steps + 1, taken + (16 if name in _SINGLE else _PER_STEP)
        if taken > _PIECE:
            room.take(taken, int(((place or 0) - begin) * share))
            taken, begin = 0, place or 0
        if name in _PUTS:
            memo[argument] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name in _PLAIN:
            taken += 4 * len(argument) if isinstance(argument, str) else 0
            stack.append(argument)
        elif name in _SINGLE:
            stack.append(_SINGLE[name])
        elif name == "MARK":
            marks.append(stack)
            stack = []
        elif name == "TUPLE":
            items, stack = tuple(stack), marks.pop()
            stack.append(items)
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append(_CONTAINER)
        elif name == "APPEND":
            stack.pop()
        elif name == "APPENDS":
            stack = marks.pop()
        elif name == "SETITEM":
            _check_keys([stack[-2]])
            del stack[-2:]
        elif name == "SETITEMS":
            _check_keys(stack[::2])
            stack = marks.pop()
        elif name == "GLOBAL":
            stack.append(_known_name(argument))
        elif name == "BINPERSID":
            _check_storage(stack[-1], backed)
            stack[-1] = _BACKED
        elif name == "REDUCE":
            taken += _PER_CALL
            arguments = stack.pop()
            stack[-1] = _called(stack[-1], arguments)
        elif name == "BUILD":
            # Of a model's state: it is copied, and has come from the steps so far.
            stack.pop()
            taken += steps * _PER_STEP
            if stack[-1] is not _ORDERED:
                raise _OddPickle("a state of something else than an OrderedDict")
        elif name not in ("PROTO", "STOP"):
            raise _OddPickle(f"the operation {name}")
    room.take(taken, int((file.tell() - begin) * share))


def _known_name(argument: str) -> _Global:
    name = _Global(argument.replace(" ", "."))
    known = name in (*_TENSORS, _PARAMETER, _DICT, _SIZE)
    if known or _STORAGE.fullmatch(name) or _DTYPE.fullmatch(name):
        return name
    raise _OddPickle(f"the name {str(name[:100])!r}")


def _check_keys(keys: list[Any]) -> None:
    """Refuse keys that are tuples: one of tuples within tuples takes forever to be hashed."""
    if not all(isinstance(key, (str, bytes, int, float, type(None))) for key in keys):
        raise _OddPickle("a key that is neither text nor number")


def _check_storage(found: Any, backed: Callable[[str, int], bool]) -> None:
    if not isinstance(found, tuple) or len(found) not in (5, 6) or found[0] != "storage":
        raise _OddPickle("a reference to something else than a storage")
    kind, key, place, count = found[1:5]
    match = _STORAGE.fullmatch(kind) if isinstance(kind, _Global) else None
    types = [type(key), type(place), type(count)]
    if not match or types != [str, str, int] or count < 0:
        raise _OddPickle("a storage of another form than torch writes")
    if not backed(key, count * _STORAGES[match[1]]):
        raise _OddPickle(f"a storage of {count} elements that the file does not hold")


def _called(function: Any, arguments: Any) -> _Made:
    """Return what a call makes, where it is one that torch writes."""
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise _OddPickle("a call of something without a name")
    if function == _DICT and not arguments:
        return _ORDERED
    if function in _TENSORS and len(arguments) > 5 and arguments[0] is _BACKED:
        offset, size, stride = arguments[1:4]
        shaped = isinstance(size, tuple) and isinstance(stride, tuple)
        if shaped and all(type(n) is int for n in (offset, *size, *stride)):
            return _TENSOR
    if function == _PARAMETER and arguments and arguments[0] is _TENSOR:
        return _TENSOR
    few = len(arguments) == 1 and isinstance(arguments[0], tuple) and len(arguments[0]) < 65
    if function == _SIZE and few:
        return _CONTAINER
    raise _OddPickle(f"a call of '{function}' as torch does not write it")
