"""FrugalGPT: Chen, Zaharia & Zou, 2023, arXiv:2305.05176, section 3: which models, and when to stop.

The LLM cascade: a list of at most m models and a threshold for each but the last; an answer whose score
g(query, answer) reaches the threshold is returned, else the next model of the list is asked. List and
thresholds maximise the accuracy on labelled rows subject to the budget. As in the released code
(stanford-futuredata/FrugalGPT), the scorer of a model is a regression of whether its answer is right,
thresholds are conditional quantiles among the survivors on a grid of 40 per threshold
(`policyopt.thresholds.conditional`), points over the budget are worth nothing, the best is polished, and
the best of all lists is taken: of K = 5 exits and lists of up to 3, 5 + 10 * 40 + 10 * 1600 = 16,405
points per fit, whatever the number of budgets.

Departures: the scorer is logistic on what the exit says of its own answer, not a language model on the
query's text, and cross-fitted, so that the rows that set thresholds did not train it; lists keep the
order of the cascade; shares sent on need not grow along the list (the released code's constraint, absent
from the paper, forbids cascades that narrow); the polish is by finer grids, not Nelder and Mead's simplex;
and what is then left of the budget is spent where that does not lower the accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np

from policyopt.answers.crossfit import CrossFitted
from policyopt.methods.base import Fitted, Method, check_budgets, check_exits, conclude
from policyopt.methods.berxit import certainty
from policyopt.methods.held_out import own_costs
from policyopt.methods.seen import Seen, columns_of, see, thinned
from policyopt.methods.settings import check_choice, check_number
from policyopt.methods.space import Choice, Domain, Integer
from policyopt.runtime.answers import Plain
from policyopt.runtime.errors import BudgetError
from policyopt.runtime.scores import Constant, MaxProb, ScoreRule, score_table
from policyopt.runtime.scores.logistic import Logistic
from policyopt.table import Table
from policyopt.thresholds.conditional import Quantiles, best_within
from policyopt.thresholds.flat import level
from policyopt.thresholds.meet import spend
from policyopt.thresholds.problem import Floats, Problem, Solution

SCORES = ("learned", "max_prob")
_LEVELS = 40  # of the released code's grid
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

    Examples
    --------
    >>> FrugalGPT(length=2)
    FrugalGPT(score='learned', length=2, penalty=30.0)
    """

    score: str = "learned"
    length: int = 3
    penalty: float = 30.0

    learned = True

    def __post_init__(self) -> None:
        check_choice("score", self.score, SCORES)
        check_number("length", self.length, above=0, most=4, whole=True)
        check_number("penalty", self.penalty, above=0)

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {"score": Choice(SCORES), "length": Integer(2, 4)}

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Search all lists once, and take the best for each budget; see `Method.propose`."""
        check_exits(table)
        check_budgets(table, budgets)
        table = self._thinned(table, seed)
        rule, scores, flat = self._scorer(table)
        best: list[tuple[float, float, List, tuple[Floats, ...]] | None] = [None] * len(budgets)
        axis = np.linspace(0.0, 1.0, _LEVELS)
        lists = lists_of(table, self.length)
        for kept in lists:
            problem = self._problem(table, rule, scores, kept, flat)
            grid = [axis] * (len(kept) - 1)
            cost, value = Quantiles(problem).grid(grid) if grid else _alone(problem)
            for i, budget in enumerate(budgets):
                at = best_within(cost, value, budget)
                if at is None:
                    continue
                found = (float(value[at]), -float(cost[at]))
                if best[i] is None or found > best[i][:2]:  # type: ignore[index]
                    best[i] = (*found, kept, tuple(axis[list(at)]))
        fitted = []
        for budget, choice in zip(budgets, best, strict=True):
            if choice is None:
                raise BudgetError(
                    f"No list of exits costs {budget:.6g} {table.unit} or less on these rows: "
                    "the cheapest exit's score costs more than is left. Raise the budget."
                )
            fitted.append(
                self._freeze(table, rule, scores, choice[2], choice[3], budget, seed, flat)
            )
        return fitted

    def _freeze(
        self,
        table: Table,
        rule: ScoreRule,
        scores: Floats,
        kept: List,
        onward: Sequence[Floats],
        budget: float,
        seed: int,
        flat: tuple[int, ...],
    ) -> Fitted:
        """Polish a point of a list's grid, spend what is left, and freeze it."""
        problem = self._problem(table, rule, scores, kept, flat)
        thresholds = np.empty(0)
        if len(kept) > 1:
            search = Quantiles(problem)
            point = search.polish(np.array(onward), budget, 1.0 / (_LEVELS - 1))
            thresholds = search.thresholds(point)
            spent = spend(problem, thresholds, budget - problem.cost(thresholds))
            if problem.accuracy(spent) >= problem.accuracy(thresholds):
                thresholds = spent
        return conclude(
            self, "frugalgpt", rule_on(rule, kept), table.keep_exits([table.path[k] for k in kept]),
            problem, Solution(thresholds), budget, seed,
        )  # fmt: skip

    def _problem(
        self, table: Table, rule: ScoreRule, scores: Floats, kept: List, flat: tuple[int, ...]
    ) -> Problem:
        """Pose the problem of a list: its scores, and its costs without the exits left out."""
        small = table.keep_exits([table.path[k] for k in kept])
        costs = small.costs + own_costs(rule_on(rule, kept), small)
        here = tuple(i for i, k in enumerate(kept[:-1]) if k in flat)
        return Problem(scores[:, kept], small.correct, costs, table.unit, here)

    def _thinned(self, table: Table, seed: int) -> Table:
        """Return rows whose grids can be held at once."""
        table = thinned(table, seed)
        most = _NUMBERS // _LEVELS ** max(self.length - 2, 0)
        if len(table) <= most:
            return table
        return table.take(np.sort(np.random.default_rng(seed).permutation(len(table))[:most]))

    def _scorer(self, table: Table) -> tuple[ScoreRule, Floats, tuple[int, ...]]:
        """Return the score rule of all exits, its scores of the rows, and flat exits."""
        if self.score == "max_prob":
            scores, flat = level(MaxProb(), score_table(MaxProb(), table.statistics.outputs()))
            return MaxProb(), scores, flat
        seen = see(table, CrossFitted(Plain()))
        rule = scorer(seen, self.penalty)
        return rule, *level(rule, score_table(rule, seen.outputs))


def scorer(seen: Seen, penalty: float) -> Logistic:
    """Regress correctness on what each exit says by itself: the same scorer serves every list.

    An exit is shown as if it were the first, so that features that look back are 0 and get no weight.
    """
    parts = [columns_of(replace(seen, outputs=[output, output])) for output in seen.outputs[:-1]]
    theta = np.stack(
        [certainty(p.basis[0], seen.correct[:, k], penalty) for k, p in enumerate(parts)]
    )
    theta[:, 1:][np.stack([(p.basis[0] == 0).all(axis=0) for p in parts])] = 0.0
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


def lists_of(table: Table, length: int) -> list[List]:
    """Return the lists to search: all of up to `length` exits, or those whose neighbours disagree most.

    The paper prunes lists whose models seldom disagree: the next one then has little to correct.
    """
    found = [
        kept for size in range(1, length + 1) for kept in combinations(range(table.exits), size)
    ]
    if len(found) <= _MOST_LISTS:
        return found
    said = table.statistics.prediction.T
    differ = np.array([[(a != b).mean() for b in said] for a in said])
    least = [min((differ[i, j] for i, j in pairwise(kept)), default=1.0) for kept in found]
    order = np.argsort(-np.array(least), kind="stable")[:_MOST_LISTS]
    return [found[i] for i in np.sort(order)]


def _alone(problem: Problem) -> tuple[Floats, Floats]:
    """Return cost and value of one exit alone, as the grid of no thresholds."""
    return np.asarray(problem.mean_costs[0]), np.asarray(problem.value.mean())
