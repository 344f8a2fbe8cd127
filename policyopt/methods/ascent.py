"""Adam in numpy: Kingma & Ba, ICLR 2015, algorithm 1, for coefficients that need no torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policyopt.runtime.typing import Floats

_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8


class Adam:
    """Climbs; the rate falls linearly to 0 over a known number of steps.

    Parameters
    ----------
    shape : tuple of int
    rate : float
    steps : int

    Examples
    --------
    >>> x, climber = np.zeros(2), Adam((2,), 0.1, 200)
    >>> for _ in range(200):
    ...     x += climber.step(np.array([1.0, -2.0]) - x)
    >>> x.round(2)
    array([ 1., -2.])
    """

    def __init__(self, shape: tuple[int, ...], rate: float, steps: int) -> None:
        self.rate, self.steps, self.taken = rate, steps, 0
        self.mean, self.square = np.zeros(shape), np.zeros(shape)

    def step(self, gradient: npt.NDArray[np.floating]) -> Floats:
        """Return the change that a gradient asks for."""
        rate = self.rate * (1.0 - self.taken / self.steps)
        self.taken += 1
        self.mean += (1 - _FIRST) * (gradient - self.mean)
        self.square += (1 - _SECOND) * (gradient * gradient - self.square)
        mean = self.mean / (1 - _FIRST**self.taken)
        square = self.square / (1 - _SECOND**self.taken)
        return rate * mean / (np.sqrt(square) + _TINY)
