"""Settings of methods: what each may be, checked when a method is built, and what tuning may try."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from policyopt.runtime._errors import input_error


@dataclass(frozen=True)
class Real:
    """Tuning tries a number in [low, high]; ``log`` where ratios matter rather than differences."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Integer:
    """Tuning tries a whole number in [low, high]."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """Tuning tries one of some options, each a text, a number, a truth value or None."""

    options: tuple[Any, ...]


Domain = Real | Integer | Choice


@dataclass(frozen=True)
class Number:
    """A setting is a number in (above, below) up to `most`; without `above`, 0 or more."""

    above: float = -1.0
    below: float = math.inf
    whole: bool = False
    most: float = math.inf
    optional: bool = False  # None is allowed, too


#: What a setting may be: a number, or one of some options.
Allowed = Number | Sequence[Any]
POSITIVE, NOT_NEGATIVE, COUNT = Number(above=0), Number(), Number(above=0, whole=True)
FOLDS = Number(above=1, most=100, whole=True)
YES_OR_NO = (True, False)


def check_setting(name: str, value: Any, allowed: Allowed) -> None:
    """Refuse a setting that is not what is allowed."""
    if not isinstance(allowed, Number):
        check_choice(name, value, allowed)
    elif not (allowed.optional and value is None):
        kind = int if allowed.whole else (int, float)
        fits = isinstance(value, kind) and not isinstance(value, bool) and abs(value) < math.inf
        if not (fits and allowed.above < value < allowed.below and 0 <= value <= allowed.most):
            whole = "whole " if allowed.whole else ""
            low = "0 or more" if allowed.above < 0 else f"above {allowed.above:g}"
            high = "" if allowed.below == math.inf else f" and below {allowed.below:g}"
            high = high if allowed.most == math.inf else f" and at most {allowed.most:g}"
            one = allowed.above < 1 < allowed.below and allowed.most >= 1
            step = f"E.g. --set {name}={1 if one else allowed.below / 2:g}."
            raise input_error(name, f"a {whole}number, {low}{high}", value, step)


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Divide ``name:key=value+key=value`` into a name and the texts of its settings.

    >>> parse_spec("max_prob:thresholds=joint+mix=true")
    ('max_prob', {'thresholds': 'joint', 'mix': 'true'})
    """
    name, colon, inline = spec.partition(":")
    return name, key_values(inline.split("+") if colon else (), f"settings of {name}")


def key_values(items: Iterable[str], what: str) -> dict[str, str]:
    """Return texts ``key=value`` as a mapping."""
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value):
            raise input_error(what, "key=value", item or "none", "E.g. thresholds=joint.")
        if key in found:
            raise input_error(what, "each key once", f"{key} twice", "Leave one out.")
        found[key] = value
    return found


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse a setting that is none of `choices`."""
    if not any(value is c or (isinstance(c, str) and value == c) for c in choices):
        shown = ", ".join(str(c).lower() if isinstance(c, bool) else c for c in choices)
        step = f"E.g. --set {name}={shown.split(', ')[0]}."
        raise input_error(name, f"one of {shown}", value, step)


def check_number(name: str, value: Any, **limits: Any) -> None:
    """Refuse a setting that is not a `Number` of such limits."""
    check_setting(name, value, Number(**limits))
