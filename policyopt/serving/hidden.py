"""Hidden states between stages: tensors, or tuples, lists and mappings of them, regrouped together.

The first axis of every tensor is the batch; a tensor whose first axis is 1 while the batch is larger
is shared by all samples (a position bias), and so is everything that is no array (None, numbers).
A list of texts is one input per sample, for cascades of models that read text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.errors import input_error


def mapped(hidden: Any, change: Callable[[Any], Any]) -> Any:
    """Return the same structure with every tensor, array and list of texts changed.

    Examples
    --------
    >>> mapped({"a": np.arange(3), "b": (np.arange(2), None)}, len)
    {'a': 3, 'b': (2, None)}
    """
    if hasattr(hidden, "shape") or _texts(hidden):
        return change(hidden)
    if isinstance(hidden, Mapping):  # a tokenizer's own mapping becomes a plain one
        return {key: mapped(value, change) for key, value in hidden.items()}
    if isinstance(hidden, (tuple, list)):
        parts = [mapped(value, change) for value in hidden]
        named = hasattr(hidden, "_fields")
        return type(hidden)(*parts) if named else type(hidden)(parts)
    return hidden


def size(batch: Any) -> int:
    """Return n, the samples of a batch: the largest first axis in it.

    Raises
    ------
    InputError
        No array in it, or one without axes only.

    Examples
    --------
    >>> size({"input_ids": np.zeros((4, 7)), "bias": np.zeros((1, 7, 7))})
    4
    """
    shape: Any = getattr(batch, "shape", ())
    if len(shape):
        return int(shape[0])
    found: list[int] = []
    mapped(batch, lambda leaf: found.append(len(leaf)) if np.ndim(leaf) else None)
    if not found:
        raise input_error(
            "batch", "a tensor, or a tuple, list or mapping with tensors, first axis = samples",
            type(batch).__name__, "Pass what the first stage takes.",
        )  # fmt: skip
    return max(found)


def take(hidden: Any, rows: npt.NDArray[np.int64], of: int) -> Any:
    """Return the hidden states of some samples only.

    Parameters
    ----------
    hidden : tensor, or tuple, list or mapping of them
    rows : ndarray of shape (m,), int64
        Their places in the batch.
    of : int
        n, the samples in the batch.

    Raises
    ------
    InputError
        A first axis that is neither n nor 1.

    Examples
    --------
    >>> take((np.array([5, 6, 7]), None), np.array([0, 2]), 3)
    (array([5, 7]), None)
    """
    places: dict[Any, Any] = {}  # the row numbers, once per device

    def pick(leaf: Any) -> Any:
        if isinstance(leaf, list):
            if len(leaf) != of:
                raise _axis(f"{len(leaf)} texts", of)
            return [leaf[row] for row in rows]
        if not len(leaf.shape) or (leaf.shape[0] == 1 and of > 1):
            return leaf
        if leaf.shape[0] != of:
            raise _axis(f"shape {tuple(leaf.shape)}", of)
        if isinstance(leaf, np.ndarray):
            return leaf[rows]
        if leaf.device not in places:
            import torch

            places[leaf.device] = torch.from_numpy(rows).to(leaf.device)
        return _rows_of(leaf, places[leaf.device])

    return mapped(hidden, pick)


def part(batch: Any, low: int, high: int, of: int) -> Any:
    """Return the samples low..high-1 of a batch, without copying.

    Examples
    --------
    >>> part((np.array([5, 6, 7]), ["a", "b", "c"]), 1, 3, 3)
    (array([6, 7]), ['b', 'c'])
    """

    def pick(leaf: Any) -> Any:
        shared = not isinstance(leaf, list) and (
            not len(leaf.shape) or (leaf.shape[0] == 1 and of > 1)
        )
        return leaf if shared else leaf[low:high]

    return mapped(batch, pick)


def _rows_of(tensor: Any, rows: Any) -> Any:
    """Return some rows of a tensor in the memory format that it has.

    `index_select` copies whole rows, five times as fast as indexing, but into the default format, and
    a channels-last network would then convert at every layer. So the axes are put in the order of
    memory before, and back after.
    """
    order = [0, *sorted(range(1, tensor.ndim), key=lambda axis: -tensor.stride(axis))]
    if not (laid := tensor.permute(order)).is_contiguous():
        return tensor[rows]
    back = sorted(range(tensor.ndim), key=order.__getitem__)
    return laid.index_select(0, rows).permute(back)


def _texts(hidden: Any) -> bool:
    return isinstance(hidden, list) and bool(hidden) and all(isinstance(v, str) for v in hidden)


def _axis(got: str, of: int) -> Exception:
    return input_error(
        "hidden", f"of {of} rows, one per sample of the batch (or 1, shared)", got,
        "The first axis of every tensor that a stage passes on is the batch.",
    )  # fmt: skip
