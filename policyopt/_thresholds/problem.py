"""What a threshold solver is given, and what it returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from policyopt._costs import money
from policyopt._thresholds.degenerate_scores import ROUNDING
from policyopt.runtime._errors import BudgetError, message
from policyopt.runtime._policy import ALWAYS, NEVER, first_exit
from policyopt.runtime._typing import Floats, Ints


@dataclass(frozen=True)
class Problem:
    """Scores, values and costs of the rows on which thresholds are chosen."""

    scores: Floats  # (N, K), of rows that did not train the score
    value: Floats  # (N, K), of leaving at exit k: correctness (0 or 1), or its expectation
    costs: Floats  # (K,) or (N, K), cumulative
    unit: str = "units"
    #: Exits whose scores differed by rounding only and were made equal (see `degenerate_scores`).
    flat: tuple[int, ...] = ()
    #: (N,), see `Table.group`, where the rows are not those of the draft's table.
    group: Ints | None = None
    #: What a search found that serves any budget, by its name; costs, by the bytes of thresholds.
    memory: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

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

    @cached_property
    def ordered(self) -> Floats:
        """The scores of each exit but the last, ascending, (N, K-1)."""
        return np.sort(self.scores[:, :-1], axis=0)

    def settled(self, thresholds: Floats) -> Floats:
        """Return thresholds that decide the same here, none near a score that all share: "always" or "never"."""
        # Scores lie within half of ROUNDING of the one they share: twice that leaves room for another's error.
        near = np.abs(thresholds - self.common) <= 2 * ROUNDING * np.maximum(np.abs(self.common), 1)
        if not near.any():
            return thresholds
        return np.where(near, np.where(self.common >= thresholds, ALWAYS, NEVER), thresholds)

    def cost_at(self, exits: Ints) -> Floats:
        """Return what each sample pays for the exit it takes, (N,)."""
        return np.broadcast_to(self.costs, self.scores.shape)[np.arange(self.rows), exits]

    def gained(self, exits: Ints) -> Floats:
        """Return what leaving there is worth, per sample, (N,)."""
        return self.value[np.arange(self.rows), exits]

    def cost(self, thresholds: Floats) -> float:
        """Return the mean cost of replaying `thresholds` on these rows."""
        if (key := thresholds.tobytes()) not in self.memory:
            self.memory[key] = self.paid(first_exit(self.scores, thresholds))
        return self.memory[key]

    def paid(self, exits: Ints) -> float:
        """Return the mean cost of the exits taken, (N,)."""
        if self.costs.ndim == 1:
            return float(np.bincount(exits, minlength=self.exits) @ self.costs) / self.rows
        return float(self.cost_at(exits).mean())

    def quality(self, thresholds: Floats) -> float:
        """Return the mean value of replaying `thresholds` on these rows."""
        return float(self.gained(first_exit(self.scores, thresholds)).mean())

    def worth(self, solution: Solution) -> float:
        """Return the mean value of replaying a solution on these rows, on average over its coin."""
        found = self.quality(solution.thresholds)
        if solution.other is not None:
            found += solution.share * (self.quality(solution.other) - found)
        return found

    def within_reach(self, budget: float) -> float:
        """Return the budget, within what these rows can cost (where costs differ by row)."""
        return float(np.clip(budget, self.mean_costs[0], self.mean_costs[-1]))

    def check_budget(self, budget: float) -> None:
        """Refuse a budget that no policy can meet, naming the range that can."""
        low, high = float(self.mean_costs[0]), float(self.mean_costs[-1])
        slack = 1e-9 * max(abs(high), 1e-300)
        if not low - slack <= budget <= high + slack:
            # Rounded to what can be had.
            part = math.ceil(1000 * low / high - 1e-6) / 10 if high else 0.0
            allowed = f"from {low:.6g} to {high:.6g} {self.unit}, that is {part:g}% to 100% of the full model"
            got = f"{budget:.6g} {self.unit}" + (f", or {100 * budget / high:.4g}%" if high else "")
            step = "Lower it: --budget 100% lets every sample run all exits."
            if money(self.unit):
                step += " Costs are of one request: '$3/1000' is money for 1,000 of them."
            if budget < low:
                step = f"Raise it: --budget {part:g}% lets every sample leave where it is cheapest."
                share = budget if budget >= 1 else 100 * budget
                if low <= share / 100 * high <= high:
                    step += f" {share:.4g} % of the full model is written {share:.4g}%."
            raise BudgetError(message("budget", allowed, got, step))


@dataclass(frozen=True)
class Solution:
    """Thresholds that meet a budget; where no single set does, another for a share of the samples."""

    thresholds: Floats  # (K-1,)
    other: Floats | None = None  # (K-1,)
    share: float = 0.0


def between(below: float, above: float) -> float:
    """Return a number t with ``below < t <= above``, midway where there is room."""
    if above >= NEVER:
        return NEVER
    if below <= ALWAYS:
        return ALWAYS
    middle = below + (above - below) / 2
    return float(middle if below < middle <= above else above)
