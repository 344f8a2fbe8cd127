"""Scores from distances to class prototypes: the space, class means, keeping artifacts small; E2CM and DE3-BERT.

E2CM: Görmez, Dasari & Koyuncu, IJCNN 2022, arXiv:2103.01148, section III: early exit by class means. The mean
of each class's vectors at each exit is all that is learned. A sample's distance to each mean is divided by that
mean's average distance to the training rows; where the largest entry of the softmax of the negative quotients
reaches the threshold, the sample leaves. Departures: the answer is the exit's own, not the nearest class (post
hoc there is a trained head, and the paper too joins both); vectors are the exit's logits unless the cache keeps
the model's features; wide vectors are projected to principal components (`locate`); thresholds are one per
exit and meet a budget, where the paper sweeps them.

DE3-BERT: He et al., 2024, arXiv:2402.05948, section III: distances to prototypes beside the entropy. The exit
indicator is the weighted harmonic mean of a distance ratio and of the normalised entropy (see
`policyopt.runtime._scores.de3_bert`). Departures: the paper trains a projection network and its prototypes at
every layer, with a regulariser on distances; post hoc a prototype is the mean of its class's vectors (as a
prototypical network defines it, Snell et al., 2017) in the space as it is. The text that was at hand gives DR's
formula, not which distance is r1: here it is that to the answer's own prototype, which makes DR fill [0, 1] as
its scaling does, and is the smaller of the two wherever answer and nearest prototype agree. The weight's default
is 1, the plain harmonic mean; the paper searches it per task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from policyopt._methods.exit_batch import ExitBatch
from policyopt._methods.learned_score import LearnedScore
from policyopt._methods.settings import Number, Real
from policyopt._table import Table
from policyopt.runtime._arithmetic import distances, row_product
from policyopt.runtime._scores import DE3BERT as DE3BERTRule
from policyopt.runtime._scores import E2CM as E2CMRule
from policyopt.runtime._scores.prototypes import SPACES, vectors
from policyopt.runtime._typing import Floats, Ints

#: Numbers that a rule may store in all, so that its artifact stays about 2 MB.
ROOM = 250_000
#: Vectors wider than this are projected, to as many principal components as there is room for.
_WIDE, _NARROW = 128, 64
_MOST_ROWS = 2000  # that principal components are found on
_DIGITS = 4


@dataclass(frozen=True)
class PrototypeScore(LearnedScore):
    """A score from distances to points that stand for classes.

    Parameters
    ----------
    thresholds, answer, folds
        As of `LearnedScore`.
    vectors : {"logits", "features"}
        Where distances are measured: between the exits' logits (any cache has them), or between the
        model's own feature vectors, where the cache keeps them.
    """

    vectors: str = "logits"

    keeps_rows = True
    allowed: ClassVar = {"vectors": SPACES}

    def needs(self) -> frozenset[str]:
        """Return the column that holds the vectors."""
        return frozenset({"features" if self.vectors == "features" else "log_prob"})

    def lacks(self, table: Table) -> list[str]:
        """Return what the method needs and these rows do not hold."""
        unlabelled = table.kind == "record" and table.statistics.labels is None
        return [*super().lacks(table), *(["class labels"] if unlabelled else [])]


@dataclass(frozen=True, eq=False)
class Located:
    """The vectors of some rows at all exits but the last, as they are measured."""

    vectors: list[Floats]  # K-1 x (N, D_k), projected where the rule will project
    projection: list[Floats] | None  # K-1 x (D_k, W_k)
    labels: Ints  # (N,)
    classes: int


def locate(batch: ExitBatch, space: str, seed: int) -> Located:
    """Return the vectors of all rows, projected where they are too wide to be stored as they are.

    Wide are vectors of more than 128 numbers, or of so many that a point per class would not fit into
    `ROOM`: their distances are then measured between principal components, of all projections the one
    that keeps squared distances best.
    """
    assert batch.labels is not None
    labels = batch.labels.astype(np.int64)
    classes = batch.classes or int(labels.max()) + 1
    found = [vectors(output, space) for output in batch.outputs[:-1]]
    widths = [v.shape[1] for v in found]
    if max(widths) <= _WIDE and classes * sum(widths) <= ROOM:
        return Located(found, None, labels, classes)
    room = ROOM // sum(classes + width for width in widths)
    keep = max(min(room, _NARROW), 2)
    projection = [principal(v, min(keep, v.shape[1]), seed) for v in found]
    projected = [row_product(v, p) for v, p in zip(found, projection, strict=True)]
    return Located(projected, projection, labels, classes)


def principal(rows: Floats, keep: int, seed: int) -> Floats:
    """Return the first principal directions of some rows, (keep, W)."""
    from sklearn.utils.extmath import randomized_svd

    if len(rows) > _MOST_ROWS:
        rows = rows[np.random.default_rng(seed).permutation(len(rows))[:_MOST_ROWS]]
    centered = rows - rows.mean(axis=0)
    found = np.zeros((keep, rows.shape[1]))
    some = min(keep, *rows.shape)
    found[:some] = randomized_svd(centered, some, random_state=seed)[2]
    return short(found)


def class_means(rows: Floats, labels: Ints) -> tuple[Floats, Ints]:
    """Return the mean vector of each class that has rows, and which classes these are."""
    order = np.argsort(labels, kind="stable")
    which, first, size = np.unique(labels[order], return_index=True, return_counts=True)
    return np.add.reduceat(rows[order], first, axis=0) / size[:, None], which


def means_of(located: Located) -> tuple[list[Floats], list[Ints]]:
    """Return class means, as they are stored, and their classes at every exit but the last."""
    means, owner = zip(*(class_means(v, located.labels) for v in located.vectors), strict=True)
    return [short(m) for m in means], list(owner)


def short(values: npt.ArrayLike, digits: int = _DIGITS) -> Floats:
    """Return numbers cut to a few significant digits: what an artifact stores of each."""
    array = np.asarray(values, dtype=np.float64)
    size = np.abs(array)
    exponent = np.floor(np.log10(np.where(size > 1e-30, size, 1.0)))
    step = 10.0 ** (digits - 1 - exponent)
    # Divided, not multiplied by the inverse: the quotient of two whole numbers prints short.
    return np.where(size > 1e-30, np.rint(array * step) / step, 0.0)


@dataclass(frozen=True)
class E2CM(PrototypeScore):
    """Leave where a class mean is near.

    Parameters
    ----------
    thresholds, answer, folds, vectors
        As of `PrototypeScore`.
    """

    label = "e2cm"

    def learn(self, batch: ExitBatch, seed: int) -> E2CMRule:
        """Average the vectors of each class, and the distances to each average."""
        located = locate(batch, self.vectors, seed)
        means, owner = means_of(located)
        norm = [
            short(np.maximum(distances(rows, points).mean(axis=0), 1e-9))
            for rows, points in zip(located.vectors, means, strict=True)
        ]
        return E2CMRule(self.vectors, located.classes, means, owner, located.projection, norm)


@dataclass(frozen=True)
class DE3BERT(PrototypeScore):
    """Leave where entropy is low and the answer's prototype near.

    Parameters
    ----------
    thresholds, answer, folds, vectors
        As of `PrototypeScore`.
    weight : float
        Of the distance ratio against the entropy, lambda in the paper; 0 is the entropy alone.
    """

    weight: float = 1.0

    label = "de3_bert"
    allowed: ClassVar = {"weight": Number(most=1e6)}
    tuned: ClassVar = {"weight": Real(0.1, 10.0, log=True)}

    def needs(self) -> frozenset[str]:
        """Return the columns of the vectors, and the entropy."""
        return super().needs() | {"entropy"}

    def learn(self, batch: ExitBatch, seed: int) -> DE3BERTRule:
        """Average the vectors of each class."""
        located = locate(batch, self.vectors, seed)
        means, owner = means_of(located)
        return DE3BERTRule(
            self.vectors, located.classes, means, owner, located.projection, float(self.weight)
        )
