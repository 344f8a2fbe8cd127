"""Entropy: Teerapittayanon et al., BranchyNet, ICPR 2016, algorithm 1; normalised as EENet eq. 6."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import input_error
from ..output import ExitOutput
from .base import Floats, ScoreRule, State


@dataclass(frozen=True)
class Entropy(ScoreRule):
    """``1 + sum_c p_c log p_c / log C``: 0 for even odds, 1 for certainty.

    BranchyNet exits where the entropy is *below* its threshold: the same decisions, since the
    score falls strictly with the entropy.
    """

    classes: int

    name = "entropy"
    needs = frozenset({"entropy"})

    def check(self, exits: int, classes: int) -> None:
        """Refuse another number of classes than the policy's."""
        del exits
        if self.classes != classes:
            raise input_error(
                "classes of the score", f"the policy's: {classes}", self.classes, "Fit again."
            )

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the normalised certainty at exit k."""
        return 1.0 - output.entropy / np.log(max(self.classes, 2)), state
