"""Everything a policy saw and said on samples whose outputs are all known, and how those are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import bad
from .output import ExitOutput, as_array

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """What a policy would have scored and answered at every exit, and where it left.

    Attributes
    ----------
    scores : ndarray of shape (n, K), float64
    predictions : ndarray of shape (n, K), int32
        Classes of the policy's answers; -1 where an exit gave none.
    thresholds : ndarray of shape (n, K-1), float64
        Those that held for each sample (a mixture has two sets); read-only where all are equal.
    exit : ndarray of shape (n,), int64
        Exit taken, 0..K-1.
    """

    scores: Floats
    predictions: npt.NDArray[np.int32]
    thresholds: Floats
    exit: npt.NDArray[np.int64]

    @property
    def taken(self) -> npt.NDArray[np.int32]:
        """The prediction at the exit taken, (n,)."""
        return self.predictions[np.arange(len(self.exit)), self.exit]


def read_exits(
    outputs: Any, exits: int, classes: int
) -> tuple[int, Callable[[int, slice], object]]:
    """Return the number of samples, and a way to read some of them at one exit.

    Parameters
    ----------
    outputs : array of shape (N, K, C), or sequence of K outputs of one exit each
    exits, classes : int
        K; and C, for the message.

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
        raise bad("outputs", "one entry per exit", "a mapping", "Pass a list of K records.")
    is_array = hasattr(outputs, "ndim")
    count = (outputs.shape[1] if outputs.ndim == 3 else -1) if is_array else len(outputs)
    if count != exits:
        came = f"shape {tuple(outputs.shape)}" if is_array else f"{count} entries"
        raise bad(
            "outputs", f"of shape (N, {exits}, {classes}), or a sequence of {exits} exits", came
        )
    if is_array:
        array = as_array(outputs)
        return len(array), lambda k, part: array[part, k]
    entries = [
        o if isinstance(o, (ExitOutput, Mapping)) else as_array(o, f"output of exit {k}")
        for k, o in enumerate(outputs)
    ]
    lengths = [_length(entry) for entry in entries]
    for k, length in enumerate(lengths):
        if length != lengths[0]:
            raise bad(f"output of exit {k}", f"{lengths[0]} rows, as exit 0 has", length, "")
    return lengths[0], lambda k, part: _part(entries[k], part)


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
