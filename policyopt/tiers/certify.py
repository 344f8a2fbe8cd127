"""A plan that keeps its goal with a confidence: chosen and fitted on half of the rows, tested on the others.

Learn then test (Angelopoulos et al., arXiv:2110.01052), with fixed-sequence testing (their section 3.2):
policies are fitted on one half to goals from much stricter than asked to just as asked; in this order each
is tested on the other half, until one cannot be shown to keep the goal asked. Whatever the data, the chance
that any of those that passed breaks the goal is at most one less the confidence, so the best of them may
be taken. A goal of several parts (a budget and limits) is kept where each part is: the test of all of them
needs no correction. Where a method was better than the search's own thresholds on the first half, both are
tested, each with half of the chance.

Shares (accuracy, the rows beyond a percentile's limit) are tested exactly, means by a bound that needs the
range of costs: that of the plan's leaving costs. Where each row has costs of its own, the largest seen bounds
nothing: the user states a bound, or no mean is promised. `worst` can be shown by no sample: no row of
either half breaks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, isfinite

import numpy as np

from policyopt.methods import Fitted, Method
from policyopt.methods.base import fit_where_possible
from policyopt.progress import progress_callback, report
from policyopt.runtime.checks import MAX_COST, check_positive, check_seed
from policyopt.runtime.errors import BudgetError, input_error, message
from policyopt.table import Table
from policyopt.tiers.bounds import mean_high, share_high, share_low
from policyopt.tiers.choose import Certificate, Planned, known_rows, make_plan
from policyopt.tiers.compare import own, settled
from policyopt.tiers.describe import Tiers
from policyopt.tiers.goal import Goal
from policyopt.tiers.plans import Plan, leaving_costs, plan_table
from policyopt.tiers.search import Searched, search
from policyopt.tiers.summary import outcome

# How much stricter than asked, in standard errors of the rows that test; the first is surely enough.
_STEPS = (8.0, 6.0, 5.0, 4.0, 3.5, 3.0, 2.75, 2.5, 2.25, 2.0, 1.75, 1.5, 1.25, 1.0, 0.5)
_SHARES = np.linspace(1.0, 0.0, 17)  # of the way to the full cost: budgets of a method, for a floor


@dataclass(frozen=True)
class _Tested:
    plan: Plan
    fitted: Fitted
    by: Method | None
    kept: bool
    accuracy: float
    accuracy_low: float
    cost: float
    cost_high: float


def certified_plan(
    tiers: Tiers,
    table: Table,
    goal: Goal,
    confidence: float,
    method: Method | None = None,
    *,
    shortlist: int = 3,
    seed: int = 0,
    cost_bound: float | None = None,
) -> Planned:
    """Choose a plan that keeps its goal on new rows with a confidence.

    Parameters
    ----------
    tiers, table, goal, method, shortlist, seed
        As of `make_plan`.
    confidence : float
        From 0.5 to below 1: over the draw of the table's rows, the chance that the plan's accuracy,
        mean costs and percentiles on unseen rows keep the goal is at least this.
    cost_bound : float, optional
        What no row, seen or not, can cost at the last exit, in the unit of the cache's cost. Needed where
        rows have costs of their own and the goal limits a mean that depends on them.

    Returns
    -------
    Planned
        With its certificate.

    Raises
    ------
    InputError
        No bound where one is needed, or a row that costs more.
    BudgetError
        No plan can be shown to keep the goal.

    Examples
    --------
    >>> import policyopt as po
    >>> from policyopt.table import Tables
    >>> from policyopt.tiers.describe import Link, Tier
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 2000)
    >>> logits = rng.normal(size=(2000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> table = Tables(po.from_arrays(logits, labels, costs=[1, 4], unit="MMACs")).get("fit")
    >>> tiers = Tiers((Tier("device", 1.0), Tier("cloud", 0.1)), (Link(8.0),), 500, (2000,))
    >>> found = certified_plan(tiers, table, Goal("latency", accuracy=0.9), 0.95).certificate
    >>> found.accuracy_low >= 0.9
    True
    """
    if not 0.5 <= confidence < 1:
        raise input_error("confidence", "at least 50% and below 100%", confidence, "E.g. 95%.")
    check_seed(seed)
    table = known_rows(table)
    check_cost_bound(tiers, table, goal, cost_bound)
    if len(table) < 2:
        raise input_error("table", "of two labelled rows or more, to fit and to test", len(table))
    order = np.random.default_rng(seed).permutation(len(table))
    half = len(table) // 2
    fit, test = table.take(order[:half]), table.take(order[half:])
    if method is None:
        searched, by, plan = search(tiers, fit, goal, seed=seed), None, None
        compared = []
    else:
        first = make_plan(tiers, fit, goal, method, shortlist=shortlist, seed=seed)
        searched, by, plan, compared = first.searched, first.by, first.plan, first.compared
    errors = _Errors.of(tiers, fit, goal, searched, len(test), seed)
    sequences: list[tuple[Method | None, Iterator[tuple[Plan, Fitted]]]]
    sequences = [(None, _by_search(tiers, fit, goal, errors, seed))]
    if by is not None and plan is not None:
        sequences.append((by, _by_method(tiers, fit, goal, errors, by, plan, seed)))
    chance, tested = (1 - confidence) / len(sequences), list[_Tested]()
    for used, sequence in sequences:
        for one, fitted in sequence:
            tested.append(_test(tiers, test, goal, 1 - chance, one, fitted, used, cost_bound))
            if not tested[-1].kept:
                break
    kept, key = [t for t in tested if t.kept], goal.ranks()
    if not kept:
        raise BudgetError(_impossible(tiers, goal, tested, confidence))
    best = max(kept, key=lambda t: key(t.accuracy, t.cost))
    high = best.cost_high if isfinite(best.cost_high) else None
    found = Certificate(
        confidence, len(test), len(fit), best.accuracy, best.accuracy_low, best.cost, high
    )
    return Planned(best.plan, best.fitted, searched, compared, True, by=best.by, certificate=found)


@dataclass(frozen=True)
class _Errors:
    """Standard errors, on the rows that test, of what a goal is about."""

    accuracy: float
    share: float
    costs: dict[str, float]

    @staticmethod
    def of(
        tiers: Tiers, fit: Table, goal: Goal, searched: Searched, rows: int, seed: int
    ) -> _Errors:
        found = searched.found[0]
        fitted = own(plan_table(tiers, found.plan, goal.objective, fit), found, seed)
        _, paid = outcome(tiers, found.plan, fitted.policy, fit, goal.objectives)
        right = goal.accuracy or 0.0
        return _Errors(
            (right * (1 - right) / rows) ** 0.5,
            max(((s * (1 - s) / rows) ** 0.5 for s in _shares(goal)), default=0.0),
            {name: float(costs.std()) / rows**0.5 for name, costs in paid.items()},
        )

    def stricter(self, goal: Goal, steps: float) -> Goal:
        """Return the goal with so many standard errors to spare."""
        costs = {name: steps * error for name, error in self.costs.items()}
        return goal.stricter(steps * self.accuracy, steps * self.share, costs)


def _shares(goal: Goal) -> list[float]:
    return [one.share for one in goal.limits if one.share is not None]


def _by_search(
    tiers: Tiers, fit: Table, goal: Goal, errors: _Errors, seed: int
) -> Iterator[tuple[Plan, Fitted]]:
    """Yield plans by the search's own thresholds, from the surest to what is just asked."""
    wishes = [errors.stricter(goal, steps) for steps in _STEPS]
    seen = set[tuple[Plan, tuple[float, ...]]]()
    for i, wish in enumerate([*(w.surest() for w in wishes[:1]), *wishes]):
        report(i, len(wishes) + 1, "testing plans")
        try:
            with progress_callback(None):
                found = search(tiers, fit, wish, seed=seed, drawn=0).found[0]
        except BudgetError:  # more than any plan can: the next one asks for less
            continue
        if (found.plan, found.thresholds) not in seen:
            seen.add((found.plan, found.thresholds))
            yield found.plan, own(plan_table(tiers, found.plan, goal.objective, fit), found, seed)


def _by_method(
    tiers: Tiers, fit: Table, goal: Goal, errors: _Errors, by: Method, plan: Plan, seed: int
) -> Iterator[tuple[Plan, Fitted]]:
    """Yield a method's policies on one plan, from the surest budget to what is just asked."""
    small = plan_table(tiers, plan, goal.objective, fit)
    low, high = float(small.mean_costs[0]), float(small.mean_costs[-1])
    if goal.budget is None:
        budgets = [low + float(part) * (high - low) for part in _SHARES]
    else:
        asked = [errors.stricter(goal, steps).budget or 0.0 for steps in _STEPS]
        budgets = [min(budget, high) for budget in asked if budget >= low]
    with progress_callback(None):
        for fitted in fit_where_possible(
            by, small, list(dict.fromkeys(budgets)), seed, validate=False
        ):
            if fitted is not None:
                yield settled(tiers, fit, goal, plan, fitted, by, seed)


def _test(
    tiers: Tiers, test: Table, goal: Goal, level: float, plan: Plan, fitted: Fitted,
    by: Method | None, cost_bound: float | None,
) -> _Tested:  # fmt: skip
    """Test a policy on rows that neither chose nor fitted it."""
    correct, paid = outcome(tiers, plan, fitted.policy, test, goal.objectives)
    rows, means = len(correct), {}
    for name, costs in paid.items():
        low, high = _range(tiers, plan, name, test, cost_bound)
        extra = float(fitted.policy.overhead[-1]) if name == goal.objective else 0.0
        means[name] = mean_high(costs, low, high + extra, level) if isfinite(high) else high
    right, high = share_low(int(correct.sum()), rows, level), means[goal.objective]
    kept = goal.accuracy is None or right >= goal.accuracy
    kept &= goal.budget is None or high <= goal.budget
    for limit in goal.limits:
        beyond = int((paid[limit.objective] > limit.most * (1 + 1e-9)).sum())
        if limit.share is None:
            kept &= means[limit.objective] <= limit.most
        elif limit.share == 0:
            kept &= beyond == 0
        else:
            kept &= share_high(beyond, rows, level) <= limit.share
    own_cost = float(paid[goal.objective].mean())
    return _Tested(plan, fitted, by, bool(kept), float(correct.mean()), right, own_cost, high)


def check_cost_bound(tiers: Tiers, table: Table, goal: Goal, cost_bound: float | None) -> None:
    """Refuse a bound that a row breaks, and none where a promise of the goal needs one."""
    unit = f"{table.unit}, the unit of the cache's cost"
    if cost_bound is None:
        means = {one.objective for one in goal.limits if one.share is None}
        means |= {goal.objective} if goal.budget is not None else set()
        means = {name for name in means if _depends(tiers, name, table)}
        if means:
            raise input_error(
                "cost_bound", f"given, in {unit}: rows have costs of their own, and the largest seen "
                f"bounds no mean {' or '.join(sorted(means))}", "nothing",
                "State what no sample can cost (--cost-bound NUMBER), ask for --accuracy and "
                "percentiles alone, or leave --confidence out.",
            )  # fmt: skip
        return
    check_positive("cost_bound", cost_bound, most=MAX_COST)
    most = float(np.max(table.costs))
    if most > cost_bound:
        allowed = f"at least {most:g} {unit}, which is what a row of split '{table.split}' costs"
        raise input_error(
            "cost_bound", allowed, cost_bound, "A bound holds for every sample: raise it."
        )


def _depends(tiers: Tiers, objective: str, table: Table) -> bool:
    """Say whether what leaving costs differs from row to row."""
    if table.costs.ndim == 1:
        return False
    ends = np.zeros(table.exits), np.ones(table.exits)
    work = [np.stack([tier.work(objective, one) for one in ends]) for tier in tiers.tiers]
    return any((one[0] != one[1]).any() for one in work)


def _range(
    tiers: Tiers, plan: Plan, objective: str, table: Table, cost_bound: float | None
) -> tuple[float, float]:
    """Return the least and the most that leaving can cost any row, seen or not; perhaps infinity.

    Leaving costs are sums over stages: the dearest row within a bound spends all of it in one stage.
    """
    if _depends(tiers, objective, table):
        if cost_bound is None:
            return 0.0, inf
        spent = np.triu(np.full((table.exits, table.exits), float(cost_bound)))
        table = replace(table, costs=np.vstack([np.zeros(table.exits), spent]))
    costs = leaving_costs(tiers, plan, objective, table)
    return float(costs.min()), float(costs.max())


def _impossible(tiers: Tiers, goal: Goal, tested: list[_Tested], confidence: float) -> str:
    """Return why no plan can be shown to keep the goal."""
    sure = f"with {100 * confidence:g} % confidence"
    step = "Lower the confidence, import more rows of split fit, or ask for less."
    if not tested:
        return message(
            "confidence", "such that a plan keeps the goal on half of the rows", sure, step
        )
    if goal.accuracy is not None:
        most = max(t.accuracy_low for t in tested)
        if most < goal.accuracy:
            allowed = f"at most {100 * most:.2f} %, what the most accurate plan tested has {sure}"
            return message("accuracy", allowed, f"{100 * goal.accuracy:.2f} %", step)
    else:
        least, unit = min(t.cost_high for t in tested), tiers.unit_of(goal.objective)
        if goal.budget is not None and least > goal.budget:
            allowed = f"at least {least:.6g} {unit}, what the cheapest plan tested costs {sure}"
            return message("budget", allowed, f"{goal.budget:.6g}", step)
    return message(
        "limit", f"such that a plan keeps the goal and all limits {sure}", "others", step
    )
