"""Similarity of adjacent exits' class distributions: PF-BERxiT, Leco, F-PABEE.

The score of the methods `pf_berxit` and `leco`, which say where it comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..distributions import log_probabilities
from ..errors import input_error
from ..output import ExitOutput
from .base import Floats, ScoreRule, State


def _cross(p: Floats, log_q: Floats) -> Floats:
    """Cross-entropy ``-sum p log q``."""
    return -(p * log_q).sum(axis=1)


def _kl(p: Floats, log_p: Floats, log_q: Floats) -> Floats:
    return (p * (log_p - log_q)).sum(axis=1)


def _js(p: Floats, log_p: Floats, q: Floats, log_q: Floats) -> Floats:
    middle = np.log((p + q) / 2)
    return (_kl(p, log_p, middle) + _kl(q, log_q, middle)) / 2


def _jskd(p: Floats, log_p: Floats, q: Floats, log_q: Floats) -> Floats:
    middle = np.log((p + q) / 2)
    return (_cross(p, middle) + _cross(q, middle)) / 2


#: From the earlier exit's distribution p and the later one's q to how far they are apart. The
#: second four are cross-entropies: divergences, and how undecided the exits are besides.
MEASURES: dict[str, Callable[[Floats, Floats, Floats, Floats], Floats]] = {
    "kl": lambda p, log_p, q, log_q: _kl(p, log_p, log_q),
    "rekl": lambda p, log_p, q, log_q: _kl(q, log_q, log_p),
    "bikl": lambda p, log_p, q, log_q: _kl(p, log_p, log_q) + _kl(q, log_q, log_p),
    "js": _js,
    "kd": lambda p, log_p, q, log_q: _cross(p, log_q),
    "rekd": lambda p, log_p, q, log_q: _cross(q, log_p),
    "bikd": lambda p, log_p, q, log_q: _cross(p, log_q) + _cross(q, log_p),
    "jskd": _jskd,
}


@dataclass(frozen=True)
class Similarity(ScoreRule):
    """``1 / (1 + d)``, d the largest of the last `patience` distances between adjacent exits.

    To leave where the distance has been under a threshold for `patience` exits in a row is to leave
    where the largest of the last `patience` distances is under it: ``score >= 1 / (1 + threshold)``.
    Before there are as many, the score is 0.

    Parameters
    ----------
    measure : str
        One of `MEASURES`.
    patience : int
        1 or more.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_logits, with_log_prob
    >>> from policyopt.runtime.scores import score_table
    >>> exits = [np.log([[0.5, 0.5]]), np.log([[0.8, 0.2]]), np.log([[0.8, 0.2]])]
    >>> outputs = [with_log_prob(reduce_logits(z), z) for z in exits]
    >>> score_table(Similarity("js"), outputs).round(3)
    array([[0.   , 0.952, 1.   ]])
    """

    measure: Any
    patience: int = 1

    name = "similarity"
    needs = frozenset({"log_prob"})
    arrays = frozenset({"measure"})

    def __post_init__(self) -> None:
        if not isinstance(self.measure, str) or self.measure not in MEASURES:
            raise input_error("measure", f"one of {', '.join(MEASURES)}", self.measure, "")
        if not isinstance(self.patience, int) or self.patience < 1:
            raise input_error("patience", "a whole number, 1 or more", self.patience, "")

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start with no distribution and no distances; the number of classes shows at exit 0."""
        return np.empty((len(samples), 0)), np.empty((len(samples), 0))

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the similarity after exit k."""
        before, distances = state
        log_q = log_probabilities(output)
        if k == 0:
            return np.zeros(len(output)), (log_q, distances)
        p, q = np.exp(before), np.exp(log_q)
        # Rounding may leave a hair below 0, where both are the same.
        far = np.maximum(MEASURES[self.measure](p, before, q, log_q), 0.0)
        distances = np.concatenate([distances, far[:, None]], axis=1)[:, -self.patience :]
        if k < self.patience:
            return np.zeros(len(output)), (log_q, distances)
        return 1.0 / (1.0 + distances.max(axis=1)), (log_q, distances)

    def operations(self, k: int, classes: int) -> float:
        """Exponentials of one distribution, and the sums over classes that the measure takes."""
        sums = 2.0 if self.measure in ("kl", "rekl", "kd", "rekd") else 4.0
        return float(classes) if k == 0 else (1.0 + sums) * classes
