"""Settings of methods: what each may be, checked when a method is built, and what tuning may try."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
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

    def __str__(self) -> str:
        low = "0 or more" if self.above < 0 else f"above {self.above:g}"
        high = "" if self.below == math.inf else f" and below {self.below:g}"
        high = high if self.most == math.inf else f" and at most {self.most:g}"
        return f"{'whole ' if self.whole else ''}number, {low}{high}"


#: What a setting may be: a number, or one of some options.
Allowed = Number | Sequence[Any]
POSITIVE, NOT_NEGATIVE, COUNT = Number(above=0), Number(), Number(above=0, whole=True)
FOLDS = Number(above=1, most=100, whole=True)
YES_OR_NO = (True, False)
#: Of a docstring as numpydoc has it.
_QUOTES = re.compile('["{}]|, optional')
_SECTION = re.compile(r"^(?:Parameters|Attributes)\n-+\n(.*?)(?=\n\n\S|\Z)", re.M | re.S)


def check_setting(name: str, value: Any, allowed: Allowed) -> None:
    """Refuse a setting that is not what is allowed."""
    if not isinstance(allowed, Number):
        check_choice(name, value, allowed)
    elif not (allowed.optional and value is None):
        kind = int if allowed.whole else (int, float)
        fits = isinstance(value, kind) and not isinstance(value, bool) and abs(value) < math.inf
        if not (fits and allowed.above < value < allowed.below and 0 <= value <= allowed.most):
            one = allowed.above < 1 < allowed.below and allowed.most >= 1
            step = f"E.g. --set {name}={1 if one else allowed.below / 2:g}."
            raise input_error(name, f"a {allowed}", value, step)


def allowed_text(allowed: Allowed) -> str:
    """Return what a setting may be, as the command line takes it."""
    if isinstance(allowed, Number):
        return str(allowed)
    return ", ".join(
        str(c).lower() if isinstance(c, bool) else str(c) for c in allowed if c is not None
    )


def explained(
    owner: type, defaults: Mapping[str, Any], allowed: Mapping[str, Allowed]
) -> list[dict[str, Any]]:
    """Return a record per setting: its default, what is allowed, and what the docstrings of its class say."""
    found: dict[str, tuple[str, str]] = {}
    kinds: dict[str, str] = {}
    for base in owner.__mro__:
        section = _SECTION.search(inspect.cleandoc(base.__doc__ or ""))
        for entry in re.split(r"^(?=\S)", section[1] if section else "", flags=re.M)[1:]:
            head, _, text = entry.partition("\n")
            names, _, kind = head.partition(" : ")
            for name in names.split(","):
                found.setdefault(name.strip(), (kind, " ".join(text.replace("``", "`").split())))
        for name, kind in vars(base).get("__annotations__", {}).items():
            kinds.setdefault(name, getattr(kind, "__name__", str(kind)))
    told = {name: found.get(name, (kinds.get(name, ""), "")) for name in defaults}
    return [
        {
            "setting": name, "default": default,
            "allowed": allowed_text(allowed[name]) if name in allowed else _QUOTES.sub("", told[name][0]),
            "what": told[name][1],
        }
        for name, default in defaults.items()
    ]  # fmt: skip


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
        shown = allowed_text(choices)
        step = f"E.g. --set {name}={shown.split(', ')[0]}."
        raise input_error(name, f"one of {shown}", value, step)


def check_number(name: str, value: Any, **limits: Any) -> None:
    """Refuse a setting that is not a `Number` of such limits."""
    check_setting(name, value, Number(**limits))
