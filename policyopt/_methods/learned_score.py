"""Methods that learn one score and then set thresholds: the fit they share.

A subclass says what it learns from the rows it is given (`learn`); this file meets the budgets on the scores that
are deployed, or, where a score keeps rows, on scores of rows held out of its learning.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._answers.crossfit import NAMES, crossfit, folds_of
from policyopt._costs import overhead
from policyopt._methods.base import ANSWERS, Method
from policyopt._methods.exit_batch import ExitBatch, build_batch, subsample_outputs
from policyopt._methods.fitted import Draft
from policyopt._methods.settings import FOLDS, Choice
from policyopt._table import Table
from policyopt._thresholds.degenerate_scores import collapse_held_out
from policyopt._thresholds.problem import Problem, Solution
from policyopt._thresholds.solvers import SOLVERS, check_solver, solve_path
from policyopt.runtime._errors import input_error
from policyopt.runtime._scores import ScoreRule, score_table

#: Of scores that keep rows: thresholds are set on what 4/5 of the rows taught, and deployed with that of all. Of few
#: rows that is another score; more folds than 5 are used as long as they learn from this many rows in all.
_FOLDS, _LEARNED = 20, 10_000


@dataclass(frozen=True)
class LearnedScore(Method):
    """A score learned once, cross-fitted; thresholds per budget.

    Parameters
    ----------
    thresholds : {"geometric", "shared", "joint"}
        How they are found; ``shared`` for scores in [0, 1].
    answer : str
        What exits return, and the score looks at; a name of `policyopt._answers`.
    folds : int
        Of the cross-fitting. Of few rows the score, not the answers, is learned in up to 20 folds.
    """

    thresholds: str = "geometric"
    answer: str = "plain"
    folds: int = 5

    allowed: ClassVar = {"answer": NAMES, "folds": FOLDS}
    tuned: ClassVar = {"thresholds": Choice(SOLVERS), "answer": ANSWERS}
    learned = True
    decides = True
    remedy = (
        "which this cache does not hold. Import full logits (and the model's vectors by keys features_0, "
        "features_1, ...), or choose a method that does without: `policyopt methods`."
    )
    #: Whether the score keeps rows (prototypes, neighbours), to which the rows themselves are nearer than any new
    #: one: thresholds are then set on scores that were learned without the row. Of a regression's few coefficients
    #: thresholds are set on what is deployed, and cross-validation sees to the rest (see `validation`): where many
    #: rows are alike, coefficients that differ by a hair from fold to fold put all of them on the other side.
    keeps_rows: ClassVar[bool] = False
    #: What `learn` is shown besides what the method needs, where the rows hold it: it does without.
    uses: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check_solver(self.thresholds)
        if not isinstance(self.thresholds, str):
            raise input_error("thresholds", f"one of {', '.join(SOLVERS)}", self.thresholds, "")
        super().__post_init__()

    @abstractmethod
    def learn(self, batch: ExitBatch, seed: int) -> ScoreRule:
        """Return the score rule that these rows teach; they may be few, or all alike."""

    def lacks(self, table: Table) -> list[str]:
        """Return what the method needs and these rows do not hold."""
        missing = super().lacks(table)
        if table.kind == "record" and (self.answer != "plain" or "log_prob" in self.needs()):
            missing = sorted({*missing, "all class outputs"} - {"log_prob"})
        return missing

    def pose(self, table: Table, seed: int) -> Draft:
        """Learn the score, and once more per fold where it keeps rows."""
        features = "features" in self.needs()
        table = subsample_outputs(table, seed, features)
        answers = crossfit(table, self.answer, folds_of(len(table), self.folds, seed))
        batch = build_batch(table, answers, features)
        shown = batch.shown_to(self.needs() | self.uses)
        rule = self.learn(shown, seed)
        parts = max(self.folds, min(_FOLDS, _LEARNED // len(table))) if self.keeps_rows else 1
        fold = folds_of(len(table), parts, seed)
        scores = np.empty((len(batch), table.exits), order="F")
        for f in np.unique(fold):
            held, rest = np.flatnonzero(fold == f), np.flatnonzero(fold != f)
            without = self.learn(shown.take(rest), seed) if len(rest) else rule
            scores[held] = score_table(without, batch.take(held).outputs, held)
        scores, flat = collapse_held_out(
            rule, scores, lambda rows: score_table(rule, batch.take(rows).outputs, rows)
        )
        own = overhead(answers.rule, (rule,), table.exits, table.classes, table.rate)
        problem = Problem(scores, batch.correct, table.costs + own, table.unit, flat)
        return Draft(rule, table, problem, answers.rule)

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        """Return thresholds for each budget."""
        return solve_path(problem, self.thresholds, budgets)
