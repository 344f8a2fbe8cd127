"""The pickle in a ``.pt`` file, looked at before torch unpickles it: operation by operation, executing nothing.

``torch.load(weights_only=True)`` runs no code of the file, but it calls what takes memory (``bytearray(n)``,
``torch.Tensor(n, m)``). So calls are those that ``torch.save`` writes for dense tensors, and each storage is one that
the file holds.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, cast

from policyopt.runtime.sizes import Room

#: Bytes of an element, by the storage that torch names.
_STORAGES = {
    "Untyped": 1, "Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Half": 2, "BFloat16": 2, "Int": 4, "Float": 4,
    "Long": 8, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16,
}  # fmt: skip
_STORAGE = re.compile(rf"torch(?:\.cuda|\.storage)?\.({'|'.join(_STORAGES)})Storage")
_DTYPE = re.compile(r"torch\.(?:u?int\d+|b?float[0-9a-z_]+|bool|complex\d+)")
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
_PARAMETER, _DICT, _SIZE = (
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
    "torch.Size",
)
#: Operations of a pickle of protocol 2, as torch.save writes it.
_PUTS = ("BINPUT", "LONG_BINPUT")
_GETS = ("BINGET", "LONG_BINGET")
_PLAIN = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
_SINGLE = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
#: Bytes that an operation takes at most: a list, a tuple, an entry of the memo; a tensor with all that is its own.
_PER_STEP, _PER_CALL = 128, 1000
_PIECE = 1 << 20


class OddPickle(Exception):
    """Holds what a pickle has that `torch.save` does not write for tensors, lists, dicts, numbers and texts."""


class _Made:
    """Stands for a value that is not looked into."""


class _Global(str):
    """A name that the pickle would import."""


_CONTAINER, _ORDERED, _BACKED, _TENSOR = _Made(), _Made(), _Made(), _Made()


def scan(file: BinaryIO, room: Room, share: float, backed: Callable[[str, int], bool]) -> None:
    """Look at the next pickle of a file.

    Parameters
    ----------
    file : binary stream
        Left behind the pickle.
    room : Room
        Memory for its values comes out of it.
    share : float
        Bytes of the file for a byte of the pickle: less than 1 where it was compressed.
    backed : callable of (key, bytes)
        Says whether the file holds a storage of that key and size.

    Raises
    ------
    OddPickle
        A call, a name or an operation of another kind, or a storage that the file does not hold.
    ValueError, IndexError, KeyError, TypeError, AttributeError
        Damaged.

    Examples
    --------
    >>> import io, pickle
    >>> scan(
    ...     io.BytesIO(pickle.dumps({"a": [1, 2]}, 2)),
    ...     Room("SRC", "a.pt"),
    ...     1,
    ...     lambda key, size: False,
    ... )
    >>> scan(
    ...     io.BytesIO(pickle.dumps(bytearray(9), 2)),
    ...     Room("SRC", "a.pt"),
    ...     1,
    ...     lambda key, size: False,
    ... )
    Traceback (most recent call last):
        ...
    policyopt.cache.importers.torch_pickle.OddPickle: the name '__builtin__.bytearray'
    """
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
            items = tuple(stack[-_TUPLES[name] :])
            del stack[-_TUPLES[name] :]
            stack.append(items)
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
            stack.append(_named(argument))
        elif name == "BINPERSID":
            _check_storage(stack[-1], backed)
            stack[-1] = _BACKED
        elif name == "REDUCE":
            taken += _PER_CALL
            arguments = stack.pop()
            stack[-1] = _called(stack[-1], arguments)
        elif (
            name == "BUILD"
        ):  # of the state of a model: it is copied, and has come from the steps so far
            stack.pop()
            taken += steps * _PER_STEP
            if stack[-1] is not _ORDERED:
                raise OddPickle("a state of something else than an OrderedDict")
        elif name not in ("PROTO", "STOP"):
            raise OddPickle(f"the operation {name}")
    room.take(taken, int((file.tell() - begin) * share))


def _named(argument: str) -> _Global:
    name = _Global(argument.replace(" ", "."))
    if (
        name in (*_TENSORS, _PARAMETER, _DICT, _SIZE)
        or _STORAGE.fullmatch(name)
        or _DTYPE.fullmatch(name)
    ):
        return name
    raise OddPickle(f"the name {str(name[:100])!r}")


def _check_keys(keys: list[Any]) -> None:
    """Refuse keys that are tuples: one of tuples within tuples takes forever to be hashed."""
    if not all(isinstance(key, (str, bytes, int, float, type(None))) for key in keys):
        raise OddPickle("a key that is neither text nor number")


def _check_storage(found: Any, backed: Callable[[str, int], bool]) -> None:
    if not isinstance(found, tuple) or len(found) not in (5, 6) or found[0] != "storage":
        raise OddPickle("a reference to something else than a storage")
    kind, key, place, count = found[1:5]
    match = _STORAGE.fullmatch(kind) if isinstance(kind, _Global) else None
    if (
        not match
        or type(key) is not str
        or type(place) is not str
        or type(count) is not int
        or count < 0
    ):
        raise OddPickle("a storage of another form than torch writes")
    if not backed(key, count * _STORAGES[match[1]]):
        raise OddPickle(f"a storage of {count} elements that the file does not hold")


def _called(function: Any, arguments: Any) -> _Made:
    """Return what a call makes, where it is one that torch writes."""
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise OddPickle("a call of something without a name")
    if function == _DICT and not arguments:
        return _ORDERED
    if function in _TENSORS and len(arguments) > 5 and arguments[0] is _BACKED:
        offset, size, stride = arguments[1:4]
        shape = (
            (offset, *size, *stride)
            if isinstance(size, tuple) and isinstance(stride, tuple)
            else (None,)
        )
        if all(type(n) is int for n in shape):
            return _TENSOR
    if function == _PARAMETER and arguments and arguments[0] is _TENSOR:
        return _TENSOR
    if (
        function == _SIZE
        and len(arguments) == 1
        and isinstance(arguments[0], tuple)
        and len(arguments[0]) < 65
    ):
        return _CONTAINER
    raise OddPickle(f"a call of '{function}' as torch does not write it")
