"""What every row would do on every arm: exits, costs, correctness and gains, looked up in a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from policyopt._answers.calibrators import fit_confidence
from policyopt._answers.crossfit import CrossFitted, observe
from policyopt._replay import trace
from policyopt._table import Table
from policyopt.runtime._answers import Identity
from policyopt.runtime._calibrators import Calibrator
from policyopt.runtime._errors import input_error
from policyopt.runtime._online.serving import REWARDS, load_of
from policyopt.runtime._policy import Policy
from policyopt.runtime._typing import Bools, Floats


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The rows of S streams, one after the other, as a policy sees them."""

    reward: str  # the reading of the gain
    sizes: tuple[int, ...]  # rows of each stream
    scores: Floats  # (n, K)
    gain: Floats  # (n, K): what exit k is worth beyond exit 0
    load: Floats  # (K,): share of the overhead that leaving at exit k pays, from 0 to 1
    cost: Floats  # (n, K): paid at each exit, the policy's own arithmetic included
    correct: Bools | None  # (n, K); None where some rows have no labels
    confidence: Floats  # (n, K): of the policy's answers; calibrated where the reading is
    prediction: npt.NDArray[np.int32]  # (n, K)

    def stream_means(self, values: Floats) -> Floats:
        """Return the mean of (n, ...) numbers over the rows of each stream, (S, ...)."""
        edges = np.cumsum((0, *self.sizes))
        return np.array([values[low:high].mean(axis=0) for low, high in pairwise(edges)])


def outcomes(
    policy: Policy, tables: Sequence[Table], reward: str = "confidence", fit: Table | None = None
) -> Outcomes:
    """Look up what a policy scores and answers on the rows of some streams.

    The reading `reward` says what exit k is worth beyond exit 0: ``confidence``, AdaEE's gain
    ``max(conf_k - conf_0, 0)``; ``signed``, the same without the maximum (UCBEE); ``calibrated``,
    signed, of confidences mapped (Platt) to the probability of being right on the labelled rows of
    `fit`; ``label``, correctness at k less that at 0.
    """
    if reward not in REWARDS:
        raise input_error("reward", f"one of {', '.join(REWARDS)}", reward, "E.g. confidence.")
    rule = None
    if reward == "calibrated":
        if fit is None:
            allowed = "label-free where there is no split 'fit'"
            raise input_error("reward", allowed, reward, "E.g. confidence.")
        kept = fit.keep_exits(policy.path)
        right = trace(policy, fit).correct
        if right is None:
            right = fit.correct  # which says what is missing
        rule = fit_confidence("platt", confidences(policy, kept), right.astype(float))
    scores, cost, correct, sure, prediction = [], [], [], [], []
    for table in tables:
        seen, kept = trace(policy, table), table.keep_exits(policy.path)
        scores.append(seen.scores)
        prediction.append(seen.predictions)
        paid = kept.costs + policy.overhead
        cost.append(np.broadcast_to(paid, (len(table), policy.exits)))
        correct.append(seen.correct)
        sure.append(confidences(policy, kept, rule))
    right = None if any(c is None for c in correct) else np.concatenate(correct)
    confidence = np.concatenate(sure)
    if reward == "label":
        if right is None:
            allowed = "label-free where rows have no labels"
            raise input_error("reward", allowed, reward, "E.g. confidence.")
        level = right.astype(np.float64)
    else:
        level = confidence
    gain = level - level[:, :1]
    if reward == "confidence":
        gain = np.maximum(gain, 0.0)
    way = np.concatenate(cost).mean(axis=0)
    load = np.array(load_of(way.tolist()))
    return Outcomes(
        reward, tuple(len(table) for table in tables),
        np.concatenate(scores), gain, load, np.concatenate(cost), right, confidence,
        np.concatenate(prediction),
    )  # fmt: skip


def confidences(policy: Policy, table: Table, rule: Calibrator | None = None) -> Floats:
    """Return the confidence of a policy's answers on a table of its exits, (N, K)."""
    found = np.empty((len(table), table.exits))
    if isinstance(policy.answer, Identity):
        every = [(slice(None), table.statistics.outputs())]
    else:
        every = observe(table, CrossFitted(policy.answer))
    rule = rule or policy.confidence
    for rows, seen in every:
        for k, output in enumerate(seen):
            found[rows, k] = output.confidence if rule is None else rule.confidence(k, output)
    return found
