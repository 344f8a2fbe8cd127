"""Optimal stopping against exact dynamic programming, closed forms and a library."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from checks import exits_taken
from synthetic import cache, chain, outputs

import policyopt as po
from policyopt._methods.backward_induction import backward_induction
from policyopt._methods.exit_batch import build_stopping_data
from policyopt._methods.registry import make_method
from policyopt._methods.regression import of_own_fold
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.runtime._artifact import from_dict, to_dict
from policyopt.runtime._errors import InputError


def test_equals_the_best_of_all_policies_of_a_small_chain():
    """With a column per signal the regression is tabular: it finds the best of all 512 policies."""
    signal, success = chain(60_000, 0)
    costs = np.array([1.0, 2.0, 4.0, 8.0])
    columns = [np.eye(3)[signal[:, k]] for k in range(3)]
    prices = np.array([0.004, 0.02, 0.05, 0.12])
    fold = np.arange(len(signal)) % 5
    found = backward_induction(
        columns, np.ones((len(signal), 3)), success, costs, fold, 1e-6, prices
    )
    taken = exits_taken(found, columns, fold)
    leave_sets = list(itertools.product([False, True], repeat=9))
    for i, price in enumerate(prices):
        best = -np.inf
        for leave in leave_sets:  # which of the three signals leave, at each of three exits
            table = np.array(leave).reshape(3, 3)
            stops = table[np.arange(3)[None], signal[:, :3]]
            exits = np.where(stops.any(axis=1), stops.argmax(axis=1), 3)
            value = success[np.arange(len(exits)), exits] - price * costs[exits]
            best = max(best, float(value.mean()))
        exits = taken[:, i]
        mine = success[np.arange(len(exits)), exits] - price * costs[exits]
        assert mine.mean() == pytest.approx(best, abs=1e-3)


def test_the_regression_is_weighted_ridge():
    """Each exit's last fit equals scikit-learn's Ridge on standardised columns, weights given."""
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(1)
    columns, doubt = rng.normal(size=(400, 6)) * [1, 2, 3, 4, 5, 6] + 1, rng.random((400, 1))
    success, costs = rng.random((400, 2)), np.array([1.0, 3.0])
    fold = np.arange(400) % 4
    found = backward_induction([columns], doubt, success, costs, fold, 25.0, np.array([0.1, 0.2]))
    weight = 1 / (doubt[:, 0] + 0.02)
    for g, rows in ((4, np.ones(400, bool)), (2, fold != 2)):
        w = weight[rows] / weight.mean()
        target = (success[rows, 0] - success[rows, 1]) + 0.1 * 2.0
        mean = np.average(columns[rows], axis=0, weights=w)
        sd = np.sqrt(np.average((columns[rows] - mean) ** 2, axis=0, weights=w))
        ridge = Ridge(alpha=25.0).fit((columns[rows] - mean) / sd, target, sample_weight=w)
        np.testing.assert_allclose(found.theta[g, 0, 1:, 0], ridge.coef_ / sd, rtol=1e-6)


def test_an_oracle_feature_reaches_the_hindsight_bound():
    """If the columns hold what the future brings, the policy is the best in hindsight."""
    rng = np.random.default_rng(2)
    success = (rng.random((20_000, 3)) < [0.5, 0.6, 0.7]).astype(float)
    costs, price = np.array([0.0, 1.0, 2.0]), 0.1
    patterns = (success @ [4, 2, 1]).astype(int)
    columns = [np.eye(8)[patterns]] * 2
    fold, doubt = np.arange(20_000) % 5, np.ones((20_000, 2))
    found = backward_induction(columns, doubt, success, costs, fold, 1e-6, np.array([price]))
    exits = exits_taken(found, columns, fold)[:, 0]
    value = success[np.arange(20_000), exits] - price * costs[exits]
    assert value.mean() == pytest.approx((success - price * costs).max(axis=1).mean(), abs=1e-9)


def test_one_monotone_feature_gives_a_threshold_rule():
    table = Tables(cache(3000, exits=2)).get("fit")
    confidence = table.statistics.confidence
    found = backward_induction(
        [confidence[:, :1]], 1 - confidence[:, :1], table.correct, table.costs,
        np.arange(len(table)) % 5, 1.0, np.array([0.05]),
    )  # fmt: skip
    whole = np.zeros(len(table), int)
    scores = of_own_fold(confidence[:, :1], found.theta[-1:, 0], whole)[:, 0]
    assert (np.diff(scores[np.argsort(confidence[:, 0])]) >= 0).all()


def test_price_orders_the_policies():
    """No price: the most accurate; a great one: exit 0; between, cost falls as the price grows."""
    table = Tables(cache(6000)).get("fit")
    seen = build_stopping_data(table, "combined", 1.0, 5, 0)
    found = backward_induction(
        seen.columns, seen.doubt, seen.success, table.costs, seen.fold, 300.0
    )
    taken = exits_taken(found, seen.columns, seen.fold)
    costs = table.costs[taken].mean(axis=0)
    assert costs[-1] == pytest.approx(1.0, abs=0.02)
    assert costs[0] > 7.0
    assert (np.diff(costs) < 0.05).all()
    free = int(np.searchsorted(found.prices, 0.0))
    value = np.take_along_axis(seen.success, taken, axis=1).mean(axis=0)
    assert value[free] >= seen.success.mean(axis=0).max() - 0.003


def test_the_deployed_rule_scores_as_the_fit_did():
    table = Tables(cache(3000)).get("fit")
    method = make_method("optimal_stopping")
    (result,) = method.fit_path(table, [3.0])
    logits, _ = outputs(500, seed=4)
    trace = result.policy.trace(logits)
    rule = from_dict(to_dict(result.policy)).rule
    from policyopt.runtime._policy import Observer
    from policyopt.runtime._scores.history import FEATURES, basis

    observer = Observer(result.policy.answer, "logits", 6, full=True)
    history, answers = FEATURES["distribution"], result.policy.answer.start(500, 6)
    state = history.start(500)
    for k in range(3):
        seen, _, answers = observer.look(k, logits[:, k], answers, 500)
        values, state = history.step(k, seen, state)
        columns = basis(values, rule.center[k], rule.scale[k], "distribution")
        np.testing.assert_allclose(
            columns @ rule.weights[k] + rule.offset[k], trace.scores[:, k], atol=1e-12
        )


def test_rows_without_labels_count():
    """Soft targets need no label: with 200 labels of 3,000 the regression still sees all rows."""
    logits, labels = outputs(3000, seed=5)
    labels = labels.copy()
    labels[np.random.default_rng(0).permutation(3000)[200:]] = -1
    data = po.from_arrays(
        splits={"fit": {"outputs": logits, "labels": labels}}, costs=[1, 2, 4, 8], unit="ms"
    )
    table = Tables(data).get("fit")
    seen = build_stopping_data(table, "combined", 1.0, 5, 0)
    assert len(seen.success) == 3000
    (result,) = make_method("optimal_stopping").fit_path(table, [3.0])
    assert result.expected.rows == 3000
    assert result.expected.cost == pytest.approx(3.0, rel=0.01)
    unlabelled = po.from_arrays(splits={"fit": {"outputs": logits}}, costs=[1, 2, 4, 8], unit="ms")
    with pytest.raises(InputError, match="label"):
        make_method("optimal_stopping").fit_path(Tables(unlabelled).get("fit"), [3.0])


def test_no_row_is_answered_by_a_fit_it_took_part_in():
    """Changing one row's label leaves its own answers and its own success as they are."""
    logits, labels = outputs(600, seed=6)
    results = []
    for label in (labels[7], (labels[7] + 1) % 6):
        changed = labels.copy()
        changed[7] = label
        data = po.from_arrays(
            splits={"fit": {"outputs": logits, "labels": changed}}, costs=[1, 2, 4, 8], unit="ms"
        )
        seen = build_stopping_data(Tables(data).get("fit"), "combined", 1.0, 5, 0)
        results.append((seen.success[7], seen.doubt[7]))
    for first, second in zip(*results, strict=True):  # up to where the search for weights stops
        np.testing.assert_allclose(first, second, atol=1e-3)


def test_mixture_costs_the_budget_in_expectation():
    table = Tables(cache(3000)).get("fit")
    for result in make_method("optimal_stopping:mix=true").fit_path(table, [1.5, 3.0, 7.0]):
        assert result.expected.cost == pytest.approx(result.budget, rel=1e-9)
        policy = from_dict(to_dict(result.policy))
        assert policy.mixture is None or policy.mixture.rule is not None


def test_few_rows_cost_what_they_are_to_cost():
    """At 120 rows scores are noisy, but the mean cost over draws is the budget."""
    off, inside = [], []
    for seed in range(30):
        logits, labels = outputs(2120, 4, 10, seed=100 + seed)
        parts = {
            "fit": {"outputs": logits[:120], "labels": labels[:120]},
            "test": {"outputs": logits[120:], "labels": labels[120:]},
        }
        tables = Tables(po.from_arrays(splits=parts, costs=[1, 2, 3, 4], unit="ms"))
        (result,) = make_method("optimal_stopping").fit_path(tables.get("fit"), [2.0], seed)
        cost = replay(result.policy, tables.get("test")).cost.mean()
        low, high = result.expected.interval(2000)
        off.append(cost / 2.0 - 1)
        inside.append(low <= cost <= high)
    assert abs(np.mean(off)) < 3 * np.std(off) / 30**0.5
    assert np.mean(inside) > 0.8
