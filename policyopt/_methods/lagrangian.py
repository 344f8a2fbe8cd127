"""Methods whose one knob is the price of cost: trained once for all prices, read at any budget.

A subclass of `LagrangianMethod` says how the coefficients of its decisions are found at every price (`train`);
this file gathers what they are trained on, finds the price whose policy costs the budget, and meets it.

Three learn decisions from the last exit to the first: optimal stopping, Bolukbasi et al., and fitted Q iteration.

Optimal stopping: leave where the estimated advantage of stopping over continuing is at least 0. At price l of
cost, stopping at exit k is worth ``S_k - l c_k`` and continuing ``R_{k+1}``, what the later policy then earns.
The advantage ``A_k(x) = E[S_k - l c_k - R_{k+1} | x]`` is regressed on what exits 0..k show of x
(`policyopt.runtime._scores.history`), last exit first; the best policy stops where it is at least 0 (Chow,
Robbins & Siegmund, 1971, for the principle; Bolukbasi et al., ICML 2017, for early exits). One regression serves
all budgets: the price of cost is the knob.

- Success of an exit's answer is not its 0/1 correctness but the probability that the calibrated ensemble of *all*
  exits gives to that answer. Later exits are known when fitting though not when deciding; their word replaces a
  coin's variance p(1-p) by a much smaller one, and needs no label.
- Answers are combined over exits where that helps on held-out rows (`policyopt._answers`).
- It is cross-fitted: a row's answers, success and what it then earns come from fits that it took no part in. (Of
  all rows are only the features' means and spreads, and the K yes-or-noes that say where answers are combined.)
  Thresholds are set on the scores that are deployed (`LagrangianMethod._collapsed`).

Layer-by-layer weighted classification: Bolukbasi et al., ICML 2017, arXiv:1702.07811. The decisions to stop are
learned from the last exit to the first. With the later ones fixed, a sample that reaches exit k is worth ``S_k -
l c_k`` if it stops, at price l of cost, and R if it goes on, what the later decisions then earn. Which of the two
is larger is its pseudo-label, and by how much, its weight: the best decision is the classifier of least weighted
error (their reduction to weighted binary classification), and they minimise the logistic loss in the place of
that error, over linear functions of what the exits' outputs say. `optimal_stopping` regresses the difference
itself instead of classifying its sign.

Departures: R comes from decisions that the row's own fold did not train (else stopping looks better than it is,
as each row's later decisions were fitted to its own outcome); the features are those of
`policyopt.runtime._scores.history`, with a ridge penalty; one family of policies for all budgets, read between
neighbouring prices, with what is left of the budget met by one common shift of all scores.

Fitted Q iteration: Ernst, Geurts & Wehenkel, JMLR 6 (2005), section 3.2, figure 1, on cached exits. Each step of
theirs regresses ``r + max_u Q(x', u)`` on the state x, Q being the estimate of the step before. Here a sample
meets its exits one after the other and never twice, so K-1 steps, last exit first, are all there are (their
remark on finite horizons), and the cache has both actions' outcomes:

- ``Q_k(stop)``: success at exit k, less the price of its cost, on what exits 0..k show;
- ``Q_k(go on)``: ``max(Q_{k+1}(stop), Q_{k+1}(go on))`` on the same; at the last exit, what it earns.

This is where it parts from `optimal_stopping`, whose target is what the later policy *earns* on the row. An
estimate has less noise than an outcome, but it hands its own error on: that of a linear Q, and the upward bias of
a maximum over estimates.

Departures: ridge regression on history features instead of trees, so that the rule is K-1 short sums; rows
weighted as `regression` says; undiscounted, as every episode ends. With ``cross=true``, the default, a row's
target comes from coefficients that its fold did not train, as a second estimator would give it (van Hasselt,
2010); with ``cross=false`` from all rows', as in the paper.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from policyopt._answers.crossfit import NAMES
from policyopt._answers.logistic import weighted_logistic
from policyopt._engine import one_thread
from policyopt._methods.base import ANSWERS, Method
from policyopt._methods.exit_batch import MOST_ROWS, StoppingData, build_stopping_data
from policyopt._methods.fitted import Draft, expectation, own_costs
from policyopt._methods.levels import Spend
from policyopt._methods.regression import noise_weights, of_own_fold, ridge_without_each
from policyopt._methods.settings import FOLDS, POSITIVE, YES_OR_NO, Number, Real
from policyopt._progress import report
from policyopt._table import Table, subsample
from policyopt._thresholds.budget_search import centred, common_shift, unless_idle
from policyopt._thresholds.degenerate_scores import collapse
from policyopt._thresholds.joint import upper_hull
from policyopt._thresholds.problem import Problem, Solution
from policyopt.runtime._arithmetic import row_product
from policyopt.runtime._policy import ALWAYS, NEVER, first_exit
from policyopt.runtime._scores import Advantage, ScoreRule
from policyopt.runtime._typing import Floats

_BISECTIONS = 14
_SCORES = 1 << 22  # held at a time while a price is looked for
#: Prices of the whole cost range, in units of accuracy. Negative ones order the samples beyond the
#: most accurate policy, for budgets larger than it needs: there the last to be sent on are those
#: whom continuing hurts, not a random draw.
PRICES = np.concatenate([-np.logspace(-1, -3.5, 10), [0.0], np.logspace(-3.5, 1.0, 31)])
#: The same of `Bolukbasi`, whose regressions take longer.
_FEWER_PRICES = np.concatenate([-np.logspace(-1, -3, 4), [0.0], np.logspace(-3, 1, 13)])


@dataclass(frozen=True, eq=False)
class Stopping:
    """Coefficients of the advantage of stopping, for every price."""

    prices: Floats  # (L,), ascending, in value per unit of cost
    #: Offset and weights, (G+1, K-1, M+1, L): without each fold, where training asked for that, and last of all rows.
    theta: Floats

    def at(self, place: float) -> Floats:
        """Return the coefficients that are deployed at a place between the prices, (K-1, M+1)."""
        low = int(np.clip(np.floor(place), 0, len(self.prices) - 2))
        part = place - low
        return (1 - part) * self.theta[-1, ..., low] + part * self.theta[-1, ..., low + 1]


def per_cost(prices: Floats, costs: Floats) -> Floats:
    """Return prices of the whole cost range in value per unit of costs, (N, K) or (K,)."""
    span = float(np.ptp(np.atleast_2d(costs).mean(axis=0)))
    return prices / (span if span > 0 else 1.0)


@dataclass(frozen=True)
class StoppingMethod(Method):
    """Learns when to stop from `StoppingData`, for all prices of cost at once.

    Parameters
    ----------
    answer : str
        What exits return: ``combined`` (over exits, where it helps), ``plain``, or another name
        of `policyopt._answers`. Summaries are always plain.
    soft : float
        Weight of the soft success targets against 0/1 correctness, in [0, 1].
    folds : int
        Of the cross-fitting of answers.
    """

    answer: str = "combined"
    soft: float = 1.0
    folds: int = 5

    allowed: ClassVar = {"answer": NAMES, "soft": Number(most=1), "folds": FOLDS}
    tuned: ClassVar = {"answer": ANSWERS}
    learned = True
    decides = True
    unlabelled = True

    @abstractmethod
    def gather(self, table: Table, seed: int) -> StoppingData:
        """Return what is trained on."""

    @abstractmethod
    def blank(self, data: StoppingData) -> tuple[ScoreRule, ...]:
        """Return rules of the shapes that are deployed: their costs are known before any training."""

    def trained(self, table: Table, seed: int) -> Spend:
        self.check(table)  # it loads torch where that is needed: its threads are limited, too
        # Matrices of some tens of columns: more threads only wait for each other.
        with one_thread():
            spend = super().trained(table, seed)
        return one_thread()(spend)

    def pose(self, table: Table, seed: int) -> Draft:
        """Gather what is trained on; costs are known before, scores are not."""
        data = self.gather(table, seed)
        table, rules = data.table, self.blank(data)
        costs = np.asarray(table.costs + own_costs(table, *rules, answer=data.answer))
        problem = Problem(np.zeros_like(data.success), data.success, costs, table.unit)
        return Draft(rules[0], table, problem, data.answer, data=data)


@dataclass(frozen=True)
class LagrangianMethod(StoppingMethod):
    """One family of policies, ordered by the price of cost: leave where the score is 0 or more.

    Parameters
    ----------
    mix : bool
        Mix the two neighbours on the hull by a coin instead of one policy between them. Without it, a coin is
        tossed only where scores are equal, so that no threshold can meet the budget, and where it pays.
    """

    mix: bool = False

    allowed: ClassVar = {"mix": YES_OR_NO}
    tuned: ClassVar = {"soft": Real(0.0, 1.0)}
    #: Groups of rows: what a row earns later is told by coefficients that its group did not train.
    groups: ClassVar[int] = 20

    @abstractmethod
    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        """Return the coefficients of all prices, costs (K,) or (N, K) given."""

    def rule_at(self, data: StoppingData, theta: Floats) -> ScoreRule:
        """Return the deployed rule of coefficients (K-1, M+1)."""
        return Advantage(data.features, data.center, data.scale, theta[:, 1:], theta[:, 0])

    def shaped(self, sums: Floats) -> Floats:
        """Return the scores of weighted sums, (N, K) both."""
        return sums

    def _collapsed(self, data: StoppingData, theta: Floats) -> tuple[Floats, tuple[int, ...]]:
        """Return the scores (N, K) of coefficients (K-1, M+1) to the bit, and the flat exits: all equal there."""
        # Thresholds are set on what is deployed, not on the folds' scores: where many rows are alike, coefficients
        # that differ by a hair put all of them on the other side. Cross-validation measures the rest.
        out = np.zeros((len(data.table), len(data.deployed) + 1), order="F")
        for k, basis in enumerate(data.deployed):
            out[:, k] = row_product(basis, theta[k, None, 1:])[:, 0] + theta[k, 0]
        return collapse(self.rule_at(data, theta), self.shaped(out), equal=True)

    def gather(self, table: Table, seed: int) -> StoppingData:
        table = subsample(table, MOST_ROWS, seed)  # more do not sharpen 30 coefficients per exit
        report(0, 2, "combining answers")
        return build_stopping_data(table, self.answer, self.soft, self.folds, seed, self.groups)

    def blank(self, data: StoppingData) -> tuple[ScoreRule, ...]:
        """Return rules of zeros, two where they are mixed."""
        zeros = np.zeros((len(data.columns), data.columns[0].shape[1] + 1))
        return (self.rule_at(data, zeros),) * (1 + self.mix)

    def pose(self, table: Table, seed: int) -> Draft:
        draft = super().pose(table, seed)
        report(1, 2, f"training {self.label}")
        stopping = self.train(draft.data, draft.problem.costs, seed)
        return replace(draft, data=(draft.data, stopping))

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        data, stopping = draft.data
        if self.mix:
            return [self._mixed(draft, data, stopping, budget) for budget in budgets]
        # The lowest price is the dearest policy. All budgets are halved towards at once: rows are read once for them.
        low, high = np.zeros(len(budgets)), np.full(len(budgets), len(stopping.prices) - 1.0)
        known = draft.problem.memory.setdefault("prices", {})
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            places = sorted({*middle.tolist()} - {*known})
            known |= zip(places, self._costs_at(draft, places), strict=True)
            too_dear = np.array([known[place] for place in middle.tolist()]) > budgets
            low, high = np.where(too_dear, middle, low), np.where(too_dear, high, middle)
        pairs = zip(high.tolist(), budgets, strict=True)
        return [self._single(draft, data, stopping.at(place), budget) for place, budget in pairs]

    def _costs_at(self, draft: Draft, places: list[float]) -> list[float]:
        """Return the mean costs of leaving at scores of 0, at places between the prices."""
        problem, (data, stopping), costs = draft.problem, draft.data, []
        step = max(_SCORES // max(problem.scores.size, 1), 1)
        for start in range(0, len(places), step):
            part = [stopping.at(place) for place in places[start : start + step]]
            sums = np.zeros((len(part), problem.exits, problem.rows))
            for k, basis in enumerate(data.deployed):
                theta = np.array([one[k] for one in part]).T
                sums[:, k] = (basis @ theta[1:] + theta[0]).T  # near enough to look for a price
            for one in sums:
                scores, _ = collapse(self.rule_at(data, part[0]), self.shaped(one.T), equal=True)
                exits = first_exit(scores, np.zeros(problem.exits - 1))
                costs.append(float(problem.cost_at(exits).mean()))
        return costs

    def _single(self, draft: Draft, data: StoppingData, theta: Floats, budget: float) -> Draft:
        """Return the policy of coefficients (K-1, M+1); what is left of the budget goes by one common threshold."""
        scores, flat = self._collapsed(data, theta)
        problem = replace(draft.problem, scores=scores, flat=flat)
        solution = common_shift(problem, budget)
        if flat:
            solution = unless_idle(problem, solution, budget)
        solution = centred(problem, solution)
        rule = self.rule_at(data, theta)
        return replace(draft, rule=rule, problem=problem, solution=solution, deployed=True)

    def _mixed(self, draft: Draft, data: StoppingData, stopping: Stopping, budget: float) -> Draft:
        """Mix the two policies next to the budget on the upper hull over all prices."""
        problem, last = draft.problem, len(stopping.prices)
        sides = []  # of each price, and of leaving at once and never: rule, thresholds, exits, flat exits
        for i in range(last):
            scores, flat = self._collapsed(data, stopping.theta[-1, ..., i])
            zero = np.zeros(problem.exits - 1)
            level = replace(problem, scores=scores).settled(zero) if flat else zero
            rule = self.rule_at(data, stopping.theta[-1, ..., i])
            sides.append((rule, level, first_exit(scores, zero), flat))
        for end, k in ((ALWAYS, 0), (NEVER, problem.exits - 1)):
            all_alike = np.full(problem.exits - 1, end), np.full(problem.rows, k)
            sides.append((sides[last - 1][0], *all_alike, sides[last - 1][3]))
        outcomes = [(problem.cost_at(exits), problem.gained(exits)) for _, _, exits, _ in sides]
        points = np.array([[paid.mean(), gained.mean()] for paid, gained in outcomes])
        corners = upper_hull(points)
        along = points[corners, 0]
        dearer = int(np.clip(np.searchsorted(along, budget), 1, len(corners) - 1))
        gap = along[dearer] - along[dearer - 1]
        share = float(np.clip((budget - along[dearer - 1]) / gap, 0, 1)) if gap > 0 else 0.0
        one, other = corners[dearer - 1], corners[dearer]
        pair = [(1 - share, *outcomes[one]), (share, *outcomes[other])]
        flat = tuple(sorted({*sides[one][3], *sides[other][3]}))
        return replace(
            draft,
            rule=sides[one][0],
            other=sides[other][0],
            problem=replace(problem, flat=flat),
            solution=Solution(sides[one][1], sides[other][1], share),
            expected=expectation(pair),
            quality=sum(weight * float(gained.mean()) for weight, _, gained in pair),
        )


@dataclass(frozen=True)
class OptimalStopping(LagrangianMethod):
    """Backward induction on the advantage of stopping, one family of policies for all budgets.

    Parameters
    ----------
    penalty : float
        Of the ridge regression, in rows of evidence that an exit's advantage is constant.
    """

    penalty: float = 300.0

    label = "optimal_stopping"
    allowed: ClassVar = {"penalty": POSITIVE}
    tuned: ClassVar = {"penalty": Real(10.0, 10_000.0, log=True)}
    groups = 50  # the nearer the folds' coefficients to those deployed, the better; each is one small solve

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        return backward_induction(data, costs, self.penalty, per_cost(PRICES, costs))


@dataclass(frozen=True)
class Bolukbasi(LagrangianMethod):
    """Weighted logistic regression of whether to stop, exit by exit from the last.

    The paper's settings: ``answer=plain``, and ``soft=0``, which is 0/1 correctness.

    Parameters
    ----------
    penalty : float
        Of the regression, in rows of evidence that an exit decides the same for all.
    """

    penalty: float = 30.0

    label = "bolukbasi"
    allowed: ClassVar = {"penalty": POSITIVE}
    tuned: ClassVar = {"penalty": Real(1.0, 1000.0, log=True)}

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        return layer_by_layer(data, costs, self.penalty, per_cost(_FEWER_PRICES, costs))


@dataclass(frozen=True)
class FittedQ(LagrangianMethod):
    """Regress the worth of stopping and that of going on, backwards; leave where stopping is worth more.

    Parameters
    ----------
    penalty : float
        Of the ridge regressions, in rows of evidence that an exit's Q is constant.
    cross : bool
        Whether targets come from coefficients that the row's fold did not train.
    """

    penalty: float = 300.0
    cross: bool = True

    label = "fitted_q"
    allowed: ClassVar = {"penalty": POSITIVE, "cross": YES_OR_NO}
    tuned: ClassVar = {"penalty": Real(10.0, 10_000.0, log=True)}
    groups = 50  # as of optimal_stopping, for the same reason

    def train(self, data: StoppingData, costs: Floats, seed: int) -> Stopping:
        return q_iteration(data, costs, self.penalty, per_cost(PRICES, costs), self.cross)


def backward_induction(
    data: StoppingData, costs: Floats, penalty: float, prices: Floats
) -> Stopping:
    """Regress the advantage of stopping by cross-fitted weighted ridge regression; `penalty` in rows."""

    def regress(k: int, stop: Floats, go_on: Floats) -> tuple[Floats, Floats]:
        weight = noise_weights(data.doubt[:, k])
        theta = ridge_without_each(data.columns[k], weight, stop - go_on, data.fold, penalty)
        return theta, _earned(data, k, theta, stop, go_on)

    return _backwards(data, costs, prices, regress)


def layer_by_layer(data: StoppingData, costs: Floats, penalty: float, prices: Floats) -> Stopping:
    """Classify whether stopping is worth more, by how much it is."""

    def classify(k: int, stop: Floats, go_on: Floats) -> tuple[Floats, Floats]:
        weight = np.abs(stop - go_on)
        total = weight.mean(axis=0)
        weight /= np.where(total > 0, total, 1.0)
        better = (stop >= go_on).astype(np.float64)
        theta = weighted_logistic(data.columns[k], better, weight, data.fold, penalty)
        return theta, _earned(data, k, theta, stop, go_on)

    return _backwards(data, costs, prices, classify)


def q_iteration(
    data: StoppingData, costs: Floats, penalty: float, prices: Floats, cross: bool
) -> Stopping:
    """Regress both actions' worth: what coming to an exit is worth is the larger estimate."""
    teacher = data.fold if cross else np.full(len(data.fold), data.fold.max(initial=0) + 1)

    def regress(k: int, stop: Floats, go_on: Floats) -> tuple[Floats, Floats]:
        both = np.concatenate([stop, go_on], axis=1)  # one solve for the two actions
        weight = noise_weights(data.doubt[:, k])
        found = ridge_without_each(data.columns[k], weight, both, data.fold, penalty)
        q_stop, q_on = np.split(found, 2, axis=2)
        estimates = (of_own_fold(data.columns[k], q, teacher) for q in (q_stop, q_on))
        return q_stop - q_on, np.maximum(*estimates)

    return _backwards(data, costs, prices, regress)


def _earned(data: StoppingData, k: int, theta: Floats, stop: Floats, go_on: Floats) -> Floats:
    """Return what rows earn from exit k on by coefficients that their own fold did not train, (N, L)."""
    return np.where(of_own_fold(data.columns[k], theta, data.fold) >= 0, stop, go_on)


def _backwards(
    data: StoppingData,
    costs: Floats,
    prices: Floats,
    learn: Callable[[int, Floats, Floats], tuple[Floats, Floats]],
) -> Stopping:
    """Learn whether to stop at every exit and price, the last exit first, with the later decisions fixed."""
    # `learn(k, stop, go_on)` returns offsets and weights (G+1, M+1, L) whose products are at least 0 where it is
    # better to stop; worths are (N, L). All rows train all exits, so that nothing is selected. Shapes: costs (N, K),
    # cumulative; prices (L,).
    costs = np.broadcast_to(costs, data.success.shape)
    thetas, worth = [], data.success[:, -1:] - costs[:, -1:] * prices
    for k in range(len(data.columns) - 1, -1, -1):
        stop = data.success[:, k, None] - costs[:, k, None] * prices
        theta, worth = learn(k, stop, worth)
        thetas.insert(0, theta)
    return Stopping(prices, np.stack(thetas, axis=1))
