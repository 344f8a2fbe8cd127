"""`ScalarPolicy`: a policy's decisions on one sample at a time, in plain Python, where they are certain.

`Policy.step` pays numpy's price per call some dozens of times at every exit, whatever the batch. For a
request of its own the policy's graphs are written as plain Python (`scalar_source`), which takes a tenth
of that. Where rounding could change the outcome, and for what those functions cannot do, the sample's
outputs so far are shown to `Policy.step`, which then decides to the sample's end: exits and classes are
always the policy's own.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from policyopt.runtime.checks import sample_numbers
from policyopt.runtime.deciding import position
from policyopt.runtime.decision import State
from policyopt.runtime.experts import policy_of
from policyopt.runtime.policy import Policy
from policyopt.runtime.reading import as_array

from .scalar_compile import UNSURE, compiled


class ScalarDecision(NamedTuple):
    """What is decided of one sample at one exit.

    Attributes
    ----------
    exit : bool
        Whether to leave here; the policy's own, always.
    prediction : int
        The answer's class; the policy's own, always.
    score, confidence : float
        The policy's, up to some units of float32 rounding.
    """

    exit: bool
    prediction: int
    score: float
    confidence: float


class ScalarState:
    """Where one sample stands between exits; advanced by `ScalarPolicy.step`."""

    __slots__ = ("given", "left", "position", "sample", "slow")

    def __init__(self, sample: int) -> None:
        self.sample, self.position = sample, 0
        self.left: tuple[Any, ...] = ()
        self.given: list[tuple[Any, Any]] = []  # outputs and features, for the policy to catch up
        self.slow: State | None = None  # the policy's own, once it decides


class ScalarPolicy:
    """A policy for one sample at a time.

    Parameters
    ----------
    policy : Policy
        Any. Mixtures, kept exits, probabilities and feature vectors are supported; policies of
        records, of more than 256 classes, or with a rule that graphs cannot say go by `Policy.step`.

    Attributes
    ----------
    policy : Policy
    reason : str
        Why `Policy.step` decides everything; empty where it need not.

    Examples
    --------
    >>> from policyopt.runtime.scores import MaxProb
    >>> scalar = ScalarPolicy(Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", 2))
    >>> state = scalar.start()
    >>> scalar.step(0, [0.0, 0.0], state)
    ScalarDecision(exit=False, prediction=0, score=0.5, confidence=0.5)
    >>> scalar.step(1, [0.0, 9.0], state).prediction
    1
    """

    def __init__(self, policy: Any) -> None:
        self.policy: Policy = policy_of(policy, single=True)
        self._compiled = compiled(self.policy, ("score", "confidence"))
        self.reason = self._compiled.reason

    def start(self, sample: int = 0) -> ScalarState:
        """Begin a sample.

        Parameters
        ----------
        sample : int
            Its number, as in `Policy.start`.

        Returns
        -------
        ScalarState
        """
        return ScalarState(int(sample_numbers(sample)))

    def step(self, k: int, output: Any, state: ScalarState, features: Any = None) -> ScalarDecision:
        """Decide at exit k.

        Parameters
        ----------
        k : int
            The model's number of the exit, as in `Policy.step`.
        output : sequence of C floats, array or tensor of shape (C,) or (1, C); mapping for records
        state : ScalarState
            From `start`; advanced in place.
        features : the same, of shape (D_k,) or (1, D_k), optional
            Only where the policy `needs_features`.

        Returns
        -------
        ScalarDecision

        Raises
        ------
        InputError
            As `Policy.step`.
        """
        policy, made = self.policy, self._compiled
        at = position(policy, k, state)  # type: ignore[arg-type]  # looks at its position alone
        if state.slow is None and not made.reason:
            row, kept = _row(output, policy.classes)
            vector, shown = None, None
            if policy.needs_features:
                vector, shown = _row(features, made.widths[at])
            if row is not None and (vector is not None or not policy.needs_features):
                try:
                    found = made.functions[at](row, vector, state.sample, state.left)
                except UNSURE:
                    found = None  # the policy decides
                if found is not None:
                    leave, prediction, score, sure, state.left = found
                    state.given.append((kept, shown))
                    state.position = at + 1
                    return ScalarDecision(leave, prediction, score, sure)
        if state.slow is None:
            state.slow = caught_up(policy, state.sample, state.given)
        decision = policy.step(k, output, state.slow, features)
        state.position = at + 1
        return ScalarDecision(
            decision.exit, decision.prediction, decision.score, decision.confidence
        )


def caught_up(policy: Policy, sample: int, given: Sequence[tuple[Any, Any]]) -> State:
    """Return the policy's own state after outputs and features of its first exits."""
    state = policy.start(sample)
    for k, (output, features) in zip(policy.path, given, strict=False):
        policy.step(k, output, state, features)
    return state


def _row(values: Any, width: int | None) -> tuple[list[float] | None, Any]:
    """Return one sample's float32 numbers as a list, and a copy for the policy; None: ask the policy."""
    if type(values) is list:
        try:
            row = array("f", values).tolist()
        except (
            TypeError,
            OverflowError,
        ):  # a row in a list, or no such numbers: the policy's to read
            return None, None
        kept: Any = values.copy()
    elif values is None or hasattr(values, "keys"):
        return None, None
    else:
        kept = as_array(values)
        one = kept.ndim == 1 or (kept.ndim == 2 and len(kept) == 1)
        if not one or kept.dtype.kind not in "fiu":
            return None, None
        row = kept.reshape(-1).astype(np.float32).tolist()
        kept = kept.copy()
    known = width is None or len(row) == width
    return (row, kept) if known and isfinite(sum(row)) else (None, None)
