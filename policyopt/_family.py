"""Policy families: one fit at several budgets, its levels in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policyopt._abstain import calibrated, declining, fit_declining
from policyopt._api import method_of
from policyopt._cache.data import ExitData
from policyopt._costs import Budget, parse_budgets
from policyopt._methods.base import Method, cheapest, fit_where_possible
from policyopt._methods.fitted import Expectation, Fitted, Saved
from policyopt._progress import working
from policyopt._table import Tables, tables_of
from policyopt.runtime._answers import AnswerRule
from policyopt.runtime._calibrators import Calibrator
from policyopt.runtime._errors import BudgetError
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._shown import Shown

#: Share of the full model's cost that a level must cost more than the one before.
_APART = 1e-6
#: What it must be worth more, rounding aside; NaN, of rows without labels, forbids nothing.
_BETTER = 1e-9


@dataclass(frozen=True, eq=False, repr=False)
class FittedFamily(Shown, Saved):
    """The result of a fit at several budgets.

    Attributes
    ----------
    policy : PolicyFamily
        What is deployed.
    method : str
        Label of the method.
    parts : tuple of Fitted
        One per level, from the cheapest.
    notes : tuple of str
        Which budgets have no level of their own, and why.
    """

    policy: PolicyFamily
    method: str
    parts: tuple[Fitted, ...]
    notes: tuple[str, ...] = ()

    @property
    def expected(self) -> tuple[Expectation, ...]:
        """What each level is expected to cost."""
        return tuple(part.expected for part in self.parts)

    def at(self, level: int | float | str) -> Any:
        """Return the policy of one level, as `PolicyFamily.at`."""
        return self.policy.at(level)


@working("fitting")
def fit_family(
    data: ExitData,
    budgets: int | str | Sequence[Budget] = 30,
    method: str | Method | None = None,
    *,
    split: str = "fit",
    cost: str | None = None,
    seed: int = 0,
    calibrator: str | None = None,
    tables: Tables | None = None,
    abstain: float | str | None = None,
    abstain_cost: float | None = None,
    abstain_quality: float | None = None,
    abstain_score: str | None = None,
    utility: Any = None,
    **settings: Any,
) -> FittedFamily:
    """Fit a policy for each of several budgets: levels of one family, from the cheapest to the dearest.

    Parameters
    ----------
    data : ExitData
    budgets : int, str or sequence
        A count, at even positions between the first and the last exit; or budgets: numbers in the cost's
        unit, shares such as ``"40%"``, or a text of them with commas. A budget that buys no quality to
        expect beyond the one before (``spend="all"``: at no more cost), or that cannot be met, has no level:
        `FittedFamily.notes` say so.
    method, split, cost, seed, calibrator, tables, abstain and its kin, utility, **settings
        As `fit` takes them.

    Returns
    -------
    FittedFamily

    Raises
    ------
    InputError
        As `fit`.
    BudgetError
        No budget can be met.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> family = po.fit_family(data, 5, "max_prob")
    >>> len(family.policy), family.policy.expected_costs.round(1)
    (5, array([1.5, 2. , 2.5, 3. , 3.1]))
    >>> float(po.evaluate(family.at("50%"), data).cost.mean().round(1))  # at most 2 ms
    2.0
    """
    chosen = method_of(method, settings)
    if chosen.chooses or calibrator is not None:  # levels are alike, and only thresholds take a map
        chosen = chosen.in_turn("a family" if calibrator is None else "calibrator")
    table = tables_of(data, cost, tables, utility).get(split, censored=chosen.logs)
    wanted = np.unique(parse_budgets(budgets, table.mean_costs, table.unit)).tolist()
    asked = declining(abstain, abstain_cost, abstain_quality, abstain_score)
    if asked is None:
        found = fit_where_possible(chosen, table, wanted, seed)
    else:
        found = fit_declining(chosen, table, wanted, seed, asked, calibrator)
    met = [(budget, one) for budget, one in zip(wanted, found, strict=True) if one is not None]
    unit, full = table.unit, float(table.mean_costs[-1])
    notes = []
    if short := [budget for budget, one in zip(wanted, found, strict=True) if one is None]:
        listed = ", ".join(f"{budget:.6g}" for budget in short)
        notes.append(f"no level at {listed} {unit}: with its own arithmetic it costs more")
    if not met:
        raise BudgetError(
            f"No policy of {chosen.name} meets any of these budgets. Exits cost {cheapest(table):.6g} to "
            f"{full:.6g} {unit}: raise them."
        )
    levels, idle = met[:1], dict[float, list[str]]()
    for budget, one in met[1:]:
        last = levels[-1][1]
        dearer = one.expected.cost > last.expected.cost + _APART * full
        if dearer and (chosen.spend == "all" or not one.quality <= last.quality + _BETTER):
            levels.append((budget, one))
        else:
            idle.setdefault(last.expected.cost, []).append(f"{budget:.6g}")
    for beyond, at in idle.items():
        notes.append(
            f"no level at {', '.join(at)} {unit}: it buys nothing beyond {beyond:.6g} {unit}"
        )
    parts = _alike([one for _, one in levels])
    if calibrator is not None and asked is None:
        parts = calibrated(calibrator, parts, table, seed)
    told = [dict(part.policy.provenance) for part in parts]
    shared = {k: v for k, v in told[0].items() if all(k in one and one[k] == v for one in told)}
    policies = tuple(part.policy for part in parts)
    costs = np.array([part.expected.cost for part in parts])
    met = np.array([budget for budget, _ in levels])
    policy = PolicyFamily(policies, costs, met, full, provenance=shared)
    return FittedFamily(policy, parts[0].method, tuple(parts), tuple(notes))


def _alike(parts: Sequence[Fitted]) -> list[Fitted]:
    """Return fits whose equal rules and answers are one object, so that they are stored and traced once."""
    known: dict[str, AnswerRule | Calibrator | Any] = {}

    def one(rule: Any) -> Any:
        return known.setdefault(f"{rule.role} {rule.name} {rule.params()}", rule)

    def alike(policy: Any) -> Any:
        if isinstance(policy, RoutingPolicy):  # whose levels share their ensemble
            return policy
        return replace(policy, rule=one(policy.rule), answer=one(policy.answer))

    return [replace(part, policy=alike(part.policy)) for part in parts]
