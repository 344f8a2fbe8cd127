"""A policy run over a table, every exit looked at: what a replay and the diagnostics read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.answers import Plain
from policyopt.runtime.errors import input_error
from policyopt.runtime.experts import policy_of
from policyopt.runtime.policy import Policy
from policyopt.runtime.trace import Trace
from policyopt.runtime.typing import Floats
from policyopt.table import Table

_ROWS = 8192  # whose feature vectors are read at a time


@dataclass(frozen=True)
class Traced(Trace):
    """A `Trace` of a table's rows, with what they cost and whether the answers are right.

    Columns are the K exits that the policy runs; `path` gives the model's number of each.

    Attributes
    ----------
    cost : ndarray of shape (N,), float64
        Paid by each row at the exit it takes, the policy's own arithmetic included.
    exit_costs : ndarray of shape (K,), float64
        What it would cost on average if all rows left there.
    labels : ndarray of shape (N,), int32, or None
        Classes; None unless every row has one.
    correct : ndarray of shape (N, K), bool, or None
        Of the policy's answers; None unless it is known of every row.
    model_exits : int
        How many exits the model has; default K.
    """

    cost: Floats
    exit_costs: Floats
    labels: npt.NDArray[np.int32] | None
    correct: npt.NDArray[np.bool_] | None
    model_exits: int = 0

    def __post_init__(self) -> None:
        if not self.model_exits:
            object.__setattr__(self, "model_exits", self.exits)

    @property
    def exits(self) -> int:
        """K, the exits that the policy runs."""
        return self.scores.shape[1]

    @property
    def correct_taken(self) -> npt.NDArray[np.bool_] | None:
        """Whether the answer at the exit taken is right, (N,)."""
        if self.correct is None:
            return None
        return self.correct[np.arange(len(self.exit)), self.position]


def trace(policy: Any, table: Table, samples: npt.NDArray[np.int64] | None = None) -> Traced:
    """Run a policy over the rows of a table and keep every exit's score and prediction.

    Parameters
    ----------
    policy : Policy, or a fit that holds one
    table : Table
        Labelled or not.
    samples : ndarray of shape (N,), int64, optional
        The rows' numbers, which a policy that draws a coin looks at; default row i is sample i.

    Returns
    -------
    Traced

    Raises
    ------
    InputError
        The policy was made for other exits, classes, outputs or unit; or it needs all class
        outputs where only records are kept.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> from policyopt.table import Tables
    >>> probs = np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.6, 0.4], [0.1, 0.9]]])
    >>> data = po.from_arrays(probs, [0, 1], costs=[1, 4], unit="ms", split={"test": 1.0})
    >>> policy = po.fit(data, split="test", method="max_prob", thresholds=[0.8]).policy
    >>> found = trace(policy, Tables(data).get("test"))
    >>> found.exit, found.correct_taken, found.cost
    (array([0, 1]), array([ True,  True]), array([1., 4.]))
    """
    policy = policy_of(policy, single=True)
    check_match(policy, table)
    table = table.keep_exits(policy.path)
    seen = _run(policy, table, np.arange(len(table)) if samples is None else samples)
    stats = table.statistics
    labels = stats.labels if stats.labels is not None and (stats.labels >= 0).all() else None
    if isinstance(policy.answer, Plain):
        known = stats.correct is not None and (stats.labels is None or labels is not None)
        correct = stats.correct if known else None
    else:
        correct = None if labels is None else seen.predictions == labels[:, None]
    return Traced(
        seen.scores, seen.predictions, seen.thresholds, seen.exit,
        table.paid(seen.position) + policy.overhead[seen.position],
        table.mean_costs + policy.overhead, labels, correct, policy.model_exits, kept=policy.kept,
    )  # fmt: skip


def _run(policy: Policy, table: Table, samples: npt.NDArray[np.int64]) -> Trace:
    """Run a policy over a table of the exits that it runs."""
    if policy.reads_records and not policy.needs_features:
        return policy.trace(_at_exits(policy, table.statistics.outputs()), samples)
    n, exits = len(table), policy.exits
    out = Trace(
        np.empty((n, exits), order="F"), np.empty((n, exits), np.int32),
        np.empty((n, exits - 1)), np.empty(n, np.int64), kept=policy.kept,
    )  # fmt: skip
    for part, outputs in _chunks(policy, table):
        vectors = None
        if policy.needs_features:
            vectors = _at_exits(policy, [table.feature(k, part) for k in range(exits)])
        seen = policy.trace(_at_exits(policy, outputs), samples[part], vectors)
        for name in ("scores", "predictions", "thresholds", "exit"):
            getattr(out, name)[part] = getattr(seen, name)
    return out


def _chunks(policy: Policy, table: Table) -> Iterator[tuple[slice, Sequence[Any]]]:
    """Yield (rows, their outputs exit by exit): whole ones, or reduced where they do."""
    if not policy.reads_records:
        for part, outputs in table.chunks():
            yield part, list(outputs.swapaxes(0, 1))
        return
    outputs = table.statistics.outputs()
    for low in range(0, len(table), _ROWS):
        part = slice(low, min(low + _ROWS, len(table)))
        yield part, [output.take(part) for output in outputs]


def _at_exits(policy: Policy, entries: Sequence[Any]) -> list[Any]:
    """Return entries of the exits that the policy runs at their places among the model's exits."""
    found: list[Any] = [None] * policy.model_exits
    for k, entry in zip(policy.path, entries, strict=True):
        found[k] = entry
    return found


def check_match(policy: Policy, table: Table) -> None:
    """Refuse a table that the policy was not made for."""
    pairs = {
        "kind of outputs": (policy.kind, table.kind),
        "exits": (policy.model_exits, table.model_exits),
        "classes": (policy.classes, table.classes),
        "cost unit": (policy.unit, table.unit),
    }
    for name, (made_for, got) in pairs.items():
        if made_for != got:
            raise input_error(
                f"{name} of the cache", f"as the policy was fitted on: {made_for}", got,
                "Use the policy with a cache of the same model, and the same --cost.",
            )  # fmt: skip
