"""Largest class probability: Huang et al., MSDNet, ICLR 2018, section 4.2; Kaya et al., SDN, 2019."""

from __future__ import annotations

from dataclasses import dataclass

from ..output import ExitOutput
from .base import Floats, ScoreRule, State


@dataclass(frozen=True)
class MaxProb(ScoreRule):
    """``max_c p_c`` of the current exit, in [1/C, 1] (EENet eq. 5)."""

    name = "max_prob"

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the confidence at exit k."""
        return output.confidence, state
