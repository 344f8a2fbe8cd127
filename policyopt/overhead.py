"""The policy's own arithmetic, in the unit of the costs.

Counted: what an answer rule and a score rule compute beyond the softmax, its largest entries and
the entropy, which belong to the exit's head. A multiply-add counts as two FLOPs or one MAC.
Where the unit is not arithmetic (ms, mJ, USD), it is converted by another cost of the same cache
that is, at the rate of the full model; without one it is not counted, and the artifact says 0.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from policyopt.costs import Cost
from policyopt.runtime.answers import AnswerRule
from policyopt.runtime.scores import ScoreRule

_UNIT = re.compile(
    r"^(?P<scale>|k|kilo|m|mega|g|giga|t|tera)(?P<kind>flops?|macs?|ops?|madds?)$", re.IGNORECASE
)
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def unit_per_multiply_add(unit: str) -> float | None:
    """Return what one multiply-add costs in an arithmetic unit; None for other units.

    Examples
    --------
    >>> unit_per_multiply_add("MMACs"), unit_per_multiply_add("GFLOPs"), unit_per_multiply_add("ms")
    (1e-06, 2e-09, None)
    """
    found = _UNIT.match(unit.strip())
    if found is None:
        return None
    worth = 1.0 if found["kind"].lower().startswith("ma") else 2.0
    return worth / _SCALES[found["scale"][:1].lower()]


def rate_of(cost: Cost, costs: tuple[Cost, ...]) -> float:
    """Return the cost of one multiply-add in the unit of `cost`; 0 where it cannot be known.

    Parameters
    ----------
    cost : Cost
        The one in use.
    costs : tuple of Cost
        All costs of the cache.

    Returns
    -------
    float

    Examples
    --------
    >>> compute, latency = Cost("compute", "MMACs", (1, 4)), Cost("latency", "ms", (1, 2))
    >>> rate_of(latency, (compute, latency))  # 2 ms for 4 million
    5e-07
    """
    own = unit_per_multiply_add(cost.unit)
    if own is not None:
        return own
    for other in costs:
        rate = unit_per_multiply_add(other.unit)
        if rate is not None and other.values is not None and cost.values is not None:
            return cost.values[-1] / other.values[-1] * rate
    return 0.0


def overhead(
    answer: AnswerRule, rules: tuple[ScoreRule, ...], exits: int, classes: int, rate: float
) -> npt.NDArray[np.float64]:
    """Return the cumulative cost of a policy's own arithmetic per exit, (K,).

    Parameters
    ----------
    answer : AnswerRule
    rules : tuple of ScoreRule
        All score rules that run on a sample.
    exits, classes : int
    rate : float
        Cost of one multiply-add, from `rate_of`.

    Returns
    -------
    ndarray of shape (K,), float64
    """
    each = [
        answer.operations(k, classes) + sum(rule.operations(k, classes) for rule in rules)
        for k in range(exits)
    ]
    return np.cumsum(each) * rate
