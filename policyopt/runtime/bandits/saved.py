"""Saved states are read as what they are: input from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import bad


def checked(what: str, state: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """Return a saved state that has exactly the given fields.

    Examples
    --------
    >>> checked("state", {"rounds": 3}, ["rounds"])
    {'rounds': 3}
    """
    if not isinstance(state, Mapping) or state.keys() != set(names):
        got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise bad(what, f"a mapping of exactly {', '.join(sorted(set(names)))}", got, "Start anew.")
    return state
