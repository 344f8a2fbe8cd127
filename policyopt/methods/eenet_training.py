"""EENet's network, targets, losses and training: Ilhan et al., WACV 2024, arXiv:2301.07099, section 3.

Readings where the paper leaves one open. Gradients pass through the earlier utilities b_k: only
the weights (13) are said to stay outside the graph. Losses (11)-(15) are taken over minibatches in
training and over all held-out rows in early stopping. With costs per sample, (14) uses each its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.methods.stack import one_thread
from policyopt.runtime.errors import input_error
from policyopt.runtime.output import ExitOutput
from policyopt.runtime.scores.eenet import SLOPE, eenet_inputs
from policyopt.runtime.typing import Floats

#: With device "auto", a fit on fewer numbers (rows x exits x inputs) stays on the CPU: the network
#: is so small that a GPU would spend its time on starting kernels.
_GPU_FROM = 20_000_000


def targets(correct: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Return what to aim at: correctness q, equation (3), and exit assignment r, equation (4).

    Parameters
    ----------
    correct : ndarray of shape (N, K)
        Whether exit k is right; truth values, or 0 and 1.

    Returns
    -------
    q, r : ndarray of shape (N, K), float64
        Rows of r add to 1: even over the right exits, over all exits where none is right.

    Examples
    --------
    >>> targets(np.array([[0, 1, 1], [0, 0, 0]]))[1].round(2)
    array([[0.  , 0.5 , 0.5 ], [0.33, 0.33, 0.33]])
    """
    q = np.asarray(correct, dtype=np.float64)
    right = q.sum(axis=1, keepdims=True)
    r = np.where(right > 0, q / np.maximum(right, 1), 1 / q.shape[1])
    return q, r


@dataclass(frozen=True)
class Rows:
    """Tensors of some rows, on one device.

    Attributes
    ----------
    inputs : tensor of shape (n, K, C + 3)
        ``[p_k, a_max, a_entropy, a_vote]``, equations (5)-(7).
    q, r : tensors of shape (n, K)
        Targets (3) and (4).
    costs : tensor of shape (1, K) or (n, K)
    """

    inputs: Any
    q: Any
    r: Any
    costs: Any

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Any) -> Rows:
        """Return some of the rows."""
        costs = self.costs if len(self.costs) == 1 else self.costs[rows]
        return Rows(self.inputs[rows], self.q[rows], self.r[rows], costs)


def rows_of(
    outputs: Sequence[ExitOutput], correct: Floats, costs: Floats, device: str = "cpu"
) -> Rows:
    """Return the training tensors (float32) of outputs that have their `log_prob`."""
    import torch

    votes = np.empty((len(correct), 0), dtype=np.int32)
    first = outputs[0].log_prob
    assert first is not None
    inputs = np.empty((len(correct), len(outputs), first.shape[1] + 3), dtype=np.float32)
    for k, output in enumerate(outputs):
        inputs[:, k], votes = eenet_inputs(k, output, votes)
    q, r = targets(correct)
    arrays = (inputs, q, r, np.atleast_2d(costs))
    return Rows(*(torch.as_tensor(a, dtype=torch.float32, device=device) for a in arrays))


class Network:
    """Weights of all exits and their forward pass, equations (8)-(10).

    Parameters
    ----------
    weights : list of K (W_sh, W_g, W_h)
        Tensors of shape (H_k, C + 3 + k), (H_k,), (H_k,).
    """

    def __init__(self, weights: list[tuple[Any, Any, Any]]) -> None:
        self.weights = weights

    @classmethod
    def start(cls, exits: int, classes: int, hidden: float, seed: int, device: str) -> Network:
        """Draw weights from ±1/sqrt(inputs), torch's default for a linear layer."""
        import torch

        generator = torch.Generator().manual_seed(seed)  # of its own: the global one is the user's

        def draw(*shape: int) -> Any:
            uniform = torch.rand(shape, generator=generator) * 2 - 1
            return (uniform / shape[-1] ** 0.5).to(device).requires_grad_()

        weights = []
        for k in range(exits):
            inputs = classes + 3 + k
            width = max(round(hidden * inputs), 1)
            weights.append((draw(width, inputs), draw(width), draw(width)))
        return cls(weights)

    def parameters(self) -> list[Any]:
        """Return all weights, exit by exit."""
        return [w for exit_ in self.weights for w in exit_]

    def copy(self) -> Network:
        """Return the same weights in memory of their own."""
        return Network([(*(w.detach().clone().requires_grad_() for w in e),) for e in self.weights])

    def forward(self, inputs: Any) -> tuple[Any, Any]:
        """Return the logits of the utilities q and of the assignment r, (n, K) each."""
        import torch
        from torch.nn.functional import leaky_relu

        utility, assignment, past = [], [], []
        for k, (shared, to_utility, to_assignment) in enumerate(self.weights):
            x = torch.cat([inputs[:, k], *past], dim=1) if k else inputs[:, k]
            hidden = leaky_relu(x @ shared.T, SLOPE)  # (8)
            utility.append(hidden @ to_utility)  # (9), before the sigmoid
            assignment.append(hidden @ to_assignment)  # (10), before the softmax
            past.append(torch.sigmoid(utility[-1])[:, None])
        return torch.stack(utility, dim=1), torch.stack(assignment, dim=1)


def survival_weights(assignment: Any) -> Any:
    """Return w, equation (13): probability to be alive at exit k, normalised over the rows.

    Parameters
    ----------
    assignment : tensor of shape (n, K)
        r, rows add to 1.

    Returns
    -------
    tensor of shape (n, K)
        Columns add to 1; outside the graph, as the paper says.
    """
    r = assignment.detach()
    alive = (1 - r.cumsum(dim=1) + r).clamp(min=1e-12)  # rounding may leave it below 0
    return alive / alive.sum(dim=0)


def losses(utility: Any, assignment: Any, rows: Rows, budget: float) -> tuple[Any, Any, Any]:
    """Return L_g (11)-(13), L_budget (14) and L_CE (15).

    Equation (12) is printed without the minus sign that makes it a loss; it is put in here.

    Parameters
    ----------
    utility, assignment : tensors of shape (n, K)
        Logits, as `Network.forward` returns them.
    rows : Rows
    budget : float
        In the unit of the costs.

    Returns
    -------
    tuple of 0-d tensors
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    log_r = torch.log_softmax(assignment, dim=1)
    r = log_r.exp()
    loss_g = (survival_weights(r) * cross_entropy(utility, rows.q, reduction="none")).sum()
    planned = (r * rows.costs).sum(dim=1).mean()
    loss_ce = -(log_r * rows.r).mean()
    return loss_g / utility.shape[1], (budget - planned).abs() / budget, loss_ce


@dataclass(frozen=True)
class Schedule:
    """How the weights are trained: see `policyopt.methods.eenet.Eenet` for the settings."""

    alpha: float
    beta: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    patience: int
    max_epochs: int

    def total(self, network: Network, rows: Rows, budget: float) -> Any:
        """Return ``L = L_g + alpha L_budget + beta L_CE``."""
        loss_g, loss_budget, loss_ce = losses(*network.forward(rows.inputs), rows, budget)
        return loss_g + self.alpha * loss_budget + self.beta * loss_ce


@one_thread()
def train(
    network: Network, rows: Rows, held: Rows, budget: float, schedule: Schedule, seed: int
) -> tuple[Network, list[float]]:
    """Return the weights of the epoch with the least loss on the held-out rows, and those losses.

    Stops when that loss has not decreased for `patience` epochs (section 4).

    Parameters
    ----------
    network : Network
        Where to start; not changed.
    rows, held : Rows
        To train on, and to stop by.
    budget : float
    schedule : Schedule
    seed : int
        Of the order of the minibatches.

    Returns
    -------
    Network
    list of float
        Held-out loss before training and after each epoch.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    network = network.copy()
    adam = torch.optim.Adam(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    best, curve, waited = network.copy(), [_held_loss(network, held, budget, schedule)], 0
    for _ in range(schedule.max_epochs):
        order = torch.randperm(len(rows), generator=generator).to(rows.inputs.device)
        for part in order.split(schedule.batch_size):
            adam.zero_grad()
            schedule.total(network, rows.take(part), budget).backward()
            adam.step()
        curve.append(_held_loss(network, held, budget, schedule))
        if curve[-1] < min(curve[:-1]):
            best, waited = network.copy(), 0
        else:
            waited += 1
        if waited >= schedule.patience:
            break
    return best, curve


def _held_loss(network: Network, held: Rows, budget: float, schedule: Schedule) -> float:
    import torch

    with torch.no_grad():
        return float(schedule.total(network, held, budget))


def choose_device(device: str, numbers: int) -> str:
    """Return "cpu" or "cuda" for `device`, which may be "auto"; `numbers`: inputs in all rows."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise input_error(
            "device", "auto or cpu where torch finds no GPU", device, "--set device=auto."
        )
    if device != "auto":
        return device
    return "cuda" if numbers >= _GPU_FROM and torch.cuda.is_available() else "cpu"
