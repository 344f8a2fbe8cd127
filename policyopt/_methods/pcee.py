"""PCEE: Mofakhami et al., 2024, arXiv:2412.19325: performance control, a threshold on accuracy.

A sample leaves where the accuracy of the validation rows whose confidence falls into the same bin is at
least delta: one number for all exits, and one that says what it promises. PCEE-WS averages neighbouring
bins first.

Departures: with a budget, delta is what costs the budget, and what is left between two values of delta is
spent within a bin, from exit 0 on; bins hold equally many rows (20 or more), not equal widths of
confidence, since most confidences lie near 1; a bin counts for the least accuracy that it or a higher one
has, so that an exit's rule is a threshold on confidence and nothing runs at inference (the same but where
a reliability diagram falls). The text that was at hand names the smoothing, not its window: here it is
Gaussian, its width a setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from policyopt._answers.calibrators import BINS, fit_histogram
from policyopt._methods.base import ConfidenceMethod
from policyopt._methods.settings import COUNT, Integer, Number, Real
from policyopt._thresholds.problem import Problem, Solution
from policyopt._thresholds.solvers import inverse_of, meet_shared, solve_given


@dataclass(frozen=True)
class PCEE(ConfidenceMethod):
    """Leave where rows of like confidence were right often enough.

    Parameters
    ----------
    answer
        As of `ConfidenceMethod`.
    delta : float, optional
        The accuracy wanted of whoever leaves early, in [0, 1]; refused where it costs more than the
        budget. Default: what the budget allows.
    bins : int
        Most bins of an exit.
    smooth : float
        Standard deviation, in bins, of the window of PCEE-WS; 0 is PCEE.
    """

    delta: float | None = None
    bins: int = BINS
    smooth: float = 0.0

    label = "pcee"
    allowed: ClassVar = {
        "delta": Number(most=1, optional=True),
        "bins": COUNT,
        "smooth": Number(most=1000),
    }
    tuned: ClassVar = {"bins": Integer(5, 50, log=True), "smooth": Real(0.0, 3.0)}

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        """Read the accuracy of every bin, and delta for each budget."""
        bins = fit_histogram(problem.scores[:, :-1], problem.value[:, :-1], self.bins, self.smooth)
        family = inverse_of(bins, problem)
        if self.delta is None:
            return [meet_shared(problem, family, budget) for budget in budgets]
        given = family(float(self.delta))
        return [solve_given(problem, given, budget, "delta") for budget in budgets]
