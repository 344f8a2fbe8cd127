"""A constant score: with thresholds of never/always it makes every sample leave at one exit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..output import ExitOutput
from .base import Floats, ScoreRule, State


@dataclass(frozen=True)
class Constant(ScoreRule):
    """0 for every sample at every exit."""

    name = "constant"

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return zeros."""
        return np.zeros(len(output)), state
