"""Nearness to a class mean: Görmez, Dasari & Koyuncu, E2CM, IJCNN 2022, arXiv:2103.01148, section III.

Each distance to a class mean is divided by its average over the training rows; the softmax of the
negative quotients stands for class probabilities, and the largest is the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import input_error
from ..output import ExitOutput
from ..prototypes import PrototypeRule
from .base import Floats, State


@dataclass(frozen=True, eq=False)
class E2cm(PrototypeRule):
    """``max_c softmax(-distance_c / norm_c)``; the last exit, which always stops, scores 1.

    Parameters
    ----------
    space, classes, points, owner, projection
        As of `PrototypeRule`; the points are the class means, at most one of each class.
    norm : K-1 arrays of shape (P_k,)
        What the distance to each mean is divided by, over 0.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_logits, with_log_prob
    >>> rule = E2cm("logits", 2, [[[2.0, 0.0], [0.0, 2.0]]], [[0, 1]], None, [[1.0, 1.0]])
    >>> logits = np.array([[1.0, 1.0], [2.0, 0.0]])
    >>> rule.score(0, with_log_prob(reduce_logits(logits), logits), ())[0].round(3)
    array([0.5  , 0.944])
    """

    norm: Any

    name = "e2cm"
    arrays = PrototypeRule.arrays | {"norm"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._freeze("norm", 1)
        for k, (norm, owner) in enumerate(zip(self.norm, self.owner, strict=True)):
            if norm.shape != owner.shape or (norm <= 0).any() or (np.diff(owner) == 0).any():
                raise input_error(
                    f"norm of the score at exit {k}", "a number over 0 for each class with a mean",
                    norm.tolist()[:20], "Fit it again.",
                )  # fmt: skip

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the largest pseudo-probability at exit k."""
        if k == len(self.points):
            return np.ones(len(output)), state
        near = self.class_distances(k, output) / self.norm[k]
        # The largest of a softmax is 1 / sum(exp(z - max z)).
        near -= near.min(axis=1)[:, None]
        return 1.0 / np.exp(-near).sum(axis=1), state

    def params(self) -> dict[str, Any]:
        """Return the parameters as lists."""
        return {**super().params(), "norm": [n.tolist() for n in self.norm]}
