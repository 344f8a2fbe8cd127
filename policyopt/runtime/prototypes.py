"""Distances from a sample to points that stand for classes: what the distance rules share.

Each row is measured by itself, its squares added in the order of the coordinates, so that a single step
and a batch give the same bits (as in `policyopt.runtime.linear`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import input_error
from .linear import row_product
from .output import ExitOutput
from .parameters import numbers
from .scores.base import Floats, ScoreRule

SPACES = ("logits", "features")
_BLOCK = 1 << 15  # numbers held at a time: they stay in the processor's cache
#: Log-probabilities are cut here: a class that cannot be lies at -inf, where nothing is near.
_LOWEST = -30.0


def vectors(output: ExitOutput, space: str) -> Floats:
    """Return the vectors whose distances are measured, (n, D).

    Parameters
    ----------
    output : ExitOutput
        With `log_prob` or `features`.
    space : {"logits", "features"}
        Logits as the exit (or its answer rule) gives them; of probabilities their logarithms.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_logits, with_log_prob
    >>> logits = np.array([[1.0, 3.0]])
    >>> vectors(with_log_prob(reduce_logits(logits), logits), "logits").round(6)
    array([[1., 3.]])
    """
    if space == "features":
        assert output.features is not None  # the policy asks for what its score needs
        return output.features.astype(np.float64)
    assert output.log_prob is not None
    return np.maximum(output.log_prob, _LOWEST) + output.log_sum_exp[:, None]


def distances(rows: Floats, points: Floats) -> Floats:
    """Return the Euclidean distance of each row to each point, (n, P).

    Parameters
    ----------
    rows : ndarray of shape (n, D)
    points : ndarray of shape (P, D)

    Examples
    --------
    >>> distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
    array([[5., 1.]])
    """
    if not isinstance(rows, np.ndarray):  # a symbol: `policyopt.export` records what is done
        return rows.traced_distances(points)
    out = np.zeros((len(rows), len(points)))
    step = max(_BLOCK // max(len(points), 1), 1)
    columns = np.ascontiguousarray(points.T)
    for low in range(0, len(rows), step):
        part, total = rows[low : low + step], out[low : low + step]
        gap = np.empty_like(total)
        # One coordinate at a time: long loops side by side, in one order for one row and for many.
        for d, column in enumerate(columns):
            np.subtract(part[:, d, None], column, out=gap)
            np.multiply(gap, gap, out=gap)
            total += gap
    return np.sqrt(out, out=out)


@dataclass(frozen=True, eq=False)
class PrototypeRule(ScoreRule):
    """A rule that looks at the distances to points that stand for classes.

    Parameters
    ----------
    space : {"logits", "features"}
        What is measured.
    classes : int
        C.
    points : K-1 arrays of shape (P_k, D_k)
        One or more of a class; a class may have none.
    owner : K-1 arrays of shape (P_k,)
        The class of each point, not falling.
    projection : K-1 arrays of shape (D_k, W_k), or None
        What vectors of width W_k are multiplied by before they are measured.
    """

    space: str
    classes: int
    points: Any
    owner: Any
    projection: Any

    arrays = frozenset({"space", "points", "owner", "projection"})

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise input_error(
                "space of the score", f"one of {', '.join(SPACES)}", self.space, "Fit again."
            )
        if not isinstance(self.classes, int) or not 1 <= self.classes <= 10**6:
            raise input_error(
                "classes of the score", "a whole number over 0", self.classes, "Fit again."
            )
        self._freeze("points", 2)
        self._freeze("owner", 1)
        if self.projection is not None:
            self._freeze("projection", 2)
        for k, (points, owner) in enumerate(zip(self.points, self.owner, strict=True)):
            fits = len(owner) == len(points) > 0 and (np.diff(owner) >= 0).all()
            known = (owner >= 0) & (owner < self.classes) & (owner % 1 == 0)
            if not (fits and known.all()):
                raise input_error(
                    f"owner of the score at exit {k}",
                    f"one class of {self.classes} per point, not falling", owner.tolist()[:20],
                    "Fit it again.",
                )  # fmt: skip
            if self.projection is not None and len(self.projection[k]) != points.shape[1]:
                raise input_error(
                    f"projection of the score at exit {k}", f"to {points.shape[1]} numbers",
                    len(self.projection[k]), "Fit it again.",
                )  # fmt: skip

    def _freeze(self, name: str, ndim: int) -> None:
        value = getattr(self, name)
        exits = len(self.points) if name != "points" else None
        if not isinstance(value, (list, tuple)) or exits not in (None, len(value)) or not value:
            raise input_error(
                f"{name} of the score", "one array per exit but the last",
                f"a {type(value).__name__}", "Fit it again.",
            )  # fmt: skip
        kept = tuple(numbers(f"{name} of the score", part, ndim) for part in value)
        object.__setattr__(self, name, kept)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Columns read beyond prediction and confidence."""
        return frozenset({"features" if self.space == "features" else "log_prob"})

    def check(self, exits: int, classes: int) -> None:
        """Refuse parameters of another number of exits or classes."""
        if len(self.points) != exits - 1:
            raise input_error(
                "score", f"made for {exits} exits", len(self.points) + 1, "Fit it again."
            )
        if classes and self.classes != classes:
            raise input_error("score", f"made for {classes} classes", self.classes, "Fit it again.")

    @cached_property
    def _groups(self) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Per exit the classes that have points, and where each one's points begin."""
        found = (np.unique(owner, return_index=True) for owner in self.owner)
        return [(which.astype(np.int64), first.astype(np.int64)) for which, first in found]

    def class_distances(self, k: int, output: ExitOutput) -> Floats:
        """Return each row's distance to the nearest point of each class that has points, (n, G)."""
        rows = vectors(output, self.space)
        width = (self.points if self.projection is None else self.projection)[k].shape[1]
        if rows.shape[1] != width:
            raise input_error(
                f"{self.space} of exit {k}", f"{width} numbers per sample, as in the fit",
                rows.shape[1], "The policy belongs to another model.",
            )  # fmt: skip
        if self.projection is not None:
            rows = row_product(rows, self.projection[k])
        first = self._groups[k][1]
        step = max(_BLOCK // len(self.points[k]), 1)
        parts = [  # of many points, memory is needed for a few rows
            np.minimum.reduceat(distances(rows[low : low + step], self.points[k]), first, axis=1)
            for low in range(0, max(len(rows), 1), step)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def own_and_other(self, k: int, output: ExitOutput) -> tuple[Floats, Floats]:
        """Return the distances to the predicted class and to the nearest other, (n,) each.

        A class without points is infinitely far; so is that of a sample without an answer.
        """
        near, which = self.class_distances(k, output), self._groups[k][0]
        mine = which == output.prediction[:, None]
        own = np.where(mine, near, np.inf).min(axis=1)
        return own, np.where(mine, np.inf, near).min(axis=1)

    def operations(self, k: int, classes: int) -> float:
        """Return the multiply-adds: a difference and a product per number stored; the projection; the logits."""
        if k == len(self.points):
            return 0.0
        project = 0 if self.projection is None else self.projection[k].size
        logs = classes if self.space == "logits" else 0
        return 1.5 * self.points[k].size + float(project + logs)

    def params(self) -> dict[str, Any]:
        """Return the parameters as lists."""
        kept = None if self.projection is None else [p.tolist() for p in self.projection]
        return {
            "space": self.space,
            "classes": self.classes,
            "points": [p.tolist() for p in self.points],
            "owner": [o.astype(int).tolist() for o in self.owner],
            "projection": kept,
        }
