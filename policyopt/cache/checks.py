"""Checks of values: pure functions that the writer, the importers and `from_arrays` share.

Each refuses by name and tells the first place. Shapes are checked in `layout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policyopt.cache.data import CONTEXT
from policyopt.cache.detect import SUM_TOLERANCE, detect_kind, sums_to_one
from policyopt.cache.features import bad_value, is_features
from policyopt.cache.layout import COST_PREFIX, Layout, storage_type
from policyopt.costs import cumulative
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.typing import Array

#: Confidences may pass 0 or 1 by this much (rounding of a softmax); they are clipped.
UNIT_TOLERANCE = 1e-5
#: What to do about a bad value, by array.
_REMEDY = {
    "outputs": "Look for overflow (float16?) where they were made, mend that row or leave it out.",
    "confidence": "Give shares (0.5, not 50), one for each exit: mend that row or leave it out.",
    "labels": "Number classes from 0 (-1 where unknown).",
    "prediction": "Number classes from 0 (-1 where there was no answer).",
}
_PIECE_BYTES = 16 << 20


def check_block(layout: Layout, block: Mapping[str, Array], where: str, first_row: int = 0) -> None:
    """Refuse a block whose values are not allowed.

    Parameters
    ----------
    layout : Layout
        Kind, K, C and storage type.
    block : mapping of str to ndarray
        Arrays as `to_block` returns them.
    where : str
        What to call the rows in errors, e.g. ``"split 'fit'"``.
    first_row : int, default 0
        Number of the block's first row in that split.

    Raises
    ------
    InputError
        NaN, +inf, labels out of range, probabilities declared as logits, ...

    Examples
    --------
    >>> from policyopt.costs import Cost
    >>> at = Layout("logits", 2, 3, "float32", (Cost("c", "ms", (1, 2)),))
    >>> check_block(at, {"outputs": np.full((4, 2, 3), np.nan)}, "split 'fit'")
    Traceback (most recent call last):
        ...
    policyopt.runtime.errors.InputError: 'outputs' must be free of NaN. Got NaN at row 0, exit 0...
    """
    rows = len(next(iter(block.values())))
    row_bytes = max(1, sum(a.nbytes for a in block.values()) // rows)
    step = max(1, _PIECE_BYTES // row_bytes)
    if "outputs" in block and layout.kind == "logits":
        _refuse_probabilities(block["outputs"], where)
    for low in range(0, rows, step):
        piece = {name: array[low : low + step] for name, array in block.items()}
        _check_piece(layout, piece, where, first_row + low)


def _check_piece(layout: Layout, piece: Mapping[str, Array], where: str, first: int) -> None:
    for name, array in piece.items():
        if name == "outputs":
            check_outputs(array, layout.kind, storage_type(name, layout), where, first)
        elif name == CONTEXT:
            _check_context(array, layout.contexts, where, first)
        elif name in ("labels", "prediction"):
            _check_whole(name, array, layout.classes, where, first)
        elif name == "correct":
            if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
                at = np.argwhere(~np.isin(array, (0, 1)))[0]
                raise _at(name, "true or false (1 or 0)", array[tuple(at)], at, where, first)
        elif is_features(name):
            _check_features(name, array, where, first)
        elif name.startswith(COST_PREFIX):
            cumulative(array, "cumulative", f"{name.removeprefix(COST_PREFIX)} ({where})", first)
        elif name == "entropy":
            top = np.log(layout.classes) + 1e-3 if layout.classes else np.inf
            _check_range(name, array, 0.0, top, "nats, at least 0 and at most log C", where, first)
        else:  # confidence, top_prob
            _check_range(name, array, 0.0, 1.0, "in [0, 1]", where, first)
    if "top_prob" in piece:
        _check_top(piece["top_prob"], piece["confidence"], where, first)
    if "correct" in piece and "prediction" in piece:
        _check_correct(piece, where, first)


def check_outputs(
    outputs: Array, kind: str, dtype: np.dtype[Any], where: str, first_row: int = 0
) -> None:
    """Refuse NaN, +inf, rows without a finite logit, overflow, and rows that are no probabilities.

    Parameters
    ----------
    outputs : ndarray of shape (n, K, C)
        Logits or probabilities; ``-inf`` is allowed for masked classes.
    kind : {"logits", "probabilities"}
        What they are declared to be.
    dtype : dtype
        Float type in which they will be kept.
    where, first_row
        See `check_block`.

    Raises
    ------
    InputError
        A value is not allowed.

    Examples
    --------
    >>> check_outputs(np.zeros((1, 2, 3)), "logits", np.dtype("f4"), "split 'fit'")
    """
    if outputs.dtype.kind == "b":
        raise input_error(
            "outputs", "numbers", f"dtype bool ({where})", f"Give the {kind} themselves."
        )
    if not _all_finite(outputs):
        top = outputs.max(axis=2)  # NaN and +inf reach the top, -inf only where all are
        if not np.isfinite(top).all():
            at = np.argwhere(~np.isfinite(top))[0]
            value = top[tuple(at)]
            if np.isnan(value):
                raise _at("outputs", "free of NaN", "NaN", at, where, first_row)
            if value > 0:
                raise _at("outputs", "below +inf", "inf", at, where, first_row)
            allowed = "finite for at least one class"
            raise _at("outputs", allowed, "only -inf", at, where, first_row)
    if outputs.dtype != dtype:
        _refuse_overflow(outputs, dtype, where)
    if kind == "probabilities":
        wide = outputs.astype(np.float32) if outputs.dtype == np.float16 else outputs
        off = ~sums_to_one(wide) | (wide.min(axis=2) < 0)
        if off.any():
            at = np.argwhere(off)[0]
            row = np.array2string(outputs[tuple(at)][:4], precision=3)
            raise _at(
                "outputs",
                "0 or more, with sum 1 (probabilities)",
                row,
                at,
                where,
                first_row,
                "If these are logits, say kind='logits' (--kind logits).",
            )


def _all_finite(array: Array) -> bool:
    if array.dtype == np.float16:  # by its bits: numpy's own test of half floats is 20 times slower
        return bool((array.view(np.uint16) & np.uint16(0x7FFF)).max() < 0x7C00)
    return bool(np.isfinite(array).all())


def _refuse_overflow(outputs: Array, dtype: np.dtype[Any], where: str) -> None:
    limit = float(np.finfo(dtype).max)
    if max(float(outputs.max()), -float(outputs.min())) <= limit:
        return
    finite = outputs[np.isfinite(outputs)]  # -inf stays -inf in any type
    worst = float(finite[np.abs(finite).argmax()])
    if abs(worst) > limit:
        allowed = f"within +-{limit:.6g} to be kept as {dtype.name}"
        step = "Scale them, or mend that value."
        if dtype.name == "float16":
            step = "Keep them as float32: --dtype float32 (Python: dtype='float32')."
        raise input_error("outputs", allowed, f"{worst:g} ({where})", step)


def _refuse_probabilities(outputs: Array, where: str) -> None:
    if detect_kind(outputs) == "probabilities":
        raise input_error(
            "outputs",
            "logits, as declared",
            f"rows that are non-negative and sum to 1 ({where}): probabilities",
            "Say kind='probabilities' (--kind probabilities).",
        )


def _check_whole(name: str, array: Array, classes: int, where: str, first: int) -> None:
    """Labels and predictions: whole numbers from -1 (unknown, unparsed) to C-1."""
    if array.dtype.kind == "f":
        odd = ~np.isfinite(array) | (array != np.floor(array))
        if odd.any():
            at = np.argwhere(odd)[0]
            raise _at(name, "whole numbers", array[tuple(at)], at, where, first)
    limit = classes or np.iinfo(np.int32).max
    off = (array < -1) | (array >= limit)
    if off.any():
        at = np.argwhere(off)[0]
        step = f"{_REMEDY[name]} If there are more than {classes} classes, check --axes."
        span = f"classes 0 to {limit - 1}" if classes else "class numbers from 0"
        none = "unknown" if name == "labels" else "no answer"
        allowed = f"{span}, or -1 ({none})"
        raise _at(name, allowed, array[tuple(at)], at, where, first, step if classes else "")


def _check_context(array: Array, names: tuple[str, ...], where: str, first: int) -> None:
    """Every row has a context: there is always one expert that gave its outputs."""
    off = ~np.isin(array, np.arange(len(names)))
    if off.any():
        at = np.argwhere(off)[0]
        allowed = f"whole numbers from 0 to {len(names) - 1} ({', '.join(names)})"
        step = "Number the contexts in the order of their names."
        raise _at(CONTEXT, allowed, array[tuple(at)], at, where, first, step)


def _check_features(name: str, array: Array, where: str, first: int) -> None:
    shown = f"features of exit {name.rpartition(':')[2]}"
    if array.dtype.kind not in "fiu":
        raise input_error(
            shown, "numbers", f"dtype {array.dtype} ({where})", "Convert them to float."
        )
    at = bad_value(array)
    if at is not None:
        got = f"{array[at]} in column {at[1]}"
        raise _at(shown, "finite in float32", got, at[:1], where, first, "Look for overflow.")


def _check_range(
    name: str, array: Array, low: float, high: float, allowed: str, where: str, first: int
) -> None:
    with np.errstate(invalid="ignore"):
        fits = (array >= low - UNIT_TOLERANCE) & (array <= high + UNIT_TOLERANCE)
    fits &= np.isfinite(array)
    if not fits.all():
        at = np.argwhere(~fits)[0]
        raise _at(name, allowed, array[tuple(at)], at, where, first)


def _check_top(top: Array, confidence: Array, where: str, first: int) -> None:
    falls = (np.diff(top, axis=2) > UNIT_TOLERANCE).any(axis=2)
    falls |= top.sum(axis=2, dtype=np.float64) > 1 + SUM_TOLERANCE
    if falls.any():
        at = np.argwhere(falls)[0]
        allowed = "largest first with a sum of at most 1"
        raise _at("top_prob", allowed, str(top[tuple(at)]), at, where, first, "Sort them.")


def _check_correct(piece: Mapping[str, Array], where: str, first: int) -> None:
    """`correct` must say what prediction and label say; an unparsed answer (-1) is always wrong."""
    prediction, correct = piece["prediction"], piece["correct"].astype(bool)
    clash = correct & (prediction < 0)
    if "labels" in piece:
        labels = piece["labels"][:, None]
        clash |= (labels >= 0) & (correct != ((prediction == labels) & (prediction >= 0)))
    if clash.any():
        at = np.argwhere(clash)[0]
        label = piece["labels"][at[0]] if "labels" in piece else "none"
        got = f"{correct[tuple(at)]} with prediction {prediction[tuple(at)]} and label {label}"
        raise _at(
            "correct",
            "prediction == label (-1 is wrong)",
            got,
            at,
            where,
            first,
            "Mend the one that is off, or leave `correct` out.",
        )


def _at(
    name: str, allowed: str, got: object, at: Any, where: str, first: int, next_step: str = ""
) -> InputError:
    """Return the error for the first bad place `at` = (row, exit, ...)."""
    place = f"row {first + int(at[0])}" + (f", exit {int(at[1])}" if len(at) > 1 else "")
    shown = got if isinstance(got, str) else f"{got}"
    next_step = next_step or _REMEDY.get(name, "Mend that row or leave it out.")
    return input_error(name, allowed, f"{shown} at {place} of {where}", next_step)
