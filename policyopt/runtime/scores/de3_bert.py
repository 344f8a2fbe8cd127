"""Distance ratio and entropy: He et al., DE3-BERT, 2024, arXiv:2402.05948, section III (hybrid exiting).

``DR = (1 + (r1 - r2) / max(r1, r2)) / 2`` with r1 the distance to the prototype of the exit's own
answer and r2 that to the nearest other, so that DR runs from 0 (on its prototype) over 1/2 (between
two) to 1; where the answer's prototype is the nearest, r1 and r2 are the two smallest distances.
``EDR = (w + 1) / (w / DR + 1 / entropy)``: the weighted harmonic mean with the normalised entropy. The
paper leaves where EDR is *below* a threshold: the score is ``1 - EDR``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import input_error
from ..output import ExitOutput
from ..prototypes import PrototypeRule
from .base import Floats, State


@dataclass(frozen=True, eq=False)
class De3Bert(PrototypeRule):
    """``1 - EDR``, in [0, 1]; the last exit, which always stops, scores 1.

    Parameters
    ----------
    space, classes, points, owner, projection
        As of `PrototypeRule`; the points are the class prototypes.
    weight : float
        Of the distance ratio against the entropy (the paper's lambda), 0 or more.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_logits, with_log_prob
    >>> rule = De3Bert("logits", 2, [[[3.0, 0.0], [0.0, 3.0]]], [[0, 1]], None, 1.0)
    >>> logits = np.array([[1.0, 1.0], [2.0, 0.0], [3.0, 0.0]])
    >>> rule.score(0, with_log_prob(reduce_logits(logits), logits), ())[0].round(3)
    array([0.333, 0.78 , 1.   ])
    """

    weight: float

    name = "de3_bert"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight <= 1e6:
            raise input_error("weight of the score", "in [0, 1e6]", self.weight, "Fit it again.")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Columns read beyond prediction and confidence."""
        return super().needs | {"entropy"}

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the certainty at exit k."""
        if k == len(self.points):
            return np.ones(len(output)), state
        ratio = distance_ratio(*self.own_and_other(k, output))
        doubt = np.clip(output.entropy / np.log(max(self.classes, 2)), 0.0, 1.0)
        # Multiplied through, so that a ratio or an entropy of 0 divides nothing.
        below = self.weight * doubt + ratio
        product = (self.weight + 1.0) * ratio * doubt
        return 1.0 - product / np.where(below > 0, below, 1.0), state

    def params(self) -> dict[str, Any]:
        """Return the parameters as lists."""
        return {**super().params(), "weight": float(self.weight)}


def distance_ratio(own: Floats, other: Floats) -> Floats:
    """Return ``(1 + (own - other) / max(own, other)) / 2``, (n,): 1/2 where both are 0 or both infinite.

    Examples
    --------
    >>> distance_ratio(np.array([1.0, 2.0, 3.0, 0.0]), np.array([4.0, 2.0, 0.0, 0.0]))
    array([0.125, 0.5  , 1.   , 0.5  ])
    """
    with np.errstate(invalid="ignore"):
        nearer = np.where(own == other, 1.0, np.minimum(own, other) / np.maximum(own, other))
    return np.where(own <= other, 0.5 * nearer, 1.0 - 0.5 * nearer)
