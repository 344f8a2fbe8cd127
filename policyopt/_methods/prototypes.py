"""Scores from what the rows of each class look like: E2CM, DE3-BERT, the trust score; and CBT.

E2CM: Görmez, Dasari & Koyuncu, IJCNN 2022, arXiv:2103.01148, section III: early exit by class means. The mean of
each class's vectors at each exit is all that is learned: no head is trained. A sample's distance to each mean is
divided by that mean's average distance to the training rows; where the largest entry of the softmax of the negative
quotients reaches the threshold, the sample leaves, and the nearest class (the largest entry) is the answer; who comes
to the last exit has the model's own. ``answer=plain`` (or another answer of heads) keeps heads' answers, as where the
paper joins class means with trained exits. Departures: vectors are the exit's logits unless ``vectors=features``
(of untrained heads logits are random projections, and do nearly as well); wide vectors are projected to principal
components (`locate`); thresholds are one per exit and meet a budget, where the paper sweeps them.

DE3-BERT: He et al., 2024, arXiv:2402.05948, section III: distances to prototypes beside the entropy. The exit
indicator is the weighted harmonic mean of a distance ratio and of the normalised entropy (see
`policyopt.runtime._scores.de3_bert`). Departures: the paper trains a projection network and its prototypes at
every layer, with a regulariser on distances; post hoc a prototype is the mean of its class's vectors (as a
prototypical network defines it, Snell et al., 2017) in the space as it is. The text that was at hand gives DR's
formula, not which distance is r1: here it is that to the answer's own prototype, which makes DR fill [0, 1] as
its scaling does, and is the smaller of the two wherever answer and nearest prototype agree. The weight's default
is 1, the plain harmonic mean; the paper searches it per task.

Trust score: Jiang, Kim, Guan & Gupta, NeurIPS 2018, arXiv:1805.11783, algorithm 1, as an exit rule. Each class
keeps its alpha-high-density set: of its training rows, those but for the share alpha whose distance to their k-th
nearest neighbour in the class is largest. A sample's trust is its distance to the nearest class other than the
answer over that to the answer's class. As in the released code, a row counts as its own first neighbour where
densities are compared.

Departures: the trust score is made a policy by a threshold per exit. What an artifact can hold and an exit can
afford is bounded: a high-density set with more rows than `points` is stood for by the centres of that many
clusters (k-means by class: Hastie et al., The elements of statistical learning, section 13.2.1), which cover the
set evenly, where a sample of its rows would leave gaps that look like distance. At most 2,000 rows of a class are
looked at. Wide vectors are projected to principal components (`prototypes.locate`).

CBT, class-based thresholds: Görmez & Koyuncu, arXiv:2210.15621, section II: easy classes leave sooner. P_c is the
mean of the class probabilities over the training samples of class c and over all exits. The gap of its two
largest entries says how easy the class is; gaps are mapped, easiest to lowest, straight onto a range [alpha,
beta] of thresholds (0.9 to 0.998 in the paper), one per class, the same at all exits.

``alpha=0.9+beta=0.998`` are the paper's own thresholds, no budget asked. ``class_thresholds`` are given ones, class
by class: with two classes MonoBERT's asymmetric exits (Xin, Nogueira, Yu & Lin, Early exiting BERT for efficient
document ranking, SustaiNLP 2020: one threshold for documents that seem relevant, another for the many that do not).

Departures: samples, not pixels. Without alpha and beta, of the range only its width, beta - alpha, is kept: a class's
threshold is its place in the range above a level of each exit, and the levels meet the budget; and a class's place is
shrunk towards the mean of all by ``n_c / (n_c + kappa)``, since a cache has few rows of a class where the paper has
millions of pixels. Of summaries, which keep the confidence only, what is left of the probability is shared evenly
among the other classes, and where labels are not kept either, a row's class is what the exits that are right call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.spatial.distance import cdist

from policyopt._answers.crossfit import NAMES, CrossFitted, answered
from policyopt._cache.data import folds_of
from policyopt._methods.base import problem_of
from policyopt._methods.exit_batch import ExitBatch, build_batch, subsample_outputs
from policyopt._methods.fitted import Draft
from policyopt._methods.learned_score import LearnedScore, missing_labels
from policyopt._methods.regression import principal, short
from policyopt._methods.settings import COUNT, NOT_NEGATIVE, Choice, Integer, Number, Real
from policyopt._table import Table
from policyopt._thresholds.problem import Problem, Solution
from policyopt._thresholds.solvers import solve_given
from policyopt.runtime._answers import Identity, NearestMean
from policyopt.runtime._arithmetic import distances, row_product
from policyopt.runtime._errors import input_error
from policyopt.runtime._outputs import LOWEST, ExitOutput
from policyopt.runtime._parameters import numbers
from policyopt.runtime._scores import DE3BERT as DE3BERTRule
from policyopt.runtime._scores import E2CM as E2CMRule
from policyopt.runtime._scores import ClassOffset, make_rule
from policyopt.runtime._scores import TrustScore as Rule
from policyopt.runtime._scores.prototypes import SPACES, vectors
from policyopt.runtime._typing import Floats, Ints

#: Numbers that a rule may store in all, so that its artifact stays about 2 MB.
ROOM = 250_000
#: Vectors wider than this are projected, to as many principal components as there is room for.
_WIDE, _NARROW = 128, 64
_MOST_ROWS = 2000  # of a class that neighbours are looked for in
_FEW_ROWS = 200  # are compared one by one before a search is set up
_ROUNDS = 10  # of k-means


@dataclass(frozen=True)
class PrototypeScore(LearnedScore):
    """A score from distances to points that stand for classes.

    Parameters
    ----------
    vectors : {"logits", "features"}
        Where distances are measured: between the exits' logits (any cache has them), or between the
        model's own feature vectors, where the cache keeps them.
    """

    vectors: str = "logits"

    keeps_rows = True
    allowed: ClassVar = {"vectors": SPACES}

    def required_columns(self) -> frozenset[str]:
        return frozenset({"features" if self.vectors == "features" else "log_prob"})

    def missing_columns(self, table: Table) -> list[str]:
        return [*super().missing_columns(table), *missing_labels(table)]


@dataclass(frozen=True, eq=False)
class Located:
    """The vectors of some rows at all exits but the last, as they are measured."""

    vectors: list[Floats]  # K-1 x (N, D_k), projected where the rule will project
    projection: list[Floats] | None  # K-1 x (D_k, W_k)
    labels: Ints  # (N,)
    classes: int


def locate(batch: ExitBatch, space: str, seed: int) -> Located:
    """Return the vectors of all rows; wide ones (over 128 numbers, or `ROOM`) as principal components."""
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


def class_means(rows: Floats, labels: Ints) -> tuple[Floats, Ints]:
    """Return the mean vector of each class that has rows, and which classes these are."""
    order = np.argsort(labels, kind="stable")
    which, first, size = np.unique(labels[order], return_index=True, return_counts=True)
    return np.add.reduceat(rows[order], first, axis=0) / size[:, None], which


def means_of(located: Located) -> tuple[list[Floats], list[Ints]]:
    """Return class means, as they are stored, and their classes at every exit but the last."""
    means, owner = zip(*(class_means(v, located.labels) for v in located.vectors), strict=True)
    return [short(m) for m in means], list(owner)


CLASS_MEAN = "class_mean"


@dataclass(frozen=True)
class E2CM(PrototypeScore):
    """Leave where a class mean is near, with its class.

    Parameters
    ----------
    answer : str
        What exits return: ``class_mean``, the nearest class, as the paper; or an answer of their heads
        (``plain``, ...).
    """

    answer: str = CLASS_MEAN

    label = "e2cm"
    allowed: ClassVar = {"answer": (CLASS_MEAN, *NAMES)}
    tuned: ClassVar = {"answer": Choice((CLASS_MEAN, "plain", "combined"))}

    def pose(self, table: Table, seed: int) -> Draft:
        """Answer each row by means that it is no part of; what is deployed are those of all rows."""
        if self.answer != CLASS_MEAN:
            return super().pose(table, seed)
        features = self.vectors == "features"
        table = subsample_outputs(table, seed, features)
        batch = build_batch(table, CrossFitted(Identity()), features)
        batch = batch.shown_to(self.required_columns())
        fold = folds_of(len(table), self.parts(table), seed, table.group)
        whole = self.means(batch, seed)
        rests = [np.flatnonzero(fold != f) for f in np.unique(fold)]
        rules = [self.means(batch.take(rest), seed) if len(rest) else whole for rest in rests]
        answers = CrossFitted(whole, tuple(rules), fold)
        table, rule = answered(table, answers), make_rule("max_prob", {})
        return Draft(rule, table, problem_of(rule, table, answers), answers.rule)

    def means(self, batch: ExitBatch, seed: int) -> NearestMean:
        """Return the answer of these rows' class means; a class without rows is out of reach."""
        rule, points, norm, offset = self.learn(batch, seed), [], [], []
        for own, size, which in zip(rule.points, rule.norm, rule.owner, strict=True):
            which = which.astype(np.int64)
            # A class without rows stands behind one that has some, however far off a sample is.
            points.append(np.repeat(own[:1], rule.classes, axis=0))
            norm.append(np.full(rule.classes, size[0]))
            offset.append(np.full(rule.classes, LOWEST))
            points[-1][which], norm[-1][which], offset[-1][which] = own, size, 0.0
        return NearestMean(self.vectors, points, norm, offset, rule.projection)

    def learn(self, batch: ExitBatch, seed: int) -> E2CMRule:
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
    weight : float
        Of the distance ratio against the entropy, lambda in the paper; 0 is the entropy alone.
    """

    weight: float = 1.0

    label = "de3_bert"
    allowed: ClassVar = {"weight": Number(most=1e6)}
    tuned: ClassVar = {"weight": Real(0.1, 10.0, log=True)}

    def required_columns(self) -> frozenset[str]:
        return super().required_columns() | {"entropy"}

    def learn(self, batch: ExitBatch, seed: int) -> DE3BERTRule:
        located = locate(batch, self.vectors, seed)
        means, owner = means_of(located)
        return DE3BERTRule(
            self.vectors, located.classes, means, owner, located.projection, float(self.weight)
        )


@dataclass(frozen=True)
class TrustScore(PrototypeScore):
    """Leave where the answer's class is much nearer than any other.

    Parameters
    ----------
    alpha : float
        Share of each class's rows that is left out as sparse, in [0, 1).
    neighbours : int
        k of the density.
    points : int
        Most points kept of a class at an exit; fewer where classes or widths are many, so that an
        artifact stays about 2 MB.
    """

    alpha: float = 0.0625
    neighbours: int = 10
    points: int = 20

    label = "trust_score"
    allowed: ClassVar = {"alpha": Number(below=1), "neighbours": COUNT, "points": COUNT}
    tuned: ClassVar = {"alpha": Real(0.0, 0.5), "points": Integer(5, 200, log=True)}

    def learn(self, batch: ExitBatch, seed: int) -> Rule:
        located = locate(batch, self.vectors, seed)
        rng = np.random.default_rng(seed)
        exits = len(located.vectors)
        points, owner = [], []
        for rows in located.vectors:
            room = ROOM // (exits * rows.shape[1] * located.classes)
            most = max(min(self.points, room), 1)
            each = (rows[located.labels == c] for c in range(located.classes))
            parts = [self._kept(own, most, rng) for own in each]
            points.append(short(np.concatenate(parts)))
            owner.append(np.repeat(np.arange(located.classes), [len(part) for part in parts]))
        return Rule(self.vectors, located.classes, points, owner, located.projection)

    def _kept(self, rows: Floats, most: int, rng: np.random.Generator) -> Floats:
        """Return the points that stand for the rows of one class."""
        if len(rows) > _MOST_ROWS:
            rows = rows[np.sort(rng.permutation(len(rows))[:_MOST_ROWS])]
        dense = rows[high_density(rows, self.alpha, self.neighbours)]
        return centres(dense, most, rng) if len(dense) > most else dense


def centres(rows: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return the centres of clusters of the rows, by Lloyd's algorithm from a random start."""
    found = rows[np.sort(rng.permutation(len(rows))[:count])]
    for _ in range(_ROUNDS):
        nearest = distances(rows, found).argmin(axis=1)
        size = np.bincount(nearest, minlength=count)
        sums = np.zeros_like(found)
        np.add.at(sums, nearest, rows)
        moved = np.where(size[:, None] > 0, sums / np.maximum(size, 1)[:, None], found)
        if (moved == found).all():
            break
        found = moved
    return found


def high_density(rows: Floats, alpha: float, neighbours: int) -> Ints:
    """Return which rows belong to the alpha-high-density set. Shapes: rows (N, D); returns (M,)."""
    if not len(rows):
        return np.empty(0, dtype=np.int64)
    count = min(neighbours, len(rows))
    if len(rows) <= _FEW_ROWS:
        radius = np.partition(cdist(rows, rows), count - 1, axis=1)[:, count - 1]
    else:
        from sklearn.neighbors import NearestNeighbors

        radius = NearestNeighbors(n_neighbors=count).fit(rows).kneighbors(rows)[0][:, -1]
    return np.flatnonzero(radius <= np.quantile(radius, 1.0 - alpha))


@dataclass(frozen=True)
class CBT(LearnedScore):
    """Leave where the confidence is high for the predicted class.

    Parameters
    ----------
    width : float
        How far apart the thresholds of the easiest and the hardest class lie, in [0, 1].
    kappa : float
        Rows of a class at which its own place in that range counts half.
    alpha, beta : float, optional
        The thresholds of the easiest and the hardest class, at all exits, in the place of `width` and a budget.
    class_thresholds : tuple of C floats, optional
        The classes' thresholds themselves, at all exits.
    """

    width: float = 0.098
    kappa: float = 20.0
    alpha: float | None = None
    beta: float | None = None
    class_thresholds: tuple[float, ...] | None = None

    label = "cbt"
    asks = "classes"
    uses = frozenset({"log_prob"})
    allowed: ClassVar = {
        "width": Number(most=1), "kappa": NOT_NEGATIVE, "alpha": Number(most=1, optional=True),
        "beta": Number(most=1, optional=True),
    }  # fmt: skip
    tuned: ClassVar = {"width": Real(0.0, 0.5), "kappa": Real(1.0, 300.0, log=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high, given = self.alpha, self.beta, self.class_thresholds
        if (low is None) != (high is None) or (low or 0.0) > (high or 0.0):
            ends = f"{low} and {high}"
            step = "E.g. --set alpha=0.9 --set beta=0.998."
            raise input_error("alpha, beta", "both or none, alpha at most beta", ends, step)
        if given is not None:
            numbers("class_thresholds", given, 1)
            if self.alpha is not None:
                step = "Leave one of the two out."
                raise input_error("class_thresholds", "given without alpha and beta", given, step)

    @property
    def fixed(self) -> bool:
        return self.alpha is not None or self.class_thresholds is not None

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        if not self.fixed:
            return super().solve_problem(problem, budgets)
        name = "class_thresholds" if self.alpha is None else "alpha, beta"
        return [solve_given(problem, 0.0, budget, name) for budget in budgets]

    def learn(self, batch: ExitBatch, seed: int) -> ClassOffset:
        labels, classes = classes_of(batch)
        if self.class_thresholds is not None:
            if len(self.class_thresholds) != classes:
                got, step = self.class_thresholds, "E.g. 0.9,0.99 of two classes."
                raise input_error("class_thresholds", f"{classes} numbers", got, step)
            return ClassOffset(self.class_thresholds, max(self.class_thresholds))
        rows = np.flatnonzero(labels >= 0)
        if not len(rows):  # no exit is ever right
            hardest = self.beta or 0.0
            return ClassOffset(np.full(classes, hardest), hardest)
        labels = labels[rows]
        which, count = np.unique(labels, return_counts=True)
        mean = np.zeros((len(which), classes))
        for output in batch.outputs:
            mean += class_means(probabilities(output.take(rows), classes), labels)[0] / batch.exits
        ranked = np.sort(mean, axis=1)
        gap = ranked[:, -1] - (ranked[:, -2] if classes > 1 else 0.0)
        if self.alpha is not None and self.beta is not None:
            own = np.full(classes, self.beta)
            own[which] = self.alpha + (self.beta - self.alpha) * places(gap, count, 0.0)[0]
            return ClassOffset(own, self.beta)
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
            right = batch.quality[:, k] >= 1
            labels[right] = output.prediction[right]
    most = max(int(labels.max()), *(int(o.prediction.max()) for o in batch.outputs))
    return labels, max(batch.classes, most + 1, 1)


def probabilities(output: ExitOutput, classes: int) -> Floats:
    """Return class probabilities, (n, C); of a summary, its confidence and the rest shared evenly."""
    if output.log_prob is not None:
        return np.exp(output.log_prob.astype(np.float64))
    sure = np.where(output.prediction >= 0, output.confidence, 1.0 / classes)
    rest = (1.0 - sure) / max(classes - 1, 1)
    found = np.repeat(rest[:, None], classes, axis=1)
    found[np.arange(len(output)), np.maximum(output.prediction, 0)] = sure
    return found
