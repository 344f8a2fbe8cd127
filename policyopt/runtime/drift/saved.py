"""A watch as plain JSON, and back; what is read is checked, for files come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import check_whole
from ..errors import input_error
from ..parameters import numbers
from .bets import BETS, GROUPS, WINDOWS
from .detector import start_sums
from .reference import Reference
from .watch import DriftWatch

_FORMAT = "policyopt.drift/1"
_LARGEST = 2**53
_NEXT = "Restore what `state` returned."
_FLOATS = {"sums": (BETS,), "histograms": (len(WINDOWS), GROUPS), "run": (), "moments": (2,)}


def to_dict(watch: DriftWatch) -> dict[str, Any]:
    """Return all of a watch in lists, numbers and strings."""
    r, s = watch.reference, watch.sums
    return {
        "format": _FORMAT,
        "path": list(r.path),
        "classes": r.classes,
        "steered": r.steered,
        "run_length": watch.run_length,
        "seed": watch.seed,
        "requests": watch.requests,
        "learning": watch.learning,
        "alarm_at": watch.alarm_at,
        "edges": [e.tolist() for e in r.edges],
        "usual": r.moments.tolist(),
        "reference": _ragged(r.pool, r.widths),
        "pool": _ragged(s.pool[0], r.widths),
        "recent": _ragged(s.recent[0], r.widths),
        "start": s.start[0].tolist(),
        **{name: getattr(s, name)[0].tolist() for name in _FLOATS},
    }


def from_dict(state: Any) -> DriftWatch:
    """Return the watch that `to_dict` described; raise `InputError` for anything else."""
    if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
        got = state.get("format") if isinstance(state, Mapping) else type(state).__name__
        raise input_error("state", f"of format {_FORMAT}", got, _NEXT)
    reference = _reference(state)
    watch = DriftWatch(reference, _whole(state, "run_length", 1), _whole(state, "seed"))
    watch.requests = _whole(state, "requests", most=_LARGEST // len(reference.columns) - 1)
    watch.learning = _whole(state, "learning")
    if state.get("alarm_at") is not None:
        watch.alarm_at = _whole(state, "alarm_at", most=watch.requests)
    count, widths = len(reference.columns), reference.widths
    sums = start_sums(_padded(state, "pool", widths))
    sums.recent[0] = _padded(state, "recent", widths)
    start = numbers("start", state.get("start"), 1)
    _require("start", start, (count,), 0, watch.requests, integers=True)
    sums.start[0] = start.astype(np.int64)
    for name, shape in _FLOATS.items():
        array = numbers(name, state.get(name), 1 + len(shape))
        _require(name, array, (count, *shape), None if name == "moments" else 0)
        getattr(sums, name)[0] = array
    if (sums.moments[0, :, 1] < 0).any():
        raise input_error("moments", "sums of squares, 0 or more", float(sums.moments.min()), _NEXT)
    watch.sums = sums
    return watch


def _reference(state: Mapping[str, Any]) -> Reference:
    path = numbers("path", state.get("path"), 1)
    if not len(path):
        raise input_error("path", "of one exit or more", "none", _NEXT)
    _require("path", path, path.shape, 0, _LARGEST, integers=True)
    if not (np.diff(path) > 0).all():
        raise input_error("path", "ascending", path.tolist(), _NEXT)
    steered = state.get("steered")
    if not isinstance(steered, bool):
        raise input_error("steered", "true or false", steered, _NEXT)
    raw = state.get("edges")
    scored = 1 if steered else len(path)
    if not isinstance(raw, list) or len(raw) != scored:
        raise input_error("edges", f"{scored} lists, one per score", type(raw).__name__, _NEXT)
    edges = tuple(numbers("edges", e, 1) for e in raw)
    if any((np.diff(e) <= 0).any() for e in edges):
        raise input_error("edges", "ascending", "others", _NEXT)
    classes = _whole(state, "classes", most=1 << 20)
    count = 2 if steered else len(path) + 2
    usual = numbers("usual", state.get("usual"), 2)
    _require("usual", usual, (count, 2))
    if (usual[:, 1] < 0).any():
        raise input_error(
            "usual", "means and spreads, spreads 0 or more", float(usual[:, 1].min()), _NEXT
        )
    exits = tuple(int(k) for k in path)
    blank = Reference(exits, classes, steered, edges, np.zeros((0, 0), np.int64), usual)
    blank.check_size(_NEXT)
    pool = _padded(state, "reference", blank.widths)
    return Reference(exits, classes, steered, edges, pool, usual)


def _ragged(counts: npt.NDArray[np.int64], widths: tuple[int, ...]) -> list[list[int]]:
    return [row[:width].tolist() for row, width in zip(counts, widths, strict=True)]


def _padded(
    state: Mapping[str, Any], name: str, widths: tuple[int, ...]
) -> npt.NDArray[np.int64]:  # fmt: skip
    raw = state.get(name)
    if not isinstance(raw, list) or len(raw) != len(widths):
        raise input_error(
            name, f"{len(widths)} lists, one per statistic", type(raw).__name__, _NEXT
        )
    out = np.zeros((len(widths), max(widths)), dtype=np.int64)
    for row, given, width in zip(out, raw, widths, strict=True):
        array = numbers(name, given, 1)
        # A sum over all cells must not leave what an integer and a float hold alike.
        _require(name, array, (width,), 0, _LARGEST // max(widths), integers=True)
        row[:width] = array.astype(np.int64)
    return out


def _whole(state: Mapping[str, Any], name: str, least: int = 0, most: int = _LARGEST) -> int:
    return check_whole(name, state.get(name), least, most, _NEXT)


def _require(
    name: str,
    array: npt.NDArray[np.float64],
    shape: tuple[int, ...],
    least: float | None = None,
    most: float = np.inf,
    integers: bool = False,
) -> None:
    """Refuse another shape, or numbers out of range."""
    if array.shape != shape:
        raise input_error(name, f"of shape {shape}", array.shape, _NEXT)
    low = -np.inf if least is None else least
    wrong = (array < low) | (array > most)
    if integers:
        wrong |= array != np.floor(array)
    if wrong.any():
        kind = "whole numbers" if integers else "numbers"
        raise input_error(name, f"{kind} from {low:g} to {most:g}", float(array[wrong][0]), _NEXT)
