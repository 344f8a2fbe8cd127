"""BEEM: Bajpai & Hanawal, Boosting performance of early exit DNNs, ICLR 2025, arXiv:2502.00745.

Exits are experts. While neighbours agree, their weighted confidences add up; where one disagrees,
the sum starts anew with its own; a sample leaves where the sum reaches the exit's threshold. BEEM-C
weights an expert by what it costs to run it, BEEM-A by its accuracy on validation rows.

Departures: thresholds are found for the budget, where the paper derives them from the exits' error
rates to match the full model. The cost weights are cumulative costs as given, over that of the full
model, where the paper's layers all cost alike (``lambda i``; 0.1 i in the released code). The
released code sets the sum to 0 at a disagreement, and stops by patience alone; here the paper holds.
The accuracies are K numbers from the rows that set the thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policyopt._methods.settings import Choice
from policyopt._methods.threshold import Threshold
from policyopt._table import Table
from policyopt.runtime._scores import BEEM as BeemRule
from policyopt.runtime._scores import ScoreRule

WEIGHTS = ("accuracy", "cost")


@dataclass(frozen=True)
class BEEM(Threshold):
    """Leave where exits that agree have gathered enough weighted confidence.

    Parameters
    ----------
    score, thresholds, mix, answer, shared_map
        As of `Threshold`.
    weights : {"accuracy", "cost"}
        BEEM-A or BEEM-C.
    """

    score: str = "beem"
    weights: str = "accuracy"

    allowed: ClassVar = {"weights": WEIGHTS}
    tuned: ClassVar = {"weights": Choice(WEIGHTS)}

    def labelled(self) -> bool:
        """Accuracies need labels."""
        return self.weights == "accuracy" or super().labelled()

    def rule(self, table: Table, seed: int) -> ScoreRule:
        """Return the score rule: its weights come from these rows."""
        if self.weights == "accuracy":
            return BeemRule(table.correct.mean(axis=0))
        costs = table.mean_costs
        return BeemRule(costs / costs[-1] if costs[-1] > 0 else costs + 1.0)
