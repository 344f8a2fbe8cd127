"""Golden vectors: inputs of every exit with the scores, answers and exits that a policy gives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Inputs = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Ran:
    """What a runtime says of n samples at every exit, whether or not they have left before.

    Attributes
    ----------
    score, confidence : ndarray of shape (n, K), float64
    prediction : ndarray of shape (n, K), int32
    leave : ndarray of shape (n, K), bool
        Score at or over the threshold; always at the last exit.
    """

    score: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]
    prediction: npt.NDArray[np.int32]
    leave: npt.NDArray[np.bool_]

    @property
    def exit(self) -> npt.NDArray[np.int64]:
        """Position of the exit taken, (n,)."""
        return self.leave.argmax(axis=1)


@dataclass(frozen=True)
class LeftOut:
    """Candidates for golden vectors that were left out, for they are within rounding of a threshold.

    Attributes
    ----------
    rows, of : int
        How many, of how many candidates.
    ulps : tuple of K-1 float
        How near that is, by exit: units of 2**-23 of the larger of score, threshold and 1. 0 where
        scores have the same bits everywhere: there nothing is left out.
    """

    rows: int = 0
    of: int = 0
    ulps: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Golden:
    """Samples and what is expected of them.

    Attributes
    ----------
    inputs : list of K dict
        Per position on the path: ``logits`` or ``probabilities`` (n, C) float32; for records
        ``prediction`` (n,) int32, ``confidence``, ``second``, ``entropy`` (n,) float64 as far as
        they are read; ``features`` (n, D) float32 where they are.
    sample : ndarray of shape (n,), int64
        Numbers of the samples: counters of the coin.
    expected : Ran
        By `policyopt.runtime`.
    edges : Golden, optional
        Samples as near to the thresholds as can be, on both sides of each (`edges.edges_of`).
    left_out : LeftOut
    """

    inputs: list[Inputs]
    sample: npt.NDArray[np.int64]
    expected: Ran
    edges: Golden | None = None
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return len(self.sample)


def expect(policy: Any, inputs: list[Inputs], sample: npt.NDArray[np.int64]) -> Golden:
    """Return golden vectors: what `policyopt.runtime` says of some inputs.

    Parameters
    ----------
    policy : Policy
    inputs : list of K dict
        See `Golden`.
    sample : ndarray of shape (n,), int64
    """
    n, exits = len(sample), policy.exits
    score, confidence = np.empty((n, exits)), np.empty((n, exits))
    prediction, leave = np.empty((n, exits), np.int32), np.empty((n, exits), bool)
    state = policy.start(sample)
    for at, (k, given) in enumerate(zip(policy.path, inputs, strict=True)):
        seen = policy.step(k, given_output(policy, given), state, given.get("features"))
        score[:, at], confidence[:, at] = seen.score, seen.confidence
        prediction[:, at], leave[:, at] = seen.prediction, seen.exit
    return Golden(inputs, sample, Ran(score, confidence, prediction, leave))


def rows_of(inputs: list[Inputs], rows: Any) -> list[Inputs]:
    """Return some rows of inputs."""
    return [{name: array[rows] for name, array in given.items()} for given in inputs]


def given_output(policy: Any, given: Inputs) -> Any:
    """Return the output of an exit as `Policy.step` takes it."""
    if policy.kind != "record":
        return given[policy.kind]
    columns: dict[str, Any] = {name: given[name] for name in ("prediction", "confidence")}
    if "second" in given:
        columns["top_prob"] = np.stack([given["confidence"], given["second"]], axis=1)
    if "entropy" in given:
        columns["entropy"] = given["entropy"]
    return columns
