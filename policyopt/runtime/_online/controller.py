"""The budget controller, which moves along a policy family.

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
is still on its way, ``D / T`` comes on top. Levels of routing are scaled by what the cheapest and the dearest are
to cost; as no end is added, the bound is lost, and the budget kept as far as their mean costs enclose it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from .._bandits import Steering, setting
from .._checks import check_positive, check_share, check_whole
from .._errors import input_error
from .._family import PolicyFamily
from .._saved_state import check_fields, refused
from .._typing import Floats

#: What to call for a family.
MAKES_ONE = "policyopt.fit_family(...)"
_BUDGET = "a share of the way from the first exit's cost to the last's, in [0, 1]"
_FAR = 1e12  # of a saved price
_LARGEST = 1000.0  # share that one request may cost: beyond it, the unit is likely to be wrong


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
        """Refuse a family that there is nothing to steer in."""
        costs = family.ends
        if not costs[-1] > costs[0]:
            allowed = "of a policy whose exits differ in cost"
            raise input_error("family", allowed, costs.tolist(), "It steers cost.")
        if not family.routes and len({policy.active_exits for policy in family.policies}) > 1:
            step = "Fit it with a method that keeps all exits, e.g. max_prob."
            allowed, got = "of levels that run the same exits", "some that skip others' exits"
            raise input_error("family", allowed, got, step)

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
