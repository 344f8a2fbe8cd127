"""Bandits: they choose among arms while serving, and a simulation plays them as a server would.

A `Bandit` holds settings; its `player` serves a single stream, in plain Python numbers, in constant
time and memory per request. Repetitions of a simulation are as many players.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .._errors import input_error
from .base import Bandit, Player
from .exp3 import EXP3
from .index import UCB1, UCBV, DiscountedUCB, SlidingWindowUCB, UCBTuned
from .kl_ucb import KLUCB
from .thompson import Thompson

__all__ = ["BANDITS", "Bandit", "Player", "make_bandit"]

_EVERY = (DiscountedUCB, EXP3, KLUCB, SlidingWindowUCB, Thompson, UCB1, UCBTuned, UCBV)
BANDITS: Mapping[str, type[Bandit]] = {bandit.name: bandit for bandit in _EVERY}


def make_bandit(name: str, settings: Mapping[str, Any] | None = None) -> Bandit:
    """Build a bandit from its name and settings, as a saved state holds them.

    Parameters
    ----------
    name : str
        One of `BANDITS`.
    settings : mapping, optional
        Of the bandit.

    Returns
    -------
    Bandit

    Raises
    ------
    InputError
        Unknown name or setting, or a value that is not allowed.

    Examples
    --------
    >>> make_bandit("ucb1", {"c": 0.5})
    UCB1(c=0.5)
    """
    if not isinstance(name, str) or name not in BANDITS:
        raise input_error("bandit", f"one of {', '.join(BANDITS)}", name, "E.g. ucb1.")
    bandit, wanted = BANDITS[name], dict(settings or {})
    known = [f.name for f in fields(bandit)]  # type: ignore[arg-type]
    for key in wanted:
        if key not in known:
            allowed = f"one of {', '.join(known) or 'none: it has no settings'}"
            step = f"`policyopt methods {name}`."
            raise input_error(f"setting of {name}", allowed, key, step)
    return bandit(**wanted)
