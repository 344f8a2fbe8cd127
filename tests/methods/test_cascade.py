"""The cascade family against its papers' rules, sample by sample."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from checks import batch_of, fit_one, fit_table
from synthetic import cache, outputs

import policyopt as po
from policyopt._answers.crossfit import folds_of
from policyopt._methods.choosing import OnExits, compare, prices_at
from policyopt._methods.frugalgpt import FrugalGPT, Quantiles, best_within, subsets
from policyopt._methods.registry import make_method
from policyopt._methods.window import Windows
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt._thresholds.joint import Lagrangian
from policyopt._thresholds.problem import Problem
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._scores import Agreement, score_table


def records(rows=600, exits=4, right=None, **more):
    rng = np.random.default_rng(0)
    right = rng.random((rows, exits)) < np.linspace(0.6, 0.9, exits) if right is None else right
    prediction = np.where(right, 0, 1 + rng.integers(0, 3, (rows, exits)))
    return po.from_arrays(
        prediction=prediction, confidence=0.3 * right + 0.7 * rng.random((rows, exits)),
        labels=np.zeros(rows, int), costs=more.pop("costs", list(2.0 ** np.arange(exits))),
        cost_kind="standalone", unit="USD", split={"fit": 1.0}, **more,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3])
def test_agreement_is_the_released_count(size):
    """ABC's released code, sample by sample: the leader of a Counter, its count over the members."""
    data = cache(600, 5, 4)
    table = fit_table(data)
    scores = score_table(Agreement(size), table.statistics.outputs())
    soft = score_table(Agreement(size, 1), batch_of(data).outputs)
    for row, votes in enumerate(table.statistics.prediction):
        for end in range(size - 1, 5, size):
            members = range(end - size + 1, end + 1)
            leader, count = Counter(votes[list(members)].tolist()).most_common(1)[0]
            assert scores[row, end] == count / size
            mean = np.mean(np.exp(table.log_prob()[row, list(members), leader]))
            assert soft[row, end] == pytest.approx(mean, rel=1e-5)
    assert (scores[:, [k for k in range(5) if (k + 1) % size]] == -1).all()


def test_agreement_cascade_leaves_at_ends_of_tiers_only():
    logits, _ = outputs(2000, 5, 6, seed=4)
    for result in make_method("agreement_cascade").fit_path(fit_table(cache(3000, 5)), [1.5, 4, 9]):
        # Of a low budget a coin sends some home at exit 0.
        low = result.budget == 1.5
        assert not low or result.policy.mixture is not None
        ends = {0, 1} if low else {1, 3, 4}
        assert set(result.policy.decide(logits).exit.tolist()) <= ends
    table = fit_table(records())
    assert fit_one("agreement_cascade", table, 6.0).expected.cost == pytest.approx(6.0)
    with pytest.raises(InputError, match="'share' where only summaries"):
        fit_one("agreement_cascade:vote=probability", table, 6.0)


def released(scores, value, costs, shares):
    """FrugalGPT's optimiser, one point: thresholds by conditional quantiles, then sample by sample."""
    alive, thresholds = np.ones(len(scores), bool), []
    for k, q in enumerate(shares):
        ranked = np.sort(scores[alive, k])[::-1]
        leave = int(np.round((1 - q) * len(ranked)))  # quantile at 1 - q of the distances
        thresholds.append(ranked[leave] if leave < len(ranked) else -np.inf)
        alive &= ~(scores[:, k] > thresholds[k])  # leaves strictly above it
    leaves = np.hstack([scores[:, :-1] > thresholds, np.ones((len(scores), 1), bool)])
    at = np.arange(len(scores)), leaves.argmax(axis=1)
    return costs[at].mean(), value[at].mean()


@pytest.mark.parametrize("ties", [False, True])
def test_quantile_grid_is_the_released_search_point_by_point(ties):
    rng = np.random.default_rng(1)
    scores = rng.random((80, 3))
    scores = np.round(scores * 6) / 6 if ties else scores
    value = (rng.random((80, 3)) < 0.4 + 0.5 * scores).astype(float)
    problem = Problem(scores, value, np.cumsum(rng.random((80, 3)), axis=1))
    axes = [np.linspace(0, 1, 9), np.linspace(0, 1, 7)]
    cost, gained = Quantiles(problem).grid(axes)
    assert cost.shape == (9, 7)
    for place, shares in zip(np.ndindex(9, 7), itertools.product(*axes), strict=True):
        wanted = pytest.approx(released(scores, value, problem.costs, shares))
        assert (cost[place], gained[place]) == wanted
        thresholds = Quantiles(problem).thresholds(np.array(shares))
        assert (problem.cost(thresholds), problem.accuracy(thresholds)) == wanted
    cost, value = np.array([[3.0, 1.0], [2.0, 9.0]]), np.array([[0.5, 0.2], [0.5, 1.0]])
    assert best_within(cost, value, 5.0) == (1, 0)  # the cheaper of equals
    assert best_within(cost, value, 0.5) is None


def test_frugalgpt_takes_the_best_list():
    """No grid of any list, searched by brute force, is more accurate within the budget."""
    table, budget = fit_table(records(400)), 5.0
    (result,) = make_method("frugalgpt:score=max_prob").propose(table, [budget])
    assert 1 <= result.policy.exits <= 3 and result.expected.cost <= budget
    confidence, alone = table.statistics.top_prob[:, :, 0], np.tile(2.0 ** np.arange(4), (400, 1))
    for at in ([0, 1], [1, 2], [0, 3], [0, 1, 2], [0, 2, 3]):
        costs = np.cumsum(alone[:, at], axis=1)
        # Every fourth of the grid's 40 shares.
        for point in itertools.product(np.linspace(0, 1, 10), repeat=len(at) - 1):
            cost, value = released(confidence[:, at], table.correct[:, at], costs, point)
            assert cost > budget or value <= result.accuracy + 1e-12


@pytest.mark.parametrize("closed", [0, 1])
def test_hidec_windows_are_the_best_of_all_with_one_lower_threshold(closed):
    """Every pair of thresholds at the boundary with every one at the other exit, by brute force."""
    rng = np.random.default_rng(5)
    scores = np.round(rng.random((60, 3)) * 5) / 5
    value = (rng.random((60, 3)) < [0.4, 0.6, 0.8]).astype(float)
    problem = Problem(scores, value, np.array([1.0, 2.0, 4.0]))
    levels = [np.append(np.unique(scores[:, k]), np.inf) for k in (0, 1)]
    for price in (0.01, 0.05, 0.1, 0.2):
        gains, best = value - price * problem.costs, -np.inf
        for low, high, other in itertools.product(levels[closed], *levels):
            goes = [scores[:, 0] < high, scores[:, 1] < other]
            goes[closed] = goes[closed] & (scores[:, closed] >= low)
            earned = np.where(goes[1], gains[:, 2], gains[:, 1])
            best = max(best, np.where(goes[0], earned, gains[:, 0]).mean())
        search = Windows(problem, {closed})
        cuts = search.best(price, [search.first, search.last])
        cost, gained = search.point(cuts)
        assert gained - price * cost == pytest.approx(best)
        assert cuts[1 - closed] == 0  # the other exit's window is open below


def test_hidec_boundary_is_the_exit_before_the_greatest_step():
    tables = [Tables(cache(n=300, costs=c)).get("fit") for c in ([1, 2, 9, 10], [1, 2, 3, 9])]
    assert [make_method("hidec").closed(t) for t in tables] == [{1}, {2}]
    assert make_method("hidec:boundary=0,2").closed(tables[0]) == {0, 2}
    for wrong in ("3", "-1", "0.5", "true", "first"):
        with pytest.raises(InputError, match="boundary"):
            make_method(f"hidec:boundary={wrong}").fit_path(tables[0], [2.0])


def test_subset_finds_what_brute_force_finds():
    right = np.random.default_rng(0).random((3, 3000)).T < [0.6, 0.3, 0.95]
    table, budget = fit_table(records(3000, 3, right, costs=[1.0, 5.0, 6.0])), 4.0
    fold, worth = folds_of(3000, 2, 0), {}
    for kept in subsets(3, 3):
        small = table.keep_exits(kept)
        if len(kept) > 1 and small.mean_costs[0] <= budget <= small.mean_costs[-1]:
            halves = [small.take(np.flatnonzero(fold == f)) for f in (0, 1)]
            worth[kept] = np.mean([
                replay(fit_one("max_prob", train, budget).policy, test).correct.mean()
                for train, test in (halves, halves[::-1])
            ])  # fmt: skip
    (result,) = make_method("subset:folds=2").fit_path(table, [budget])
    assert result.policy.active_exits == max(worth, key=worth.get) == (0, 2)
    assert result.policy.provenance["chosen"]["method"] == "max_prob on exits 0, 2"
    assert result.budget == budget and result.policy.model_exits == 3


def test_subset_keeps_all_exits_where_in_doubt_and_few_where_asked():
    table = Tables(cache(n=4000)).get("fit")
    for budget in (2.0, 5.0):
        specs = ("subset", "subset:towards=few", "subset:most=2")
        full, few, pair = (fit_one(spec, table, budget).policy for spec in specs)
        assert few.exits <= full.exits and pair.exits <= 2
    assert fit_one("subset", table.take(np.arange(50)), 2.0).policy.exits == 4
    plain, top = (fit_one(spec, table, 8.0).policy for spec in ("max_prob", "subset:errors=100"))
    np.testing.assert_array_equal(top.thresholds, plain.thresholds)


def test_subset_of_many_exits_grows_from_pairs():
    right = np.random.default_rng(2).random((400, 8)) < [0.5, 0.6, 0.2, 0.2, 0.75, 0.2, 0.2, 0.95]
    table = fit_table(records(400, 8, right, costs=[1, 1, 1, 1, 2, 1, 1, 8]))
    result = fit_one("subset:folds=2", table, 5.0)
    assert result.expected.cost <= 5.0
    assert set(result.policy.active_exits) <= {0, 1, 4, 7} and 7 in result.policy.active_exits


def test_what_a_list_spares_by_plan_is_no_merit():
    """Compared by what they get right: a cheap model does not win by the money it leaves over."""
    table, budget, one = fit_table(records()), 3.0, OnExits((0,), make_method("max_prob"))
    (cheap,) = one.fit_path(table, [budget])
    assert prices_at(table, [budget])[0] > 0.01 and cheap.expected.cost == 1.0
    candidates = [("cheap", one, 0), ("list", FrugalGPT(length=1), 0)]
    cheap_values, values = compare(table, candidates, [budget], 2, 0).values[0]
    np.testing.assert_allclose(cheap_values, replay(cheap.policy, table).correct)
    assert set(values) <= {0.0, 1.0}  # right or wrong, and nothing for the money not spent


def test_budgets_under_the_first_exit_are_reached_by_lists_of_exits():
    """Three models, the second dear and bad; the third cheaper by itself than the first."""
    right = np.random.default_rng(0).random((3, 3000)).T < [0.7, 0.3, 0.9]
    table = fit_table(records(3000, 3, right, costs=[2.0, 5.0, 1.5]))
    for method in ("subset", "frugalgpt"):
        low, high = make_method(method).fit_path(table, [1.6, 8.5])
        assert low.policy.active_exits == (2,) and low.expected.cost == pytest.approx(1.5)
        assert low.accuracy > 0.85
        assert high.expected.cost <= 8.5  # the full chain, or what is as good for less
        with pytest.raises(BudgetError, match=r"\[1.5, 8.5\] USD"):
            fit_one(method, table, 1.4)


def test_one_exit_leaves_nothing_to_search():
    table = fit_table(cache(n=50, exits=1))
    for spec in ("max_prob", "leco", *(f"max_prob:thresholds={s}" for s in ("joint", "shared"))):
        result = fit_one(spec, table, 1.0)
        assert result.expected.cost == 1.0 and not len(result.policy.thresholds)
    for name in ("window", "hidec", "optimal_stopping", "berxit", "always"):
        with pytest.raises(InputError, match="'exits' must be 2 or more"):
            fit_one(name, table, 1.0)


def every_pair(problem, price):
    gains = problem.value - price * problem.costs
    ranks = problem.scores.argsort(axis=0).argsort(axis=0)
    n = problem.rows
    runs = [(a, b) for a in range(n + 1) for b in range(a, n + 1)]
    inside = [[(ranks[:, k] >= a) & (ranks[:, k] < b) for a, b in runs] for k in range(2)]
    later = [np.where(goes, gains[:, 2], gains[:, 1]) for goes in inside[1]]
    return max(np.where(goes, then, gains[:, 0]).mean() for goes in inside[0] for then in later)


def test_windows_are_the_best_of_all_windows_on_small_problems():
    rng, gaps = np.random.default_rng(1), []
    for _ in range(12):
        value = (rng.random((7, 3)) < [0.4, 0.6, 0.8]) * 1.0
        problem = Problem(rng.random((7, 3)), value, np.array([0.0, 1.0, 2.0]))
        for price in (0.05, 0.2, 0.4):
            worth = []
            for search in (Lagrangian(problem), Windows(problem)):
                cost, gained = search.point(search.best(price, [search.first, search.last]))
                worth.append(gained - price * cost)
            assert worth[1] >= worth[0] - 1e-9
            gaps.append(every_pair(problem, price) - worth[1])
    assert min(gaps) > -1e-9
    # Steps on one window at a time may end below the best pair.
    assert np.mean(np.array(gaps) < 1e-9) > 0.8
