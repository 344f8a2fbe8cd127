"""Saved states are read as what they are: input from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._errors import InputError, input_error
from ._parameters import numbers
from ._typing import Floats

#: Counts that a float64 holds exactly.
MOST_COUNT = 2**53


def refused(name: str, allowed: str, got: Any, step: str = "Start anew.") -> InputError:
    """Return the error for a part of a saved state."""
    return input_error(name, allowed, got, step)


def check_fields(what: str, state: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """Return a saved state that has exactly these fields, and a count of rounds if so named."""
    if not isinstance(state, Mapping) or state.keys() != set(names):
        got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise refused(what, f"a mapping of exactly {', '.join(sorted(set(names)))}", got)
    rounds = state.get("rounds", 0)
    if type(rounds) is not int or not 0 <= rounds <= MOST_COUNT:
        raise refused("rounds", "a whole number from 0 to 2**53", rounds)
    return state


def saved_numbers(
    name: str, value: Any, shape: tuple[int, ...] | None, low: float = 0.0, high: float = MOST_COUNT,
    whole: bool = False, step: str = "Start anew.",
) -> Floats:  # fmt: skip
    """Return saved numbers, refused where their shape (None: any list) or a number is another."""
    array = numbers(name, value, 1 if shape is None else len(shape))
    if shape is not None and array.shape != shape:
        raise refused(name, f"of shape {shape}", array.shape, step)
    wrong = (array < low) | (array > high) | (whole & (array != np.floor(array)))
    if wrong.any():
        allowed = f"{'whole numbers' if whole else 'numbers'} from {low:g} to {high:g}"
        raise refused(name, allowed, float(array[wrong][0]), step)
    return array


def saved_counts(name: str, value: Any, count: int, most: int = MOST_COUNT) -> list[int]:
    """Return `count` saved whole numbers from 0 to `most`."""
    return saved_numbers(name, value, (count,), 0, most, whole=True).astype(int).tolist()
