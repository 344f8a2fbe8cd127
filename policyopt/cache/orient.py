"""Any axis order, list of exits or tensor, brought to rows first: ``(n, K)`` and ``(n, K, C)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policyopt.cache.features import is_features, spread
from policyopt.cache.layout import COST_PREFIX, ROW_NUMBERS, Array
from policyopt.runtime.errors import input_error


def to_numpy(argument: str, value: Any) -> Array:
    """Return a numpy array (a view where possible) of numbers or booleans.

    Parameters
    ----------
    argument : str
        Name used in errors.
    value : array_like or torch tensor
        Tensors may stand on any device and need a gradient.

    Returns
    -------
    ndarray
        Of kind bool, integer or float.

    Raises
    ------
    InputError
        Ragged lists, text, objects, complex numbers.

    Examples
    --------
    >>> to_numpy("labels", [1, 2])
    array([1, 2])
    """
    if hasattr(value, "detach") and hasattr(
        value, "cpu"
    ):  # a torch tensor, without importing torch
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy has no bfloat16; float32 holds it exactly
            value = value.float()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise input_error(
            argument, "an array of numbers", f"a {type(value).__name__} ({error})"
        ) from error
    if array.dtype.kind not in "biuf":
        step = "Convert it first."
        if array.dtype.kind in "US":
            step = "Encode names of classes as whole numbers from 0."
        raise input_error(argument, "an array of numbers", f"dtype {array.dtype}", step)
    return array


def rows_first(argument: str, value: Any, axes: str) -> Array:
    """Return an array with the axes N, K(, C) from any axis order or a sequence of K arrays.

    Parameters
    ----------
    argument : str
        Name used in errors.
    value : array of 2 or 3 axes, or sequence of K arrays
        Each array of a sequence has the axes N(, C).
    axes : str
        Order of the axes in `value`, e.g. ``"NKC"``, ``"KNC"``, ``"KN"``.

    Returns
    -------
    ndarray of shape (n, K) or (n, K, C)
        A view, or a stacked copy of a sequence.

    Raises
    ------
    InputError
        Wrong number of axes, or arrays of different shape.

    Examples
    --------
    >>> rows_first("outputs", np.zeros((2, 5, 3)), "KNC").shape
    (5, 2, 3)
    """
    if isinstance(value, (list, tuple)) and value and all(hasattr(v, "shape") for v in value):
        parts = [to_numpy(f"{argument}[{k}]", v) for k, v in enumerate(value)]
        shapes = [p.shape for p in parts]
        if len(set(shapes)) > 1 or parts[0].ndim != len(axes) - 1:
            allowed = f"K arrays of one shape with axes {axes.replace('K', '')}"
            raise input_error(argument, allowed, f"shapes {shapes}")
        return np.stack(parts, axis=1)
    array = to_numpy(argument, value)
    if array.ndim != len(axes):
        raise input_error(argument, f"of {len(axes)} axes ({axes})", f"shape {array.shape}")
    order = "NKC"[: len(axes)]
    return array.transpose([axes.index(letter) for letter in order])


def check_axes(axes: str) -> str:
    """Return `axes` in capitals where it orders N, K and C; else raise `InputError`.

    Examples
    --------
    >>> check_axes("knc")
    'KNC'
    """
    if not isinstance(axes, str) or sorted(axes.upper()) not in (sorted("NKC"), sorted("NK")):
        raise input_error(
            "axes", "an order of N, K and C, e.g. NKC or KNC", axes, "State the order."
        )
    return axes.upper() if len(axes) == 3 else axes.upper() + "C"


def orient(arrays: Mapping[str, Any], axes: str) -> dict[str, Array]:
    """Bring row arrays of any axis order to the shapes in `Rows`.

    Parameters
    ----------
    arrays : mapping of str to array_like
        Names as in `Rows`, or ``features``: a list of K arrays; None means absent.
    axes : str
        Order of the axes N, K, C of all arrays, e.g. ``"NKC"``.

    Returns
    -------
    dict of str to ndarray
        Views where possible; values not yet checked.

    Raises
    ------
    InputError
        An array has another number of axes.

    Examples
    --------
    >>> orient({"outputs": np.zeros((2, 5, 3))}, "KNC")["outputs"].shape
    (5, 2, 3)
    """
    axes = check_axes(axes)
    block: dict[str, Array] = {}
    given = {name: value for name, value in arrays.items() if value is not None}
    if "features" in given:
        given |= spread(given.pop("features"))
    for name, value in given.items():
        if name in ROW_NUMBERS:
            block[name] = to_numpy(name, value)
            if block[name].ndim != 1:
                shape = f"shape {block[name].shape}"
                raise input_error(
                    name, "of shape (n,)", shape, "For one-hot rows take their argmax."
                )
        elif is_features(name):  # rows first in any case
            block[name] = to_numpy(name, value)
        else:
            deep = name in ("outputs", "top_prob")
            shown = name.replace(COST_PREFIX, "sample_costs ")
            block[name] = rows_first(shown, value, axes if deep else axes.replace("C", ""))
    return block
