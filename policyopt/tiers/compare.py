"""Plans and methods compared in two folds: each fitted on the rows of one, replayed on those of the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from policyopt.answers.crossfit import folds_of
from policyopt.methods import Fitted, Method
from policyopt.methods.always import Always, alone
from policyopt.methods.base import fit_where_possible, problem_of
from policyopt.methods.threshold import Threshold
from policyopt.progress import progress_callback, report
from policyopt.replay import replay
from policyopt.runtime.scores import MaxProb
from policyopt.runtime.typing import Floats
from policyopt.table import Table
from policyopt.tiers.describe import Tiers
from policyopt.tiers.goal import Goal
from policyopt.tiers.plans import Plan, plan_table
from policyopt.tiers.search import Found, again
from policyopt.tiers.summary import outcome

Candidate = tuple[Found, Method | None]
_EPS, _ALL = 1e-9, slice(None)
_LADDER = np.array([1.0, 0.9, 0.75, 0.5, 0.2])  # of the way to the budget
_MARGINS = (0.0, 0.0025, 0.005, 0.01, 0.02)  # of accuracy, above the floor


@dataclass(frozen=True)
class Outcome:
    """What one step of a candidate's ladder comes to on rows that did not fit it.

    Attributes
    ----------
    candidate, step : int
    accuracy, cost : float
    rows : int
    met : bool
        Whether it keeps the goal there.
    over : float
        Mean cost beyond the budget.
    """

    candidate: int
    step: int
    accuracy: float
    cost: float
    rows: int
    met: bool
    over: float


def compare(
    tiers: Tiers,
    table: Table,
    goal: Goal,
    candidates: Sequence[Candidate],
    start: int,
    seed: int,
) -> list[Outcome]:
    """Return the outcomes of all steps of the candidates from `start` on."""
    fold = folds_of(len(table), 2, seed)
    outcomes = []
    for i, (one, by) in list(enumerate(candidates))[start:]:
        report(i, len(candidates), "comparing plans")
        steps: dict[int, list[tuple[Floats, dict[str, Floats]]]] = {}
        for f in (0, 1):
            rest, test = (table.take(np.flatnonzero(rows)) for rows in (fold != f, fold == f))
            with (
                progress_callback(None) if by is None else nullcontext()
            ):  # a method's folds take long
                ladder = fits(tiers, rest, goal, one, by, seed)
            for step, fitted in enumerate(ladder):
                if fitted is not None:
                    seen = outcome(tiers, one.plan, fitted.policy, test, goal.objectives)
                    steps.setdefault(step, []).append(seen)
        for step, parts in steps.items():
            if len(parts) == 2:
                outcomes.append(_outcome(goal, i, step, parts))
    return outcomes


def _outcome(
    goal: Goal, candidate: int, step: int, parts: Sequence[tuple[Floats, dict[str, Floats]]]
) -> Outcome:
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


def best_of(goal: Goal, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the best outcome that met the goal, else the one nearest to it; None of none."""
    key = goal.ranks()
    met = [o for o in outcomes if o.met]
    if met or not outcomes:  # the first of equals: the search's order
        return max(met, key=lambda o: key(o.accuracy, o.cost), default=None)
    return max(outcomes, key=lambda o: o.accuracy if goal.budget is None else -o.over)


def fits(
    tiers: Tiers, table: Table, goal: Goal, one: Found, by: Method | None, seed: int,
    steps: slice = _ALL,
) -> list[Fitted | None]:  # fmt: skip
    """Return a candidate's fits on some rows, from what the goal asks to what is surer to keep it.

    `steps` are those wanted; each is as it is among all.
    """
    small = plan_table(tiers, one.plan, goal.objective, table)
    costs = small.mean_costs
    if small.exits == 1:
        return [own(small, one, seed)]
    if by is None:
        found = [again(tiers, table, wish, one) for wish in _wishes(goal)[steps]]
        return [own(small, f, seed) if f is not None else None for f in found]
    most = min(goal.budget if goal.budget is not None else 1.5 * one.cost, float(costs[-1]))
    if most < costs[0] or costs[-1] <= costs[0]:  # where leaving anywhere costs the same, a
        return [None]  # budget has nothing to say
    budgets = [float(costs[0] + part * (most - costs[0])) for part in _LADDER]
    if goal.budget is not None and not goal.limits:
        budgets = budgets[:1]
    return fit_where_possible(by, small, budgets[steps], seed, validate=False)


def settled(
    tiers: Tiers, table: Table, goal: Goal, plan: Plan, fitted: Fitted, by: Method | None, seed: int
) -> tuple[Plan, Fitted]:
    """Return a plan and its policy without the stages behind the last exit at which a row leaves.

    The policy is fitted again on the smaller plan, to what it costs now; where it does not keep the goal
    there, the search's own thresholds are.
    """
    while True:
        seen = replay(fitted.policy, plan_table(tiers, plan, goal.objective, table))
        kept = tuple(k for k in plan.kept if k <= seen.exit.max())
        if kept == plan.kept:
            return plan, fitted
        smaller = Plan(kept, plan.tier[: kept[-1] + 1])
        small, one = plan_table(tiers, smaller, goal.objective, table), None
        if by is not None and len(kept) > 1:
            cost = float(np.clip(seen.cost.mean(), small.mean_costs[0], small.mean_costs[-1]))
            one = fit_where_possible(by, small, [cost], seed, validate=False)[0]
            if one is not None:
                right, paid = outcome(tiers, smaller, one.policy, table, goal.objectives)
                one = one if goal.kept(right, paid) else None
        if one is None:
            found = again(tiers, table, goal, Found(smaller, (), 0.0, 0.0))
            if found is None:  # what it kept on all rows it cannot keep on those searched
                return plan, fitted
            one = own(small, found, seed)
        plan, fitted = smaller, one


def _wishes(goal: Goal) -> list[Goal]:
    """Return the goal, and the same with a little more accuracy."""
    if goal.accuracy is None:
        return [goal]
    return [replace(goal, accuracy=min(goal.accuracy + m, 1.0)) for m in _MARGINS]


def own(small: Table, found: Found, seed: int) -> Fitted:
    """Return the policy of a search's own thresholds, on the rows of its plan's table."""
    if small.exits == 1:
        return alone(Always(0), small, 0, float(small.mean_costs[0]), seed)
    method = Threshold("max_prob", thresholds=found.thresholds)
    most = float(problem_of(MaxProb(), small).mean_costs[-1])  # the policy's arithmetic too
    return method.propose(small, [most], seed)[0]
