"""The cascade family against its papers' rules, sample by sample."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from checks import batch_of, fit_one, fit_table
from synthetic import cache, hopeless, outputs

import policyopt as po
from policyopt._answers.crossfit import folds_of
from policyopt._methods.choosing import OnExits, compare, prices_at
from policyopt._methods.frugalgpt import FrugalGPT, Quantiles, best_within, subsets
from policyopt._methods.registry import make_method
from policyopt._methods.window import Windows, best_run
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt._thresholds.joint import Lagrangian, hull
from policyopt._thresholds.problem import Problem
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._scores import Agreement, score_table


def records(rows=600, exits=4, seed=0, right=None, confidence=None, **more):
    """Records of a cascade with standalone costs 1, 2, 4, ..."""
    rng = np.random.default_rng(seed)
    right = rng.random((rows, exits)) < np.linspace(0.6, 0.9, exits) if right is None else right
    noise = rng.random((rows, exits))
    confidence = np.clip(0.3 * right + 0.7 * noise, 0, 1) if confidence is None else confidence
    return po.from_arrays(
        labels=np.zeros(rows, int),
        prediction=np.where(right, 0, 1 + rng.integers(0, 3, (rows, exits))),
        confidence=confidence,
        costs=more.pop("costs", list(2.0 ** np.arange(exits))),
        cost_kind="standalone",
        unit="USD",
        **more,
    )


@pytest.mark.parametrize("size", [1, 2, 3])
def test_agreement_is_the_released_count(size):
    """ABC's released code, sample by sample: the leader of a Counter, its count over the members."""
    data = cache(600, 5, 4)
    table = fit_table(data)
    scores = score_table(Agreement(size), table.statistics.outputs())
    log_prob = table.log_prob()
    soft = score_table(Agreement(size, 1), batch_of(data).outputs)
    for row, votes in enumerate(table.statistics.prediction):
        for end in range(size - 1, 5, size):
            members = range(end - size + 1, end + 1)
            leader, count = Counter(votes[list(members)].tolist()).most_common(1)[0]
            assert scores[row, end] == count / size
            mean = np.mean([np.exp(log_prob[row, j, leader]) for j in members])
            assert soft[row, end] == pytest.approx(mean, rel=1e-5)
        inside = [k for k in range(5) if (k + 1) % size]
        assert (scores[row, inside] == -1).all()


def test_agreement_cascade_leaves_at_ends_of_tiers_only():
    logits, _ = outputs(2000, 5, 6, seed=4)
    cheap, *others = make_method("agreement_cascade").fit_path(
        fit_table(cache(3000, 5)), [1.5, 4.0, 9.0]
    )
    for result in others:
        assert set(np.unique(result.policy.decide(logits).exit)) <= {1, 3, 4}
    assert cheap.policy.mixture is not None  # a coin sends some home at exit 0
    assert set(np.unique(cheap.policy.decide(logits).exit)) <= {0, 1}
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
        limit = ranked[leave] if leave < len(ranked) else -np.inf
        thresholds.append(limit)
        alive &= ~(scores[:, k] > limit)  # leaves strictly above it
    paid = gained = 0.0
    for row in range(len(scores)):
        k = 0
        while k < len(shares) and not scores[row, k] > thresholds[k]:
            k += 1
        paid += costs[row, k]
        gained += value[row, k]
    return paid / len(scores), gained / len(scores)


@pytest.mark.parametrize("ties", [False, True])
def test_quantile_grid_is_the_released_search_point_by_point(ties):
    rng = np.random.default_rng(1)
    scores = rng.random((80, 3))
    scores = np.round(scores * 6) / 6 if ties else scores
    value = (rng.random((80, 3)) < 0.4 + 0.5 * scores).astype(float)
    costs = np.cumsum(rng.random((80, 3)), axis=1)
    problem = Problem(scores, value, costs)
    axes = [np.linspace(0, 1, 9), np.linspace(0, 1, 7)]
    cost, gained = Quantiles(problem).grid(axes)
    assert cost.shape == (9, 7)
    for i, a in enumerate(axes[0]):
        for j, b in enumerate(axes[1]):
            wanted = released(scores, value, costs, (a, b))
            assert (cost[i, j], gained[i, j]) == pytest.approx(wanted)
            thresholds = Quantiles(problem).thresholds(np.array([a, b]))
            assert problem.cost(thresholds) == pytest.approx(wanted[0])
            assert problem.accuracy(thresholds) == pytest.approx(wanted[1])


def test_frugalgpt_takes_the_best_list():
    """No grid of any list, searched by brute force, is more accurate within the budget."""
    table = fit_table(records(400, 4, split={"fit": 1.0}))
    budget = 5.0
    (result,) = make_method("frugalgpt:score=max_prob").propose(table, [budget])
    assert 1 <= result.policy.exits <= 3 and result.expected.cost <= budget
    confidence = table.statistics.top_prob[:, :, 0]
    alone = np.diff(np.broadcast_to(table.costs, (400, 4)), axis=1, prepend=0.0)
    axis = np.linspace(0, 1, 10)  # every fourth of the grid's 40
    for kept in [(0, 1), (1, 2), (0, 3), (0, 1, 2), (0, 2, 3)]:
        at = list(kept)
        costs = np.cumsum(alone[:, at], axis=1)
        shares = [axis] * (len(at) - 1)
        for point in np.stack(np.meshgrid(*shares), -1).reshape(-1, len(at) - 1):
            cost, value = released(confidence[:, at], table.correct[:, at], costs, point)
            assert cost > budget or value <= result.accuracy + 1e-12


def test_best_within_takes_the_cheaper_of_equals():
    cost, value = np.array([[3.0, 1.0], [2.0, 9.0]]), np.array([[0.5, 0.2], [0.5, 1.0]])
    assert best_within(cost, value, 5.0) == (1, 0)
    assert best_within(cost, value, 0.5) is None


@pytest.mark.parametrize("closed", [{0}, {1}])
def test_hidec_windows_are_the_best_of_all_with_one_lower_threshold(closed):
    """Every pair of thresholds at the boundary with every one at the other exit, by brute force."""
    rng = np.random.default_rng(5)
    scores = np.round(rng.random((60, 3)) * 5) / 5
    value = (rng.random((60, 3)) < [0.4, 0.6, 0.8]).astype(float)
    problem = Problem(scores, value, np.array([1.0, 2.0, 4.0]))
    levels = [np.append(np.unique(scores[:, k]), np.inf) for k in (0, 1)]
    for price in (0.01, 0.05, 0.1, 0.2):
        gains = value - price * problem.costs
        best = -np.inf
        for low in levels[next(iter(closed))]:
            for high in levels[0]:
                for other in levels[1]:
                    goes = [scores[:, 0] < high, scores[:, 1] < other]
                    k = next(iter(closed))
                    goes[k] = goes[k] & (scores[:, k] >= low)
                    earned = np.where(goes[1], gains[:, 2], gains[:, 1])
                    best = max(best, np.where(goes[0], earned, gains[:, 0]).mean())
        search = Windows(problem, closed)
        cuts = search.best(price, [search.first, search.last])
        cost, gained = search.point(cuts)
        assert gained - price * cost == pytest.approx(best)
        assert cuts[1 - next(iter(closed))] == 0  # the other exit's window is open below


@pytest.mark.parametrize("name", ["window", "hidec"])
def test_windows_give_hopeless_samples_up(name):
    """Thirds easy, mendable and hopeless: with the money for one third, the mendable go on."""
    tables = Tables(hopeless())
    fit, test = tables.get("fit"), tables.get("test")
    ours, rival = (replay(fit_one(m, fit, 2.0).policy, test) for m in (name, "max_prob"))
    assert ours.cost.mean() == pytest.approx(2.0, rel=0.05)
    assert ours.correct.mean() > rival.correct.mean() + 0.1
    confidence = test.statistics.top_prob[:, 0, 0]
    goes = ours.exit == 1
    assert np.mean(confidence[~goes] < confidence[goes].min()) > 0.2


def test_hidec_boundary_is_the_exit_before_the_greatest_step():
    tables = [Tables(cache(n=300, costs=c)).get("fit") for c in ([1, 2, 9, 10], [1, 2, 3, 9])]
    assert [make_method("hidec").closed(t) for t in tables] == [{1}, {2}]
    assert make_method("hidec:boundary=0,2").closed(tables[0]) == {0, 2}
    for wrong in ("3", "-1", "0.5", "true", "first"):
        with pytest.raises(InputError, match="boundary"):
            make_method(f"hidec:boundary={wrong}").fit_path(tables[0], [2.0])


def test_subset_finds_what_brute_force_finds():
    """Cross-validated by hand: every subset fitted on each half, scored on the other."""
    rng = np.random.default_rng(0)
    right = np.stack([rng.random(3000) < p for p in (0.6, 0.3, 0.95)], axis=1)
    data = records(3000, 3, right=right, costs=[1.0, 5.0, 6.0], split={"fit": 1.0})
    table, budget = fit_table(data), 4.0
    fold = folds_of(3000, 2, 0)
    worth = {}
    for kept in subsets(3, 3):
        small = table.keep_exits(kept)
        if not small.mean_costs[0] <= budget <= small.mean_costs[-1] or len(kept) == 1:
            continue
        halves = [np.flatnonzero(fold == f) for f in (0, 1)]
        scores = []
        for train, test in (halves, halves[::-1]):
            one = fit_one("max_prob", small.take(train), budget)
            scores.append(replay(one.policy, small.take(test)).correct.mean())
        worth[kept] = np.mean(scores)
    (result,) = make_method("subset:folds=2").fit_path(table, [budget])
    assert result.policy.active_exits == max(worth, key=worth.get) == (0, 2)
    assert result.policy.provenance["chosen"]["method"] == "max_prob on exits 0, 2"
    assert result.budget == budget and result.policy.model_exits == 3


def test_subset_keeps_all_exits_where_in_doubt_and_few_where_asked():
    table = Tables(cache(n=4000)).get("fit")
    for budget in (2.0, 5.0):
        (full,) = make_method("subset").fit_path(table, [budget])
        (few,) = make_method("subset:towards=few").fit_path(table, [budget])
        (pair,) = make_method("subset:most=2").fit_path(table, [budget])
        assert few.policy.exits <= full.policy.exits and pair.policy.exits <= 2
    assert make_method("subset").fit_path(table.take(np.arange(50)), [2.0])[0].policy.exits == 4
    (plain,) = make_method("max_prob").fit_path(table, [8.0])
    (top,) = make_method("subset:errors=100").fit_path(table, [8.0])
    np.testing.assert_array_equal(top.policy.thresholds, plain.policy.thresholds)


def test_subset_of_many_exits_grows_from_pairs():
    right = np.random.default_rng(2).random((400, 8)) < [0.5, 0.6, 0.2, 0.2, 0.75, 0.2, 0.2, 0.95]
    data = records(400, 8, right=right, costs=[1, 1, 1, 1, 2, 1, 1, 8], split={"fit": 1.0})
    (result,) = make_method("subset:folds=2").fit_path(fit_table(data), [5.0])
    assert result.expected.cost <= 5.0
    assert set(result.policy.active_exits) <= {0, 1, 4, 7} and 7 in result.policy.active_exits


def test_what_a_list_spares_by_plan_is_no_merit():
    """Compared by what they get right: a cheap model does not win by the money it leaves over."""
    table, budget = Tables(records(600, split={"fit": 1.0})).get("fit"), 3.0
    inner = make_method("max_prob")
    cheap = OnExits((0,), inner).fit_path(table, [budget])[0]
    candidates = [("cheap", OnExits((0,), inner), 0), ("list", FrugalGPT(length=1), 0)]
    assert prices_at(table, [budget])[0] > 0.01 and cheap.expected.cost == 1.0
    cheap_values, values = compare(table, candidates, [budget], 2, 0).values[0]
    np.testing.assert_allclose(cheap_values, replay(cheap.policy, table).correct)
    assert set(values) <= {0.0, 1.0}  # right or wrong, and nothing for the money not spent


def test_budgets_under_the_first_exit_are_reached_by_lists_of_exits():
    """Three models, the second dear and bad; the third cheaper by itself than the first."""
    rng = np.random.default_rng(0)
    right = np.stack([rng.random(3000) < p for p in (0.7, 0.3, 0.9)], axis=1)
    table = fit_table(records(3000, 3, right=right, costs=[2.0, 5.0, 1.5], split={"fit": 1.0}))
    low, high = make_method("subset").fit_path(table, [1.6, 8.5])
    assert low.policy.active_exits == (2,) and low.expected.cost == pytest.approx(1.5)
    assert low.accuracy > 0.85
    assert high.expected.cost <= 8.5  # the full chain, or what is as good for less
    for method in ("subset", "frugalgpt"):
        with pytest.raises(BudgetError, match=r"\[1.5, 8.5\] USD"):
            fit_one(method, table, 1.4)
    frugal = fit_one("frugalgpt", table, 1.6)
    assert frugal.policy.active_exits == (2,)


def test_one_exit_leaves_nothing_to_search():
    table = fit_table(cache(n=50, exits=1))
    for spec in ("max_prob", "leco", *(f"max_prob:thresholds={s}" for s in ("joint", "shared"))):
        result = fit_one(spec, table, 1.0)
        assert result.expected.cost == 1.0 and not len(result.policy.thresholds)
    for name in ("window", "hidec", "optimal_stopping", "berxit", "always"):
        with pytest.raises(InputError, match="'exits' must be 2 or more"):
            fit_one(name, table, 1.0)


def test_best_run_is_the_best_of_all_runs():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 12):
        for _ in range(30):
            gains = rng.normal(-0.2, 1.0, size)
            a, b = best_run(gains)
            every = [gains[i:j].sum() for i in range(size + 1) for j in range(i, size + 1)]
            assert gains[a:b].sum() == pytest.approx(max(every))


def every_pair(problem, price):
    """Return the best value at a price over all pairs of windows of a problem of three exits."""
    gains = problem.value - price * problem.costs
    ranks = problem.scores.argsort(axis=0).argsort(axis=0)
    n = problem.rows
    runs = [(a, b) for a in range(n + 1) for b in range(a, n + 1)]
    inside = [[(ranks[:, k] >= a) & (ranks[:, k] < b) for a, b in runs] for k in range(2)]
    later = [np.where(goes, gains[:, 2], gains[:, 1]) for goes in inside[1]]
    return max(np.where(goes, then, gains[:, 0]).mean() for goes in inside[0] for then in later)


def test_windows_are_the_best_of_all_windows_on_small_problems():
    rng = np.random.default_rng(1)
    found, best = [], []
    for _ in range(12):
        problem = Problem(
            rng.random((7, 3)),
            (rng.random((7, 3)) < [0.4, 0.6, 0.8]) * 1.0,
            np.array([0.0, 1.0, 2.0]),
        )
        for price in (0.05, 0.2, 0.4):
            search = Windows(problem)
            cuts = search.best(price, [search.first, search.last])
            cost, value = search.point(cuts)
            plain = Lagrangian(problem)
            c, v = plain.point(plain.best(price, [plain.first, plain.last]))
            assert value - price * cost >= v - price * c - 1e-9
            found.append(value - price * cost)
            best.append(every_pair(problem, price))
    gap = np.array(best) - np.array(found)
    assert (gap > -1e-9).all()
    assert (gap < 1e-9).mean() > 0.8  # steps on one window at a time may end below the best pair


def test_windows_on_one_exit_are_exact_and_hull_reads_them():
    rng = np.random.default_rng(2)
    confidence = rng.random((300, 2))
    # Sure ones are right anyway; the hopeless ones never; those between only at the last exit.
    first = confidence[:, 0] > 0.7
    last = confidence[:, 0] > 0.3
    problem = Problem(confidence, np.stack([first, last], axis=1) * 1.0, np.array([1.0, 2.0]))
    search = Windows(problem)
    low, high = search.thresholds(search.best(0.5, [search.first]))
    assert 0.28 < low < 0.32
    assert 0.68 < high < 0.72
    assert any(np.allclose(ends, [low, high]) for ends in hull(problem, [1.4], search))
