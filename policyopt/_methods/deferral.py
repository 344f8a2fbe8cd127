"""Post-hoc deferral, Jitkrittum et al., NeurIPS 2023, arXiv:2307.02764: go on where a later exit does better.

The Bayes-optimal rule (their proposition 3.1) defers where ``P(next right | x) - P(this right | x) > c``:
what the present exit knows of itself is half of it. Of the later exit nothing is known when deciding,
so a regression g, by squared error, stands in for it (their section 4 and table 1):

- ``diff01``: g estimates ``1[later right] - 1[this right]``; defer where ``g > c``;
- ``diffprob``: g estimates ``p_later(y) - p_this(y)``, what both give to the true class: less noise;
- ``maxprob``: g estimates the later exit's largest probability; defer where ``g - max p_this > c``.

Departures: the regression is a ridge on the history features of `policyopt.runtime._scores.history` (theirs is a
small network on the largest probabilities); ``maxprob`` regresses the difference itself, which is the
same in expectation, the present probability being one of the features; and of K exits, where theirs are
two, each is held against the last one or the next, with a constant c of its own that the budget sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._methods.exit_batch import ExitBatch, columns_of
from policyopt._methods.learned_score import LearnedScore
from policyopt._methods.regression import ridge
from policyopt._methods.settings import POSITIVE, Choice, Real
from policyopt.runtime._scores import Advantage
from policyopt.runtime._typing import Floats

TARGETS = ("diff01", "diffprob", "maxprob")
RIVALS = ("last", "next")


@dataclass(frozen=True)
class Deferral(LearnedScore):
    """Leave where a later exit's answer is not expected to be better.

    Parameters
    ----------
    thresholds, answer, folds
        As of `LearnedScore`.
    target : {"diffprob", "diff01", "maxprob"}
        What is regressed. Records do not know the probability of the true class: there
        ``diffprob`` is ``diff01``.
    against : {"last", "next"}
        The later exit that an exit is held against.
    penalty : float
        Of the ridge regression, in rows of evidence that no sample differs from the mean.
    """

    target: str = "diffprob"
    against: str = "last"
    penalty: float = 30.0

    label = "deferral"
    uses = frozenset({"log_prob"})
    allowed: ClassVar = {"target": TARGETS, "against": RIVALS, "penalty": POSITIVE}
    tuned: ClassVar = {
        "target": Choice(TARGETS),
        "against": Choice(RIVALS),
        "penalty": Real(1.0, 1000.0, log=True),
    }

    def learn(self, batch: ExitBatch, seed: int) -> Advantage:
        """Regress what the later exit is worth more than the present one, exit by exit."""
        columns = columns_of(batch)
        worth = worth_of(batch, self.target)
        last = batch.exits - 1
        theta = []
        for k, basis in enumerate(columns.basis):
            later = last if self.against == "last" else k + 1
            theta.append(-ridge(basis, worth[:, later] - worth[:, k], self.penalty))
        return columns.rule(Advantage, np.stack(theta))


def worth_of(batch: ExitBatch, target: str) -> Floats:
    """Return each exit's worth as a target counts it, (N, K): the differences are regressed."""
    if target == "maxprob":
        return np.stack([output.confidence for output in batch.outputs], axis=1)
    if target == "diff01" or batch.record or batch.labels is None:
        return batch.correct
    rows = np.arange(len(batch))
    picked = [output.log_prob[rows, batch.labels] for output in batch.outputs]  # type: ignore[index]
    return np.exp(np.stack(picked, axis=1).astype(np.float64))
