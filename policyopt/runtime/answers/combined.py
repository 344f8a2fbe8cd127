"""Answers combined over exits: a weighted geometric mean of the class probabilities so far.

``log P_k = sum_{j<=k} w_kj log p_j + b_k + const``. Sources: Wołczyk et al., Zero Time Waste,
NeurIPS 2021, eq. 4 (weights and class biases fitted per exit); Jazbec et al., Towards anytime
classification in early-exit architectures, NeurIPS 2023, eq. 4 (product of experts).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import input_error
from ..parameters import numbers
from .base import AnswerRule, Logits, State

#: Least log-odds of a class against the exit's largest.
FLOOR = np.float32(-30.0)


@dataclass(frozen=True, eq=False)
class Combined(AnswerRule):
    """``log P_k = sum_{j<=k} weights[k, j] z_j + bias[k]``, normalised over the classes.

    Logits stand for log-probabilities here: they differ by a constant per row, which the
    normalisation takes away, so that no earlier softmax need be computed or kept.

    Parameters
    ----------
    weights : array of shape (K, K)
        0 or more; 0 above the diagonal.
    bias : array of shape (K, C), optional
    """

    weights: Any
    bias: Any = None

    name = "combined"

    def __post_init__(self) -> None:
        weights = numbers("weights of the answer", self.weights, 2)
        if weights.shape[0] != weights.shape[1] or (weights < 0).any() or np.triu(weights, 1).any():
            raise input_error(
                "weights of the answer", "(K, K), 0 or more, 0 for later exits",
                f"shape {weights.shape}", "Check the policy.",
            )  # fmt: skip
        object.__setattr__(self, "weights", weights)
        if self.bias is not None:
            object.__setattr__(self, "bias", numbers("bias of the answer", self.bias, 2))

    def check(self, exits: int, classes: int) -> None:
        """Refuse parameters of another number of exits or classes."""
        shapes = {"weights": (self.weights, (exits, exits)), "bias": (self.bias, (exits, classes))}
        for name, (array, wanted) in shapes.items():
            if array is not None and array.shape != wanted:
                raise input_error(
                    f"{name} of the answer", f"of shape {wanted}", array.shape, "Check the policy."
                )

    def start(self, samples: int, classes: int) -> State:
        """Start without outputs, (n, 0, C)."""
        return (np.empty((samples, 0, classes), dtype=np.float32),)

    def answer(self, k: int, logits: Logits, state: State) -> tuple[Logits, State]:
        """Return the weighted sum of the logits so far."""
        # Relative to the largest: a class that one exit rules out is unlikely, not impossible, else
        # exits that rule out each other's classes leave none.
        logits = np.maximum(logits - logits.max(axis=1, keepdims=True), FLOOR)
        past = state[0]
        out = np.zeros_like(logits)
        for j in range(k + 1):  # in turn, so that a row's sum does not depend on its batch
            weight = np.float32(self.weights[k, j])
            if weight:
                out += weight * (past[:, j] if j < k else logits)
        if self.bias is not None:
            out += self.bias[k].astype(np.float32)
        return out, (np.concatenate([past, logits[:, None]], axis=1),)

    def operations(self, k: int, classes: int) -> float:
        """One multiply-add per class and exit with a weight, one addition per class bias."""
        used = int(np.count_nonzero(self.weights[k])) + (self.bias is not None)
        return float(classes * used)

    def params(self) -> dict[str, Any]:
        """Return weights and bias as lists."""
        bias = None if self.bias is None else self.bias.tolist()
        return {"weights": self.weights.tolist(), "bias": bias}
