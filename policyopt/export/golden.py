"""Golden vectors: inputs of every exit with the scores, answers and exits that a policy gives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.answers import Plain
from policyopt.runtime.errors import input_error

Inputs = dict[str, npt.NDArray[Any]]
#: Bytes of the inputs that are held side by side: rows are fewer where one is large, ...
BYTES = 32 << 20
#: ... and where even `FEW` of them take more than this, the policy is refused.
MOST_BYTES = 256 << 20
FEW = 8
#: A score that turns by more than this (of the larger of threshold and 1) jumps: rounding elsewhere
#: may take another side of the jump. An answer whose two largest classes are nearer may be the other.
JUMP = 64 * 2.0**-23


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
    sure : ndarray of shape (n,), bool
        Whose class rounding elsewhere cannot change, at any exit; empty where it was not looked at.
    """

    inputs: list[Inputs]
    sample: npt.NDArray[np.int64]
    expected: Ran
    edges: Golden | None = None
    left_out: LeftOut = field(default_factory=LeftOut)
    sure: npt.NDArray[np.bool_] = field(default_factory=lambda: np.ones(0, dtype=bool))

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
    sure = np.ones(n, dtype=bool)
    for part in few_at_a_time(inputs, n):
        state = policy.start(sample[part])
        for at, (k, given) in enumerate(zip(policy.path, rows_of(inputs, part), strict=True)):
            seen = policy.step(k, given_output(policy, given), state, given.get("features"))
            score[part, at], confidence[part, at] = seen.score, seen.confidence
            prediction[part, at], leave[part, at] = seen.prediction, seen.exit
            sure[part] &= sure_class(policy, given, seen)
    return Golden(inputs, sample, Ran(score, confidence, prediction, leave), sure=sure)


def sure_class(policy: Any, given: Inputs, seen: Any) -> npt.NDArray[np.bool_]:
    """Return whose class rounding elsewhere cannot change, (n,): of logits as they are, nobody's."""
    plain = isinstance(policy.answer, Plain)
    if policy.kind == "record" or policy.classes < 2 or (plain and policy.kind == "logits"):
        return np.ones(len(seen.score), dtype=bool)
    top = np.partition(seen.answer, -2, axis=1)[:, -2:]
    with np.errstate(invalid="ignore"):
        sure = top[:, 1] - top[:, 0] > JUMP
    if plain:  # equal probabilities have equal logarithms everywhere
        top = np.partition(given[policy.kind], -2, axis=1)[:, -2:]
        sure |= top[:, 1] == top[:, 0]
    return sure


def row_bytes(policy: Any, graphs: Any) -> int:
    """Return how many bytes the inputs of one sample take, all exits together.

    Raises
    ------
    InputError
        Too many for golden vectors: a policy file of a few bytes can declare any number of classes.
    """
    width = 4 * policy.classes if policy.kind != "record" else 32
    features = sum(g.inputs["features"].size for g in graphs if "features" in g.inputs)
    size = policy.exits * (width + 64) + 4 * features
    arms = 1 if policy.mixture is None else 2
    if size * max(FEW, 2 * arms * (policy.exits - 1)) > MOST_BYTES:
        raise input_error(
            "policy", f"small enough that golden vectors take at most {MOST_BYTES >> 20} MiB, {FEW} rows "
            "and 2 at each threshold",
            f"{policy.exits} exits of {policy.classes} classes: {size:,} bytes a row",
            "Deploy it with policyopt.runtime, or keep fewer exits.",
        )  # fmt: skip
    return size


def joined(one: Golden, other: Golden) -> Golden:
    """Return the rows of one, then those of the other; alone, without edges."""

    def both(here: Any, there: Any) -> dict[str, Any]:
        return {name: np.concatenate([array, there[name]]) for name, array in here.items()}

    inputs = [both(here, there) for here, there in zip(one.inputs, other.inputs, strict=True)]
    expected = Ran(**both(vars(one.expected), vars(other.expected)))
    sample, sure = np.append(one.sample, other.sample), np.append(one.sure, other.sure)
    return Golden(inputs, sample, expected, sure=sure)


def part_of(golden: Golden, rows: Any) -> Golden:
    """Return some rows, without edges."""
    expected = Ran(**{name: array[rows] for name, array in vars(golden.expected).items()})
    sure = golden.sure[rows] if len(golden.sure) else golden.sure
    return Golden(rows_of(golden.inputs, rows), golden.sample[rows], expected, sure=sure)


def few_at_a_time(inputs: list[Inputs], n: int) -> Iterator[slice]:
    """Yield which rows to look at side by side: a step takes some ten numbers per class and row."""
    width = max((a[:1].size for given in inputs for a in given.values()), default=1)
    size = max(BYTES // (64 * max(width, 1)), 1)
    return (slice(low, low + size) for low in range(0, max(n, 1), size))


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
