"""Replay: a policy run over a table, by the code that is deployed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.contexts import renumbered
from policyopt.runtime.errors import input_error
from policyopt.runtime.experts import ExpertPolicy, policy_of
from policyopt.runtime.policy import Policy
from policyopt.runtime.typing import Floats
from policyopt.table import Table
from policyopt.trace import check_match, trace


@dataclass(frozen=True)
class Replay:
    """What a policy did with N rows.

    Attributes
    ----------
    exit : ndarray of shape (N,), int64
        The model's number of the exit taken.
    prediction : ndarray of shape (N,), int32
    cost : ndarray of shape (N,), float64
        Paid by each row: its own cost where the cache has costs per sample.
    correct : ndarray of shape (N,), float64
        0.0 or 1.0.
    exits : int
        How many the model has.
    """

    exit: npt.NDArray[np.int64]
    prediction: npt.NDArray[np.int32]
    cost: Floats
    correct: Floats
    exits: int

    @property
    def exit_share(self) -> Floats:
        """Share of the rows that leave at each of the model's exits."""
        return np.bincount(self.exit, minlength=self.exits) / len(self.exit)


def replay(policy: Any, table: Table) -> Replay:
    """Run a policy over the rows of a table.

    Parameters
    ----------
    policy : Policy, ExpertPolicy, or a fit of either
    table : Table
        Labelled rows. Row i is sample i to a policy that draws a coin.

    Returns
    -------
    Replay

    Raises
    ------
    InputError
        The policy was made for other exits, classes, outputs or unit; or the rows have no
        context where it needs one.
    """
    policy = policy_of(policy)
    _ = table.correct  # raises where a row has no label, before the work
    if isinstance(policy, ExpertPolicy):
        return _replay_experts(policy, table)
    return _replay_one(policy, table, np.arange(len(table)))


def _replay_one(policy: Policy, table: Table, samples: npt.NDArray[np.int64]) -> Replay:
    check_match(policy, table)
    found = trace(policy, table, samples)
    correct = np.asarray(found.correct_taken, dtype=np.float64)
    return Replay(found.exit, found.taken, found.cost, correct, table.model_exits)


def _replay_experts(policy: ExpertPolicy, table: Table) -> Replay:
    """Run each context's policy over its rows."""
    if table.context is None:
        raise input_error(
            f"split '{table.split}'", "one whose rows have a context", "rows without",
            "The policy has thresholds for each: import with a key 'context' (Python: context=).",
        )  # fmt: skip
    context = renumbered(table.context, table.contexts, policy.contexts)
    n = len(table)
    out = Replay(
        np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n), np.empty(n), table.model_exits
    )
    for e in np.unique(context).tolist():
        rows = np.flatnonzero(context == e)
        part = _replay_one(policy.policies[e], table.take(rows), rows)
        for name in ("exit", "prediction", "cost", "correct"):
            getattr(out, name)[rows] = getattr(part, name)
    return out
