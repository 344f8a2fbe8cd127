"""Confidence less an offset of the predicted class: class-based thresholds, as one score.

Görmez & Koyuncu, arXiv:2210.15621, compare the confidence with a threshold of the predicted class;
``confidence >= t + offset_c`` is ``confidence - offset_c >= t``. `policyopt.methods.cbt` says how offsets
are found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import input_error
from ..linear import lookup
from ..output import ExitOutput
from ..parameters import numbers
from .base import Floats, ScoreRule, State


@dataclass(frozen=True, eq=False)
class ClassOffset(ScoreRule):
    """``confidence - offset[prediction]``, at every exit.

    Parameters
    ----------
    offset : array of shape (C,)
    other : float
        Of a class beyond those, and of a sample without an answer.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_record
    >>> ClassOffset([0.0, 0.1], 0.05).score(0, reduce_record([0, 1, -1], [0.5, 0.5, 0]), ())[0]
    array([ 0.5 ,  0.4 , -0.05])
    """

    offset: Any
    other: float

    name = "class_offset"
    arrays = frozenset({"offset"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", numbers("offset of the score", self.offset, 1))
        if not len(self.offset) or not np.isfinite(self.other):
            raise input_error(
                "offset of the score", "one number per class, and one for others", self.other,
                "Fit it again.",
            )  # fmt: skip

    def check(self, exits: int, classes: int) -> None:
        """Refuse offsets of another number of classes."""
        del exits
        if classes and len(self.offset) != classes:
            raise input_error(
                "offset of the score", f"one per class: {classes}", len(self.offset),
                "Fit it again.",
            )  # fmt: skip

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the confidence at exit k, less its class's offset."""
        known = (output.prediction >= 0) & (output.prediction < len(self.offset))
        offset = np.where(
            known, lookup(self.offset, np.where(known, output.prediction, 0)), self.other
        )
        return output.confidence - offset, state

    def operations(self, k: int, classes: int) -> float:
        """Return one: the difference."""
        del k, classes
        return 1.0

    def params(self) -> dict[str, Any]:
        """Return the parameters, arrays as lists."""
        return {"offset": self.offset.tolist(), "other": float(self.other)}
