"""What every row would do on every arm: exits, costs, correctness and gains, looked up in a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from policyopt.answers.confidence import fit_confidence
from policyopt.answers.crossfit import CrossFitted, observe
from policyopt.runtime.answers import Plain
from policyopt.runtime.confidence import ConfidenceRule
from policyopt.runtime.errors import input_error
from policyopt.runtime.online.rewards import REWARDS, load_of, reward_range
from policyopt.runtime.policy import Policy
from policyopt.runtime.typing import Floats
from policyopt.table import Table
from policyopt.trace import trace


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The rows of S streams, one after the other, as a policy sees them.

    Attributes
    ----------
    reward : str
        The reading of the gain.
    streams : tuple of S str
    sizes : tuple of S int
        Rows of each.
    scores : ndarray of shape (n, K)
    gain : ndarray of shape (n, K)
        What exit k is worth beyond exit 0, by the reading.
    load : ndarray of shape (K,)
        Share of the overhead that leaving at exit k pays: 0 at exit 0, 1 at the last.
    cost : ndarray of shape (n, K)
        Paid at each exit, the policy's own arithmetic included.
    correct : ndarray of shape (n, K), bool, or None
        None where some rows have no labels.
    confidence : ndarray of shape (n, K)
        Of the policy's answers; calibrated where the reading is.
    prediction : ndarray of shape (n, K), int32
    """

    reward: str
    streams: tuple[str, ...]
    sizes: tuple[int, ...]
    scores: Floats
    gain: Floats
    load: Floats
    cost: Floats
    correct: npt.NDArray[np.bool_] | None
    confidence: Floats
    prediction: npt.NDArray[np.int32]

    def range_of(self, overhead: tuple[float, float]) -> tuple[float, float]:
        """Return the least and the largest reward that there can be; see `reward_range`."""
        return reward_range(self.reward, self.load.tolist(), overhead)

    def stream_means(self, values: Floats) -> Floats:
        """Return the mean of (n, ...) numbers over the rows of each stream, (S, ...)."""
        edges = np.cumsum((0, *self.sizes))
        return np.array([values[low:high].mean(axis=0) for low, high in pairwise(edges)])


def outcomes(
    policy: Policy, tables: Sequence[Table], reward: str = "confidence", fit: Table | None = None
) -> Outcomes:
    """Look up what a policy scores and answers on the rows of some streams.

    Parameters
    ----------
    policy : Policy
    tables : sequence of S Table
    reward : str
        What exit k is worth beyond exit 0: ``confidence``, AdaEE's gain
        ``max(conf_k - conf_0, 0)``; ``signed``, the same without the maximum (UCBEE);
        ``calibrated``, signed, of confidences mapped (Platt) to the probability of being right on
        the rows of `fit`; ``label``, correctness at k less that at 0.
    fit : Table, optional
        Labelled rows, for ``calibrated``.

    Returns
    -------
    Outcomes

    Raises
    ------
    InputError
        Unknown reading, or no labels where one needs them.
    """
    if reward not in REWARDS:
        raise input_error("reward", f"one of {', '.join(REWARDS)}", reward, "E.g. confidence.")
    rule = None
    if reward == "calibrated":
        if fit is None:
            raise input_error(
                "reward", "label-free where there is no split 'fit'", reward, "E.g. confidence."
            )
        kept = fit.keep_exits(policy.path)
        seen = trace(policy, fit)
        if seen.correct is None:
            _ = fit.correct  # says what is missing
        assert seen.correct is not None
        rule = fit_confidence("platt", confidences(policy, kept), seen.correct.astype(float))
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
            raise input_error(
                "reward", "label-free where rows have no labels", reward, "E.g. confidence."
            )
        level = right.astype(np.float64)
    else:
        level = confidence
    gain = level - level[:, :1]
    if reward == "confidence":
        gain = np.maximum(gain, 0.0)
    way = np.concatenate(cost).mean(axis=0)
    load = np.array(load_of(way.tolist()))
    return Outcomes(
        reward, tuple(table.split for table in tables), tuple(len(table) for table in tables),
        np.concatenate(scores), gain, load, np.concatenate(cost), right, confidence,
        np.concatenate(prediction),
    )  # fmt: skip


def confidences(policy: Policy, table: Table, rule: ConfidenceRule | None = None) -> Floats:
    """Return the confidence of a policy's answers on a table of its exits, (N, K)."""
    found = np.empty((len(table), table.exits))
    if isinstance(policy.answer, Plain):
        every = [(slice(None), table.statistics.outputs())]
    else:
        every = observe(table, CrossFitted(policy.answer))
    rule = rule or policy.confidence
    for rows, seen in every:
        for k, output in enumerate(seen):
            found[rows, k] = output.confidence if rule is None else rule.confidence(k, output)
    return found
