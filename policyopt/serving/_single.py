"""One sample through a staged model: decided by the policy's own step, or in machine code where that is certain.

Every line of a `run` is paid at every exit of every request, and after a stage has swept the caches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from policyopt._export.c_native import ASK, Native
from policyopt.runtime import Policy
from policyopt.runtime._typing import Floats
from policyopt.serving._hidden import host, host_row
from policyopt.serving._staged import FirstRows, StagedModel

#: Makes a result of exits, classes and costs, each of shape (1,).
Make = Callable[[Any, Any, Any], Any]


class Single:
    """Decides by `Policy.step`.

    `costs`: of the model's exits, (model_exits,); `model`, which the server sets anew after the first rows.
    """

    def __init__(
        self, model: StagedModel | FirstRows, policy: Policy, costs: Floats, make: Make
    ) -> None:  # fmt: skip
        import torch

        self.model: StagedModel | FirstRows = model
        self.policy, self._costs, self._make = policy, costs, make
        self._path, self._float32 = frozenset(policy.path), torch.float32
        self._shape, self._vectors = (1, policy.classes), policy.needs_features
        self._results: dict[tuple[int, int], Any] = {}  # by exit and class

    def run(self, batch: Any, number: int) -> Any:
        """Run a batch of one sample, of that number; return its result."""
        model, hidden, given = self.model, batch, None
        for k in range(self.policy.path[0] + 1):
            hidden, given = model.stage(k, hidden)
        first = self.policy.path[0]
        return self.by_policy(first, hidden, model.head(first, hidden, given), number, ())

    def result(self, k: int, c: int) -> Any:
        """Return the result of one sample that left at exit k with class c; frozen, so it serves again."""
        if (k, c) not in self._results:
            exits, classes = np.array([k]), np.array([c], dtype=np.int32)
            for array in (exits, classes):
                array.flags.writeable = False
            self._results[k, c] = self._make(exits, classes, self._costs[k : k + 1])
        return self._results[k, c]

    def by_policy(self, k: int, hidden: Any, logits: Any, number: int, seen: Sequence[Any]) -> Any:
        """Run one sample to its end by the policy, from exit k on; `seen`: outputs before."""
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


class Machine(Single):
    """Decides in machine code (`policyopt._export.c_native`)."""

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
                return self.by_policy(k, hidden, logits, number, self._native.seen(state, at))
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


def caught_up(policy: Policy, number: int, seen: Sequence[Any]) -> Any:
    """Return the policy's state of a sample after the outputs of its first exits."""
    state = policy.start(number)
    for k, output in zip(policy.path, seen, strict=False):
        policy.step(k, output, state)
    return state
