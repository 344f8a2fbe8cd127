"""Vector scaling: one factor and one bias per class and exit.

``P_k = softmax(a_k * log p_k + b_k)``. Source: Guo et al., On calibration of modern neural
networks, ICML 2017 (arXiv:1706.04599), section 4.2; on log-probabilities it is the diagonal
case of Kull et al., Dirichlet calibration, NeurIPS 2019. Fitted by `policyopt.answers.vector`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import input_error
from ..output import reduce_logits, with_log_prob
from ..parameters import numbers
from .base import AnswerRule, Logits, State

_LARGEST = 1e6


@dataclass(frozen=True, eq=False)
class Vector(AnswerRule):
    """``log P_k = scale[k] * log p_k + bias[k]``, normalised over the classes.

    The logits are normalised first: with a factor per class, a constant added to a row would
    otherwise change the answer.

    Parameters
    ----------
    scale : array of shape (K, C)
        Over 0, so that a class that cannot be (-inf) stays so.
    bias : array of shape (K, C)

    Raises
    ------
    InputError
        Unequal shapes, a factor outside (0, 1e6], a bias beyond 1e6.

    Examples
    --------
    >>> rule = Vector([[1.0, 1.0]], [[0.0, 0.5]])
    >>> rule.answer(0, np.log(np.array([[0.8, 0.2]], np.float32)), ())[0].round(3)
    array([[-0.223, -1.109]], dtype=float32)
    """

    scale: Any
    bias: Any

    name = "vector"

    def __post_init__(self) -> None:
        scale = numbers("scale of the answer", self.scale, 2)
        bias = numbers("bias of the answer", self.bias, 2)
        if (scale < 1.0 / _LARGEST).any() or (scale > _LARGEST).any():
            raise input_error(
                "scale of the answer", "over 0", float(scale.min()), "Check the policy."
            )
        if bias.shape != scale.shape or (np.abs(bias) > _LARGEST).any():
            raise input_error(
                "bias of the answer", f"of shape {scale.shape}, each within {_LARGEST:g}",
                f"shape {bias.shape}", "Check the policy.",
            )  # fmt: skip
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "bias", bias)

    def check(self, exits: int, classes: int) -> None:
        """Refuse parameters of another number of exits or classes."""
        if self.scale.shape != (exits, classes):
            raise input_error(
                "scale of the answer", f"of shape {(exits, classes)}", self.scale.shape,
                "Check the policy.",
            )  # fmt: skip

    def answer(self, k: int, logits: Logits, state: State) -> tuple[Logits, State]:
        """Return the scaled log-probabilities."""
        log_prob = with_log_prob(reduce_logits(logits), logits).log_prob
        assert log_prob is not None
        with np.errstate(over="ignore"):
            scaled = log_prob * self.scale[k].astype(np.float32)
        return scaled + self.bias[k].astype(np.float32), state

    def operations(self, k: int, classes: int) -> float:
        """One multiply-add and one subtraction per class."""
        del k
        return 2.0 * classes

    def params(self) -> dict[str, Any]:
        """Return scale and bias as lists."""
        return {"scale": self.scale.tolist(), "bias": self.bias.tolist()}
