"""The search against all cuts, all sets of exits and all thresholds of a grid, tried one by one."""

from __future__ import annotations

import sys
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tier_cases

from policyopt.methods import make_method
from policyopt.runtime.errors import BudgetError, InputError
from policyopt.tiers.choose import make_plan, outcome, references, summary
from policyopt.tiers.goal import Goal, Limit
from policyopt.tiers.grid import Grid, axis
from policyopt.tiers.search import search


def every_plan(tiers, table, cascade, levels=33):
    """Yield kept, tiers of stages, thresholds, value and paid cost per objective, row by row."""
    sure = np.stack([o.confidence for o in table.statistics.outputs()], axis=1)
    right, exits = table.correct, table.exits
    amounts = np.diff(table.costs, prepend=0.0)
    for size in range(1, exits + 1):
        for kept in combinations(range(exits), size):
            axes = [axis(sure[:, k], min(levels, 33)) for k in kept[:-1]]
            ways = []
            for thresholds in product(*axes):
                leave = np.array([sure[:, k] >= t for k, t in zip(kept, thresholds, strict=False)])
                leave = np.vstack([leave.reshape(size - 1, len(table)), np.ones(len(table), bool)])
                at = leave.argmax(axis=0)
                ways.append((at, right[np.arange(len(at)), np.array(kept)[at]].mean()))
            last = kept[-1] + 1
            for tier_of in product(range(len(tiers.tiers)), repeat=last):
                if list(tier_of) == sorted(tier_of):
                    costs = {
                        name: np.array(
                            tier_cases.walk(tiers, tier_of, kept, name, amounts, cascade)
                        )
                        for name in ("latency", "energy")
                    }
                    for at, value in ways:
                        yield value, costs["latency"][at], costs["energy"][at]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cascade", [False, True])
def test_as_good_as_all_cuts_exits_and_thresholds(seed, cascade):
    table = tier_cases.table(seed, 60, 2 + seed % 2, cascade)
    tiers = tier_cases.tiers(seed, table.exits, 2 + (seed + 1) % 2, cascade)
    budget_of, floor = None, 0.0
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
    # With the 95th percentile of latency and the mean energy limited besides.
    p95 = np.array([np.quantile(x, 0.95, method="inverted_cdf") for _, x, _ in found])
    energy = np.array([e.mean() for _, _, e in found])
    tail, joules = np.quantile(p95, 0.3), np.quantile(energy, 0.4)
    fits = (p95 <= tail) & (energy <= joules) & (mean <= budget_of[2])
    limits = (Limit("latency", "p95", float(tail)), Limit("energy", "mean", float(joules)))
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


@pytest.mark.slow
def test_a_beam_over_more_exits_comes_close_to_all_sets():
    gaps, spared = [], []
    for seed in (1, 2):
        table, tiers = tier_cases.table(seed, 120, 7), tier_cases.tiers(seed, 7, 2)
        low, high = search(tiers, table, Goal("latency", 1e6)).found[0].cost, 0.0
        goal = Goal("latency", 0.5 * low + high)
        whole, beam = search(tiers, table, goal, exact=True), search(tiers, table, goal)
        gaps.append(whole.found[0].value - beam.found[0].value)
        spared.append(beam.sets / whole.sets)
    assert max(gaps) <= 0.01 and np.mean(spared) < 0.9


def test_no_early_exits_and_one_exit_is_edgent():
    """Edgent, Algorithm 1: the deepest exit whose best partition keeps the deadline."""
    table, tiers = tier_cases.table(2, 200, 4), tier_cases.tiers(2, 4)
    amounts, right = np.diff(table.costs, prepend=0.0), table.correct.mean(axis=0)
    ways = {}
    for k in range(4):
        for tier_of in product(range(3), repeat=k + 1):
            if list(tier_of) == sorted(tier_of):
                cost = tier_cases.walk(tiers, tier_of, (k,), "latency", amounts, False)[0]
                ways[k] = min(ways.get(k, np.inf), cost)
    deadline = 1.05 * sorted(ways.values())[2]
    edgent = max(right[k] for k, cost in ways.items() if cost <= deadline)
    # The deadline of every single row: the worst case, as Edgent's.
    goal = Goal("latency", deadline, None, (Limit("latency", "worst", deadline),))
    assert search(tiers, table, goal).found[0].value >= edgent


def test_a_grid_counts_as_a_loop_does():
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 5, (50, 3)) / 4, rng.random((50, 3))
    axes = [np.array([-1.0, 0.25, 0.5, 2.0]), np.array([0.5, 0.75])]
    grid = Grid(scores, right, axes)
    for point, (a, b) in enumerate(product(*axes)):
        at = np.where(scores[:, 0] >= a, 0, np.where(scores[:, 1] >= b, 1, 2))
        assert grid.value[point] == pytest.approx(right[np.arange(50), at].mean())
        np.testing.assert_allclose(grid.shares[point], np.bincount(at, minlength=3) / 50)
        assert grid.thresholds(point).tolist() == [a, b]


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
    planned = make_plan(tiers, table, Goal("latency", 100.0), make_method("max_prob"))
    record = summary(tiers, planned.plan, planned.fitted.policy, table, "latency")
    assert record["rows"] == rows and record["latency"] <= 100.0


def test_a_method_competes_and_reports_stay_honest():
    table, tiers = tier_cases.table(7, 600, 4), tier_cases.tiers(7, 4)
    fit, test = table.take(np.arange(300)), table.take(np.arange(300, 600))
    planned = make_plan(tiers, fit, Goal("latency", 12.0), make_method("margin"))
    assert {row["method"] for row in planned.compared} == {"search", "method"}
    record = summary(tiers, planned.plan, planned.fitted.policy, test, "latency")
    assert record["accuracy_low"] <= record["accuracy"] <= record["accuracy_high"]
    assert record["p95"] <= record["worst"] and sum(record["tier_share"]) == pytest.approx(1.0)
    full = [
        summary(tiers, p, alone, test, "latency") for p, alone in references(tiers, fit, "latency")
    ]
    assert all(r["accuracy"] == pytest.approx(test.correct[:, -1].mean()) for r in full)
