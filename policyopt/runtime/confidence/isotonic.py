"""Isotonic calibration of the top probability: a rising line through a few knots per exit.

Source: Zadrozny & Elkan, Transforming classifier scores into accurate multiclass probability
estimates, KDD 2002. Fitted by `policyopt.answers.isotonic`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import input_error
from .base import ConfidenceRule, Floats, per_exit


@dataclass(frozen=True, eq=False)
class Isotonic(ConfidenceRule):
    """Straight between knots, level beyond the first and the last.

    Parameters
    ----------
    knots : K arrays of shape (M_k,)
        Top probabilities, rising.
    values : K arrays of shape (M_k,)
        Probabilities of being right there, not falling.

    Raises
    ------
    InputError
        Knots that do not rise, values that fall or lie outside [0, 1].

    Examples
    --------
    >>> Isotonic([[0.4, 0.8]], [[0.5, 0.9]]).curve(0, np.array([0.1, 0.6, 1.0]))
    array([0.5, 0.7, 0.9])
    """

    knots: Any
    values: Any

    name = "isotonic"

    def __post_init__(self) -> None:
        knots = per_exit("knots of confidence isotonic", self.knots)
        values = per_exit("values of confidence isotonic", self.values)
        if [len(x) for x in knots] != [len(y) for y in values] or not all(len(x) for x in knots):
            raise input_error(
                "values of confidence isotonic", "one per knot, one knot or more per exit",
                [len(y) for y in values], "Check the policy.",
            )  # fmt: skip
        for k, (x, y) in enumerate(zip(knots, values, strict=True)):
            if (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
                raise input_error(
                    f"knots of confidence isotonic, exit {k}", "rising, their values not falling",
                    x.tolist(), "Check the policy.",
                )  # fmt: skip
        object.__setattr__(self, "knots", knots)
        object.__setattr__(self, "values", values)

    def curve(self, k: int, top: Floats) -> Floats:
        """Map top probabilities; see the class."""
        return np.interp(top, self.knots[k], self.values[k])
