"""A server that notices that its inputs have changed, and fits its policy anew without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import policyopt as po
from policyopt._online.drift import refit, watch
from policyopt._table import Tables

SPARE = 0.1  # share of requests that run to the last exit, whatever the policy says
NEEDED = 400  # of these, for a refit; and requests that the watch then learns from


class Server:
    """Runs requests exit by exit, under a policy that is replaced when the drift watch says so.

    Attributes
    ----------
    fitted : Fitted
        What is served now.
    watch : DriftWatch
    recent : list of ndarray of shape (K, C)
        Requests since the alarm that ran to the last exit.
    events : list of (int, str)
        Number of the request, and what happened there.
    """

    def __init__(self, tables: Tables, budget: str, method: str, seed: int = 0) -> None:
        self.tables = tables
        self.fitted = po.fit(tables.data, budget, method, tables=tables, seed=seed)
        self.watch = watch(self.fitted.policy, tables.get("calibrate"))
        self.recent: list[npt.NDArray[Any]] = []
        self.events: list[tuple[int, str]] = []
        self._coin = np.random.default_rng(seed)

    def serve(self, number: int, outputs: npt.NDArray[Any]) -> tuple[float, int]:
        """Return cost and answer of one request; row k of `outputs` is what the model gives at exit k."""
        policy = self.fitted.policy
        state, seen = policy.start(number), []
        for k in policy.active_exits:
            seen.append(policy.step(k, outputs[k], state))
            if seen[-1].exit:
                break
        left = len(seen) - 1
        scores = [decision.score for decision in seen]
        alarm = self.watch.update(scores, seen[0].prediction, policy.active_exits[left])
        if alarm is not None:
            self.events.append((number, str(alarm)))
        # The watch stands still from its alarm until it is reset: rows for a refit are gathered then.
        # By a coin, for those that go to the last exit by themselves are the hard ones. A real server
        # runs the exits that are left when it is idle.
        if self.watch.alarm_at is not None and self._coin.random() < SPARE:
            self.recent.append(outputs)
            if len(self.recent) == NEEDED:
                self._refit(number)
        return float(policy.costs[left]), int(seen[-1].prediction)

    def _refit(self, number: int) -> None:
        """Keep the budget on the recent rows; no labels of them are known."""
        data = self.tables.data
        rows = {"recent": {"outputs": np.stack(self.recent)}}
        recent = po.from_arrays(splits=rows, costs=list(data.costs), kind=data.kind)
        table = Tables(recent).get("recent")
        self.fitted = refit(self.fitted, self.tables.get("fit"), table)
        self.watch.reset(learn=NEEDED)
        self.recent = []
        self.events.append((number, "fitted anew, without labels"))
