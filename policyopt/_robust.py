"""Fits for the mean or the worst of several parts of rows: streams, or the values of a column.

Any method is fitted, unchanged, on several weightings of the parts: the rows of the fit as they are, all parts alike,
and, for the worst, weights that follow the parts where the policies so far do worst (group DRO by exponentiated
gradient: Sagawa et al., ICLR 2020; Nemirovski et al., SIAM J. Optim. 19, 2009), rows repeated or left out. Could policies
be mixed at will, the best for the worst part would be the best at the least favourable weights. Levels of each are
judged part by part: of those that keep the budget the best is taken, or the cheapest that meets a floor; of equals the
cheaper one.

Rows that choose flatter. So all of it, weights and choice included, is done without each fold in turn, and by what the
rows left out cost more, or lose, in each part, the budget is lowered and the floor raised there. Above 5,000 rows that is
of no account, as for every fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policyopt._cache.data import GROUP, PART, RESERVED, Rows, folds_of, some_rows
from policyopt._limits import NEAR
from policyopt._methods.base import MOST_ROWS, Method, Outcome, off_of, outcome_of, stated
from policyopt._methods.fitted import Expectation, Fitted
from policyopt._methods.levels import MOST_REPLAYED, Levels
from policyopt._methods.targets import Target
from policyopt._parts import alike_rows, column, is_column, numbered
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
        """Return about as many rows, of each part its weight's share: some of its rows, or all and some again."""
        rng, found = np.random.default_rng(seed), []
        for g, weight in enumerate(weights.tolist()):
            mine = rng.permutation(np.flatnonzero(self.at == g))
            found.append(np.resize(mine, round(weight * len(self.at)) if len(mine) else 0))
        return self.table.take(np.sort(np.concatenate(found)))


@dataclass(frozen=True, eq=False)
class Judged:
    """A policy, and what it costs and is worth in each part, (G,)."""

    fitted: Fitted
    cost: Floats
    quality: Floats
    weights: Floats | None  # of the parts in the rows that it was fitted on; None: of the fit as they are
    aim: int  # its place among the method's aims


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
    return _Search(method, tables, split, target, robust, over, seed).fit()


def parts_in(tables: Tables, split: str, over: Any) -> Parts:
    """Return the rows that a fit over parts looks at, those with a label: of streams, or of a split by a column."""
    data, several = tables.data, is_column(over)
    if several:
        table = tables.get(split)
        names, at = numbered(column(data, table, over), len(table), "over")
        kept = np.flatnonzero((at >= 0) & table.valued)
        parts = Parts(_joined([table.take(kept)], tables), at[kept], names, [split], False)
    else:
        named = over.split(",") if isinstance(over, str) else list(over)
        if named == ["streams"]:
            named = [name for name in data.split_names if name not in RESERVED]
        whole = [s if PART.fullmatch(s) or s == split else s + HALF for s in map(str.strip, named)]
        of_each = [known_rows(tables.get(name)) for name in whole]
        at = np.repeat(np.arange(len(whole)), list(map(len, of_each)))
        parts = Parts(_joined(of_each, tables), at, named, whole, True)
    counts = np.bincount(parts.at, minlength=len(parts.names))
    if len(counts) < 2 or counts.min() < LEAST_ROWS:
        told = ", ".join(f"{n} {c}" for n, c in zip(parts.names, counts.tolist(), strict=True))
        step = "Leave out or join the smaller ones (over: a list of streams, or a value per row)."
        got = told[:200] or "none"
        raise input_error("over", f"2 parts or more, of {LEAST_ROWS} labelled rows each", got, step)
    few = some_rows(len(parts.at), MOST_REPLAYED, 0, parts.table.group)
    return parts.take(few) if len(few) < len(parts.at) else parts


def _joined(tables: Sequence[Table], all_tables: Tables) -> Table:
    """Return the rows of several tables as one; copies of an input, in streams or repeated, are a group."""
    splits, first = all_tables.data.splits, tables[0]
    keys = [next(k for k, rows in splits.items() if rows is one.source) for one in tables]
    blocks, places, start = [], [], 0
    for one, key in zip(tables, keys, strict=True):
        source = splits[key]
        kin = next(i for i, k in enumerate(keys) if k == key or alike_rows(splits, k, key))
        low, other = 0, tables[kin]
        group = source.array(GROUP) if source.has(GROUP) else np.arange(len(source)) + (kin << 40)
        if other is not one and one.split[-1:] == other.split[-1:] == "]":
            pairs = [one.places, other.places]
            if one.split.partition("[")[2] == other.split.partition("[")[2] and not np.array_equal(*pairs):
                step = "Give all streams the key group, or none."
                allowed = f"divided as '{other.split}', of the same inputs"
                raise input_error(f"split '{one.split}'", allowed, "other rows", step)
        for block in source.blocks:
            size = len(next(iter(block.values())))
            blocks.append({**block, GROUP: group[low : low + size]})
            low += size
        places.append(start + (np.arange(len(one)) if one.places is None else one.places))
        start += len(source)
    columns = {
        name: None if first_one is None else np.concatenate([vars(t.statistics)[name] for t in tables])
        for name, first_one in vars(first.statistics).items()
    }
    costs = first.costs if first.costs.ndim == 1 else np.concatenate([t.costs for t in tables])
    return replace(
        first, statistics=ExitStatistics(**columns), costs=costs, source=Rows(tuple(blocks)),
        places=np.concatenate(places),
    )  # fmt: skip


class _Search:
    """One robust fit."""

    def __init__(
        self, method: Method, tables: Tables, split: str, target: Target, robust: str, over: Any, seed: int
    ) -> None:  # fmt: skip
        self.method, self.target, self.seed, self.over = method, target, seed, over
        self.parts, self.split, self.worst = parts_in(tables, split, over), split, robust == "worst"
        self.apart = known_rows(tables.get(split)) if self.parts.streams else None
        base, self.groups = self.parts, len(self.parts.names)
        self.budget = target.most(base.table)
        self.floor = np.zeros(self.groups)
        if target.max_drop is not None:
            self.floor = base.means(base.table.quality[:, -1]) - float(target.max_drop)
        elif target.floored:
            self.floor += float(target.quality or target.accuracy or 0.0)
        self.alike = np.full(self.groups, 1 / self.groups)
        self.shares = self.alike if base.streams else np.bincount(base.at) / len(base.at)
        self.dearer, self.loses = np.zeros((2, self.groups))  # on rows left out
        self.way, self.chosen = method, dict[str, Any]()

    def fit(self) -> Fitted:
        """Choose, on all rows and without each fold; then again by what the folds have shown."""
        base, held = self.parts, None
        if self.method.chooses:  # once: what is best at the target, all parts alike
            levels = Levels(self.method, base.weighted(self.alike, self.seed), self.seed)
            choices: Any = levels.spend
            best = self._best(self._judged(levels, base, self.alike))
            name, self.way, _ = choices.choices[best.aim].ways[0]
            self.chosen = {"chosen": {"method": name, "settings": self.way.settings()}}
        best = self._best(self._tried(base))
        if self.way.validates and len(base.at) <= MOST_ROWS and base.table.units > 1:
            held = self._held_out(best)
            best = self._best(self._tried(base))
        return self._stated(best, held)

    def _held_out(self, best: Judged) -> Outcome | None:
        """Replay rows through what is chosen without their fold, and note what they cost more, and lose, by part."""
        base = self.parts
        fold = folds_of(len(base.at), _FOLDS, self.seed, base.table.group)
        paid, right, claimed = np.empty((3, len(fold)))
        for f in range(count := int(fold.max()) + 1):
            report(f, count, "cross-validating the fit")
            rows = np.flatnonzero(fold == f)
            try:
                one = self._best(self._tried(base.take(np.flatnonzero(fold != f))))
            except ValueError:  # not to be met without a fifth of the rows, or not to be fitted
                return None
            seen = outcome_of(one.fitted.policy, base.table.take(rows))
            paid[rows], right[rows], claimed[rows] = seen.paid, seen.right, one.cost[base.at[rows]]
        whole, group = outcome_of(best.fitted.policy, base.table), base.table.group
        self.loses = base.means(whole.right - right)
        mine = [np.flatnonzero(base.at == g) for g in range(self.groups)] if base.streams else [...]
        off = [
            off_of(paid[m], claimed[m], fold[m], whole.paid[m], 0.0, None if group is None else group[m])
            for m in mine
        ]
        self.dearer = np.broadcast_to(np.array(off), self.groups)
        return Outcome(paid, right)

    def _tried(self, base: Parts) -> list[Judged]:
        """Return judged policies of all weightings of the parts."""
        plain = base.table if self.apart is None else self.apart
        own = [g for g, name in enumerate(base.splits) if name.partition("[")[0] == self.split]
        if base.streams and own:  # the rows of the fit are a part themselves
            plain = base.take(np.isin(base.at, own)).table
        found = self._judged(Levels(self.way, plain, self.seed), base, None)
        weights = self.alike
        for r in range(_ROUNDS if self.worst else 1):
            levels = Levels(self.way, base.weighted(weights, self.seed), self.seed)
            mine = self._judged(levels, base, weights)
            found += mine
            if mine:
                slack = self._slack(self._best(mine, strict=False))
                step = _STEP / (r + 1) ** 0.5 / max(float(np.ptp(slack)), 1e-9)
                weights = weights * np.exp(step * (slack.min() - slack))
                weights = weights / weights.sum()
        return found

    def _judged(self, levels: Levels, base: Parts, weights: Floats | None) -> list[Judged]:
        """Return the levels at aims of the grid, and at finer ones where the budget or the floor is met."""
        found: list[Judged] = []
        several = levels.per_budget and self.budget is not None
        aims = [self.budget * part for part in _TRAINED_AT] if several else levels.aims

        def tried(aim: float, place: int) -> Judged | None:
            level = levels.tried([aim])[0]
            if isinstance(level, BudgetError):
                return None
            fitted = levels.frozen(level, aim)
            seen = outcome_of(fitted.policy, base.table)
            one = Judged(fitted, base.means(seen.paid), base.means(seen.right), weights, place)
            found.append(one)
            return one

        grid = [tried(aim, place) for place, aim in enumerate(aims)]
        if levels.per_budget or self.way.chooses or self.method.fixed:
            return found

        def below(one: Judged | None) -> bool:
            floor, budget = self.target.floored, self.budget
            return one is None or (not self._met(one) if floor else self._spent(one) <= budget)

        last = max((i for i, one in enumerate(grid) if below(one)), default=-1)
        if 0 <= last < len(aims) - 1:
            bisect(lambda aim: below(tried(aim, last)), aims[last], aims[last + 1], _HALVINGS)
        return found

    def _spent(self, one: Judged) -> float:
        """Return what is held against the budget: the dearest stream's cost for the worst, else the mean."""
        cost = one.cost + self.dearer
        return float(cost.max() if self.worst and self.parts.streams else self.shares @ cost)

    def _slack(self, one: Judged) -> Floats:
        return one.quality - self.loses - self.floor

    def _worth(self, one: Judged) -> float:
        slack = self._slack(one)
        return float(slack.min() if self.worst else slack.mean())

    def _met(self, one: Judged) -> bool:
        return self._worth(one) >= -NEAR

    def _best(self, tried: Sequence[Judged], strict: bool = True) -> Judged:
        """Return the best within the budget, or the cheapest at the floor; not `strict`: what comes nearest."""
        most = np.inf if self.budget is None else self.budget * (1 + NEAR)
        within = [one for one in tried if self._spent(one) <= most]
        if not within:
            least = min(tried, key=self._spent)
            if not strict:
                return least
            allowed = f"at least {self._spent(least):.6g} {least.fitted.policy.unit} over these parts"
            raise BudgetError(message("budget", allowed, f"{self.budget:.6g}", "Raise it."))
        best = max(within, key=lambda one: (round(self._worth(one), 12), -self._spent(one)))
        met = [one for one in within if self._met(one)] if self.target.floored else []
        if met:
            return min(met, key=lambda one: (round(self._spent(one), 12), -self._worth(one)))
        if strict and self.target.floored:
            reached = float((self._slack(best) + self.floor).min())
            step = "Ask for less, allow more cost, or leave out a part."
            within_text = f" in the {'worst part' if self.worst else 'mean'}"
            raise self.target.unmet(self.parts.table, reached, self._spent(best), step, within_text)
        return best

    def _stated(self, best: Judged, held: Outcome | None) -> Fitted:
        """Return the policy with what is to be expected of it, and where it comes from."""
        base, one = self.parts, best.fitted
        cost, quality = best.cost + self.dearer, best.quality - self.loses
        weights = self.shares if best.weights is None else best.weights
        parts = [
            {"part": name, "split": base.splits[g if base.streams else 0], "rows": int((base.at == g).sum()),
             "weight": float(weights[g]), "cost": float(cost[g]), "quality": float(quality[g])}
            for g, name in enumerate(base.names)
        ]  # fmt: skip
        said = {
            **one.policy.provenance, "method": self.method.name, "settings": self.method.settings(), **self.chosen,
            "budget": self.budget, "target": self.target.text, "rows": len(base.at), "split": self.split,
            "robust": {
                "for": "worst" if self.worst else "mean", "weighted": best.weights is not None,
                "over": self.over if isinstance(self.over, str) else None, "parts": parts,
            },
        }  # fmt: skip
        mean, table = float(self.shares @ cost), base.table
        if base.streams:  # each as often
            table = base.weighted(self.alike, self.seed)
        paid = outcome_of(one.policy, table).paid
        one = replace(
            one, policy=replace(one.policy, provenance=said), method=self.method.name, budget=self.budget,
            quality=float(self.shares @ quality), expected=Expectation(mean, paid, group=table.group),
        )  # fmt: skip
        return stated(self.way, one, table, mean, held if table is base.table else None)
