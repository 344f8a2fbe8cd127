"""A policy family: one policy with several sets of thresholds, from cheap to dear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .._decision import first_exit
from .._errors import input_error
from .._parameters import numbers
from .._policy import Policy
from .._typing import Floats

#: What to call for a family whose ends leave always and never.
MAKES_ONE = "policyopt._online.families.fit_family(...)"
_MOST_ARMS = 10_000


@dataclass(frozen=True, eq=False)
class PolicyFamily:
    """One policy with A sets of thresholds: its levels, which are the arms of a bandit.

    Parameters
    ----------
    policy : Policy
        Its score and answer hold on every level; it draws no coin.
    thresholds : array of shape (A, K-1)
        Level a leaves at the first k with ``score >= thresholds[a, k]``. Where no threshold falls
        from one level to the next, a sample never leaves earlier on a larger level (`nested`): then
        playing level a shows what every smaller level would have done.
    labels : array of shape (A,), optional
        What the levels are called, for people: a threshold, or a budget; default 0, 1, ...

    Examples
    --------
    >>> from policyopt.runtime._scores import MaxProb
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
    >>> family = PolicyFamily(policy, [[0.0], [0.5], [1.0]])
    >>> family.exits(np.array([[0.4, 0.9], [0.7, 0.9]]))
    array([[0, 1, 1],
           [0, 0, 1]], dtype=int8)
    >>> family.arms, family.nested
    (3, True)
    """

    policy: Policy
    thresholds: Floats
    labels: Floats = None  # type: ignore[assignment]  # an array from here on
    nested: bool = field(init=False, default=False)
    _columns: Any = field(init=False, default=(), repr=False)

    def __post_init__(self) -> None:
        table = numbers("thresholds", self.thresholds, 2)
        arms, wide = table.shape
        if not 1 <= arms <= _MOST_ARMS or wide != self.policy.exits - 1:
            allowed = f"of shape (A, {self.policy.exits - 1}), A from 1 to {_MOST_ARMS}"
            raise input_error("thresholds", allowed, f"shape {table.shape}", "One row per arm.")
        if self.policy.mixture is not None:
            got = "one that draws a coin"
            raise input_error("policy", "without a mixture", got, "Fit without mix.")
        labels = numbers("labels", np.arange(arms) if self.labels is None else self.labels, 1)
        if len(labels) != arms:
            raise input_error("labels", f"one per arm: {arms}", len(labels), "Or leave them out.")
        object.__setattr__(self, "thresholds", table)
        object.__setattr__(self, "labels", labels)
        nested = arms == 1 or bool((np.diff(table, axis=0) >= 0).all())
        object.__setattr__(self, "nested", nested)
        # Per exit, the thresholds of all levels as plain numbers, for `taken`.
        object.__setattr__(self, "_columns", table.T.tolist())

    @property
    def arms(self) -> int:
        """A."""
        return len(self.thresholds)

    def at(self, arm: int) -> Policy:
        """Return the policy of one level."""
        return replace(self.policy, thresholds=self.thresholds[arm])

    def exits(self, scores: Floats) -> npt.NDArray[np.integer]:
        """Return the exit of each row (n, K) on each level: (n, A), int8 (int64 where K passes 127)."""
        dtype = np.int8 if self.policy.exits < 128 else np.int64
        found = np.empty((len(scores), self.arms), dtype=dtype)
        for arm, thresholds in enumerate(self.thresholds):
            found[:, arm] = first_exit(scores, thresholds)
        return found

    def taken(self, scores: Sequence[float], last: bool) -> list[int | None]:
        """Return the exit of each level as far as the scores of one sample's first exits tell.

        `last`: it went to the last exit, whose score is not looked at. None: the level would have gone on
        beyond what was seen.
        """
        exits = self.policy.exits
        found: list[int | None] = [exits - 1 if last else None] * self.arms
        for k in reversed(range(min(len(scores), exits - 1))):
            for a, threshold in enumerate(self._columns[k]):
                if scores[k] >= threshold:
                    found[a] = k
        return found
