"""The model's feature vectors, kept beside its outputs: of every exit or of none, each with its width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policyopt.cache.data import FEATURES_PREFIX
from policyopt.runtime.errors import input_error
from policyopt.runtime.typing import Array


def feature_names(exits: int) -> list[str]:
    """Return the names of the arrays of K exits.

    Examples
    --------
    >>> feature_names(2)
    ['features:0', 'features:1']
    """
    return [f"{FEATURES_PREFIX}{k}" for k in range(exits)]


def is_features(name: str) -> bool:
    """Whether an array of that name holds feature vectors.

    Examples
    --------
    >>> is_features("features:0"), is_features("labels")
    (True, False)
    """
    return name.startswith(FEATURES_PREFIX)


def widths_of(block: Mapping[str, Array], rows: int, exits: int) -> tuple[int, ...]:
    """Return the width of each exit's feature vectors, D_k; none where a block has no features.

    Parameters
    ----------
    block : mapping of str to ndarray
        Arrays of `rows` rows and `exits` exits.
    rows, exits : int

    Returns
    -------
    tuple of int

    Raises
    ------
    InputError
        Some exits only, or not of shape (n, D_k).

    Examples
    --------
    >>> widths_of({"features:0": np.zeros((5, 3)), "features:1": np.zeros((5, 2))}, 5, 2)
    (3, 2)
    """
    given, wanted = {name for name in block if is_features(name)}, feature_names(exits)
    if not given:
        return ()
    if given != set(wanted):
        missing, odd = sorted(set(wanted) - given), sorted(given - set(wanted))
        raise input_error(
            "features", f"of every exit, 0 to {exits - 1}, or of none",
            f"missing {missing}, superfluous {odd}", "Save one array (n, D_k) for each exit.",
        )  # fmt: skip
    for k, name in enumerate(wanted):
        array = block[name]
        if array.ndim != 2 or len(array) != rows or not array.shape[1]:
            raise input_error(
                f"features of exit {k}", f"of shape ({rows}, D), a row for each row of the outputs",
                f"shape {array.shape}", "Save them for the same rows, flattened to vectors.",
            )  # fmt: skip
    return tuple(block[name].shape[1] for name in wanted)


def agreed(before: tuple[int, ...] | None, now: tuple[int, ...]) -> tuple[int, ...]:
    """Return the widths of a batch, refused where they are not those of the rows before.

    Examples
    --------
    >>> agreed(None, (3, 2)), agreed((), ())
    ((3, 2), ())
    """
    if before is not None and before != now:
        raise input_error(
            "features", f"as in the rows before: {_shown(before)}", _shown(now),
            "Every split and batch needs the vectors of one model, or none has them.",
        )  # fmt: skip
    return now


def stored_features(array: Array) -> Array:
    """Return feature vectors in storage type: float16 stays, all else becomes float32.

    Examples
    --------
    >>> stored_features(np.zeros((1, 2))).dtype
    dtype('float32')
    """
    wide = np.float16 if array.dtype == np.float16 else np.float32
    return np.ascontiguousarray(array, dtype=wide)


def bad_value(array: Array) -> tuple[int, int] | None:
    """Return the first place that is not finite as float32; None where there is none.

    Examples
    --------
    >>> bad_value(np.array([[1.0, np.nan]]))
    (0, 1)
    """
    with np.errstate(over="ignore"):
        fits = np.isfinite(array.astype(np.float32, copy=False))
    if fits.all():
        return None
    row, column = np.argwhere(~fits)[0]
    return int(row), int(column)


def spread(value: Any) -> dict[str, Any]:
    """Return a list of K arrays (n, D_k) as one named entry each.

    Raises
    ------
    InputError
        No such list.

    Examples
    --------
    >>> list(spread([[[1.0]], [[2.0]]]))
    ['features:0', 'features:1']
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise input_error(
            "features", "a list of K arrays of shape (n, D_k)", f"a {type(value).__name__}",
            "One array per exit: their widths may differ.",
        )  # fmt: skip
    return dict(zip(feature_names(len(value)), value, strict=True))


def _shown(widths: tuple[int, ...]) -> str:
    return f"widths {', '.join(map(str, widths))}" if widths else "none"
