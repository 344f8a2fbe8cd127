"""Share of exits so far that agree on one class: Ilhan et al., EENet, WACV 2024, eq. 7."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..output import ExitOutput
from .base import Floats, ScoreRule, State


@dataclass(frozen=True)
class Vote(ScoreRule):
    """``max_c #{j <= k: prediction_j = c} / (k + 1)``; an exit without an answer casts no vote.

    At exit 0 the vote of whoever answers is 1: it says nothing there, by construction.
    """

    name = "vote"

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start with no votes, (n, 0)."""
        return (np.empty((len(samples), 0), dtype=np.int32),)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Add exit k's vote and return the share of the leading class."""
        votes = np.concatenate([state[0], output.prediction[:, None]], axis=1)
        # K is small: comparing all pairs of exits beats counting per class.
        same = (votes[:, :, None] == votes[:, None, :]) & (votes >= 0)[:, :, None]
        return same.sum(axis=1).max(axis=1) / (k + 1), (votes,)
