"""Plans: leaving costs against a walk, the search against all cuts, exits and thresholds tried one by one."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import combinations, pairwise, product
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tier_cases

import policyopt as po
from policyopt import Goal, Limit, make_plan
from policyopt._replay import replay
from policyopt._tiers.plans import (
    cuts,
    leaving_costs,
    outcome,
    plan_table,
    references,
    summary,
)
from policyopt._tiers.search import axis, search
from policyopt.runtime._decision import ALWAYS, NEVER
from policyopt.runtime._errors import BudgetError, InputError


@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("objective", ["latency", "energy", "price"])
def test_costs_are_those_of_the_way(objective, cascade):
    """Of all cuts; a model's rows have costs of their own."""
    table = tier_cases.table(1, 3, 4, cascade, per_sample=not cascade)
    tiers = tier_cases.tiers(2, 4, 3, cascade)
    every = [kept for size in range(1, 5) for kept in combinations(range(4), size)]
    plans = [plan for kept in every for plan in cuts(tiers, kept, cascade)]
    assert len(plans) > 100
    for plan in plans:
        found = np.atleast_2d(leaving_costs(tiers, plan, objective, table))
        for row, costs in zip(found, np.atleast_2d(table.costs), strict=True):
            amounts = np.diff(costs, prepend=0.0)
            due = tier_cases.walk(tiers, plan.tier, plan.kept, objective, amounts, cascade)
            np.testing.assert_allclose(row, due, rtol=1e-12)
    small = plan_table(tiers, plans[-1], objective, table)
    assert small.unit == tiers.unit_of(objective) and small.path == plans[-1].kept
    np.testing.assert_array_equal(small.costs, leaving_costs(tiers, plans[-1], objective, table))


def test_cuts_are_all_the_ways_that_never_turn_back():
    tiers = tier_cases.tiers(0, 4, 3)
    every = [t for t in product(range(3), repeat=4) if list(t) == sorted(t)]
    assert [plan.tier for plan in cuts(tiers, (1, 3), False)] == every
    assert len(cuts(tiers, (1, 3), True)) == 6  # of a cascade only the two models that run matter
    first, *rest = tiers.tiers[:2]
    small = replace(tiers, tiers=(replace(first, most_stages=1), *rest), links=tiers.links[:1])
    assert [p.tier for p in cuts(small, (2,), False)] == [(0, 1, 1), (1, 1, 1)]
    with pytest.raises(InputError, match="20,000 ways to cut"):
        cuts(tier_cases.tiers(0, 60, 8), tuple(range(60)), False)


def every_threshold(column):
    """One below all scores, one between each two neighbours, one above: all that can differ."""
    ordered = sorted(set(column.tolist()))
    middles = [(low + high) / 2 for low, high in pairwise(ordered)]
    return [ordered[0] - 1.0, *middles, ordered[-1] + 1.0]


def every_plan(tiers, table, cascade):
    """Yield value and paid cost per objective, row by row, of all cuts, exits and thresholds."""
    logits = np.concatenate([np.asarray(part, np.float64) for _, part in table.chunks()])
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    sure = (powers / powers.sum(axis=2, keepdims=True)).max(axis=2)
    right, exits = table.correct, table.exits
    amounts = [b - a for a, b in pairwise([0.0, *table.costs.tolist()])]
    for size in range(1, exits + 1):
        for kept in combinations(range(exits), size):
            ways = []
            for thresholds in product(*(every_threshold(sure[:, k]) for k in kept[:-1])):
                at = np.full(len(table), size - 1)
                for i in reversed(range(size - 1)):
                    at[sure[:, kept[i]] >= thresholds[i]] = i
                ways.append((at, right[np.arange(len(at)), np.array(kept)[at]].mean()))
            for tier_of in product(range(len(tiers.tiers)), repeat=kept[-1] + 1):
                if list(tier_of) == sorted(tier_of):
                    latency, energy = (
                        np.array(tier_cases.walk(tiers, tier_of, kept, name, amounts, cascade))
                        for name in ("latency", "energy")
                    )
                    for at, value in ways:
                        yield value, latency[at], energy[at]


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("cascade", [False, True])
def test_as_good_as_all_cuts_exits_and_thresholds(seed, cascade):
    table = tier_cases.table(seed, 24, 2 + seed % 2, cascade)  # all thresholds fit into the grid
    tiers = tier_cases.tiers(seed, table.exits, 2 + (seed + 1) % 2, cascade)
    found = list(every_plan(tiers, table, cascade))
    mean = np.array([latency.mean() for _, latency, _ in found])
    value = np.array([v for v, _, _ in found])
    budget_of = np.quantile(mean, [0.02, 0.1, 0.3, 0.7])
    for budget in budget_of:
        due = value[mean <= budget].max()
        best = search(tiers, table, Goal("latency", float(budget))).found[0]
        assert best.value >= due - 1e-12 and best.cost <= budget * (1 + 1e-9)
    for floor in np.quantile(value, [0.3, 0.7, 0.99]):
        due = mean[value >= floor].min()
        best = search(tiers, table, Goal("latency", None, float(floor))).found[0]
        assert best.cost <= due * (1 + 1e-9) and best.value >= floor - 1e-9
    # With a percentile of latency, or each row's, and the mean energy limited besides.
    energy = np.array([e.mean() for _, _, e in found])
    for statistic, share in (("p95", 0.95), ("worst", 1.0)):
        tails = np.array([np.quantile(x, share, method="inverted_cdf") for _, x, _ in found])
        tail, joules = np.quantile(tails, 0.3), np.quantile(energy, 0.4)
        fits = (tails <= tail) & (energy <= joules) & (mean <= budget_of[2])
        limits = (Limit("latency", statistic, float(tail)), Limit("energy", "mean", float(joules)))
        goal = Goal("latency", float(budget_of[2]), None, limits)
        if fits.any():
            assert search(tiers, table, goal).found[0].value >= value[fits].max() - 1e-12
        else:
            with pytest.raises(BudgetError):
                search(tiers, table, goal)


def test_the_value_found_is_what_a_replay_pays():
    table, tiers = tier_cases.table(5, 200, 4, per_sample=True), tier_cases.tiers(5, 4)
    goal = Goal("latency", 8.0)
    planned = make_plan(tiers, table, goal)
    correct, paid = outcome(tiers, planned.plan, planned.fitted.policy, table)
    one = next(f for f in planned.searched.found if f.plan == planned.plan)
    assert paid["latency"].mean() <= 8.0 * (1 + 1e-9)
    assert planned.fitted.expected.cost == pytest.approx(paid["latency"].mean())
    assert correct.mean() == pytest.approx(planned.fitted.accuracy)
    assert correct.mean() >= one.value - 0.02


def test_a_beam_over_more_exits_comes_close_to_all_sets(monkeypatch):
    monkeypatch.setattr("policyopt._tiers.search._CELLS", 2000)
    table, tiers = tier_cases.table(1, 120, 7), tier_cases.tiers(1, 7, 2)
    goal = Goal("latency", 0.5 * search(tiers, table, Goal("latency", 1e6)).found[0].cost)
    whole, beam = search(tiers, table, goal, exact=True), search(tiers, table, goal)
    assert whole.found[0].value - beam.found[0].value <= 0.01 and beam.sets < 0.9 * whole.sets


def test_many_rows_cost_little_though_not_all_thresholds_are_tried():
    """A grid of quantiles, then refined: within two rows of 90 of the best of all thresholds."""
    table, tiers = tier_cases.table(3, 90, 3), tier_cases.tiers(3, 3, 2)
    found = [(v, latency.mean()) for v, latency, _ in every_plan(tiers, table, False)]
    value, mean = np.array(found).T
    for budget in np.quantile(mean, [0.05, 0.3, 0.6]):
        best = search(tiers, table, Goal("latency", float(budget))).found[0]
        assert value[mean <= budget].max() - best.value <= 2 / 90 + 1e-12


@pytest.mark.parametrize("levels", [3, 9, 33, 129])
def test_thresholds_stand_in_the_widest_gaps_between_scores(levels):
    rng = np.random.default_rng(levels)
    for scores in (
        rng.random(500), 1 - np.float32(2.0) ** -rng.uniform(1, 24, 500).astype(np.float32),
        rng.integers(0, 6, 500).astype(float), np.ones(4), np.array([0.5]),
    ):  # fmt: skip
        found = axis(scores.astype(np.float64), levels)
        assert found[0] == ALWAYS and found[-1] == NEVER and len(found) <= levels
        assert (np.diff(found) > 0).all()
        ordered = np.unique(scores.astype(np.float64))
        for t in found[1:-1]:
            assert t not in scores
            at = np.searchsorted(ordered, t)
            assert t == pytest.approx((ordered[at - 1] + ordered[at]) / 2, rel=1e-12)
        if len(ordered) + 1 <= levels:
            assert len(found) == len(ordered) + 1
        else:  # some near every quantile
            largest = np.unique(scores, return_counts=True)[1].max() / len(scores)
            shares = [(scores < t).mean() for t in found]
            assert np.diff(shares).max() <= 2 / (levels - 2) + largest


def test_impossible_goals_name_what_is_possible():
    table, tiers = tier_cases.table(0, 60, 3), tier_cases.tiers(0, 3)
    with pytest.raises(BudgetError, match="'budget' must be at least"):
        search(tiers, table, Goal("latency", 1e-9))
    with pytest.raises(BudgetError, match="'accuracy' must be at most"):
        search(tiers, table, Goal("latency", None, 1.0))
    for wrong in ("latency", "speed=3", "latency:p50=3", "energy=-1", "energy=x"):
        with pytest.raises(InputError, match="limit"):
            Limit.parse(wrong)
    for settings in ({}, {"budget": 1.0, "accuracy": 0.5}, {"budget": -1.0}, {"accuracy": 2.0}):
        with pytest.raises(InputError):
            Goal("latency", **settings)


@pytest.mark.parametrize("rows", [1, 2, 25])
def test_few_rows_and_two_exits(rows):
    table, tiers = tier_cases.table(0, rows, 2), tier_cases.tiers(0, 2)
    planned = make_plan(tiers, table, Goal("latency", 100.0), po.make_method("max_prob"))
    record = summary(tiers, planned.plan, planned.fitted.policy, table, "latency")
    assert record["rows"] == rows and record["latency"] <= 100.0


@pytest.mark.parametrize(("method", "seed"), [(None, 3), ("max_prob", 8), ("optimal_stopping", 11)])
def test_no_stage_that_no_row_reaches_is_planned(method, seed):
    """Random models and tiers, limits that only early exits keep: the plan ends where rows do."""
    table, tiers = tier_cases.table(seed, 400, 4), tier_cases.tiers(seed, 4, 2 + seed % 2)
    by = None if method is None else po.make_method(method)
    ends = [
        make_plan(tiers, table, goal).held_out.cost
        for goal in (Goal("latency", accuracy=0.0), Goal("latency", budget=1e9))
    ]
    for statistic, part in (("worst", 0.8), ("p95", 0.6), ("mean", 0.4)):
        most = ends[0] + part * (ends[1] - ends[0])
        goal = Goal("price", budget=1e9, limits=(Limit("latency", statistic, most),))
        planned = make_plan(tiers, table, goal, by)
        policy, plan = planned.fitted.policy, planned.plan
        small = plan_table(tiers, plan, "price", table)
        assert plan.kept[-1] == replay(policy, small).exit.max() == policy.path[-1], (goal, plan)
        assert len(plan.tier) == plan.kept[-1] + 1
        assert goal.kept(*outcome(tiers, plan, policy, table, goal.objectives))


def test_a_method_competes_and_reports_stay_honest():
    table, tiers = tier_cases.table(7, 600, 4), tier_cases.tiers(7, 4)
    fit, test = table.take(np.arange(300)), table.take(np.arange(300, 600))
    planned = make_plan(tiers, fit, Goal("latency", 12.0), po.make_method("margin"))
    assert {row["method"] for row in planned.compared} == {"search", "method"}
    record = summary(tiers, planned.plan, planned.fitted.policy, test, "latency")
    assert record["accuracy_low"] <= record["accuracy"] <= record["accuracy_high"]
    assert record["p95"] <= record["worst"] and sum(record["tier_share"]) == pytest.approx(1.0)
    full = [
        summary(tiers, p, alone, test, "latency") for p, alone in references(tiers, fit, "latency")
    ]
    assert all(r["accuracy"] == pytest.approx(test.correct[:, -1].mean()) for r in full)
