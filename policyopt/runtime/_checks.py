"""Checks of arguments: one sentence each that names what is allowed; numpy's numbers are numbers."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from ._errors import input_error

_DEFAULT = "Leave it out for the default."
MAX_SEED = 2**63 - 1
#: Squares of costs, and sums of these over any cache, are numbers too.
MAX_COST = 1e100
#: Characters of a unit, and of a name.
MAX_UNIT, MAX_NAME = 32, 100


def to_python(value: Any) -> Any:
    """Return a number of numpy's as one of Python's, anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def check_type(name: str, value: Any, kinds: Any, allowed: str, step: str = "") -> Any:
    """Return what is of one of these types, or refuse it."""
    if not isinstance(value, kinds):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise input_error(name, allowed, "None" if value is None else got, step)
    return value


def check_positive(name: str, value: Any, most: float = math.inf) -> Any:
    """Return a number in (0, most], or refuse it."""
    value = to_python(value)
    if not _is_number(value) or not 0 < value <= most:
        allowed = "a number above 0" + (f", at most {most:g}" if most < 1e300 else "")
        raise input_error(name, allowed, value, _DEFAULT)
    return value


def check_share(name: str, value: Any, allowed: str = "") -> Any:
    """Return a number in [0, 1], or refuse it."""
    return check_least(name, value, 1.0, allowed)


def check_least(name: str, value: Any, most: float = math.inf, allowed: str = "") -> Any:
    """Return a number in [0, most], or refuse it."""
    value = to_python(value)
    if not _is_number(value) or not 0 <= value <= most:
        usual = f"a number in [0, {most:g}]" if most < 1e300 else "a number, 0 or more"
        raise input_error(name, allowed or usual, value, "" if allowed else _DEFAULT)
    return value


def check_whole(
    name: str, value: Any, least: int = 1, most: int = 1 << 62, step: str = _DEFAULT
) -> int:
    """Return a whole number in [least, most], or refuse it."""
    value = to_python(value)
    if type(value) is not int or not least <= value <= most:
        limit = f", at most {most:,}" if most < 1 << 53 else ""
        raise input_error(name, f"a whole number, at least {least}{limit}", value, step)
    return value


def check_one_of(name: str, value: Any, known: Collection[str], step: str = "") -> str:
    """Return one of some names, or refuse it."""
    if not isinstance(value, str) or value not in known:
        raise input_error(name, f"one of {', '.join(known)}", value, step)
    return value


def check_seed(seed: Any) -> int:
    """Return a seed that every generator takes (numpy's, torch's, the coin), or refuse it."""
    return check_whole("seed", seed, 0, MAX_SEED, "Give 0 or more, below 2**63: --seed 0.")


def sample_numbers(samples: Any, n: int | None = None) -> npt.NDArray[np.int64]:
    """Return samples' numbers, of n samples as (n,), by default 0..n-1; or refuse them."""
    if samples is None and n is not None:
        return np.arange(n)
    if type(samples) is int and n is None and -(1 << 63) <= samples < 1 << 63:
        return np.asarray(samples)
    try:
        given = np.asarray(samples)
    except (ValueError, OverflowError) as error:
        raise input_error("samples", "whole numbers", type(samples).__name__, str(error)) from error
    small = given.dtype.kind == "i" or (given.dtype.kind == "u" and (given < 1 << 63).all())
    if not small and given.size:
        raise input_error("samples", "whole numbers below 2**63", f"dtype {given.dtype}", "")
    if (given.ndim > 1) if n is None else (given.shape != (n,)):
        wanted = "a number, or one per sample" if n is None else f"one number per sample: {n}"
        raise input_error("samples", wanted, f"shape {given.shape}", "")
    return given.astype(np.int64)


def check_text(name: str, value: Any, most: int = MAX_UNIT, step: str = "") -> str:
    """Return a short text of visible characters (`str.isprintable`), or refuse it."""
    fits = isinstance(value, str) and value.isprintable() and value.strip()
    if not fits or len(value) > most:
        raise input_error(name, f"a non-empty text up to {most} visible characters", value, step)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def check_names(name: str, value: Any, step: str = "") -> tuple[str, ...]:
    """Return names, given as one text with commas or as several texts, or refuse them."""
    given = value.split(",") if isinstance(value, str) else value
    fine = isinstance(given, (list, tuple)) and all(isinstance(one, str) for one in given)
    found = tuple(one.strip() for one in given) if fine else ()
    if not found or not all(found) or len(set(found)) < len(found):
        got = "none" if isinstance(value, (str, list, tuple)) and not value else value
        raise input_error(name, "one or more names, each once", got, step)
    return found
