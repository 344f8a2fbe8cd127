"""A policy family, from cheap to dear, and the budget controller that moves along it.

Dual ascent on the price of cost keeps the mean cost at the budget. With costs scaled to [0, 1] between
the first and the last exit and b the budget on that scale, the price moves by ``p <- p + step * (cost - b)``
after every request, and the next request is served on the level at position ``(1 - p)`` of a policy
family: the dearer traffic was, the cheaper the next.

Bound. Level 0 leaves at exit 0 always, the last level never early. So at p >= 1 the cost is 0 <= b
and p does not rise, at p <= 0 the cost is 1 >= b and p does not fall: p stays in ``[-step * b, 1 + step * (1 - b)]``
without clipping. Summing the updates, ``sum(cost - b) = (p_T - p_0) / step``, hence after T requests

    |mean cost - b| <= (1 + step) / (step * T)

whatever the inputs do: no model of them is needed. (Dual gradient ascent with a bounded dual, as in
Zinkevich 2003 and in online knapsacks of Balseiro & Gur 2019; the telescoping sum is the same as in
adaptive conformal inference, Gibbs & Candes, NeurIPS 2021, proposition 4.1.) Costs that differ from
sample to sample keep it as long as they are scaled by what bounds them. Where feedback of D requests
is still on its way, ``D / T`` comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .._bandits import Steering, setting
from .._checks import check_positive, check_share, check_whole
from .._errors import input_error
from .._parameters import numbers
from .._policy import ALWAYS, NEVER, Policy, first_exit
from .._saved_state import check_fields, refused
from .._typing import Floats

#: What to call for a family whose ends leave always and never.
MAKES_ONE = "policyopt._online.families.fit_family(...)"
_MOST_ARMS = 10_000
_BUDGET = "a share of the way from the first exit's cost to the last's, in [0, 1]"
_FAR = 1e12  # of a saved price
_LARGEST = 1000.0  # share that one request may cost: beyond it, the unit is likely to be wrong


@dataclass(frozen=True, eq=False)
class PolicyFamily:
    """One policy with A sets of thresholds: its levels, which are the arms of a bandit.

    Parameters
    ----------
    policy : Policy
        Its score and answer hold on every level; it draws no coin.
    thresholds : array of shape (A, K-1)
        Level a leaves at the first k with ``score >= thresholds[a, k]``. Where no threshold falls
        from one level to the next, a sample never leaves earlier on a larger level (`nested`): then
        playing level a shows what every smaller level would have done.
    labels : array of shape (A,), optional
        What the levels are called, for people: a threshold, or a budget; default 0, 1, ...

    Examples
    --------
    >>> from policyopt.runtime._scores import MaxProb
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
    >>> family = PolicyFamily(policy, [[0.0], [0.5], [1.0]])
    >>> family.exits(np.array([[0.4, 0.9], [0.7, 0.9]]))
    array([[0, 1, 1],
           [0, 0, 1]], dtype=int8)
    >>> family.arms, family.nested
    (3, True)
    """

    policy: Policy
    thresholds: Floats
    labels: Floats = None  # type: ignore[assignment]  # an array from here on
    nested: bool = field(init=False, default=False)
    _columns: Any = field(init=False, default=(), repr=False)

    def __post_init__(self) -> None:
        table = numbers("thresholds", self.thresholds, 2)
        arms, wide = table.shape
        if not 1 <= arms <= _MOST_ARMS or wide != self.policy.exits - 1:
            allowed = f"of shape (A, {self.policy.exits - 1}), A from 1 to {_MOST_ARMS}"
            raise input_error("thresholds", allowed, f"shape {table.shape}", "One row per arm.")
        if self.policy.mixture is not None:
            got, step = (
                "one that draws a coin",
                "Fit without mix; equal scores need one: take another.",
            )
            raise input_error("policy", "without a mixture", got, step)
        labels = numbers("labels", np.arange(arms) if self.labels is None else self.labels, 1)
        if len(labels) != arms:
            raise input_error("labels", f"one per arm: {arms}", len(labels), "Or leave them out.")
        object.__setattr__(self, "thresholds", table)
        object.__setattr__(self, "labels", labels)
        nested = arms == 1 or bool((np.diff(table, axis=0) >= 0).all())
        object.__setattr__(self, "nested", nested)
        # Per exit, the thresholds of all levels as plain numbers, for `taken`.
        object.__setattr__(self, "_columns", table.T.tolist())

    @property
    def arms(self) -> int:
        """A."""
        return len(self.thresholds)

    def at(self, arm: int) -> Policy:
        """Return the policy of one level."""
        return replace(self.policy, thresholds=self.thresholds[arm])

    def exits(self, scores: Floats) -> npt.NDArray[np.integer]:
        """Return the exit of each row (n, K) on each level: (n, A), int8 (int64 where K passes 127)."""
        dtype = np.int8 if self.policy.exits < 128 else np.int64
        found = np.empty((len(scores), self.arms), dtype=dtype)
        for arm, thresholds in enumerate(self.thresholds):
            found[:, arm] = first_exit(scores, thresholds)
        return found

    def taken(self, scores: Sequence[float], last: bool) -> list[int | None]:
        """Return the exit of each level as far as the scores of one sample's first exits tell.

        `last`: it went to the last exit, whose score is not looked at. None: the level would have gone on
        beyond what was seen.
        """
        exits = self.policy.exits
        found: list[int | None] = [exits - 1 if last else None] * self.arms
        for k in reversed(range(min(len(scores), exits - 1))):
            for a, threshold in enumerate(self._columns[k]):
                if scores[k] >= threshold:
                    found[a] = k
        return found


@dataclass(frozen=True)
class Controller(Steering):
    """Keeps the mean cost at a budget by moving along a policy family.

    Parameters
    ----------
    budget : float
        b: the budget as a share of the way from the cost of exit 0 to that of the last exit, in [0, 1].
    step : float
        How far the price moves. Large: the bound holds sooner; small: the levels used differ less, which costs
        less accuracy. With 0.02 the mean cost is within 1 % of the way after 5,100 requests at the latest.
    start : float
        Position in the family, in [0, 1], at which to start: 0 the cheapest level.

    Examples
    --------
    >>> player = Controller(budget=0.3, step=0.1).player(arms=11)
    >>> player.choose()
    5
    >>> player.learn(1.0)  # it went to the last exit: the next level is cheaper
    >>> player.choose()
    4
    """

    budget: float = setting(MISSING, check_share, allowed=_BUDGET)
    step: float = setting(0.02, check_positive, most=1.0)
    start: float = setting(0.5, check_share)

    name = "controller"
    summary = "moves along a policy family so that the mean cost stays at the budget"
    reference = (
        "Budget controller: dual ascent on the price of cost keeps the mean cost at the budget."
    )

    def check_family(self, family: PolicyFamily) -> None:
        """Refuse a family that the bound does not hold for: its ends must be always and never."""
        costs, ends = family.policy.costs, family.thresholds
        if not costs[-1] > costs[0]:
            allowed = "of a policy whose exits differ in cost"
            raise input_error("family", allowed, costs.tolist(), "It steers cost.")
        if ends[0, 0] > ALWAYS or (ends[-1] < NEVER).any():
            allowed = "one whose first level leaves at exit 0 always, its last never early, for a controller"
            got = f"ends {ends[0].tolist()} and {ends[-1].tolist()}"
            raise input_error("family", allowed, got, f"{MAKES_ONE} makes one.")

    def share(self, costs: Floats, cost: float) -> float:
        """Return a cost on the scale of the budget: 0 that of exit 0, 1 that of the last exit."""
        share = (cost - float(costs[0])) / float(costs[-1] - costs[0])
        if not abs(share) <= _LARGEST:
            allowed = f"a number, at most {_LARGEST:g} times the way from exit 0 to the last"
            raise input_error("cost", allowed, cost, "In the policy's unit.")
        return share

    def bound(self, rounds: int) -> float:
        """Return the most that the mean cost of `rounds` requests is off the budget, as a share."""
        check_whole("rounds", rounds)
        return (1.0 + self.step) / (self.step * rounds)

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> ControllerPlayer:
        """Return a player on a family of A levels; it draws nothing."""
        return ControllerPlayer(self, arms)


class ControllerPlayer:
    """The price on one stream."""

    def __init__(self, rule: Controller, arms: int) -> None:
        self.rule, self._last = rule, arms - 1
        self.price = 1.0 - rule.start

    def choose(self) -> int:
        """Return the level for the next request."""
        return min(max(int((1.0 - self.price) * self._last + 0.5), 0), self._last)

    def learn(self, cost: float) -> None:
        """Take in what a request cost, scaled: 0 exit 0, 1 the last exit."""
        self.price += self.rule.step * (cost - self.rule.budget)

    def state(self) -> dict[str, Any]:
        """Return the price, JSON-able."""
        return {"price": self.price}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, checked."""
        price = check_fields("state of the controller", state, ("price",))["price"]
        # Where feedback is late, it may be far out.
        if not isinstance(price, float) or not abs(price) <= _FAR:
            raise refused("price", f"a number in [{-_FAR:g}, {_FAR:g}]", price)
        self.price = price
