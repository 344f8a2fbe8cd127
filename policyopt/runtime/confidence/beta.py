"""Beta calibration of the top probability.

``P(right) = sigmoid(a ln p - b ln(1 - p) + c)``, a, b >= 0. Source: Kull, Silva Filho, Flach,
Beta calibration, AISTATS 2017, eq. 1. Fitted by `policyopt.answers.beta`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .base import EDGE, ConfidenceRule, Floats, coefficients, sigmoid


@dataclass(frozen=True, eq=False)
class Beta(ConfidenceRule):
    """``sigmoid(a[k] ln p - b[k] ln(1 - p) + c[k])``.

    Parameters
    ----------
    a, b : array of shape (K,)
        0 or more: the map never falls.
    c : array of shape (K,)

    Examples
    --------
    >>> Beta([1.0], [1.0], [0.0]).curve(0, np.array([0.25, 0.9])).round(6)
    array([0.25, 0.9 ])
    """

    a: Any
    b: Any
    c: Any

    name = "beta"

    def __post_init__(self) -> None:
        coefficients(self, {"a": 0.0, "b": 0.0})

    def curve(self, k: int, top: Floats) -> Floats:
        """Map top probabilities; see the class."""
        p = np.clip(top, EDGE, 1 - EDGE)
        return sigmoid(self.a[k] * np.log(p) - self.b[k] * np.log1p(-p) + self.c[k])
