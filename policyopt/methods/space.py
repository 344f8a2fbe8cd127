"""What may be tuned: a method declares, per setting, the range or the options to search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Real:
    """A number in [low, high]; ``log`` where ratios matter rather than differences."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high]."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of some options, each a text, a number, a truth value or None."""

    options: tuple[Any, ...]


Domain = Real | Integer | Choice
