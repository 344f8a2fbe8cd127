"""`summarise`: full outputs of many classes to the few numbers that a cache keeps of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from policyopt._cache.blocks import to_numpy
from policyopt.runtime._checks import check_one_of, check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._outputs import TOP, reduce_logits
from policyopt.runtime._typing import Array

_WHOLE = ("logits", "probabilities")
_PIECE_BYTES = 1 << 19


def summarise(outputs: Any, top: int = TOP, *, kind: str = "logits") -> dict[str, Array]:
    """Reduce outputs to what `CacheWriter.append` takes as a summary, by the arithmetic of policies that serve.

    Parameters
    ----------
    outputs : array of shape (..., C), or sequence of K arrays of shape (n, C)
        Logits or probabilities; numpy or torch. They are read a few rows at a time.
    top : int, default 3
        How many of the largest probabilities to return.
    kind : {"logits", "probabilities"}
        What they are.

    Returns
    -------
    dict
        ``prediction`` (...), int32; ``top_prob`` (..., T) and ``entropy`` (...), float64, in nats. Of a sequence
        (n, K) and (n, K, T). A cache keeps all digits with ``dtype="float64"``.

    Raises
    ------
    InputError
        No axis of classes, or a row without a finite largest value.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> kept = summarise(rng.normal(size=(100, 3, 5000)))  # (n, K, C)
    >>> {name: array.shape for name, array in kept.items()}
    {'prediction': (100, 3), 'top_prob': (100, 3, 3), 'entropy': (100, 3)}
    """
    check_one_of("kind", kind, _WHOLE)
    if isinstance(outputs, (list, tuple)):
        each = [summarise(one, top, kind=kind) for one in outputs]
        return {name: np.stack([one[name] for one in each], axis=1) for name in each[0]}
    shape: tuple[int, ...] = tuple(getattr(outputs, "shape", ()))
    if not shape or 0 in shape:
        raise input_error("outputs", "of shape (..., C)", f"shape {shape}", "Classes come last.")
    whole, classes = outputs.reshape(1, -1) if len(shape) == 1 else outputs, shape[-1]
    rows, top = math.prod(shape[:-1]), min(check_whole("top", top), classes)
    kept: dict[str, Array] = {
        "prediction": np.empty(rows, np.int32), "top_prob": np.empty((rows, top)), "entropy": np.empty(rows),
    }  # fmt: skip
    step = max(_PIECE_BYTES // (4 * classes), 1)
    scratch, done = np.empty((2, step, classes), dtype=np.float32), 0
    each = max(step * len(whole) // rows, 1)
    for low in range(0, len(whole), each):
        part = to_numpy("outputs", whole[low : low + each]).reshape(-1, classes)
        for at in range(0, len(part), step):
            logits = KINDS[kind].logits(part[at : at + step])
            output = reduce_logits(logits, top, scratch, name="outputs")
            for name, array in kept.items():
                array[done : done + len(logits)] = getattr(output, name)
            done += len(logits)
    return {name: array.reshape((*shape[:-1], *array.shape[1:])) for name, array in kept.items()}
