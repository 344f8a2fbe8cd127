"""Network, losses and training of EENet's released code; see `policyopt.methods.eenet_released`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: A planned cost within this part of the budget counts as meeting it (as released).
NEAR = 0.1


class ReleasedNetwork:
    """Score weights and assignment networks of all exits.

    Attributes
    ----------
    scores : list of K tensors of shape (C + 2 + k,)
    hidden : list of K (W1, b1, W2, b2)
    """

    def __init__(self, scores: list[Any], hidden: list[tuple[Any, ...]]) -> None:
        self.scores, self.hidden = scores, hidden

    @classmethod
    def start(cls, exits: int, classes: int, rate: float, generator: Any) -> ReleasedNetwork:
        """Draw weights as `torch.nn.Linear` does."""
        import torch

        def draw(inputs: int, *shape: int) -> Any:
            return (torch.rand(shape, generator=generator) * 2 - 1) / inputs**0.5

        scores, hidden = [], []
        for k in range(exits):
            inputs, rest = classes + 2 + k, 2 + k
            # Two layers in the code, one for the classes and one for the rest, added.
            score = torch.cat([draw(classes, classes), draw(rest, rest)])
            width = max(int(rate * inputs), 1)
            layers = (
                draw(inputs, width, inputs),
                draw(inputs, width),
                draw(width, width),
                draw(width, 1),
            )
            scores.append(score.requires_grad_())
            hidden.append(tuple(w.requires_grad_() for w in layers))
        return cls(scores, hidden)

    def assigners(self) -> list[Any]:
        """Return the weights of the assignment networks."""
        return [w for layers in self.hidden for w in layers]

    def copy(self) -> ReleasedNetwork:
        """Return the same weights in memory of their own."""
        return ReleasedNetwork(
            [w.detach().clone().requires_grad_() for w in self.scores],
            [tuple(w.detach().clone().requires_grad_() for w in e) for e in self.hidden],
        )

    def forward(self, inputs: Any) -> tuple[Any, Any]:
        """Return clipped scores q and assignment r, (n, K) each, of inputs (n, K, C + 2)."""
        import torch

        scores, assigned, past = [], [], []
        for k, (weight, (w1, b1, w2, b2)) in enumerate(zip(self.scores, self.hidden, strict=True)):
            x = torch.cat([inputs[:, k], *past], dim=1)
            scores.append((x @ weight).clamp(0, 1))
            assigned.append(torch.sigmoid(torch.sigmoid(x @ w1.T + b1) @ w2 + b2))
            past.append(scores[-1].detach()[:, None])
        return torch.stack(scores, dim=1), torch.softmax(torch.stack(assigned, dim=1), dim=1)


def released_losses(
    network: ReleasedNetwork, inputs: Any, correct: Any, costs: Any, budget: float, beta: float
) -> tuple[Any, Any, Any]:
    """Return the release's L_q, L_KL and L_cost on n rows.

    Parameters
    ----------
    network : ReleasedNetwork
    inputs : tensor of shape (n, K, C + 2)
    correct : tensor of shape (n, K)
    costs : tensor of shape (1, K) or (n, K)
    budget, beta : float

    Returns
    -------
    tuple of 0-d tensors
        Cross-entropy of the scores, weighted by r over the rows' sum of r; mean over elements of
        the divergence of r from the normalised scores; gap of planned cost and budget.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy

    q, r = network.forward(inputs)
    weight = r.detach() / r.detach().sum(dim=0)
    loss_q = binary_cross_entropy(q, correct, weight=weight, reduction="sum") / q.shape[1]
    target = q.detach() ** beta
    total = target.sum(dim=1, keepdim=True)
    target = torch.where(total > 0, target / total.clamp(min=1e-12), 1 / q.shape[1])
    loss_cost = ((r * costs).sum(dim=1).mean() - budget).abs() / budget
    loss_kl = (torch.xlogy(target, target) - target * r.log()).mean()
    return loss_q, loss_kl, loss_cost


@dataclass(frozen=True)
class ReleasedSchedule:
    """How the weights are trained: see `policyopt.methods.eenet_released` for the settings."""

    alpha_kl: float
    alpha_cost: float
    beta: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    period: int
    patience: int


def train_released(
    network: ReleasedNetwork,
    rows: tuple[Any, Any, Any],
    budget: float,
    schedule: ReleasedSchedule,
    generator: Any,
) -> ReleasedNetwork:
    """Return the weights of the epoch with the least training loss among those near the budget.

    Parameters
    ----------
    network : ReleasedNetwork
        Where to start; not changed.
    rows : (inputs, correct, costs)
        As `released_losses` takes them.
    budget : float
    schedule : ReleasedSchedule
    generator : torch.Generator
        Of the order of the minibatches.

    Returns
    -------
    ReleasedNetwork
        The last epoch's where none came near the budget.
    """
    import torch

    inputs, correct, costs = rows
    network = network.copy()
    adams = [
        torch.optim.Adam(group, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
        for group in (network.scores, network.assigners())
    ]
    best, least, waited = network, np.inf, 0
    for epoch in range(schedule.max_epochs):
        # First the scores, then the assignment, `period` epochs each; both at once with period 1.
        phase = epoch // schedule.period % 2 if schedule.period > 1 else None
        parts = torch.randperm(len(inputs), generator=generator).split(schedule.batch_size)
        loss = gap = 0.0
        for part in parts:
            own = costs if len(costs) == 1 else costs[part]
            batch = (inputs[part], correct[part], own)
            loss_q, loss_kl, loss_cost = released_losses(network, *batch, budget, schedule.beta)
            total = loss_q + schedule.alpha_kl * loss_kl + schedule.alpha_cost * loss_cost
            for adam in adams:
                adam.zero_grad()
            total.backward()  # the two groups do not meet: past scores and targets are detached
            for index, adam in enumerate(adams):
                if phase in (None, index):
                    adam.step()
            loss += float(total.detach()) / len(parts)
            gap += float(loss_cost.detach()) / len(parts)
        if gap >= NEAR:
            continue
        if loss < least:
            best, least, waited = network.copy(), loss, 0
        else:
            waited += 1
            if waited >= schedule.patience:
                break
    return best
