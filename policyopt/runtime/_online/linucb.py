"""LinUCB over exits, for the setting of DEE: learns after which exits going on pays.

DEE (Ju, Bao, Ge & Yuan, "Dynamic Early Exit Scheduling for Deep Neural Network Inference through
Contextual Bandits", CIKM 2021) takes what an exit shows as the context, decides anew after every
exit, and names two difficulties: what going on brings depends on the decisions that follow, and
later exits are explored less than earlier ones. Its update rule is not public; this is LinUCB with
disjoint linear models (Li, Chu, Langford & Schapire, WWW 2010, algorithm 1, equations 3 to 5), one
model per exit but the last:

    A_k = I + sum phi phi^T,   b_k = sum phi R,   theta_k = A_k^-1 b_k
    go on from exit k  iff  theta_k . phi + alpha sqrt(phi^T A_k^-1 phi) > 0

Departures from Li et al., and why. There is one arm, going on: leaving is worth 0 by definition,
so there is nothing to learn about it. R is what the exit taken at last was worth beyond exit k, net
of the cost between (the return of DEE, not a reward of one step), so its mean moves while later
exits still learn; requests that stop at exit k say nothing about going on from there. A^-1 is kept
by the rank-one formula of Sherman & Morrison: a request takes O(d^2) per exit, whatever came before.

Nothing is forgotten: after a change of the inputs the models mix old and new requests. And where an
exit is worth going on from only for what lies far beyond it, models of the exits between can stop
short of it: what they never tried they do not learn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._bandits.base import Steering, setting
from .._bandits.saved_state import check_fields, refused
from .._checks import check_positive
from .._errors import input_error
from .._parameters import numbers
from .feedback import Seen

#: Numbers in a context.
FEATURES = 5
_LOOSE = 1e-6  # rounding that a saved inverse may show


def context(seen: Seen, at: int) -> Sequence[float]:
    """Return ``(1, now, now**2, agrees, before)``, all in [0, 1], after an exit.

    `now` and `before` are the confidences of this exit and of the one before, `agrees` is 1 where both
    predict the same class; at exit 0 the last two are 0.
    """
    now = seen.confidences[at]
    if at == 0:
        return 1.0, now, now * now, 0.0, 0.0
    agrees = float(seen.predictions[at] == seen.predictions[at - 1])
    return 1.0, now, now * now, agrees, seen.confidences[at - 1]


def _times(rows: Sequence[Sequence[float]], x: Sequence[float]) -> list[float]:
    """Return the sum over FEATURES of products of each row with x."""
    a, b, c, d, e = x
    return [p * a + q * b + r * c + s * d + t * e for p, q, r, s, t in rows]


@dataclass(frozen=True)
class LinUCB(Steering):
    """One linear model per exit of what going on is worth, and how sure of it one is.

    Parameters
    ----------
    alpha : float
        Weight of exploration. Worths lie in [-1, 1] and most are far smaller, so that the bound of
        Li et al., above 1, explores for long; 0.5 is a guess that was not fitted to any data.
    """

    alpha: float = setting(0.5, check_positive)

    name = "linucb"
    summary = "learns from confidence and agreement whether going on pays (DEE)"
    reference = "LinUCB over exits, for the setting of DEE: learns after which exits going on pays."

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> LinUCBPlayer:
        """Return a player of a model with so many exits; it draws nothing."""
        del seed, stream
        return LinUCBPlayer(self, arms)


class LinUCBPlayer:
    """The models of K-1 exits on one stream, in plain numbers: `inverse` and `target`, a list each."""

    def __init__(self, rule: LinUCB, exits: int) -> None:
        self.rule = rule
        self.inverse: list[list[list[float]]] = [
            np.eye(FEATURES).tolist() for _ in range(exits - 1)
        ]
        self.target: list[list[float]] = [[0.0] * FEATURES for _ in range(exits - 1)]

    def choose(self) -> int:
        """Return 0: it plans nothing at the start."""
        return 0

    def leaves(self, seen: Seen, at: int) -> bool:
        """Return whether to leave at exit `at`, not the last."""
        x = context(seen, at)
        way = _times(self.inverse[at], x)
        value, width = _times((self.target[at], x), way)
        return not value + self.rule.alpha * math.sqrt(max(width, 0.0)) > 0.0

    def learn(self, seen: Seen, worth: Sequence[float]) -> None:
        """Take in what a request has shown, and what exits 0 to the one taken were worth, net of cost."""
        gone = len(worth) - 1
        if not math.isfinite(sum(worth) + sum(seen.confidences[: gone + 1])):
            raise input_error("worth", "finite numbers", worth, "A NaN would stay for ever.")
        for k in range(gone):
            inverse, target, x = self.inverse[k], self.target[k], context(seen, k)
            way = _times(inverse, x)
            scale = 1.0 + _times((way,), x)[0]
            gain = worth[gone] - worth[k]
            p, q, r, s, t = way
            self.inverse[k] = [
                [a - w * p / scale, b - w * q / scale, c - w * r / scale, d - w * s / scale,
                 e - w * t / scale]
                for (a, b, c, d, e), w in zip(inverse, way, strict=True)
            ]  # fmt: skip
            self.target[k] = [old + v * gain for old, v in zip(target, x, strict=True)]

    def state(self) -> dict[str, Any]:
        """Return all that was learned, JSON-able."""
        inverse = [[list(row) for row in square] for square in self.inverse]
        return {"inverse": inverse, "target": [list(row) for row in self.target]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, checked."""
        state = check_fields("state of linucb", state, ("inverse", "target"))
        if not self.target and state["inverse"] == state["target"] == []:
            return  # a model of one exit has nothing to decide
        inverse = numbers("inverse", state["inverse"], 3)
        target = numbers("target", state["target"], 2)
        shape = (len(self.target), FEATURES, FEATURES)
        if inverse.shape != shape or target.shape != shape[:2]:
            got = f"shapes {inverse.shape} and {target.shape}"
            raise refused("inverse, target", f"of shapes {shape} and {shape[:2]}", got)
        # A >= I, so A^-1 is symmetric and lies between 0 and I.
        fine = (np.abs(inverse) <= 2).all()
        fine = fine and (np.abs(inverse - inverse.swapaxes(1, 2)) <= _LOOSE).all()
        values = np.linalg.eigvalsh(inverse) if fine else np.array([2.0])
        if values.min() < -_LOOSE or values.max() > 1 + _LOOSE:
            raise refused("inverse", "symmetric, with eigenvalues in [0, 1]", state["inverse"])
        self.inverse, self.target = inverse.tolist(), target.tolist()
