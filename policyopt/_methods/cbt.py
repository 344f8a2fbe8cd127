"""CBT, class-based thresholds: Görmez & Koyuncu, arXiv:2210.15621, section II: easy classes leave sooner.

P_c is the mean of the class probabilities over the training samples of class c and over all exits. The
gap of its two largest entries says how easy the class is; gaps are mapped, easiest to lowest, straight
onto a range [alpha, beta] of thresholds (0.9 to 0.998 in the paper), one per class, the same at all exits.

Departures: samples, not pixels. Of the range only its width, beta - alpha, is kept: a class's threshold is
its place in the range above a level of each exit, and the levels meet the budget. A class's place is shrunk
towards the mean of all by ``n_c / (n_c + kappa)``, since a cache has few rows of a class where the paper
has millions of pixels. Of records, which keep the confidence only, what is left of the probability is
shared evenly among the other classes, and where labels are not kept either, a row's class is what the exits
that are right call it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._methods.exit_batch import ExitBatch
from policyopt._methods.learned_score import LearnedScore
from policyopt._methods.prototypes import class_means
from policyopt._methods.settings import NOT_NEGATIVE, Number, Real
from policyopt.runtime._outputs import ExitOutput
from policyopt.runtime._scores import ClassOffset
from policyopt.runtime._typing import Floats, Ints


@dataclass(frozen=True)
class CBT(LearnedScore):
    """Leave where the confidence is high for the predicted class.

    Parameters
    ----------
    thresholds, answer, folds
        As of `LearnedScore`.
    width : float
        How far apart the thresholds of the easiest and the hardest class lie, in [0, 1].
    kappa : float
        Rows of a class at which its own place in that range counts half.
    """

    width: float = 0.098
    kappa: float = 20.0

    label = "cbt"
    uses = frozenset({"log_prob"})
    allowed: ClassVar = {"width": Number(most=1), "kappa": NOT_NEGATIVE}
    tuned: ClassVar = {"width": Real(0.0, 0.5), "kappa": Real(1.0, 300.0, log=True)}

    def learn(self, batch: ExitBatch, seed: int) -> ClassOffset:
        """Place the classes by the gaps of their mean probabilities."""
        labels, classes = classes_of(batch)
        rows = np.flatnonzero(labels >= 0)
        if not len(rows):  # no exit is ever right
            return ClassOffset(np.zeros(classes), 0.0)
        labels = labels[rows]
        which, count = np.unique(labels, return_counts=True)
        mean = np.zeros((len(which), classes))
        for output in batch.outputs:
            mean += class_means(probabilities(output.take(rows), classes), labels)[0] / batch.exits
        ranked = np.sort(mean, axis=1)
        gap = ranked[:, -1] - (ranked[:, -2] if classes > 1 else 0.0)
        place, other = places(gap, count, self.kappa)
        offset = np.full(classes, other)
        offset[which] = place
        return ClassOffset(self.width * offset, self.width * other)


def places(gap: Floats, count: Ints, kappa: float) -> tuple[Floats, float]:
    """Return each class's place in the range, 0 the easiest and 1 the hardest, shrunk; and their mean."""
    span = float(np.ptp(gap))
    place = (gap.max() - gap) / span if span > 0 else np.zeros(len(gap))
    mean = float((place * count).sum() / count.sum())
    return mean + (place - mean) * count / (count + kappa), mean


def classes_of(batch: ExitBatch) -> tuple[Ints, int]:
    """Return the class of each row, -1 where nobody knows it, and the number of classes."""
    if batch.labels is not None:
        labels = batch.labels.astype(np.int64)
    else:
        labels = np.full(len(batch), -1, dtype=np.int64)
        for k, output in enumerate(batch.outputs):
            right = batch.correct[:, k] > 0
            labels[right] = output.prediction[right]
    most = max(int(labels.max()), *(int(o.prediction.max()) for o in batch.outputs))
    return labels, max(batch.classes, most + 1, 1)


def probabilities(output: ExitOutput, classes: int) -> Floats:
    """Return class probabilities, (n, C); of a record, its confidence and the rest shared evenly."""
    if output.log_prob is not None:
        return np.exp(output.log_prob.astype(np.float64))
    sure = np.where(output.prediction >= 0, output.confidence, 1.0 / classes)
    rest = (1.0 - sure) / max(classes - 1, 1)
    found = np.repeat(rest[:, None], classes, axis=1)
    found[np.arange(len(output)), np.maximum(output.prediction, 0)] = sure
    return found
