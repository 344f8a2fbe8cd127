"""Cumulative halting: Graves, ACT, 2016, arXiv:1603.08983, section 2; Figurnov et al., SACT, 2017.

The score of the method `act`, which documents how it is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..confidence.base import sigmoid
from ..errors import input_error
from ..output import ExitOutput
from .advantage import Advantage
from .base import Floats, State


@dataclass(frozen=True, eq=False)
class Halting(Advantage):
    """``sum_{j<=k} h_j - (1 - eps)``, h_j the logistic function of history features at exit j.

    Other parameters as of `Advantage`. The last exit, which always stops, scores eps.

    Parameters
    ----------
    eps : float
        What the sum may fall short of 1, in [0, 1); over 0, so that one exit alone can halt.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_record
    >>> from policyopt.runtime.scores import score_table
    >>> row = [[0.0] * 7] * 2  # no weights: halting scores of 1/2 at exits 0 and 1
    >>> rule = Halting("record", row, [[1.0] * 7] * 2, row, [0.0, 0.0], eps=0.1)
    >>> score_table(rule, [reduce_record([1], [0.7])] * 3).round(3)
    array([[-0.4,  0.1,  0.1]])
    """

    eps: float = 0.01

    name = "halting"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eps < 1:
            raise input_error("eps of score halting", "in [0, 1)", self.eps, "Check the policy.")

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start without history, and with nothing gathered."""
        return (np.zeros(len(samples)), *super().start(samples))

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return what the halting scores have gathered up to exit k, less the target."""
        if k == len(self.offset):
            return np.full(len(output), self.eps), state
        value, history = super().score(k, output, state[1:])
        gathered = state[0] + sigmoid(value)
        return gathered - (1.0 - self.eps), (gathered, *history)

    def params(self) -> dict[str, Any]:
        """Return the parameters as lists and numbers."""
        return {**super().params(), "eps": self.eps}
