"""Where the samples of each class leave, at what cost and how right."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.typing import Floats
from policyopt.trace import Traced

Ints = npt.NDArray[np.integer]


def class_records(found: Traced) -> list[dict[str, Any]] | None:
    """Describe every class that has rows.

    Parameters
    ----------
    found : Traced

    Returns
    -------
    list of dict, or None without labels
        ``class, rows, accuracy, cost`` (mean paid), ``exit_share`` (K,), ``accuracy_exits`` (K,:
        had all of the class left there); K exits that the policy runs.

    Examples
    --------
    >>> import numpy as np
    >>> found = Traced(
    ...     np.zeros((2, 2)),
    ...     np.array([[3, 3], [3, 1]], np.int32),
    ...     np.zeros((2, 1)),
    ...     np.array([0, 1]),
    ...     np.array([1.0, 4.0]),
    ...     np.array([1.0, 4.0]),
    ...     np.array([3, 3], np.int32),
    ...     np.array([[True, True], [True, False]]),
    ... )
    >>> class_records(found)
    [{'class': 3, 'rows': 2, 'accuracy': 0.5, 'cost': 2.5, 'exit_share': [0.5, 0.5],
      'accuracy_exits': [1.0, 0.5]}]
    """
    if found.labels is None or found.correct is None or found.correct_taken is None:
        return None
    names, place = np.unique(found.labels, return_inverse=True)
    rows = np.bincount(place)
    exits = [class_means(place, found.position == k) for k in range(found.exits)]
    right = [class_means(place, found.correct[:, k]) for k in range(found.exits)]
    columns = zip(
        names.tolist(),
        rows.tolist(),
        class_means(place, found.correct_taken).tolist(),
        class_means(place, found.cost).tolist(),
        np.stack(exits, axis=1).tolist(),
        np.stack(right, axis=1).tolist(),
        strict=True,
    )
    keys = ("class", "rows", "accuracy", "cost", "exit_share", "accuracy_exits")
    return [dict(zip(keys, values, strict=True)) for values in columns]


def class_means(place: Ints, values: npt.NDArray[Any]) -> Floats:
    """Return the mean of `values` (n,) for each class; `place` (n,) numbers them from 0.

    Examples
    --------
    >>> class_means(np.array([0, 0, 1]), np.array([1.0, 2.0, 5.0]))
    array([1.5, 5. ])
    """
    return np.bincount(place, weights=values) / np.bincount(place)
