"""The search: every cut, every set of kept exits and every threshold on a grid, together.

Edgent (arXiv:1806.07840, Algorithm 1) tries every pair of one exit and one cut; SPINN (arXiv:2008.06402)
every pair of a cut and one threshold shared by the exits; Pacheco & Couto (arXiv:2005.04099) find the
cut of given exits and thresholds as a shortest path. Here cut, kept exits and a threshold per exit are
chosen together. What keeps it short:

- a cut whose every exit costs at least what it does under another cut is left out: no thresholds make
  it better (exact);
- the shares that leave are counted once per set of exits, for all cuts (exact; see `grid`);
- where exits are more than six: single exits, pairs and the whole first, then the best set enlarged,
  reduced or changed by one exit as long as that helps (not exact; `tests/tiers` measures the gap);
- the thresholds' grid has 20,000 points at most per set; the best are then refined one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from policyopt.methods.subset import subsets
from policyopt.progress import report
from policyopt.runtime.errors import BudgetError, message
from policyopt.runtime.scores import MaxProb, score_table
from policyopt.runtime.typing import Floats
from policyopt.table import Table
from policyopt.thresholds.joint import upper_hull
from policyopt.tiers.describe import Tiers
from policyopt.tiers.goal import Goal
from policyopt.tiers.grid import Grid, axis
from policyopt.tiers.plans import Plan, costs_of, cuts

_FEW = 6  # exits up to here have all their subsets tried
_BEAM, _MOST = 8, 8  # sets that are changed by one exit at a time; the most exits of a set
_CELLS, _LEVELS, _FINE = 20_000, 33, 129  # points per set; thresholds per exit; and of a refinement
_SWEEPS = 3
_DRAWN = 1000  # plans whose hull is kept for a picture though they are dominated
_MOST_ROWS = 20_000
_NUMBERS = 1 << 23  # costs per sample beyond which dominated cuts are not looked for


@dataclass(frozen=True)
class Found:
    """A plan with thresholds on the largest probability, and what they come to on the rows searched.

    Attributes
    ----------
    plan : Plan
    thresholds : tuple of floats
        One per kept exit but the last.
    value, cost : float
        Accuracy, and the goal's objective.
    """

    plan: Plan
    thresholds: tuple[float, ...]
    value: float
    cost: float


@dataclass
class Searched:
    """What a search found.

    Attributes
    ----------
    found : list of Found
        The best point of each plan that can meet the goal, the best plan first.
    frontiers : list of (Plan, ndarray of shape (P, 2))
        Cost and accuracy along the upper hull of each plan (beyond 1000: of each undominated one).
    plans, dominated, sets : int
        Cuts looked at, cuts left out as dominated, sets of exits tried.
    """

    found: list[Found] = field(default_factory=list)
    frontiers: list[tuple[Plan, Floats]] = field(default_factory=list)
    plans: int = 0
    dominated: int = 0
    sets: int = 0


def search(
    tiers: Tiers, table: Table, goal: Goal, *, exact: bool | None = None, seed: int = 0,
    drawn: int = _DRAWN,
) -> Searched:  # fmt: skip
    """Search plans on labelled rows.

    Parameters
    ----------
    tiers : Tiers
    table : Table
        Of all exits, with the cache's own cost; 20,000 of its rows at random where there are more.
    goal : Goal
    exact : bool, optional
        Whether all sets of exits are tried; default up to six exits.
    seed : int
    drawn : int
        How many plans, the dominated among them, have their frontier kept.

    Returns
    -------
    Searched

    Raises
    ------
    BudgetError
        No plan meets the goal.
    """
    tiers.check(table.exits, table.cascade, table.unit)
    if len(table) > _MOST_ROWS:
        order = np.random.default_rng(seed).permutation(len(table))
        table = table.take(np.sort(order[:_MOST_ROWS]))
    work = _Work(tiers, table, goal, drawn)
    if exact or (exact is None and table.exits <= _FEW):
        work.look(subsets(table.exits, table.exits))
    else:
        work.look([*subsets(table.exits, 2)])
        if table.exits <= _MOST:
            work.look([tuple(range(table.exits))])
        while work.look(work.neighbours()):
            pass
    key = goal.ranks()
    work.out.found.sort(key=lambda f: key(f.value, f.cost), reverse=True)
    if not work.out.found:
        raise BudgetError(work.impossible())
    best = [work.trimmed(work.refined(one)) for one in work.out.found[:_BEAM]]
    best += work.out.found[_BEAM:]
    best.sort(key=lambda f: key(f.value, f.cost), reverse=True)
    first: dict[Plan, Found] = {}
    for one in best:
        first.setdefault(one.plan, one)
    work.out.found = list(first.values())
    return work.out


def again(tiers: Tiers, table: Table, goal: Goal, one: Found) -> Found | None:
    """Search the thresholds of one plan on other rows; None where they cannot meet the goal."""
    work = _Work(tiers, table, goal)
    kept = one.plan.kept
    grid = work.grid(kept, _axes(work.scores, kept))
    best = goal.best(grid, work.costs([one.plan])[0])
    if best is None:
        return None
    thresholds = tuple(grid.thresholds(best[0]).tolist())
    return work.refined(Found(one.plan, thresholds, float(grid.value[best[0]]), best[1]))


def _axes(scores: Floats, kept: tuple[int, ...]) -> list[Floats]:
    """Return the thresholds of the grid over a set of exits."""
    gates = len(kept) - 1
    levels = min(_LEVELS, max(int(_CELLS ** (1 / gates)), 2)) if gates else 1
    return [axis(scores[:, k], levels) for k in kept[:-1]]


class _Work:
    """The rows searched, and what was found so far."""

    def __init__(self, tiers: Tiers, table: Table, goal: Goal, drawn: int = _DRAWN) -> None:
        self.tiers, self.table, self.goal, self.drawn = tiers, table, goal, drawn
        self.scores = score_table(MaxProb(), table.statistics.outputs())
        self.correct = table.correct
        self.out, self.tried = Searched(), set[tuple[int, ...]]()
        self.best: dict[tuple[int, ...], tuple[float, float]] = {}
        self.least, self.most = np.inf, 0.0

    def look(self, sets: Sequence[tuple[int, ...]]) -> bool:
        """Try sets of exits; return whether one was better than all before."""
        before = max(self.best.values(), default=None)
        for i, kept in enumerate(sets):
            if kept not in self.tried:
                report(i, len(sets), "searching plans")
                self.tried.add(kept)
                self._one(kept)
        self.out.sets = len(self.tried)
        return bool(self.best) and max(self.best.values()) != before

    def neighbours(self) -> list[tuple[int, ...]]:
        """Return the best sets with one exit more, less, or exchanged, those not tried yet."""
        exits, found = range(self.table.exits), set()
        for kept in sorted(self.best, key=lambda k: self.best[k], reverse=True)[:_BEAM]:
            own = set(kept)
            more = [own | {k} for k in exits if k not in own]
            less = [own - {k} for k in kept]
            other = [one - {k} for one in more for k in kept]
            found |= {tuple(sorted(one)) for one in (*more, *less, *other)}
        return sorted(kept for kept in found - self.tried if 0 < len(kept) <= _MOST)

    def grid(self, kept: tuple[int, ...], axes: Sequence[Floats]) -> Grid:
        """Return a grid of thresholds over a set of exits."""
        return Grid(self.scores[:, kept], self.correct[:, kept], axes)

    def costs(self, plans: Sequence[Plan]) -> list[dict[str, Floats]]:
        """Return the leaving costs of plans, per objective that matters."""
        names = self.goal.objectives
        each = [costs_of(plans, self.tiers, name, self.table) for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*each, strict=True)]

    def refined(self, one: Found) -> Found:
        """Return a plan's point with each threshold in turn the best of many."""
        kept, key = one.plan.kept, self.goal.ranks()
        costs = self.costs([one.plan])[0]
        thresholds = np.array(one.thresholds)
        fine = [axis(self.scores[:, k], _FINE) for k in kept[:-1]]
        for _ in range(_SWEEPS):
            before = thresholds.copy()
            for i in range(len(thresholds)):
                axes = [np.array([t]) for t in thresholds]
                axes[i] = np.unique([*fine[i], thresholds[i]])
                grid = self.grid(kept, axes)
                best = self.goal.best(grid, costs)
                if best is None:
                    continue
                value = float(grid.value[best[0]])
                if key(value, best[1]) > key(one.value, one.cost):
                    thresholds = grid.thresholds(best[0])
                    one = Found(one.plan, tuple(thresholds.tolist()), value, best[1])
            if np.array_equal(before, thresholds):
                break
        return one

    def trimmed(self, one: Found) -> Found:
        """Return a plan's point without the exits at which no row leaves: nothing else changes."""
        plan = one.plan
        point = self.grid(plan.kept, [np.array([t]) for t in one.thresholds])
        places = np.flatnonzero(point.shares[0] > 0)
        if len(places) == len(plan.kept):
            return one
        kept = tuple(plan.kept[i] for i in places)
        smaller = Plan(kept, plan.tier[: kept[-1] + 1])
        thresholds = tuple(one.thresholds[i] for i in places[:-1])
        point = self.grid(kept, [np.array([t]) for t in thresholds])
        cost = float(point.cost(self.costs([smaller])[0][self.goal.objective])[0])
        return Found(smaller, thresholds, float(point.value[0]), cost)

    def impossible(self) -> str:
        """Return why no plan meets the goal."""
        goal, unit = self.goal, self.tiers.unit_of(self.goal.objective)
        where = " within the limits" if goal.limits else ""
        if goal.limits and (
            not np.isfinite(self.least) if goal.budget is not None else self.most <= 0
        ):
            asked = ", ".join(limit.text for limit in goal.limits)
            return message(
                "limit", "such that some plan keeps it, which none does", asked, "Raise it."
            )
        if goal.budget is not None:
            allowed = f"at least {self.least:.6g} {unit}"
            return message("budget", allowed + where, f"{goal.budget:.6g}", "Raise it.")
        allowed = f"at most {100 * self.most:.2f} %, the best of any plan{where} on the fit rows"
        return message("accuracy", allowed, f"{100 * (goal.accuracy or 0):.2f} %", "Lower it.")

    def _one(self, kept: tuple[int, ...]) -> None:
        plans = cuts(self.tiers, kept, self.table.cascade)
        costs = self.costs(plans)
        places = self._undominated(costs)
        self.out.plans += len(plans)
        self.out.dominated += len(plans) - len(places)
        grid = self.grid(kept, _axes(self.scores, kept))
        key = self.goal.ranks()
        for i in range(len(plans)):
            if i in places or self.out.plans <= self.drawn:
                self._frontier(plans[i], grid, costs[i])
        for i in places:
            best = self.goal.best(grid, costs[i])
            if best is None:
                continue
            value = float(grid.value[best[0]])
            thresholds = tuple(grid.thresholds(best[0]).tolist())
            self.out.found.append(Found(plans[i], thresholds, value, best[1]))
            rank = key(value, best[1])
            self.best[kept] = max(self.best.get(kept, rank), rank)

    def _frontier(self, plan: Plan, grid: Grid, costs: dict[str, Floats]) -> None:
        allowed = self.goal.allowed(grid, costs)
        if not allowed.any():
            return
        points = np.stack([grid.cost(costs[self.goal.objective]), grid.value], axis=1)[allowed]
        self.least = min(self.least, float(points[:, 0].min()))
        self.most = max(self.most, float(points[:, 1].max()))
        best = np.lexsort((-points[:, 1], points[:, 0]))
        rising = points[best][:, 1] > np.maximum.accumulate([-1.0, *points[best][:-1, 1]])
        points = points[best][rising]
        self.out.frontiers.append((plan, points[upper_hull(points)]))

    def _undominated(self, costs: Sequence[dict[str, Floats]]) -> list[int]:
        """Return the plans that no other beats at every exit in every objective that matters."""
        flat = [np.concatenate([c.ravel() for c in one.values()]) for one in costs]
        if len(flat) * flat[0].size > _NUMBERS:
            return list(range(len(flat)))
        kept: list[int] = []
        for i in np.argsort([row.sum() for row in flat], kind="stable").tolist():
            if not any((flat[j] <= flat[i]).all() for j in kept):
                kept.append(i)
        return sorted(kept)
