"""FrugalGPT: Chen, Zaharia & Zou, 2023, arXiv:2305.05176, section 3: which models, and when to stop.

The LLM cascade: a list of at most m models and a threshold for each but the last; an answer whose score g(query,
answer) reaches the threshold is returned, else the next model of the list is asked. List and thresholds maximise
the accuracy on labelled rows subject to the budget. As in the released code (stanford-futuredata/FrugalGPT), the
scorer of a model is a regression of whether its answer is right, thresholds are conditional quantiles among the
survivors on a grid of 40 per threshold (`Quantiles`), points over the budget are worth nothing, the best is
polished, and the best of all lists is taken: of K = 5 exits and lists of up to 3, 5 + 10 * 40 + 10 * 1600 =
16,405 points per fit, whatever the number of budgets.

Departures: the scorer is logistic on what the exit says of its own answer, not a language model on the query's
text, and cross-fitted, so that the rows that set thresholds did not train it; lists keep the order of the
cascade; shares sent on need not grow along the list (the released code's constraint, absent from the paper,
forbids cascades that narrow); the polish is by finer grids, not Nelder and Mead's simplex; and what is then left
of the budget is spent where that does not lower the accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import ClassVar

import numpy as np

from policyopt._answers.crossfit import CrossFitted
from policyopt._methods.base import Method, cheapest, range_of
from policyopt._methods.exit_batch import ExitBatch, build_batch, columns_of, subsample_outputs
from policyopt._methods.fitted import Draft, own_costs
from policyopt._methods.regression import fit_sigmoid
from policyopt._methods.settings import POSITIVE, Choice, Integer, Number
from policyopt._table import Table, subsample
from policyopt._thresholds.budget_search import spend
from policyopt._thresholds.degenerate_scores import collapse
from policyopt._thresholds.problem import Problem, Solution, between
from policyopt.runtime._answers import Identity
from policyopt.runtime._errors import BudgetError
from policyopt.runtime._policy import ALWAYS, NEVER
from policyopt.runtime._scores import Constant, Logistic, MaxProb, ScoreRule, score_table
from policyopt.runtime._typing import Bools, Floats, Ints

SCORES = ("learned", "max_prob")
_HELD = 1 << 22  # numbers of all grids that are kept
_LEVELS = 40  # of the released code's grid
_ROUNDS, _POINTS, _SHRINK = 4, 7, 3.0  # of the polish: grids around the best so far
_NUMBERS = 1 << 24  # survivors of all points that are held at once
#: More lists than this are pruned as the paper does: by how often neighbours on the list disagree.
_MOST_LISTS = 400

List = tuple[int, ...]


@dataclass(frozen=True)
class FrugalGPT(Method):
    """A list of exits and its thresholds, the most accurate that the budget allows.

    Parameters
    ----------
    score : {"learned", "max_prob"}
        What is compared with the thresholds: a learned probability of being right, or the confidence.
    length : int
        Most exits on the list, 1 to 4.
    penalty : float
        Of the scorer's weights, in rows of evidence that they are 0.
    """

    score: str = "learned"
    length: int = 3
    penalty: float = 30.0

    label = "frugalgpt"
    allowed: ClassVar = {
        "score": SCORES,
        "length": Number(above=0, most=4, whole=True),
        "penalty": POSITIVE,
    }
    tuned: ClassVar = {"score": Choice(SCORES), "length": Integer(2, 4)}
    learned = True
    decides = True

    def pose(self, table: Table, seed: int) -> Draft:
        """Score the rows, as many as have grids that can be held at once; budgets are those of the bare exits."""
        bare = range_of(table)
        table = subsample_outputs(table, seed)
        table = subsample(table, _NUMBERS // _LEVELS ** max(self.length - 2, 0), seed)
        rule, outputs = MaxProb(), table.statistics.outputs()
        if self.score == "learned":
            batch = build_batch(table, CrossFitted(Identity()))
            rule, outputs = scorer(batch, self.penalty), batch.outputs
        return Draft(rule, table, bare, data=collapse(rule, score_table(rule, outputs)))

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        best: list[tuple[float, float, Draft, Floats] | None] = [None] * len(budgets)
        axis = np.linspace(0.0, 1.0, _LEVELS)
        for one, cost, value in self._grids(draft):
            for i, budget in enumerate(budgets):
                at = best_within(cost, value, budget)
                if at is None:
                    continue
                found = (float(value[at]), -float(cost[at]))
                if best[i] is None or found > best[i][:2]:  # type: ignore[index]
                    best[i] = (*found, one, axis[list(at)])
        solved = []
        for budget, choice in zip(budgets, best, strict=True):
            if choice is None:
                rows = draft.table
                low, high, unit = cheapest(rows), rows.mean_costs[-1], rows.unit
                raise BudgetError(
                    f"No list of exits costs {budget:.6g} {unit} or less on these rows, its scores included. "
                    f"Exits cost {low:.6g} to {high:.6g} {unit}: raise the budget."
                )
            solved.append(_polished(choice[2], choice[3], budget))
        return solved

    def _grids(self, draft: Draft) -> Iterator[tuple[Draft, Floats, Floats]]:
        """Yield each list's draft, and cost and value on its grid; held, as far as they are few, for other budgets."""
        lists, axis = lists_of(draft.table, self.length), np.linspace(0.0, 1.0, _LEVELS)
        held = draft.problem.memory
        for kept in lists:
            if kept in held:
                yield held[kept]
                continue
            one = _on(draft, kept)
            found = (one, *Quantiles(one.problem).grid([axis] * (len(kept) - 1)))
            if len(lists) * found[1].size <= _HELD:
                held[kept] = found
            yield found


def _on(draft: Draft, kept: List) -> Draft:
    """Return the draft of a list: its rule, its scores, and its costs without the exits left out."""
    scores, flat = draft.data
    table = draft.table.keep_exits([draft.table.active_exits[k] for k in kept])
    rule = rule_on(draft.rule, kept)
    costs = table.costs + own_costs(table, rule)
    here = tuple(i for i, k in enumerate(kept[:-1]) if k in flat)
    problem = Problem(scores[:, kept], table.quality, costs, table.unit, here)
    return replace(draft, rule=rule, table=table, problem=problem)


def _polished(draft: Draft, onward: Floats, budget: float) -> Draft:
    """Polish a point of a list's grid, and spend what is left."""
    problem, thresholds = draft.problem, np.empty(0)
    if len(onward):
        search = Quantiles(problem)
        point = search.polish(onward, budget, 1.0 / (_LEVELS - 1))
        thresholds = search.thresholds(point)
        spent = spend(problem, thresholds, budget - problem.cost(thresholds))
        if problem.quality(spent) >= problem.quality(thresholds):
            thresholds = spent
    return replace(draft, solution=Solution(thresholds))


def scorer(batch: ExitBatch, penalty: float) -> Logistic:
    """Regress correctness on what each exit says as if it were the first: one scorer serves every list."""
    parts = [columns_of(replace(batch, outputs=[output, output])) for output in batch.outputs[:-1]]
    bases, right = [p.basis[0] for p in parts], batch.quality
    theta = np.stack([fit_sigmoid(x, right[:, k], penalty) for k, x in enumerate(bases)])
    theta[:, 1:][np.stack([(x == 0).all(axis=0) for x in bases])] = 0.0
    center, scale = (np.concatenate([getattr(p, n) for p in parts]) for n in ("center", "scale"))
    return Logistic(parts[0].features, center, scale, theta[:, 1:], theta[:, 0])


def rule_on(rule: ScoreRule, kept: List) -> ScoreRule:
    """Return the rule of a list of exits; of one alone there is nothing to compute."""
    if len(kept) == 1:
        return Constant()
    if not isinstance(rule, Logistic):
        return rule
    at = list(kept[:-1])
    return Logistic(
        rule.features, rule.center[at], rule.scale[at], rule.weights[at], rule.offset[at]
    )


def subsets(exits: int, most: int) -> list[List]:
    """Return all subsets of up to `most` exits, smallest first."""
    return [kept for size in range(1, most + 1) for kept in combinations(range(exits), size)]


def lists_of(table: Table, length: int) -> list[List]:
    """Return the lists to search: all of up to `length` exits, or as in the paper those that disagree most."""
    found = subsets(table.exits, length)
    if len(found) <= _MOST_LISTS:
        return found
    said = table.statistics.prediction.T
    differ = np.array([[(a != b).mean() for b in said] for a in said])
    least = [min((differ[i, j] for i, j in pairwise(kept)), default=1.0) for kept in found]
    order = np.argsort(-np.array(least), kind="stable")[:_MOST_LISTS]
    return [found[i] for i in np.sort(order)]


@dataclass(frozen=True, eq=False)
class _Gate:
    """One exit's samples, readiest first, and where groups of equal scores begin and end."""

    scores: Floats  # (N,) descending
    order: Ints  # (N,) sample at each place
    place: Ints  # (N,) place of each sample
    begin: Ints  # (N,) first place of the group that holds a place
    end: Ints  # (N,) one past its last

    @staticmethod
    def of(scores: Floats) -> _Gate:
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        first = np.searchsorted(-ranked, -ranked, side="left")
        end = np.searchsorted(-ranked, -ranked, side="right")
        return _Gate(ranked, order, place, first, end)

    def cuts(self, alive: Bools, onward: Floats) -> Ints:
        """Return how many of the first places leave, (M, L); as released, equal scores that a quota cuts stay."""
        sets, rows = alive.shape
        upto = np.zeros((sets, rows + 1), dtype=np.int64)
        np.cumsum(alive[:, self.order], axis=1, out=upto[:, 1:])
        leave = np.round((1.0 - onward) * upto[:, -1:]).astype(np.int64)
        # One sorted list for all sets: each set's counts are lifted above those of the last.
        lift = np.arange(sets)[:, None] * (rows + 1)
        at = np.searchsorted((upto + lift).ravel(), (leave + lift).ravel(), side="left")
        last = np.maximum(at.reshape(leave.shape) - lift - 1, 0)  # place of the last to leave
        whole = np.take_along_axis(upto, self.end[last], axis=1) == leave
        cut = np.where(whole, self.end[last], self.begin[last])
        return np.where(leave > 0, cut, 0)


class Quantiles:
    """The points of a grid of conditional quantiles over one problem's rows, read off running sums, none replayed."""

    def __init__(self, problem: Problem) -> None:
        self._gates = [_Gate.of(problem.scores[:, k]) for k in range(problem.exits - 1)]
        self._problem = problem
        self._cost = np.broadcast_to(problem.costs, problem.value.shape)

    def grid(self, onward: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Return mean cost and mean value at every combination of the shares sent on. Shapes: onward (L_k,)."""
        rows = self._problem.rows
        if not onward:  # one exit alone
            return np.asarray(self._problem.mean_costs[0]), np.asarray(self._problem.value.mean())
        alive = np.ones((1, rows), dtype=bool)
        totals = [np.zeros((1, 1))] * 2  # of cost, and of value
        last = len(self._gates) - 1
        for k, (gate, shares) in enumerate(zip(self._gates, onward, strict=True)):
            cut = gate.cuts(alive, shares)
            here = alive[:, gate.order]
            for i, table in enumerate((self._cost, self._problem.value)):
                leaving = _upto(here * table[gate.order, k], cut)
                if k == last:  # who goes on leaves at the last exit
                    going = here * table[gate.order, k + 1]
                    leaving = leaving + going.sum(axis=1, keepdims=True) - _upto(going, cut)
                totals[i] = totals[i].reshape(-1, 1) + leaving
            if k < last:
                onwards = alive[:, None, :] & (gate.place >= cut[:, :, None])
                alive = onwards.reshape(-1, rows)
        shape = tuple(len(shares) for shares in onward)
        return totals[0].reshape(shape) / rows, totals[1].reshape(shape) / rows

    def thresholds(self, onward: Floats) -> Floats:
        """Return the thresholds of one point, (K-1,), midway between who leaves and who stays."""
        alive = np.ones(self._problem.rows, dtype=bool)
        out = np.empty(len(self._gates))
        for k, (gate, share) in enumerate(zip(self._gates, onward, strict=True)):
            cut = int(gate.cuts(alive[None], np.array([share]))[0, 0])
            leaves, stays = alive[gate.order[:cut]], alive[gate.order[cut:]]
            above = gate.scores[:cut][leaves].min(initial=NEVER)
            below = gate.scores[cut:][stays].max(initial=ALWAYS)
            out[k] = between(float(below), float(above))
            alive &= gate.place >= cut
        return out

    def polish(self, onward: Floats, budget: float, step: float) -> Floats:
        """Improve a point within the budget by finer and finer grids around the best so far."""
        best = np.array(onward)
        for _ in range(_ROUNDS):
            around = step * np.linspace(-1, 1, _POINTS)
            axes = [np.unique(np.append(np.clip(b + around, 0, 1), b)) for b in best]
            at = best_within(*self.grid(axes), budget)
            if at is None:  # rounding: the point itself costs the budget
                break
            best = np.array([axis[i] for axis, i in zip(axes, at, strict=True)])
            step /= _SHRINK
        return best


def _upto(rows: Floats, cut: Ints) -> Floats:
    """Return the sums of each row's first `cut` numbers, (M, L)."""
    sums = np.zeros((len(rows), rows.shape[1] + 1))
    np.cumsum(rows, axis=1, out=sums[:, 1:])
    return np.take_along_axis(sums, cut, axis=1)


def best_within(cost: Floats, value: Floats, budget: float) -> tuple[int, ...] | None:
    """Return the place of the best value that costs at most the budget, the cheaper of equals."""
    allowed = cost <= budget * (1 + 1e-12)
    if not allowed.any():
        return None
    worth = np.where(allowed, value, -np.inf)
    near = worth >= worth.max() - 1e-12  # sums of the same samples in another order
    place = np.where(near, cost, np.inf).argmin()
    return tuple(int(i) for i in np.unravel_index(place, cost.shape))
