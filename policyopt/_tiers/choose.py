"""A plan with its policy: the best few plans of a search fitted by a method, the best of them taken.

The search looks at one score and chooses on the rows it looks at. So the thresholds of its best plans are
searched again in two folds, each replayed on the rows of the other; on the plan that is best there the
method asked for competes with them in the same way, and the better is fitted on all rows. Thresholds are
fitted on the leaving costs of the plan. All of this keeps a goal in the mean; see `certify` for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policyopt._answers.crossfit import folds_of
from policyopt._methods.base import Method, fit_where_possible, problem_of
from policyopt._methods.baselines import Always, standalone
from policyopt._methods.fitted import Fitted
from policyopt._methods.threshold import Threshold
from policyopt._progress import progress_callback, report
from policyopt._replay import replay
from policyopt._table import Table
from policyopt._tiers.description import Tiers
from policyopt._tiers.plans import Plan, outcome, plan_table
from policyopt._tiers.search import Found, Goal, Searched, again, search
from policyopt.runtime._checks import check_seed
from policyopt.runtime._scores import MaxProb
from policyopt.runtime._typing import Floats

Candidate = tuple[Found, Method | None]
Paid = tuple[Floats, dict[str, Floats]]  # right or wrong, and costs per objective, (N,) each
_FEWEST = 20  # rows that can be divided in two
_EPS, _ALL = 1e-9, slice(None)
_LADDER = np.array([1.0, 0.9, 0.75, 0.5, 0.2])  # of the way to the budget
_MARGINS = (0.0, 0.0025, 0.005, 0.01, 0.02)  # of accuracy, above the floor


@dataclass(frozen=True)
class Outcome:
    """What one step of a candidate's ladder comes to on rows that did not fit it."""

    candidate: int
    step: int
    accuracy: float
    cost: float
    rows: int
    met: bool  # whether it keeps the goal there
    over: float  # mean cost beyond the budget


@dataclass(frozen=True)
class Certificate:
    """Bounds that hold together with a confidence, from `rows` that chose and fitted nothing."""

    confidence: float
    rows: int
    fitted_rows: int
    accuracy: float
    accuracy_low: float
    cost: float
    cost_high: float | None  # None: none is promised


@dataclass(frozen=True)
class Planned:
    """A plan, its policy, and how both were found."""

    plan: Plan
    fitted: Fitted  # of the whole policy: on the plan's kept exits, its cost the goal's objective
    searched: Searched
    compared: list[dict[str, Any]]  # plans and methods, on rows that did not fit them
    met: bool  # whether the goal was met on those rows
    held_out: Outcome | None = None  # the chosen one's, there; None of fewer than 20 rows
    by: Method | None = None  # what fitted the policy; None: the search's own thresholds
    certificate: Certificate | None = None  # where a confidence was asked for


def make_plan(
    tiers: Tiers,
    table: Table,
    goal: Goal,
    method: Method | None = None,
    *,
    shortlist: int = 3,
    seed: int = 0,
) -> Planned:
    """Choose cuts, kept exits and thresholds on labelled rows of all exits, with the cache's own cost.

    `method` fits policies besides the search's own thresholds on the largest probability; `shortlist` plans
    of the search are fitted and compared. `BudgetError` where no plan meets the goal.
    """
    table, task = known_rows(table), Task(tiers, goal, check_seed(seed))
    searched = search(tiers, table, goal, seed=seed)
    # Plans by the search's own thresholds first, then the method on the best: learning takes long.
    candidates: list[Candidate] = [(f, None) for f in searched.found[:shortlist]]
    outcomes: list[Outcome] = []
    if len(table) >= _FEWEST:
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
    plan, fitted = task.settled(table, first.plan, fitted, by)
    compared, met = task.records(candidates, outcomes), bool(chosen and chosen.met)
    return Planned(plan, fitted, searched, compared, met, chosen, by)


def known_rows(table: Table) -> Table:
    """Return the rows whose labels are known."""
    labels = table.statistics.labels
    if labels is None or (labels >= 0).all():
        return table
    return table.take(np.flatnonzero(labels >= 0))


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
        fold = folds_of(len(table), 2, self.seed)
        outcomes = []
        for i, (one, by) in list(enumerate(candidates))[start:]:
            report(i, len(candidates), "comparing plans")
            steps: dict[int, list[Paid]] = {}
            for f in (0, 1):
                rest, test = (table.take(np.flatnonzero(rows)) for rows in (fold != f, fold == f))
                # A method's folds take long: it may report.
                with progress_callback(None) if by is None else nullcontext():
                    ladder = self.fits(rest, one, by)
                for step, fitted in enumerate(ladder):
                    if fitted is not None:
                        steps.setdefault(step, []).append(self.outcome(one.plan, fitted, test))
            for step, parts in steps.items():
                if len(parts) == 2:
                    outcomes.append(self._judged(i, step, parts))
        return outcomes

    def _judged(self, candidate: int, step: int, parts: Sequence[Paid]) -> Outcome:
        goal = self.goal
        correct = np.concatenate([right for right, _ in parts])
        paid = {n: np.concatenate([costs[n] for _, costs in parts]) for n in goal.objectives}
        own = paid[goal.objective]
        cost, accuracy = float(own.mean()), float(correct.mean())
        # What lies within the sampling error of a budget that the fit kept is no breach.
        error = float(own.std()) / len(own) ** 0.5
        over = 0.0 if goal.budget is None else cost - goal.budget
        met = all(limit.kept(paid[limit.objective]) for limit in goal.limits)
        met &= over <= 2 * error + _EPS * cost
        met &= goal.accuracy is None or accuracy >= goal.accuracy - _EPS
        return Outcome(candidate, step, accuracy, cost, len(own), met, over)

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
        """Return a candidate's fits on some rows, from what the goal asks to what is surer to keep it.

        `steps` are those wanted; each is as it is among all.
        """
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
        """Return a plan and its policy without the stages behind the last exit at which a row leaves.

        The policy is fitted again on the smaller plan, to what it costs now; where it does not keep the
        goal there, the search's own thresholds are.
        """
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
