"""One score, one threshold per exit: MSDNet, SDN, BranchyNet, margin, vote; four solvers to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._answers.calibrators import FITS
from policyopt._answers.crossfit import NAMES
from policyopt._methods.base import ANSWERS, Method, lacks_outputs
from policyopt._methods.settings import Choice
from policyopt._table import Table
from policyopt._thresholds.problem import Problem, Solution
from policyopt._thresholds.solvers import SOLVERS, check_solver, solve_path
from policyopt.runtime._errors import input_error
from policyopt.runtime._parameters import fields_of
from policyopt.runtime._policy import ALWAYS, NEVER
from policyopt.runtime._scores import RULES, ScoreRule, make_rule

_COLUMNS = {
    "margin": "top_prob (at least two)",
    "entropy": "entropy",
    "log_prob": "all class outputs",
}


@dataclass(frozen=True)
class Threshold(Method):
    """Exit at the first k with ``score >= t[k]``.

    Parameters
    ----------
    score : str
        Name of a score rule.
    thresholds : {"geometric", "shared", "joint"} or tuple of float
        How they are found (see `policyopt._thresholds`), or the thresholds themselves.
    mix : bool
        With ``joint``: mix the two neighbours on the hull by a coin instead of one set.
    answer : str
        What exits return, and the score looks at: ``plain``, or another name of
        `policyopt._answers`, e.g. ``combined`` (over exits, where that helps).
    shared_map : {"platt", "beta", "isotonic", "histogram"}
        With ``shared``: the map to the common scale; ``histogram`` is PCEE (arXiv:2412.19325).
    """

    score: str
    thresholds: str | tuple[float, ...] = "geometric"
    mix: bool = False
    answer: str = "plain"
    shared_map: str = "platt"

    allowed: ClassVar = {"shared_map": tuple(FITS), "answer": NAMES}
    tuned: ClassVar = {"thresholds": Choice(SOLVERS), "answer": ANSWERS}

    def __post_init__(self) -> None:
        check_solver(self.thresholds)
        if not isinstance(self.thresholds, str):
            # Finite, so that the artifact's provenance holds them too.
            given = np.atleast_1d(np.asarray(self.thresholds, dtype=np.float64))
            clipped = tuple(float(t) for t in np.clip(given, ALWAYS, NEVER))
            object.__setattr__(self, "thresholds", clipped)
        if not isinstance(self.mix, bool):
            raise input_error("mix", "true or false", self.mix, "E.g. --set mix=true.")
        super().__post_init__()
        goes_with = {
            "mix": ("joint", self.mix),
            "shared_map": ("shared", self.shared_map != "platt"),
        }
        for name, (solver, used) in goes_with.items():
            if used and self.thresholds != solver:
                got, step = f"thresholds={self.thresholds}", f"Add --set thresholds={solver}."
                raise input_error(name, f"used with thresholds={solver}", got, step)

    @property
    def name(self) -> str:
        """Name of the method: that of its score, unless it has one of its own."""
        return self.label or self.score

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

    def lacks(self, table: Table) -> list[str]:
        """Return what the score needs and these rows do not hold."""
        missing = [_COLUMNS.get(name, name) for name in super().lacks(table)]
        if self.score == "entropy" and table.classes < 2:
            missing.append("the number of classes")
        return [*missing, *lacks_outputs(self.answer, table)]

    def rule(self, table: Table, seed: int) -> ScoreRule:
        """Return the score rule for answered rows."""
        counted = any(field.name == "classes" for field in fields_of(RULES[self.score]))
        return make_rule(self.score, {"classes": table.classes} if counted else {})

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        """Return thresholds for each budget."""
        return solve_path(problem, self.thresholds, budgets, self.mix, self.shared_map)
