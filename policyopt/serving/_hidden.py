"""What passes through a staged model: hidden states, regrouped together, and outputs, brought to the host.

Hidden states are tensors, or tuples, lists and mappings of them. The first axis of every tensor is the batch;
a tensor whose first axis is 1 while the batch is larger is shared by all samples (a position bias), and so is
everything that is no array (None, numbers). A list of texts is one input per sample, for cascades of models
that read text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Ints


def mapped(hidden: Any, change: Callable[[Any], Any]) -> Any:
    """Return the same structure with every tensor, array and list of texts changed.

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
    """Return n, the samples of a batch: the largest first axis in it; one without arrays is refused."""
    shape: Any = getattr(batch, "shape", ())
    if len(shape):
        return int(shape[0])
    found: list[int] = []
    mapped(batch, lambda leaf: found.append(len(leaf)) if np.ndim(leaf) else None)
    if not found:
        allowed = "a tensor, or a tuple, list or mapping with tensors, first axis = samples"
        step = "Pass what the first stage takes."
        raise input_error("batch", allowed, type(batch).__name__, step)
    return max(found)


def take(hidden: Any, rows: Ints, of: int) -> Any:
    """Return the hidden states of some samples, at places (m,) of a batch of n; refuse other first axes.

    >>> take((np.array([5, 6, 7]), None), np.array([0, 2]), 3)
    (array([5, 7]), None)
    """
    places: dict[Any, Any] = {}  # the row numbers, once per device

    def pick(leaf: Any) -> Any:
        if _shared(leaf, of):
            return leaf
        if len(leaf) != of:
            allowed = f"of {of} rows, one per sample of the batch (or 1, shared)"
            got = f"{len(leaf)} texts" if isinstance(leaf, list) else f"shape {tuple(leaf.shape)}"
            step = "The first axis of every tensor that a stage passes on is the batch."
            raise input_error("hidden", allowed, got, step)
        if isinstance(leaf, list):
            return [leaf[row] for row in rows]
        if isinstance(leaf, np.ndarray):
            return leaf[rows]
        if leaf.device not in places:
            import torch

            places[leaf.device] = torch.from_numpy(rows).to(leaf.device)
        return _rows_of(leaf, places[leaf.device])

    return mapped(hidden, pick)


def part(batch: Any, low: int, high: int, of: int) -> Any:
    """Return the samples low..high-1 of a batch of n, without copying.

    >>> part((np.array([5, 6, 7]), ["a", "b", "c"]), 1, 3, 3)
    (array([6, 7]), ['b', 'c'])
    """
    return mapped(batch, lambda leaf: leaf if _shared(leaf, of) else leaf[low:high])


def host(output: Any) -> Any:
    """Return an exit's output on the host, floats as float32, the width of every decision; records by column."""
    if isinstance(output, Mapping):
        return {name: host(column) for name, column in output.items()}
    if hasattr(output, "detach"):
        output = output.detach()
        return (output.float() if output.is_floating_point() else output).cpu().numpy()
    return np.asarray(output)


def _rows_of(tensor: Any, rows: Any) -> Any:
    """Return some rows of a tensor in the memory format that it has.

    `index_select` is five times as fast as indexing, but copies into the default format, and a channels-last
    network would then convert at every layer. So the axes are put in the order of memory before, and back after.
    """
    order = [0, *sorted(range(1, tensor.ndim), key=lambda axis: -tensor.stride(axis))]
    if not (laid := tensor.permute(order)).is_contiguous():
        return tensor[rows]
    back = sorted(range(tensor.ndim), key=order.__getitem__)
    return laid.index_select(0, rows).permute(back)


def _shared(leaf: Any, of: int) -> bool:
    if isinstance(leaf, list):
        return False
    return not len(leaf.shape) or (leaf.shape[0] == 1 and of > 1)


def _texts(hidden: Any) -> bool:
    return isinstance(hidden, list) and bool(hidden) and all(isinstance(v, str) for v in hidden)
