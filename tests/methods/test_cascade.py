"""The cascade family against its papers' rules, sample by sample."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from synthetic import cache, hopeless, outputs

import policyopt as po
from policyopt._answers.crossfit import CrossFitted
from policyopt._methods.exit_batch import build_batch, columns_of
from policyopt._methods.frugalgpt import Quantiles, best_within
from policyopt._methods.registry import make_method
from policyopt._methods.window import Windows
from policyopt._table import Tables
from policyopt._thresholds.problem import Problem
from policyopt.runtime._answers import Identity
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._outputs import with_columns
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


@pytest.mark.parametrize("target", ["diff01", "diffprob", "maxprob"])
@pytest.mark.parametrize("against", ["last", "next"])
def test_deferral_regresses_its_target(target, against):
    """Each score is minus the ridge regression, by scikit-learn, of what the paper's table names."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    data = cache(n=800)
    table = Tables(data).get("fit")
    seen = build_batch(table, CrossFitted(Identity()))
    rule = make_method(f"deferral:target={target}+against={against}").learn(seen, 0)
    scores = score_table(rule, seen.outputs)
    p = np.exp(table.log_prob().astype(float))
    y = table.statistics.labels
    rows = np.arange(len(y))
    worth = {"diff01": p.argmax(2) == y[:, None], "diffprob": p[rows, :, y], "maxprob": p.max(2)}[
        target
    ].astype(float)
    for k, basis in enumerate(columns_of(seen).basis):
        other = k + 1 if against == "next" else 3
        x = StandardScaler().fit_transform(basis)
        wanted = worth[:, other] - worth[:, k]
        found = Ridge(alpha=30.0, solver="cholesky").fit(x, wanted).predict(x)
        np.testing.assert_allclose(scores[:, k], -found, atol=1e-5)


def test_deferral_goes_on_where_the_last_exit_is_a_specialist():
    """Theirs, section 5: a second model that knows some classes only; confidence cannot see that."""
    rng = np.random.default_rng(0)
    rows = 6000
    kind = rng.integers(0, 2, rows)  # the answer given by exit 0: the specialist knows kind 1 only
    right = np.stack([rng.random(rows) < 0.6, kind == 1], axis=1)
    confidence = np.stack([np.where(kind == 1, 0.7, 0.65), np.full(rows, 0.5)], axis=1)
    confidence[:, 0] += 0.01 * rng.random(rows)
    data = records(rows, 2, right=right, confidence=confidence, split={"fit": 1.0})
    table = Tables(data).get("fit")
    ours, confident = (
        make_method(name).fit_path(table, [2.0])[0].accuracy for name in ("deferral", "max_prob")
    )
    assert ours > 0.78 and confident < 0.5


@pytest.mark.parametrize("size", [1, 2, 3])
def test_agreement_is_the_released_count(size):
    """ABC's released code, sample by sample: the leader of a Counter, its count over the members."""
    data = cache(600, 5, 4)
    table = Tables(data).get("fit")
    scores = score_table(Agreement(size), table.statistics.outputs())
    log_prob = table.log_prob()
    full = [
        with_columns(output, log_prob=log_prob[:, k])
        for k, output in enumerate(table.statistics.outputs())
    ]  # fmt: skip
    soft = score_table(Agreement(size, 1), full)
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
    data = cache(3000, 5)
    for result in make_method("agreement_cascade").fit_path(Tables(data).get("fit"), [4.0, 9.0]):
        exits = result.policy.decide(logits).exit
        assert set(np.unique(exits)) <= {1, 3, 4}
    (cheap,) = make_method("agreement_cascade").fit_path(Tables(data).get("fit"), [1.5])
    assert cheap.policy.mixture is not None  # a coin sends some home at exit 0
    assert set(np.unique(cheap.policy.decide(logits).exit)) <= {0, 1}


def test_agreement_cascade_on_records():
    table = Tables(records()).get("fit")
    (result,) = make_method("agreement_cascade").fit_path(table, [6.0])
    assert result.expected.cost == pytest.approx(6.0)
    with pytest.raises(InputError, match="'share' where only records"):
        make_method("agreement_cascade:vote=probability").fit_path(table, [6.0])


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
    table = Tables(records(400, 4, split={"fit": 1.0})).get("fit")
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


def test_frugalgpt_skips_a_model_that_is_never_worth_its_cost():
    rng = np.random.default_rng(0)
    right = np.stack([rng.random(3000) < p for p in (0.6, 0.3, 0.95)], axis=1)
    data = records(3000, 3, right=right, costs=[1.0, 5.0, 6.0])
    table = Tables(data).get("fit")
    (result,) = make_method("frugalgpt").fit_path(table, [4.0])
    assert result.policy.path == (0, 2) and result.policy.model_exits == 3
    assert result.policy.costs == pytest.approx([1.0, 7.0])
    (plain,) = make_method("max_prob").fit_path(table, [4.0])
    assert result.accuracy > plain.accuracy + 0.05


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


def test_hidec_gives_hopeless_samples_up_at_the_boundary():
    """Thirds easy, mendable and hopeless: with the money for one third, the mendable go on."""
    table = Tables(hopeless()).get("fit")
    (result,) = make_method("hidec").fit_path(table, [2.0])
    (plain,) = make_method("max_prob").fit_path(table, [2.0])
    assert result.accuracy > plain.accuracy + 0.1
    confidence = table.statistics.top_prob[:, 0, 0]
    goes = result.policy.decide(table.statistics.outputs()).exit == 1
    assert np.mean(confidence[~goes] < confidence[goes].min()) > 0.2


def test_hidec_boundary_is_the_exit_before_the_greatest_step():
    tables = [Tables(cache(n=300, costs=c)).get("fit") for c in ([1, 2, 9, 10], [1, 2, 3, 9])]
    assert [make_method("hidec").closed(t) for t in tables] == [{1}, {2}]
    assert make_method("hidec:boundary=0,2").closed(tables[0]) == {0, 2}
    for wrong in ("3", "-1", "0.5", "true", "first"):
        with pytest.raises(InputError, match="boundary"):
            make_method(f"hidec:boundary={wrong}").fit_path(tables[0], [2.0])


def middle_is_dear(rows=3000):
    """Records of three models, the second dear and bad; the third cheaper by itself than the first."""
    rng = np.random.default_rng(0)
    right = np.stack([rng.random(rows) < p for p in (0.7, 0.3, 0.9)], axis=1)
    return records(rows, 3, right=right, costs=[2.0, 5.0, 1.5], split={"fit": 1.0})


def test_subset_finds_what_brute_force_finds():
    """Cross-validated by hand: every subset fitted on each half, scored on the other."""
    from policyopt._answers.crossfit import folds_of
    from policyopt._methods.frugalgpt import subsets

    rng = np.random.default_rng(0)
    right = np.stack([rng.random(3000) < p for p in (0.6, 0.3, 0.95)], axis=1)
    data = records(3000, 3, right=right, costs=[1.0, 5.0, 6.0], split={"fit": 1.0})
    table, budget = Tables(data).get("fit"), 4.0
    fold = folds_of(3000, 2, 0)
    worth = {}
    for kept in subsets(3, 3):
        small = table.keep_exits(kept)
        if not small.mean_costs[0] <= budget <= small.mean_costs[-1] or len(kept) == 1:
            continue
        halves = [np.flatnonzero(fold == f) for f in (0, 1)]
        scores = []
        for train, test in (halves, halves[::-1]):
            one = make_method("max_prob").fit_path(small.take(train), [budget])[0]
            seen = small.take(test).statistics
            exits = one.policy.rule, one.policy.thresholds
            confidence = score_table(exits[0], seen.outputs())
            first = [next((k for k, t in enumerate(exits[1]) if c[k] >= t), len(kept) - 1)
                     for c in confidence]  # fmt: skip
            scores.append(seen.correct[np.arange(len(first)), first].mean())
        worth[kept] = np.mean(scores)
    (result,) = make_method("subset:folds=2").fit_path(table, [budget])
    assert result.policy.path == max(worth, key=worth.get) == (0, 2)
    assert result.policy.provenance["chosen"]["method"] == "max_prob on exits 0, 2"
    assert result.budget == budget and result.policy.model_exits == 3


def test_subset_reaches_budgets_under_the_first_exit():
    table = Tables(middle_is_dear()).get("fit")
    low, high = make_method("subset").fit_path(table, [1.6, 8.5])
    assert low.policy.path == (2,) and low.expected.cost == pytest.approx(1.5)
    assert low.accuracy > 0.85
    assert high.expected.cost <= 8.5  # the full chain, or what is as good for less
    for method in ("subset", "frugalgpt"):
        with pytest.raises(BudgetError, match=r"\[1.5, 8.5\] USD"):
            make_method(method).fit_path(table, [1.4])
    (frugal,) = make_method("frugalgpt").fit_path(table, [1.6])
    assert frugal.policy.path == (2,)


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
    (result,) = make_method("subset:folds=2").fit_path(Tables(data).get("fit"), [5.0])
    assert result.expected.cost <= 5.0
    assert set(result.policy.path) <= {0, 1, 4, 7} and 7 in result.policy.path


def test_subset_says_that_labels_are_missing():
    data = po.from_arrays(
        splits={"fit": {"outputs": outputs(200)[0], "labels": np.full(200, -1)}}, costs=[1, 2, 4, 8]
    )
    with pytest.raises(InputError, match="label for every row"):
        make_method("subset").fit_path(Tables(data).get("fit"), [3.0])


def test_what_a_list_spares_by_plan_is_no_merit():
    """Compared by what they get right: a cheap model does not win by the money it leaves over."""
    from policyopt._methods.choosing import OnExits, compare, prices_at
    from policyopt._methods.frugalgpt import FrugalGPT
    from policyopt._replay import replay

    table, budget = Tables(records(600, split={"fit": 1.0})).get("fit"), 3.0
    inner = make_method("max_prob")
    cheap = OnExits((0,), inner).fit_path(table, [budget])[0]
    candidates = [("cheap", OnExits((0,), inner), 0), ("list", FrugalGPT(length=1), 0)]
    assert prices_at(table, [budget])[0] > 0.01 and cheap.expected.cost == 1.0
    cheap_values, values = compare(table, candidates, [budget], 2, 0).values[0]
    np.testing.assert_allclose(cheap_values, replay(cheap.policy, table).correct)
    assert set(values) <= {0.0, 1.0}  # right or wrong, and nothing for the money not spent
