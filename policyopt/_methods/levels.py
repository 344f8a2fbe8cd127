"""What one fit offers at any budget: a budget is a limit, and more of it is never worse.

A method spends the budget that it is given. Where a later exit is worse than an earlier one, or no better, spending
it does harm, or buys nothing. So the method is solved at aims of a fixed grid, between which it is halved towards
the budget; each solution is also tried with a last exit j that it never passes (what goes on beyond j stays there),
and "all leave at exit j" is tried. Of all that costs no more than the budget, taken is what maximises

    mean quality - price * mean cost

on the rows that chose it. The price makes the cheaper one of policies that are equal within noise win: to spend the
whole range from exit 0 to exit K-1 must buy at least one standard error of the difference between the two exits'
quality, and a part of the range that part of it; it vanishes with the square root of the rows. The maximum over a
growing set is never of less quality: ``V' - p c' >= V - p c`` and ``c' > c`` give ``V' >= V``. Between two points of
the grid only what lies between their qualities is accepted, so that budgets fitted one at a time are in order, too.

Rows that chose among methods flatter the one with most to choose. So levels of different methods are not compared by
their quality on these rows: where one method chooses among others (`policyopt._methods.choosing`), its level at an aim
is that of the method chosen there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from policyopt._costs import positions
from policyopt._intervals import by_group, standard_error
from policyopt._limits import NEAR, Limit
from policyopt._methods.fitted import Draft, Fitted, build_fitted, claim_of, expectation, own_costs
from policyopt._replay import trace
from policyopt._table import Table, known_rows, subsample
from policyopt._thresholds.budget_search import bisect
from policyopt._thresholds.problem import Problem, Solution
from policyopt.runtime._answers import AnswerRule, Identity
from policyopt.runtime._errors import BudgetError, message
from policyopt.runtime._policy import ALWAYS, NEVER, first_exit
from policyopt.runtime._scores import Constant, ScoreRule
from policyopt.runtime._typing import Array, Floats, Ints

#: From budgets to solved drafts, trained once; a budget that cannot be met is a `BudgetError`.
Spend = Callable[[Sequence[float]], Sequence[Draft]]
SPENDS = ("needed", "all")
#: Aims between exit 0 and exit K-1, at even positions: those of ``--budgets 9``.
GRID = 9
_HALVINGS, _AIMED, _NEARER = 3, 3, 5
MOST_REPLAYED = 100_000  # rows: as many as fits look at
#: Rows that anything is learned from. Of a random million every quantile is within 0.14 points of that of all rows, in
#: 95 of 100 draws (Massart, Annals of Probability 18, 1990).
_MOST_FITTED = 1_000_000
#: Of an aim: to spend less is worth a remark.
SPARED = 0.95


@dataclass(frozen=True, eq=False)
class Level:
    """A solved draft, what it costs and is worth on the rows that chose it."""

    draft: Draft
    cost: float  # as the draft claims
    value: float  # NaN without labels
    #: Of each side of a coin: share, and the place each row leaves at, (N,).
    taken: tuple[tuple[float, Ints], ...]
    last: int  # no row passes this place

    def mean(self, columns: Floats) -> float:
        """Return the mean over rows of what lies in columns, (K,) or (N, K), at the place that each leaves at."""
        return float(sum(w * _at(columns, t, self.last).mean() for w, t in self.taken))

    @property
    def alike(self) -> bool:
        """Whether all rows leave at one exit, with an answer that learned nothing: rows chose nothing else."""
        one = all((np.minimum(taken, self.last) == self.place).all() for _, taken in self.taken)
        return one and isinstance(self.draft.answer, Identity)

    @property
    def place(self) -> int:
        """Where the first row leaves."""
        return int(min(self.taken[0][1][0], self.last))


class Levels:
    """The levels of one method on one table."""

    def __init__(self, method: Any, table: Table, seed: int) -> None:
        self.method, self._seed = method, seed
        if method.requires_labels() and not method.unlabelled:
            table = known_rows(table)
        table = subsample(table, _MOST_FITTED, 0)
        own = method.proposes
        self.spend: Spend = proposed(method, table, seed) if own else method.trained(table, seed)
        self.table, self._rows = table, subsample(known_rows(table), MOST_REPLAYED, 0)
        self._valued = self._rows.labelled
        self.limited = method.limits and self._valued
        self.price = price_of(self._rows) if self.limited else 0.0
        self.aims, self.per_budget = aims_of(table), method.per_budget or own
        self._seen: dict[Any, tuple[ScoreRule, Any]] = {}  # held, so that an id stays its rule's
        self._answered: tuple[AnswerRule, Array] | None = None
        self._known: dict[float, list[Level]] = {}
        self._worth: Callable[[Level], float] = lambda level: level.value
        self._limits: tuple[Limit, ...] = ()
        self._keeps: dict[Level, bool] = {}
        self._grid: list[Level | None] | None = None
        self.validation: Any = None  # what folds say of these levels, once they are asked

    def fit(self, budgets: Sequence[float]) -> list[Fitted]:
        """Return the policy of each budget."""
        return [self.frozen(level, b) for level, b in zip(self.at(budgets), budgets, strict=True)]

    def fit_grid(self) -> list[Fitted | None]:
        """Return the policies of `aims`, None where one cannot be met."""
        pairs = zip(self.on_grid(), self.aims, strict=True)
        return [None if level is None else self.frozen(level, aim) for level, aim in pairs]

    def frozen(self, level: Level, budget: float) -> Fitted:
        """Return the policy of a level."""
        return build_fitted(self.method, level.draft, budget, self._seed)

    def at(self, budgets: Sequence[float]) -> list[Level]:
        """Return the level of each budget; budgets that cannot be met are refused."""
        if not self.limited:
            return [self._levels(draft)[-1] for draft in self.spend(budgets)]
        if self.per_budget:
            known = dict(zip(self.aims, self._grid or (), strict=False))  # trained for already
            there = [level for budget in budgets if (level := known.get(budget)) is not None]
            return there if len(there) == len(budgets) else self._of_those(budgets)
        found: dict[float, Level] = {}
        before = -np.inf
        for budget in sorted(set(budgets)):
            found[budget] = self._at(budget, before)
            before = self._worth(found[budget])
        return [found[budget] for budget in budgets]

    def by(self, worth: Callable[[Level], float]) -> Levels:
        """Return the same by another worth, where cost is no reason to forgo any of it."""
        _ = self._solutions  # made once for both
        found = copy(self)
        found.price, found._grid, found._worth = 0.0, None, worth
        found.limited = self._valued and not self.method.fixed
        return found

    @cached_property
    def full(self) -> float:
        """Quality of the full model, on the rows that levels are valued on."""
        return float(self._rows.quality[:, -1].mean())

    def error(self, level: Level) -> float:
        """Return the standard error of what a level gains against the full model: 0 of that itself."""
        # As if one more row told them apart: that none does, of a few, does not say that none will.
        exit_ = level.draft.table.active_exits[level.place]
        if level.alike and exit_ == self.table.active_exits[-1]:
            return 0.0
        quality = self._quality(level.draft)
        gains = sum(w * _at(quality, t, level.last) for w, t in level.taken)
        each = by_group(gains - self._rows.quality[:, -1], self._rows.group)
        return float((len(each) * each.var() + 1.0) ** 0.5 / len(each))

    def keeping(self, limits: tuple[Limit, ...]) -> Levels:
        """Return those of the levels that keep limits, and finer ones about where they cease to."""
        _ = self._solutions
        found = copy(self)
        found._grid, found._limits, found._keeps, found._known = None, limits, {}, dict(self._known)
        if not self.per_budget:
            for (low, below), (high, above) in pairwise(sorted(self._known.items())):
                for place, (one, other) in enumerate(zip(below, above, strict=False)):
                    alike = one.draft.table.active_exits == other.draft.table.active_exits
                    if alike and found._kept(one) and not found._kept(other):
                        found._halve(low, high, place)
        return found

    def _halve(self, low: float, high: float, place: int) -> None:
        """Solve for aims about the one up to which levels that end at a place keep the limits."""

        def kept(aim: float) -> bool:
            levels = self._solved(aim)
            return place < len(levels) and self._kept(levels[place])

        bisect(kept, low, high, _NEARER)

    def _kept(self, level: Level) -> bool:
        """Return whether a level keeps the limits, if there are any."""
        if level not in self._keeps:
            self._keeps[level] = all(self.kept(level, limit) for limit in self._limits)
        return self._keeps[level]

    @cached_property
    def _solutions(self) -> list[list[Level]]:
        return self._where_possible(self.aims)

    def tried(self, budgets: Sequence[float]) -> list[Level | BudgetError]:
        """Return the level of each budget, or why it cannot be met."""
        try:
            return list(self.at(budgets))
        except BudgetError as error:
            if len(budgets) == 1:
                return [error]
            return [self.tried([budget])[0] for budget in budgets]

    def on_grid(self) -> list[Level | None]:
        """Return the levels of `aims`, None where one cannot be met."""
        if self._grid is None:
            solved = self._solutions
            if self._ready:
                self._grid = []
                for levels in solved:
                    one, before = levels[-1] if levels else None, (self._grid or [None])[-1]
                    worse = one is None or (before is not None and one.value < before.value)
                    self._grid.append(before if worse else one)
            elif self.limited:
                self._grid = self._within([one for levels in solved for one in levels], solved)
            else:
                self._grid = [levels[-1] if levels else None for levels in solved]
        return self._grid

    def kept(self, level: Level, limit: Limit) -> bool:
        """Return whether a level's rows keep a limit."""
        return limit.kept(*self._paid(level, limit))

    def reached(self, level: Level, limit: Limit) -> float:
        """Return what a level's rows reach of a limit."""
        return limit.reached(*self._paid(level, limit))

    def _paid(self, level: Level, limit: Limit) -> tuple[Floats, Floats]:
        """Return what rows pay of a limit's cost, and their weights."""
        costs = self._costs(level.draft)
        if limit.cost and limit.cost != self.table.cost_name:
            rows = self._rows.keep_exits(level.draft.table.active_exits)
            costs = rows.costs_of(limit.cost)
        paid = np.concatenate([_at(costs, taken, level.last) for _, taken in level.taken])
        weights = np.concatenate([np.full(len(taken), w) for w, taken in level.taken])
        return paid, weights

    def spared(self, level: Level, aim: float, budget: float) -> str | None:
        """Return what is said where a level leaves much of its aim: by how much, and why."""
        if not self.limited or level.cost >= SPARED * aim:
            return None
        unit = self.table.unit
        own = [] if self.per_budget or self._ready else self._where_possible([aim])[0]
        worth = ""
        if own:
            worth = f" ({100 * level.value:.1f} % with it, {100 * own[-1].value:.1f} % with all)"
        return (
            f"spends {level.cost:.6g} of the budget {budget:.6g} {unit}: more bought nothing on the rows of "
            f"the fit{worth}; spend=all spends it"
        )

    @property
    def _ready(self) -> bool:
        """Whether solutions are levels, of methods that were chosen on rows left out."""
        return self.limited and self.method.chooses and not self._limits

    def _within(self, tried: list[Level], solved: Sequence[Sequence[Level]]) -> list[Level | None]:
        """Return the best level within each of `aims`, ascending: what is tried for one is tried for the next."""
        tried, found = [*tried, *self._constants(solved)], []
        if self._limits:
            tried += [level for levels in self._known.values() for level in levels]
        for aim in self.aims:
            best = self._best(tried, aim)
            if best is not None and best.cost < SPARED * aim and not self.per_budget:
                tried += self._cut_at(best, aim)  # there may be room for more of the same
                best = self._best(tried, aim)
            found.append(best)
        return found

    def _at(self, budget: float, before: float) -> Level:
        """Return the level of one budget, no worse than `before`: halve the cell of the grid that it lies in."""
        grid = self.on_grid()
        low = max((i for i, aim in enumerate(self.aims) if aim <= budget * (1 + NEAR)), default=-1)
        left = grid[low] if low >= 0 else None
        if left is None or low + 1 == len(self.aims):
            own = []
            if left is None or budget > self.aims[-1] * (1 + NEAR):
                own = self._solved(budget)[-1 if self._ready else 0 :]
            tried = [*own, *(level for level in grid if level is not None)]
            best = self._best([one for one in tried if self._worth(one) >= before], budget)
            return best or self._best(tried, budget) or self._unless_refused(own[-1:], tried)
        right, ends = grid[low + 1], (self.aims[low], self.aims[low + 1])
        for step in range(_HALVINGS + 1):
            if right is None or right.draft is left.draft or budget <= ends[0] * (1 + NEAR):
                break
            middle = (ends[0] + ends[1]) / 2 if step < _HALVINGS else budget
            tried = self._where_possible([middle])[0]
            tried = tried[-1:] if self._ready else [*tried, *self._cut_at(right, middle)]
            least, most = self._worth(left), self._worth(right)
            between = [one for one in tried if least <= self._worth(one) <= most]
            node = self._best([left, *between], middle) or left
            if budget >= middle:
                left, ends = node, (middle, ends[1])
            else:
                right, ends = node, (ends[0], middle)
        return left

    def _cut_at(self, cut: Level, budget: float) -> list[Level]:
        """Return the level that never passes where `cut` ends and costs about the budget, by regula falsi."""
        kept = cut.draft.table.active_exits

        def at(aim: float) -> Level | None:
            levels = self._known[aim] if aim in self._known else self._solved(aim)
            alike = bool(levels) and levels[-1].draft.table.active_exits == kept
            found = [level for level in levels[:-1] if level.last == cut.last]
            return found[0] if alike and found else None

        tried = [(aim, level) for aim in self.aims if (level := at(aim)) is not None]
        below = [place for place, (_, level) in enumerate(tried) if level.cost <= budget]
        if not below or below[-1] + 1 == len(tried):
            return []
        (low, best), (high, over) = tried[below[-1]], tried[below[-1] + 1]
        for _ in range(_AIMED):
            part = (budget - best.cost) / max(over.cost - best.cost, 1e-300)
            middle = low + float(np.clip(part, 0.1, 0.9)) * (high - low)
            level = at(middle)
            if level is None:
                break
            if level.cost <= budget:
                low, best = middle, level
            else:
                high, over = middle, level
        return [best]

    def _of_those(self, budgets: Sequence[float]) -> list[Level]:
        """Return levels chosen among the solutions of these budgets only, each of which is trained for."""
        solved = [self._levels(draft) for draft in self.spend(budgets)]
        tried = [level for levels in solved for level in levels] + self._constants(solved)
        found = [self._best(tried, budget) for budget in budgets]
        pairs = zip(found, solved, strict=True)
        return [one or self._unless_refused(own[-1:], tried) for one, own in pairs]

    def _unless_refused(self, own: Sequence[Level], tried: Sequence[Level]) -> Level:
        """Return the method's own level; refused where there are limits, which none of the tried keeps."""
        for limit in self._limits:
            least = min(self.reached(level, limit) for level in tried)
            if not limit.within(least):
                allowed = f"{least:.6g} or more: the cheapest policy reaches it"
                got, step = f"{limit.most:.6g}", "Raise it, or ask for less."
                raise BudgetError(message(f"limit {limit.text}", allowed, got, step))
        if self._limits or not own:
            said = " and ".join(limit.text for limit in self._limits)
            step = "Raise one of them, or the budget."
            raise BudgetError(message("limits", "such that one policy keeps them all", said, step))
        return own[-1]

    def _best(self, tried: Sequence[Level], budget: float) -> Level | None:
        """Return the best of those within a budget, the cheaper of equals; None where there is none."""
        within = [one for one in tried if one.cost <= budget * (1 + NEAR) and self._kept(one)]

        def rank(level: Level) -> tuple[float, float]:
            return round(self._worth(level) - self.price * level.cost, 12), -level.cost

        return max(within, key=rank, default=None)

    def solved(self, budget: float) -> Draft:
        """Return the method's own solution for a budget."""
        return self._solved(budget)[-1].draft

    def _solved(self, budget: float) -> list[Level]:
        """Return the levels of the method's own solution for a budget."""
        if not self._known.get(budget):  # what cannot be met says so once more
            self._known[budget] = self._levels(self.spend([budget])[0])
        return self._known[budget]

    def _where_possible(self, budgets: Sequence[float]) -> list[list[Level]]:
        """Return the same of several budgets at once, nothing for those that cannot be met."""
        try:
            found = [self._levels(draft) for draft in self.spend(budgets)]
        except BudgetError:
            if len(budgets) > 1:
                return [self._where_possible([budget])[0] for budget in budgets]
            found = [[]]
        self._known |= dict(zip(budgets, found, strict=True))
        return found

    def _levels(self, draft: Draft) -> list[Level]:
        """Return the levels that never pass an exit, one per exit; the last is the draft itself."""
        solution = draft.solution
        assert solution is not None
        sides = [(1.0 - solution.share, draft.rule, solution.thresholds)]
        if solution.other is not None:
            sides.append((solution.share, draft.other or draft.rule, solution.other))
        taken = tuple((w, first_exit(self._scores(draft, r, t), t)) for w, r, t in sides)
        claimed, exits = claim_of(draft)[0].cost, len(solution.thresholds) + 1
        quality = self._quality(draft) if self._valued else np.full(exits, np.nan)
        whole = Level(draft, claimed, 0.0, taken, exits - 1)
        whole = replace(whole, value=whole.mean(quality))
        if not self.limited:
            return [whole]
        # As the draft claims: on the rows and scores of its problem, where these are what it states.
        costs, claims = self._costs(draft), whole
        if draft.expected is None and not draft.deployed:
            costs, scores = draft.problem.costs, draft.problem.scores
            claims = replace(whole, taken=tuple((w, first_exit(scores, t)) for w, _, t in sides))
        out, paid = [], claims.mean(costs)
        for last in self.method.ends(exits):
            cut = replace(whole, last=last)
            cost = claimed + replace(claims, last=last).mean(costs) - paid
            value = cut.mean(quality)
            out.append(replace(cut, draft=self._cut(cut, value), cost=cost, value=value))
        return [*out, whole]

    def _cut(self, level: Level, value: float) -> Draft:
        """Return the draft of a level that stops all rows at its last place."""
        draft = level.draft
        solution = draft.solution
        assert solution is not None

        def stop(thresholds: Floats) -> Floats:
            return np.where(np.arange(len(thresholds)) < level.last, thresholds, ALWAYS)

        thresholds, other = stop(solution.thresholds), None
        if solution.other is not None:
            other = stop(solution.other)
            if draft.other is None and (thresholds == other).all():  # a coin of two equal sides
                other = None
        share = solution.share if other is not None else 0.0
        cut = _solved_anew(draft, Solution(thresholds, other, share))
        if draft.expected is None:
            return cut
        # Known in closed form, or of both sides of a coin: of the cut one, by these rows.
        paid = [(w, _at(self._costs(draft), t, level.last)) for w, t in level.taken]
        expected = expectation([(w, cost, np.zeros(len(cost))) for w, cost in paid])
        side = draft.other if other is not None else None
        return replace(cut, other=side, expected=expected, quality=value)

    def _constants(self, solved: Sequence[Sequence[Level]]) -> list[Level]:
        """Return "all leave at exit k" for each exit, by the dearest solution's rule, and with no arithmetic at all."""
        drafts = [levels[-1].draft for levels in solved if levels]
        out = []
        for draft in (*drafts[-1:], self._bare(drafts)):
            never = Solution(np.full(draft.table.exits - 1, NEVER))
            out += self._levels(_solved_anew(draft, never))
        return out

    def _bare(self, drafts: Sequence[Draft]) -> Draft:
        """Return a draft that gives the answers of the exits that these keep as they are, and scores nothing."""
        table = drafts[-1].table if drafts else self.method.reach(self.table)
        rows = self._rows.keep_exits(table.active_exits)
        nothing = Problem(np.zeros(rows.quality.shape), rows.quality, rows.costs, rows.unit)
        origin = drafts[-1].origin if drafts else {}
        return Draft(Constant(), table, nothing, origin=origin)

    def _policy(self, draft: Draft) -> Fitted:
        return build_fitted(self.method, draft, 0.0, self._seed)

    def _scores(self, draft: Draft, rule: ScoreRule, thresholds: Floats) -> Floats:
        """Return the scores that a policy gives the rows, (N, K)."""
        if draft.deployed and len(draft.problem.scores) == len(self._rows):
            return draft.problem.scores
        if (key := (id(rule), draft.table.active_exits)) not in self._seen:
            alone = _solved_anew(replace(draft, rule=rule), Solution(thresholds))
            self._seen[key] = rule, trace(self._policy(alone).policy, self._rows)
        return self._seen[key][1].scores

    def _quality(self, draft: Draft) -> Array:
        """Return what the policy's answers are worth, (N, K)."""
        rows = self._rows.keep_exits(draft.table.active_exits)
        if isinstance(draft.answer, Identity):
            return rows.quality
        if self._answered is None or self._answered[0] is not draft.answer:
            found = trace(self._policy(draft).policy, self._rows).quality
            assert found is not None  # of rows with labels
            self._answered = draft.answer, found
        return self._answered[1]

    def _costs(self, draft: Draft) -> Floats:
        """Return what leaving at each exit costs, (K,) or (N, K)."""
        rows = self._rows.keep_exits(draft.table.active_exits)
        rules = (draft.rule,) if draft.other is None else (draft.rule, draft.other)
        return rows.costs + own_costs(rows, *rules, answer=draft.answer)


def proposed(method: Any, table: Table, seed: int) -> Spend:
    """Return a method's own proposals as solved drafts."""

    def draft_of(one: Fitted) -> Draft:
        policy, mixture = one.policy, one.policy.mixture
        small = table.built_for(policy)
        seen = trace(replace(policy, mixture=None), table)
        value = small.quality if seen.quality is None else np.asarray(seen.quality, np.float64)
        problem = Problem(seen.scores, value, small.costs + policy.overhead, small.unit, one.flat)
        solution, other = Solution(policy.thresholds), None
        if mixture is not None:
            solution = Solution(policy.thresholds, mixture.thresholds, mixture.share)
            other = mixture.rule
        return Draft(
            policy.rule, small, problem, policy.answer, solution, other, one.expected, one.quality,
            deployed=other is None,
        )  # fmt: skip

    return lambda budgets: [draft_of(one) for one in method.propose(table, list(budgets), seed)]


def aims_of(table: Table) -> list[float]:
    """Return the aims of a table's grid, the costs of its first and last exit included, ascending."""
    costs = table.mean_costs
    return [float(costs[0]), *positions(costs, GRID).tolist(), float(costs[-1])]


def price_of(table: Table) -> float:
    """Return what a unit of cost must buy at least: one standard error of quality over the whole range."""
    low, high = table.mean_costs[[0, -1]]
    error = standard_error(table.quality[:, -1] - table.quality[:, 0], table.group)
    return float(error / (high - low)) if high > low else 0.0


def _at(columns: Array, taken: Ints, last: int) -> Floats:
    places = np.minimum(taken, last)
    return columns[places] if columns.ndim == 1 else columns[np.arange(len(places)), places]


def _solved_anew(draft: Draft, solution: Solution) -> Draft:
    """Return a draft with another solution; what was known of the former one is not of this."""
    other = draft.other if solution.other is not None else None
    return replace(draft, solution=solution, other=other, expected=None, quality=None)
