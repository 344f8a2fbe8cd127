"""What is searched: a method's declared domains, less what the user fixes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from policyopt.methods.registry import ROWS, make_method, parse_value
from policyopt.methods.space import Choice, Domain, Integer, Real
from policyopt.runtime.errors import input_error

#: More combinations than this are not listed: nobody tries them all.
_LISTED = 10_000


@dataclass(frozen=True)
class Search:
    """A method, what is fixed and what is tried.

    Attributes
    ----------
    method : str
        Name in the registry.
    fixed : mapping
        Settings that every trial has.
    domains : mapping of str to Domain
        Settings that are tried.
    default : mapping
        The method's own values of those settings.
    """

    method: str
    fixed: Mapping[str, Any]
    domains: Mapping[str, Domain]
    default: Mapping[str, Any]

    def start(self) -> dict[str, Any]:
        """Return the default's values where a trial may have them; elsewhere it is not set."""
        return {k: v for k, v in self.default.items() if _holds(self.domains[k], v)}

    def combinations(self, seed: int = 0) -> list[dict[str, Any]] | None:
        """Return all combinations in random order; None where there is no end of them."""
        options = [_options(domain) for domain in self.domains.values()]
        listed = [o for o in options if o is not None]
        if len(listed) < len(options) or math.prod(len(o) for o in listed) > _LISTED:
            return None
        every = [dict(zip(self.domains, values, strict=True)) for values in product(*listed)]
        return [every[i] for i in np.random.default_rng(seed).permutation(len(every))]


def make_search(spec: str, fixed: Mapping[str, Any] | None = None) -> Search:
    """Return what to search for a method.

    Parameters
    ----------
    spec : str
        A name of the registry, perhaps with settings (``max_prob:mix=false``): those are fixed.
    fixed : mapping, optional
        More settings that are not searched; values may be text as on the command line.

    Returns
    -------
    Search

    Raises
    ------
    InputError
        Unknown method or setting, or nothing left to search.
    """
    if not isinstance(spec, str):
        make_method(spec)  # refuses it
    name, _, inline = spec.partition(":")
    if name in ROWS and not space_of(name):
        able = ", ".join(n for n in ROWS if space_of(n)) or "none yet"
        raise input_error(
            "method", f"one with settings to tune: {able}", name, f"Use `policyopt fit` for {name}."
        )
    make_method(spec, fixed)  # refuses by name what it does not know
    pairs = (item.partition("=") for item in filter(None, inline.split("+")))
    given = {**(fixed or {}), **{key: value for key, _, value in pairs}}
    given = {key: parse_value(value) for key, value in given.items()}
    domains = {key: domain for key, domain in space_of(name).items() if key not in given}
    if not domains:
        known = ", ".join(space_of(name))
        raise input_error(
            "settings fixed", f"fewer than all that {name} can tune ({known})", ", ".join(given),
            "Drop a --set.",
        )  # fmt: skip
    defaults = ROWS[name].settings()
    return Search(name, given, domains, {key: defaults[key] for key in domains})


def space_of(name: str) -> dict[str, Domain]:
    """Return the domains that a method of the registry declares and its row leaves open."""
    row = ROWS[name]
    return {k: domain for k, domain in row.load().space().items() if k not in row.preset}


def key_of(settings: Mapping[str, Any]) -> str:
    """Return a text that tells settings apart, ``True`` from ``1`` too."""
    return json.dumps(dict(settings), sort_keys=True, default=str)


def suggest(trial: Any, domains: Mapping[str, Domain]) -> dict[str, Any]:
    """Ask an Optuna trial for a value of each domain."""
    values = {}
    for name, domain in domains.items():
        if isinstance(domain, Choice):
            values[name] = trial.suggest_categorical(name, list(domain.options))
        elif isinstance(domain, Integer):
            values[name] = trial.suggest_int(name, domain.low, domain.high, log=domain.log)
        else:
            values[name] = trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    return values


def _options(domain: Domain) -> list[Any] | None:
    if isinstance(domain, Choice):
        return list(domain.options)
    if isinstance(domain, Integer) and domain.high - domain.low < _LISTED:
        return list(range(domain.low, domain.high + 1))
    return None


def _holds(domain: Domain, value: Any) -> bool:
    if isinstance(domain, Choice):
        return key_of({"": value}) in [key_of({"": option}) for option in domain.options]
    kinds = (int, float) if isinstance(domain, Real) else int
    return (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and domain.low <= value <= domain.high
    )
