"""What a threshold solver is given, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from policyopt.runtime.errors import BudgetError, message
from policyopt.runtime.policy import ALWAYS, NEVER, first_exit
from policyopt.runtime.typing import Floats
from policyopt.thresholds.flat import ROUNDING


@dataclass(frozen=True)
class Problem:
    """Scores, values and costs of the rows on which thresholds are chosen.

    Parameters
    ----------
    scores : ndarray of shape (N, K)
        Of rows that did not train the score.
    value : ndarray of shape (N, K)
        What leaving at exit k is worth: correctness (0 or 1), or its expectation.
    costs : ndarray of shape (K,) or (N, K)
        Cumulative cost, per exit or per sample.
    unit : str
        Unit of the costs, for messages.
    flat : tuple of int
        Exits whose scores differed by rounding only and were made equal (see `flat`).
    """

    scores: Floats
    value: Floats
    costs: Floats
    unit: str = "units"
    flat: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # Solvers go exit by exit: columns side by side in memory are read several times faster.
        object.__setattr__(self, "scores", np.asfortranarray(self.scores))

    @cached_property
    def mean_costs(self) -> Floats:
        """Mean cumulative cost per exit, (K,)."""
        return self.costs if self.costs.ndim == 1 else self.costs.mean(axis=0)

    @property
    def rows(self) -> int:
        """N."""
        return len(self.scores)

    @property
    def exits(self) -> int:
        """K."""
        return self.scores.shape[1]

    @cached_property
    def common(self) -> Floats:
        """The score that all samples share at each exit but the last, NaN where they differ, (K-1,)."""
        first = self.scores[0, :-1]
        return np.where((self.scores[:, :-1] == first).all(axis=0), first, np.nan)

    def settled(self, thresholds: Floats) -> Floats:
        """Return thresholds that decide the same here, none of them at a score that all samples share.

        Where all share a score, up to rounding, a threshold near it would leave the decision to the last bit of
        whoever computes the score: it becomes "always" or "never".

        Examples
        --------
        >>> problem = Problem(
        ...     np.array([[0.5, 0.0], [0.5, 0.0]]), np.ones((2, 2)), np.array([1.0, 2.0])
        ... )
        >>> problem.settled(np.array([0.5 + 1e-9])) == NEVER, problem.settled(np.array([0.6]))
        (array([ True]), array([0.6]))
        """
        # Scores lie within half of ROUNDING of the one they share: twice that leaves room for another's error.
        near = np.abs(thresholds - self.common) <= 2 * ROUNDING * np.maximum(np.abs(self.common), 1)
        if not near.any():
            return thresholds
        return np.where(near, np.where(self.common >= thresholds, ALWAYS, NEVER), thresholds)

    def paid(self, exits: npt.NDArray[np.int64]) -> Floats:
        """Return what each sample pays for the exit it takes, (N,)."""
        if self.costs.ndim == 1:
            return self.costs[exits]
        return np.take_along_axis(self.costs, exits[:, None], axis=1)[:, 0]

    def cost(self, thresholds: Floats) -> float:
        """Return the mean cost of replaying `thresholds` on these rows."""
        exits = first_exit(self.scores, thresholds)
        if self.costs.ndim == 1:
            return float(np.bincount(exits, minlength=self.exits) @ self.costs) / self.rows
        return float(self.paid(exits).mean())

    def accuracy(self, thresholds: Floats) -> float:
        """Return the mean value of replaying `thresholds` on these rows."""
        return float(self.gained(first_exit(self.scores, thresholds)).mean())

    def gained(self, exits: npt.NDArray[np.int64]) -> Floats:
        """Return what leaving there is worth, per sample, (N,)."""
        return np.take_along_axis(self.value, exits[:, None], axis=1)[:, 0]

    def check_budget(self, budget: float) -> None:
        """Refuse a budget that no policy can meet, naming the range that can."""
        low, high = float(self.mean_costs[0]), float(self.mean_costs[-1])
        slack = 1e-9 * max(abs(high), 1e-300)
        if not low - slack <= budget <= high + slack:
            raise BudgetError(
                message(
                    "budget",
                    f"in [{low:.6g}, {high:.6g}] {self.unit}",
                    f"{budget:.6g}",
                    "The range runs from every sample leaving at exit 0 to every sample running all exits; "
                    "choose a budget inside it, or a share of the full model such as "
                    f"{100 * (low + high) / 2 / high if high else 50:.0f}%.",
                )
            )


@dataclass(frozen=True)
class Solution:
    """Thresholds that meet a budget, perhaps as a mixture of two sets.

    Attributes
    ----------
    thresholds : ndarray of shape (K-1,)
    other : ndarray of shape (K-1,) or None
        Second set, for a `share` of the samples, where no single set meets the budget.
    share : float
    """

    thresholds: Floats
    other: Floats | None = None
    share: float = 0.0
