"""`Query`: from what is known of a sample before any model is asked to the columns that routing reads of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import distances, row_product
from ._errors import input_error
from ._parameters import Rule, array, number
from ._reading import as_array
from ._typing import Floats

_FAR = 5.0  # units of an axis: what lies further out is read as if it lay there


class Query(Rule):
    """How D numbers become Q columns: brought to R axes, beside how near they are to P points, and summed.

    Near is ``exp(-(distance / width)**2 / 2)``. The columns are log odds that a model will be right, and more.
    """

    name, role = "query", "routing"
    center: Any = array("D")
    axes: Any = array("R", "D")
    points: Any = array("P", "R")
    width: float = number(least=1e-9)
    weights: Any = array("Q", "1+R+P")  # offset first

    def columns(self, given: Floats) -> Floats:
        """Return the columns (n, Q) of queries (n, D)."""
        return row_product(self.seen(self.place(given)), self.weights[:, 1:]) + self.weights[:, 0]

    def place(self, given: Floats) -> Floats:
        """Return where queries (n, D) lie, (n, R)."""
        return np.clip(row_product(given - self.center, self.axes), -_FAR, _FAR)

    def seen(self, place: Floats) -> Floats:
        """Return places (n, R), and how near the points they are, (n, R + P)."""
        near = np.exp(-0.5 * (distances(place, self.points) / self.width) ** 2)
        return np.concatenate([place, near], axis=1)

    def read(self, given: Any, n: int) -> Floats:
        """Return the queries of n samples, (n, D), as a cache keeps them (float32); refused unless such."""
        d, query = len(self.center), as_array(given, "query")
        flat = query.ndim < 2 and query.size == n * d and 1 in (n, d)
        query = query.reshape(n, d) if flat else query
        if query.shape != (n, d) or query.dtype.kind not in "biuf":
            allowed = f"{d} numbers" if n == 1 else f"numbers of shape ({n}, {d})"
            step = "Give what the cache has under the key query, in its order."
            raise input_error("query", allowed, f"shape {query.shape}, {query.dtype}", step)
        with np.errstate(over="ignore"):
            kept = query.astype(np.float32)
        if not np.isfinite(kept).all():
            raise input_error("query", "finite in float32", "NaN or infinity", "Mend that sample.")
        return kept.astype(np.float64)
