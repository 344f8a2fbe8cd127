"""Temperature scaling: the exit's logits over one number per exit.

``P_k = softmax(z_k / T_k)``. Source: Guo et al., On calibration of modern neural networks,
ICML 2017 (arXiv:1706.04599), eq. 9. Fitted by `policyopt.answers.temperature`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import input_error
from ..parameters import numbers
from .base import AnswerRule, Logits, State

#: Least and largest temperature of an artifact.
LIMITS = (1e-6, 1e6)


@dataclass(frozen=True, eq=False)
class Temperature(AnswerRule):
    """``log P_k = z_k / temperatures[k]``, normalised; the predicted class stays.

    Parameters
    ----------
    temperatures : array of shape (K,)
        Over 0; above 1 makes the exit less sure.

    Raises
    ------
    InputError
        Temperatures that are no finite numbers in [1e-6, 1e6].

    Examples
    --------
    >>> rule = Temperature([2.0])
    >>> rule.answer(0, np.array([[4.0, 0.0]], np.float32), ())[0]
    array([[ 0., -2.]], dtype=float32)
    """

    temperatures: Any

    name = "temperature"

    def __post_init__(self) -> None:
        values = numbers("temperatures of the answer", self.temperatures, 1)
        if ((values < LIMITS[0]) | (values > LIMITS[1])).any():
            raise input_error(
                "temperatures of the answer", f"in [{LIMITS[0]:g}, {LIMITS[1]:g}]",
                values.tolist(), "Check the policy.",
            )  # fmt: skip
        object.__setattr__(self, "temperatures", values)

    def check(self, exits: int, classes: int) -> None:
        """Refuse temperatures of another number of exits."""
        del classes
        if self.temperatures.shape != (exits,):
            raise input_error(
                "temperatures of the answer", f"of shape {(exits,)}", self.temperatures.shape,
                "Check the policy.",
            )  # fmt: skip

    def answer(self, k: int, logits: Logits, state: State) -> tuple[Logits, State]:
        """Return the logits over the temperature, the largest moved to 0."""
        with np.errstate(over="ignore"):  # far below the largest is -inf: a class that cannot be
            below = logits - logits.max(axis=1, keepdims=True)
            return below / np.float32(self.temperatures[k]), state

    def operations(self, k: int, classes: int) -> float:
        """One multiplication per class."""
        del k
        return float(classes)

    def params(self) -> dict[str, Any]:
        """Return the temperatures as a list."""
        return {"temperatures": self.temperatures.tolist()}
