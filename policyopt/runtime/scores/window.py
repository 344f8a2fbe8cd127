"""Distance from the middle of a window of confidences: Xia & Bouganis, ICCV 2023, Algorithm 2.

Samples inside the window go on; those above it are sure, those below it are given up. With the
window's middle as parameter and half its width as threshold this is one score and one threshold:
leave where ``|confidence - middle_k| >= half_k``. The method `window` says how windows are found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import input_error
from ..output import ExitOutput
from ..parameters import numbers
from .base import Floats, ScoreRule, State


@dataclass(frozen=True, eq=False)
class Window(ScoreRule):
    """``|confidence - middle_k|``.

    Parameters
    ----------
    middle : array of shape (K-1,)

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_record
    >>> Window([0.5]).score(0, reduce_record([1, 2, 0], [0.9, 0.6, 0.2]), ())[0].round(6)
    array([0.4, 0.1, 0.3])
    """

    middle: Any

    name = "window"
    arrays = frozenset({"middle"})

    def __post_init__(self) -> None:
        middle = numbers("middle of score window", self.middle, 1)
        object.__setattr__(self, "middle", middle)

    def check(self, exits: int, classes: int) -> None:
        """Refuse windows of another number of exits."""
        del classes
        if len(self.middle) != exits - 1:
            raise input_error(
                "middle of score window", f"{exits - 1} numbers", len(self.middle), "Fit again."
            )

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the distance at exit k; 0 at the last one, which always stops."""
        if k == len(self.middle):
            return np.zeros(len(output)), state
        return np.abs(output.confidence - self.middle[k]), state

    def operations(self, k: int, classes: int) -> float:
        """One subtraction."""
        del k, classes
        return 1.0

    def params(self) -> dict[str, Any]:
        """Return the middles as a list."""
        return {"middle": self.middle.tolist()}
