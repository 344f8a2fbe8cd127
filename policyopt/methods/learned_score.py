"""Methods that learn one score and then set thresholds: the loop they share.

A subclass says what it learns from the rows it is given (`learn`); this file meets the budgets on the scores that
are deployed, or, where a score keeps rows, on scores of rows held out of its learning.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt.answers.crossfit import NAMES, crossfit, folds_of
from policyopt.methods.base import Fitted, Method, check_exits, conclude
from policyopt.methods.seen import Seen, see, thinned
from policyopt.methods.settings import check_choice, check_number
from policyopt.methods.space import Choice, Domain
from policyopt.overhead import overhead
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.scores import ScoreRule, score_table
from policyopt.table import Table
from policyopt.thresholds.flat import level_held_out
from policyopt.thresholds.problem import Problem
from policyopt.thresholds.solve import SOLVERS, check_solver, solve_path

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
        What exits return, and the score looks at; a name of `policyopt.answers`.
    folds : int
        Of the cross-fitting. Of few rows the score, not the answers, is learned in up to 20 folds.
    """

    thresholds: str = "geometric"
    answer: str = "plain"
    folds: int = 5

    #: Name of the method.
    label: ClassVar[str]
    learned = True
    #: Whether the score keeps rows (prototypes, neighbours), to which the rows themselves are nearer than any new
    #: one: thresholds are then set on scores that were learned without the row. Of a regression's few coefficients
    #: thresholds are set on what is deployed, and cross-validation sees to the rest (see `validation`): where many
    #: rows are alike, coefficients that differ by a hair from fold to fold put all of them on the other side.
    keeps_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_solver(self.thresholds)
        if not isinstance(self.thresholds, str):
            raise input_error("thresholds", f"one of {', '.join(SOLVERS)}", self.thresholds, "")
        check_choice("answer", self.answer, NAMES)
        check_number("folds", self.folds, above=1, most=100, whole=True)

    @abstractmethod
    def learn(self, seen: Seen, seed: int) -> ScoreRule:
        """Return the score rule that these rows teach; they may be few, or all alike."""

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {"thresholds": Choice(SOLVERS), "answer": Choice(("plain", "combined"))}

    def lacks(self, table: Table) -> list[str]:
        """Return what the method needs and these rows do not hold."""
        missing = super().lacks(table)
        if table.kind == "record" and (self.answer != "plain" or "log_prob" in self.needs()):
            missing = sorted({*missing, "all class outputs"} - {"log_prob"})
        return missing

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Learn once, and choose thresholds for each budget; see `Method.propose`."""
        missing = self.lacks(table)
        if missing:
            raise InputError(
                f"Method '{self.label}' needs {', '.join(missing)}, which this cache does not hold. "
                "Import full logits (and the model's vectors by keys features_0, features_1, ...), or "
                "choose a method that does without: `policyopt methods`."
            )
        check_exits(table)
        features = "features" in self.needs()
        table = thinned(table, seed, features)
        answers = crossfit(table, self.answer, folds_of(len(table), self.folds, seed))
        seen = see(table, answers, features)
        rule = self.learn(seen, seed)
        parts = max(self.folds, min(_FOLDS, _LEARNED // len(table))) if self.keeps_rows else 1
        fold = folds_of(len(table), parts, seed)
        scores = np.empty((len(seen), table.exits), order="F")
        for f in np.unique(fold):
            held = np.flatnonzero(fold == f)
            rest = np.flatnonzero(fold != f)
            without = self.learn(seen.take(rest), seed) if len(rest) else rule
            scores[held] = score_table(without, seen.take(held).outputs, held)
        scores, flat = level_held_out(
            rule, scores, lambda rows: score_table(rule, seen.take(rows).outputs, rows)
        )
        own = overhead(answers.rule, (rule,), table.exits, table.classes, table.rate)
        problem = Problem(scores, seen.correct, table.costs + own, table.unit, flat)
        solutions = solve_path(problem, self.thresholds, budgets)
        return [
            conclude(
                self, self.label, rule, table, problem, solution, budget, seed, answer=answers.rule
            )
            for solution, budget in zip(solutions, budgets, strict=True)
        ]
