"""Samples at the edges of a policy's thresholds: as near as floats allow, on both sides of each.

Whether a runtime has the policy's own thresholds shows only in samples whose scores lie between the
right threshold and the wrong one. None need lie there among the rows of a cache. So they are searched:
the output of one exit is moved on a line from that of a sample that stays to that of one that leaves,
and halved until the score turns from one float to the next (bisection).

There two runtimes may differ in the last bits of a score and both be right. So `verify` compares exits
of such samples with the runtime's *own* score: leave exactly where it is at or over the threshold.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.deciding import arms, thresholds_of
from policyopt.runtime.policy import ALWAYS, NEVER, Policy
from policyopt.runtime.typing import Floats

from .golden import BYTES, JUMP, Golden, Inputs, expect, given_output, part_of, rows_of, sure_class

#: Pairs of samples that are tried per threshold, and kept: the nearest at it, and off it on both sides.
#: Fewer where rows are large.
_TRIED, _KEPT = 16, (4, 1, 1)
_HALVINGS = 45
#: How far from the threshold some more lie, of the larger of threshold and 1.
_OFF = 16 * 2.0**-23


def limits_of(policy: Policy, sample: npt.NDArray[np.int64]) -> Floats:
    """Return the thresholds that hold for each sample, (n, K-1): the mixture's by the coin."""
    return thresholds_of(policy, arms(policy, sample))


def edges_of(policy: Policy, whole: Golden, close: Golden | None = None) -> Golden:
    """Return samples on both sides of every threshold.

    Parameters
    ----------
    policy : Policy
    whole : Golden
        Samples to begin with.
    close : Golden, optional
        More samples to keep as they are.

    Returns
    -------
    Golden
        Perhaps of no samples: thresholds at which nobody leaves, or everybody; scores that jump.

    Examples
    --------
    >>> from policyopt.runtime.scores import MaxProb
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", 2)
    >>> logits = np.array([[0.0, 0.0], [9.0, 0.0]], dtype=np.float32)
    >>> edges = edges_of(policy, expect(policy, [{"logits": logits}] * 2, np.arange(2)))
    >>> gap = edges.expected.score[:, 0] - 0.8
    >>> bool((gap >= 0).any() and (gap < 0).any() and (abs(gap) < 3e-6).all())
    True
    """
    found = [] if close is None else [(close.inputs, close.sample)]
    limits, arm = limits_of(policy, whole.sample), arms(policy, whole.sample)
    sound = _sound(whole)
    row = sum(array[:1].nbytes for given in whole.inputs for array in given.values())
    pairs = BYTES // max(2 * row * (policy.exits - 1) * len(np.unique(arm)), 1)
    kept = _KEPT if pairs >= sum(_KEPT) else (max(pairs - 2, 1), *([1, 1] if pairs > 2 else []))
    for at in range(policy.exits - 1):
        for which in np.unique(arm):
            rows = np.flatnonzero(sound & (arm == which))
            if len(rows) and ALWAYS < limits[rows[0], at] < NEVER:
                found += _at(policy, whole, at, rows, float(limits[rows[0], at]), kept)
    if not found:
        return expect(policy, rows_of(whole.inputs, slice(0)), whole.sample[:0])
    inputs = [
        {name: np.concatenate([part[at][name] for part, _ in found]) for name in given}
        for at, given in enumerate(whole.inputs)
    ]
    made = expect(policy, inputs, np.concatenate([sample for _, sample in found]))
    return part_of(made, np.flatnonzero(made.sure))  # answers are to be equal everywhere


def _sound(whole: Golden) -> npt.NDArray[np.bool_]:
    """Return which samples have finite logits, no class that cannot be, and an answer everywhere."""
    sound = np.ones(len(whole), dtype=bool)
    for given in whole.inputs:
        for name, array in given.items():
            good = np.isfinite(array) & ((array > 0) | (name != "probabilities"))
            if name == "prediction":
                good = array >= 0
            sound &= good.reshape(len(sound), -1).all(axis=1)
    return sound


def _at(
    policy: Policy,
    whole: Golden,
    at: int,
    rows: npt.NDArray[np.int64],
    limit: float,
    kept: Sequence[int],
) -> list[tuple[list[Inputs], npt.NDArray[np.int64]]]:
    """Return the pairs found at one threshold."""
    score = whole.expected.score[rows, at]
    # Those who come to this exit first: a serving loop sees no others.
    gone = whole.expected.leave[rows, :at].any(axis=1)
    rows = rows[np.lexsort([np.abs(score - limit), gone])]
    leave = whole.expected.score[rows, at] >= limit
    stay, go = rows[~leave], rows[leave]
    if not len(stay) or not len(go):
        return []
    tried = _TRIED if sum(kept) == sum(_KEPT) else 2 * kept[0]
    turn = np.arange(tried)
    # Partners: the nearest, and others from everywhere, which are sooner on the other side for every history.
    one = np.where(turn % 2 == 0, stay[turn // 2 % len(stay)], go[turn // 2 % len(go)])
    spread = np.linspace(0, 1, tried)
    other = np.where(
        turn % 2 == 0, go[(spread * (len(go) - 1)).astype(int)],
        stay[(spread * (len(stay) - 1)).astype(int)],
    )  # fmt: skip
    line = _Line(policy, whole, at, one, other)
    # Elsewhere the nearest may all come to lie on one side: so some a little further off, too.
    off = _OFF * max(abs(limit), 1.0)
    found = []
    for goal, most in zip((limit, limit - off, limit + off), kept, strict=False):
        places, best = _turning(policy, line, goal)
        sample = whole.sample[one[best[:most]]]
        found += [(line.inputs(t, best[:most]), sample) for t in places]
    return found


def _turning(policy: Policy, line: _Line, goal: float) -> tuple[tuple[Floats, Floats], Any]:
    """Return places on the lines just before and after the score comes to a goal; the best lines first."""
    low, high = np.zeros(len(line.state.arm)), np.ones(len(line.state.arm))
    first = line.look(low).score >= goal
    turns = first != (line.look(high).score >= goal)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        same = (line.look(middle).score >= goal) == first
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    before, after = line.look(low), line.look(high)
    kept = turns & (np.abs(before.score - after.score) <= JUMP * max(abs(goal), 1.0))
    kept &= before.prediction == after.prediction
    for given, seen in ((line.given(low), before), (line.given(high), after)):
        kept &= sure_class(policy, given, seen)
    gap = np.maximum(np.abs(before.score - goal), np.abs(after.score - goal))
    return (low, high), np.flatnonzero(kept)[np.argsort(gap[kept], kind="stable")]


class _Line:
    """The output of one exit on lines between pairs of samples; all else is the first one's."""

    def __init__(
        self, policy: Policy, whole: Golden, at: int, one: npt.NDArray[Any], other: npt.NDArray[Any]
    ) -> None:
        self.policy, self.at = policy, at
        self.one = rows_of(whole.inputs, one)
        self.other = rows_of(whole.inputs[at : at + 1], other)[0]
        self.state = policy.start(whole.sample[one])
        for k, given in zip(policy.path[:at], self.one, strict=False):
            policy.step(k, given_output(policy, given), self.state, given.get("features"))

    def given(self, t: Floats) -> Inputs:
        """Return the exit's output at places on the lines, 0 the first one's and 1 the other's."""
        found: Inputs = {}
        for name, array in self.one[self.at].items():
            if array.dtype.kind != "f":  # the answer of a record
                found[name] = array
                continue
            begin = array.astype(np.float64)
            share = t.reshape(-1, *[1] * (array.ndim - 1))
            found[name] = (begin + share * (self.other[name] - begin)).astype(array.dtype)
        return found

    def look(self, t: Floats) -> Any:
        """Return what the policy says of the exit there."""
        given, policy = self.given(t), self.policy
        return policy.step(
            policy.path[self.at], given_output(policy, given), copy.deepcopy(self.state),
            given.get("features"),
        )  # fmt: skip

    def inputs(self, t: Floats, rows: npt.NDArray[Any]) -> list[Inputs]:
        """Return whole samples."""
        every = [*self.one[: self.at], self.given(t), *self.one[self.at + 1 :]]
        return rows_of(every, rows)
