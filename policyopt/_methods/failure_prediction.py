"""Failure prediction: a score that says whether stopping here is a failure.

``target=failure``: Kubaty et al., Rethinking calibration for early-exit neural networks (arXiv:2508.21495),
hold that exits should be judged by failure prediction and not by calibration, and that a failure at an exit
is to be seen beside the cost of further computation: an answer that no later exit mends is no reason to go
on. The paper measures this and refines the heads by it; the score learned here is ours. Its target is

    1 where exit k is right, or every later exit is wrong;   0 where k is wrong and a later exit is right,

fitted by logistic regression on the history features of `policyopt.runtime._scores.history`, exit by exit.

``target=true_class``: Corbiere et al., Addressing failure prediction by learning model confidence, NeurIPS
2019, arXiv:1910.04851: the probability that the model gives to the true class, which is over 1/2 only where
the answer is right, regressed by the mean squared error of a sigmoid. Departures: from history features, not
from a network on the model's hidden layer; per exit; their optional heavier weight of failures is left out.
It needs all class probabilities; ``failure`` works on records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._answers.logistic import weighted_logistic
from policyopt._methods.exit_batch import ExitBatch, columns_of, true_class
from policyopt._methods.learned_score import LearnedScore
from policyopt._methods.regression import fit_sigmoid
from policyopt._methods.settings import POSITIVE, Choice, Real
from policyopt.runtime._scores import Logistic
from policyopt.runtime._typing import Floats

_TARGETS = ("failure", "true_class")


@dataclass(frozen=True)
class FailurePrediction(LearnedScore):
    """Leave where going on is unlikely to mend a failure, or where the true class is likely the answer.

    Parameters
    ----------
    thresholds, answer, folds
        As of `LearnedScore`.
    target : {"failure", "true_class"}
    penalty : float
        Of the weights, in rows of evidence that they are 0.
    """

    target: str = "failure"
    penalty: float = 30.0

    label = "failure_prediction"
    uses = frozenset({"log_prob"})
    allowed: ClassVar = {"target": _TARGETS, "penalty": POSITIVE}
    tuned: ClassVar = {"target": Choice(_TARGETS), "penalty": Real(1.0, 1000.0, log=True)}

    def needs(self) -> frozenset[str]:
        """Return what the target is made of."""
        return frozenset({"log_prob"} if self.target == "true_class" else ())

    def learn(self, batch: ExitBatch, seed: int) -> Logistic:
        """Regress the target on the history features, exit by exit."""
        columns = columns_of(batch)
        theta = np.empty((len(columns.basis), columns.basis[0].shape[1] + 1))
        good = no_failure(batch.correct)
        for k, basis in enumerate(columns.basis):
            if self.target == "true_class":
                theta[k] = fit_sigmoid(
                    basis, true_class(batch.outputs[k], batch.labels), self.penalty
                )
            else:
                ones, one_fold = np.ones((len(batch), 1)), np.zeros(len(batch), dtype=np.int64)
                theta[k] = weighted_logistic(
                    basis, good[:, k : k + 1], ones, one_fold, self.penalty
                )[-1, :, 0]
        return columns.rule(Logistic, theta)


def no_failure(correct: Floats) -> Floats:
    """Return 1.0 where stopping is at least as right as going on, to whichever exit, (N, K)."""
    ahead = np.maximum.accumulate(correct[:, ::-1], axis=1)[:, ::-1]  # the best from each exit on
    return (correct >= ahead).astype(np.float64)
