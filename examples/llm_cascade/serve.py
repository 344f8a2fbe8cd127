"""The loop that serves: a model is called when the policy says so, and not before."""

from __future__ import annotations

from typing import Any

import numpy as np

from policyopt import ExitData
from policyopt._table import Tables
from policyopt.runtime._policy import Policy


class Models:
    """Stands for the providers: gives a recorded answer, and sends a bill for each call."""

    def __init__(self, data: ExitData, split: str) -> None:
        table = Tables(data).get(split)
        self._outputs = table.statistics.outputs()
        costs = np.broadcast_to(table.costs, (len(table), table.exits))
        self._bills = np.diff(costs, axis=1, prepend=0.0)
        self.calls = np.zeros(table.exits, dtype=int)
        self.spent = 0.0

    @property
    def every(self) -> float:
        """What asking every model each time would cost."""
        return float(self._bills.sum())

    def call(self, model: int, question: int) -> dict[str, Any]:
        """Ask one model: its answer and how sure it is."""
        self.calls[model] += 1
        self.spent += float(self._bills[question, model])
        said = self._outputs[model].take(slice(question, question + 1))
        return {"prediction": said.prediction, "confidence": said.confidence}


def ask(policy: Policy, models: Models, question: int) -> int:
    """Answer a question with as few calls as the policy allows."""
    state, answer = policy.start(question), -1
    for model in policy.active_exits:
        decision = policy.step(model, models.call(model, question), state)
        answer = decision.prediction
        if decision.exit:
            break
    return answer
