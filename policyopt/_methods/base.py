"""What a method is: configuration, and the one way in which all of them fit.

A fit goes through hooks that a method overrides as far as it differs: `check` refuses rows by name, `pose` learns
and scores and poses the threshold problem, `solve` meets each budget; what comes out is frozen, replayed and
cross-validated in the same way for all. Most methods need only `rule` and `solve_problem`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from policyopt._answers.crossfit import CrossFitted, answered, crossfit, folds_of, observe
from policyopt._costs import budget_list, overhead
from policyopt._methods.fitted import Draft, Fitted, build_fitted
from policyopt._methods.settings import Allowed, Choice, Domain, check_setting
from policyopt._methods.validation import cheapest, validated
from policyopt._table import Table
from policyopt._thresholds.degenerate_scores import collapse
from policyopt._thresholds.problem import Problem, Solution
from policyopt.runtime._answers import Identity
from policyopt.runtime._checks import check_seed
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._scores import ScoreRule, make_rule, score_table
from policyopt.runtime._typing import Floats

#: What tuning tries for the setting `answer`.
ANSWERS = Choice(("plain", "combined"))
_FOLDS = 5  # of the cross-fitting of answers


@dataclass(frozen=True)
class Method(ABC):  # noqa: B024 (every hook has a default)
    """Configuration and `fit_path`. A subclass is a frozen dataclass; its fields are its settings."""

    #: Name of the method.
    label: ClassVar[str] = ""
    #: Whether coefficients are learned from rows, which takes some hundreds of them.
    learned: ClassVar[bool] = False
    #: Of settings: what each may be, and what tuning may try. Those of base classes hold, too.
    allowed: ClassVar[Mapping[str, Allowed]] = {}
    tuned: ClassVar[Mapping[str, Domain]] = {}
    #: Whether one exit alone is refused: there would be nothing to search or learn.
    decides: ClassVar[bool] = False
    #: What is said of rows that lack something.
    remedy: ClassVar[str] = (
        "which these records do not hold. Import full logits, or records with that column, or use max_prob."
    )
    #: What exits return, and scores look at; a name of `policyopt._answers`.
    answer = "plain"

    def __post_init__(self) -> None:
        for name, allowed in self._merged("allowed").items():
            check_setting(name, getattr(self, name), allowed)

    def fit_path(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Return one fitted policy per budget, each replayed and, of few rows, cross-validated.

        Parameters
        ----------
        table : Table
            Rows of the split `fit`, labelled.
        budgets : sequence of float
            Mean cost per sample, in the table's unit; or ``"40%"``. One alone is taken, too.
        seed : int
            Same seed, same policies.

        Returns
        -------
        list of Fitted

        Raises
        ------
        BudgetError
            A budget that no policy can meet.
        """
        given = budget_list(budgets, table.mean_costs)
        return validated(self, table, given, check_seed(seed))

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Return what these rows suggest, one policy per budget, trained once where the method allows.

        As `fit_path`, which asks for this several times and sees to it that the budget holds on new rows.
        """
        self.check(table)
        draft = self.pose(table, seed)
        for budget in budgets:
            draft.problem.check_budget(budget)
        solved = zip(self.solve(draft, budgets, seed), budgets, strict=True)
        return [build_fitted(self, one, budget, seed) for one, budget in solved]

    def check(self, table: Table) -> None:
        """Refuse rows that lack what the method needs, by name."""
        missing = self.lacks(table)
        if missing:
            raise InputError(f"Method '{self.name}' needs {', '.join(missing)}, {self.remedy}")
        if self.decides:
            check_exits(table)

    def pose(self, table: Table, seed: int) -> Draft:
        """Return the rule and the threshold problem: here of a rule with nothing to learn but the answers."""
        answers = crossfit(table, self.answer, folds_of(len(table), _FOLDS, seed))
        table = answered(table, answers)
        rule = self.rule(table, seed)
        problem = problem_of(rule, table, answers, self.labelled())
        return Draft(rule, table, problem, answers.rule)

    def rule(self, table: Table, seed: int) -> ScoreRule:
        """Return the score rule for answered rows."""
        return make_rule("max_prob", {})

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        """Return the draft with its solution for each budget, which have been checked."""
        found = self.solve_problem(draft.problem, budgets)
        return [replace(draft, solution=solution) for solution in found]

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        """Return thresholds for each budget."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.label

    @property
    def validates(self) -> bool:
        """Whether `fit_path` cross-validates: not what has chosen nothing, or on rows of its own."""
        return True

    def needs(self) -> frozenset[str]:
        """Columns that the method reads and that records may lack."""
        return frozenset()

    def labelled(self) -> bool:
        """Whether a fit needs to know which answers are right."""
        return True

    def lacks(self, table: Table) -> list[str]:
        """Return what the method needs and these rows do not hold."""
        return sorted(self.needs() - table.known)

    def settings(self) -> dict[str, Any]:
        """Return the method's fields, JSON-able."""
        return asdict(self)

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return, per setting worth tuning, what `policyopt tune` may try."""
        return cls._merged("tuned")

    @classmethod
    def _merged(cls, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for one in reversed(cls.__mro__):
            found |= vars(one).get(name, {})
        return found


def check_exits(table: Table) -> None:
    """Refuse one exit alone, where methods that search or learn have nothing to work on."""
    if table.exits < 2:
        allowed = "2 or more: with one there is nothing to decide"
        raise input_error("exits", allowed, table.exits, "Import the outputs of all exits.")


def check_budgets(table: Table, budgets: Sequence[float]) -> None:
    """Refuse budgets outside what any policy on these rows can cost, its own arithmetic left out."""
    for budget in budgets:
        range_of(table).check_budget(budget)


def range_of(table: Table) -> Problem:
    """Return a problem without rows to speak of, of the costs between which any policy on these rows lies."""
    ends = np.array([cheapest(table), table.mean_costs[-1]])
    return Problem(np.zeros((1, 2)), np.zeros((1, 2)), ends, table.unit)


def problem_of(
    rule: ScoreRule, table: Table, answers: CrossFitted | None = None, labelled: bool = True
) -> Problem:
    """Score the rows of a table with a rule, and pose the threshold problem.

    `answers` is what the table's statistics stand for (see `policyopt._answers.answered`); its
    arithmetic is part of the costs. Rows of a fit that is not `labelled` may lack labels: what
    leaving is worth is then NaN.
    """
    answers = answers or CrossFitted(Identity())
    known = labelled or table.labelled
    value = table.correct if known else np.full((len(table), table.exits), np.nan)
    spent = overhead(answers.rule, (rule,), table.exits, table.classes, table.rate)
    scores, flat = collapse(rule, _scored(rule, table, answers))
    return Problem(scores, value, table.costs + spent, table.unit, flat)


def _scored(rule: ScoreRule, table: Table, answers: CrossFitted) -> Floats:
    """Return the scores (N, K) of a table's rows; whole outputs are read only by rules that need them."""
    if "log_prob" not in rule.needs:
        return score_table(rule, table.statistics.outputs())
    scores = np.empty((len(table), table.exits), order="F")
    for rows, seen in observe(table, answers, full=True):
        scores[rows] = score_table(rule, seen, rows)
    return scores


def own_costs(rule: ScoreRule, table: Table) -> Floats:
    """Return the cumulative cost of the rule's arithmetic on plain answers, (K,): known before any training."""
    return overhead(Identity(), (rule,), table.exits, table.classes, table.rate)
