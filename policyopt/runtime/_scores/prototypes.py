"""Scores of the distances from a sample to points that stand for classes."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np

from .._arithmetic import distances, row_product
from .._errors import input_error
from .._outputs import LOWEST, ExitOutput
from .._parameters import array, choice, number
from .._typing import Floats, Ints
from .base import ScoreRule, State

SPACES = ("logits", "features")
_BLOCK = 1 << 15  # numbers held at a time: they stay in the processor's cache


def vectors(output: ExitOutput, space: str) -> Floats:
    """Return what is measured, (n, D): features, or logits (of probabilities logarithms), impossible classes at -30."""
    if space == "features":
        assert output.features is not None  # the policy asks for what its score needs
        return output.features.astype(np.float64)
    assert output.log_prob is not None
    return np.maximum(output.log_prob, LOWEST) + output.log_sum_exp[:, None]


def projected(k: int, rows: Floats, space: str, points: Any, projection: Any) -> Floats:
    """Return exit k's vectors as its points (P, D_k) are kept; refused where they have another width."""
    width = (points if projection is None else projection)[k].shape[1]
    if rows.shape[1] != width:
        allowed = f"{width} numbers per sample, as in the fit"
        step = "The policy belongs to another model."
        raise input_error(f"{space} of exit {k}", allowed, rows.shape[1], step)
    return rows if projection is None else row_product(rows, projection[k])


class PrototypeRule(ScoreRule):
    """A rule on distances to classes' points (P_k, D_k) at each exit but the last, projected by (D_k, W_k)."""

    space: str = choice(*SPACES)
    classes: int = number(least=1, most=10**6)
    points: Any = array("P", "D", each="K-1")
    owner: Any = array("P", each="K-1", whole=True, least=0)
    projection: Any = array("D", "W", each="K-1", optional=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for k, owner in enumerate(self.owner):
            if not len(owner) or (np.diff(owner) < 0).any() or owner[-1] >= self.classes:
                allowed = f"one class of {self.classes} per point, not falling"
                got, step = owner.tolist()[:20], "Fit it again."
                raise input_error(f"owner of the score at exit {k}", allowed, got, step)

    @property
    def required_columns(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"features" if self.space == "features" else "log_prob"})

    def check(self, exits: int, classes: int) -> None:
        super().check(exits, classes)
        if classes and self.classes != classes:
            raise input_error("score", f"made for {classes} classes", self.classes, "Fit it again.")

    @cached_property
    def _groups(self) -> list[tuple[Ints, Ints]]:
        """Per exit the classes that have points, and where each one's points begin."""
        found = (np.unique(owner, return_index=True) for owner in self.owner)
        return [(which.astype(np.int64), first.astype(np.int64)) for which, first in found]

    def class_distances(self, k: int, output: ExitOutput) -> Floats:
        """Return each row's distance to the nearest point of each class that has points, (n, G)."""
        rows = vectors(output, self.space)
        rows = projected(k, rows, self.space, self.points, self.projection)
        first = self._groups[k][1]
        step = max(_BLOCK // len(self.points[k]), 1)
        parts = [  # of many points, memory is needed for a few rows
            np.minimum.reduceat(distances(rows[low : low + step], self.points[k]), first, axis=1)
            for low in range(0, max(len(rows), 1), step)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def own_and_other(self, k: int, output: ExitOutput) -> tuple[Floats, Floats]:
        """Return the distances to the predicted class and the nearest other, (n,); infinite where it has no points."""
        near, which = self.class_distances(k, output), self._groups[k][0]
        mine = which == output.prediction[:, None]
        own = np.where(mine, near, np.inf).min(axis=1)
        return own, np.where(mine, np.inf, near).min(axis=1)

    @abstractmethod
    def certainty(self, k: int, output: ExitOutput) -> Floats:
        """Return the scores (n,) of an exit that has points."""

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        last = k == len(self.points)
        return (np.ones(len(output)) if last else self.certainty(k, output)), state

    def operations(self, k: int, classes: int) -> float:
        """Return a difference and a product per number stored; the projection; the logits."""
        if k == len(self.points):
            return 0.0
        project = 0 if self.projection is None else self.projection[k].size
        logs = classes if self.space == "logits" else 0
        return 1.5 * self.points[k].size + float(project + logs)


class E2CM(PrototypeRule):
    """``max_c softmax(-distance_c / norm_c)``; the last exit, which always stops, scores 1.

    Görmez, Dasari & Koyuncu, E2CM, IJCNN 2022, arXiv:2103.01148, section III. The points are class means, at
    most one per class; `norm` is the average distance of the training rows.
    """

    name = "e2cm"
    norm: Any = array("P", each="K-1", over=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any((np.diff(owner) == 0).any() for owner in self.owner):
            raise input_error("owner of the score", "one point per class", "several", "Fit again.")

    def certainty(self, k: int, output: ExitOutput) -> Floats:
        near = self.class_distances(k, output) / self.norm[k]
        # The largest of a softmax is 1 / sum(exp(z - max z)).
        near -= near.min(axis=1)[:, None]
        return 1.0 / np.exp(-near).sum(axis=1)


class DE3BERT(PrototypeRule):
    """``1 - EDR``, in [0, 1], of distance ratio and entropy; the last exit, which always stops, scores 1.

    He et al., DE3-BERT, 2024, arXiv:2402.05948, section III (hybrid exiting). ``DR = (1 + (r1 - r2) /
    max(r1, r2)) / 2``, r1 the distance to the prototype of the exit's own answer, r2 that to the nearest
    other: from 0 (on its prototype) to 1. ``EDR = (w + 1) / (w / DR + 1 / entropy)``, w the paper's lambda.
    The paper leaves where EDR is *below* a threshold.
    """

    name = "de3_bert"
    below = "exit indicator EDR", "1 - EDR"
    weight: float = number(least=0, most=1e6)

    @property
    def required_columns(self) -> frozenset[str]:  # type: ignore[override]
        return super().required_columns | {"entropy"}

    def certainty(self, k: int, output: ExitOutput) -> Floats:
        ratio = distance_ratio(*self.own_and_other(k, output))
        doubt = np.clip(output.entropy / np.log(max(self.classes, 2)), 0.0, 1.0)
        # Multiplied through, so that a ratio or an entropy of 0 divides nothing.
        below = self.weight * doubt + ratio
        product = (self.weight + 1.0) * ratio * doubt
        return 1.0 - product / np.where(below > 0, below, 1.0)


def distance_ratio(own: Floats, other: Floats) -> Floats:
    """Return ``(1 + (own - other) / max(own, other)) / 2``, (n,): 1/2 where both are 0 or both infinite."""
    with np.errstate(invalid="ignore"):
        nearer = np.where(own == other, 1.0, np.minimum(own, other) / np.maximum(own, other))
    return np.where(own <= other, 0.5 * nearer, 1.0 - 0.5 * nearer)


class TrustScore(PrototypeRule):
    """``other / (other + own)``; the last exit, which always stops, scores 1.

    Jiang, Kim, Guan & Gupta, NeurIPS 2018, arXiv:1805.11783, definition 2 and algorithm 1: the distance to
    the nearest class other than the predicted one, over that to the predicted class, each to the class's
    nearest kept point. The score is ``ratio / (1 + ratio)``: the same order, in [0, 1].
    """

    name = "trust_score"

    def certainty(self, k: int, output: ExitOutput) -> Floats:
        own, other = self.own_and_other(k, output)
        with np.errstate(invalid="ignore"):
            share = other / (other + own)
        share[own == other] = 0.5
        share[np.isinf(other) & np.isfinite(own)] = 1.0  # no other class has points
        return share
