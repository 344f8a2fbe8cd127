"""One score, one threshold per exit: MSDNet, SDN, BranchyNet, margin, vote (four solvers); PCEE; EERO.

PCEE: Mofakhami et al., 2024, arXiv:2412.19325: performance control, a threshold on accuracy. A sample leaves
where the accuracy of the validation rows whose confidence falls into the same bin is at least delta: one number
for all exits, and one that says what it promises. PCEE-WS averages neighbouring bins first.

Departures: with a budget, delta is what costs the budget, and what is left between two values of delta is spent
within a bin, from exit 0 on; bins hold equally many rows (20 or more), not equal widths of confidence, since most
confidences lie near 1; a bin counts for the least accuracy that it or a higher one has, so that an exit's rule is
a threshold on confidence and nothing runs at inference (the same but where a reliability diagram falls). The text
that was at hand names the smoothing, not its window: here it is Gaussian, its width a setting.

EERO: Valade, Hebiri & Gay, UAI 2025, arXiv:2402.03779: exits as classifiers with a reject option. The shares of
samples that leave at the exits, eps, weigh the exits' risks R (their error rates on all rows) by aggregation with
exponential weights under the budget B:

    minimise  sum_k eps_k R_k + beta * KL(eps, prior)   subject to  sum_k eps_k c_k <= B,

with the prior proportional to 1 / c_k; so ``eps_k ~ prior_k * exp(-(R_k + gamma c_k) / beta)``, gamma the price
that meets the budget. At each exit the most confident samples leave until its share is full.

Departures: the budget is spent, not only kept, so gamma may be negative (a frame of equal realised cost); shares
are tilted along the same family until the replayed cost is the budget. The text that was at hand gives the
problem, not beta: the default is 1 / sqrt(N), the order at which such weights learn from N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from policyopt._answers.calibrators import BINS, FITS, fit_histogram
from policyopt._answers.crossfit import NAMES
from policyopt._methods.base import ANSWERS, Method
from policyopt._methods.fitted import Draft
from policyopt._methods.settings import COUNT, YES_OR_NO, Choice, Integer, Number, Real
from policyopt._table import Table
from policyopt._thresholds.problem import Problem, Solution
from policyopt._thresholds.quotas import quota_thresholds, solve_planned
from policyopt._thresholds.solvers import (
    SOLVERS,
    check_solver,
    inverse_of,
    meet_shared,
    solve_given,
    solve_path,
)
from policyopt.runtime._errors import input_error
from policyopt.runtime._parameters import fields_of
from policyopt.runtime._policy import ALWAYS, NEVER
from policyopt.runtime._scores import RULES, Entropy, ScoreRule, make_rule
from policyopt.runtime._typing import Floats

_COLUMNS = {
    "margin": "top_prob (at least two)",
    "entropy": "entropy",
    "log_prob": "all class outputs",
}
#: Of the full model's cost: an exit that costs nothing has not the whole prior of EERO.
_LEAST = 1e-6
PRIORS = ("cost", "uniform")


@dataclass(frozen=True)
class Threshold(Method):
    """Exit at the first k with ``score >= t[k]``.

    Parameters
    ----------
    score : str
        Name of a score rule.
    thresholds : {"geometric", "shared", "joint"}, tuple of float, or text
        How they are found (see `policyopt._thresholds`), or the thresholds themselves. Of `entropy` also
        as papers give them, ``nats<0.3,0.3``: leave where the entropy is below so many nats.
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

    allowed: ClassVar = {"shared_map": tuple(FITS), "answer": NAMES, "mix": YES_OR_NO}
    tuned: ClassVar = {"thresholds": Choice(SOLVERS), "answer": ANSWERS}

    def __post_init__(self) -> None:
        if self._nats is None:
            check_solver(self.thresholds)
        if not isinstance(self.thresholds, str):
            # Finite, so that the artifact's provenance holds them too.
            given = np.atleast_1d(np.asarray(self.thresholds, dtype=np.float64))
            clipped = tuple(float(t) for t in np.clip(given, ALWAYS, NEVER))
            object.__setattr__(self, "thresholds", clipped)
        super().__post_init__()
        other_map = self.shared_map != "platt"
        goes_with = {"mix": ("joint", self.mix), "shared_map": ("shared", other_map)}
        for name, (solver, used) in goes_with.items():
            if used and self.thresholds != solver:
                got, step = f"thresholds={self.thresholds}", f"Add --set thresholds={solver}."
                raise input_error(name, f"used with thresholds={solver}", got, step)

    @property
    def asks(self) -> str:  # type: ignore[override]
        """Whether its score compares answers."""
        return "compared" if self.score in ("vote", "patience") else ""

    @property
    def name(self) -> str:
        """Name of the method: that of its score, unless it has one of its own."""
        return self.label or self.score

    def required_columns(self) -> frozenset[str]:
        return frozenset(RULES[self.score].required_columns)

    def requires_labels(self) -> bool:
        """Quotas look at scores only; other solvers, and answers, at what is right."""
        return self.thresholds in ("joint", "shared") or self.answer != "plain"

    @property
    def fixed(self) -> bool:
        return self.thresholds not in SOLVERS

    @cached_property
    def _nats(self) -> list[float] | None:
        """What stands after ``nats<``; None where thresholds are no such text."""
        word, sign, rest = str(self.thresholds).partition("<")
        if not sign:
            return None
        try:
            found = [float(part) for part in rest.split(",")]
        except ValueError:
            found = []
        valid = found and all(n >= 0 for n in found)
        if word.strip() != "nats" or self.score != "entropy" or not valid:
            allowed = "numbers, or, of entropy, nats<NUMBER,NUMBER"
            step = "E.g. --method entropy --set 'thresholds=nats<0.3,0.3'."
            raise input_error("thresholds", allowed, f"{self.thresholds} for {self.score}", step)
        return found

    def missing_columns(self, table: Table) -> list[str]:
        missing = [_COLUMNS.get(name, name) for name in super().missing_columns(table)]
        if self._counts_classes and not table.classes:
            missing.append("the number of classes")
        return [*missing, *missing_outputs(self.answer, table)]

    def rule(self, table: Table, seed: int) -> ScoreRule:
        return make_rule(self.score, {"classes": table.classes} if self._counts_classes else {})

    @property
    def _counts_classes(self) -> bool:
        """Whether the score asks for the number of classes."""
        return any(field.name == "classes" for field in fields_of(RULES[self.score]))

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        if self._nats is None:
            return super().solve(draft, budgets, seed)
        rule = draft.rule
        assert isinstance(rule, Entropy)
        given = [rule.above_of(nats) for nats in self._nats]
        return [replace(draft, solution=solve_given(draft.problem, given, b)) for b in budgets]

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        return solve_path(problem, self.thresholds, budgets, self.mix, self.shared_map)


@dataclass(frozen=True)
class ConfidenceMethod(Method):
    """Thresholds on the confidence of the answers.

    Parameters
    ----------
    answer : str
        What exits return, and confidence is read from: ``plain``, or another name of `policyopt._answers`.
    """

    answer: str = "plain"

    allowed: ClassVar = {"answer": NAMES}
    tuned: ClassVar = {"answer": ANSWERS}

    def missing_columns(self, table: Table) -> list[str]:
        return [*super().missing_columns(table), *missing_outputs(self.answer, table)]


def missing_outputs(answer: str, table: Table) -> list[str]:
    """Return what answers other than plain need, where rows do not hold it: all class outputs, and their worth."""
    if answer == "plain" or (table.whole and not table.plain_only):
        return []
    what = "exits that answer the same classes"
    if not table.whole:
        what = "all class outputs"
    elif table.quality_given:
        what = "labels instead of a graded quality"
    return [f"{what} (for answers other than plain)"]


@dataclass(frozen=True)
class PCEE(ConfidenceMethod):
    """Leave where rows of like confidence were right often enough.

    Parameters
    ----------
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
    decides = True
    validates = True  # also what delta gives is learned from rows
    allowed: ClassVar = {
        "delta": Number(most=1, optional=True),
        "bins": COUNT,
        "smooth": Number(most=1000),
    }
    tuned: ClassVar = {"bins": Integer(5, 50, log=True), "smooth": Real(0.0, 3.0)}

    @property
    def fixed(self) -> bool:
        return self.delta is not None

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        bins = fit_histogram(problem.scores[:, :-1], problem.value[:, :-1], self.bins, self.smooth)
        family = inverse_of(bins, problem)
        if self.delta is None:
            return [meet_shared(problem, family, budget) for budget in budgets]
        given = family(float(self.delta))
        return [solve_given(problem, given, budget, "delta") for budget in budgets]


@dataclass(frozen=True)
class EERO(ConfidenceMethod):
    """Leave by shares that weigh the exits' risks.

    Parameters
    ----------
    beta : float, optional
        Temperature of the weights, over 0: small follows the risks, large the prior. Default
        1 / sqrt(N).
    prior : {"cost", "uniform"}
        Shares before the risks are seen: proportional to 1 / cost, or all alike.
    shares : {"budget", "risk"}
        Tilted until they cost the budget; or as risks and prior weigh them (gamma 0), refused above a budget.
    """

    beta: float | None = None
    prior: str = "cost"
    shares: str = "budget"

    label = "eero"
    validates = True  # also the shares of risks are learned from rows
    allowed: ClassVar = {
        "beta": Number(above=0, optional=True), "prior": PRIORS, "shares": ("budget", "risk"),
    }  # fmt: skip
    tuned: ClassVar = {"beta": Real(0.003, 3.0, log=True), "prior": Choice(PRIORS)}

    @property
    def fixed(self) -> bool:
        return self.shares == "risk"

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        beta = problem.rows**-0.5 if self.beta is None else float(self.beta)
        risk = 1.0 - problem.value.mean(axis=0)
        shares = weights(risk, problem.mean_costs, beta, self.prior)
        if self.fixed:
            counts = np.diff(np.round(np.cumsum(shares) * problem.rows), prepend=0.0)
            given = quota_thresholds(problem.scores, counts.astype(np.int64))
            return [solve_given(problem, given, budget, "shares") for budget in budgets]
        return [solve_planned(problem, shares, budget) for budget in budgets]


def weights(risk: Floats, costs: Floats, beta: float, prior: str) -> Floats:
    """Return ``prior * exp(-risk / beta)``, normalised, (K,): the shares before the budget."""
    floor = max(_LEAST * float(costs[-1]), 1e-300)
    before = -np.log(np.maximum(costs, floor)) if prior == "cost" else np.zeros(len(costs))
    exponents = before - risk / beta
    found = np.exp(exponents - exponents.max())
    return found / found.sum()
