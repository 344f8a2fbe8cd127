"""Chains and lists of exits against their papers, sample by sample; the choice among methods; exits that tell nothing apart."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from checks import batch_of, fit_one, fit_table, pool
from conftest import refuses
from hypothesis import given
from hypothesis import strategies as st
from synthetic import cache, hopeless, outputs

import policyopt as po
from policyopt._cache.data import folds_of
from policyopt._methods import choosing
from policyopt._methods.base import sides
from policyopt._methods.choosing import CANDIDATES, Comparison, OnExits, rising
from policyopt._methods.fitted import flat_note
from policyopt._methods.frugalgpt import FrugalGPT, Quantiles, best_within, subsets
from policyopt._methods.levels import Levels
from policyopt._methods.registry import at_most, make_method, spec_of
from policyopt._methods.threshold import Threshold
from policyopt._methods.window import Windows
from policyopt._replay import replay, trace
from policyopt._table import Tables
from policyopt._thresholds.degenerate_scores import ROUNDING
from policyopt._thresholds.joint import Lagrangian
from policyopt._thresholds.problem import Problem
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._policy import from_dict, to_dict
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
    assert fit_one("agreement_cascade", table, 6.0).expected.cost == pytest.approx(6.0, rel=1e-3)
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
        assert (problem.cost(thresholds), problem.quality(thresholds)) == wanted
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
            cost, value = released(confidence[:, at], table.quality[:, at], costs, point)
            assert cost > budget or value <= result.quality + 1e-12


def test_lists_of_other_exits_have_scores_of_their_own():
    data = cache(1200)
    for budget in ("40%", "62%", "80%"):
        policy = po.fit(data, budget, "frugalgpt:score=max_prob").policy
        paid = po.evaluate(policy, data, split="fit").cost.mean()
        assert paid == pytest.approx(policy.provenance["expected_cost"], rel=0.01)


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
                replay(fit_one("max_prob", train, budget).policy, test).quality.mean()
                for train, test in (halves, halves[::-1])
            ])  # fmt: skip
    (result,) = make_method("subset:folds=2").fit_path(table, [budget])
    assert result.policy.active_exits == max(worth, key=worth.get) == (0, 2)
    assert result.policy.provenance["chosen"]["method"] == "max_prob on exits 0, 2"
    assert result.budget == budget and result.policy.model_exits == 3


# Which exits to build, where a head that is left out is saved.
HEADS = [0.6, 0.7, 1.5, 0.0]


def built(data, kept):
    """The cache of a model with these exits only: its costs by hand, its outputs taken apart."""
    costs = [data.cost().values[k] - sum(HEADS[j] for j in range(k) if j not in kept) for k in kept]
    parts = {
        name: {"outputs": rows.array("outputs")[:, kept], "labels": rows.array("labels")}
        for name, rows in data.splits.items()
    }
    return po.from_arrays(splits=parts, costs=costs, unit="ms")


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_best_of_at_most_m_exits_is_what_brute_force_over_all_of_them_finds(most):
    logits, labels = outputs(2400, exits=4, seed=3)
    splits = {"fit": {"outputs": logits, "labels": labels}}
    data = po.from_arrays(splits=splits, costs=[1.0, 2.0, 4.0, 8.0], unit="ms")
    table, method = Tables(data, head_cost=HEADS).get("fit"), make_method(f"subset:folds=2+{most=}")
    budgets, fold = choosing.aims_of(table)[1::4], folds_of(2400, 2, 0)
    found = method.fit_path(table, budgets)
    for fitted, budget in zip(found, budgets, strict=True):
        worth, policy = {}, fitted.policy
        for kept in subsets(4, most):
            small = fit_table(built(data, kept))
            halves = [small.take(np.flatnonzero(fold == f)) for f in (0, 1)]
            if small.mean_costs[0] <= budget:
                worth[kept] = np.mean([
                    replay(one.policy, test).quality.mean() for train, test in (halves, halves[::-1])
                    for one in Levels(make_method("max_prob"), train, 0).fit([min(budget, small.mean_costs[-1])])
                ])  # fmt: skip
        # What is compared also counts what was overspent on rows left out.
        assert worth[policy.active_exits] >= max(worth.values()) - 0.002
        small = built(data, policy.active_exits)  # what that model costs, by hand
        places = np.searchsorted(policy.active_exits, trace(policy, table).exit)
        np.testing.assert_allclose(
            trace(policy, fit_table(data)).cost, np.array(small.cost().values)[places], rtol=1e-12
        )
        assert len(policy.active_exits) <= most and fitted.expected.cost <= budget
    assert (np.diff([one.quality for one in found]) >= 0).all()  # more budget is no worse


def test_heads_that_cost_nothing_change_nothing_and_dear_ones_are_left_out():
    data = cache(1000, 4)
    plain, free, dear = (Tables(data, head_cost=h).get("fit") for h in (None, 0, "70%"))
    for name in ("max_prob", "auto:folds=2", "subset:most=2+folds=2", "frugalgpt", "always"):
        one, same = (make_method(name).propose(table, [3.2])[0].policy for table in (plain, free))
        assert same.provenance.pop("head_costs") == [0, 0, 0, 0]
        assert to_dict(one) == to_dict(same)
    one, other = (make_method(name).propose(dear, [3.2])[0] for name in ("max_prob", "subset"))
    assert other.policy.exits < 4 and other.quality > one.quality
    small = po.from_arrays(*outputs(900, 2), [1.0, 1.2], unit="ms")
    for method in ("always", "subset", "frugalgpt"):  # exit 1 alone: no head before it
        (fitted,) = make_method(method).propose(Tables(small, head_cost=[0.9, 0]).get("fit"), [0.4])
        assert fitted.policy.active_exits == (1,) and fitted.expected.cost == pytest.approx(0.3)
        with pytest.raises(BudgetError, match=r"0\.3 "):
            po.fit(small, 0.2, method, head_cost=[0.9, 0])
    refuses("'head cost' must be .* Got none", po.fit, small, 0.2, head_cost=[])


def test_auto_chooses_on_the_exits_that_are_kept():
    data = cache(1000, 4)
    for most in (1, 2):
        fitted = po.fit(data, "40%", max_exits=most, head_cost="20%", folds=2)
        told = fitted.policy.provenance["chosen"]
        assert told["exits"] == list(fitted.policy.active_exits) and len(told["exits"]) <= most
        assert told["method"].startswith(told["inner"])
        assert told["method"].endswith(f" on exits {', '.join(map(str, told['exits']))}")
        assert abs(po.evaluate(fitted, data).quality.mean() - fitted.quality) < 0.04


def test_what_is_asked_of_a_method_on_few_exits():
    for spec in (
        "max_prob:thresholds=joint+mix=true",
        "cbt:class_thresholds=0.9,0.8",
        "subset:most=3",
        "auto",
    ):
        method = make_method(spec)
        assert make_method(spec_of(method)) == method
    assert at_most(make_method("subset:most=3+towards=few"), 2).settings()["most"] == 2
    assert at_most(method, None) is method
    for wrong, settings in (
        ({"max_exits": 0}, {}),
        ({"max_exits": 2}, {"thresholds": [0.9, 0.8, 0.7]}),
    ):
        with pytest.raises(InputError, match="max_exits"):
            po.fit(cache(200), 2.0, "max_prob", **wrong, **settings)


def test_policies_count_the_heads_that_they_were_fitted_with_wherever_they_are_replayed(tmp_path):
    data = cache(700, 4)
    fitted = po.fit(data, "40%", "max_prob", max_exits=2, head_cost="cost=25%")
    heads = [0.25, 0.25, 0.5, 1.0]
    assert fitted.policy.provenance["head_costs"] == heads
    fitted.save(tmp_path / "p.json")
    loaded = po.load_policy(tmp_path / "p.json")
    known = po.from_arrays(
        *outputs(700, 4), po.Cost("cost", "ms", [1, 2, 4, 8], heads=[0, 0.1, 0, 0])
    )
    costs = po.evaluate(fitted, data).cost
    np.testing.assert_array_equal(po.evaluate(loaded, known).cost, costs)
    assert set(costs) <= set(loaded.costs) and set(loaded.costs).isdisjoint(
        [1, 2, 4, 8][loaded.active_exits[0] :]
    )
    tables = Tables(data)
    again = po.refit(loaded, tables.get("fit"), tables.get("test"))
    assert again.policy.provenance["head_costs"] == heads
    np.testing.assert_array_equal(again.policy.costs, loaded.costs)
    family = po.fit_family(data, "40%,60%", "subset:most=2", tables=Tables(data, head_cost="25%"))
    family.save(tmp_path / "f.json")
    for level in po.load_family(tmp_path / "f.json").policies:
        assert set(po.evaluate(level, data).cost) <= set(level.costs)
    for odd in ("x", [1, 2], [0.1, None, 0, 0], [9, 0, 0, 0]):
        wrong = replace(loaded, provenance={**loaded.provenance, "head_costs": odd})
        with pytest.raises(InputError, match="head cost"):
            po.evaluate(wrong, data)


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
    assert choosing.prices_of(table)[5] > 0.01 and cheap.expected.cost == 1.0
    candidates = [("cheap", one, 0), ("list", FrugalGPT(length=1), 0)]
    cheap_values, values = choosing.compare(table, candidates, 2, 0).values[5]
    np.testing.assert_allclose(cheap_values, replay(cheap.policy, table).quality)
    assert set(values) <= {0.0, 1.0}  # right or wrong, and nothing for the money not spent


def test_budgets_under_the_first_exit_are_reached_by_lists_of_exits():
    """Three models, the second dear and bad; the third cheaper by itself than the first."""
    right = np.random.default_rng(0).random((3, 3000)).T < [0.7, 0.3, 0.9]
    table = fit_table(records(3000, 3, right, costs=[2.0, 5.0, 1.5]))
    for method in ("subset", "frugalgpt", "auto:routes=false"):
        low, high = make_method(method).fit_path(table, [1.6, 8.5])
        assert low.policy.active_exits == (2,) and low.expected.cost == pytest.approx(1.5)
        assert low.quality > 0.85
        assert high.expected.cost <= 8.5  # the full chain, or what is as good for less
        with pytest.raises(BudgetError, match=r"from 1.5 to 8.5 USD"):
            fit_one(method, table, 1.4)


def test_one_exit_leaves_nothing_to_search():
    table = fit_table(cache(n=50, exits=1))
    assert po.fit(cache(n=400, exits=1), 1.0).expected.cost == 1.0
    for spec in ("max_prob", "leco", *(f"max_prob:thresholds={s}" for s in ("joint", "shared"))):
        result = fit_one(spec, table, 1.0)
        assert result.expected.cost == 1.0 and not len(result.policy.thresholds)
    for name in ("window", "hidec", "pcee", "optimal_stopping", "berxit", "always"):
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


# The choice among methods: simple where in doubt, better where clear.
def rule(values, errors=1.0):
    known = CANDIDATES[: len(values)]
    return choosing.one_standard_error(np.array(values, dtype=float), known, errors)


def test_one_standard_error_rule_by_hand():
    """The last is best by 0.1; paired with it, the fourth is noisy, the others are worse for sure."""
    rng = np.random.default_rng(0)
    best = 0.1 + (rng.random(400) < 0.8)
    noisy, surely = best - 0.05 + rng.normal(size=400) * 2.0, best - 0.05
    values = [surely, surely, surely, noisy, surely, best]
    chosen, report = rule(values)
    assert CANDIDATES[chosen][0] == "max_prob:thresholds=joint"  # the simplest within one error
    assert rule(values, errors=0.0)[0] == np.mean(values, axis=1).argmax()
    assert report[0]["behind_best"] == pytest.approx(0.05)
    assert report[0]["standard_error"] == pytest.approx(0.0, abs=1e-12)
    line = np.linspace(0, 1, 100)
    assert rule([line, line + 0.2, line + 0.1])[0] == 1  # equals of one complexity: by their means
    chosen, report = rule([line, line, line, line, line, np.full(100, -np.inf)])
    assert chosen == 0 and [r["method"] for r in report] == [name for name, _, _ in CANDIDATES[:5]]


@pytest.mark.parametrize("count", [2, 6])
def test_what_a_choice_owes_to_its_rows(count):
    """Of M methods alike the best mean of N looks better by the mean of the largest of M normals, over sqrt(N)."""
    rng, rows = np.random.default_rng(0), 300
    alike = [(str(i), CANDIDATES[0][1], 0) for i in range(count)]
    found = [
        choosing.winners_gain(rng.normal(size=(count, rows)), alike, 1.0, s) for s in range(60)
    ]
    largest = rng.normal(size=(100_000, count)).max(axis=1).mean()
    assert np.mean(found) * rows**0.5 == pytest.approx(largest, rel=0.2)
    values = rng.normal(size=(count, rows))
    values[0] += 2.0  # nothing to choose
    assert choosing.winners_gain(values, alike, 1.0, 0) == 0.0


def test_learned_policies_where_they_clearly_win_and_simple_ones_where_nothing_is_to_be_gained():
    """Hopeless samples: only the regression knows them from curable ones. Noise beyond the confidence: none leads."""
    found = po.fit(hopeless(), 2.0).policy.provenance
    assert found["method"] == "auto" and found["chosen"]["method"] == "optimal_stopping"
    assert len(found["compared"]) == len(CANDIDATES)
    rng = np.random.default_rng(4)
    sure = rng.random((2000, 2))
    right = rng.random((2000, 2)) < sure
    data = po.from_arrays(correct=right, prediction=1 - right, confidence=sure, costs=[1, 2])
    assert po.fit(data, 1.5).policy.provenance["chosen"]["method"] == "max_prob"


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4))
def test_the_path_along_which_looks_never_fall_is_the_best_of_all(seed, steps, ways):
    rng = np.random.default_rng(seed)
    looks, lost = rng.integers(0, 4, (steps, ways)) / 4.0, rng.random((steps, ways))
    lost[rng.random(lost.shape) < 0.2] = np.inf
    at = np.arange(steps)
    sums = {
        path: lost[at, path].sum()
        for path in itertools.product(range(ways), repeat=steps)
        if (np.diff(looks[at, path]) >= 0).all() and np.isfinite(lost[at, path]).all()
    }
    path = rising(looks, lost)
    assert path is None if not sums else sums[tuple(path)] == pytest.approx(min(sums.values()))


def test_auto_takes_what_rows_left_out_speak_for_and_more_is_never_worse(monkeypatch):
    """Seven jointly searched thresholds look best on the 300 rows that chose them, and are not."""
    two = [row for row in CANDIDATES if row[0] in ("max_prob", "max_prob:thresholds=joint")]
    monkeypatch.setattr(choosing, "CANDIDATES", tuple(two))
    rng = np.random.default_rng(0)
    hard, exits = rng.random((300, 1)), 8
    right = rng.random((300, exits)) < 0.95 - 0.5 * hard
    sure = 1 - hard + 0.15 * rng.standard_normal(right.shape)
    data = po.from_arrays(
        correct=right, prediction=np.where(right, 0, 1), confidence=np.clip(sure, 0, 1),
        costs=np.arange(1.0, exits + 1), split={"fit": 1.0},
    )  # fmt: skip
    table = fit_table(data)
    levels = Levels(make_method("auto"), table, 0)
    grid, chosen = levels.on_grid(), [one.ways[0][:2] for one in levels.spend.choices]
    own = {name: Levels(method, table, 0).on_grid() for name, method, _ in two}
    for aim, (level, (name, _)) in enumerate(zip(grid, chosen, strict=True)):
        assert level.draft.origin["chosen"]["method"] == name
        assert level.cost == pytest.approx(own[name][aim].cost) and level.cost <= levels.aims[aim]
        assert level.value == pytest.approx(own[name][aim].value)
    joint = own["max_prob:thresholds=joint"]
    assert joint[-1].value > own["max_prob"][-1].value + 0.05
    assert len({name for name, _ in chosen}) == 2
    for at in (levels.at([2.2, 3.3, 4.4, 5.5]), grid[1:]):
        assert (np.diff([level.value for level in at]) >= 0).all()


def test_unlabelled_rows_are_left_to_methods_that_use_them():
    logits, labels = outputs(1000, seed=8)
    labels[500:] = -1
    found = fit_one("auto:folds=2", fit_table(pool(logits, labels)), 3.0)
    assert found.expected.rows in (500, 1000)
    for method in ("auto", "subset"):
        with pytest.raises(InputError, match="label for every row"):
            po.fit(pool(logits, np.full(1000, -1)), 3.0, method)


def test_of_few_rows_the_simplest_is_fitted_once_for_all_its_budgets(monkeypatch):
    calls, train = [], Threshold.trained
    monkeypatch.setattr(Threshold, "trained", lambda *a: calls.append(a) or train(*a))
    found = make_method("auto").fit_path(fit_table(cache(60)), [1.5, 2.0, 3.0, 5.0])
    for provenance in (one.policy.provenance for one in found):
        assert provenance["chosen"]["method"] == "max_prob" and provenance["compared"] == []
    assert len(found) == 4 and len(calls) == 1 + 5  # of all rows, and without each fold


@pytest.mark.parametrize(
    ("kind", "costs", "path"),
    [("standalone", [1.0, 20.0, 10.0], (0, 2)), ("cumulative", [1.0, 21.0, 31.0], (0, 1, 2))],
)
def test_a_cascade_may_jump_models(kind, costs, path):
    logits, labels = outputs(1500, exits=3, seed=8)
    logits[:, 1] = logits[:, 0] + np.random.default_rng(0).normal(size=logits[:, 0].shape) * 0.1
    data = po.from_arrays(logits, labels, costs=costs, unit="USD", cost_kind=kind)
    assert fit_one("auto:folds=3+routes=false", fit_table(data), 8.0).policy.active_exits == path


# Exits whose scores differ by rounding only.
BUDGETS = [2.4, 4.0, 6.4]


def no_better(blank=False, rows=800):
    """Rows to fit on of four exits of which the later ones say the same as exit 0, or nothing at all."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, rows)
    first = 1.7 * (rng.normal(size=(rows, 5)) + 1.6 * np.eye(5)[labels])
    logits = np.stack([first] * 4, axis=1)
    logits[:, 1:] *= not blank
    return pool(logits.astype(np.float32), labels.astype(np.int32))


def alike(right_at_last=True, rows=120):
    """Two exits, all rows the same up to a unit of rounding; exit 0 is wrong, exit 1 right or wrong."""
    one = np.array([[0.6, 0.1, 0.2], [0.0, 3.0 if right_at_last else -3.0, 0.1]], dtype=np.float32)
    rounding = np.random.default_rng(0).integers(-1, 2, (rows, 2, 3)).astype(np.float32)
    data = {"outputs": one + 2.0**-24 * rounding, "labels": np.ones(rows, dtype=np.int32)}
    return fit_table(po.from_arrays(splits={"fit": data}, costs=[1.0, 3.0], unit="ms"))


def both(policy):
    return [one for _, one in sides(policy)]


def check_nothing_decided_by_rounding(policy, table):
    """Return how many exits have scores within rounding of each other; no threshold is near those."""
    found = 0
    for one in both(policy):
        scores = trace(one, table).scores
        for k, threshold in enumerate(one.thresholds):
            tolerance = ROUNDING * max(float(np.abs(scores[:, k]).max()), 1.0)
            if np.ptp(scores[:, k]) <= tolerance:
                found += 1
                assert np.abs(scores[:, k] - threshold).min() > tolerance, (k, threshold)
    return found


@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize(
    "spec",
    ["optimal_stopping", "optimal_stopping:mix=true+spend=all", "bolukbasi", "lista_stop", "act",
     "failure_prediction", "frugalgpt", "auto"],
)  # fmt: skip
def test_no_threshold_separates_scores_that_differ_by_rounding(spec, blank):
    table = fit_table(no_better(blank))
    flat = 0
    for result in make_method(spec).fit_path(table, BUDGETS):
        flat += check_nothing_decided_by_rounding(result.policy, table)
        assert 1.0 - 1e-9 <= result.expected.cost <= result.budget * (1 + 1e-9)
        if "mix=true" in spec and not blank:  # the coin spends it, and nothing else decides
            assert result.expected.cost == pytest.approx(result.budget)
            assert all(len(np.unique(trace(one, table).exit)) == 1 for one in both(result.policy))
        # A coin costs the budget in expectation; a cross-fitted score nearly the same when deployed.
        assert trace(result.policy, table).cost.mean() <= result.budget * 1.1
    assert flat or not spec.startswith("optimal_stopping")


def test_optimal_stopping_leaves_where_nothing_is_gained_and_says_so():
    """All exits give one answer: every budget is met by the first, and a runtime cannot differ."""
    table = fit_table(no_better())
    for result in make_method("optimal_stopping").fit_path(table, BUDGETS):
        assert result.flat == (0, 1, 2) and result.policy.mixture is None
        flat, spared = from_dict(to_dict(result.policy)).provenance["notes"]
        assert flat == flat_note([0, 1, 2]) and "more bought nothing" in spared
        assert (trace(result.policy, table).exit == 0).all()
    some = table.keep_exits([0, 2, 3])  # exits are named by the model's numbers
    assert fit_one("optimal_stopping", some, 4.0).flat == (0, 2)
    for spec in (
        "optimal_stopping",
        "max_prob",
        "patience",
        "frugalgpt",
    ):  # that tell samples apart
        result = fit_one(spec, fit_table(cache(n=800)), 3.0)
        assert result.flat == ()
        assert "rounding" not in str(result.policy.provenance.get("notes"))


@pytest.mark.parametrize(
    "spec",
    ["optimal_stopping", "bolukbasi", "lista_stop", "max_prob", "max_prob:thresholds=shared",
     "max_prob:thresholds=joint", "entropy"],
)  # fmt: skip
def test_where_all_look_alike_a_coin_buys_what_going_on_is_worth(spec):
    """Exit 1 is right for all: half the way costs half the rows, whichever. Wrong: none goes on."""
    better = fit_one(spec, alike(), 2.0)
    assert better.flat == (0,) and better.policy.mixture is not None
    assert better.expected.cost == pytest.approx(2.0, rel=1e-3)
    assert all(len(np.unique(trace(one, alike()).exit)) == 1 for one in both(better.policy))
    check_nothing_decided_by_rounding(better.policy, alike())
    worse = fit_one(spec, alike(right_at_last=False), 2.0)
    check_nothing_decided_by_rounding(worse.policy, alike(right_at_last=False))
    assert worse.expected.cost <= 2.0 + 1e-9


def test_a_plain_policy_as_accurate_goes_before_a_flat_one():
    rng = np.random.default_rng(0)
    right = (rng.random(400) < 0.7).astype(float)
    fee = right - 0.01  # as accurate, at a fee for what it overspends
    wrong = right * (rng.random(400) < 0.8)
    candidates = [("plain", None, 1), ("simple", None, 0), ("worse", None, 0), ("flat", None, 3)]
    correct, values = np.stack([right, right, wrong, right]), np.stack([fee, fee, wrong, right])
    cannot = values.copy()
    cannot[1] = -np.inf
    for worth, flat, wanted in (
        (values, [3], 1), (values, [1, 3], 0), (values, [], 3), (cannot, [3], 0),
        (values, [0, 1, 3], 3),  # the only other plain one is worse
    ):  # fmt: skip
        compared = Comparison(
            worth[None], correct[None], None, None, np.isin([range(4)], flat), np.arange(400),
            worth.mean(axis=1)[None],
        )  # fmt: skip
        assert compared.simplest(0, 3, candidates) == wanted
