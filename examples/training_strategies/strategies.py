"""The strategies: each a function of a task that returns a trained network and its phases.

Numbers of algorithms, sections and equations are those of Rahmath P, Chaurasia & Bansal,
"Strategies at a glance", Neural Networks 2026 (doi 10.1016/j.neunet.2025.107970).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model import Assembled, StagedNet, build, single_exit, sub_model
from .optimise import Phase, Recipe, Rows, answers, cross_entropy, optimise

TEMPERATURE = 3.0
ALPHA = 0.1
FIRST_WEIGHT, FINAL_WEIGHT = 0.3, 1.0
"""Of the exits' losses in joint training, linear in between (section 5.4)."""

Trained = tuple[nn.Module, list[Phase]]


@dataclass(frozen=True)
class Task:
    """What a strategy is given: a backbone, a seed, rows, and what other strategies trained."""

    backbone: str
    seed: int
    train: Rows
    validation: Rows
    recipe: Recipe
    load: Callable[[str], Trained]
    """Trains a strategy by name, or reads what it has trained."""

    def fresh(self) -> StagedNet:
        """Return a new network; the seed makes it the same every time."""
        return build(self.backbone, self.seed).to(self.train.labels.device)

    def pretrained(self) -> tuple[StagedNet, list[Phase]]:
        """Return a new network on the backbone that was trained without early exits."""
        alone, phases = self.load("backbone")
        net = self.fresh()
        net.blocks.load_state_dict(alone.blocks[0].state_dict())
        net.heads[-1].load_state_dict(alone.heads[0].state_dict())
        return net, phases

    def fit(
        self,
        network: nn.Module,
        exits: Sequence[int],
        loss: Callable[[list[Tensor], Rows], Tensor] = cross_entropy,
        frozen: Sequence[nn.Module] = (),
        train: Rows | None = None,
        validation: Rows | None = None,
    ) -> Phase:
        """Train all of `network` on what the frozen blocks before it put out."""
        rows = (train or self.train, validation or self.validation)
        recipe = self.recipe
        return optimise(network, frozen, exits, *rows, loss, recipe, self.backbone, self.seed)


# --- losses ------------------------------------------------------------------------------------


def joint_weights(exits: int) -> Tensor:
    """Return the weights of the exits' losses, first to final.

    Equation 3 has them grow as n / sum(k), from 0.1 to 0.4 for four exits; section 5.4, which
    says what was run, from 0.3 to 1.0. Section 5.4 is followed.
    """
    return torch.linspace(FIRST_WEIGHT, FINAL_WEIGHT, exits)


def joint_loss(logits: list[Tensor], batch: Rows) -> Tensor:
    """Equation 1: the weighted sum of the exits' cross-entropies."""
    losses = torch.stack([F.cross_entropy(each, batch.labels) for each in logits])
    return losses @ joint_weights(len(logits)).to(losses.device)


def distillation_loss(logits: list[Tensor], batch: Rows) -> Tensor:
    """Equation 5 and Algorithm 5, lines 12 to 17, summed over the exits."""
    assert batch.teacher is not None
    taught = F.log_softmax(batch.teacher / TEMPERATURE, dim=1)
    total = logits[0].new_zeros(())
    for each in logits:
        student = F.log_softmax(each / TEMPERATURE, dim=1)
        soft = F.kl_div(student, taught, reduction="batchmean", log_target=True)
        hard = F.cross_entropy(each, batch.labels)
        total = total + ALPHA * hard + (1 - ALPHA) * TEMPERATURE**2 * soft
    return total


# --- the six strategies, and the network without early exits ------------------------------------


def backbone(task: Task) -> Trained:
    """Train the final exit alone (section 6.4): stage 1 of others, too."""
    net = task.fresh()
    last = net.exits - 1
    phase = task.fit(sub_model(net, last), [last])
    return single_exit(net), [phase]


def joint(task: Task) -> Trained:
    """Algorithm 1: the backbone and all exits at once, on the weighted sum of their losses."""
    net = task.fresh()
    return net, [task.fit(net, range(net.exits), joint_loss)]


def separate(task: Task) -> Trained:
    """Algorithm 2: a model of its own per exit; the final exit's is the one without early exits."""
    alone, phases = task.load("backbone")
    models: list[nn.Module] = []
    mine: list[Phase] = []
    for n in range(task.fresh().exits - 1):
        models.append(sub_model(task.fresh(), n))
        mine.append(task.fit(models[-1], [n]))
    models.append(nn.Sequential(*alone.blocks[0], alone.heads[0]))
    return Assembled(models), [*mine, *phases]


def branch_wise(task: Task, net: StagedNet | None = None) -> Trained:
    """Algorithm 3: exit after exit, each with the layers since the last, which are frozen then."""
    net = net or task.fresh()
    phases: list[Phase] = []
    for n in range(net.exits):
        part = nn.Sequential(net.blocks[n], net.heads[n])
        phases.append(task.fit(part, [n], frozen=net.blocks[:n]))
    return net, phases


def two_stage(task: Task) -> Trained:
    """Algorithm 4: the backbone first; then each early exit on the frozen backbone."""
    net, phases = task.pretrained()
    return net, [*phases, *_heads(task, net, range(net.exits - 1))]


def distillation(task: Task) -> Trained:
    """Algorithm 5: the backbone teaches its own copy, exits and layers, softly.

    The text of section 4.5 trains exits only, line 18 of the algorithm all of each sub-model. The
    study's final exits differ from their teachers', so line 18 is followed; as the sub-models
    share layers, the loops over exits and batches are interchanged: all exits learn at once.
    """
    net, phases = task.pretrained()
    alone, _ = task.load("backbone")
    rows = []
    for each in (task.train, task.validation):
        (teacher,) = answers(alone, each.inputs)
        rows.append(Rows(each.inputs, each.labels, teacher))
    phase = task.fit(net, range(net.exits), distillation_loss, train=rows[0], validation=rows[1])
    return net, [*phases, phase]


def hybrid(task: Task, kind: str) -> Trained:
    """Section 5.4: one of three schedules, each a global phase and then a local one.

    ``joint_branch`` (Algorithm 6) refines the exits of joint training one by one on the frozen
    backbone; ``joint_two_stage`` trains new exits there; ``pretrained_branch`` goes through the
    branch-wise schedule from a backbone that was trained before.
    """
    if kind == "pretrained_branch":
        net, phases = task.pretrained()
        return net, [*phases, *branch_wise(task, net)[1]]
    net, phases = task.load("joint")
    if kind == "joint_two_stage":
        net.heads.load_state_dict(task.fresh().heads.state_dict())
    return net, [*phases, *_heads(task, net, range(net.exits))]


def _heads(task: Task, net: StagedNet, exits: Sequence[int]) -> list[Phase]:
    """Train exits one by one on the frozen backbone."""
    return [task.fit(net.heads[n], [n], frozen=net.blocks[: n + 1]) for n in exits]


STRATEGIES: dict[str, Callable[[Task], Trained]] = {
    "backbone": backbone,
    "joint": joint,
    "separate": separate,
    "branch_wise": branch_wise,
    "two_stage": two_stage,
    "distillation": distillation,
    "joint_branch": lambda task: hybrid(task, "joint_branch"),
    "joint_two_stage": lambda task: hybrid(task, "joint_two_stage"),
    "pretrained_branch": lambda task: hybrid(task, "pretrained_branch"),
}
"""In an order in which what others start from comes first."""


def shape_of(strategy: str, name: str) -> nn.Module:
    """Return an untrained network of the form that a strategy returns, to load its weights into."""
    net = build(name, 0)
    if strategy == "backbone":
        return single_exit(net)
    if strategy == "separate":
        return Assembled(sub_model(build(name, 0), n) for n in range(net.exits))
    return net
