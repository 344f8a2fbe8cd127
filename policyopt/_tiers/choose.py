"""A plan with its policy: the best few plans of a search fitted by a method, the best of them taken.

The search looks at one score and chooses on the rows it looks at. So the thresholds of its best plans are
searched again in two folds, each replayed on the rows of the other; on the plan that is best there the method
asked for competes with them, and the better is fitted on all rows. All of this keeps a goal in the mean.

A goal is kept with a confidence by learn then test (Angelopoulos et al., arXiv:2110.01052), with fixed-sequence
testing (their section 3.2): policies are fitted on one half of the rows to goals from much stricter than asked to
just as asked, and tested in this order on the other half, until one cannot be shown to keep the goal. The chance
that any that passed breaks it is at most one less the confidence. A goal of several parts needs no correction.
Where a method beat the search's own thresholds on the first half, both are tested, each with half of the chance.

Bounds are p-values of `policyopt._bounds` turned round: shares (accuracy, rows beyond a percentile's limit) by the
binomial (Clopper and Pearson, Biometrika 1934), means by betting, which needs the range of the plan's leaving costs.
A plan promises means over rows: where these belong together shares are means, too, and the draws are groups, taken to
be no larger than the largest seen. Where rows have costs of their own the user states a bound, or no mean is
promised. `worst` can be shown by no sample: no row of either half breaks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

import numpy as np

from policyopt._bounds import betting, delta_of, share_high, upper
from policyopt._cache.data import folds_of, some_rows
from policyopt._intervals import effective_rows, standard_error
from policyopt._methods.base import Method, fit_where_possible, problem_of
from policyopt._methods.baselines import Always, standalone
from policyopt._methods.fitted import Fitted
from policyopt._methods.threshold import Threshold
from policyopt._progress import progress, report, stage, working
from policyopt._replay import replay
from policyopt._table import Table, known_rows
from policyopt._tiers.description import Tiers
from policyopt._tiers.plans import Plan, leaving_costs, outcome, plan_table
from policyopt._tiers.search import Found, Goal, Searched, again, search
from policyopt.runtime._checks import MAX_COST, check_positive, check_seed
from policyopt.runtime._errors import BudgetError, input_error, message
from policyopt.runtime._scores import MaxProb
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Floats, Ints

Candidate = tuple[Found, Method | None]
_Tried = tuple[Plan, Fitted, Method | None]
Paid = tuple[Floats, dict[str, Floats]]  # right or wrong, and costs per objective, (N,) each
_FEWEST = 20  # rows that can be divided in two
_EPS, _ALL = 1e-9, slice(None)
_LADDER = np.array([1.0, 0.9, 0.75, 0.5, 0.2])  # of the way to the budget
_MARGINS = (0.0, 0.0025, 0.005, 0.01, 0.02)  # of accuracy, above the floor
# How much stricter than asked, in standard errors of the rows that test; the first is surely enough.
_STEPS = (8.0, 6.0, 5.0, 4.0, 3.5, 3.0, 2.75, 2.5, 2.25, 2.0, 1.75, 1.5, 1.25, 1.0, 0.5)
_SHARES = np.linspace(1.0, 0.0, 17)  # of the way to the full cost: budgets of a method, for a floor


@dataclass(frozen=True)
class Outcome:
    """What one step of a candidate's ladder comes to on rows that did not fit it."""

    candidate: int
    step: int
    accuracy: float
    cost: float
    rows: int
    effective: int  # as many rows that stand alone tell as much of the accuracy
    met: bool  # whether it keeps the goal there
    over: float  # mean cost beyond the budget


@dataclass(frozen=True)
class Certificate:
    """That the goal holds with a confidence, by `rows` that chose and fitted nothing; of several policies the best.

    `accuracy_low` and `cost_high` are what one policy alone would have shown, each by itself: of the best of several
    only the goal is promised.
    """

    confidence: float
    rows: int
    fitted_rows: int
    accuracy: float
    accuracy_low: float
    cost: float
    cost_high: float | None  # None: none is promised


@dataclass(frozen=True, repr=False)
class Planned(Shown):
    """A plan, its policy, and how both were found."""

    plan: Plan
    fitted: Fitted  # of the whole policy: on the plan's kept exits, its cost the goal's objective
    searched: Searched
    compared: list[dict[str, Any]]  # plans and methods, on rows that did not fit them
    met: bool  # whether the goal was met on those rows
    held_out: Outcome | None = None  # the chosen one's, there; None of fewer than 20 rows
    by: Method | None = None  # what fitted the policy; None: the search's own thresholds
    certificate: Certificate | None = None  # where a confidence was asked for


@working("planning")
def plan(
    tiers: Tiers,
    table: Table,
    goal: Goal,
    method: Method | None = None,
    *,
    confidence: float | str | None = None,
    cost_bound: float | None = None,
    shortlist: int = 3,
    seed: int = 0,
) -> Planned:
    """Choose cuts, kept exits and thresholds on labelled rows of all exits, with the cache's own cost.

    Parameters
    ----------
    tiers : Tiers
    table : table of rows
        E.g. ``po.Tables(data).get("fit")``.
    goal : Goal
        Kept in the mean, or with a confidence.
    method : Method, optional
        Fits policies that compete with the search's own thresholds on the largest probability.
    confidence : float or str, optional
        0.95, or ``"95%"``, from 0.5 to below 1: the chance, over the draw of the table's rows (of groups, where rows
        belong together), that accuracy, mean costs and percentiles on unseen rows keep the goal is at least this.
    cost_bound : float, optional
        What no row, seen or not, can cost at the last exit, in the unit of the cache's cost: needed where rows
        have costs of their own and the goal limits, with a confidence, a mean that depends on them.
    shortlist : int
        Plans of the search that are fitted and compared.
    seed : int
        Of the folds.

    Returns
    -------
    Planned
        The `plan`, the policy (``fitted.policy``), and how both were found; of a confidence with a `certificate`.

    Raises
    ------
    BudgetError
        No plan meets the goal, or none can be shown to keep it.
    InputError
        A bound that is needed and lacking, or that a row breaks.

    Examples
    --------
    >>> import policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 400)
    >>> logits = rng.normal(size=(400, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> table = po.Tables(po.from_arrays(logits, labels, costs=[1, 4], unit="ms")).get("fit")
    >>> places = po.Tier("device", ms_per_unit=8.0), po.Tier("cloud", ms_per_unit=0.1)
    >>> tiers = po.Tiers(places, (po.Link(200.0, round_trip_ms=12.0),), 200.0, (4000.0,))
    >>> po.plan(tiers, table, po.Goal("latency", budget=10.0)).plan.text(["device", "cloud"])
    'device 0, cloud 1; exits 0 1'
    """
    if confidence is not None:
        return _certified(tiers, table, goal, confidence, method, shortlist, seed, cost_bound)
    if cost_bound is not None:
        raise input_error("cost_bound", "given with confidence", "alone", "Leave it out.")
    table, task = known_rows(table), Task(tiers, goal, check_seed(seed))
    method = None if method is None else method.in_turn("a plan")
    searched = search(tiers, table, goal, seed=seed)
    # Plans by the search's own thresholds first, then the method on the best: learning takes long.
    candidates: list[Candidate] = [(f, None) for f in searched.found[:shortlist]]
    outcomes: list[Outcome] = []
    if len(table) >= _FEWEST and table.units > 1:
        outcomes = task.compare(table, candidates, 0)
        if method is not None:
            best = task.best_of(outcomes)
            candidates.append((candidates[best.candidate if best else 0][0], method))
            outcomes += task.compare(table, candidates, len(candidates) - 1)
    chosen = task.best_of(outcomes)
    first, by = candidates[chosen.candidate if chosen else 0]
    step = chosen.step if chosen else 0
    fitted = task.fits(table, first, by, slice(step, step + 1))[0]
    if fitted is None:  # possible on both halves and by a hair not on all rows
        by, fitted = None, task.own(task.table(first.plan, table), first)
    best, fitted = task.settled(table, first.plan, fitted, by)
    compared, met = task.records(candidates, outcomes), bool(chosen and chosen.met)
    return Planned(best, fitted, searched, compared, met, chosen, by)


@dataclass(frozen=True)
class Task:
    """Plans fitted for a goal: on some rows, by a method or by the search's own thresholds (None)."""

    tiers: Tiers
    goal: Goal
    seed: int

    def table(self, plan: Plan, rows: Table) -> Table:
        """Return rows as a plan's model, whose cost is the goal's objective."""
        return plan_table(self.tiers, plan, self.goal.objective, rows)

    def outcome(self, plan: Plan, fitted: Fitted, rows: Table) -> Paid:
        """Return what a plan's policy comes to in all that the goal is about."""
        return outcome(self.tiers, plan, fitted.policy, rows, self.goal.objectives)

    def own(self, small: Table, found: Found) -> Fitted:
        """Return the policy of a search's own thresholds, on the rows of its plan's table."""
        if small.exits == 1:
            return standalone(Always(0), small, 0, float(small.mean_costs[0]), self.seed)
        method = Threshold("max_prob", thresholds=found.thresholds)
        most = float(problem_of(MaxProb(), small).mean_costs[-1])  # the policy's arithmetic too
        return method.propose(small, [most], self.seed)[0]

    def compare(self, table: Table, candidates: Sequence[Candidate], start: int) -> list[Outcome]:
        """Return the outcomes of the candidates from `start` on: fitted on one fold, replayed on the other."""
        fold = folds_of(len(table), 2, self.seed, table.group)
        halves = [table.take(np.flatnonzero(fold == f)) for f in (0, 1)]
        group = None if table.group is None else table.group[np.argsort(fold, kind="stable")]
        outcomes = []
        for i, (one, by) in list(enumerate(candidates))[start:]:
            report(i, len(candidates), "comparing plans")
            # A method's folds take long: it may report.
            with progress(None) if by is None else nullcontext():
                ladders = [self.fits(half, one, by) for half in reversed(halves)]
            for step, pair in enumerate(zip(*ladders, strict=False)):
                fits = [fitted for fitted in pair if fitted is not None]
                if len(fits) == 2:
                    tested = zip(fits, halves, strict=True)
                    parts = [self.outcome(one.plan, fitted, half) for fitted, half in tested]
                    outcomes.append(self._judged(i, step, parts, group))
        return outcomes

    def _judged(
        self, candidate: int, step: int, parts: Sequence[Paid], group: Ints | None
    ) -> Outcome:
        goal = self.goal
        correct = np.concatenate([right for right, _ in parts])
        paid = {n: np.concatenate([costs[n] for _, costs in parts]) for n in goal.objectives}
        own = paid[goal.objective]
        cost, accuracy = float(own.mean()), float(correct.mean())
        # What lies within the sampling error of a budget that the fit kept is no breach.
        error = float(standard_error(own, group))
        over = 0.0 if goal.budget is None else cost - goal.budget
        met = all(limit.kept(paid[limit.cost]) for limit in goal.limits)
        met &= over <= 2 * error + _EPS * cost
        met &= goal.accuracy is None or accuracy >= goal.accuracy - _EPS
        effective = round(effective_rows(correct, accuracy, group))
        return Outcome(candidate, step, accuracy, cost, len(own), effective, met, over)

    def best_of(self, outcomes: Sequence[Outcome]) -> Outcome | None:
        """Return the best outcome that met the goal, else the one nearest to it; None of none."""
        goal, met = self.goal, [o for o in outcomes if o.met]
        if met or not outcomes:  # the first of equals: the search's order
            return max(met, key=lambda o: goal.rank(o.accuracy, o.cost), default=None)
        return max(outcomes, key=lambda o: o.accuracy if goal.budget is None else -o.over)

    def records(
        self, candidates: Sequence[Candidate], outcomes: Sequence[Outcome]
    ) -> list[dict[str, Any]]:
        """Return each candidate's best outcome that met the goal, or its best."""
        names, records = [tier.name for tier in self.tiers.tiers], []
        for i, (found, by) in enumerate(candidates):
            seen = [o for o in outcomes if o.candidate == i]
            seen = [o for o in seen if o.met] or seen
            if seen:
                best = max(seen, key=lambda o: self.goal.rank(o.accuracy, o.cost))
                record = {"plan": found.plan.text(names), "method": "method" if by else "search"}
                record |= {"accuracy": best.accuracy, "cost": best.cost, "met": best.met}
                records.append(record)
        return records

    def fits(
        self, table: Table, one: Found, by: Method | None, steps: slice = _ALL
    ) -> list[Fitted | None]:
        """Return a candidate's fits on some rows, for those `steps` from what the goal asks to what surely keeps it."""
        goal, small = self.goal, self.table(one.plan, table)
        costs = small.mean_costs
        if small.exits == 1:
            return [self.own(small, one)]
        if by is None:
            wishes = [goal]
            if (floor := goal.accuracy) is not None:
                wishes = [replace(goal, accuracy=min(floor + m, 1.0)) for m in _MARGINS]
            found = [again(self.tiers, table, wish, one.plan) for wish in wishes[steps]]
            return [self.own(small, f) if f is not None else None for f in found]
        most = min(goal.budget if goal.budget is not None else 1.5 * one.cost, float(costs[-1]))
        if most < costs[0] or costs[-1] <= costs[0]:
            return [None]  # where leaving anywhere costs the same, a budget has nothing to say
        budgets = [float(costs[0] + part * (most - costs[0])) for part in _LADDER]
        if goal.budget is not None and not goal.limits:
            budgets = budgets[:1]
        return fit_where_possible(by, small, budgets[steps], self.seed, validate=False)

    def settled(
        self, table: Table, plan: Plan, fitted: Fitted, by: Method | None
    ) -> tuple[Plan, Fitted]:
        """Return plan and policy without the stages at which no row leaves, fitted again where that keeps the goal."""
        while True:
            seen = replay(fitted.policy, self.table(plan, table))
            kept = tuple(k for k in plan.kept if k <= seen.exit.max())
            if kept == plan.kept:
                return plan, fitted
            smaller = plan.ending(kept)
            small, one = self.table(smaller, table), None
            if by is not None and len(kept) > 1:
                cost = float(np.clip(seen.cost.mean(), small.mean_costs[0], small.mean_costs[-1]))
                one = fit_where_possible(by, small, [cost], self.seed, validate=False)[0]
                if one is not None and not self.goal.kept(*self.outcome(smaller, one, table)):
                    one = None
            if one is None:
                found = again(self.tiers, table, self.goal, smaller)
                if found is None:  # what it kept on all rows it cannot keep on those searched
                    return plan, fitted
                one = self.own(small, found)
            plan, fitted = smaller, one


def mean_high(
    values: Floats, low: float, high: float, delta: float, group: Ints | None = None
) -> float:
    """Return an upper bound of the mean that `values`, (n,) within [low, high], are of."""
    # Of groups, (n,), each is one draw, none larger than the largest seen: that sums of values less the mean have
    # mean 0 is what is refuted.
    if high <= low:
        return high
    x = np.clip((values - low) / (high - low), 0.0, 1.0)
    at = np.arange(len(x)) if group is None else np.unique(group, return_inverse=True)[1]
    size = np.bincount(at)
    order = np.random.default_rng(0).permutation(len(size))  # one that says nothing
    sums, less = np.bincount(at, x)[order] / size.max(), 1.0 - size[order] / size.max()

    def p(mean: float) -> float:
        each = sums + mean * less  # in [0, 1], of that mean where all values are
        return float(betting(each[None], mean, high=1.0, delta=delta)[0])

    return low + (high - low) * upper(p, delta)


def _certified(
    tiers: Tiers, table: Table, goal: Goal, confidence: float | str, method: Method | None, shortlist: int, seed: int,
    cost_bound: float | None,
) -> Planned:  # fmt: skip
    """Choose a plan that keeps its goal with a confidence over the draw of the rows (of groups where there are any)."""
    delta = delta_of(confidence)
    table, task = known_rows(table), Task(tiers, goal, check_seed(seed))
    check_cost_bound(tiers, table, goal, cost_bound)
    if table.units < 2:
        allowed = "of two labelled rows (groups) or more, to fit and to test"
        raise input_error("table", allowed, table.units)
    mine = np.zeros(len(table), dtype=bool)
    mine[some_rows(len(table), len(table) // 2, seed, table.group)] = True
    fit, test = table.take(np.flatnonzero(mine)), table.take(np.flatnonzero(~mine))
    first = None
    if method is not None:
        first = plan(tiers, fit, goal, method, shortlist=shortlist, seed=seed)
    searched = first.searched if first else search(tiers, fit, goal, seed=seed)
    wishes = _wishes(task, fit, searched, test.units)
    sequences = [_by_search(task, fit, wishes)]
    if first is not None and first.by is not None:
        sequences.append(_by_method(task, fit, wishes, first.by, first.plan))
    each, passed, seen = delta / len(sequences), [], list[Certificate]()
    for sequence in sequences:
        for candidate in sequence:
            kept, found = _test(task, test, each, candidate, cost_bound)
            seen.append(found)
            if not kept:
                break
            passed.append((candidate, found))
    if not passed:
        raise BudgetError(_impossible(task, seen, 1 - delta))
    (best, fitted, by), found = max(passed, key=lambda p: goal.rank(p[1].accuracy, p[1].cost))
    found = replace(found, confidence=1 - delta, fitted_rows=len(fit))
    compared = first.compared if first else []
    return Planned(best, fitted, searched, compared, True, by=by, certificate=found)


def _wishes(task: Task, fit: Table, searched: Searched, rows: int) -> list[Goal]:
    """Return goals from the surest to what is just asked, by standard errors on the `rows` that test."""
    goal, found = task.goal, searched.found[0]
    _, paid = task.outcome(found.plan, task.own(task.table(found.plan, fit), found), fit)
    shares = [goal.accuracy or 0.0, *(one.share or 0.0 for one in goal.limits)]
    right, *beyond = [(s * (1 - s) / rows) ** 0.5 for s in shares]
    share, mean = max(beyond, default=0.0), {n: float(c.std()) / rows**0.5 for n, c in paid.items()}
    return [
        goal.stricter(steps * right, steps * share, {n: steps * e for n, e in mean.items()})
        for steps in _STEPS
    ]


def _by_search(task: Task, fit: Table, wishes: list[Goal]) -> Iterator[_Tried]:
    """Yield plans by the search's own thresholds, from the surest to what is just asked."""
    seen = set[tuple[Plan, tuple[float, ...]]]()
    for i, wish in enumerate([wishes[0].surest(), *wishes]):
        try:
            with stage(i, len(wishes) + 1, "testing plans"):
                found = search(task.tiers, fit, wish, seed=task.seed, drawn=0).found[0]
        except BudgetError:  # more than any plan can: the next one asks for less
            continue
        if (found.plan, found.thresholds) not in seen:
            seen.add((found.plan, found.thresholds))
            yield found.plan, task.own(task.table(found.plan, fit), found), None


def _by_method(
    task: Task, fit: Table, wishes: list[Goal], by: Method, plan: Plan
) -> Iterator[_Tried]:
    """Yield a method's policies on one plan, from the surest budget to what is just asked."""
    small = task.table(plan, fit)
    low, high = float(small.mean_costs[0]), float(small.mean_costs[-1])
    if task.goal.budget is None:
        budgets = [low + float(part) * (high - low) for part in _SHARES]
    else:
        asked = [wish.budget or 0.0 for wish in wishes]
        budgets = [min(budget, high) for budget in asked if budget >= low]
    budgets = list(dict.fromkeys(budgets))
    with progress(None):
        for fitted in fit_where_possible(by, small, budgets, task.seed, validate=False):
            if fitted is not None:
                yield *task.settled(fit, plan, fitted, by), by


def _test(
    task: Task, test: Table, delta: float, candidate: _Tried, cost_bound: float | None
) -> tuple[bool, Certificate]:
    """Test a policy on rows that neither chose nor fitted it."""
    goal, (plan, fitted, _) = task.goal, candidate
    correct, paid = task.outcome(plan, fitted, test)
    rows, means, group = len(correct), {}, test.group
    for name, costs in paid.items():
        low, high = _range(task.tiers, plan, name, test, cost_bound)
        extra = float(fitted.policy.overhead[-1]) if name == goal.objective else 0.0
        means[name] = mean_high(costs, low, high + extra, delta, group) if isfinite(high) else high
    exact, high = not test.graded and group is None, means[goal.objective]
    wrong = rows - int(correct.sum()) if exact else 0
    bad = share_high(wrong, rows, delta) if exact else mean_high(1 - correct, 0, 1, delta, group)
    right = 1.0 - bad
    kept = goal.accuracy is None or right >= goal.accuracy
    kept &= goal.budget is None or high <= goal.budget
    for limit in goal.limits:
        outside = ~limit.within(paid[limit.cost])
        beyond = int(outside.sum())
        if limit.share is None:
            kept &= means[limit.cost] <= limit.most
        elif limit.share == 0:
            kept &= beyond == 0
        elif group is None:
            kept &= share_high(beyond, rows, delta) <= limit.share
        else:
            kept &= mean_high(outside.astype(float), 0.0, 1.0, delta, group) <= limit.share
    accuracy, cost = float(correct.mean()), float(paid[goal.objective].mean())
    bound = high if isfinite(high) else None
    return bool(kept), Certificate(1 - delta, rows, 0, accuracy, right, cost, bound)


def check_cost_bound(tiers: Tiers, table: Table, goal: Goal, cost_bound: float | None) -> None:
    """Refuse a bound that a row breaks, and none where a promise of the goal needs one."""
    unit = f"{table.unit}, the unit of the cache's cost"
    if cost_bound is not None:
        check_positive("cost_bound", cost_bound, most=MAX_COST)
        most = float(np.max(table.costs))
        if most > cost_bound:
            allowed = f"at least {most:g} {unit}: it is what a row of split '{table.split}' costs"
            step = "A bound holds for every sample: raise it."
            raise input_error("cost_bound", allowed, cost_bound, step)
        return
    means = {one.cost for one in goal.limits if one.share is None}
    means |= {goal.objective} if goal.budget is not None else set()
    if means := {name for name in means if _depends(tiers, name, table)}:
        allowed = (
            f"given, in {unit}: rows have costs of their own, and the largest seen bounds no mean "
        )
        step = (
            "State what no sample can cost (--cost-bound NUMBER), ask for --accuracy and "
            "percentiles alone, or leave --confidence out."
        )
        raise input_error("cost_bound", allowed + " or ".join(sorted(means)), "nothing", step)


def _depends(tiers: Tiers, objective: str, table: Table) -> bool:
    """Say whether what leaving costs differs from row to row."""
    ends = np.zeros(table.exits), np.ones(table.exits)
    work = [[tier.work(objective, one) for one in ends] for tier in tiers.tiers]
    return table.costs.ndim > 1 and any((none != one).any() for none, one in work)


def _range(
    tiers: Tiers, plan: Plan, objective: str, table: Table, cost_bound: float | None
) -> tuple[float, float]:
    """Return the least and the most (perhaps infinity) that leaving can cost any row: a dearest one in one stage."""
    if _depends(tiers, objective, table):
        if cost_bound is None:
            return 0.0, inf
        spent = np.triu(np.full((table.exits, table.exits), float(cost_bound)))
        table = replace(table, costs=np.vstack([np.zeros(table.exits), spent]))
    costs = leaving_costs(tiers, plan, objective, table)
    return float(costs.min()), float(costs.max())


def _impossible(task: Task, tested: list[Certificate], confidence: float) -> str:
    """Return why no plan can be shown to keep the goal."""
    goal, sure = task.goal, f"with {100 * confidence:g} % confidence"
    step = "Lower the confidence, import more rows of split fit, or ask for less."
    if not tested:
        allowed = "such that a plan keeps the goal on half of the rows"
        return message("confidence", allowed, sure, step)
    most = max(t.accuracy_low for t in tested)
    least = min((t.cost_high for t in tested if t.cost_high is not None), default=0.0)
    if goal.accuracy is not None and most < goal.accuracy:
        allowed = f"at most {100 * most:.2f} %, what the most accurate plan tested has {sure}"
        return message("accuracy", allowed, f"{100 * goal.accuracy:.2f} %", step)
    if goal.budget is not None and least > goal.budget:
        unit = task.tiers.unit_of(goal.objective)
        allowed = f"at least {least:.6g} {unit}, what the cheapest plan tested costs {sure}"
        return message("budget", allowed, f"{goal.budget:.6g}", step)
    allowed = f"such that a plan keeps the goal and all limits {sure}"
    return message("limit", allowed, "others", step)
