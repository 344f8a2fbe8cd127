"""A method on some of the exits: what `subset` compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policyopt.methods.always import Always, alone
from policyopt.methods.base import Fitted, Method
from policyopt.table import Table


@dataclass(frozen=True)
class OnExits(Method):
    """A method on some exits only, which costs no more than what they allow.

    Parameters
    ----------
    kept : tuple of int
        Places among the table's exits, ascending.
    inner : Method

    Examples
    --------
    >>> from policyopt.methods.threshold import Threshold
    >>> OnExits((0, 2), Threshold("max_prob")).kept
    (0, 2)
    """

    kept: tuple[int, ...]
    inner: Method

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Fit the inner method; a budget above what these exits can cost is lowered to that."""
        small = table.keep_exits([table.path[k] for k in self.kept])
        most = float(small.mean_costs[-1])
        lowered = [min(float(budget), most) for budget in budgets]
        if small.exits > 1:
            once = sorted(set(lowered))
            path = dict(zip(once, self.inner.propose(small, once, seed), strict=True))
            return [path[budget] for budget in lowered]
        return [alone(Always(0), table, self.kept[0], budget, seed) for budget in lowered]
