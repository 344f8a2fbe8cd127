"""Utility: what an answer is worth by the label that it was to find; coarser labels of early exits.

A utility is ``U[label, prediction]``, one matrix for all exits or one for each. Weights per class say what finding
that class is worth, a map of labels says what an answer is worth that is right among super-classes only. Whatever is
stated comes to [0, 1], the worth that is called quality everywhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.runtime._checks import check_one_of, check_share
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._strict_json import parse, read_plain
from policyopt.runtime._typing import Array, Floats, Ints

#: Numbers of all exits' matrices: 8000 classes at one exit.
_MOST = 1 << 26
_MOST_BYTES = 64 << 20  # of a text
#: Numbers up to which a policy's provenance holds the utility itself, and not only its checksum.
_KEPT = 20_000
_FORMS = (
    "weights per class such as 1,1,5, or a file (.npy, .csv, .json) with weights (C,), a matrix (C, C) of label and "
    "prediction, matrices (K, C, C), or label maps"
)
_STEP = 'E.g. --utility 1,1,5, or --utility maps.json with {"exits": {"0": {"map": [0, 0, 1], "worth": 0.6}}}.'
_FIELDS = ("map", "worth", "answers")
ANSWERS = ("classes", "super-classes")

Given = Any  # of a caller: text, path, array, mapping


@dataclass(frozen=True, eq=False)
class Utility:
    """Worth in [0, 1] of every answer to every label, ``matrix[k or 0, label, prediction]``."""

    matrix: Floats  # (1 or K, C, C), or weights (C,): worth of the right answer, by label
    stated: Any  # as JSON can hold it; None where it is too long
    note: str = ""  # how what was stated became [0, 1]
    #: By exit whose own outputs are super-classes: that of each class, (C,).
    coarse: Mapping[int, Ints] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """C."""
        return self.matrix.shape[-1]

    @property
    def mixed(self) -> bool:
        """Whether exits number different things."""
        return bool(self.coarse)

    @property
    def digest(self) -> str:
        """Checksum: of what is the same in effect, the same."""
        content = np.ascontiguousarray(self.matrix, dtype="<f8")
        return hashlib.sha256(f"{content.shape}".encode() + content.tobytes()).hexdigest()

    @property
    def provenance(self) -> dict[str, Any]:
        """What a policy says of the utility that it was fitted with."""
        told = {"stated": self.stated, "sha256": self.digest}
        return {**told, **({"coarse": sorted(self.coarse)} if self.coarse else {})}

    def worth(self, labels: Array, prediction: Array) -> Floats:
        """Return U[label, prediction], (N, K); 0 where label or answer is -1."""
        known = (labels >= 0)[:, None] & (prediction >= 0)
        label, answer = np.maximum(labels, 0)[:, None], np.maximum(prediction, 0)
        if self.matrix.ndim == 1:
            found = np.where(label == answer, self.matrix[label], 0.0)
        else:
            found = self.matrix[self._exits(prediction.shape[1]), label, answer]
        return np.where(known, found, 0.0)

    def in_classes(self, labels: Array, prediction: Array, exits: Array) -> Array:
        """Return answers, given at `exits`, as classes: of a super-class the label where it is in it, else -1."""
        # All have one shape, or such as broadcast.
        for k, parents in self.coarse.items():
            right = (labels >= 0) & (parents[np.maximum(labels, 0)] == prediction)
            prediction = np.where(exits == k, np.where(right, labels, -1), prediction)
        return prediction

    def expected(self, probability: Floats, prediction: Array) -> Floats:
        """Return the expected worth of answers, sum_y P(y) U[y, prediction]: (n, C) and (n, K) to (n, K)."""
        rows = np.arange(len(probability))[:, None]
        if self.matrix.ndim == 1:
            return (probability * self.matrix)[rows, prediction]
        if len(self.matrix) == 1:
            return (probability @ self.matrix[0])[rows, prediction]
        each = zip(self.matrix, prediction.T, strict=True)
        return np.stack([(probability @ m)[rows[:, 0], p] for m, p in each], axis=1)

    def keep_exits(self, places: Sequence[int]) -> Utility:
        """Return the utility of some exits, by their places."""
        if self.matrix.ndim == 1 or len(self.matrix) == 1:
            return self
        coarse = {at: self.coarse[k] for at, k in enumerate(places) if k in self.coarse}
        return replace(self, matrix=self.matrix[list(places)], coarse=coarse)

    def check(self, labels: Array | None, prediction: Array, split: str) -> None:
        """Refuse rows without labels, or of other classes."""
        if labels is None:
            raise InputError(
                f"Split '{split}' must have labels, which a utility weighs answers by. Got none. "
                "Import with --labels FILE or a key 'labels' (Python: labels=)."
            )
        top = max(int(labels.max(initial=-1)), int(prediction.max(initial=-1)))
        if top >= self.classes:
            allowed = f"of every class, 0 to {top} at least"
            raise input_error("utility", allowed, f"of {self.classes} classes", "Add the others.")

    def _exits(self, exits: int) -> Ints:
        return np.arange(exits) if len(self.matrix) > 1 else np.zeros(exits, dtype=np.int64)


def utility_of(given: Given, exits: int, classes: int) -> Utility:
    """Return a utility stated in any way, for a model of K exits and C classes (0: not known).

    A text is weights, or the path of a file; an array has shape (C,), (C, C) or (K, C, C), by label and then
    prediction; a mapping has ``weights``, ``matrix``, or ``exits`` with label maps.
    """
    if isinstance(given, Utility):
        return given
    if isinstance(given, (str, os.PathLike)):
        given = _read(given)
    if isinstance(given, Mapping):
        return _of_mapping(given, exits, classes)
    return _of_array(_numbers("utility", given), exits, classes)


def _read(given: str | os.PathLike[str]) -> Any:
    """Read weights as text, or the file that a text names."""
    text = os.fspath(given)
    path = Path(text)
    if path.suffix not in (".npy", ".csv", ".json"):
        try:
            return [float(part) for part in text.split(",")]
        except ValueError as error:
            raise input_error("utility", _FORMS, text, _STEP) from error
    if not path.is_file():
        raise input_error("utility", "a file that is there", text, "Check the path.")
    if path.suffix == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            got, step = f"{text} ({error})", "Save numbers with numpy.save."
            raise input_error("utility", "a .npy file of numbers", got, step) from error
    data = read_plain(path, "utility", _MOST_BYTES, "Save it as .npy.")
    if path.suffix == ".json":
        return parse(data, "utility", 16 * _MOST_BYTES, "Mend the file.")
    lines = data.decode("utf-8", "replace").splitlines()
    rows = [line.split(",") for line in lines if line.strip()]
    if len({len(row) for row in rows}) > 1:
        raise input_error("utility", "a table of numbers without a header", text, "Mend the rows.")
    try:
        table = np.array([[float(cell) for cell in row] for row in rows])
    except ValueError as error:
        step = "One row per label, one column per prediction, no header."
        raise input_error("utility", "a table of numbers", f"{text} ({error})", step) from error
    return table[:, 0] if table.ndim == 2 and 1 in table.shape and table.shape[0] > 1 else table


def _numbers(argument: str, given: Any) -> Floats:
    """Return numbers of a list or an array as float64, refused before they are copied where they are many."""
    array = given if isinstance(given, np.ndarray) else None
    if array is None:
        try:
            array = np.asarray(given)
        except ValueError as error:
            raise input_error(argument, "lists of one length", f"{error}", _STEP) from error
    if array.dtype.kind not in "biuf":
        raise input_error(argument, _FORMS, f"dtype {array.dtype}", _STEP)
    if array.size > _MOST or not array.size:
        allowed = f"of 1 to {_MOST:,} numbers"
        raise input_error(argument, allowed, f"{array.size:,}", "Group classes.")
    found = np.asarray(array, dtype=np.float64)
    if not np.isfinite(found).all():
        place = tuple(np.argwhere(~np.isfinite(found))[0].tolist())
        raise input_error(argument, "finite", f"{found[place]} at {place}", "Mend it.")
    return found


def _of_array(found: Floats, exits: int, classes: int) -> Utility:
    """Return the utility of weights (C,) or matrices (C, C), (K, C, C), brought to [0, 1]."""
    count = classes or found.shape[-1]
    shapes = {1: (count,), 2: (count, count), 3: (exits, count, count)}
    if found.shape != shapes.get(found.ndim):
        allowed = " or ".join(str(shape) for shape in shapes.values())
        step = "By class; by label and prediction; or so for each exit."
        raise input_error("utility", f"of shape {allowed}", f"shape {found.shape}", step)
    stated = found.tolist() if found.size <= _KEPT else None
    if found.ndim == 1:
        top = float(found.max())
        if found.min() < 0 or top <= 0:
            step = "0: finding that class is worth nothing. Costs of errors are a matrix (C, C)."
            raise input_error("utility", "weights of 0 or more, one above 0", stated, step)
        note = "" if top == 1.0 else f"a right answer is worth the weight of its class / {top:g}"
        return Utility(found / top, stated, note)
    low, high = float(found.min()), float(found.max())
    if low == high:
        raise input_error("utility", "of numbers that differ", f"{low:g} everywhere", _STEP)
    matrix = found.reshape(-1, count, count)
    right, wrong = np.eye(count, dtype=bool), ~np.eye(count, dtype=bool)
    if count > 1 and all(one[right].max() < one[wrong].min() for one in matrix):
        step = "What an answer is worth is larger where it is better: give -costs."
        got = "every right answer below every wrong one: costs"
        raise input_error("utility", "worth of answers", got, step)
    if low >= 0.0 and high <= 1.0:
        return Utility(matrix, stated)
    note = f"the utility goes from {low:g} to {high:g}: quality = (utility - ({low:g})) / {high - low:g}"
    return Utility((matrix - low) / (high - low), stated, note)


def _of_mapping(given: Mapping[str, Any], exits: int, classes: int) -> Utility:
    """Return the utility of a mapping with one key: weights, matrix, or exits."""
    if not isinstance(given, Mapping) or set(given) not in ({"weights"}, {"matrix"}, {"exits"}):
        raise input_error("utility", "with one key: weights, matrix or exits", list(given), _STEP)
    name, value = next(iter(given.items()))
    if name == "exits":
        return _of_maps(value, exits, classes)
    found = _numbers(f"utility {name}", value)
    if (found.ndim == 1) != (name == "weights"):
        got = f"{name} of shape {found.shape}"
        raise input_error("utility", "weights (C,), or a matrix (C, C) or (K, C, C)", got, _STEP)
    return _of_array(found, exits, classes)


def _of_maps(given: Any, exits: int, classes: int) -> Utility:
    """Return the utility of label maps, by exit; exits that are not named answer classes."""
    if not isinstance(given, Mapping) or not given:
        raise input_error("utility exits", "label maps by exit", given, _STEP)
    maps: dict[int, tuple[Ints, float, bool]] = {}
    for key, one in given.items():
        where = f"utility exit {key}"
        number = int(key) if str(key).isascii() and str(key).isdecimal() else -1
        if not 0 <= number < exits:
            step = "Exits are numbered from 0."
            raise input_error("utility exits", f"numbers 0 to {exits - 1}", key, step)
        if not isinstance(one, Mapping) or not {"map", "worth"} <= set(one) <= set(_FIELDS):
            got = sorted(map(str, one)) if isinstance(one, Mapping) else type(one).__name__
            step = 'E.g. {"map": [0, 0, 1], "worth": 0.6}: classes 0 and 1 are one super-class.'
            raise input_error(where, f"with {', '.join(_FIELDS)} (the last may lack)", got, step)
        answers = one.get("answers", "classes")
        step = "super-classes: the exit's own outputs are the super-classes, numbered as in map."
        check_one_of(f"{where} answers", answers, ANSWERS, step)
        parents = _numbers(f"{where} map", one["map"])
        whole = parents.ndim == 1 and (parents == np.floor(parents)).all() and parents.min() >= 0
        if not whole or (classes and len(parents) != classes) or parents.max() > _MOST:
            allowed = f"a super-class from 0 for each of the {classes or 'C'} classes"
            got = f"shape {parents.shape}, {parents.min():g} to {parents.max():g}"
            raise input_error(f"{where} map", allowed, got, "One whole number per class.")
        worth = float(check_share(f"{where} worth", one["worth"]))
        maps[number] = parents.astype(np.int64), worth, answers == "super-classes"
    counts = {len(parents) for parents, _, _ in maps.values()}
    count = counts.pop()
    if counts or exits * count**2 > _MOST:
        allowed = f"of one length, C, with K C C up to {_MOST:,}"
        raise input_error("utility maps", allowed, f"{sorted(counts | {count})}", "Mend them.")
    matrix = np.tile(np.eye(count), (exits, 1, 1))
    for k, (parents, worth, own) in maps.items():
        if own:
            matrix[k] = worth * (parents[:, None] == np.arange(count))
        else:
            same = parents[:, None] == parents
            matrix[k] = np.where(np.eye(count, dtype=bool), 1.0, worth * same)
    stated: Any = {"exits": {str(k): dict(one) for k, one in given.items()}}
    size = sum(len(parents) for parents, _, _ in maps.values())
    coarse = {k: parents for k, (parents, _, own) in maps.items() if own}
    return Utility(matrix, _plain(stated) if size <= _KEPT else None, coarse=coarse)


def _plain(value: Any) -> Any:
    """Return nested mappings and arrays as JSON holds them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def told_utility(provenance: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the utility that a policy says it was fitted with (None: none, or not held), and its checksum or ""."""
    told = provenance.get("utility")
    if not isinstance(told, Mapping):
        return None, ""
    digest = told.get("sha256")
    return told.get("stated"), digest if isinstance(digest, str) else "?"


def coarse_exits(provenance: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the exits whose answers are super-classes, as a policy says, whose provenance may hold anything."""
    told = provenance.get("utility")
    found = told.get("coarse") if isinstance(told, Mapping) else None
    return tuple(k for k in found if isinstance(k, int)) if isinstance(found, (list, tuple)) else ()


def coarse_note(provenance: Mapping[str, Any]) -> str:
    """Return what is said of predictions that are no classes, or nothing."""
    found = coarse_exits(provenance)
    at = f"exit{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"
    return (
        f"predictions of {at} are super-classes, as the utility's map numbers them" if found else ""
    )
