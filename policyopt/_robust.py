"""Fits for the mean or the worst of several parts of rows: streams, or the values of a column.

Any method is fitted, unchanged, on several weightings of the parts: the rows of the fit as they are, all parts alike,
and, for the worst, weights that follow the parts where policies do worst (group DRO by exponentiated gradient: Sagawa
et al., ICLR 2020; Nemirovski et al., SIAM J. Optim. 19, 2009), rows repeated or left out. Could policies be mixed at
will, the best for the worst part would be the best at the least favourable weights. The levels of each are judged part
by part: of those that keep the budget the best is taken, or the cheapest that meets a floor; of equals the cheaper.

Rows that choose flatter. So all of it, weights and choice included, is done without each fold in turn, and by what the
rows left out cost more, or lose, in each part, the budget is lowered and the floor raised there. Above 5,000 rows that
is of no account, as for every fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policyopt._cache.data import GROUP, PART, RESERVED, Rows, folds_of, some_rows
from policyopt._limits import NEAR
from policyopt._methods.base import MOST_ROWS, Method, off_of, outcome_of, stated
from policyopt._methods.fitted import Expectation, Fitted
from policyopt._methods.levels import MOST_REPLAYED, Levels
from policyopt._methods.targets import Target
from policyopt._parts import alike, column, is_column, numbered
from policyopt._progress import report
from policyopt._table import ExitStatistics, Table, Tables, known_rows
from policyopt._thresholds.budget_search import bisect
from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import BudgetError, input_error, message
from policyopt.runtime._typing import Array, Floats, Ints

ROBUST = ("mean", "worst")
HALF = "[:50%]"  # of a stream: fitted on where nobody says which rows; the others are left to evaluate on
LEAST_ROWS = 30  # of a part: fewer do not show what it is worth
_ROUNDS, _STEP = 5, 1.5  # of the weights
_HALVINGS, _FOLDS = 5, 5
_TRAINED_AT = (0.7, 0.85, 1.0)  # of the budget, where each is trained for


@dataclass(frozen=True, eq=False)
class Parts:
    """Rows of several parts."""

    table: Table
    at: Ints  # (N,): number of each row's part
    names: list[str]
    splits: list[str]  # that the parts' rows are of
    streams: bool  # populations of their own; else parts of one

    def take(self, rows: Array) -> Parts:
        """Return some of the rows."""
        return replace(self, table=self.table.take(rows), at=self.at[rows])

    def means(self, values: Floats) -> Floats:
        """Return the mean of values (N,) in each part, (G,); 0 of none."""
        count = np.bincount(self.at, minlength=len(self.names))
        return np.bincount(self.at, values, len(self.names)) / np.maximum(count, 1)

    def weighted(self, weights: Floats, seed: int) -> Table:
        """Return about as many rows, of each part its weight's share: some of its rows, or all and some again.

        What they are worth is weighted so, not what they cost on average where one population pays: a row that stands
        for less costs more.
        """
        rng, found = np.random.default_rng(seed), []
        for g, weight in enumerate(weights.tolist()):
            mine = rng.permutation(np.flatnonzero(self.at == g))
            found.append(np.resize(mine, round(weight * len(self.at)) if len(mine) else 0))
        rows = np.sort(np.concatenate(found))
        table, at = self.table.take(rows), self.at[rows]
        if self.streams:
            return table
        scale = np.bincount(self.at) / len(self.at) / (np.bincount(at) / len(at))
        costs = np.broadcast_to(table.costs, (len(at), table.exits)) * scale[at, None]
        return replace(table, costs=costs)


@dataclass(frozen=True, eq=False)
class Judged:
    """A policy, and what it costs and is worth in each part, (G,)."""

    fitted: Fitted
    cost: Floats
    quality: Floats
    weights: Floats | None  # of the parts in its fit; None: rows as they are
    aim: float


def fit_robust(
    method: Method, tables: Tables, split: str, target: Target, robust: Any, over: Any, seed: int
) -> Fitted:
    """Return a method's best policy within a budget, or cheapest at a floor, for the mean or the worst of parts."""
    step = "E.g. robust='worst', over='context' (--robust worst --over context)."
    check_one_of("robust", robust, ROBUST, step)
    if over is None:
        raise input_error("over", "given with robust: streams, or a column", "none", step)
    if target.limits:
        raise input_error("limits", "absent with robust", target.text, "Give a budget or a floor.")
    parts, rows = parts_in(tables, split, over), known_rows(tables.get(split))
    return _Search(method, parts, rows, target, robust == "worst", seed).fit()


def parts_in(tables: Tables, split: str, over: Any) -> Parts:
    """Return the labelled rows that a fit over parts looks at: of streams, or of a split by a column."""
    if is_column(over):
        table = tables.get(split)
        names, at = numbered(column(tables.data, table, over, "over"), len(table), "over")
        kept = np.flatnonzero((at >= 0) & table.valued)
        table, splits = _joined([table.take(kept)], tables), [split] * len(names)
        parts = Parts(table, at[kept], names, splits, False)
    else:
        names = over.split(",") if isinstance(over, str) else over
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            allowed = "streams, names of splits, context, label, group, or a value per row"
            raise input_error("over", allowed, over, "An array (N,) or a file has values.")
        names = [name.strip() for name in names]
        if names == ["streams"]:
            names = [name for name in tables.data.split_names if name not in RESERVED]
        whole = [n if PART.fullmatch(n) or n == split else n + HALF for n in names]
        of_each = [known_rows(tables.get(name)) for name in whole]
        at = np.repeat(np.arange(len(whole)), list(map(len, of_each)))
        parts = Parts(_joined(of_each, tables), at, names, whole, True)
    counts = np.bincount(parts.at, minlength=len(names)).tolist()
    if len(counts) < 2 or min(counts) < LEAST_ROWS:
        told = ", ".join(f"{n} {c}" for n, c in zip(names, counts, strict=True) if c < LEAST_ROWS)
        allowed = f"of 2 parts or more, each of {LEAST_ROWS} labelled rows or more"
        step = "Join small ones: a file or an array with a value per row; or name other streams."
        raise input_error("over", allowed, told[:200] or f"{len(counts)} part", step)
    few = some_rows(len(parts.at), MOST_REPLAYED, 0, parts.table.group)
    return parts.take(few) if len(few) < len(parts.at) else parts


def _joined(tables: Sequence[Table], every: Tables) -> Table:
    """Return the rows of several tables as one; an input's copies, in streams or repeated, are a group."""
    splits, first = every.data.splits, tables[0]
    keys = [every.data.rows(one.split)[0] for one in tables]
    blocks, places, start = [], [], 0
    for one, key in zip(tables, keys, strict=True):
        source, kin = splits[key], next(i for i, k in enumerate(keys) if alike(splits, k, key))
        alone = np.arange(len(source)) + (kin << 40)
        group = source.array(GROUP) if source.has(GROUP) else alone
        ends = np.cumsum([len(next(iter(block.values()))) for block in source.blocks])[:-1]
        each = zip(source.blocks, np.split(group, ends), strict=True)
        blocks += [{**block, GROUP: codes} for block, codes in each]
        places.append(start + (alone - alone[0] if one.places is None else one.places))
        start += len(source)
    stats = [vars(one.statistics) for one in tables]
    columns: dict[str, Any] = {
        n: None if any(s[n] is None for s in stats) else np.concatenate([s[n] for s in stats])
        for n in stats[0]
    }
    costs = first.costs if first.costs.ndim == 1 else np.concatenate([t.costs for t in tables])
    return replace(
        first, statistics=ExitStatistics(**columns), costs=costs, source=Rows(tuple(blocks)),
        places=np.concatenate(places),
    )  # fmt: skip


class _Search:
    """One fit over parts."""

    def __init__(
        self, method: Method, parts: Parts, rows: Table, target: Target, worst: bool, seed: int
    ) -> None:
        self.method, self.parts, self.rows, self.target, self.worst, self.seed = (
            method,
            parts,
            rows,
            target,
            worst,
            seed,
        )
        base, count = parts.table, len(parts.names)
        self.budget = target.most(base)
        self.most = np.inf if self.budget is None else self.budget * (1 + NEAR)
        self.floor = np.full(count, float(target.quality or target.accuracy or 0.0))
        if target.max_drop is not None:  # below the full model, in each part
            self.floor = parts.means(base.quality[:, -1]) - float(target.max_drop)
        self.alike = np.full(count, 1 / count)
        self.shares = self.alike if parts.streams else np.bincount(parts.at) / len(parts.at)
        self.dearer, self.loses = np.zeros((2, count))  # on rows left out
        self.way, self.chosen = method, dict[str, Any]()

    def fit(self) -> Fitted:
        """Choose on all rows, and without each fold; then again by what the folds have shown."""
        base = self.parts
        if self.method.chooses:  # once: what does best at the target, all parts alike
            levels = Levels(self.method, base.weighted(self.alike, self.seed), self.seed)
            choices: Any = levels.spend
            aim = self._best(self._judged(levels, base, self.alike)).aim
            place = int(np.abs(np.array(levels.aims) - aim).argmin())
            name, self.way, _ = choices.choices[place].ways[0]
            self.chosen = {"chosen": {"method": name, "settings": self.way.settings()}}
        best = self._best(self._tried(base))
        if self.way.validates and len(base.at) <= MOST_ROWS and base.table.units > 1:
            self._validate(best)
            best = self._best(self._tried(base))
        return self._stated(best)

    def _validate(self, best: Judged) -> None:
        """Note by how much rows cost more, and lose, in each part through what is chosen without their fold."""
        base, group = self.parts, self.parts.table.group
        assert group is not None
        fold = folds_of(len(base.at), _FOLDS, self.seed, group)
        paid, right, claimed = np.empty((3, len(fold)))
        for f in range(count := int(fold.max()) + 1):
            report(f, count, "cross-validating the fit")
            rows = np.flatnonzero(fold == f)
            try:
                one = self._best(self._tried(base.take(np.flatnonzero(fold != f))))
            except ValueError:  # cannot be met, or fitted, without a fifth of the rows
                return
            seen = outcome_of(one.fitted.policy, base.table.take(rows))
            paid[rows], right[rows], claimed[rows] = seen.paid, seen.right, one.cost[base.at[rows]]
        whole = outcome_of(best.fitted.policy, base.table)
        self.loses = base.means(whole.right - right)
        for g in range(len(base.names)):  # of one population, alike in all
            m = base.at == g if base.streams else base.at >= 0
            each = np.unique(fold[m], return_inverse=True)[1]
            if each.max():
                self.dearer[g] = off_of(paid[m], claimed[m], each, whole.paid[m], 0.0, group[m])

    def _tried(self, base: Parts) -> list[Judged]:
        """Return judged policies of all weightings of the parts."""
        own = [name.partition("[")[0] == self.rows.split for name in base.splits]
        rows = base.take(np.flatnonzero(np.array(own)[base.at])).table if any(own) else self.rows
        levels, weights = Levels(self.way, rows, self.seed), self.alike
        found = self._judged(levels, base, None)
        for r in range(_ROUNDS if self.worst else 1):
            levels = Levels(self.way, base.weighted(weights, self.seed), self.seed)
            mine = self._judged(levels, base, weights)
            found += mine
            if mine:
                slack = self._slack(self._best(mine, strict=False))
                step = _STEP / (r + 1) ** 0.5 / max(float(np.ptp(slack)), 1e-9)
                weights = weights * np.exp(step * (slack.min() - slack))
                weights = weights / weights.sum()
        if not found:
            levels.at([levels.aims[-1] if self.budget is None else self.budget])  # says why
        return found

    def _judged(self, levels: Levels, base: Parts, weights: Floats | None) -> list[Judged]:
        """Return the levels at aims of the grid, and at finer ones where the budget or the floor is met."""
        found: list[Judged] = []

        def below(aim: float) -> bool:
            """Judge a level; whether an aim may be higher: there is budget left, or the floor is not met."""
            level = levels.tried([aim])[0]
            if isinstance(level, BudgetError):
                return True
            fitted = levels.frozen(level, aim)
            policy = fitted.policy
            costs = base.table.keep_exits(policy.active_exits).mean_costs + policy.overhead
            fitted = replace(fitted, policy=replace(policy, costs=costs))
            seen = outcome_of(fitted.policy, base.table)
            one = Judged(fitted, base.means(seen.paid), base.means(seen.right), weights, aim)
            found.append(one)
            return not self._met(one) if self.target.floored else self._spent(one) <= self.most

        aims, trained = levels.aims, levels.per_budget
        if self.budget is not None:
            own = [self.budget * part for part in _TRAINED_AT]
            aims = own if trained else sorted({*aims, self.budget})
        up = [place for place, aim in enumerate(aims) if below(aim)]
        if up and up[-1] < len(aims) - 1 and not (trained or levels.method.chooses):
            bisect(below, aims[up[-1]], aims[up[-1] + 1], _HALVINGS)
        return found

    def _spent(self, one: Judged) -> float:
        """Return what is held against the budget: for the worst stream the dearest one's cost, else the mean."""
        cost = one.cost + self.dearer
        return float(cost.max() if self.worst and self.parts.streams else self.shares @ cost)

    def _slack(self, one: Judged) -> Floats:
        return one.quality - self.loses - self.floor

    def _worth(self, one: Judged) -> float:
        slack = self._slack(one)
        return round(float(slack.min() if self.worst else slack.mean()), 12)

    def _met(self, one: Judged) -> bool:
        return self.target.floored and self._worth(one) >= -NEAR

    def _best(self, tried: Sequence[Judged], strict: bool = True) -> Judged:
        """Return the best within the budget, or the cheapest at the floor; not `strict`: what comes nearest."""
        within = [one for one in tried if self._spent(one) <= self.most]
        met = [one for one in within if self._met(one)]
        if met:
            return min(met, key=lambda one: (round(self._spent(one), 12), -self._worth(one)))
        if within and not (strict and self.target.floored):
            return max(within, key=lambda one: (self._worth(one), -self._spent(one)))
        near = min(tried, key=self._spent) if not within else max(within, key=self._worth)
        if not strict:
            return near
        cost, unit = self._spent(near), self.parts.table.unit
        if not within:
            allowed, given = f"at least {cost:.6g} {unit} over these parts", f"{self.budget:.6g}"
            raise BudgetError(message("budget", allowed, given, "Raise it, or leave out a part."))
        step = "Ask for less, allow more cost, or leave out a part."
        where = f" in the {'worst part' if self.worst else 'mean of the parts'}"
        best = float(self.target.floor(self.parts.table) or 0.0) + self._worth(near)
        raise self.target.unmet(self.parts.table, best, cost, step, where)

    def _stated(self, best: Judged) -> Fitted:
        """Return the policy with what is to be expected of it, and where it comes from."""
        base, one = self.parts, best.fitted
        cost, quality = best.cost + self.dearer, best.quality - self.loses
        said, weights = one.policy.provenance, self.shares if best.weights is None else best.weights
        parts = [
            {"part": name, "split": base.splits[g], "cache": said["cache"], "pool": said.get("pool"),
             "rows": int((base.at == g).sum()), "weight": float(weights[g]), "cost": float(cost[g]),
             "quality": float(quality[g])}
            for g, name in enumerate(base.names)
        ]  # fmt: skip
        said = {
            **said, "method": self.method.name, "settings": self.method.settings(), **self.chosen,
            "budget": self.budget, "target": self.target.text, "rows": len(base.at), "split": self.rows.split,
            "robust": {"for": "worst" if self.worst else "mean", "parts": parts},
        }  # fmt: skip
        # What is stated is of all parts: of streams, each as often.
        table = base.weighted(self.alike, self.seed) if base.streams else base.table
        paid = outcome_of(one.policy, table).paid
        one = replace(
            one, policy=replace(one.policy, provenance=said), method=self.method.name, budget=self.budget,
            quality=float(self.shares @ quality), expected=Expectation(0.0, paid, group=table.group),
        )  # fmt: skip
        return stated(self.way, one, table, float(self.shares @ cost))
