"""Reading many samples whose outputs at all exits are known: which exits, how many rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import input_error
from .output import ExitOutput
from .reading import as_array


def read_exits(
    outputs: Any, exits: int, classes: int, path: Sequence[int] | None = None
) -> tuple[int, Callable[[int, slice], object]]:
    """Return the number of samples, and a way to read some of them at one exit.

    Parameters
    ----------
    outputs : array of shape (N, K, C), or sequence of K outputs of one exit each
    exits, classes : int
        K; and C, for the message.
    path : sequence of int, optional
        The exits that will be read; the others are not looked at. Default all.

    Raises
    ------
    InputError
        Another number of exits, or exits of unequal length.

    Examples
    --------
    >>> n, rows = read_exits(np.arange(6).reshape(1, 2, 3), 2, 3)
    >>> n, rows(1, slice(0, 1))
    (1, array([[3, 4, 5]]))
    """
    if isinstance(outputs, Mapping):
        raise input_error("outputs", "one entry per exit", "a mapping", "Pass a list of K records.")
    is_array = hasattr(outputs, "ndim")
    if not is_array and not hasattr(outputs, "__len__"):
        raise input_error("outputs", "an array, or one entry per exit", type(outputs).__name__, "")
    count = (outputs.shape[1] if outputs.ndim == 3 else -1) if is_array else len(outputs)
    if count != exits:
        came = f"shape {tuple(outputs.shape)}" if is_array else f"{count} entries"
        raise input_error(
            "outputs", f"of shape (N, {exits}, {classes}), or a sequence of {exits} exits", came
        )
    if is_array:
        array = as_array(outputs)
        return len(array), lambda k, part: array[part, k]
    entries = {
        k: o if isinstance(o, (ExitOutput, Mapping)) else as_array(o, f"output of exit {k}")
        for k, o in enumerate(outputs)
        if path is None or k in path
    }
    lengths = {k: _length(entry) for k, entry in entries.items()}
    first, rows = next(iter(lengths.items()))
    for k, length in lengths.items():
        if length != rows:
            raise input_error(
                f"output of exit {k}", f"{rows} rows, as exit {first} has", length, ""
            )
    return rows, lambda k, part: _part(entries[k], part)


def _length(entry: Any) -> int:
    if isinstance(entry, Mapping):
        return max((len(np.atleast_1d(as_array(column))) for column in entry.values()), default=0)
    return len(entry) if isinstance(entry, ExitOutput) or entry.ndim else 0


def _part(entry: Any, part: slice) -> Any:
    if isinstance(entry, ExitOutput):
        return entry.take(part)
    if isinstance(entry, Mapping):
        return {key: np.atleast_1d(as_array(column))[part] for key, column in entry.items()}
    return entry[part] if entry.ndim else entry


def read_features(
    features: Any, exits: int, samples: int, path: Sequence[int] | None = None
) -> list[npt.NDArray[Any]]:
    """Return the feature vectors of many samples, one array per exit of the path.

    Parameters
    ----------
    features : sequence of K arrays of shape (N, D_k)
    exits, samples : int
        K and N.
    path : sequence of int, optional
        The exits to read; the others are not looked at. Default all.

    Raises
    ------
    InputError
        Another number of exits or rows.

    Examples
    --------
    >>> [array.shape for array in read_features([np.zeros((5, 3)), np.zeros((5, 2))], 2, 5)]
    [(5, 3), (5, 2)]
    """
    if not isinstance(features, (list, tuple)) or len(features) != exits:
        several = isinstance(features, (list, tuple))
        raise input_error(
            "features", f"a list of {exits} arrays of shape (N, D_k), one per exit",
            f"{len(features)} entries" if several else f"a {type(features).__name__}",
            "Widths may differ by exit, so they do not stand in one array.",
        )  # fmt: skip
    chosen = range(exits) if path is None else path
    arrays = [as_array(features[k], f"features of exit {k}") for k in chosen]
    for k, array in zip(chosen, arrays, strict=True):
        if array.ndim != 2 or len(array) != samples:
            shape = f"shape {array.shape}"
            raise input_error(
                f"features of exit {k}", f"of shape ({samples}, D)", shape, "As the outputs."
            )
    return arrays
