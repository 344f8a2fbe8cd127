"""One sample through a staged model: decided in plain Python or machine code where that is certain.

Every line of a `run` is paid at every exit of every request, and after a stage has swept the caches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.export.c_native import ASK, Native
from policyopt.export.scalar_compile import UNSURE, Compiled
from policyopt.export.scalar_policy import caught_up
from policyopt.runtime import Policy

from .first_rows import FirstRows
from .output import host, host_row
from .staged import StagedModel

#: Makes a result of exits, classes and costs, each of shape (1,).
Make = Callable[[Any, Any, Any], Any]


class Single:
    """What both ways of serving one sample share: their results, and the policy when they ask it."""

    def __init__(
        self, model: StagedModel | FirstRows, policy: Policy, costs: npt.NDArray[np.float64], make: Make
    ) -> None:  # fmt: skip
        import torch

        self.model: StagedModel | FirstRows = model  # the server sets it anew after the first rows
        self.policy, self._costs, self._make = policy, costs, make
        self._path, self._float32 = frozenset(policy.path), torch.float32
        self._shape, self._vectors = (1, policy.classes), policy.needs_features
        self._results: dict[tuple[int, int], Any] = {}  # by exit and class

    def result(self, k: int, c: int) -> Any:
        """Make the result of one sample that left at exit k with class c; frozen, so it serves again."""
        exits, classes = np.array([k]), np.array([c], dtype=np.int32)
        for array in (exits, classes):
            array.flags.writeable = False
        self._results[k, c] = made = self._make(exits, classes, self._costs[k : k + 1])
        return made

    def slowly(
        self, k: int, hidden: Any, logits: Any, number: int, seen: Sequence[tuple[Any, Any]]
    ) -> Any:
        """Run one sample to its end by the policy, from exit k on; `seen`: outputs before, features."""
        given: Any = None
        model, policy = self.model, self.policy
        state = caught_up(policy, number, seen)
        while True:
            vectors = host(model.vectors(k, hidden)) if self._vectors else None
            decision = policy.step(k, host(logits), state, vectors)
            if decision.exit:
                return self.result(k, decision.prediction)
            following = policy.path[policy.path.index(k) + 1]
            for stage in range(k + 1, following + 1):
                hidden, given = model.stage(stage, hidden)
            k, logits = following, model.head(following, hidden, given)


class Plain(Single):
    """Decides in plain Python (`policyopt.export.scalar_source`)."""

    def __init__(self, made: Compiled, *shared: Any) -> None:
        super().__init__(*shared)
        self._functions, self._widths = made.functions, made.widths

    def run(self, batch: Any, number: int) -> Any:
        """Run a batch of one sample, of that number; return its result."""
        model, path, shape, float32 = self.model, self._path, self._shape, self._float32
        functions, hidden, at, vector = self._functions, batch, 0, None
        states: tuple[Any, ...] = ()
        seen: list[tuple[Any, Any]] = []  # logits and features of the exits before
        for k in range(model.exits):
            hidden, given = model.stage(k, hidden)
            if k not in path:
                continue
            logits = model.head(k, hidden, given)
            if getattr(logits, "dtype", None) is float32 and logits.shape == shape:
                kept = row = logits.tolist()[0]
            else:
                kept, row = host_row(logits, shape)
            if self._vectors:
                vector = self._vector(k, hidden, self._widths[at])
            found = None
            if row is not None and (vector is not None or not self._vectors):
                try:
                    found = functions[at](row, vector, number, states)
                except UNSURE:
                    found = None  # the policy decides
            if found is None:
                return self.slowly(k, hidden, logits, number, seen)
            leave, c, states = found
            if leave:
                return self._results.get((k, c)) or self.result(k, c)
            seen.append((kept, vector))
            at += 1
        raise AssertionError("the last exit on a path always stops")

    def _vector(self, k: int, hidden: Any, width: int | None) -> list[float] | None:
        """Return the features of one sample; None where the policy has to look at them."""
        vector = host(self.model.vectors(k, hidden))
        known = vector.shape == (1, vector.shape[-1] if width is None else width)
        return vector[0].tolist() if known and np.isfinite(vector).all() else None


class Machine(Single):
    """Decides in machine code (`policyopt.export.c_native`)."""

    def __init__(self, made: Native, *shared: Any) -> None:
        super().__init__(*shared)
        self._native = made

    def run(self, batch: Any, number: int) -> Any:
        """Run a batch of one sample, of that number; return its result."""
        model, path, shape, float32 = self.model, self._path, self._shape, self._float32
        step, hidden, at = self._native.step, batch, 0
        state = ctypes.create_string_buffer(self._native.size)
        for k in range(model.exits):
            hidden, given = model.stage(k, hidden)
            if k not in path:
                continue
            logits = model.head(k, hidden, given)
            if (
                getattr(logits, "dtype", None) is float32
                and logits.shape == shape
                and logits.is_cpu
                and logits.is_contiguous()
            ):
                said = step(state, number, at, logits.data_ptr())
            else:
                said = self._converted(logits, state, number, at)
            if said == ASK:
                seen = self._native.seen(state, at)
                return self.slowly(k, hidden, logits, number, [(row, None) for row in seen])
            if said & 1:
                return self._results.get((k, said >> 1)) or self.result(k, said >> 1)
            at += 1
        raise AssertionError("the last exit on a path always stops")

    def _converted(self, logits: Any, state: Any, number: int, at: int) -> int:
        """Step on an output of another form; the policy has to look at what has no such row."""
        _, row = host_row(logits, self._shape)
        if row is None:
            return ASK
        x = (ctypes.c_float * len(row))(*row)
        return self._native.step(state, number, at, ctypes.addressof(x))
