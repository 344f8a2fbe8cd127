"""Random exits: the null baseline that looks at nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..coin import coin
from ..output import ExitOutput
from .base import Floats, ScoreRule, State


@dataclass(frozen=True)
class Random(ScoreRule):
    """A fresh coin in [0, 1) per sample and exit; the counter is the sample's number."""

    seed: int

    name = "random"

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Keep the samples' numbers."""
        return (samples,)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the coin of (sample, k)."""
        # Stream 0 is the coin of mixtures.
        return coin(self.seed, state[0], stream=k + 1), state
