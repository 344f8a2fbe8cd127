"""Methods that differ from max_prob only in how they set its thresholds: the rest of their fit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from policyopt.answers.crossfit import NAMES, answered, crossfit, folds_of
from policyopt.methods.base import Fitted, Method, conclude, problem_of
from policyopt.methods.settings import check_choice
from policyopt.methods.space import Choice, Domain
from policyopt.runtime.scores import make_rule
from policyopt.table import Table
from policyopt.thresholds.problem import Problem, Solution

_FOLDS = 5


@dataclass(frozen=True)
class ByConfidence(Method):
    """Thresholds on the confidence of the answers, found by `solve`.

    Parameters
    ----------
    answer : str
        What exits return, and confidence is read from; a name of `policyopt.answers`.
    """

    answer: str = "plain"

    #: Name of the method.
    label: ClassVar[str]

    def __post_init__(self) -> None:
        check_choice("answer", self.answer, NAMES)

    @abstractmethod
    def solve(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        """Return thresholds for each budget, checked already."""

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {"answer": Choice(("plain", "combined"))}

    def lacks(self, table: Table) -> list[str]:
        """Return what the method needs and these rows do not hold."""
        whole = self.answer == "plain" or table.kind != "record"
        return [] if whole else ["all class outputs (for answers other than plain)"]

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Pose the threshold problem once, and solve it for each budget; see `Method.propose`."""
        rule = make_rule("max_prob", {})
        answers = crossfit(table, self.answer, folds_of(len(table), _FOLDS, seed))
        table = answered(table, answers)
        problem = problem_of(rule, table, answers)
        for budget in budgets:
            problem.check_budget(budget)
        return [
            conclude(
                self, self.label, rule, table, problem, solution, budget, seed, answer=answers.rule
            )
            for solution, budget in zip(self.solve(problem, budgets), budgets, strict=True)
        ]
