"""The score of EENet's released code (git-disl/EENet), which differs from the paper's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import input_error
from ..linear import row_product
from ..output import ExitOutput
from .base import Floats, ScoreRule, State
from .eenet import each_exit
from .entropy import Entropy


@dataclass(frozen=True, eq=False)
class EenetReleased(ScoreRule):
    """``w_k . [p_k, max p_k, certainty_k, clip(q_0), .., clip(q_{k-1})]``, unclipped.

    Source: utils/predict_helpers.py, ScoreNormalizer. Linear and without bias. Earlier scores are
    clipped to [0, 1] where they are passed on, as in the release's training; its test code passes
    them on unclipped, so there the score that is deployed is not the one that was trained.

    Parameters
    ----------
    weights : sequence of K arrays of shape (C + 2 + k,)
    """

    weights: Any

    name = "eenet_released"
    needs = frozenset({"log_prob"})
    arrays = frozenset({"weights"})

    def __post_init__(self) -> None:
        weights = each_exit("weights of eenet_released", self.weights, 1)
        for k, weight in enumerate(weights):
            if len(weight) != len(weights[0]) + k:
                raise input_error(
                    f"weights of eenet_released at exit {k}", f"{len(weights[0]) + k} numbers",
                    len(weight), "Check the policy.",
                )  # fmt: skip
        object.__setattr__(self, "weights", weights)

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start with no earlier scores."""
        return (np.empty((len(samples), 0)),)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the linear score at exit k, unbounded."""
        (past,) = state
        x = np.concatenate([released_inputs(k, output), past], axis=1)
        score = row_product(x, self.weights[k][None])[:, 0]
        return score, (np.concatenate([past, np.clip(score, 0.0, 1.0)[:, None]], axis=1),)

    def operations(self, k: int, classes: int) -> float:
        """Return the multiply-adds of the product at exit k."""
        del classes
        return float(self.weights[k].size)

    def check(self, exits: int, classes: int) -> None:
        """Refuse weights of another number of exits or classes."""
        came = (len(self.weights), len(self.weights[0]) - 2)
        if came != (exits, classes):
            raise input_error(
                "weights of eenet_released", f"made for {exits} exits and {classes} classes",
                f"{came[0]} and {came[1]}", "Fit again.",
            )  # fmt: skip

    def params(self) -> dict[str, Any]:
        """Return the weights as nested lists."""
        return {"weights": [w.tolist() for w in self.weights]}


def released_inputs(k: int, output: ExitOutput) -> Floats:
    """Return ``[p_k, max p_k, 1 + sum p log p / log C]``, (n, C + 2); no vote, as released."""
    assert output.log_prob is not None  # the rule's `needs` sees to it
    certainty, _ = Entropy(output.log_prob.shape[1]).score(k, output, ())
    measures = np.stack([output.confidence, certainty], axis=1)
    return np.concatenate([np.exp(output.log_prob.astype(np.float64)), measures], axis=1)
