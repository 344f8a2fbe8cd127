"""Advantage of stopping over continuing: a linear function of history features, at one price of cost.

The score of the method `optimal_stopping`, which documents how it is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import input_error
from ..features import FEATURES, History, basis, basis_size
from ..linear import row_product
from ..output import ExitOutput
from ..parameters import numbers
from .base import Floats, HistoryRule, State

_KINDS = {"features": 0, "center": 2, "scale": 2, "weights": 2, "offset": 1}


@dataclass(frozen=True, eq=False)
class Advantage(HistoryRule):
    """``offset_k + weights_k . basis((features_k - center_k) / scale_k)``.

    Parameters
    ----------
    features : {"distribution", "record"}
        Which history features are read (`policyopt.runtime.features`).
    center, scale : array of shape (K-1, F)
        Of the features at each exit; their quotient is cut at +-4.
    weights : array of shape (K-1, M)
        Of the basis: the features, their squares and products.
    offset : array of shape (K-1,)
    """

    features: str
    center: Any
    scale: Any
    weights: Any
    offset: Any

    name = "advantage"
    arrays = frozenset(_KINDS)

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise input_error(
                "features of the score",
                f"one of {', '.join(FEATURES)}",
                self.features,
                "Fit again.",
            )
        for name, ndim in _KINDS.items():
            if ndim:
                object.__setattr__(
                    self, name, numbers(f"{name} of the score", getattr(self, name), ndim)
                )
        exits, width = len(self.offset), FEATURES[self.features].width
        shapes = {
            "center": (exits, width), "scale": (exits, width),
            "weights": (exits, basis_size(self.features)),
        }  # fmt: skip
        for name, wanted in shapes.items():
            if getattr(self, name).shape != wanted:
                raise input_error(
                    f"{name} of the score", f"of shape {wanted}", getattr(self, name).shape,
                    "Fit and save it again.",
                )  # fmt: skip
        if (self.scale <= 0).any():
            raise input_error(
                "scale of the score", "over 0", float(self.scale.min()), "Fit it again."
            )

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the advantage of leaving at exit k; 0 at the last one, which always stops."""
        history: History = FEATURES[self.features]
        if k == len(self.offset):
            return np.zeros(len(output)), state
        values, state = history.step(k, output, state)
        columns = basis(values, self.center[k], self.scale[k], self.features)
        return row_product(columns, self.weights[k][None])[:, 0] + self.offset[k], state

    def operations(self, k: int, classes: int) -> float:
        """Weights and products of the basis; logarithms of all probabilities, where they are read."""
        logs = float(classes) if "log_prob" in self.needs else 0.0
        return logs if k == len(self.offset) else logs + 2.0 * self.weights.shape[1]

    def params(self) -> dict[str, Any]:
        """Return the parameters as lists."""
        arrays = {n: getattr(self, n).tolist() for n, ndim in _KINDS.items() if ndim}
        return {"features": self.features, **arrays}
