"""Agreement with the mean prediction: Li et al., DDA, CVPR 2021, arXiv:2103.16403, section 3.3.

DDA scores a sample by how near each classifier's prediction is, in cosine, to the mean prediction of
all of them, times the largest probability of that mean (`distance.py`, `train_dda.py` of the authors'
release, with its defaults). Departures: it takes all classifiers, for pseudo-labels; here the mean
runs over exits 0..k, as it must where exit k decides, and cosines are averaged, not summed, so that
scores of different exits compare. The release itself exits by the largest probability; that a
prediction near the mean may end the inference is the reading of Rahmath P et al. (ACM Computing
Surveys 57(3), 2024, article 75, section 6.2), and ``confidence=0, history=0`` is that reading's score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..distributions import log_probabilities
from ..errors import input_error
from ..output import ExitOutput
from .base import Floats, ScoreRule, State


@dataclass(frozen=True)
class Dda(ScoreRule):
    """``mean_{j<=k} cos(p_j, m_k) * max_c m_k(c)``, m_k the mean of p_0..p_k.

    Parameters
    ----------
    confidence : int
        1: times the mean's largest probability; 0: the cosine alone, which is 1 at exit 0.
    history : int
        1: cosines of all exits so far; 0: of exit k alone.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_logits, with_log_prob
    >>> from policyopt.runtime.scores import score_table
    >>> exits = [np.log([[0.6, 0.4]]), np.log([[0.8, 0.2]])]
    >>> outputs = [with_log_prob(reduce_logits(z), z) for z in exits]
    >>> score_table(Dda(), outputs).round(3), score_table(Dda(0, 0), outputs).round(3)
    (array([[0.6 , 0.69]]), array([[1.   , 0.987]]))
    """

    confidence: int = 1
    history: int = 1

    name = "dda"
    needs = frozenset({"log_prob"})

    def __post_init__(self) -> None:
        for name in ("confidence", "history"):
            if getattr(self, name) not in (0, 1):
                raise input_error(f"{name} of score dda", "0 or 1", getattr(self, name), "")

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start with empty sums; the number of classes shows at exit 0."""
        return np.empty((len(samples), 0)), np.empty((len(samples), 0))

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Add exit k's prediction to the mean and return how near the exits are to it."""
        p = np.exp(log_probabilities(output))
        unit = p / _length(p)[:, None]
        total, units = (p, unit) if k == 0 else (state[0] + p, state[1] + unit)
        # The cosines of all exits with the mean add up to one product with the sum of directions.
        near = (units / (k + 1) if self.history else unit) * (total / _length(total)[:, None])
        score = np.ones(len(p)) if k == 0 else np.minimum(near.sum(axis=1), 1.0)
        if self.confidence:
            score = score * (total.max(axis=1) / (k + 1))
        return score, (total, units)

    def operations(self, k: int, classes: int) -> float:
        """Exponentials, two lengths, two sums and a product over classes."""
        return 8.0 * classes


def _length(rows: Floats) -> Floats:
    return np.sqrt((rows * rows).sum(axis=1))
