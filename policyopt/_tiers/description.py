"""Tiers and the links between them: what stages and bytes cost there; read from TOML or JSON of anyone.

It holds what the partitioning papers measure: Edgent, arXiv:1806.07840, Algorithm 1 (layer sizes and times,
bandwidth); Pacheco & Couto, ISCC 2020, arXiv:2005.04099 (a processing factor, bytes of each layer); SPINN, MobiCom
2020, arXiv:2008.06402 (a profile per device); DDNN, ICDCS 2017, arXiv:1709.01921 (bytes sent). Departures: tiers
in one row, each joined to the next by one link; bytes as they really pass; no queues: state times under load.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.runtime import _strict_json as strict_json
from policyopt.runtime._checks import (
    MAX_NAME,
    MAX_UNIT,
    check_text,
    check_type,
    check_whole,
    to_python,
)
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._typing import Floats

OBJECTIVES = ("latency", "energy", "price")
MAX_TIERS = 8
#: A description of 100 stages on 8 tiers, all of them measured, is a tenth of it.
MAX_BYTES = 1 << 16
MAX_PARTS, MAX_DEPTH, MAX_STAGES, MAX_NUMBER = 8, 16, 10_000, 1e15
_SEE = "See docs/tiers.md for an example."


@dataclass(frozen=True)
class Tier:
    """A place where stages run.

    Parameters
    ----------
    name : str
    ms_per_unit : float
        Time of a unit of the cache's cost; unused where `stage_ms` is given.
    stage_ms : tuple of K floats
        Measured times of the stages instead, heads included.
    mJ_per_unit, price_per_unit : float
        Energy and price of a unit.
    watts, price_per_hour : float
        Energy and price of the time that it computes, added.
    most_stages : int, optional
        How many fit into its memory.
    """

    name: str
    ms_per_unit: float = 0.0
    stage_ms: tuple[float, ...] = ()
    mJ_per_unit: float = 0.0
    watts: float = 0.0
    price_per_unit: float = 0.0
    price_per_hour: float = 0.0
    most_stages: int | None = None

    def __post_init__(self) -> None:
        _hold(self, "the tier")

    def work(self, objective: str, amounts: Floats) -> Floats:
        """Return what each stage costs here, shaped as `amounts`: (K,) or (N, K) units of cost."""
        stages = amounts.shape[-1]
        if len(self.stage_ms) not in (0, stages):
            allowed = f"{stages} times, one per stage"
            raise _bad(f"stage_ms of tier '{self.name}'", allowed, f"{len(self.stage_ms)}")
        ms = self.ms_per_unit * amounts
        if self.stage_ms:
            ms = np.broadcast_to(np.array(self.stage_ms), amounts.shape)
        if objective == "latency":
            return ms
        if objective == "energy":  # watts times milliseconds are millijoules
            return self.mJ_per_unit * amounts + self.watts * ms
        return self.price_per_unit * amounts + self.price_per_hour * ms / 3.6e6


@dataclass(frozen=True)
class Link:
    """What joins a tier to the next.

    Parameters
    ----------
    megabits_per_second, back_megabits_per_second : float
        Bandwidth onward and back; 0: back as onward.
    round_trip_ms : float
        Half of it each way.
    mJ_per_kB, price_per_GB : float
        Of bytes either way; 1 kB is 1000 bytes.
    """

    megabits_per_second: float
    back_megabits_per_second: float = 0.0
    round_trip_ms: float = 0.0
    mJ_per_kB: float = 0.0
    price_per_GB: float = 0.0

    def __post_init__(self) -> None:
        _hold(self, "the link")

    def carry(self, objective: str, size: float, back: bool = False) -> float:
        """Return what it costs to send `size` bytes."""
        if objective == "latency":
            speed = (self.back_megabits_per_second if back else 0.0) or self.megabits_per_second
            return self.round_trip_ms / 2 + 8 * size / (speed * 1e3)
        return size * (self.mJ_per_kB / 1e3 if objective == "energy" else self.price_per_GB / 1e9)


@dataclass(frozen=True)
class Tiers:
    """T tiers from the one where inputs arise to the farthest, and what passes between them.

    Parameters
    ----------
    tiers : tuple of T Tier
    links : tuple of T-1 Link
    input_bytes : float
        Of one input.
    cut_bytes : tuple of K-1 floats
        What passes from stage to stage; none of a cascade, whose models read the input.
    answer_bytes : float or None
        On the way back to the first tier; None: used where it is found.
    message_bytes : float
        That go along with all that is sent onward: the policy's state.
    head_share : tuple of K floats
        Of each stage's cost, saved where its exit is not kept.
    currency : str
    unit : str
        Of the cache's cost that the numbers are for; empty: not checked.

    Raises
    ------
    InputError
        No tier, more than eight, a name twice, another number of links; in all three classes, what no file may hold.

    Examples
    --------
    >>> places = Tier("device", ms_per_unit=4.0, watts=2.0), Tier("cloud", ms_per_unit=0.1)
    >>> tiers = Tiers(places, (Link(20.0, round_trip_ms=12.0),), 200.0, cut_bytes=(4000.0,))
    >>> tiers.unit_of("energy")
    'mJ'
    """

    tiers: tuple[Tier, ...]
    links: tuple[Link, ...]
    input_bytes: float
    cut_bytes: tuple[float, ...] = ()
    answer_bytes: float | None = 0.0
    message_bytes: float = 0.0
    head_share: tuple[float, ...] = ()
    currency: str = "USD"
    unit: str = ""

    def __post_init__(self) -> None:
        _hold(self, "the model")
        names = [tier.name for tier in self.tiers]
        if not 1 <= len(names) <= MAX_TIERS or len(set(names)) < len(names):
            raise _bad("tier", f"1 to {MAX_TIERS} tiers of different names", names)
        if len(self.links) != len(names) - 1:
            count = f"{len(names) - 1} of them, one from each tier to the next"
            raise _bad("link", count, f"{len(self.links)}")

    def unit_of(self, objective: str) -> str:
        """Return the unit of an objective: ms, mJ or the currency."""
        return {"latency": "ms", "energy": "mJ"}.get(objective, self.currency)

    def check(self, exits: int, cascade: bool, unit: str) -> None:
        """Refuse a description that is not of a model with K exits whose cost is in `unit`."""
        if self.unit and self.unit != unit:
            step = "Choose another cost with --cost, or describe the tiers in its unit."
            allowed = f"that of the cache's cost: {unit}"
            raise input_error("unit of the tiers' model", allowed, self.unit, step)
        for name, count in {"cut_bytes": exits - 1, "head_share": exits}.items():
            given = len(getattr(self, name))
            optional = name == "head_share" or cascade or len(self.tiers) == 1
            if given != count and not (optional and given == 0):
                raise _bad(f"{name} of the model", f"{count} numbers", f"{given}")
        for tier in self.tiers:
            tier.work("latency", np.zeros(exits))


# Comments and strings, in which dots and brackets are but text; the longest quotes first. A string that
# is not closed is taken to its end: nothing behind it is parsed, and none is looked at twice.
_TEXT = re.compile(
    r'#[^\n]*+|"""(?:[^\\]|\\.)*?(?:"{3,5}|\\?\Z)|'
    r"""'''.*?(?:'{3,5}|\Z)|'[^'\n]*+'?|"""
    r'"(?:[^"\\\n]|\\.)*+"?',
    re.DOTALL,
)
_LONG_KEY = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{MAX_PARTS}}}")


def load_tiers(path: str | os.PathLike[str]) -> Tiers:
    """Read a description, TOML or (where the name ends so) JSON; `docs/tiers.md` lists its fields.

    Every field is checked by name and every size is bounded, the depth of brackets and the parts of keys before
    the file is parsed: TOML's parser takes time that grows with their square.

    Parameters
    ----------
    path : path

    Returns
    -------
    Tiers

    Raises
    ------
    InputError
        No such file, too large, neither TOML nor JSON, a field that is unknown, missing or impossible.

    Examples
    --------
    >>> import policyopt as po
    >>> [tier.name for tier in po.load_tiers("docs/tiers.toml").tiers]  # doctest: +SKIP
    ['device', 'edge', 'cloud']
    """
    path = Path(path)
    data = strict_json.read_plain(path, "tiers", MAX_BYTES, _SEE)
    if path.suffix.lower() == ".json":
        return tiers_from(strict_json.parse(data, path.name, MAX_BYTES, _SEE))
    try:
        text = data.decode("utf-8")
        _refuse_excess(text, path.name)
        content = tomllib.loads(text)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise _bad(path.name, "TOML", str(error)) from error
    return tiers_from(content)


def _refuse_excess(text: str, source: str) -> None:
    """Refuse keys of many parts and deep nesting by the text alone."""
    bare = _TEXT.sub(lambda found: "" if found[0][0] == "#" else "s", text)
    if _LONG_KEY.search(bare):
        raise _bad(source, f"TOML with keys of at most {MAX_PARTS} parts", "a longer one")
    depth = 0
    for sign in re.findall(r"[\[\]{}]", bare):
        depth += 1 if sign in "[{" else -1
        if depth > MAX_DEPTH:
            raise _bad(source, f"TOML nested at most {MAX_DEPTH} deep", "deeper")


def tiers_from(content: Any) -> Tiers:
    """Build the description from what a file holds, checked; see docs/tiers.md for its fields."""
    known = {"model", "tier", "link", "currency"}
    top = _fields("tiers", content, known, {"model", "tier"})
    known = {"input_bytes", "cut_bytes", "answer_bytes", "message_bytes", "head_share", "unit"}
    model = _fields("model", top["model"], known, {"input_bytes"})
    tiers, links = _rows("tier", top["tier"], Tier), _rows("link", top.get("link", []), Link)
    return Tiers(tiers, links, **model, currency=top.get("currency", "USD"))


def _rows(name: str, given: Any, kind: type[Any]) -> tuple[Any, ...]:
    """Return the tiers, or the links, of a list of tables."""
    if not isinstance(given, list):
        raise _bad(name, f"a list of tables, [[{name}]]", given)
    known, found = {*kind.__dataclass_fields__}, []
    for i, one in enumerate(given):
        where = f"{name} {i}"
        fields = _fields(where, one, known, {"name" if kind is Tier else _SPEED})
        if kind is Tier and ("ms_per_unit" in fields) == ("stage_ms" in fields):
            raise _bad(where, "given ms_per_unit or stage_ms, one of the two", sorted(fields))
        found.append(kind(**_read(fields, where)))
    return tuple(found)


def _bad(where: str, allowed: str, got: object) -> InputError:
    return input_error(where, allowed, got, _SEE)


def _fields(where: str, content: Any, known: set[str], needed: set[str]) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise _bad(where, f"a table with {', '.join(sorted(known))}", content)
    if content.keys() - known:
        unknown = ", ".join(sorted(map(str, content.keys() - known)))
        raise _bad(f"fields of {where}", f"of {', '.join(sorted(known))}", unknown)
    if needed - content.keys():
        missing = f"without {', '.join(sorted(needed - content.keys()))}"
        raise _bad(where, f"given {', '.join(sorted(needed))}", missing)
    return content


def _text(where: str, value: Any, most: int = MAX_UNIT) -> str:
    return check_text(where, value.strip() if isinstance(value, str) else value, most, _SEE)


def _number(where: str, value: Any, most: float = MAX_NUMBER, positive: bool = False) -> float:
    # Whole numbers of any length are compared as they are; comparing NaN is always false.
    value = to_python(value)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most
    if not fits or (positive and value == 0):
        low = "above 0" if positive else "0 or more"
        shown = f"the text {value!r}" if isinstance(value, str) else value
        raise _bad(where, f"a number, {low} and at most {most:g}", shown)
    return float(value)


def _several(where: str, value: Any, one: Callable[[str, Any], Any] = _number) -> tuple[Any, ...]:
    parts = check_type(where, value, (list, tuple), "a list", _SEE)
    return tuple(one(where, part) for part in parts)


_SPEED = "megabits_per_second"
#: How fields are read that are not plain numbers, 0 or more.
_READERS: dict[str, Callable[[str, Any], Any]] = {
    "name": partial(_text, most=MAX_NAME),
    "unit": lambda where, value: value if value == "" else _text(where, value),
    "currency": _text,
    "tiers": partial(_several, one=lambda where, value: check_type(where, value, Tier, "of Tier")),
    "links": partial(_several, one=lambda where, value: check_type(where, value, Link, "of Link")),
    "stage_ms": _several,
    "cut_bytes": _several,
    "head_share": partial(_several, one=partial(_number, most=1.0)),
    "most_stages": lambda where, value: (
        None if value is None else check_whole(where, value, 0, MAX_STAGES, _SEE)
    ),
    "answer_bytes": lambda where, value: (
        None if value is None or value is False else _number(where, value)
    ),
    _SPEED: partial(_number, positive=True),
}


def _hold(made: Any, where: str) -> None:
    """Hold the fields of a frozen dataclass to what a file may say, and keep them as it is read."""
    for name, value in _read(vars(made), where).items():
        object.__setattr__(made, name, value)


def _read(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {n: _READERS.get(n, _number)(f"{n} of {where}", value) for n, value in fields.items()}
