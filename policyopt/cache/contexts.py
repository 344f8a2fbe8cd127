"""Contexts: which expert's outputs a row holds, e.g. those of branches fine-tuned for blurred images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from policyopt.runtime.contexts import MAX_CONTEXTS, checked_names
from policyopt.runtime.typing import Array


def name_contexts(names: Any, columns: Iterable[Array | None]) -> tuple[str, ...]:
    """Return the names of contexts: those given, else "0", "1", ... as far as the rows count.

    Parameters
    ----------
    names : sequence of str, or None
    columns : iterable of ndarray of shape (n,), or None
        The rows' contexts, one array for each split that has them.

    Returns
    -------
    tuple of str
        Empty where there are neither names nor contexts.

    Raises
    ------
    InputError
        Names that are none. Numbers out of range are left to the check of values.

    Examples
    --------
    >>> name_contexts(None, [np.array([0, 2]), None]), name_contexts(["sun", "rain"], [])
    (('0', '1', '2'), ('sun', 'rain'))
    """
    if names is not None:
        return checked_names(names, 0)
    found = [array for array in columns if array is not None and array.size]
    if not found:
        return ()
    with np.errstate(invalid="ignore"):
        top = max(float(np.nan_to_num(array).max()) for array in found)
    return tuple(str(e) for e in range(int(np.clip(top + 1, 1, MAX_CONTEXTS))))
