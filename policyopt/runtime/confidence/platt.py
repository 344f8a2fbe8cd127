"""Platt scaling of the top probability.

``P(right) = sigmoid(slope * logit(p) + offset)``. Source: Platt, Probabilistic outputs for
support vector machines, 1999, on the score's log-odds. Fitted by `policyopt.answers.platt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import ConfidenceRule, Floats, coefficients, log_odds, sigmoid


@dataclass(frozen=True, eq=False)
class Platt(ConfidenceRule):
    """``sigmoid(slope[k] * logit(p) + offset[k])``.

    Parameters
    ----------
    slope : array of shape (K,)
        0 or more.
    offset : array of shape (K,)

    Examples
    --------
    >>> import numpy as np
    >>> Platt([1.0], [0.0]).curve(0, np.array([0.25, 0.9])).round(6)
    array([0.25, 0.9 ])
    """

    slope: Any
    offset: Any

    name = "platt"

    def __post_init__(self) -> None:
        coefficients(self, {"slope": 0.0})

    def curve(self, k: int, top: Floats) -> Floats:
        """Map top probabilities; see the class."""
        return sigmoid(self.slope[k] * log_odds(top) + self.offset[k])
