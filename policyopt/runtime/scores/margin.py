"""Margin between the two largest probabilities (Scheffer et al., 2001; Park et al., big/little, 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from ..output import ExitOutput
from .base import Floats, ScoreRule, State


@dataclass(frozen=True)
class Margin(ScoreRule):
    """``p_(1) - p_(2)`` of the current exit, in [0, 1]."""

    name = "margin"
    needs = frozenset({"margin"})

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the margin at exit k."""
        return output.margin, state
