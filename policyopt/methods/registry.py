"""The registry: all rows of the catalogue. CLI, docs and the shared checks read it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from policyopt.methods.base import Method
from policyopt.methods.row import Row
from policyopt.runtime.errors import input_error

#: One file per family in `policyopt.methods.catalogue`, each a tuple of rows called ROWS.
FAMILIES = (
    "confidence", "consistency", "distance", "class_aware", "learned", "halting", "reinforcement",
    "cascade", "choice", "null",
)  # fmt: skip
ROWS: dict[str, Row] = {
    row.name: row
    for family in FAMILIES
    for row in import_module(f"policyopt.methods.catalogue.{family}").ROWS
}
#: A comma between methods: names never begin like a number, thresholds always do.
_COMMA = re.compile(r",(?!\s*[-+.0-9])")


def method_list(methods: str | Sequence[str], argument: str = "methods") -> list[str]:
    """Return names of methods, given as several or as one text with commas; ``all`` stands alone.

    Examples
    --------
    >>> method_list("max_prob:thresholds=0.9,0.8, margin")
    ['max_prob:thresholds=0.9,0.8', 'margin']
    """
    given = _COMMA.split(methods) if isinstance(methods, str) else methods
    given = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(name, str) for name in given):
        step = "E.g. ['max_prob', 'margin']; methods that are built go into a mapping of label to method."
        raise input_error(argument, "a name or several", methods, step)
    names = [name.strip() for name in given if name.strip()]
    if not names:
        raise input_error(
            argument, "at least one method", "none", "`policyopt methods` lists them."
        )
    if "all" in names and len(names) > 1:
        raise input_error(
            argument, "names, or all alone", ", ".join(names), "Leave the others out."
        )
    return names


def make_method(spec: str, settings: Mapping[str, Any] | None = None) -> Method:
    """Build a method from its name and settings.

    Parameters
    ----------
    spec : str
        A name, or a name with settings: ``max_prob:thresholds=joint+mix=true``.
    settings : mapping, optional
        More settings; values may be text as on the command line.

    Returns
    -------
    Method

    Raises
    ------
    InputError
        Unknown method or setting.

    Examples
    --------
    >>> make_method("max_prob:thresholds=joint")
    Threshold(score='max_prob', thresholds='joint', mix=False, answer='plain', calibrator='platt')
    """
    if not isinstance(spec, str):
        raise input_error(
            "method", "a name such as max_prob", spec, "`policyopt methods` lists them."
        )
    name, _, inline = spec.partition(":")
    if name not in ROWS:
        close = difflib.get_close_matches(name.lower(), ROWS, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else "`policyopt methods` lists them."
        raise input_error("method", f"one of {', '.join(ROWS)}", name, hint)
    row = ROWS[name]
    wanted = {**row.defaults, **(settings or {})}
    for item in filter(None, inline.split("+")):
        key, equals, value = item.partition("=")
        if not equals:
            raise input_error(
                f"settings of {name}", "key=value", item, "E.g. max_prob:thresholds=joint."
            )
        if key in (settings or {}):
            raise input_error(
                f"{key} of {name}",
                "set once",
                f"'{spec}' and a setting besides",
                "Drop one of the two.",
            )
        wanted[key] = value
    allowed = row.settings()
    for key in wanted:
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise input_error(
                f"setting of {name}", f"one of: {known}", key, f"See `policyopt methods {name}`."
            )
    return row.load()(**row.preset, **{key: parse_value(value) for key, value in wanted.items()})


def apply_settings(specs: list[str], settings: Mapping[str, Any]) -> dict[str, Method]:
    """Build several methods; each takes those settings that it has, and every setting must find one.

    Examples
    --------
    >>> apply_settings(["max_prob", "patience"], {"thresholds": "joint"})["max_prob"].thresholds
    'joint'
    """
    chosen, used = {}, set()
    for spec in specs:
        name, _, inline = spec.partition(":")
        row = ROWS.get(name)
        mine = {k: v for k, v in settings.items() if row and k in row.settings()}
        used |= mine.keys()
        # What stands in the spec itself is meant for this method: it goes before the common setting.
        own = {item.partition("=")[0] for item in inline.split("+")}
        chosen[spec] = make_method(spec, {k: v for k, v in mine.items() if k not in own})
    for key in settings.keys() - used:
        raise input_error(
            "setting", f"one that {' or '.join(specs)} has", key, "`policyopt methods` lists them."
        )
    return chosen


def parse_value(value: Any) -> Any:
    """Turn a setting's text into a number, a truth value, a tuple of numbers, or leave it a text.

    Examples
    --------
    >>> parse_value("0.9,0.8"), parse_value("true"), parse_value("3"), parse_value("joint")
    ((0.9, 0.8), True, 3, 'joint')
    """
    if hasattr(value, "tolist"):  # numpy arrays and numbers
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(parse_value(v) for v in value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if "," in text:
        return tuple(_number(part) for part in text.split(",") if part.strip())
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise input_error(
            "setting", "numbers such as 0.9,0.8", text.strip(), "E.g. --set thresholds=0.9,0.8."
        ) from error
