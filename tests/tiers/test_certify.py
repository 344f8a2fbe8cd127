"""Bounds hold as often as they say, and so do the goals of certified plans: by simulation."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).parent))
import tier_cases

from policyopt.methods import make_method
from policyopt.runtime.errors import BudgetError, InputError
from policyopt.tiers.bounds import mean_high, share_high, share_low
from policyopt.tiers.certify import certified_plan
from policyopt.tiers.choose import make_plan
from policyopt.tiers.goal import Goal, Limit
from policyopt.tiers.summary import outcome


def test_bounds_of_shares_are_exact():
    for rows, hits, level in ((50, 45, 0.95), (400, 3, 0.9), (7, 7, 0.8), (1, 1, 0.95)):
        low = share_low(hits, rows, level)
        # The least share under which so many or more are seen with chance 1 - level.
        assert binom.sf(hits - 1, rows, low) == pytest.approx(1 - level)
        assert share_high(rows - hits, rows, level) == pytest.approx(1 - low)
    assert share_low(0, 9, 0.95) == 0.0 and share_high(9, 9, 0.95) == 1.0


@pytest.mark.parametrize(
    ("values", "chances"),
    [([0.0, 1.0], [0.98, 0.02]), ([2.0, 3.0, 12.0], [0.6, 0.3, 0.1]), ([5.0, 6.0], [0.5, 0.5])],
)
def test_the_bound_of_a_mean_holds_and_is_near(values, chances):
    rng, true = np.random.default_rng(0), float(np.dot(values, chances))
    low, high = values[0], values[-1]
    draws = rng.choice(values, size=(600, 300), p=chances)
    bounds = np.array([mean_high(row, low, high, 0.9) for row in draws])
    broken = float((bounds < true).mean())
    assert broken <= 0.1 + 3 * (0.1 * 0.9 / 600) ** 0.5
    spread = float(np.sqrt(np.dot(np.square(np.array(values) - true), chances) / 300))
    assert bounds.mean() - true <= 3.5 * spread + 0.01 * (high - low)  # Hoeffding: far more
    assert (bounds <= high).all()


def test_the_bound_of_a_mean_at_its_edges():
    assert mean_high(np.array([3.0, 3.0]), 3.0, 3.0, 0.95) == 3.0
    assert mean_high(np.array([1.0]), 0.0, 1.0, 0.95) == pytest.approx(1.0)
    assert mean_high(np.zeros(1000), 0.0, 1.0, 0.95) < 0.01
    assert mean_high(np.ones(1000), 0.0, 1.0, 0.95) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def world():
    """Rows that stand for all there will ever be, and tiers."""
    return tier_cases.table(5, 20_000, 2), tier_cases.tiers(5, 2, 2)


def broken_share(world, goal, draws, confidence):
    """Share of plans, each of its own 500 rows, that break the goal on all rows; how many there were."""
    table, tiers = world
    rng, broken, made = np.random.default_rng(1), 0, 0
    for seed in range(draws):
        rows = table.take(rng.integers(0, len(table), 500))
        try:
            if confidence is None:
                planned = make_plan(tiers, rows, goal, seed=seed)
            else:
                planned = certified_plan(tiers, rows, goal, confidence, seed=seed)
        except BudgetError:
            continue
        right, paid = outcome(tiers, planned.plan, planned.fitted.policy, table, goal.objectives)
        kept = goal.accuracy is None or right.mean() >= goal.accuracy
        kept &= goal.budget is None or paid[goal.objective].mean() <= goal.budget
        kept &= all(limit.kept(paid[limit.objective]) for limit in goal.limits)
        broken, made = broken + (not kept), made + 1
    return broken / made, made


def goals(world):
    table, tiers = world
    floor = float(table.correct[:, 0].mean() * 0.4 + table.correct[:, 1].mean() * 0.6)
    planned = make_plan(tiers, table, Goal("latency", None, floor))
    cost, found = planned.searched.found[0].cost, planned.plan
    _, paid = outcome(tiers, found, planned.fitted.policy, table, ("latency", "energy"))
    energy = float(paid["energy"].mean())
    return (
        Goal("latency", None, floor),
        Goal("latency", cost),
        Goal("latency", 1.3 * cost, None, (Limit("energy", "mean", 0.9 * energy),)),
    )


def test_goals_in_the_mean_are_broken_often_and_certified_ones_seldom(world):
    floor, budget, _ = goals(world)
    assert broken_share(world, floor, 20, None)[0] >= 0.25
    for goal in (floor, budget):
        share, made = broken_share(world, goal, 20, 0.8)
        # At most a fifth: of 20 plans more than 8 break it with a chance of 1 %.
        assert share <= 0.4 and made >= 15


@pytest.mark.slow
def test_certified_goals_are_broken_no_more_often_than_they_say(world):
    for goal in goals(world):
        share, made = broken_share(world, goal, 60, 0.8)
        assert share <= 0.2 + 2.33 * (0.2 * 0.8 / made) ** 0.5 and made >= 48


def test_a_certificate_is_of_rows_that_chose_nothing(world):
    table, tiers = world
    floor, budget, _ = goals(world)
    for goal in (floor, budget):
        rows = table.take(np.arange(1501))
        planned = certified_plan(tiers, rows, goal, 0.9, seed=3)
        found = planned.certificate
        assert (found.fitted_rows, found.rows) == (750, 751) and planned.met
        held = rows.take(np.random.default_rng(3).permutation(1501)[750:])
        right, paid = outcome(tiers, planned.plan, planned.fitted.policy, held, ("latency",))
        assert found.accuracy == right.mean() and found.cost == paid["latency"].mean()
        assert found.accuracy_low == share_low(int(right.sum()), 751, 0.9) < found.accuracy
        assert found.cost_high >= found.cost
        assert goal.accuracy is None or found.accuracy_low >= goal.accuracy
        assert goal.budget is None or found.cost_high <= goal.budget


def test_a_method_competes_under_half_of_the_chance_each(world):
    table, tiers = world
    rows = table.take(np.arange(2000))
    for goal in goals(world)[:2]:
        planned = certified_plan(tiers, rows, goal, 0.9, make_method("margin"))
        found = planned.certificate
        assert goal.accuracy is None or found.accuracy_low >= goal.accuracy
        assert goal.budget is None or found.cost_high <= goal.budget
        assert {row["method"] for row in planned.compared} == {"search", "method"}
        assert (planned.fitted.method == "margin") == (planned.by is not None)


def test_what_cannot_be_shown_is_refused(world):
    table, tiers = world
    rows = table.take(np.arange(300))
    fit = rows.take(np.random.default_rng(0).permutation(300)[:150])
    best = float(fit.correct.mean(axis=0).max())  # possible on the half that fits
    with pytest.raises(BudgetError, match=r"'accuracy' must be at most .* with 99.9999 %"):
        certified_plan(tiers, rows, Goal("latency", None, best - 0.005), 0.999999)
    tight = Goal("latency", 1e6, None, (Limit("latency", "p95", 1e-9),))
    with pytest.raises(BudgetError):
        certified_plan(tiers, rows, tight, 0.95)
    for few in (0, 1):
        with pytest.raises(InputError, match="two labelled rows"):
            certified_plan(tiers, rows.take(np.arange(few)), Goal("latency", 1e6), 0.95)
    assert certified_plan(tiers, rows.take(np.arange(2)), Goal("latency", 1e6), 0.95).met
    for wrong in (0.3, 1.0, float("nan")):
        with pytest.raises(InputError, match="confidence"):
            certified_plan(tiers, rows, Goal("latency", 1e6), wrong)


def test_percentiles_and_worst_rows_are_looked_at_too(world):
    table, tiers = world
    rows = table.take(np.arange(1000))
    wide = certified_plan(tiers, rows, Goal("latency", 1e6), 0.9)
    _, paid = outcome(tiers, wide.plan, wide.fitted.policy, rows, ("latency",))
    most = float(paid["latency"].max())
    for statistic in ("p95", "worst", "mean"):
        goal = Goal("latency", 1e6, None, (Limit("latency", statistic, 0.98 * most),))
        try:
            planned = certified_plan(tiers, rows, goal, 0.9)
        except BudgetError:
            continue
        held = rows.take(np.random.default_rng(0).permutation(1000)[500:])
        _, paid = outcome(tiers, planned.plan, planned.fitted.policy, held, ("latency",))
        beyond = int((paid["latency"] > 0.98 * most).sum())
        if statistic == "worst":
            assert beyond == 0
        if statistic == "p95":
            assert share_high(beyond, 500, 0.9) <= 0.05
