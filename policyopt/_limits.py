"""Limits on what requests cost: the mean, a percentile or the worst of a cost, in one grammar."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from policyopt.runtime._checks import to_python
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Floats

_GRAMMAR = re.compile(
    r"^(?:(?P<cost>.+):)?\s*(?P<statistic>mean|worst|p[1-9]\d?(?:\.\d{1,3})?)\s*<=\s*(?P<most>\S+)$"
)
_FORM = "[COST:]mean|pNN|worst<=NUMBER"
#: Share by which a limit may be passed, and quality by which a floor may be missed: rounding.
NEAR = 1e-9


@dataclass(frozen=True)
class Limit:
    """The most that a cost's mean, a percentile of it, or its worst row may be.

    Parameters
    ----------
    cost : str
        Name of the cost; empty: the one that the budget is of. For a plan latency, energy or price.
    statistic : str
        ``mean``, ``worst``, or a percentile from ``p1`` to ``p99.999``.
    most : float
        In the cost's unit.
    spare : float
        Taken from the share of rows that may cost more.

    Raises
    ------
    InputError
        No such statistic, or a limit that is no number of 0 or more.

    Examples
    --------
    >>> Limit.parse("latency:p95<=20")
    Limit(cost='latency', statistic='p95', most=20.0, spare=0.0)
    """

    cost: str
    statistic: str
    most: float
    spare: float = 0.0

    def __post_init__(self) -> None:
        number = type(to_python(self.most)) in (int, float) and 0 <= self.most < math.inf
        texts = isinstance(self.cost, str) and isinstance(self.statistic, str)
        if not (number and texts and _GRAMMAR.match(f"{self.statistic}<=0")):
            got = f"{self.cost}:{self.statistic}<={self.most}"
            raise input_error("limit", _FORM, got, "E.g. --limit 'latency:p95<=20'.")

    @property
    def share(self) -> float | None:
        """Share of the rows that may cost more; None: their mean is what counts."""
        if self.statistic == "mean":
            return None
        allowed = 0.0 if self.statistic == "worst" else 1.0 - float(self.statistic[1:]) / 100
        return max(allowed - self.spare, 0.0)

    @property
    def text(self) -> str:
        """As it is written on a command line."""
        return f"{self.cost}{':' if self.cost else ''}{self.statistic}<={self.most:g}"

    @staticmethod
    def parse(text: str) -> Limit:
        """Read ``[COST:]mean|pNN|worst<=NUMBER``."""
        found = _GRAMMAR.match(text.strip()) if isinstance(text, str) else None
        try:
            most = float(found["most"]) if found else math.nan
        except ValueError:
            most = math.nan
        if found is None or math.isnan(most):
            raise input_error("limit", _FORM, text, "E.g. --limit 'latency:p95<=20', in quotes.")
        return Limit((found["cost"] or "").strip(), found["statistic"], most)

    def within(self, costs: Any) -> Any:
        """Return which costs keep within the limit, whatever the share of rows."""
        return costs <= self.most * (1 + NEAR)

    def kept(self, costs: Floats, weights: Floats | None = None) -> bool:
        """Return whether rows that cost this (N,), of such weights, keep within the limit."""
        if self.share is None:
            return bool(self.within(np.average(costs, weights=weights)))
        return float(np.average(~self.within(costs), weights=weights)) <= self.share + NEAR

    def reached(self, costs: Floats, weights: Floats | None = None) -> float:
        """Return the statistic of rows that cost this, (N,): the least `most` that they keep."""
        if self.share is None:
            return float(np.average(costs, weights=weights))
        order = np.argsort(costs)[::-1]
        share = np.cumsum(np.ones(len(costs)) if weights is None else weights[order])
        return float(costs[order][np.searchsorted(share / share[-1], self.share + NEAR, "right")])
