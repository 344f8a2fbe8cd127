"""What an importer hands on: named arrays as they stand in the file, and what the file declares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policyopt.runtime.errors import input_error
from policyopt.runtime.typing import Array

#: Names a file may use, and the name each has in `Rows` (or its role).
SYNONYMS = {
    "logits": "logits",
    "probs": "probabilities",
    "probabilities": "probabilities",
    "outputs": "outputs",
    "labels": "labels",
    "label": "labels",
    "targets": "labels",
    "target": "labels",
    "conf": "confidence",
    "confidence": "confidence",
    "conf_logprob": "conf_logprob",
    "pred": "prediction",
    "prediction": "prediction",
    "correct": "correct",
    "entropy": "entropy",
    "top_prob": "top_prob",
    "features": "features",
    "context": "context",
    "costs": "costs",
    "cost": "costs",
}
#: Texts a file may hold about itself.
OPTIONS = ("axes", "kind", "unit", "cost_kind")
_KEY = re.compile(
    r"(?:(?P<prefix>[A-Za-z0-9_.-]+?)_)??"
    rf"(?P<base>mean_\w+|names|contexts|{'|'.join(sorted(SYNONYMS, key=len, reverse=True))}"
    r"|features_\d{1,4}|cost_\w+|latency_\w+)"
)
_ALIASES = {
    "fit": ("fit", "val", "valid", "validation", "dev"),
    "calibrate": ("calibrate", "calibration", "calib", "cal"),
    "test": ("test",),
}


@dataclass
class Raw:
    """One file, read but not yet understood.

    Parameters
    ----------
    name : str
        The file's name, for notes and errors.
    arrays : dict of str to ndarray
        By the file's own keys.
    axes : str, optional
        Axis order where the format fixes it (tables have rows first).
    split : ndarray of str, optional
        Split of each row, where a table says so.
    options : dict of str to str
        What the file declares, see `OPTIONS`.
    metadata : dict
        JSON-able rest.
    notes : list of str
        What the reader decided.
    """

    name: str
    arrays: dict[str, Array] = field(default_factory=dict)
    axes: str | None = None
    split: Array | None = None
    options: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def parse_key(key: str) -> tuple[str | None, str, str] | None:
    """Divide a key into prefix, role and base; None where it is not known.

    Parameters
    ----------
    key : str
        E.g. ``"val_logits"``, ``"cost_usd"``, ``"features_0"``.

    Returns
    -------
    (str or None, str, str) or None
        The role is a value of `SYNONYMS`, ``"features_0"`` and so on, ``"cost"`` (a named cost) or
        ``"metadata"``.

    Examples
    --------
    >>> parse_key("val_logits"), parse_key("cost_usd"), parse_key("weights")
    (('val', 'logits', 'logits'), (None, 'cost', 'cost_usd'), None)
    """
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    base = match["base"]
    if base in ("names", "contexts") or base.startswith("mean_"):
        return match["prefix"], "metadata", base
    role = base if base.startswith("features_") else SYNONYMS.get(base, "cost")
    return match["prefix"], role, base


def split_name(name: str) -> str:
    """Return the split that a name means: ``val`` is ``fit``, ``cal`` is ``calibrate``.

    Examples
    --------
    >>> split_name("val"), split_name("noisy")
    ('fit', 'noisy')
    """
    for split, names in _ALIASES.items():
        if name.lower() in names:
            return split
    return name


def declared(name: str, found: Mapping[str, Any]) -> Raw:
    """Divide named values into arrays, options and metadata.

    Parameters
    ----------
    name : str
        The file, for notes and errors.
    found : mapping of str to array, list, text or number
        What the file holds.

    Returns
    -------
    Raw

    Raises
    ------
    InputError
        An option that is no text, or a ragged list where an array belongs.

    Examples
    --------
    >>> raw = declared("x.json", {"unit": "ms", "costs": [1, 2], "author": "me"})
    >>> raw.arrays, raw.options, raw.metadata
    ({'costs': array([1, 2])}, {'unit': 'ms'}, {'author': 'me'})
    """
    raw = Raw(name)
    for key, value in found.items():
        known = parse_key(key)
        if key in OPTIONS or key == "cost_unit":
            text = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
            if not isinstance(text, str):
                raise input_error(f"{name}: {key}", "a text", repr(value), "Mend the file.")
            raw.options["unit" if key == "cost_unit" else key] = text
        elif known is not None and known[1] != "metadata":
            _refuse_text(f"{name}: {key}", value)
            try:
                raw.arrays[key] = np.asarray(value)
            except ValueError as error:
                raise input_error(
                    f"{name}: {key}", "an array", f"{error}", "Mend the file."
                ) from error
        else:
            raw.metadata[key] = plain(value)
            if known is None and np.ndim(value):
                raw.notes.append(f"{name}: key {key!r} is not known: not used, see the metadata")
    return raw


def _refuse_text(argument: str, value: Any) -> None:
    """Refuse text in lists of numbers: numpy would make room for the longest one in every place."""
    waiting = [value] if isinstance(value, (list, tuple)) else []
    while waiting:
        for item in waiting.pop():
            if isinstance(item, (list, tuple)):
                waiting.append(item)
            elif isinstance(item, (str, bytes)):
                step = "Encode names of classes as whole numbers from 0."
                raise input_error(argument, "numbers", f"the text {item[:60]!r}", step)


def plain(value: Any) -> Any:
    """Return a small value as JSON can hold it; large arrays as a text that tells their shape.

    Examples
    --------
    >>> plain(np.array(["a", "b"])), plain(np.zeros((100, 1000)))
    (['a', 'b'], 'float64 of shape (100, 1000), not kept')
    """
    if isinstance(value, (np.ndarray, np.generic)):
        if value.size > 4096 or value.dtype.kind not in "biufU":
            return f"{value.dtype} of shape {value.shape}, not kept"
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)) and len(value) <= 4096:
        return [plain(item) for item in value]
    if isinstance(value, dict) and len(value) <= 4096:
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return f"{type(value).__name__}, not kept"
