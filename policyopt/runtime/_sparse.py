"""Sparse outputs, where classes are many: the largest logits, their classes and the log of the rest's sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._errors import input_error
from ._outputs import TOP
from ._typing import Array, Floats

#: The arrays, by their axes; C are here the M largest.
SPARSE = {"top_logits": "NKC", "top_classes": "NKC", "rest": "NK"}
#: How far above its bound the rest may be, per unit of the least logit: covers float16.
_ROUNDED = 1e-2
_PIECE = 1 << 20


def from_top(columns: Mapping[str, Array], classes: int, name: str = "output") -> dict[str, Any]:
    """Return sparse outputs, (..., M) and the rest (...), as columns of a summary; others as they came."""
    found = {key: array for key, array in columns.items() if key not in SPARSE}
    if len(found) == len(columns):
        return found
    whole, told = SPARSE.keys() <= columns.keys(), columns.get("top_classes")
    given, known = columns.get("top_logits" if whole else "top_prob"), {"prediction"}
    if told is None or given is None or not (whole or "rest" not in columns):
        allowed = "top_logits, top_classes and rest, or top_prob and top_classes"
        step = "rest is the log of the sum of exp of all other logits."
        raise input_error(f"sparse {name}", allowed, ", ".join(sorted(columns)), step)
    known |= {"confidence", "top_prob"} if whole else set()
    if twice := ", ".join(sorted(known & found.keys())):
        step = "They follow from the largest: leave them out."
        raise input_error(f"{name}", "without summaries of what is sparse", twice, step)
    if classes < 1:
        step = "Say classes=C; in a file a key classes."
        raise input_error("classes", "known where outputs are sparse", "none", step)
    if not told.size or told.shape != given.shape or told.shape[-1] > classes:
        allowed, got = f"alike, of 1 to {classes} classes", f"{given.shape} and {told.shape}"
        raise input_error(f"shapes of top_classes and their {name}", allowed, got)
    if not whole:
        return found | {"prediction": told[..., 0]}
    rest = columns["rest"]
    if rest.shape != told.shape[:-1]:
        raise input_error(f"rest of {name}", f"of shape {told.shape[:-1]}", f"shape {rest.shape}")
    if told.ndim == 1:  # a row alone
        one = {key: columns[key][None] for key in SPARSE}
        return found | {key: array[0] for key, array in from_top(one, classes, name).items()}
    top = np.empty((*rest.shape, min(told.shape[-1], TOP)))
    step = max(_PIECE // told[0].size, 1)
    for low in range(0, len(top), step):
        at = slice(low, low + step)
        top[at] = _probabilities(given[at], told[at], rest[at], classes, name)
    return found | {"confidence": top[..., 0], "top_prob": top, "prediction": told[..., 0]}


def _probabilities(given: Array, told: Array, rest: Array, classes: int, name: str) -> Floats:
    """Return the largest probabilities, (n, ..., T), of what is checked."""
    top, others = np.array(given, np.float64, order="C"), np.array(rest, np.float64, order="C")
    least, left = top[..., -1], classes - told.shape[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        most = least + np.log(left) + _ROUNDED * np.abs(np.maximum(least, -1e30)) + _ROUNDED
        ranks = (top[..., 1:] <= top[..., :-1]).all(axis=-1) & np.isfinite(top[..., 0])
        valid = ((told >= 0) & (told < classes) & (told == np.floor(told))).all(axis=-1)
    ordered = np.sort(told, axis=-1)
    valid &= (ordered[..., 1:] != ordered[..., :-1]).all(axis=-1)
    for column, fits, array, allowed in (
        ("top_classes", valid, told, f"different whole numbers from 0 to {classes - 1} in each row"),
        ("top_logits", ranks, given, "finite (-inf behind the first), the largest first"),
        ("rest", others <= most, rest, f"the log of the sum of exp of {left} logits below the least of top_logits"),
    ):  # fmt: skip
        if not fits.all():
            got = array[tuple(np.argwhere(~fits)[0])]
            raise input_error(f"{column} of {name}", allowed, got, "Mend that row.")
    shift = np.exp(top - top[..., :1])
    # The leading 1 stays apart, as in `reduce_logits`; rank by rank: a row alone has the bits of many.
    others = np.exp(others - top[..., 0])
    for rank in range(told.shape[-1] - 1, 0, -1):
        others += shift[..., rank]
    return shift[..., :TOP] / (1.0 + others)[..., None]
