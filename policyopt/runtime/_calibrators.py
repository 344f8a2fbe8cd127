"""Calibrators: from the top probability at exit k to that of being right; answers and decisions stay as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import numpy as np

from ._arithmetic import EDGE, log_odds, lookup, sigmoid
from ._errors import input_error
from ._outputs import ExitOutput
from ._parameters import Rule, array, make
from ._typing import Floats

_LARGEST = 1e9


class Calibrator(Rule, ABC):
    """The probability that exit k's prediction is right, from its top probability; fields hold one entry per exit."""

    role = "calibrator"

    @abstractmethod
    def curve(self, k: int, top: Floats) -> Floats:
        """Map top probabilities of exit k, (n,), to probabilities of being right, (n,)."""

    def confidence(self, k: int, output: ExitOutput) -> Floats:
        """Return the probability that exit k's prediction is right, (n,) float64 in [0, 1]."""
        # A copy side by side in memory: numpy's arithmetic is then the same for one row and many.
        return self.curve(k, np.ascontiguousarray(output.confidence, dtype=np.float64))


class Platt(Calibrator):
    """``sigmoid(slope[k] * logit(p) + offset[k])``: Platt, Probabilistic outputs for support vector machines, 1999."""

    name = "platt"
    slope: Any = array("K", least=0, most=_LARGEST)
    offset: Any = array("K", least=-_LARGEST, most=_LARGEST)

    def curve(self, k: int, top: Floats) -> Floats:
        return sigmoid(self.slope[k] * log_odds(top) + self.offset[k])


class Beta(Calibrator):
    """``sigmoid(a[k] ln p - b[k] ln(1 - p) + c[k])``, never falling: Kull, Silva Filho, Flach, AISTATS 2017, eq. 1."""

    name = "beta"
    a: Any = array("K", least=0, most=_LARGEST)
    b: Any = array("K", least=0, most=_LARGEST)
    c: Any = array("K", least=-_LARGEST, most=_LARGEST)

    def curve(self, k: int, top: Floats) -> Floats:
        p = np.clip(top, EDGE, 1 - EDGE)
        return sigmoid(self.a[k] * np.log(p) - self.b[k] * np.log1p(-p) + self.c[k])


class Isotonic(Calibrator):
    """A rising line through a few knots (top probability, that of being right) per exit, level beyond them.

    Zadrozny & Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002.
    """

    name = "isotonic"
    knots: Any = array("M", each="K", least=0, most=1)
    values: Any = array("M", each="K", least=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for k, (x, y) in enumerate(zip(self.knots, self.values, strict=True)):
            if not len(x) or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
                what = f"knots of calibrator isotonic, exit {k}"
                allowed = "rising, their values not falling"
                raise input_error(what, allowed, x.tolist(), "Check the policy.")

    def curve(self, k: int, top: Floats) -> Floats:
        return np.interp(top, self.knots[k], self.values[k])


class Histogram(Calibrator):
    """``values[k][j]`` for ``edges[k][j-1] <= p < edges[k][j]``; no inner edge is one bin.

    Zadrozny & Elkan, Obtaining calibrated probability estimates from decision trees and naive Bayesian
    classifiers, ICML 2001.
    """

    name = "histogram"
    edges: Any = array("M", each="K", least=0, most=1)
    values: Any = array("M+1", each="K", least=0, most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for k, edges in enumerate(self.edges):
            if (np.diff(edges) <= 0).any():
                what = f"edges of calibrator histogram, exit {k}"
                raise input_error(what, "rising", edges.tolist(), "Check the policy.")

    def curve(self, k: int, top: Floats) -> Floats:
        return lookup(self.values[k], np.searchsorted(self.edges[k], top, side="right"))


CALIBRATORS: dict[str, type[Calibrator]] = {
    rule.name: rule for rule in (Platt, Beta, Isotonic, Histogram)
}


#: Builds a calibrator from its name and parameters, as an artifact holds them.
make_calibrator = partial(make, CALIBRATORS, "calibrator")
