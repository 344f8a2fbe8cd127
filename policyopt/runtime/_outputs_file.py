"""New outputs for a policy from ``.npy`` and ``.npz`` of anyone: headers are checked before memory is taken."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ._errors import InputError, input_error
from ._experts import ExpertPolicy, checked_names, context_numbers, renumbered
from ._kinds import KINDS
from ._policy import Decisions, Policy
from ._reading import UNIT_TOLERANCE
from ._routing import RoutingPolicy
from ._sizes import PIECE, Room
from ._sparse import SPARSE, from_top
from ._typing import Array, Ints

_MOST_DEFLATED = 1040  # what deflate can make of a byte, 1032, and a little
_MOST_HEADER = 10_000  # numpy's own limit, which it looks at after reading the header
_MAPPED = 1 << 20  # smaller members are read
_SHARES = ("probs", "probabilities", "outputs", "logits")
_VALUES = ("values", "outputs", "pred", "prediction")
#: Keys of the outputs, by kind, best first. What stands under another kind's key is held against the kind's own checks.
_KEYS = {
    "logits": ("logits", "outputs"), "probabilities": _SHARES, "logit": ("logit", "logits", "outputs"),
    "probability": _SHARES, "multilabel": ("logits", "outputs"), "multilabel_probabilities": _SHARES,
    "regression": _VALUES, "regression_variances": _VALUES,
}  # fmt: skip
_VARIANCES = ("variances", "variance")
_SUMMARY = {
    "prediction": ("pred", "prediction"),
    "confidence": ("conf", "confidence", "conf_logprob"),
    "entropy": ("entropy",),
    "top_prob": ("top_prob", "top_probs"),
    **{name: (name,) for name in SPARSE},
}
_CONTEXT = ("context", "contexts")


def read_new(path: str | Path, policy: Policy | ExpertPolicy) -> tuple[dict[str, Array], list[str]]:
    """Return the arrays that an ``.npy`` or ``.npz`` has for a policy, by key, and all keys."""
    keys = {key for keys in (*_KEYS.values(), *_SUMMARY.values(), _VARIANCES) for key in keys}
    features = {f"features_{k}" for k in policy.active_exits if policy.needs_features}
    context = _CONTEXT if isinstance(policy, ExpertPolicy) else ()
    return read_arrays(path, {*keys, *features, *context})


def read_arrays(path: str | Path, wanted: set[str]) -> tuple[dict[str, Array], list[str]]:
    """Return the wanted arrays of an ``.npz`` and all its keys; that of an ``.npy`` is called outputs."""
    path = Path(path)
    if not path.is_file():
        raise input_error("outputs", "a file", str(path), "Give a .npy or .npz file.")
    if path.suffix not in (".npy", ".npz"):
        raise input_error("outputs", "a .npy or .npz file", path.name, "Save with numpy.savez.")
    with _named(path):
        if path.suffix == ".npy":
            with path.open("rb") as file:
                size = read_header(file, path.name)[2]
            if size != (there := path.stat().st_size):
                allowed = f"of {size} bytes, as its header says"
                raise input_error(path.name, allowed, f"{there} bytes", "Save it again.")
            return {"outputs": np.load(path, mmap_mode="r", allow_pickle=False)}, ["outputs"]
        with zipfile.ZipFile(path) as archive:
            members = Members(archive, path, f"outputs in {path.name}")
            keys = {name.removesuffix(".npy"): name for name in members.infos}
            read = {k: members.read(keys[k], f"{k} in {path.name}") for k in keys if k in wanted}
            return read, list(keys)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what numpy raises on a damaged file into an error that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # zip, deflate and numpy raise many kinds on damaged files
        what, allowed = f"outputs in {path.name}", "whole arrays of numbers"
        raise input_error(what, allowed, str(error), "Save them again.") from error


def outputs_of(
    arrays: Mapping[str, Array], policy: Policy | ExpertPolicy, axes: str | None, name: str,
    keys: Iterable[str] = (),
) -> list[Any]:  # fmt: skip
    """Return K arrays (N, C) or summaries of a file's arrays by key; `axes`, KNC or NKC, where both would do.

    `keys`: all that the file has, told where none serves.
    """
    got = ", ".join(keys or arrays) or "none"
    if policy.kind == "summary":
        columns = {}
        for field, names in _SUMMARY.items():
            for key in names:
                if key in arrays and field not in columns:
                    last = field == "confidence"
                    columns[field] = by_exit(arrays[key], policy, axes, f"{key} in {name}", last)
                    if key == "conf_logprob":
                        columns[field] = np.exp(columns[field].astype(np.float64))
        columns = from_top(columns, policy.classes, name)
        if "confidence" not in columns and columns.get("top_prob", np.empty(0)).ndim == 3:
            columns["confidence"] = columns["top_prob"][:, :, 0]
        if "confidence" in columns and columns["confidence"].dtype.kind == "f":
            given = columns["confidence"]  # a softmax may pass 1 by rounding, as `import` knows
            near = np.clip(given, 0.0, 1.0)
            columns["confidence"] = np.where(np.abs(given - near) <= UNIT_TOLERANCE, near, given)
        if "confidence" not in columns and policy.provenance.get("confidences") is False:
            for key in arrays.keys() & {"pred", "prediction", "correct", "quality"}:
                like = by_exit(arrays[key], policy, axes, f"{key} in {name}")
                columns["confidence"] = np.ones(like.shape)
        if "confidence" not in columns:
            allowed = "with a confidence (key conf, or conf_0, ... in a table) and perhaps pred"
            step = "The policy was fitted on such summaries: rename the key of the confidences."
            raise input_error(f"outputs in {name}", allowed, got, step)
        exits = range(policy.model_exits)
        return [{field: column[k] for field, column in columns.items()} for k in exits]
    for key in _KEYS[policy.kind]:
        if key in arrays:
            array, what = arrays[key], f"{key} in {name}"
            kind = KINDS[policy.kind]
            width = kind.width(policy.classes)
            apart = next((arrays[k] for k in _VARIANCES if k in arrays), None)
            if apart is not None and width > policy.classes and apart.shape == array.shape:
                pair = (array, apart) if array.ndim == 3 else (array[..., None], apart[..., None])
                array = np.concatenate(pair, axis=2)
            if kind.single and width == 1 and array.ndim == 2:
                array = array[..., None]
            if array.ndim != 3 or array.shape[2] != width:
                allowed = f"3-dimensional with {width} classes last"
                if not kind.whole or kind.single:
                    allowed = f"3-dimensional with {width} numbers last ({kind.name})"
                step = "Take the outputs of the model that the policy was fitted on."
                raise input_error(what, allowed, f"shape {array.shape}", step)
            return list(by_exit(array, policy, axes, what))
    allowed = f"an array '{_KEYS[policy.kind][0]}'"  # best first
    step = f"Rename the key of the {policy.kind} that the policy was fitted on."
    raise input_error(f"outputs in {name}", allowed, got, step)


def features_of(
    arrays: Mapping[str, Array], policy: Policy | ExpertPolicy, name: str
) -> list[Any] | None:
    """Return the feature vectors of new samples, as `Policy.decide` takes them."""
    if not policy.needs_features:
        return None
    wanted = [f"features_{k}" for k in policy.active_exits]
    missing = [key for key in wanted if key not in arrays]
    if missing:
        allowed, got = f"with {', '.join(wanted)}", f"no {', '.join(missing)}"
        step = "The policy's score reads the model's feature vectors: save them in an .npz."
        raise input_error(f"keys of {name}", allowed, got, step)
    return [arrays.get(f"features_{k}") for k in range(policy.model_exits)]


def context_of(arrays: Mapping[str, Array], policy: ExpertPolicy, name: str) -> Ints:
    """Return the contexts of new samples, in the policy's own numbers."""
    if "context" not in arrays:
        what, allowed = f"keys of {name}", "with context, one number per sample"
        step = "The policy has thresholds for each context: save what the classifier said."
        raise input_error(what, allowed, ", ".join(arrays), step)
    found = arrays["context"]
    if "contexts" not in arrays:
        return context_numbers(found, len(policy.contexts), np.size(found))
    names = checked_names([str(name) for name in np.atleast_1d(arrays["contexts"])])
    return renumbered(found, names, policy.contexts)


def decide_arrays(
    policy: Any, outputs: Any, arrays: Mapping[str, Array], name: str, costs: Any = None
) -> Decisions:
    """Decide for a file's outputs, with what else of it the policy needs: features, contexts, what calls cost."""
    if isinstance(policy, RoutingPolicy):
        return policy.decide(outputs, costs=costs, query=arrays.get("query"))
    features = features_of(arrays, policy, name)
    if isinstance(policy, ExpertPolicy):
        return policy.decide(outputs, context_of(arrays, policy, name), features=features)
    return policy.decide(outputs, features=features)


def by_exit(
    array: Array, policy: Policy | ExpertPolicy, axes: str | None, name: str, last: bool = False
) -> Array:
    """Return the array with the exits first; `last`: the last exit, which decides nothing, may lack and is 1."""
    exits, shape = policy.model_exits, f"shape {array.shape}"
    if axes and axes[:2] not in ("KN", "NK"):
        raise input_error("axes", "KNC or NKC", axes, "K exits, N samples, C classes.")
    counts = (exits, exits - 1) if last and array.ndim == 2 else (exits,)
    found = {}
    for count in counts:
        pairs = zip(("KN", "NK"), array.shape, strict=False)
        found[count] = [order for order, n in pairs if n == count]
    # What is stated goes before what would do, or a table of K rows were taken for K exits.
    count = next((c for c in counts if (axes[:2] in found[c] if axes else found[c])), exits)
    fits = found[count]
    if not fits:
        step = "Take all exits of the model that the policy was fitted on."
        raise input_error(name, f"with {exits} exits on one of its first two axes", shape, step)
    if not axes and len(fits) > 1:
        raise input_error("axes", "given for as many exits as samples", shape, "Say KNC or NKC.")
    order = axes[:2] if axes else fits[0]
    if order not in fits:
        step = f"It has K = {exits} exits in {shape}; say --axes {fits[0]}C."
        raise input_error("axes", f"{fits[0]}C for {name}", axes, step)
    turned = array if order == "KN" else array.swapaxes(0, 1)
    if count == exits:
        return turned
    return np.concatenate([turned, np.ones((1, turned.shape[1]))])


def check_zip(archive: zipfile.ZipFile, path: Path, argument: str) -> None:
    """Refuse an archive whose members are double, lie over each other, or claim the impossible."""
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise input_error(argument, "an archive with each member once", f"{path}", "Save it anew.")
    if sum(info.compress_size for info in archive.infolist()) > path.stat().st_size:
        raise input_error(argument, "an archive as big as its members", f"{path}", "Save it anew.")
    for info in archive.infolist():
        most = _MOST_DEFLATED * info.compress_size + 64
        if info.compress_type == zipfile.ZIP_STORED:
            most = info.compress_size
        elif info.compress_type != zipfile.ZIP_DEFLATED:
            most = 0
        if info.file_size > most:
            claim = f"claims {info.file_size} bytes of {info.compress_size}"
            got = f"{path}, whose member {info.filename!r} {claim}"
            raise input_error(argument, "an archive as numpy writes it", got, "Save it anew.")


class Members:
    """The arrays of an ``.npz``, read one by one; what they unpack to is counted before."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, argument: str) -> None:
        check_zip(archive, path, argument)
        self.archive, self.path = archive, path
        self.room = Room(argument, str(path), "Save it uncompressed (numpy.savez).")
        self.infos = {info.filename: info for info in archive.infolist()}

    def shape(self, name: str, argument: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return shape and type of a member's array, from its header."""
        with self.archive.open(self.infos[name]) as file:
            return read_header(file, argument)[:2]  # type: ignore[arg-type]

    def read(self, name: str, argument: str) -> Array:
        """Return a member's array: a large one that is not compressed is mapped, not read."""
        info = self.infos[name]
        with self.archive.open(info) as file:
            if info.compress_type != zipfile.ZIP_STORED or info.file_size < _MAPPED:
                self.room.take(info.file_size, info.compress_size)
                return read_member(file, info, argument)
            shape, fortran, dtype = _header(file, argument)
            at = self._begin(info) + file.tell()
            _check_size(at - self._begin(info) + math.prod(shape) * dtype.itemsize, info, argument)
            while file.read(PIECE):  # to its end, where the checksum is compared
                pass
        return np.memmap(self.path, dtype, "r", at, shape, "F" if fortran else "C")

    def _begin(self, info: zipfile.ZipInfo) -> int:
        """Return where a member's data begin: its own header may be longer than the directory says."""
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            return info.header_offset + 30 + sum(struct.unpack("<26x2H", file.read(30)))


def read_member(file: Any, info: zipfile.ZipInfo, argument: str) -> Array:
    """Return the array of an open member, its header checked before memory is taken for it."""
    _check_size(read_header(file, argument)[2], info, argument)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _check_size(size: int, info: zipfile.ZipInfo, argument: str) -> None:
    if size != info.file_size:
        allowed = f"of {size} bytes, as its header says"
        raise input_error(argument, allowed, f"{info.file_size} bytes", "Save it anew.")


def read_header(file: BinaryIO, argument: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Read the header of a ``.npy`` stream."""
    shape, _, dtype = _header(file, argument)
    return shape, dtype, file.tell() + math.prod(shape) * dtype.itemsize


def _header(file: Any, argument: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether in Fortran order, and type."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version}")
        width = 2 if version == (1, 0) else 4
        length = int.from_bytes(file.read(width), "little")
        if length > _MOST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        file.seek(-width, 1)
        read_one = np.lib.format.read_array_header_1_0
        read_two = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = (read_one if version == (1, 0) else read_two)(file)
    except Exception as error:  # numpy, ast and tokenize raise many kinds on damaged headers
        raise input_error(argument, "a .npy array", f"{error}", "Save it anew.") from error
    got, step = f"dtype {dtype}, shape {shape}", "Convert it."
    if dtype.hasobject:
        got = "Python objects (pickle), which may run code"
        step = "Save the numbers alone, e.g. numpy.savez(..., logits=numpy.stack(logits))."
    if dtype.kind not in "biufU" or any(n < 0 for n in shape):
        raise input_error(argument, "an array of numbers", got, step)
    return shape, fortran, dtype
