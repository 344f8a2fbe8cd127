"""Contexts: the numbers and names by which experts are chosen, checked."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from .errors import input_error
from .reading import as_array

#: More contexts than this are some other number (a class, a row), not a context.
MAX_CONTEXTS = 1024
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def checked_names(names: object, least: int = 1) -> tuple[str, ...]:
    """Return the names of contexts as a tuple; refused unless each is a name of its own.

    Examples
    --------
    >>> checked_names(["clean", "blur"])
    ('clean', 'blur')
    """
    fits = isinstance(names, (list, tuple))
    given = list(names) if isinstance(names, (list, tuple)) else []
    fits = fits and all(isinstance(name, str) and _NAME.fullmatch(name) for name in given)
    if not fits or not least <= len(given) <= MAX_CONTEXTS or len(set(given)) < len(given):
        raise input_error(
            "contexts", f"{least} to {MAX_CONTEXTS} different names of A-Z a-z 0-9 _ . -", names,
            "E.g. ['clean', 'blur', 'noise'].",
        )  # fmt: skip
    return tuple(given)


def context_numbers(context: npt.ArrayLike, experts: int, samples: int) -> npt.NDArray[np.int64]:
    """Return contexts as (N,) int64, refused unless each is the number of an expert.

    Examples
    --------
    >>> context_numbers([0, 1, 1], 2, 3)
    array([0, 1, 1])
    """
    array = as_array(context, "context")
    if array.shape != (samples,) or (array.dtype.kind not in "iu" and array.size):
        raise input_error(
            "context", f"one whole number per sample: {samples}",
            f"shape {array.shape}, dtype {array.dtype}", "Number the contexts from 0.",
        )  # fmt: skip
    off = np.flatnonzero((array < 0) | (array >= experts))
    if len(off):
        got = f"{array[off[0]]} at sample {off[0]}"
        raise input_error("context", f"from 0 to {experts - 1}", got, "Number the contexts from 0.")
    return array.astype(np.int64)


def renumbered(
    context: npt.ArrayLike, names: tuple[str, ...], known: tuple[str, ...]
) -> npt.NDArray[np.int64]:
    """Return contexts that count `names` in the numbers of `known`.

    Raises
    ------
    InputError
        A context of a name that is not known.

    Examples
    --------
    >>> renumbered([0, 1], ("blur", "clean"), ("clean", "blur"))
    array([1, 0])
    """
    rows = context_numbers(context, len(names), np.size(context))
    places = {name: e for e, name in enumerate(known)}
    to = np.array([places.get(name, -1) for name in names], dtype=np.int64)
    if (to[rows] < 0).any():
        missing = names[int(rows[to[rows] < 0][0])]
        raise input_error(
            "context", f"one that the policy knows: {', '.join(known)}", missing,
            "Fit it again with rows of that context.",
        )  # fmt: skip
    return to[rows]
