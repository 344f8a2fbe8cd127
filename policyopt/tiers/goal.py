"""What a plan is to achieve: an objective with a budget, or an accuracy at the least cost; and limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from policyopt.runtime.errors import input_error
from policyopt.runtime.typing import Floats
from policyopt.tiers.describe import OBJECTIVES
from policyopt.tiers.grid import Grid

#: Share of the rows that may cost more, by name of the statistic; None: the mean is what counts.
STATISTICS = {"mean": None, "p95": 0.05, "p99": 0.01, "worst": 0.0}
_EPS = 1e-9


@dataclass(frozen=True)
class Limit:
    """The most that an objective's mean, 95th or 99th percentile, or worst row may be.

    `spare` is taken from the share of rows that may cost more.

    Examples
    --------
    >>> limit = Limit.parse("latency:p95=20")
    >>> limit.statistic, limit.share, limit.most
    ('p95', 0.05, 20.0)
    """

    objective: str
    statistic: str
    most: float
    spare: float = 0.0

    @property
    def share(self) -> float | None:
        """Share of the rows that may cost more; None: their mean is what counts."""
        allowed = STATISTICS[self.statistic]
        return None if allowed is None else max(allowed - self.spare, 0.0)

    @property
    def text(self) -> str:
        """As it is written on a command line."""
        statistic = "" if self.statistic == "mean" else f":{self.statistic}"
        return f"{self.objective}{statistic}={self.most:g}"

    @staticmethod
    def parse(text: str) -> Limit:
        """Read ``OBJECTIVE[:STATISTIC]=NUMBER``; the statistic is the mean where none is named."""
        name, equals, number = text.partition("=")
        objective, _, statistic = name.strip().partition(":")
        try:
            most = float(number)
        except ValueError:
            most = math.nan
        known = objective in OBJECTIVES and (statistic or "mean") in STATISTICS
        if not equals or not known or not 0 <= most < math.inf:
            raise input_error(
                "limit",
                f"{' or '.join(OBJECTIVES)}, perhaps with :{', :'.join(STATISTICS)}, and =NUMBER",
                text, "E.g. --limit latency:p95=20.",
            )  # fmt: skip
        return Limit(objective, statistic or "mean", most)

    def kept(self, costs: Floats) -> bool:
        """Return whether rows that cost this (N,) keep within the limit."""
        allowed = self.share
        if allowed is None:
            return float(costs.mean()) <= self.most * (1 + _EPS)
        return float((costs > self.most * (1 + _EPS)).mean()) <= allowed + _EPS


@dataclass(frozen=True)
class Goal:
    """The highest accuracy within a budget, or the lowest cost at an accuracy.

    Parameters
    ----------
    objective : {"latency", "energy", "price"}
    budget : float, optional
        Most mean cost.
    accuracy : float, optional
        Least accuracy, a share; one of the two is given.
    limits : tuple of Limit
    """

    objective: str = "latency"
    budget: float | None = None
    accuracy: float | None = None
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            allowed = f"one of {', '.join(OBJECTIVES)}"
            raise input_error("objective", allowed, self.objective, "E.g. --objective latency.")
        if (self.budget is None) == (self.accuracy is None):
            raise input_error(
                "budget or accuracy", "given, one of the two", "both" if self.budget else "neither",
                "E.g. --budget 12, or --accuracy 91%.",
            )  # fmt: skip
        if self.budget is not None and not 0 <= self.budget < math.inf:
            raise input_error("budget", "a number, 0 or more", self.budget, "E.g. --budget 12.")
        if self.accuracy is not None and not 0 <= self.accuracy <= 1:
            raise input_error(
                "accuracy", "between 0 and 100%", self.accuracy, "E.g. --accuracy 91%."
            )

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives that matter to it, its own first."""
        return tuple(dict.fromkeys([self.objective, *(one.objective for one in self.limits)]))

    def stricter(self, accuracy: float, share: float, costs: Mapping[str, float]) -> Goal:
        """Return the goal with so much to spare: of accuracy, of the shares of limits, of mean costs."""
        limits = tuple(
            replace(one, most=max(one.most - costs[one.objective], 0.0))
            if one.share is None
            else replace(one, spare=one.spare + share)
            for one in self.limits
        )
        return replace(
            self, limits=limits,
            budget=None if self.budget is None else max(self.budget - costs[self.objective], 0.0),
            accuracy=None if self.accuracy is None else min(self.accuracy + accuracy, 1.0),
        )  # fmt: skip

    def surest(self) -> Goal:
        """Return the highest accuracy whatever it costs, or the lowest cost at any; the same limits.

        Examples
        --------
        >>> Goal("latency", budget=7.0).surest().accuracy, Goal(accuracy=0.9).surest().budget
        (0.0, 1e+300)
        """
        if self.accuracy is None:
            return replace(self, budget=None, accuracy=0.0)
        return replace(self, budget=1e300, accuracy=None)

    def best(self, grid: Grid, costs: Mapping[str, Floats]) -> tuple[int, float] | None:
        """Return the best point of a grid and its cost, under leaving costs per objective; or None."""
        own = grid.cost(costs[self.objective])
        allowed = self.allowed(grid, costs)
        if self.budget is not None:
            allowed &= own <= self.budget * (1 + _EPS)
        if self.accuracy is not None:
            allowed &= grid.value >= self.accuracy - _EPS
        if not allowed.any():
            return None
        first, second = (-grid.value, own) if self.accuracy is None else (own, -grid.value)
        worth = np.where(allowed, first, np.inf)
        near = worth <= worth.min() + 1e-12 * max(abs(float(worth.min())), 1.0)
        point = int(np.where(near, second, np.inf).argmin())
        return point, float(own[point])

    def allowed(self, grid: Grid, costs: Mapping[str, Floats]) -> npt.NDArray[np.bool_]:
        """Return which points of a grid keep the limits, (P,)."""
        allowed = np.ones(len(grid.value), dtype=bool)
        for one in self.limits:
            share = one.share
            if share is None:
                allowed &= grid.cost(costs[one.objective]) <= one.most * (1 + _EPS)
            else:
                allowed &= grid.beyond(costs[one.objective], one.most) <= share + _EPS
        return allowed

    def kept(self, correct: Floats, paid: Mapping[str, Floats]) -> bool:
        """Return whether rows that are right so (N,), and cost this per objective, keep the goal."""
        return (
            all(one.kept(paid[one.objective]) for one in self.limits)
            and (self.accuracy is None or float(correct.mean()) >= self.accuracy - _EPS)
            and Limit(
                self.objective, "mean", math.inf if self.budget is None else self.budget
            ).kept(paid[self.objective])
        )

    def ranks(self) -> Callable[[float, float], tuple[float, float]]:
        """Return the key, larger is better, of (value, cost)."""
        if self.accuracy is None:
            return lambda value, cost: (value, -cost)
        return lambda value, cost: (-cost, value)
