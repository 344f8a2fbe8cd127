"""Entrants of a simulation: the online policies there are, by name and settings."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from policyopt.runtime._bandits import BANDITS
from policyopt.runtime._checks import check_names
from policyopt.runtime._errors import input_error
from policyopt.runtime._online.controller import Controller
from policyopt.runtime._online.exit_rules import EXIT_RULES

FIXED = "fixed"
_RULES: dict[str, Any] = {**BANDITS, **EXIT_RULES, Controller.name: Controller, FIXED: None}
#: Fields that a simulation fills in: from costs and overhead, the budget, or the rows to fit on.
_GIVEN = ("layers", "costs", "budget", "hidden")
_FOLLOWS = ("offload", "start")  # unless set: the overhead, and the level fitted to the budget


def settings_of(name: str) -> dict[str, Any]:
    """Return the settings of an online policy and their defaults; None: it follows from the run."""
    given = fields(_RULES[name]) if _RULES[name] else ()
    settings = (f for f in given if f.name not in _GIVEN)
    return {f.name: None if f.name in _FOLLOWS else f.default for f in settings}


def every() -> list[dict[str, Any]]:
    """Return name, kind, summary, source and settings of every online policy, JSON-able."""
    from policyopt._methods.settings import explained

    kinds = {**dict.fromkeys(BANDITS, "bandit"), **dict.fromkeys(EXIT_RULES, "by exit")}
    return [
        {
            "method": name,
            "family": "online",
            "kind": kinds.get(name, "at a budget"),
            "summary": rule.summary if rule else "stays where it was fitted, at the budget",
            "reference": rule.reference if rule else "",
            "settings": settings_of(name),
            "explained": explained(rule or object, settings_of(name), {}),
        }
        for name, rule in _RULES.items()
    ]


def asked(policies: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return name and settings of each policy asked for; ``bandits`` stands for all of them."""
    given = check_names("policies", policies, "E.g. ucb1.")
    every = [name for spec in given for name in (BANDITS if spec == "bandits" else (spec,))]
    check_names("policies", every, "E.g. ucb1; bandits stands for all bandits.")
    return {spec: _parse(spec) for spec in every}


def _parse(spec: str) -> tuple[str, dict[str, Any]]:
    """Divide ``name:key=value+key=value``."""
    from policyopt._methods.registry import parse_value
    from policyopt._methods.settings import parse_spec

    name, inline = parse_spec(spec)
    if name == "bandits":
        allowed = "none: it stands for all of them"
        raise input_error("settings of bandits", allowed, ", ".join(inline), "E.g. ucb1:c=2.")
    if name not in _RULES:
        allowed = f"one of {', '.join(_RULES)}, or bandits for all bandits"
        raise input_error("policy", allowed, name, "`policyopt methods online` tells of them.")
    known = settings_of(name)
    for key in [key for key in inline if key not in known]:
        allowed = f"one of {', '.join(known)}" if known else "none: it has none"
        step = f"`policyopt methods {name}` lists its settings."
        raise input_error(f"setting of {name}", allowed, key, step)
    return name, {key: parse_value(value) for key, value in inline.items()}
