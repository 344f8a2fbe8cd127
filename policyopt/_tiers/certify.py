"""A plan that keeps its goal with a confidence: chosen and fitted on half of the rows, tested on the others.

Learn then test (Angelopoulos et al., arXiv:2110.01052), with fixed-sequence testing (their section 3.2):
policies are fitted on one half to goals from much stricter than asked to just as asked; in this order each
is tested on the other half, until one cannot be shown to keep the goal asked. Whatever the data, the chance
that any of those that passed breaks the goal is at most one less the confidence, so the best of them may
be taken. A goal of several parts (a budget and limits) is kept where each part is: the test of all of them
needs no correction. Where a method was better than the search's own thresholds on the first half, both are
tested, each with half of the chance.

Shares (accuracy, the rows beyond a percentile's limit) are tested exactly: Clopper and Pearson (Biometrika
1934). Means by a bound that needs the range of costs, that of the plan's leaving costs: the bound of
Waudby-Smith and Ramdas (JRSS B 2024, arXiv:2010.09686) as in Bates et al., "Distribution-free,
risk-controlling prediction sets" (JACM 2021, arXiv:2101.02703), Proposition 5: who bets against a mean of
at least r, on rows in random order, seldom gets rich where it is true. It follows the spread of the costs,
which is far less than their range. Where each row has costs of its own, the largest seen bounds nothing:
the user states a bound, or no mean is promised. `worst` can be shown by no sample: no row of either half
breaks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, isfinite, log

import numpy as np
from scipy.stats import beta

from policyopt._methods.base import Method, fit_where_possible
from policyopt._methods.fitted import Fitted
from policyopt._progress import progress_callback, report
from policyopt._table import Table
from policyopt._tiers.choose import Certificate, Planned, Task, known_rows, make_plan
from policyopt._tiers.description import Tiers
from policyopt._tiers.plans import Plan, leaving_costs
from policyopt._tiers.search import Goal, Searched, search
from policyopt.runtime._checks import MAX_COST, check_positive, check_seed
from policyopt.runtime._errors import BudgetError, input_error, message
from policyopt.runtime._typing import Floats

# How much stricter than asked, in standard errors of the rows that test; the first is surely enough.
_STEPS = (8.0, 6.0, 5.0, 4.0, 3.5, 3.0, 2.75, 2.5, 2.25, 2.0, 1.75, 1.5, 1.25, 1.0, 0.5)
_SHARES = np.linspace(1.0, 0.0, 17)  # of the way to the full cost: budgets of a method, for a floor
_HALVINGS = 40


def share_low(hits: int, rows: int, confidence: float) -> float:
    """Return a lower bound of a share of which `hits` of `rows` were seen."""
    return 0.0 if hits == 0 else float(beta.ppf(1 - confidence, hits, rows - hits + 1))


def share_high(hits: int, rows: int, confidence: float) -> float:
    """Return an upper bound of a share of which `hits` of `rows` were seen."""
    return 1.0 - share_low(rows - hits, rows, confidence)


def mean_high(values: Floats, low: float, high: float, confidence: float) -> float:
    """Return an upper bound of the mean that `values`, (n,) in random order within [low, high], are of."""
    if high <= low:
        return high
    n, rich = len(values), log(1 / (1 - confidence))
    x = np.clip((values - low) / (high - low), 0.0, 1.0)
    count = np.arange(2, n + 2)
    mean = (0.5 + np.cumsum(x)) / count
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / count
    # A bet may look only at the rows before its own.
    stake = np.minimum(1.0, np.sqrt(2 * rich / (n * np.array([0.25, *variance[:-1]]))))

    def refuted(mean: float) -> bool:
        with np.errstate(divide="ignore"):  # all lost: the logarithm of nothing
            return bool(np.cumsum(np.log1p(-stake * (x - mean))).max() >= rich)

    below, above = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        below, above = (below, middle) if refuted(middle) else (middle, above)
    return low + (high - low) * above


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

    Over the draw of the table's rows, the chance that the plan's accuracy, mean costs and percentiles on
    unseen rows keep the goal is at least `confidence`, from 0.5 to below 1. `cost_bound` is what no row, seen
    or not, can cost at the last exit, in the unit of the cache's cost: needed where rows have costs of their
    own and the goal limits a mean that depends on them. All else as of `make_plan`.
    """
    if not 0.5 <= confidence < 1:
        raise input_error("confidence", "at least 50% and below 100%", confidence, "E.g. 95%.")
    table, task = known_rows(table), Task(tiers, goal, check_seed(seed))
    check_cost_bound(tiers, table, goal, cost_bound)
    if len(table) < 2:
        raise input_error("table", "of two labelled rows or more, to fit and to test", len(table))
    order = np.random.default_rng(seed).permutation(len(table))
    half = len(table) // 2
    fit, test = table.take(order[:half]), table.take(order[half:])
    first = None
    if method is not None:
        first = make_plan(tiers, fit, goal, method, shortlist=shortlist, seed=seed)
    searched = first.searched if first else search(tiers, fit, goal, seed=seed)
    errors = _Errors.of(task, fit, searched, len(test))
    sequences = [_by_search(task, fit, errors)]
    if first is not None and first.by is not None:
        sequences.append(_by_method(task, fit, errors, first.by, first.plan))
    level, tested = 1 - (1 - confidence) / len(sequences), list[_Tested]()
    for sequence in sequences:
        for candidate in sequence:
            tested.append(_test(task, test, level, candidate, cost_bound))
            if not tested[-1].kept:
                break
    kept = [t for t in tested if t.kept]
    if not kept:
        raise BudgetError(_impossible(task, tested, confidence))
    best = max(kept, key=lambda t: goal.rank(t.accuracy, t.cost))
    high = best.cost_high if isfinite(best.cost_high) else None
    found = Certificate(
        confidence, len(test), len(fit), best.accuracy, best.accuracy_low, best.cost, high
    )
    plan, fitted, by = best.candidate
    compared = first.compared if first else []
    return Planned(plan, fitted, searched, compared, True, by=by, certificate=found)


_Candidate = tuple[Plan, Fitted, Method | None]


@dataclass(frozen=True)
class _Tested:
    candidate: _Candidate
    kept: bool
    accuracy: float
    accuracy_low: float
    cost: float
    cost_high: float


@dataclass(frozen=True)
class _Errors:
    """Standard errors, on the rows that test, of what a goal is about."""

    accuracy: float
    share: float
    costs: dict[str, float]

    @staticmethod
    def of(task: Task, fit: Table, searched: Searched, rows: int) -> _Errors:
        goal, found = task.goal, searched.found[0]
        _, paid = task.outcome(found.plan, task.own(task.table(found.plan, fit), found), fit)
        shares = [goal.accuracy or 0.0, *(one.share or 0.0 for one in goal.limits)]
        right, *beyond = [(s * (1 - s) / rows) ** 0.5 for s in shares]
        costs = {name: float(costs.std()) / rows**0.5 for name, costs in paid.items()}
        return _Errors(right, max(beyond, default=0.0), costs)

    def stricter(self, goal: Goal, steps: float) -> Goal:
        """Return the goal with so many standard errors to spare."""
        costs = {name: steps * error for name, error in self.costs.items()}
        return goal.stricter(steps * self.accuracy, steps * self.share, costs)


def _by_search(task: Task, fit: Table, errors: _Errors) -> Iterator[_Candidate]:
    """Yield plans by the search's own thresholds, from the surest to what is just asked."""
    wishes = [errors.stricter(task.goal, steps) for steps in _STEPS]
    seen = set[tuple[Plan, tuple[float, ...]]]()
    for i, wish in enumerate([wishes[0].surest(), *wishes]):
        report(i, len(wishes) + 1, "testing plans")
        try:
            with progress_callback(None):
                found = search(task.tiers, fit, wish, seed=task.seed, drawn=0).found[0]
        except BudgetError:  # more than any plan can: the next one asks for less
            continue
        if (found.plan, found.thresholds) not in seen:
            seen.add((found.plan, found.thresholds))
            yield found.plan, task.own(task.table(found.plan, fit), found), None


def _by_method(
    task: Task, fit: Table, errors: _Errors, by: Method, plan: Plan
) -> Iterator[_Candidate]:
    """Yield a method's policies on one plan, from the surest budget to what is just asked."""
    small = task.table(plan, fit)
    low, high = float(small.mean_costs[0]), float(small.mean_costs[-1])
    if task.goal.budget is None:
        budgets = [low + float(part) * (high - low) for part in _SHARES]
    else:
        asked = [errors.stricter(task.goal, steps).budget or 0.0 for steps in _STEPS]
        budgets = [min(budget, high) for budget in asked if budget >= low]
    budgets = list(dict.fromkeys(budgets))
    with progress_callback(None):
        for fitted in fit_where_possible(by, small, budgets, task.seed, validate=False):
            if fitted is not None:
                yield *task.settled(fit, plan, fitted, by), by


def _test(
    task: Task, test: Table, level: float, candidate: _Candidate, cost_bound: float | None
) -> _Tested:
    """Test a policy on rows that neither chose nor fitted it."""
    goal, (plan, fitted, _) = task.goal, candidate
    correct, paid = task.outcome(plan, fitted, test)
    rows, means = len(correct), {}
    for name, costs in paid.items():
        low, high = _range(task.tiers, plan, name, test, cost_bound)
        extra = float(fitted.policy.overhead[-1]) if name == goal.objective else 0.0
        means[name] = mean_high(costs, low, high + extra, level) if isfinite(high) else high
    right, high = share_low(int(correct.sum()), rows, level), means[goal.objective]
    kept = goal.accuracy is None or right >= goal.accuracy
    kept &= goal.budget is None or high <= goal.budget
    for limit in goal.limits:
        beyond = int((~limit.within(paid[limit.objective])).sum())
        if limit.share is None:
            kept &= means[limit.objective] <= limit.most
        elif limit.share == 0:
            kept &= beyond == 0
        else:
            kept &= share_high(beyond, rows, level) <= limit.share
    cost = float(paid[goal.objective].mean())
    return _Tested(candidate, bool(kept), float(correct.mean()), right, cost, high)


def check_cost_bound(tiers: Tiers, table: Table, goal: Goal, cost_bound: float | None) -> None:
    """Refuse a bound that a row breaks, and none where a promise of the goal needs one."""
    unit = f"{table.unit}, the unit of the cache's cost"
    if cost_bound is None:
        means = {one.objective for one in goal.limits if one.share is None}
        means |= {goal.objective} if goal.budget is not None else set()
        means = {name for name in means if _depends(tiers, name, table)}
        if means:
            allowed = (
                f"given, in {unit}: rows have costs of their own, and the largest seen bounds no mean "
                + " or ".join(sorted(means))
            )
            step = (
                "State what no sample can cost (--cost-bound NUMBER), ask for --accuracy and "
                "percentiles alone, or leave --confidence out."
            )
            raise input_error("cost_bound", allowed, "nothing", step)
        return
    check_positive("cost_bound", cost_bound, most=MAX_COST)
    most = float(np.max(table.costs))
    if most > cost_bound:
        allowed = f"at least {most:g} {unit}, which is what a row of split '{table.split}' costs"
        step = "A bound holds for every sample: raise it."
        raise input_error("cost_bound", allowed, cost_bound, step)


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


def _impossible(task: Task, tested: list[_Tested], confidence: float) -> str:
    """Return why no plan can be shown to keep the goal."""
    goal, sure = task.goal, f"with {100 * confidence:g} % confidence"
    step = "Lower the confidence, import more rows of split fit, or ask for less."
    if not tested:
        allowed = "such that a plan keeps the goal on half of the rows"
        return message("confidence", allowed, sure, step)
    most, least = max(t.accuracy_low for t in tested), min(t.cost_high for t in tested)
    if goal.accuracy is not None and most < goal.accuracy:
        allowed = f"at most {100 * most:.2f} %, what the most accurate plan tested has {sure}"
        return message("accuracy", allowed, f"{100 * goal.accuracy:.2f} %", step)
    if goal.budget is not None and least > goal.budget:
        unit = task.tiers.unit_of(goal.objective)
        allowed = f"at least {least:.6g} {unit}, what the cheapest plan tested costs {sure}"
        return message("budget", allowed, f"{goal.budget:.6g}", step)
    allowed = f"such that a plan keeps the goal and all limits {sure}"
    return message("limit", allowed, "others", step)
