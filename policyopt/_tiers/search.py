"""The search: every cut, every set of kept exits and every threshold on a grid, together.

Edgent (arXiv:1806.07840, Algorithm 1) tries every pair of one exit and one cut; SPINN (arXiv:2008.06402) every pair
of a cut and one threshold shared by the exits; Pacheco & Couto (arXiv:2005.04099) find the cut of given exits and
thresholds as a shortest path. Here cut, kept exits and a threshold per exit are chosen together:

- a cut whose every exit costs at least what it does under another cut is left out (exact);
- shares that leave are counted once per set of exits, and every cut prices the same table (exact): expected
  cost = shares times leaving costs. Thresholds are near quantiles over all rows (`policyopt._methods.frugalgpt`:
  of the survivors, to be replayed for each set of costs);
- of more than six exits: single ones, pairs and the whole first, then the best set changed by one exit as long as
  that helps (not exact; `tests/tiers` measures the gap);
- the grid has 20,000 points at most per set; the best are then refined one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from policyopt._limits import NEAR, Limit
from policyopt._methods.frugalgpt import subsets
from policyopt._progress import report
from policyopt._table import Table, subsample
from policyopt._thresholds.joint import upper_hull
from policyopt._thresholds.problem import between
from policyopt._tiers.description import OBJECTIVES, Tiers
from policyopt._tiers.plans import Plan, costs_of, cuts
from policyopt.runtime._checks import check_least, check_one_of, check_share, check_type
from policyopt.runtime._errors import BudgetError, input_error, message
from policyopt.runtime._policy import ALWAYS, NEVER
from policyopt.runtime._scores import MaxProb, score_table
from policyopt.runtime._typing import Bools, Floats

_FEW = 6  # exits up to here have all their subsets tried
_BEAM, _MOST = 8, 8  # sets that are changed by one exit at a time; the most exits of a set
_CELLS, _LEVELS, _FINE = 20_000, 33, 129  # points per set; thresholds per exit; and of a refinement
_SWEEPS = 3
_DRAWN = 1000  # plans whose hull is kept for a picture though they are dominated
_MOST_ROWS = 20_000
_NUMBERS = 1 << 23  # costs per sample beyond which dominated cuts are not looked for


def axis(scores: Floats, levels: int) -> Floats:
    """Return thresholds to try at one exit: always, some midway between its scores (N,), never; ascending."""
    distinct, counts = np.unique(scores, return_counts=True)
    gaps, inner = np.arange(len(distinct) - 1), max(levels - 2, 0)
    if len(gaps) > inner:  # take the widest near each quantile: sure networks' scores lie close
        width, below = np.diff(distinct), np.cumsum(counts)[:-1]
        near = below * inner // len(scores)  # the quantile that a gap is nearest to, (G,)
        order = np.lexsort((-width, near))
        gaps = order[np.unique(near[order], return_index=True)[1]]
    inside = [between(float(distinct[i]), float(distinct[i + 1])) for i in gaps if inner]
    return np.unique([ALWAYS, *inside, NEVER])


class Grid:
    """N rows, (N, S) `scores` and `correct`, at each of P points: the product of S-1 `axes` of ascending thresholds."""

    def __init__(self, scores: Floats, correct: Floats, axes: Sequence[Floats]) -> None:
        self.axes = list(axes)
        self.rows, self.exits = scores.shape
        self._shape = tuple(len(a) for a in axes)
        # How many of the thresholds a score reaches: it leaves at those, and stays at the others.
        self._codes = [np.searchsorted(a, scores[:, i], side="right") for i, a in enumerate(axes)]
        self.value = self.mean(correct)  # (P,), points run through the last axis first

    @cached_property
    def shares(self) -> Floats:
        """Share of the rows that leave at each exit, (P, S)."""
        ones = np.ones(self.rows)
        return np.stack([self._leaving(i, ones) for i in range(self.exits)], axis=1) / self.rows

    def mean(self, weights: Floats) -> Floats:
        """Return the mean, over rows, of the weight (N, S) at the exit where each leaves, (P,)."""
        return sum(self._leaving(i, weights[:, i]) for i in range(self.exits)) / self.rows

    def cost(self, costs: Floats) -> Floats:
        """Return the mean cost at each point, (P,), of costs (S,) or (N, S)."""
        return np.asarray(self.shares @ costs) if costs.ndim == 1 else self.mean(costs)

    def thresholds(self, point: int) -> Floats:
        """Return the thresholds of a point, (S-1,)."""
        places = np.unravel_index(point, self._shape) if self._shape else ()
        return np.array([a[i] for a, i in zip(self.axes, places, strict=True)])

    def _leaving(self, exit_: int, weights: Floats) -> Floats:
        """Return the weight that leaves at an exit, at every point, (P,)."""
        codes = self._codes[: exit_ + 1]
        if not codes:  # one exit alone
            return weights.sum(keepdims=True).astype(np.float64)
        counts = tuple(size + 1 for size in self._shape[: exit_ + 1])
        flat = np.ravel_multi_index(tuple(codes), counts)
        found = np.bincount(flat, weights, minlength=int(np.prod(counts)))
        sums = found.astype(np.float64, copy=False).reshape(counts)
        for i in range(len(counts)):
            at = (slice(None),) * i
            if i < exit_:  # stayed: it reaches at most the thresholds before this one
                sums = np.cumsum(sums, axis=i)[(*at, slice(0, -1))]
            else:  # leaves: it reaches this one
                sums = np.flip(np.cumsum(np.flip(sums, i), axis=i), i)[(*at, slice(1, None))]
        later = (1,) * (len(self._shape) - len(counts))
        return np.broadcast_to(sums.reshape(*sums.shape, *later), self._shape).ravel()


@dataclass(frozen=True)
class Goal:
    """What a plan is to achieve: the highest accuracy within a budget, or the lowest cost at an accuracy.

    Parameters
    ----------
    objective : {"latency", "energy", "price"}
        What costs.
    budget, accuracy : float
        The most mean cost, in ms, mJ or the currency; or the least share that is right. One of the two.
    limits : tuple of Limit
        Kept besides.

    Raises
    ------
    InputError
        Another objective, neither or both of the two, one that is out of its range.

    Examples
    --------
    >>> Goal("energy", accuracy=0.91, limits=(Limit.parse("latency:p95<=20"),)).objectives
    ('energy', 'latency')
    """

    objective: str = "latency"
    budget: float | None = None
    accuracy: float | None = None
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        budget, accuracy = self.budget, self.accuracy
        check_one_of("objective", self.objective, OBJECTIVES, "E.g. --objective latency.")
        if (budget is None) == (accuracy is None):
            got = "neither" if budget is None else "both"
            step = "E.g. --budget 12, or --accuracy 91%."
            raise input_error("budget or accuracy", "given, one of the two", got, step)
        if budget is not None:
            check_least("budget", budget, allowed="a number, 0 or more, e.g. 12")
        if accuracy is not None:
            check_share("accuracy", accuracy, "a share from 0 to 1, e.g. 0.91")
        for limit in check_type("limits", self.limits, (list, tuple), "several of Limit"):
            check_type("limits", limit, Limit, "of Limit", "E.g. Limit.parse('latency:p95<=20').")
            step = "E.g. --limit 'latency:p95<=20'."
            check_one_of("cost of a limit", limit.cost or self.objective, OBJECTIVES, step)
        named = (replace(one, cost=one.cost or self.objective) for one in self.limits)
        object.__setattr__(self, "limits", tuple(named))

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives that matter to it, its own first."""
        return tuple(dict.fromkeys([self.objective, *(one.cost for one in self.limits)]))

    def stricter(self, accuracy: float, share: float, costs: Mapping[str, float]) -> Goal:
        """Return the goal with so much to spare: of accuracy, of the shares of limits, of mean costs."""
        limits = tuple(
            replace(one, most=max(one.most - costs[one.cost], 0.0))
            if one.share is None
            else replace(one, spare=one.spare + share)
            for one in self.limits
        )
        if self.accuracy is not None:
            return replace(self, limits=limits, accuracy=min(self.accuracy + accuracy, 1.0))
        budget = (self.budget or 0.0) - costs[self.objective]
        return replace(self, limits=limits, budget=max(budget, 0.0))

    def surest(self) -> Goal:
        """Return the highest accuracy whatever it costs, or the lowest cost at any; the same limits."""
        if self.accuracy is None:
            return replace(self, budget=None, accuracy=0.0)
        return replace(self, budget=1e300, accuracy=None)

    def best(self, plan: Plan, grid: Grid, costs: Mapping[str, Floats]) -> Found | None:
        """Return the best point of a plan on a grid, under leaving costs per objective; or None."""
        own = grid.cost(costs[self.objective])
        allowed = self.allowed(grid, costs)
        if self.budget is not None:
            allowed &= own <= self.budget * (1 + NEAR)
        if self.accuracy is not None:
            allowed &= grid.value >= self.accuracy - NEAR
        if not allowed.any():
            return None
        first, second = (-grid.value, own) if self.accuracy is None else (own, -grid.value)
        worth = np.where(allowed, first, np.inf)
        near = worth <= worth.min() + 1e-12 * max(abs(float(worth.min())), 1.0)
        point = int(np.where(near, second, np.inf).argmin())
        thresholds = tuple(grid.thresholds(point).tolist())
        return Found(plan, thresholds, float(grid.value[point]), float(own[point]))

    def allowed(self, grid: Grid, costs: Mapping[str, Floats]) -> Bools:
        """Return which points of a grid keep the limits, (P,)."""
        allowed = np.ones(len(grid.value), dtype=bool)
        for one in self.limits:
            own = costs[one.cost]
            if one.share is None:
                allowed &= one.within(grid.cost(own))
            else:
                allowed &= grid.cost((~one.within(own)).astype(np.float64)) <= one.share + NEAR
        return allowed

    def kept(self, correct: Floats, paid: Mapping[str, Floats]) -> bool:
        """Return whether rows that are right so (N,), and cost this per objective, keep the goal."""
        budget = [] if self.budget is None else [Limit(self.objective, "mean", self.budget)]
        right = self.accuracy is None or float(correct.mean()) >= self.accuracy - NEAR
        return right and all(one.kept(paid[one.cost]) for one in (*self.limits, *budget))

    def rank(self, value: float, cost: float) -> tuple[float, float]:
        """Return what sorts outcomes, larger is better."""
        return (value, -cost) if self.accuracy is None else (-cost, value)


@dataclass(frozen=True)
class Found:
    """A plan with thresholds on the largest probability, and what they come to on the rows searched."""

    plan: Plan
    thresholds: tuple[float, ...]  # of the kept exits but the last
    value: float  # accuracy
    cost: float  # the goal's objective


@dataclass
class Searched:
    """What a search found."""

    #: The best point of each plan that can meet the goal, the best plan first.
    found: list[Found] = field(default_factory=list)
    #: Cost and accuracy, (P, 2), along the upper hull of each plan (beyond 1000: each undominated one).
    frontiers: list[tuple[Plan, Floats]] = field(default_factory=list)
    plans: int = 0  # cuts looked at
    dominated: int = 0  # and left out
    sets: int = 0  # of exits tried


def search(
    tiers: Tiers,
    table: Table,
    goal: Goal,
    *,
    exact: bool | None = None,
    seed: int = 0,
    drawn: int = _DRAWN,
) -> Searched:
    """Search plans on 20,000 labelled rows at most; `exact`: all sets of exits; `drawn`: frontiers that are kept."""
    tiers.check(table.exits, table.cascade, table.unit)
    table = subsample(table, _MOST_ROWS, seed)
    work = _Work(tiers, table, goal, drawn)
    if exact or (exact is None and table.exits <= _FEW):
        work.look(subsets(table.exits, table.exits))
    else:
        work.look([*subsets(table.exits, 2)])
        if table.exits <= _MOST:
            work.look([tuple(range(table.exits))])
        while work.look(work.neighbours()):
            pass
    found = sorted(work.out.found, key=work.rank, reverse=True)
    if not found:
        raise BudgetError(work.impossible())
    best = [work.trimmed(work.refined(one)) for one in found[:_BEAM]] + found[_BEAM:]
    first: dict[Plan, Found] = {}
    for one in sorted(best, key=work.rank, reverse=True):
        first.setdefault(one.plan, one)
    work.out.found = list(first.values())
    return work.out


def again(tiers: Tiers, table: Table, goal: Goal, plan: Plan) -> Found | None:
    """Search the thresholds of one plan on other rows; None where they cannot meet the goal."""
    work = _Work(tiers, table, goal)
    one = goal.best(plan, work.grid(plan.kept), work.costs([plan])[0])
    return None if one is None else work.refined(one)


class _Work:
    """The rows searched, and what was found so far."""

    def __init__(self, tiers: Tiers, table: Table, goal: Goal, drawn: int = _DRAWN) -> None:
        self.tiers, self.table, self.goal, self.drawn = tiers, table, goal, drawn
        self.scores = score_table(MaxProb(), table.statistics.outputs())
        self.quality = table.quality
        self.out, self.tried = Searched(), set[tuple[int, ...]]()
        self.best: dict[tuple[int, ...], tuple[float, float]] = {}
        self.least, self.most = np.inf, 0.0

    def rank(self, one: Found) -> tuple[float, float]:
        return self.goal.rank(one.value, one.cost)

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

    def grid(self, kept: tuple[int, ...], axes: Sequence[Floats] | None = None) -> Grid:
        """Return a grid of thresholds over a set of exits, by default as fine as its points allow."""
        if axes is None:
            gates = len(kept) - 1
            levels = min(_LEVELS, max(int(_CELLS ** (1 / gates)), 2)) if gates else 1
            axes = [axis(self.scores[:, k], levels) for k in kept[:-1]]
        return Grid(self.scores[:, kept], self.quality[:, kept], axes)

    def costs(self, plans: Sequence[Plan]) -> list[dict[str, Floats]]:
        """Return the leaving costs of plans, per objective that matters."""
        names = self.goal.objectives
        each = [costs_of(plans, self.tiers, name, self.table) for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*each, strict=True)]

    def refined(self, one: Found) -> Found:
        """Return a plan's point with each threshold in turn the best of many."""
        kept, costs = one.plan.kept, self.costs([one.plan])[0]
        fine = [axis(self.scores[:, k], _FINE) for k in kept[:-1]]
        for _ in range(_SWEEPS):
            before = one.thresholds
            for i in range(len(fine)):
                axes = [np.array([t]) for t in one.thresholds]
                axes[i] = np.unique([*fine[i], one.thresholds[i]])
                found = self.goal.best(one.plan, self.grid(kept, axes), costs)
                if found is not None and self.rank(found) > self.rank(one):
                    one = found
            if one.thresholds == before:
                break
        return one

    def trimmed(self, one: Found) -> Found:
        """Return a plan's point without the exits at which no row leaves: nothing else changes."""
        kept = one.plan.kept
        shares = self.grid(kept, [np.array([t]) for t in one.thresholds]).shares[0]
        places = np.flatnonzero(shares > 0)
        if len(places) == len(kept):
            return one
        smaller = one.plan.ending(tuple(kept[i] for i in places))
        thresholds = tuple(one.thresholds[i] for i in places[:-1])
        point = self.grid(smaller.kept, [np.array([t]) for t in thresholds])
        cost = float(point.cost(self.costs([smaller])[0][self.goal.objective])[0])
        return Found(smaller, thresholds, float(point.value[0]), cost)

    def impossible(self) -> str:
        """Return why no plan meets the goal."""
        goal, unit = self.goal, self.tiers.unit_of(self.goal.objective)
        none = self.most <= 0 if goal.budget is None else not np.isfinite(self.least)
        if goal.limits and none:
            asked = ", ".join(limit.text for limit in goal.limits)
            allowed = "such that some plan keeps it, which none does"
            return message("limit", allowed, asked, "Raise it.")
        where = " within the limits" if goal.limits else ""
        if goal.budget is not None:
            allowed = f"at least {self.least:.6g} {unit}{where}"
            return message("budget", allowed, f"{goal.budget:.6g}", "Raise it.")
        allowed = f"at most {100 * self.most:.2f} %, the best of any plan{where} on the fit rows"
        return message("accuracy", allowed, f"{100 * (goal.accuracy or 0):.2f} %", "Lower it.")

    def _one(self, kept: tuple[int, ...]) -> None:
        """Try all cuts of a set of exits."""
        plans = cuts(self.tiers, kept, self.table.cascade)
        costs = self.costs(plans)
        places = self._undominated(costs)
        self.out.plans += len(plans)
        self.out.dominated += len(plans) - len(places)
        grid = self.grid(kept)
        for i, plan in enumerate(plans):
            if i in places or self.out.plans <= self.drawn:
                self._frontier(plan, grid, costs[i])
        for i in places:
            one = self.goal.best(plans[i], grid, costs[i])
            if one is not None:
                self.out.found.append(one)
                self.best[kept] = max(self.best.get(kept, self.rank(one)), self.rank(one))

    def _frontier(self, plan: Plan, grid: Grid, costs: dict[str, Floats]) -> None:
        allowed = self.goal.allowed(grid, costs)
        if not allowed.any():
            return
        points = np.stack([grid.cost(costs[self.goal.objective]), grid.value], axis=1)[allowed]
        self.least = min(self.least, float(points[:, 0].min()))
        self.most = max(self.most, float(points[:, 1].max()))
        points = points[np.lexsort((-points[:, 1], points[:, 0]))]
        points = points[points[:, 1] > np.maximum.accumulate([-1.0, *points[:-1, 1]])]
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
