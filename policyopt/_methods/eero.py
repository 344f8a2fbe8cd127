"""EERO: Valade, Hebiri & Gay, UAI 2025, arXiv:2402.03779: exits as classifiers with a reject option.

The shares of samples that leave at the exits, eps, weigh the exits' risks R (their error rates on all
rows) by aggregation with exponential weights under the budget B:

    minimise  sum_k eps_k R_k + beta * KL(eps, prior)   subject to  sum_k eps_k c_k <= B,

with the prior proportional to 1 / c_k; so ``eps_k ~ prior_k * exp(-(R_k + gamma c_k) / beta)``, gamma the
price that meets the budget. At each exit the most confident samples leave until its share is full.

Departures: the budget is spent, not only kept, so gamma may be negative (a frame of equal realised cost);
shares are tilted along the same family until the replayed cost is the budget. The text that was at hand
gives the problem, not beta: the default is 1 / sqrt(N), the order at which such weights learn from N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._methods.base import ConfidenceMethod
from policyopt._methods.settings import Choice, Number, Real
from policyopt._thresholds.problem import Problem, Solution
from policyopt._thresholds.quotas import solve_planned
from policyopt.runtime._typing import Floats

_LEAST = 1e-6  # of the full model's cost: an exit that costs nothing has not the whole prior
PRIORS = ("cost", "uniform")


@dataclass(frozen=True)
class EERO(ConfidenceMethod):
    """Leave by shares that weigh the exits' risks.

    Parameters
    ----------
    answer
        As of `ConfidenceMethod`.
    beta : float, optional
        Temperature of the weights, over 0: small follows the risks, large the prior. Default
        1 / sqrt(N).
    prior : {"cost", "uniform"}
        Shares before the risks are seen: proportional to 1 / cost, or all alike.
    """

    beta: float | None = None
    prior: str = "cost"

    label = "eero"
    allowed: ClassVar = {"beta": Number(above=0, optional=True), "prior": PRIORS}
    tuned: ClassVar = {"beta": Real(0.003, 3.0, log=True), "prior": Choice(PRIORS)}

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        """Weigh the exits once, and tilt their shares for each budget."""
        beta = problem.rows**-0.5 if self.beta is None else float(self.beta)
        risk = 1.0 - problem.value.mean(axis=0)
        shares = weights(risk, problem.mean_costs, beta, self.prior)
        return [solve_planned(problem, shares, budget) for budget in budgets]


def weights(risk: Floats, costs: Floats, beta: float, prior: str) -> Floats:
    """Return ``prior * exp(-risk / beta)``, normalised, (K,): the shares before the budget."""
    floor = max(_LEAST * float(costs[-1]), 1e-300)
    before = -np.log(np.maximum(costs, floor)) if prior == "cost" else np.zeros(len(costs))
    exponents = before - risk / beta
    found = np.exp(exponents - exponents.max())
    return found / found.sum()
