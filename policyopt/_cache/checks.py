"""Checks of values: what a block may hold, logits or probabilities, and rows that stand in two splits.

What `from_arrays`, the writer, the importers and the reader share. Each check refuses by name and
tells the first place. Names and shapes are checked in `normalise`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._cache.data import (
    CONTEXT,
    COST_PREFIX,
    RESERVED,
    Block,
    ExitData,
    Rows,
    check_splits,
)
from policyopt._cache.normalise import Layout, is_features, orient, storage_type, to_block
from policyopt._costs import cumulative
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._typing import Array, Bools

#: Confidences may pass 0 or 1 by this much (rounding of a softmax); they are clipped.
UNIT_TOLERANCE = 1e-5
#: A row of probabilities sums to 1 within this: covers float16 and tables rounded to 4 digits.
SUM_TOLERANCE = 1e-2
#: Share of rows that must look like probabilities before they are taken for such.
_NEARLY_ALL = 0.99
#: What to do about a bad value, by array.
_REMEDY = {
    "outputs": "Look for overflow (float16?) where they were made, mend that row or leave it out.",
    "confidence": "Give shares (0.5, not 50), one for each exit: mend that row or leave it out.",
    "labels": "Number classes from 0 (-1 where unknown).",
    "prediction": "Number classes from 0 (-1 where there was no answer).",
}
_PIECE_BYTES = 16 << 20
#: Arrays that identify a row. Measured costs are left out: a second run measures others.
_TELLING = ("outputs", "prediction", "confidence", "top_prob", "entropy")
_PIECE_ROWS = 4096


def normalise(
    layout: Layout, arrays: Mapping[str, Any], axes: str, split: str, first_row: int = 0
) -> tuple[Layout, dict[str, Array]]:
    """Return layout and block of row arrays in any form; all that is wrong with them is refused."""
    layout, block = to_block(layout, orient(arrays, axes))
    check_block(layout, block, split, first_row)
    return layout, block


def check_block(layout: Layout, block: Block, split: str, first_row: int = 0) -> None:
    """Refuse a block whose values are not allowed; `first_row` is its first row's number."""
    where = f"split {split!r}"
    rows = len(next(iter(block.values())))
    row_bytes = max(1, sum(a.nbytes for a in block.values()) // rows)
    step = max(1, _PIECE_BYTES // row_bytes)
    if layout.kind == "logits" and detect_kind(block["outputs"]) == "probabilities":
        got = f"rows that are non-negative and sum to 1 ({where}): probabilities"
        advice = "Say kind='probabilities' (--kind probabilities)."
        raise input_error("outputs", "logits, as declared", got, advice)
    for low in range(0, rows, step):
        piece = {name: array[low : low + step] for name, array in block.items()}
        _Piece(layout, piece, where, first_row + low).check()


def to_data(
    layout: Layout,
    splits: Mapping[str, Rows],
    shares: Mapping[str, float],
    seed: int,
    metadata: Mapping[str, Any],
    fingerprint: str,
    disjoint: bool = True,
) -> ExitData:
    """Return the rows as data, their splits checked; `disjoint`: also for rows in two of them."""
    check_splits({name: len(rows) for name, rows in splits.items()}, dict(shares))
    if disjoint:
        refuse_overlap(splits)
    at = layout
    return ExitData(
        at.kind,
        at.exits,
        at.classes,
        splits,
        at.costs,
        shares,
        seed,
        metadata,
        fingerprint,
        at.contexts,
    )


class _Piece:
    """A few rows of a block under check; `first` is the number of the first one in its split."""

    def __init__(self, layout: Layout, block: Block, where: str, first: int) -> None:
        self.layout, self.block, self.where, self.first = layout, block, where, first

    def check(self) -> None:
        """Refuse the first bad value."""
        for name, array in self.block.items():
            if name == "outputs":
                self._outputs(array)
            elif name == CONTEXT:  # there is always one expert that gave the outputs
                names = self.layout.contexts
                allowed = f"whole numbers from 0 to {len(names) - 1} ({', '.join(names)})"
                step = "Number the contexts in the order of their names."
                self._refuse(name, ~np.isin(array, np.arange(len(names))), array, allowed, step)
            elif name in ("labels", "prediction"):
                self._classes(name, array)
            elif name == "correct":
                if array.dtype.kind != "b":
                    off = ~np.isin(array, (0, 1))
                    self._refuse(name, off, array, "true or false (1 or 0)")
            elif is_features(name):
                self._features(name.rpartition(":")[2], array)
            elif name.startswith(COST_PREFIX):
                shown = f"{name.removeprefix(COST_PREFIX)} ({self.where})"
                cumulative(array, "cumulative", shown, self.first)
            elif name == "entropy":
                classes = self.layout.classes
                most = np.log(classes) + 1e-3 if classes else np.inf
                self._range(name, array, most, "nats, at least 0 and at most log C")
            else:  # confidence, top_prob
                self._range(name, array, 1.0, "in [0, 1]")
        if "top_prob" in self.block:
            top = self.block["top_prob"]
            off = (np.diff(top, axis=2) > UNIT_TOLERANCE).any(axis=2)
            off |= top.sum(axis=2, dtype=np.float64) > 1 + SUM_TOLERANCE
            allowed = "largest first with a sum of at most 1"
            self._refuse("top_prob", off, top, allowed, "Sort them.")
        if "correct" in self.block and "prediction" in self.block:
            self._correct()

    def _outputs(self, outputs: Array) -> None:
        """Refuse NaN, +inf, rows without a finite logit, overflow, and rows that are no probabilities."""
        kind = self.layout.kind
        if outputs.dtype.kind == "b":
            step = f"Give the {kind} themselves."
            raise input_error("outputs", "numbers", f"dtype bool ({self.where})", step)
        if not _all_finite(outputs):
            top = outputs.max(axis=2)  # NaN and +inf reach the top, -inf only where all are
            self._refuse("outputs", np.isnan(top), ["NaN"], "free of NaN")
            self._refuse("outputs", top == np.inf, ["inf"], "below +inf")
            allowed = "finite for at least one class"
            self._refuse("outputs", top == -np.inf, ["only -inf"], allowed)
        dtype = storage_type("outputs", self.layout)
        if outputs.dtype != dtype:
            self._refuse_overflow(outputs, dtype)
        if kind == "probabilities":
            wide = outputs.astype(np.float32) if outputs.dtype == np.float16 else outputs
            off = ~sums_to_one(wide) | (wide.min(axis=2) < 0)
            step = "If these are logits, say kind='logits' (--kind logits)."
            allowed = "0 or more, with sum 1 (probabilities)"
            self._refuse("outputs", off, outputs, allowed, step)

    def _refuse_overflow(self, outputs: Array, dtype: np.dtype[Any]) -> None:
        limit = float(np.finfo(dtype).max)
        if max(float(outputs.max()), -float(outputs.min())) <= limit:
            return
        finite = outputs[np.isfinite(outputs)]  # -inf stays -inf in any type
        worst = float(finite[np.abs(finite).argmax()])
        if abs(worst) > limit:
            step = "Scale them, or mend that value."
            if dtype.name == "float16":
                step = "Keep them as float32: --dtype float32 (Python: dtype='float32')."
            allowed = f"within +-{limit:.6g} to be kept as {dtype.name}"
            raise input_error("outputs", allowed, f"{worst:g} ({self.where})", step)

    def _classes(self, name: str, array: Array) -> None:
        """Labels and predictions: whole numbers from -1 (unknown, unparsed) to C-1."""
        classes = self.layout.classes
        if array.dtype.kind == "f":
            off = ~(np.isfinite(array) & (array == np.floor(array)))
            self._refuse(name, off, array, "whole numbers")
        limit = classes or np.iinfo(np.int32).max
        span = f"classes 0 to {limit - 1}" if classes else "class numbers from 0"
        allowed = f"{span}, or -1 ({'unknown' if name == 'labels' else 'no answer'})"
        more = f" If there are more than {classes} classes, check --axes." if classes else ""
        self._refuse(name, (array < -1) | (array >= limit), array, allowed, _REMEDY[name] + more)

    def _features(self, k: str, array: Array) -> None:
        name = f"features of exit {k}"
        if array.dtype.kind not in "fiu":
            got = f"dtype {array.dtype} ({self.where})"
            raise input_error(name, "numbers", got, "Convert them to float.")
        with np.errstate(over="ignore"):
            fits = np.isfinite(array.astype(np.float32, copy=False))
        if not fits.all():
            row, column = np.argwhere(~fits)[0]
            got = [f"{array[row, column]} in column {column}"]
            off = ~fits.all(axis=1)
            self._refuse(name, off, got, "finite in float32", "Look for overflow.")

    def _range(self, name: str, array: Array, most: float, allowed: str) -> None:
        with np.errstate(invalid="ignore"):
            fits = (array >= -UNIT_TOLERANCE) & (array <= most + UNIT_TOLERANCE)
        self._refuse(name, ~(fits & np.isfinite(array)), array, allowed)

    def _correct(self) -> None:
        """`correct` must say what prediction and label say; an unparsed answer (-1) is always wrong."""
        prediction, correct = self.block["prediction"], self.block["correct"].astype(bool)
        labels = self.block.get("labels")
        clash = correct & (prediction < 0)
        if labels is not None:
            right = (prediction == labels[:, None]) & (prediction >= 0)
            clash |= (labels[:, None] >= 0) & (correct != right)
        if clash.any():
            row, k = np.argwhere(clash)[0]
            label = "none" if labels is None else labels[row]
            got = [f"{correct[row, k]} with prediction {prediction[row, k]} and label {label}"]
            step = "Mend the one that is off, or leave `correct` out."
            self._refuse("correct", clash, got, "prediction == label (-1 is wrong)", step)

    def _refuse(self, name: str, off: Any, got: Any, allowed: str, step: str = "") -> None:
        """Raise the error for the first place of `off` (row, exit, ...); `got`: values, or one text."""
        if not off.any():
            return
        at = tuple(np.argwhere(off)[0])
        shown = (
            got[0] if isinstance(got, list) else f"{got[at][..., :4] if got[at].ndim else got[at]}"
        )
        place = f"row {self.first + int(at[0])}" + (f", exit {int(at[1])}" if len(at) > 1 else "")
        step = step or _REMEDY.get(name, "Mend that row or leave it out.")
        raise input_error(name, allowed, f"{shown} at {place} of {self.where}", step)


def _all_finite(array: Array) -> bool:
    if array.dtype == np.float16:  # by its bits: numpy's own test of half floats is 20 times slower
        return bool((array.view(np.uint16) & np.uint16(0x7FFF)).max() < 0x7C00)
    return bool(np.isfinite(array).all())


# --- logits or probabilities -------------------------------------------------------------------


def detect_kind(outputs: Array | None) -> str:
    """Return the kind that the values show: ``record`` without outputs, else by their sums.

    >>> detect_kind(np.array([[[0.25, 0.75]]])), detect_kind(np.array([[[-1.0, 2.0]]]))
    ('probabilities', 'logits')
    """
    if outputs is None:
        return "record"
    with np.errstate(over="ignore"):  # a sum that is inf is not 1
        some = np.asarray(outputs[:: max(1, len(outputs) // 2048)], dtype=np.float32)
    share = ((some.min(axis=2) >= 0) & sums_to_one(some)).mean() if some.size else 0.0
    return "probabilities" if share > _NEARLY_ALL else "logits"


def sums_to_one(outputs: Array) -> Bools:
    """Say for each row and exit, (n, K), whether its values sum to 1."""
    wide = np.float64 if outputs.dtype == np.float64 else np.float32
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(outputs.sum(axis=2, dtype=wide) - 1) <= SUM_TOLERANCE


# --- rows in two splits ------------------------------------------------------------------------


def refuse_overlap(splits: Mapping[str, Rows]) -> None:
    """Refuse fit, calibrate and test splits that share rows: two at least, and 5 % of the smaller.

    Rows count as shared where their outputs (or records) are equal byte by byte. What is to be
    expected by chance, judged by equal rows *within* each split, is taken off: short records
    (two exits, confidences of two digits) coincide without being the same sample. Streams are not
    compared: they may well repeat test rows.
    """
    named = [name for name in RESERVED if name in splits]
    if len(named) < 2:
        return
    hashes = {name: _hashes(splits[name]) for name in named}
    for one, other in combinations(named, 2):
        small, large = sorted((one, other), key=lambda name: len(hashes[name]))
        count = shared_rows(hashes[small], hashes[large])
        if count >= max(2, 0.05 * len(hashes[small])):
            raise InputError(
                f"'splits' must be disjoint. Got {count} of the {len(hashes[small])} rows of "
                f"{small!r} standing also in {large!r}. Remove them from one, or give all rows "
                "as one pool to be divided (--split fit=0.5,test=0.5)."
            )


def shared_rows(small: npt.NDArray[np.uint64], large: npt.NDArray[np.uint64]) -> int:
    """Count rows of `small` that stand in `large`, by their hashes, beyond what chance explains.

    >>> shared_rows(np.arange(10, dtype=np.uint64), np.arange(5, 20, dtype=np.uint64))
    5
    """
    if len(small) == len(large) and np.array_equal(np.sort(small), np.sort(large)):
        return len(small) if len(np.unique(small)) > 1 else 0  # the same file twice
    found = int(np.isin(small, large).sum())
    # Of two independent draws, pairs coincide across the splits as often as within them.
    pairs, chances = 0.0, 0.0
    for hashes in (small, large):
        counts = np.unique(hashes, return_counts=True)[1].astype(np.float64)
        pairs += float((counts * (counts - 1.0) / 2).sum())
        chances += len(hashes) * (len(hashes) - 1.0) / 2
    expected = len(small) * len(large) * pairs / max(chances, 1.0)
    return max(0, found - int(np.ceil(2 * expected)))


def _hashes(rows: Rows) -> npt.NDArray[np.uint64]:
    names = [name for name in _TELLING if rows.has(name)]
    return np.concatenate([_hash_rows([block[n] for n in names]) for block in rows.blocks])


def _hash_rows(arrays: list[Array]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash per row over the bytes of aligned arrays, read in this order.

    Multilinear: 32-bit words times random odd 64-bit weights, summed with wrap-around.
    """
    total = np.zeros(len(arrays[0]), np.uint64)
    rng = np.random.default_rng(0x9E3779B9)
    for array in arrays:
        flat = array.reshape(len(array), -1)
        width = flat.shape[1] * flat.itemsize
        words = -(-width // 4)
        weights = rng.integers(0, 1 << 64, words, dtype=np.uint64, endpoint=False) | np.uint64(1)
        for low in range(0, len(flat), _PIECE_ROWS):
            piece = np.ascontiguousarray(flat[low : low + _PIECE_ROWS])
            padded = np.zeros((len(piece), words * 4), np.uint8)
            padded[:, :width] = piece.view(np.uint8).reshape(len(piece), width)
            total[low : low + _PIECE_ROWS] += padded.view(np.uint32).astype(np.uint64) @ weights
    return total
