"""Trust score: Jiang, Kim, Guan & Gupta, NeurIPS 2018, arXiv:1805.11783, algorithm 1, as an exit rule.

Each class keeps its alpha-high-density set: of its training rows, those but for the share alpha whose
distance to their k-th nearest neighbour in the class is largest. A sample's trust is its distance to the
nearest class other than the answer over that to the answer's class. As in the released code, a row
counts as its own first neighbour where densities are compared.

Departures: the trust score is made a policy by a threshold per exit. What an artifact can hold and an
exit can afford is bounded: a high-density set with more rows than `points` is stood for by the centres of
that many clusters (k-means by class: Hastie et al., The elements of statistical learning, section 13.2.1),
which cover the set evenly, where a sample of its rows would leave gaps that look like distance. At most
2,000 rows of a class are looked at. Wide vectors are projected to principal components
(`prototypes.locate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._methods.exit_batch import ExitBatch
from policyopt._methods.prototypes import ROOM, PrototypeScore, locate, short
from policyopt._methods.settings import COUNT, Integer, Number, Real
from policyopt.runtime._arithmetic import distances
from policyopt.runtime._scores import TrustScore as Rule
from policyopt.runtime._typing import Floats, Ints

_MOST_ROWS = 2000  # of a class
_ROUNDS = 10  # of k-means


@dataclass(frozen=True)
class TrustScore(PrototypeScore):
    """Leave where the answer's class is much nearer than any other.

    Parameters
    ----------
    thresholds, answer, folds, vectors
        As of `PrototypeScore`.
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
        """Find the high-density set of each class, and the points that stand for it."""
        located = locate(batch, self.vectors, seed)
        rng = np.random.default_rng(seed)
        exits = len(located.vectors)
        points, owner = [], []
        for rows in located.vectors:
            room = ROOM // (exits * rows.shape[1] * located.classes)
            most = max(min(self.points, room), 1)
            parts = [
                self._kept(rows[located.labels == c], most, rng) for c in range(located.classes)
            ]
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
    from sklearn.neighbors import NearestNeighbors

    if not len(rows):
        return np.empty(0, dtype=np.int64)
    search = NearestNeighbors(n_neighbors=min(neighbours, len(rows))).fit(rows)
    radius = search.kneighbors(rows)[0][:, -1]
    return np.flatnonzero(radius <= np.quantile(radius, 1.0 - alpha))
