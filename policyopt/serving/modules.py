"""The torch modules that a model's callables are, or hold; and what they cannot take."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from policyopt.runtime.errors import input_error

from .hidden import mapped
from .staged import StagedModel

#: How far functions are looked into for the modules that they call, and how much of a container.
_DEPTH, _ITEMS = 6, 1000


def refuse_numpy(model: StagedModel, batch: Any, error: Exception) -> None:
    """Refuse a batch of numpy arrays that a model of torch modules failed on with this error.

    (Stages that take numpy arrays are as good as any: so it is told only after they failed.)

    Raises
    ------
    InputError
    """
    arrays: list[bool] = []
    mapped(batch, lambda leaf: arrays.append(isinstance(leaf, np.ndarray)))
    calls = (*model.stages, *(model.heads or ()))
    if any(arrays) and any(True for call in calls for _ in modules_of(call)):
        raise input_error(
            "batch", "of torch tensors, as the model's modules take them",
            f"numpy arrays ({type(error).__name__}: {error})", "E.g. torch.from_numpy(batch).",
        ) from error  # fmt: skip


def modules_of(call: Any) -> Iterator[Any]:
    """Yield the modules that a callable is, or holds."""
    from torch import nn

    seen: set[int] = set()

    def walk(held: Any, depth: int) -> Iterator[Any]:
        if id(held) in seen or depth > _DEPTH:
            return
        seen.add(id(held))
        if isinstance(held, nn.Module):
            for module in held.modules():
                if module is held or id(module) not in seen:
                    seen.add(id(module))
                    yield module
            return
        for inner in _held(held):
            yield from walk(inner, depth + 1)

    yield from walk(call, 0)


def _held(held: Any) -> Iterator[Any]:
    """Yield what a function, method, partial, callable object or container holds."""
    if isinstance(held, Mapping):
        yield from islice(held.values(), _ITEMS)
    elif isinstance(held, (list, tuple)):
        yield from islice(held, _ITEMS)
    elif isinstance(held, functools.partial):
        yield from (held.func, held.args, held.keywords)
    elif callable(held) and not isinstance(held, type):
        for name in ("__self__", "__wrapped__", "_torchdynamo_orig_callable"):  # the last: compiled
            yield getattr(held, name, None)
        for name in ("__defaults__", "__kwdefaults__", "__dict__"):
            yield getattr(held, name, None)
        for cell in getattr(held, "__closure__", None) or ():
            try:
                yield cell.cell_contents
            except ValueError:  # a name that has no value yet
                continue
