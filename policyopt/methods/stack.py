"""Small fully connected networks: trained by torch, deployed as the rule `network` by numpy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.methods.episodes import log_price
from policyopt.methods.evidence import Evidence
from policyopt.runtime.scores.network import Network
from policyopt.runtime.typing import Floats

#: Weights (E, out, in) and biases (E, out) of each layer, E being 1 or K-1. What goes in is what
#: `Episodes.observe` shows: basis columns, exit one-hot (K), `log_price`.
Layers = list[tuple[Floats, Floats]]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute by one thread in this block: of matrices so small, more only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Stack:
    """Layers with a ReLU between them; one for all exits, or one each.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden units layer by layer, outputs.
    seed : int
    each : int
        Stacks side by side.
    """

    def __init__(self, sizes: list[int], seed: int, each: int = 1) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)  # of its own: the global one is the user's
        self.parameters: list[Any] = []
        for into, out in pairwise(sizes):
            # Torch's default for a linear layer.
            for shape in ((each, out, into), (each, out)):
                uniform = torch.rand(shape, generator=generator) * 2 - 1
                self.parameters.append((uniform / into**0.5).requires_grad_())

    def __call__(self, x: Any) -> Any:
        """Return the outputs (n, E, out) for inputs (n, E, in)."""
        import torch

        for i in range(0, len(self.parameters), 2):
            weight, bias = self.parameters[i : i + 2]
            if i:
                x = torch.relu(x)
            x = torch.einsum("nei,eoi->neo", x, weight) + bias
        return x

    def copy_to(self, other: Stack) -> None:
        """Give another stack of the same sizes these weights."""
        import torch

        with torch.no_grad():
            for theirs, mine in zip(other.parameters, self.parameters, strict=True):
                theirs.copy_(mine)

    def layers(self) -> Layers:
        """Return the weights as arrays."""
        arrays = [p.detach().double().numpy() for p in self.parameters]
        return list(zip(arrays[::2], arrays[1::2], strict=True))


def at_price(layers: Layers, columns: int, exits: int, price: float) -> Layers:
    """Return the layers with exit and price moved from the inputs into the first biases.

    Parameters
    ----------
    layers : Layers
    columns : int
        M, the basis columns among the inputs.
    exits : int
        K.
    price : float

    Returns
    -------
    Layers
        Of M inputs; biases (K-1, out) of the first.
    """
    weight, bias = layers[0]
    own = np.broadcast_to(weight, (exits - 1, *weight.shape[1:]))
    places = own[np.arange(exits - 1), :, columns + np.arange(exits - 1)]
    moved = bias + places + own[:, :, -1] * float(log_price(np.array(price)))
    return [(weight[:, :, :columns], moved), *layers[1:]]


def outputs_at(layers: Layers, columns: npt.NDArray[np.float32]) -> Floats:
    """Return the scores (N, K) of layers of one output and no price; 0 at the last exit.

    Parameters
    ----------
    layers : Layers
        As `at_price` returns them.
    columns : ndarray of shape (N, K, M)
    """
    out = np.zeros(columns.shape[:2], order="F")
    for k in range(columns.shape[1] - 1):
        x = columns[:, k].astype(np.float64)
        for i, (weight, bias) in enumerate(layers):
            x = np.maximum(x, 0.0) if i else x
            x = x @ weight[min(k, len(weight) - 1)].T + bias[min(k, len(bias) - 1)]
        out[:, k] = x[:, 0]
    return out


def rule_at(layers: Layers, seen: Evidence) -> Network:
    """Return the rule that scores as layers without a price do."""
    weights, biases = zip(*layers, strict=True)
    return Network(seen.features, seen.center, seen.scale, "relu", list(weights), list(biases))
