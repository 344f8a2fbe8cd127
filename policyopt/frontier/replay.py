"""Replay: a policy run over a table, by the code that is deployed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policyopt.runtime.answers import Plain
from policyopt.runtime.errors import bad
from policyopt.runtime.policy import Policy
from policyopt.table import Table

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Replay:
    """What a policy did with N rows.

    Attributes
    ----------
    exit : ndarray of shape (N,), int64
    prediction : ndarray of shape (N,), int32
    cost : ndarray of shape (N,), float64
        Paid by each row: its own cost where the cache has costs per sample.
    correct : ndarray of shape (N,), float64
        0.0 or 1.0.
    exits : int
        K.
    """

    exit: npt.NDArray[np.int64]
    prediction: npt.NDArray[np.int32]
    cost: Floats
    correct: Floats
    exits: int

    @property
    def exit_share(self) -> Floats:
        """Share of the rows that leave at each exit, (K,)."""
        return np.bincount(self.exit, minlength=self.exits) / len(self.exit)


def replay(policy: Policy, table: Table) -> Replay:
    """Run a policy over the rows of a table.

    Parameters
    ----------
    policy : Policy
    table : Table
        Labelled rows. Row i is sample i to a policy that draws a coin.

    Returns
    -------
    Replay

    Raises
    ------
    InputError
        The policy was made for other exits, classes, outputs or unit.
    """
    _check_match(policy, table)
    rows = np.arange(len(table))
    if policy.reads_records:
        decisions = policy.decide(table.statistics.outputs())
        exit_, prediction = decisions.exit, decisions.prediction
    else:
        exit_, prediction = np.empty(len(table), np.int64), np.empty(len(table), np.int32)
        for part, outputs in table.chunks():
            decisions = policy.decide(outputs, rows[part])
            exit_[part], prediction[part] = decisions.exit, decisions.prediction
    correct = table.correct[rows, exit_]
    if not isinstance(policy.answer, Plain):
        correct = (prediction == table.statistics.labels).astype(np.float64)
    cost = table.paid(exit_) + policy.overhead[exit_]
    return Replay(exit_, prediction, cost, correct, table.exits)


def _check_match(policy: Policy, table: Table) -> None:
    pairs = {
        "kind of outputs": (policy.kind, table.kind),
        "exits": (policy.exits, table.exits),
        "classes": (policy.classes, table.classes),
        "cost unit": (policy.unit, table.unit),
    }
    for name, (made_for, got) in pairs.items():
        if made_for != got:
            raise bad(
                f"{name} of the cache", f"as the policy was fitted on: {made_for}", got,
                "Use the policy with a cache of the same model, and the same --cost.",
            )  # fmt: skip
