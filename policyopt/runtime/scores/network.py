"""A small network on history features, an exit's weights its own or shared: learned by dqn and others."""

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

ACTIVATIONS = ("relu", "tanh")


@dataclass(frozen=True, eq=False)
class Network(HistoryRule):
    """``W_L f(W_{L-1} ... f(W_1 x + b_1) ...) + b_L``, x the basis of the history features.

    Parameters
    ----------
    features : {"distribution", "record"}
        Which history features are read (`policyopt.runtime.features`).
    center, scale : array of shape (K-1, F)
        Of the features at each exit; their quotient is cut at +-4.
    activation : {"relu", "tanh"}
        f.
    weights : sequence of L arrays of shape (1, H_l, H_{l-1}) or (K-1, H_l, H_{l-1})
        Of layer l, for all exits or each; H_0 is the size of the basis, H_L is 1.
    biases : sequence of L arrays of shape (1, H_l) or (K-1, H_l)
        What else a network was given, such as the exit's number or the price of cost, stands in
        the biases of the first layer.
    """

    features: str
    center: Any
    scale: Any
    activation: str
    weights: Any
    biases: Any

    name = "network"
    arrays = frozenset({"features", "center", "scale", "activation", "weights", "biases"})

    def __post_init__(self) -> None:
        for what, value, known in (
            ("features", self.features, tuple(FEATURES)),
            ("activation", self.activation, ACTIVATIONS),
        ):
            if not isinstance(value, str) or value not in known:
                raise input_error(
                    f"{what} of the score", f"one of {', '.join(known)}", value, "Fit again."
                )
        for name in ("center", "scale"):
            object.__setattr__(self, name, numbers(f"{name} of the score", getattr(self, name), 2))
        exits, width = len(self.center), FEATURES[self.features].width
        for name in ("center", "scale"):
            _shaped(name, getattr(self, name), [(exits, width)])
        if (self.scale <= 0).any():
            raise input_error(
                "scale of the score", "over 0", float(self.scale.min()), "Fit it again."
            )
        weights, biases = (_layers(name, getattr(self, name)) for name in ("weights", "biases"))
        if len(weights) != len(biases):
            raise input_error(
                "biases of the score", f"of {len(weights)} layers, as the weights are",
                len(biases), "Check the policy.",
            )  # fmt: skip
        size = basis_size(self.features)
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            out = 1 if i == len(weights) - 1 else weight.shape[1]
            _shaped(f"weights of layer {i}", weight, [(e, out, size) for e in (1, exits)])
            _shaped(f"biases of layer {i}", bias, [(e, out) for e in (1, exits)])
            size = out
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "biases", biases)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return what the network says at exit k; 0 at the last one, which always stops."""
        history: History = FEATURES[self.features]
        if k == len(self.center):
            return np.zeros(len(output)), state
        values, state = history.step(k, output, state)
        x = basis(values, self.center[k], self.scale[k], self.features)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i:
                x = np.maximum(x, 0.0) if self.activation == "relu" else np.tanh(x)
            x = row_product(x, _of(weight, k)) + _of(bias, k)
        return x[:, 0], state

    def operations(self, k: int, classes: int) -> float:
        """Weights of all layers and products of the basis; logarithms, where they are read."""
        logs = float(classes) if "log_prob" in self.needs else 0.0
        if k == len(self.center):
            return logs
        return logs + basis_size(self.features) + sum(float(w[0].size) for w in self.weights)

    def params(self) -> dict[str, Any]:
        """Return the parameters as lists."""
        layers = {n: [a.tolist() for a in getattr(self, n)] for n in ("weights", "biases")}
        plain = {n: getattr(self, n).tolist() for n in ("center", "scale")}
        return {"features": self.features, "activation": self.activation, **plain, **layers}


def _of(array: Floats, k: int) -> Floats:
    """Return exit k's part of an array that all exits may share."""
    return array[0] if len(array) == 1 else array[k]


def _layers(name: str, value: Any) -> tuple[Floats, ...]:
    """Return one checked, read-only array per layer; at least one."""
    if not isinstance(value, (list, tuple)) or not value:
        raise input_error(
            f"{name} of the score", "one array per layer", type(value).__name__, "Fit again."
        )
    depth = 3 if name == "weights" else 2
    return tuple(numbers(f"{name} of layer {i}", array, depth) for i, array in enumerate(value))


def _shaped(name: str, array: Floats, allowed: list[tuple[int, ...]]) -> None:
    if array.shape not in allowed:
        raise input_error(
            f"{name} of the score", f"of shape {' or '.join(map(str, allowed))}", array.shape,
            "Fit and save it again.",
        )  # fmt: skip
