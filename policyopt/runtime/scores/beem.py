"""Weighted agreement of exits as experts: Bajpai & Hanawal, BEEM, ICLR 2025, arXiv:2502.00745.

The score of the method `beem`, which says where its weights come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import input_error
from ..output import ExitOutput
from ..parameters import numbers
from .base import Floats, ScoreRule, State


@dataclass(frozen=True, eq=False)
class Beem(ScoreRule):
    """``S_k = S_{k-1} + w_k C_k`` where exit k predicts as exit k-1 did, else ``w_k C_k``.

    C_k is the largest probability. An exit without an answer agrees with none.

    Parameters
    ----------
    weights : array of shape (K,)
        0 or more.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_record
    >>> from policyopt.runtime.scores import score_table
    >>> exits = [reduce_record([1], [0.5]), reduce_record([1], [0.8]), reduce_record([0], [0.6])]
    >>> score_table(Beem([0.5, 1.0, 1.0]), exits)
    array([[0.25, 1.05, 0.6 ]])
    """

    weights: Any

    name = "beem"
    arrays = frozenset({"weights"})

    def __post_init__(self) -> None:
        weights = numbers("weights of score beem", self.weights, 1)
        if (weights < 0).any():
            raise input_error(
                "weights of score beem", "0 or more", weights.tolist(), "Check the policy."
            )
        object.__setattr__(self, "weights", weights)

    def check(self, exits: int, classes: int) -> None:
        """Refuse weights of another number of exits."""
        del classes
        if len(self.weights) != exits:
            raise input_error(
                "weights of score beem", f"{exits} numbers", len(self.weights), "Fit again."
            )

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start with no earlier prediction and nothing gathered."""
        n = len(samples)
        return np.full(n, -1, dtype=np.int32), np.zeros(n)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return what the exits that agree have gathered, up to exit k."""
        before, gathered = state
        agrees = (output.prediction == before) & (output.prediction >= 0)
        gathered = np.where(agrees, gathered, 0.0) + self.weights[k] * output.confidence
        return gathered, (output.prediction, gathered)

    def operations(self, k: int, classes: int) -> float:
        """One multiply-add."""
        del k, classes
        return 1.0

    def params(self) -> dict[str, Any]:
        """Return the weights as a list."""
        return {"weights": self.weights.tolist()}
