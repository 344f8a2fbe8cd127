"""Bandits: one file each, named after what it holds. They choose among arms while serving.

The bandit called ``x`` is the class in ``x.py`` whose ``name`` is ``x``: a new bandit is a new file.
What bandits share is in ``parts``.
A bandit is configuration; `one` makes the form that serves a single stream (plain Python numbers,
constant time and memory per request), `many` the form that plays R streams side by side (numpy, for
simulations). Index bandits state their formula twice: `index` for arrays, and `best`, the same in one
loop over plain numbers, for speed. Both choose the same arms: tests play them side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from ..errors import input_error
from .parts.base import Bandit, Many, One

__all__ = ["BANDITS", "Bandit", "Many", "One", "make_bandit"]


class _Bandits(Mapping[str, type[Bandit]]):
    """Name to class; the names are those of the files, so none is imported to list them."""

    def __init__(self) -> None:
        self._names = [m.name for m in iter_modules(__path__) if not m.ispkg]

    def __getitem__(self, name: str) -> type[Bandit]:
        if name not in self._names:
            raise KeyError(name)
        module = import_module(f".{name}", __name__)
        return next(
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Bandit)
            and value.__module__ == module.__name__ and getattr(value, "name", None) == name
        )  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


BANDITS: Mapping[str, type[Bandit]] = _Bandits()


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
            allowed = ", ".join(known) or "none: it has no settings"
            raise input_error(
                f"setting of {name}", f"one of {allowed}", key, f"`policyopt methods {name}`."
            )
    return bandit(**wanted)
