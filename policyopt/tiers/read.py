"""A description of tiers, TOML or JSON, from anyone: every field checked by name, all sizes bounded.

Looked at before it is parsed: the size; in TOML, whose parser takes time that grows with the square of the
parts of a key, the parts of keys and the depth of brackets too (JSON: see `runtime.strict_json`).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policyopt.runtime import strict_json
from policyopt.runtime.checks import MAX_NAME, MAX_UNIT, check_text
from policyopt.runtime.errors import InputError, input_error
from policyopt.tiers.describe import SEE, Link, Tier, Tiers

#: A description of 100 stages on 8 tiers, all of them measured, is a tenth of it.
MAX_BYTES = 1 << 16
MAX_PARTS, MAX_DEPTH, MAX_STAGES, MAX_NUMBER = 8, 16, 10_000, 1e15
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
    """Read a description, TOML or (where the name ends so) JSON.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Tiers

    Raises
    ------
    InputError
        No plain file, more than 64 KiB, not TOML or JSON, or a field that is unknown, missing or wrong.
    """
    path = Path(path)
    data = strict_json.read_plain(path, "tiers", MAX_BYTES, SEE)
    if path.suffix.lower() == ".json":
        return tiers_from(strict_json.parse(data, path.name, MAX_BYTES, SEE))
    try:
        text = data.decode("utf-8")
        _refuse_excess(text, path.name)
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        if isinstance(error, InputError):
            raise
        raise input_error(path.name, "TOML", str(error), SEE) from error
    return tiers_from(content)


def _refuse_excess(text: str, source: str) -> None:
    """Refuse keys of many parts and deep nesting by the text alone."""
    bare = _TEXT.sub(lambda found: "" if found[0][0] == "#" else "s", text)
    if _LONG_KEY.search(bare):
        raise input_error(
            source, f"TOML with keys of at most {MAX_PARTS} parts", "a longer one", SEE
        )
    depth = 0
    for sign in re.findall(r"[\[\]{}]", bare):
        depth += 1 if sign in "[{" else -1
        if depth > MAX_DEPTH:
            raise input_error(source, f"TOML nested at most {MAX_DEPTH} deep", "deeper", SEE)


def tiers_from(content: Any) -> Tiers:
    """Build the description from what a file holds, checked; see docs/tiers.md for its fields.

    Examples
    --------
    >>> tiers = tiers_from(
    ...     {"model": {"input_bytes": 784}, "tier": [{"name": "a", "ms_per_unit": 1}]}
    ... )
    >>> tiers.tiers[0].ms_per_unit
    1.0
    """
    top = _fields("tiers", content, {"model", "tier", "link", "currency"}, {"model", "tier"})
    model = _fields(
        "model", top["model"],
        {"input_bytes", "cut_bytes", "answer_bytes", "message_bytes", "head_share", "unit"},
        {"input_bytes"},
    )  # fmt: skip
    answer = model.get("answer_bytes", 0.0)
    return Tiers(
        tuple(_tier(i, one) for i, one in enumerate(_list("tier", top["tier"]))),
        tuple(_link(i, one) for i, one in enumerate(_list("link", top.get("link", [])))),
        _number("input_bytes of the model", model["input_bytes"]),
        _numbers("cut_bytes of the model", model.get("cut_bytes", [])),
        None if answer is False else _number("answer_bytes of the model", answer),
        _number("message_bytes of the model", model.get("message_bytes", 0.0)),
        _numbers("head_share of the model", model.get("head_share", []), most=1.0),
        _text("currency", top.get("currency", "USD")),
        _text("unit of the model", model["unit"]) if "unit" in model else "",
    )


def _tier(place: int, content: Any) -> Tier:
    where = f"tier {place}"
    rates = {"ms_per_unit", "mJ_per_unit", "watts", "price_per_unit", "price_per_hour"}
    found = _fields(where, content, rates | {"name", "stage_ms", "most_stages"}, {"name"})
    if ("ms_per_unit" in found) == ("stage_ms" in found):
        raise _bad(where, "given ms_per_unit or stage_ms, one of the two", sorted(found))
    most = found.get("most_stages")
    if most is not None and (type(most) is not int or not 0 <= most <= MAX_STAGES):
        raise _bad(f"most_stages of {where}", f"a whole number from 0 to {MAX_STAGES}", most)
    return Tier(
        _text(f"name of {where}", found["name"], MAX_NAME),
        stage_ms=_numbers(f"stage_ms of {where}", found.get("stage_ms", [])),
        most_stages=most,
        **{name: _number(f"{name} of {where}", found[name]) for name in rates & found.keys()},
    )


def _link(place: int, content: Any) -> Link:
    where = f"link {place}"
    found = _fields(where, content, set(Link.__dataclass_fields__), {"megabits_per_second"})
    return Link(**{
        name: _number(f"{name} of {where}", value, positive=name.endswith("megabits_per_second"))
        for name, value in found.items()
    })  # fmt: skip


def _bad(where: str, allowed: str, got: object) -> InputError:
    return input_error(where, allowed, got, SEE)


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


def _list(where: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise _bad(where, f"a list of tables, [[{where}]]", value)
    return value


def _text(where: str, value: Any, most: int = MAX_UNIT) -> str:
    return check_text(where, value.strip() if isinstance(value, str) else value, most, SEE)


def _number(where: str, value: Any, positive: bool = False, most: float = MAX_NUMBER) -> float:
    # Whole numbers of any length are compared as they are; comparing NaN is always false.
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most
    if not fits or (positive and value == 0):
        low = "above 0" if positive else "0 or more"
        shown = f"the text {value!r}" if isinstance(value, str) else value
        raise _bad(where, f"a number, {low} and at most {most:g}", shown)
    return float(value)


def _numbers(where: str, value: Any, most: float = MAX_NUMBER) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise _bad(where, "a list of numbers", value)
    return tuple(_number(where, one, most=most) for one in value)
