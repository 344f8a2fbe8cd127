"""One score, one threshold per exit: MSDNet, SDN, BranchyNet, margin, vote; four solvers to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policyopt.answers.confidence import FITS
from policyopt.answers.crossfit import NAMES, answered, crossfit, folds_of
from policyopt.methods.base import Fitted, Method, conclude, problem_of
from policyopt.methods.space import Choice, Domain
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.policy import ALWAYS, NEVER
from policyopt.runtime.scores import RULES, ScoreRule, make_rule
from policyopt.table import Table
from policyopt.thresholds.solve import SOLVERS, check_solver, solve_path

_FOLDS = 5


@dataclass(frozen=True)
class Threshold(Method):
    """Exit at the first k with ``score >= t[k]``.

    Parameters
    ----------
    score : str
        Name of a score rule.
    thresholds : {"geometric", "shared", "joint"} or tuple of float
        How they are found (see `policyopt.thresholds`), or the thresholds themselves.
    mix : bool
        With ``joint``: mix the two neighbours on the hull by a coin instead of one set.
    answer : str
        What exits return, and the score looks at: ``plain``, or another name of
        `policyopt.answers`, e.g. ``combined`` (over exits, where that helps).
    calibrator : {"platt", "beta", "isotonic", "histogram"}
        With ``shared``: the map to the common scale; ``histogram`` is PCEE (arXiv:2412.19325).

    Examples
    --------
    >>> Threshold("max_prob", thresholds="joint")
    Threshold(score='max_prob', thresholds='joint', mix=False, answer='plain', calibrator='platt')
    """

    score: str
    thresholds: str | tuple[float, ...] = "geometric"
    mix: bool = False
    answer: str = "plain"
    calibrator: str = "platt"

    def __post_init__(self) -> None:
        check_solver(self.thresholds)
        if not isinstance(self.thresholds, str):
            # Finite, so that the artifact's provenance holds them too.
            given = np.atleast_1d(np.asarray(self.thresholds, dtype=np.float64))
            clipped = tuple(float(t) for t in np.clip(given, ALWAYS, NEVER))
            object.__setattr__(self, "thresholds", clipped)
        if not isinstance(self.mix, bool):
            raise input_error("mix", "true or false", self.mix, "E.g. --set mix=true.")
        if self.mix and self.thresholds != "joint":
            raise input_error(
                "mix",
                "used with thresholds=joint",
                f"thresholds={self.thresholds}",
                "Add --set thresholds=joint.",
            )

        if self.calibrator not in FITS:
            raise input_error(
                "calibrator", f"one of {', '.join(FITS)}", self.calibrator, "E.g. platt."
            )
        if self.calibrator != "platt" and self.thresholds != "shared":
            raise input_error(
                "calibrator", "used with thresholds=shared", f"thresholds={self.thresholds}",
                "Add --set thresholds=shared.",
            )  # fmt: skip
        if self.answer not in NAMES:
            raise input_error(
                "answer", f"one of {', '.join(NAMES)}", self.answer, "E.g. answer=combined."
            )

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {"thresholds": Choice(SOLVERS), "answer": Choice(("plain", "combined"))}

    @property
    def name(self) -> str:
        """Name of the method: that of its score."""
        return self.score

    def needs(self) -> frozenset[str]:
        """Return what the score reads beyond prediction and confidence."""
        return frozenset(RULES[self.score].needs)

    def labelled(self) -> bool:
        """Quotas look at scores only; other solvers, and answers, at what is right."""
        return self.thresholds in ("joint", "shared") or self.answer != "plain"

    @property
    def validates(self) -> bool:
        """Thresholds that the user gives are as good on new rows as here."""
        return isinstance(self.thresholds, str)

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Choose thresholds for each budget; see `Method.propose`."""
        self._check(table)
        answers = crossfit(table, self.answer, folds_of(len(table), _FOLDS, seed))
        table = answered(table, answers)
        rule = self.rule(table)
        problem = problem_of(rule, table, answers, self.labelled())
        solutions = solve_path(problem, self.thresholds, budgets, self.mix, self.calibrator)
        return [
            conclude(
                self, self.name, rule, table, problem, solution, budget, seed, answer=answers.rule
            )
            for solution, budget in zip(solutions, budgets, strict=True)
        ]

    def lacks(self, table: Table) -> list[str]:
        """Return what the score needs and these rows do not hold."""
        columns = {
            "margin": "top_prob (at least two)", "entropy": "entropy",
            "log_prob": "all class outputs",
        }  # fmt: skip
        missing = [columns.get(name, name) for name in super().lacks(table)]
        if self.score == "entropy" and table.classes < 2:
            missing.append("the number of classes")
        if self.answer != "plain" and table.kind == "record":
            missing.append("all class outputs (for answers other than plain)")
        return missing

    def rule(self, table: Table) -> ScoreRule:
        """Return the score rule for answered rows."""
        return make_rule(self.score, {"classes": table.classes} if self.score == "entropy" else {})

    def _check(self, table: Table) -> None:
        missing = self.lacks(table)
        if missing:
            raise InputError(
                f"Method '{self.name}' needs {', '.join(missing)}, which these records do not hold. "
                "Import full logits, or records with that column, or use max_prob."
            )
