"""What methods that measure distances to classes share: the space, class means, and keeping artifacts small."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policyopt.methods.learned_score import LearnedScore
from policyopt.methods.seen import Seen
from policyopt.methods.settings import check_choice
from policyopt.runtime.linear import row_product
from policyopt.runtime.prototypes import SPACES, vectors
from policyopt.runtime.typing import Floats, Ints
from policyopt.table import Table

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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("vectors", self.vectors, SPACES)

    def needs(self) -> frozenset[str]:
        """Return the column that holds the vectors."""
        return frozenset({"features" if self.vectors == "features" else "log_prob"})

    def lacks(self, table: Table) -> list[str]:
        """Return what the method needs and these rows do not hold."""
        unlabelled = table.kind == "record" and table.statistics.labels is None
        return [*super().lacks(table), *(["class labels"] if unlabelled else [])]


@dataclass(frozen=True, eq=False)
class Located:
    """The vectors of some rows at all exits but the last, as they are measured.

    Attributes
    ----------
    vectors : list of K-1 arrays of shape (N, D_k)
        Projected, where the rule will project.
    projection : list of K-1 arrays of shape (D_k, W_k), or None
    labels : ndarray of shape (N,), int64
    classes : int
    """

    vectors: list[Floats]
    projection: list[Floats] | None
    labels: Ints
    classes: int


def locate(seen: Seen, space: str, seed: int) -> Located:
    """Return the vectors of all rows, projected where they are too wide to be stored as they are.

    Wide are vectors of more than 128 numbers, or of so many that a point per class would not fit into
    `ROOM`: their distances are then measured between principal components, of all projections the one
    that keeps squared distances best.

    Parameters
    ----------
    seen : Seen
        With labels.
    space : {"logits", "features"}
    seed : int
        Of the rows that principal components are found on.

    Returns
    -------
    Located
    """
    assert seen.labels is not None
    labels = seen.labels.astype(np.int64)
    classes = seen.classes or int(labels.max()) + 1
    found = [vectors(output, space) for output in seen.outputs[:-1]]
    widths = [v.shape[1] for v in found]
    if max(widths) <= _WIDE and classes * sum(widths) <= ROOM:
        return Located(found, None, labels, classes)
    room = ROOM // sum(classes + width for width in widths)
    keep = max(min(room, _NARROW), 2)
    projection = [principal(v, min(keep, v.shape[1]), seed) for v in found]
    projected = [row_product(v, p) for v, p in zip(found, projection, strict=True)]
    return Located(projected, projection, labels, classes)


def principal(rows: Floats, keep: int, seed: int) -> Floats:
    """Return the first principal directions of some rows, (keep, W).

    Examples
    --------
    >>> rows = np.array([[0.0, 1.0], [2.0, 1.1], [4.0, 1.0]])
    >>> np.abs(principal(rows, 1, 0)).round(1)
    array([[1., 0.]])
    """
    from sklearn.utils.extmath import randomized_svd

    if len(rows) > _MOST_ROWS:
        rows = rows[np.random.default_rng(seed).permutation(len(rows))[:_MOST_ROWS]]
    centered = rows - rows.mean(axis=0)
    found = np.zeros((keep, rows.shape[1]))
    some = min(keep, *rows.shape)
    found[:some] = randomized_svd(centered, some, random_state=seed)[2]
    return short(found)


def class_means(rows: Floats, labels: Ints) -> tuple[Floats, Ints]:
    """Return the mean vector of each class that has rows, and which classes these are.

    Examples
    --------
    >>> class_means(np.array([[0.0], [2.0], [5.0]]), np.array([0, 0, 3]))
    (array([[1.],
           [5.]]), array([0, 3]))
    """
    order = np.argsort(labels, kind="stable")
    which, first, size = np.unique(labels[order], return_index=True, return_counts=True)
    return np.add.reduceat(rows[order], first, axis=0) / size[:, None], which


def means_of(located: Located) -> tuple[list[Floats], list[Ints]]:
    """Return class means, as they are stored, and their classes at every exit but the last."""
    means, owner = zip(*(class_means(v, located.labels) for v in located.vectors), strict=True)
    return [short(m) for m in means], list(owner)


def short(values: npt.ArrayLike, digits: int = _DIGITS) -> Floats:
    """Return numbers cut to a few significant digits: what an artifact stores of each.

    Examples
    --------
    >>> short([123.456, -0.00123456, 0.0])
    array([ 1.235e+02, -1.235e-03,  0.000e+00])
    """
    array = np.asarray(values, dtype=np.float64)
    size = np.abs(array)
    exponent = np.floor(np.log10(np.where(size > 1e-30, size, 1.0)))
    step = 10.0 ** (digits - 1 - exponent)
    # Divided, not multiplied by the inverse: the quotient of two whole numbers prints short.
    return np.where(size > 1e-30, np.rint(array * step) / step, 0.0)
