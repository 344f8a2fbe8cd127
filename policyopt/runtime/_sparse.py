"""Sparse outputs, where classes are many: the largest logits, their classes and the log of the rest's sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._errors import input_error
from ._outputs import TOP
from ._typing import Array, Floats

SPARSE = {"top_logits": "NKC", "top_classes": "NKC", "rest": "NK"}  # axes, M in the place of C


def from_top(columns: Mapping[str, Array], classes: int, name: str = "output") -> dict[str, Any]:
    """Return sparse outputs, (..., M) and the rest (...), as columns of a summary; others as they came."""
    found = {key: array for key, array in columns.items() if key not in SPARSE}
    if len(found) == len(columns):
        return found
    whole = "top_logits" in columns
    wanted = {*SPARSE} if whole else {"top_prob", "top_classes"}
    barred = {"prediction", *(("confidence", "top_prob") if whole else ("rest",))}
    if not wanted <= columns.keys() or barred & columns.keys():
        allowed = "top_logits, top_classes and rest, or top_prob and top_classes, and not what follows from them"
        raise input_error(f"sparse {name}", allowed, ", ".join(sorted(columns)))
    given, told = columns["top_logits" if whole else "top_prob"], columns["top_classes"]
    rest = columns.get("rest", told[..., 0] if told.ndim and told.size else told)
    numbers = {array.dtype.kind for array in (given, told, rest)} <= set("iuf")
    fits = (given.shape, rest.shape) == (told.shape, told.shape[:-1])
    if not (numbers and fits and 0 < sum(told.shape[-1:]) <= classes):
        got = ", ".join(f"{array.dtype} {array.shape}" for array in (given, told, rest))
        step = "" if classes else "Say C: classes=, in a file a key classes."
        allowed = "numbers (..., M), their classes (..., M) and the rest (...), M at most C"
        raise input_error(f"sparse {name}", allowed, f"{got}; C = {classes}", step)
    if not whole:
        return found | {"prediction": told[..., 0]}
    if told.ndim == 1:  # a row alone
        one = {key: columns[key][None] for key in SPARSE}
        return found | {key: array[0] for key, array in from_top(one, classes, name).items()}
    top = np.empty((*rest.shape, min(told.shape[-1], TOP)))
    step = max((1 << 20) // max(told[:1].size, 1), 1)
    for low in range(0, len(top), step):
        at = slice(low, low + step)
        top[at] = _shares_of_top(given[at], told[at], rest[at], classes, name, low)
    return found | {"confidence": top[..., 0], "top_prob": top, "prediction": told[..., 0]}


def _shares_of_top(
    given: Array, told: Array, rest: Array, classes: int, name: str, first: int
) -> Floats:
    """Return the largest probabilities, (n, ..., T), of what is checked."""
    top, others = np.array(given, np.float64, order="C"), np.array(rest, np.float64, order="C")
    least, left = top[..., -1], classes - told.shape[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        most = least + np.log(left) + 0.01 * (1 + np.abs(np.maximum(least, -1e9)))  # of float16
        ranks = (top[..., 1:] <= top[..., :-1]).all(axis=-1) & np.isfinite(top[..., 0])
        valid = ((told >= 0) & (told < classes) & (told == np.floor(told))).all(axis=-1)
    valid &= (np.diff(np.sort(told, axis=-1), axis=-1) != 0).all(axis=-1)
    for column, fits, array, allowed in (
        ("top_classes", valid, told, f"different whole numbers from 0 to {classes - 1} in each row"),
        ("top_logits", ranks, given, "finite (-inf behind the first), the largest first"),
        ("rest", others <= most, rest, f"the log of the sum of exp of {left} logits below the least of top_logits"),
    ):  # fmt: skip
        if not fits.all():
            at = np.argwhere(~fits)[0].tolist()
            got = f"{array[tuple(at)]} at row {first + at[0]}" + f", exit {at[1:]}" * (len(at) > 1)
            raise input_error(f"{column} of {name}", allowed, got, "Mend that row.")
    shift = np.exp(top - top[..., :1])
    # The leading 1 stays apart, as in `reduce_logits`; rank by rank: a row alone has the bits of many.
    others = np.exp(others - top[..., 0])
    for rank in range(told.shape[-1] - 1, 0, -1):
        others += shift[..., rank]
    return shift[..., :TOP] / (1.0 + others)[..., None]
