"""Fields of rules, declared once: shape, range and kind of each.

From one declaration come the check of a file, its JSON and schema, and random instances for tests.
Dimensions are sums of letters and numbers: K exits, C classes, k the exit of an array that stands there
once per exit, any other letter what the arrays agree on.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, dataclass_transform

import numpy as np
import numpy.typing as npt

from ._checks import check_one_of
from ._errors import input_error

_EXACT = 2**53  # whole numbers up to it are floats, too
_CHECK = "Check the policy, or fit it again."
_TERM = re.compile(r"([+-]?)(\w+)")
_DIMENSION = re.compile(r"(\d+|[A-Za-z])([+-](\d+|[A-Za-z]))*")


@dataclass(frozen=True)
class Array:
    """What an array field holds: see `array`."""

    shape: tuple[str, ...]
    least: float = -math.inf
    most: float = math.inf
    over: float = -math.inf
    whole: bool = False
    each: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Choice:
    """What a field that names one of several holds: see `choice`."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """What a field of one number holds: see `number`."""

    least: float = -math.inf
    most: float = math.inf
    below: float = math.inf


def array(
    *shape: str,
    least: float = -math.inf,
    most: float = math.inf,
    over: float = -math.inf,
    whole: bool = False,
    each: str = "",
    optional: bool = False,
    default: Any = MISSING,
) -> Any:
    """Declare a field that holds an array of numbers (or one array per exit or layer).

    Parameters
    ----------
    *shape : str
        Dimensions: "K-1" (exits but the last), "C" (classes), "H", ... The same letter is the same number.
    least, most, over : float
        Every number is at least `least`, at most `most`, above `over`.
    whole : bool
        Whole numbers.
    each : str
        A list of so many arrays of `shape` instead; there ``k`` counts them, and letters but K and C may differ.
    optional : bool
        None is allowed.

    Returns
    -------
    a dataclass field

    Examples
    --------
    >>> class Offsets(Rule):
    ...     name = "offsets"
    ...     offset: Any = array("K-1", least=0)
    >>> Offsets([1, 2]).offset
    array([1., 2.])
    >>> Offsets([-1.0])
    Traceback (most recent call last):
        ...
    policyopt.runtime._errors.InputError: 'offset of rule offsets' must be 0 or more. Got [-1.0]. Check the policy...
    """
    for dimension in (*shape, *[each] * bool(each)):
        if not isinstance(dimension, str) or not _DIMENSION.fullmatch(dimension):
            allowed = "letters and numbers with + or - between them, as text"
            raise input_error("dimension", allowed, dimension, 'E.g. po.array("K-1", "3").')
    if isinstance(default, (list, np.ndarray)):
        default = _frozen(np.asarray(default).tolist())
    spec = Array(shape, least, most, over, whole, each, optional)
    return field(default=default, metadata={"spec": spec})  # type: ignore[call-overload]


def choice(*names: str, default: Any = MISSING) -> Any:
    """Declare a field that holds one of some texts."""
    return field(default=default, metadata={"spec": Choice(names)})  # type: ignore[call-overload]


def number(
    least: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    default: Any = MISSING,
) -> Any:
    """Declare a field that holds one number (whole, where it is annotated as `int`) in a range."""
    return field(default=default, metadata={"spec": Number(least, most, below)})  # type: ignore[call-overload]


@dataclass_transform(
    frozen_default=True, eq_default=False, field_specifiers=(array, choice, number, field)
)
class Rule:
    """What all rules of a policy share: fields that are checked, frozen, compared and written as JSON."""

    name: ClassVar[str]
    #: What the rule is in a policy: "score", "answer", "calibrator"; used in errors.
    role: ClassVar[str] = "rule"
    #: What the fields hold, by name.
    specs: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name, kind in inspect.get_annotations(cls).items():
            if name in ("name", "required_columns", "role") and "ClassVar" not in str(kind):
                step = f"Write {name} = ... without a type: it is the class's."
                raise input_error(f"{name} of {cls.__name__}", "no field", f"{name}: {kind}", step)
        dataclass(frozen=True, eq=False)(cls)
        # For a class that is decorated once more, which loses specs and has no such two of its own.
        own = {f.name: f.metadata["spec"] for f in fields_of(cls) if "spec" in f.metadata}
        cls.specs = {**cls.specs, **own}
        del cls.__setattr__, cls.__delattr__
        for one in fields_of(cls):
            number = isinstance(cls.specs.get(one.name, Number()), Number)
            if number and one.type not in ("int", "float", int, float):
                step = "Of others say what they hold: array(...), choice(...), soft: int = number(0, 1)."
                kind = getattr(one.type, "__name__", one.type)
                raise input_error(f"{one.name} of {cls.__name__}", "an int or a float", kind, step)

    def __post_init__(self) -> None:
        _Checker(self).run()

    def check(self, exits: int, classes: int) -> None:
        """Raise `InputError` where the parameters are not made for K exits and C classes (0: unknown)."""
        _Checker(self, {"K": exits} | ({"C": classes} if classes else {})).run()

    def params(self) -> dict[str, Any]:
        """Return the fields of the rule, JSON-able."""
        names = [f.name for f in fields_of(self)]
        return {name: _json(getattr(self, name), self.specs.get(name)) for name in names}

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.params() == other.params()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self.name))


def fields_of(rule: Rule | type[Rule]) -> tuple[Field[Any], ...]:
    """Return the declared fields of a rule or its class."""
    return fields(rule)  # type: ignore[arg-type]


def make(rules: Mapping[str, type[Rule]], role: str, name: Any, params: Any, step: str = "") -> Any:
    """Build a rule from its name and parameters, as a file holds them."""
    check_one_of(role, name, rules, step or "A newer policyopt may know it.")
    try:
        if not isinstance(params, Mapping):
            raise TypeError("parameters are a mapping")
        return rules[name](**params)
    except TypeError as error:
        what = f"parameters of {role} {name}"
        raise input_error(what, "those it declares", params, str(error)) from error


def numbers(name: str, value: Any, ndim: int, whole: bool = False) -> npt.NDArray[np.float64]:
    """Return nested lists of finite numbers as a read-only float64 array of `ndim` dimensions."""
    _refuse_others(name, value, ndim)  # before numpy makes texts as wide as the longest one
    try:
        raw = np.asarray(value)
        if not raw.size and ndim == 1 and raw.ndim == 1:
            raw = np.empty(0)  # an empty list has no type of its own
        found = np.array(raw, dtype=np.float64, order="C")  # sums go by the order in memory
    except (TypeError, ValueError, OverflowError) as error:
        raise input_error(name, f"numbers, {ndim} levels deep", str(error), _CHECK) from error
    if raw.dtype.kind not in "fiu" or found.ndim != ndim or not np.isfinite(found).all():
        got = f"shape {found.shape}, dtype {raw.dtype}"
        raise input_error(name, f"finite numbers, {ndim} levels deep", got, _CHECK)
    if whole and ((found % 1 != 0) | (np.abs(found) > _EXACT)).any():
        raise input_error(name, "whole numbers, at most 2**53", found.ravel()[:20].tolist(), _CHECK)
    found.flags.writeable = False
    return found


def _json(value: Any, spec: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(part, spec) for part in value]
    if isinstance(value, np.ndarray):
        return (value.astype(int) if getattr(spec, "whole", False) else value).tolist()
    return value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value


class _Checker:
    """Checks the fields of one rule; letters of dimensions are bound as they are met."""

    def __init__(self, rule: Rule, known: Mapping[str, int] | None = None) -> None:
        self.rule, self.letters = rule, dict(known or {})
        self.fresh = known is None  # the fields are still as they were given

    def run(self) -> None:
        one_by_one: dict[int, dict[str, int]] = {}
        for one in fields_of(self.rule):
            spec, value = self.rule.specs.get(one.name, Number()), getattr(self.rule, one.name)
            what = f"{one.name} of {self.rule.role} {self.rule.name}"
            if isinstance(spec, Array):
                if value is None and spec.optional:
                    continue
                if spec.each:
                    found = self._list(what, value, spec, one_by_one)
                else:
                    found = self._array(what, value, spec, self.letters)
            elif not self.fresh:
                continue
            elif isinstance(spec, Number):
                found = _number(what, value, spec, one)
            elif not isinstance(value, str) or value not in spec.names:
                raise input_error(what, f"one of {', '.join(spec.names)}", value, _CHECK)
            else:
                found = value
            if self.fresh:
                object.__setattr__(self.rule, one.name, found)

    def _list(self, what: str, value: Any, spec: Array, seen: dict[int, dict[str, int]]) -> Any:
        if not isinstance(value, (list, tuple, np.ndarray)) or not len(value):
            got = "an empty list" if isinstance(value, (list, tuple)) else type(value).__name__
            raise input_error(what, f"a list of {spec.each} arrays", got, _CHECK)
        self._bind(what, spec.each, len(value), self.letters, f"{len(value)} arrays")
        shared = {n: v for n, v in self.letters.items() if n in "KC"}
        found = []
        for k, part in enumerate(value):
            letters = {**seen.get(k, {}), **shared, "k": k}
            found.append(self._array(f"{what}, number {k}", part, spec, letters))
            seen[k] = letters
            shared |= {n: v for n, v in letters.items() if n in "KC"}
        self.letters |= shared
        return tuple(found)

    def _array(self, what: str, value: Any, spec: Array, letters: dict[str, int]) -> Any:
        found = numbers(what, value, len(spec.shape), spec.whole) if self.fresh else value
        if self.fresh and found.size:
            low, high = found.min(), found.max()
            if low < spec.least or high > spec.most or low <= spec.over:
                raise input_error(what, _range(spec), found.ravel()[:20].tolist(), _CHECK)
        for dimension, size in zip(spec.shape, found.shape, strict=True):
            self._bind(what, dimension, size, letters, f"shape {found.shape}", spec.shape)
        return found

    def _bind(
        self, what: str, dimension: str, size: int, letters: dict[str, int], got: str,
        shape: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """Refuse a dimension that does not fit; a single letter that is still unknown is learned."""
        total, unknown = size_of(dimension, letters)
        if unknown and size - total >= (unknown in "KC"):
            letters[unknown] = size - total
        elif unknown or total != size:
            known = ", ".join(f"{n} = {v}" for n, v in letters.items())
            wanted = f"of shape ({', '.join(shape)})" if shape else f"{dimension} arrays"
            raise input_error(what, wanted + (f", {known}" if known else ""), got, _CHECK)


def size_of(dimension: str, letters: Mapping[str, int]) -> tuple[int, str]:
    """Return what the known terms of a dimension add up to, and the letter that is not known."""
    total, unknown = 0, ""
    for sign, term in _TERM.findall(dimension):
        value = int(term) if term.isdecimal() else letters.get(term)
        if value is None:
            unknown = term
        else:
            total += -value if sign == "-" else value
    return total, unknown


def _range(spec: Array | Number) -> str:
    """Say in words what range a spec allows."""
    over = getattr(spec, "over", -math.inf)
    if over > -math.inf:
        return f"above {over:g}" + (f", at most {spec.most:g}" if spec.most < math.inf else "")
    below = getattr(spec, "below", math.inf)
    if below < math.inf:
        return f"in [{spec.least:g}, {below:g})"
    if spec.most < math.inf:
        return f"in [{spec.least:g}, {spec.most:g}]"
    return f"{spec.least:g} or more"


def _number(what: str, value: Any, spec: Number, one: Field[Any]) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    whole = one.type in ("int", int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise input_error(what, "a whole number" if whole else "a number", value, _CHECK)
    inside = spec.least <= value <= spec.most and value < spec.below
    if not inside or not (whole or abs(value) < math.inf):
        allowed = "a finite number" if spec == Number() else _range(spec)
        raise input_error(what, allowed, value, _CHECK)
    return value if whole else float(value)


def _refuse_others(name: str, value: Any, ndim: int) -> None:
    """Refuse nested lists in which anything but numbers stands; true and false are none."""
    if isinstance(value, (list, tuple)):
        for kind in set(map(type, value)):
            if kind in (bool, np.bool_) or not issubclass(
                kind, (int, float, np.number, np.ndarray, list, tuple)
            ):
                got = "true or false among them" if kind is bool else f"{kind.__name__} among them"
                raise input_error(name, f"numbers, {ndim} levels deep", got, _CHECK)
        for part in value:
            if type(part) in (list, tuple):
                _refuse_others(name, part, ndim)
