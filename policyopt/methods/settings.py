"""Checks of settings that methods share: one sentence each, naming what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from policyopt.runtime.errors import input_error


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse a setting that is none of `choices`."""
    if not any(value is c or (isinstance(c, str) and value == c) for c in choices):
        shown = ", ".join(str(c).lower() if isinstance(c, bool) else c for c in choices)
        raise input_error(
            name, f"one of {shown}", value, f"E.g. --set {name}={shown.split(', ')[0]}."
        )


def check_number(
    name: str,
    value: Any,
    above: float = -1.0,
    below: float = math.inf,
    whole: bool = False,
    most: float = math.inf,
) -> None:
    """Refuse a setting that is no number in (above, below) up to `most`; without `above`: 0 or more."""
    kind = int if whole else (int, float)
    fits = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if not (fits and above < value < below and 0 <= value <= most):
        low = "0 or more" if above < 0 else f"above {above:g}"
        high = "" if below == math.inf else f" and below {below:g}"
        high = high if most == math.inf else f" and at most {most:g}"
        raise input_error(name, f"a {'whole ' if whole else ''}number, {low}{high}", value, "")
