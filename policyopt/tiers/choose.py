"""A plan with its policy: the best few plans of a search fitted by a method, the best of them taken.

The search looks at one score and chooses on the rows it looks at. So the thresholds of its best plans are
searched again in two folds, each replayed on the rows of the other; on the plan that is best there the
method asked for competes with them in the same way, and the better is fitted on all rows. Thresholds are
fitted on the leaving costs of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.answers.crossfit import folds_of
from policyopt.frontier.intervals import bootstrap_means, interval
from policyopt.methods import Fitted, Method
from policyopt.methods.always import Always, alone
from policyopt.methods.base import fit_where_possible
from policyopt.methods.threshold import Threshold
from policyopt.replay import replay
from policyopt.runtime.errors import BudgetError
from policyopt.runtime.policy import Policy
from policyopt.table import Table
from policyopt.telling import listening, tell
from policyopt.tiers.describe import OBJECTIVES, Tiers
from policyopt.tiers.goal import Goal
from policyopt.tiers.plans import Plan, leaving_costs, plan_table
from policyopt.tiers.search import Found, Searched, again, search

Floats = npt.NDArray[np.float64]
_EPS = 1e-9
_LADDER = np.array([1.0, 0.95, 0.9, 0.8, 0.7, 0.55, 0.4, 0.2, 0.0])  # of the way to the budget
_MARGINS = (0.0, 0.0025, 0.005, 0.01, 0.02)  # of accuracy, above the floor
_FEWEST = 20  # rows that can be divided in two


@dataclass(frozen=True)
class Planned:
    """A plan, its policy, and how both were found.

    Attributes
    ----------
    plan : Plan
    fitted : Fitted
        The whole policy: on the plan's kept exits, its cost the goal's objective.
    searched : Searched
    compared : list of dict
        Plans and methods compared, their accuracy and cost on rows that did not fit them.
    met : bool
        Whether the goal was met on those rows.
    """

    plan: Plan
    fitted: Fitted
    searched: Searched
    compared: list[dict[str, Any]]
    met: bool


def make_plan(
    tiers: Tiers,
    table: Table,
    goal: Goal,
    method: Method | None = None,
    *,
    shortlist: int = 3,
    seed: int = 0,
) -> Planned:
    """Choose cuts, kept exits and thresholds on labelled rows.

    Parameters
    ----------
    tiers : Tiers
    table : Table
        Of split `fit`, all exits, with the cache's own cost.
    goal : Goal
    method : Method, optional
        What fits policies besides the search's own thresholds on the largest probability.
    shortlist : int
        How many of the search's plans are fitted and compared.
    seed : int

    Returns
    -------
    Planned

    Raises
    ------
    BudgetError
        No plan meets the goal.

    Examples
    --------
    >>> import policyopt as po
    >>> from policyopt.table import Tables
    >>> from policyopt.tiers.describe import Link, Tier
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 400)
    >>> logits = rng.normal(size=(400, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> table = Tables(po.from_arrays(logits, labels, costs=[1, 4], unit="MMACs")).get("fit")
    >>> tiers = Tiers((Tier("device", 1.0), Tier("cloud", 0.1)), (Link(8.0),), 500, (2000,))
    >>> make_plan(tiers, table, Goal("latency", budget=0.95)).plan.tier
    (1, 1)
    """
    labels = table.statistics.labels
    if labels is not None and (labels >= 0).any():
        table = table.take(np.flatnonzero(labels >= 0))
    searched = search(tiers, table, goal, seed=seed)
    # Plans by the search's own thresholds first, then the method on the best: learning takes long.
    candidates: list[tuple[Found, Method | None]] = [(f, None) for f in searched.found[:shortlist]]
    compare = len(table) >= _FEWEST
    outcomes = _compare(tiers, table, goal, candidates, 0, seed) if compare else []
    chosen = _best(goal, outcomes)
    if compare and method is not None:
        candidates.append((candidates[chosen["candidate"] if chosen else 0][0], method))
        outcomes += _compare(tiers, table, goal, candidates, len(candidates) - 1, seed)
        chosen = _best(goal, outcomes)
    first, by = candidates[chosen["candidate"] if chosen else 0]
    ladder = _fits(tiers, table, goal, first, by, seed)
    fitted = ladder[chosen["step"]] if chosen else next((f for f in ladder if f), None)
    if fitted is None:  # possible on both halves and by a hair not on all rows
        fitted = _fits(tiers, table, goal, first, None, seed)[0]
    assert fitted is not None  # the search's own thresholds are always possible
    key, names, best = goal.ranks(), [tier.name for tier in tiers.tiers], {}
    for o in outcomes:
        at = (o["candidate"], o["met"])
        if at not in best or key(o["accuracy"], o["cost"]) > key(
            best[at]["accuracy"], best[at]["cost"]
        ):
            best[at] = o
    compared = [
        {
            "plan": candidates[i][0].plan.text(names),
            "method": "search" if candidates[i][1] is None else "method",
            "accuracy": o["accuracy"], "cost": o["cost"], "met": ok,
        }
        for (i, ok), o in sorted(best.items()) if ok or (i, True) not in best
    ]  # fmt: skip
    return Planned(first.plan, fitted, searched, compared, bool(chosen and chosen["met"]))


def _best(goal: Goal, outcomes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the best outcome that met the goal, else the one nearest to it; None of none."""
    key = goal.ranks()
    met = [o for o in outcomes if o["met"]]
    if met or not outcomes:  # the first of equals: the search's order
        return max(met, key=lambda o: key(o["accuracy"], o["cost"]), default=None)
    return max(outcomes, key=lambda o: o["accuracy"] if goal.budget is None else -o["over"])


def _compare(
    tiers: Tiers,
    table: Table,
    goal: Goal,
    candidates: Sequence[tuple[Found, Method | None]],
    start: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return what each step of the ladders from `start` on comes to on rows that did not fit it."""
    fold = folds_of(len(table), 2, seed)
    outcomes = []
    for i, (one, by) in list(enumerate(candidates))[start:]:
        tell(i, len(candidates), "comparing plans")
        steps: dict[int, list[tuple[npt.NDArray[np.int64], Floats, dict[str, Floats]]]] = {}
        for f in (0, 1):
            held = np.flatnonzero(fold == f)
            rest, test = table.take(np.flatnonzero(fold != f)), table.take(held)
            with listening(None):  # the candidates are what is told
                ladder = _fits(tiers, rest, goal, one, by, seed)
            for step, fitted in enumerate(ladder):
                if fitted is not None:
                    seen = outcome(tiers, one.plan, fitted.policy, test, goal.objectives)
                    steps.setdefault(step, []).append((held, *seen))
        for step, parts in steps.items():
            if len(parts) < 2:
                continue
            correct = np.concatenate([p[1] for p in parts])
            paid = {n: np.concatenate([p[2][n] for p in parts]) for n in goal.objectives}
            cost, accuracy = float(paid[goal.objective].mean()), float(correct.mean())
            # What lies within the sampling error of a budget that the fit kept is no breach.
            error = float(paid[goal.objective].std()) / len(correct) ** 0.5
            over = 0.0 if goal.budget is None else cost - goal.budget
            met = all(limit.kept(paid[limit.objective]) for limit in goal.limits)
            met &= over <= 2 * error + _EPS * cost
            met &= goal.accuracy is None or accuracy >= goal.accuracy - _EPS
            outcomes.append({
                "candidate": i, "step": step, "accuracy": accuracy, "cost": cost, "met": met,
                "over": over,
            })  # fmt: skip
    return outcomes


def _fits(
    tiers: Tiers, table: Table, goal: Goal, one: Found, by: Method | None, seed: int
) -> list[Fitted | None]:
    """Return a candidate's fits on some rows, from what the goal asks to what is surer to keep it."""
    small = plan_table(tiers, one.plan, goal.objective, table)
    costs = small.mean_costs
    if small.exits == 1:
        return [alone(Always(0), small, 0, float(costs[0]), seed)]
    if by is None:
        return [_own(small, f) for f in _searched(tiers, table, goal, one)]
    if costs[-1] <= costs[0]:  # leaving anywhere costs the same: a budget has nothing to say
        return [None]
    most = min(goal.budget if goal.budget is not None else 1.5 * one.cost, float(costs[-1]))
    budgets = [float(costs[0] + part * (most - costs[0])) for part in _LADDER]
    if goal.budget is not None and not goal.limits:
        budgets = budgets[:1]
    if most < costs[0]:
        return [None]
    return fit_where_possible(by, small, budgets, seed)


def _searched(tiers: Tiers, table: Table, goal: Goal, one: Found) -> list[Found | None]:
    """Return the plan's thresholds searched on some rows, for the goal and for a little more."""
    if goal.accuracy is not None:
        return [
            again(tiers, table, Goal(goal.objective, None, min(goal.accuracy + m, 1.0), goal.limits), one)
            for m in _MARGINS
        ]  # fmt: skip
    return [again(tiers, table, goal, one)]


def _own(small: Table, found: Found | None) -> Fitted | None:
    if found is None:
        return None
    method = Threshold("max_prob", thresholds=found.thresholds)
    limit = float(small.mean_costs[-1])
    try:
        return method.fit_path(small, [limit])[0]
    except BudgetError:
        return None


def outcome(
    tiers: Tiers, plan: Plan, policy: Policy, table: Table, objectives: Sequence[str] = OBJECTIVES
) -> tuple[Floats, dict[str, Floats]]:
    """Replay a plan's policy: whether each row is right, and what it costs per objective, (N,) each."""
    first = objectives[0]
    done = replay(policy, plan_table(tiers, plan, first, table))
    at = np.searchsorted(plan.kept, done.exit)
    paid = {first: done.cost}
    for name in objectives[1:]:
        costs = np.broadcast_to(leaving_costs(tiers, plan, name, table), (len(at), len(plan.kept)))
        paid[name] = np.take_along_axis(costs, at[:, None], axis=1)[:, 0]
    return done.correct, paid


def summary(
    tiers: Tiers, plan: Plan, policy: Policy, table: Table, objective: str, seed: int = 0
) -> dict[str, Any]:
    """Return accuracy and every objective on rows that chose nothing, with 95 % intervals.

    Means, and the objective's 95th percentile and worst row; the share of the rows that leave at
    each tier.
    """
    order = (objective, *(name for name in OBJECTIVES if name != objective))
    correct, paid = outcome(tiers, plan, policy, table, order)
    columns = np.stack([correct, *(paid[name] for name in OBJECTIVES)], axis=1)
    low, high = interval(bootstrap_means(columns, np.random.default_rng(seed)))
    exits = replay(policy, plan_table(tiers, plan, objective, table)).exit
    where = np.array(plan.tier)[exits]
    record: dict[str, Any] = {
        "plan": plan.text([tier.name for tier in tiers.tiers]),
        "kept": list(plan.kept),
        "tiers": [tiers.tiers[t].name for t in plan.tier],
        "tier_share": [float((where == t).mean()) for t in range(len(tiers.tiers))],
        "rows": len(table),
    }
    for i, name in enumerate(("accuracy", *OBJECTIVES)):
        record[name] = float(columns[:, i].mean())
        record[f"{name}_low"], record[f"{name}_high"] = float(low[i]), float(high[i])
    for name in OBJECTIVES:
        record[f"{name}_unit"] = tiers.unit_of(name)
    record["p95"] = float(np.quantile(paid[objective], 0.95, method="inverted_cdf"))
    record["worst"] = float(paid[objective].max())
    return record


def references(
    tiers: Tiers, table: Table, objective: str, seed: int = 0
) -> list[tuple[Plan, Policy]]:
    """Return what is done without a plan: the full model on each tier that can hold it, no early exit."""
    last = table.exits - 1
    found = []
    for t, tier in enumerate(tiers.tiers):
        if tier.most_stages is not None and tier.most_stages < (1 if table.cascade else last + 1):
            continue
        plan = Plan((last,), (t,) * (last + 1))
        small = plan_table(tiers, plan, objective, table)
        found.append((plan, alone(Always(0), small, 0, float(small.mean_costs[0]), seed).policy))
    return found
