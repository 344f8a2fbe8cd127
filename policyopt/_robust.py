"""Fits for the mean or the worst of several parts of rows: streams, or the values of a column.

Any method is fitted, unchanged, on several weightings of the parts: the rows of the fit as they are, all parts alike,
and, for the worst, weights that follow the parts where policies do worst (group DRO by exponentiated gradient: Sagawa
et al., ICLR 2020; Nemirovski et al., SIAM J. Optim. 19, 2009), rows repeated or left out. Could policies be mixed at
will, the best for the worst part would be the best at the least favourable weights. The policies of many budgets are
judged part by part: of those that keep the budget the best is taken, or the cheapest that meets a floor; of equals
the cheaper. By what a fit's own cross-validation says that new rows cost more, or are worth less, each part does, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from policyopt._cache.data import GROUP, PART, RESERVED, Rows, some_rows
from policyopt._limits import NEAR
from policyopt._methods.base import Method, outcome_of, stated, validated
from policyopt._methods.choosing import OnExits
from policyopt._methods.fitted import Expectation, Fitted
from policyopt._methods.levels import MOST_REPLAYED, Levels, aims_of
from policyopt._methods.targets import Target, targets_of
from policyopt._online.drift import method_of
from policyopt._parts import alike, column, is_column, numbered
from policyopt._table import Table, Tables, known_rows
from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import BudgetError, input_error, message
from policyopt.runtime._typing import Floats, Ints

ROBUST = ("mean", "worst")
HALF = "[:50%]"  # of a stream: fitted on where nobody says which rows; the others are left to evaluate on
LEAST_ROWS = 30  # of a part: fewer do not show what it is worth
_ROUNDS, _STEP = 5, 1.5  # of the weights
_FINER = 6  # budgets tried between two


@dataclass(frozen=True, eq=False)
class Parts:
    """Rows of several parts."""

    table: Table  # whose rows have groups: an input's copies, in streams or repeated, are one
    at: Ints  # (N,): number of each row's part
    names: list[str]
    splits: list[str]  # that the parts' rows are of
    streams: bool  # populations of their own; else parts of one

    @property
    def shares(self) -> Floats:
        """What the parts count in the mean that is held against a budget, (G,): of streams all alike."""
        count = len(self.names)
        return np.full(count, 1 / count) if self.streams else np.bincount(self.at) / len(self.at)

    def means(self, values: Floats) -> Floats:
        """Return the mean of values (N,) in each part, (G,)."""
        return np.bincount(self.at, values) / np.bincount(self.at)

    def weighted(self, weights: Floats, seed: int) -> Table:
        """Return about as many rows, of each part its weight's share: some of its rows, or all and some again.

        What they are worth is weighted so, not what they cost on average where one population pays: a row that stands
        for less costs more.
        """
        rng, found = np.random.default_rng(seed), []
        for g, weight in enumerate(weights.tolist()):
            mine = rng.permutation(np.flatnonzero(self.at == g))
            found.append(np.resize(mine, max(int(weight * len(self.at) + NEAR), 1)))
        rows = np.sort(np.concatenate(found))
        table, at = self.table.take(rows), self.at[rows]
        if self.streams:
            return table
        scale = self.shares / (np.bincount(at) / len(at))
        costs = np.broadcast_to(table.costs, (len(at), table.exits)) * scale[at, None]
        return replace(table, costs=costs)


def parts_in(tables: Tables, split: str, over: Any) -> Parts:
    """Return the labelled rows that a fit over parts looks at: of streams, or of a split by a column."""
    data, streams = tables.data, not is_column(over)
    if streams:
        names = over.split(",") if isinstance(over, str) else over
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            allowed = "streams, names of splits, context, label, group, or a value per row"
            raise input_error("over", allowed, over, "An array (N,) or a file has values.")
        names = [name.strip() for name in names]
        known = [name for name in data.split_names if name not in RESERVED]
        names = known if names == ["streams"] else names
        if not any(names):
            allowed = f"names of streams: {', '.join(known) or 'this cache has none'}"
            step = "Name a column (label, context, a file), or `import STREAM=FILE`."
            raise input_error("over", allowed, over, step)
        splits = [n if PART.fullmatch(n) or n == split else n + HALF for n in names]
        taken = [data.rows(name) for name in splits]
        if any(a == b and np.isin(x, y).any() for (a, x), (b, y) in combinations(taken, 2)):
            allowed, step = "parts without a row in common", "Name each stream once, or halves."
            raise input_error("over", allowed, ", ".join(splits), step)
        at = np.repeat(np.arange(len(splits)), [len(rows) for _, rows in taken])
    else:
        rows = tables.get(split)
        names, at = numbered(column(data, rows, over, "over"), len(rows), "over")
        splits = [split] * len(names)
    table = _joined(tables, split, splits if streams else [split])
    kept = np.flatnonzero((at >= 0) & table.valued)
    few = kept
    if len(kept) > MOST_REPLAYED:
        few = kept[some_rows(len(kept), MOST_REPLAYED, 0, table.take(kept).group)]
    count = np.bincount(at[few], minlength=len(names)).tolist()
    if len(names) < 2 or min(count) < LEAST_ROWS:
        told = ", ".join(f"{n} {c}" for n, c in zip(names, count, strict=True) if c < LEAST_ROWS)
        allowed = f"of 2 parts or more, each of {LEAST_ROWS} labelled rows or more"
        step = "Join small ones: a file or an array with a value per row; or name other streams."
        raise input_error("over", allowed, told[:200] or f"{len(names)} part", step)
    return Parts(table.take(few), at[few], names, splits, streams)


def _joined(tables: Tables, split: str, names: Sequence[str]) -> Table:
    """Return the rows of several splits as one, called `split`; an input's copies are a group."""
    data, blocks, start = tables.data, list[Any](), dict[str, int]()
    found = [data.rows(name) for name in names]
    for key in dict.fromkeys(key for key, _ in found):
        source = data.splits[key]
        start[key] = sum(len(data.splits[before]) for before in start)
        kin = next(start[k] for k in start if alike(data.splits, k, key))
        group = source.array(GROUP) if source.has(GROUP) else kin + np.arange(len(source))
        for low, block in source.chunks(len(source)):
            size = len(next(iter(block.values())))
            blocks.append({**block, GROUP: group[low : low + size]})
    whole = replace(data, splits={split: Rows(tuple(blocks))}, shares={}, costs=tables.costs)
    joined = Tables(whole, tables.cost.name, utility=tables.utility).get(split)
    rows = np.concatenate([start[key] + rows for key, rows in found])
    return replace(joined, pool=data.division()).take(rows)


@dataclass(frozen=True, eq=False)
class Judged:
    """A policy, and what it is expected to cost and to be worth in each part, (G,)."""

    fitted: Fitted
    cost: Floats
    quality: Floats
    weights: Floats  # of the parts in its fit
    levels: Levels  # of that fit


def fit_robust(
    method: Method, tables: Tables, split: str, target: Target, robust: Any, over: Any, seed: int
) -> Fitted:
    """Return a method's best policy within a budget, or cheapest at a floor, for the mean or the worst of parts."""
    method = method.in_turn("robust")
    step = "E.g. robust='worst', over='context' (--robust worst --over context)."
    check_one_of("robust", robust, ROBUST, step)
    if over is None:
        raise input_error("over", "given with robust: streams, or a column", "none", step)
    if target.limits:
        raise input_error("limits", "absent with robust", target.text, "Give a budget or a floor.")
    parts = parts_in(tables, split, over)
    search, found = _Search(parts, target, robust == "worst", seed), list[Judged]()
    weights, chosen = np.full(len(parts.names), 1 / len(parts.names)), {}
    way, rows = method, parts.table
    if split not in {name.partition("[")[0] for name in parts.splits}:
        rows = known_rows(tables.get(split))
    if method.chooses:  # once: what does best at the target, all parts alike
        (one,) = method.fit_path(parts.weighted(weights, seed), [target], seed)
        way, chosen = method_of(one), {"chosen": (told := one.policy.provenance["chosen"])}
        if "exits" in told:
            way = OnExits(tuple(map(rows.active_exits.index, told["exits"])), way)
    for r in range(_ROUNDS if search.worst else 1):
        found += (mine := search.tried(Levels(way, parts.weighted(weights, seed), seed), weights))
        if mine:
            slack = max(mine, key=search.rank).quality - search.floor
            step = _STEP / (r + 1) ** 0.5 / max(float(np.ptp(slack)), 1e-9)
            weights = weights * np.exp(step * (slack.min() - slack))
            weights = weights / weights.sum()
    # Validated are the rows as they are and the weighting that looks best: of the others that is spared.
    mine = search.tried(Levels(way, rows, seed), parts.shares, validate=True)
    if found:
        best = max(found, key=search.rank)
        mine += search.tried(best.levels, best.weights, validate=True)
    if not mine:
        way.fit_path(rows, [target], seed)  # says why
    return search.stated(search.best(mine), method, way, chosen)


class _Search:
    """What a fit over parts is asked for, and what policies make of it."""

    def __init__(self, parts: Parts, target: Target, worst: bool, seed: int) -> None:
        self.parts, self.target, self.worst, self.seed = parts, target, worst, seed
        self.budget = target.most(parts.table)
        self.floor = np.full(len(parts.names), float(target.quality or target.accuracy or 0.0))
        if target.max_drop is not None:  # below the full model, in each part
            self.floor = parts.means(parts.table.quality[:, -1]) - float(target.max_drop)

    def tried(self, levels: Levels, weights: Floats, validate: bool = False) -> list[Judged]:
        """Return judged policies of budgets of the grid, and of finer ones where the budget or the floor is met."""
        base, most, found = self.parts, self.budget, dict[float, Judged | None]()
        table, aims = levels.table, aims_of(levels.table)  # solved already, or each is trained for
        if most is not None:
            aims = [*[aim for aim in aims if aim < most][:: 3 if levels.per_budget else 1], most]
        for _ in range(1 if levels.per_budget else 2):
            fits = validated(levels, targets_of(aims, table), self.seed, validate)
            for aim, one in zip(aims, fits, strict=True):
                found[aim] = None
                if isinstance(one, Fitted):
                    seen, own = (outcome_of(one.policy, rows) for rows in (base.table, table))
                    cost = base.means(seen.paid) + one.expected.cost - own.paid.mean()
                    quality = base.means(seen.right) + one.quality - own.right.mean()
                    found[aim] = Judged(one, cost, quality, weights, levels)
            less = [a for a, one in found.items() if not one or self.rank(one)[:2] == (True, False)]
            more = [aim for aim in found if less and aim > max(less)]
            if not more:
                break
            aims = np.linspace(max(less), min(more), _FINER + 2)[1:-1].tolist()
        return [one for one in found.values() if one]

    def rank(self, one: Judged) -> tuple[bool, bool, float, float]:
        """Return what orders policies: the budget, the floor, then cost where both are met or the first is not."""
        slack, dearest = one.quality - self.floor, self.worst and self.parts.streams
        spent = round(float(one.cost.max() if dearest else self.parts.shares @ one.cost), 12)
        worth = round(float(slack.min() if self.worst else slack.mean()), 12)
        within = self.budget is None or spent <= self.budget * (1 + NEAR)
        met = within and self.target.floored and worth >= -NEAR
        return (within, met, *((worth, -spent) if within and not met else (-spent, worth)))

    def best(self, tried: Sequence[Judged]) -> Judged:
        """Return the best within the budget, or the cheapest at the floor; refused where there is none."""
        best, table = max(tried, key=self.rank), self.parts.table
        within, met, *by = self.rank(best)
        if within and (met or not self.target.floored):
            return best
        if not within:
            allowed = f"at least {-by[0]:.6g} {table.unit} over these parts"
            step = "Raise it, or leave out a part."
            raise BudgetError(message("budget", allowed, f"{self.budget:.6g}", step))
        step = "Ask for less, allow more cost, or leave out a part."
        where = f" in the {'worst part' if self.worst else 'mean of the parts'}"
        worth = float(self.target.floor(table) or 0.0) + by[0]
        raise self.target.unmet(table, worth, -by[1], step, where)

    def stated(self, best: Judged, method: Method, way: Method, chosen: Any) -> Fitted:
        """Return the policy with what is to be expected of it, and where it comes from."""
        base, policy, shares = self.parts, best.fitted.policy, self.parts.shares
        names = ("part", "split", "rows", "weight", "cost", "quality")
        numbers = np.bincount(base.at), best.weights, best.cost, best.quality
        columns = base.names, base.splits, *(a.tolist() for a in numbers)
        parts = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        said = {
            **policy.provenance, "method": method.name, "settings": method.settings(), **chosen,
            "budget": self.budget, "target": self.target.text, "rows": len(base.at),
            "robust": {"for": "worst" if self.worst else "mean", "parts": parts},
        }  # fmt: skip
        # What is stated is of all parts: of streams, each as often.
        table = base.weighted(shares, self.seed) if base.streams else base.table
        costs = base.table.keep_exits(policy.active_exits).mean_costs + policy.overhead
        expected = Expectation(0.0, outcome_of(policy, table).paid, group=table.group)
        one = replace(
            best.fitted, policy=replace(policy, costs=costs, provenance=said), method=method.name,
            budget=self.budget, quality=float(shares @ best.quality), expected=expected,
        )  # fmt: skip
        return stated(way, one, table, float(shares @ best.cost))
