"""Score rules: one file each. A rule decides at run time, so it lives here and needs numpy only.

The rule called ``x`` is the class in ``x.py`` whose ``name`` is ``x``: a new rule is a new file. Files
are imported when their rule is asked for, so an artifact loads what it needs and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from ..errors import input_error
from .base import ScoreRule, State, score_table


class _Rules(Mapping[str, type[ScoreRule]]):
    """Name to class; the names are those of the files, so none is imported to list them."""

    def __init__(self) -> None:
        self._names = [m.name for m in iter_modules(__path__) if m.name != "base"]

    def __getitem__(self, name: str) -> type[ScoreRule]:
        if name not in self._names:
            raise KeyError(name)
        module = import_module(f".{name}", __name__)
        return next(
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, ScoreRule)
            and value.__module__ == module.__name__ and getattr(value, "name", None) == name
        )  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


RULES: Mapping[str, type[ScoreRule]] = _Rules()


def make_rule(name: str, params: Mapping[str, Any]) -> ScoreRule:
    """Build a rule from its name and parameters, as an artifact holds them.

    Examples
    --------
    >>> make_rule("entropy", {"classes": 10})
    Entropy(classes=10)
    """
    if not isinstance(name, str) or name not in RULES:
        raise input_error(
            "score", f"one of {', '.join(RULES)}", name, "A newer policyopt may know it."
        )
    rule = RULES[name]
    whole = {field.name for field in fields(rule) if field.type == "int"}  # type: ignore[arg-type]
    try:
        if not isinstance(params, Mapping):
            raise TypeError("parameters are a mapping")
        for key, value in params.items():
            if key in whole and type(value) is not int:
                raise TypeError(f"{key} is a whole number, not {value!r}")
            if key in rule.arrays:
                continue  # checked by the rule itself
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{value!r} is not a number")
        return rule(**params)
    except TypeError as error:
        raise input_error(
            f"parameters of score {name}", "those it declares", params, str(error)
        ) from error


def __getattr__(name: str) -> Any:
    """Give a rule's class by its own name: `MaxProb` is ``RULES["max_prob"]``."""
    file = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    if file not in RULES or RULES[file].__name__ != name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return RULES[file]


__all__ = ["RULES", "ScoreRule", "State", "make_rule", "score_table"]
