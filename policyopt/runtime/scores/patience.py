"""Patience: Zhou et al., PABEE, NeurIPS 2020, eq. 5: exits in a row that keep their prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..output import ExitOutput
from .base import Floats, ScoreRule, State


@dataclass(frozen=True)
class Patience(ScoreRule):
    """The counter itself: 0 at exit 0; +1 where exit k predicts as exit k-1 did, else back to 0.

    The paper stops when the counter equals its patience; ``counter >= patience`` is the same,
    since it grows by one. One counter per sample (the released code keeps one per batch).
    """

    name = "patience"

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start with no earlier prediction and a counter of 0."""
        n = len(samples)
        return np.full(n, -1, dtype=np.int32), np.zeros(n)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the counter after exit k."""
        before, counter = state
        agrees = (output.prediction == before) & (output.prediction >= 0)
        counter = np.where(agrees, counter + 1.0, 0.0)
        return counter, (output.prediction, counter)
