"""Histogram binning of the top probability: one accuracy per bin and exit.

Source: Zadrozny & Elkan, Obtaining calibrated probability estimates from decision trees and naive
Bayesian classifiers, ICML 2001. Fitted by `policyopt.answers.histogram`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import input_error
from ..linear import lookup
from .base import ConfidenceRule, Floats, per_exit


@dataclass(frozen=True, eq=False)
class Histogram(ConfidenceRule):
    """``values[k][j]`` for ``edges[k][j-1] <= p < edges[k][j]``.

    Parameters
    ----------
    edges : K arrays of shape (M_k,)
        Inner edges, rising; none is one bin.
    values : K arrays of shape (M_k + 1,)
        Probability of being right in each bin.

    Raises
    ------
    InputError
        Edges that do not rise, values outside [0, 1], another number of values.

    Examples
    --------
    >>> Histogram([[0.5]], [[0.3, 0.9]]).curve(0, np.array([0.4, 0.5]))
    array([0.3, 0.9])
    """

    edges: Any
    values: Any

    name = "histogram"

    def __post_init__(self) -> None:
        # An exit of one bin has no edges: an empty list has no type of its own.
        given = self.edges
        if isinstance(given, (list, tuple)):
            given = [np.empty(0) if isinstance(e, list) and not e else e for e in given]
        edges = per_exit("edges of confidence histogram", given)
        values = per_exit("values of confidence histogram", self.values)
        if [len(e) + 1 for e in edges] != [len(v) for v in values]:
            raise input_error(
                "values of confidence histogram", "one more than edges, at each exit",
                [len(v) for v in values], "Check the policy.",
            )  # fmt: skip
        for k, e in enumerate(edges):
            if (np.diff(e) <= 0).any():
                raise input_error(
                    f"edges of confidence histogram, exit {k}", "rising", e.tolist(),
                    "Check the policy.",
                )  # fmt: skip
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "values", values)

    def curve(self, k: int, top: Floats) -> Floats:
        """Map top probabilities; see the class."""
        return lookup(self.values[k], np.searchsorted(self.edges[k], top, side="right"))
