"""Arrays among the parameters of a rule: they come from an artifact, so they are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import input_error


def numbers(name: str, value: Any, ndim: int) -> npt.NDArray[np.float64]:
    """Return nested lists of finite numbers as a read-only array.

    Parameters
    ----------
    name : str
        Used in errors.
    value : array or nested lists
    ndim : int

    Returns
    -------
    ndarray, float64

    Raises
    ------
    InputError
        Other depth, unequal rows, something that is no finite number.

    Examples
    --------
    >>> numbers("weights", [[1, 0.5]], 2)
    array([[1. , 0.5]])
    """
    try:
        raw = np.asarray(value)
        array = np.array(raw, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise input_error(
            name, f"numbers, {ndim} levels deep", str(error), "Check the policy."
        ) from error
    if _holds_truth(value):  # numpy would take it for 1 or 0
        raise input_error(name, "numbers", "true or false among them", "Check the policy.")
    if raw.dtype.kind not in "fiu" or array.ndim != ndim or not np.isfinite(array).all():
        raise input_error(
            name, f"finite numbers, {ndim} levels deep",
            f"shape {array.shape}, dtype {raw.dtype}", "Check the policy.",
        )  # fmt: skip
    array.flags.writeable = False
    return array


def _holds_truth(value: Any) -> bool:
    """Say whether a boolean stands anywhere in nested lists."""
    if not isinstance(value, (list, tuple)):
        return isinstance(value, bool)
    types = set(map(type, value))
    return bool in types or (
        not types <= {int, float}
        and any(_holds_truth(v) for v in value if type(v) in (list, tuple))
    )
