"""Bounds hold as often as they say, and so do the goals of certified plans: by simulation."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).parent))
import tier_cases

import policyopt as po
from policyopt import Goal, Limit, Tier, Tiers, certified_plan, make_plan
from policyopt._tiers.choose import mean_high, share_high, share_low
from policyopt._tiers.plans import outcome, plan_table
from policyopt.runtime._errors import BudgetError, InputError


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
    bounds = np.array(
        [mean_high(rng.choice(values, 300, p=chances), low, high, 0.9) for _ in range(300)]
    )
    assert (bounds < true).mean() <= 0.1 + 3 * (0.1 * 0.9 / 300) ** 0.5
    spread = float(np.sqrt(np.dot(np.square(np.array(values) - true), chances) / 300))
    assert bounds.mean() - true <= 3.5 * spread + 0.01 * (high - low)  # Hoeffding: far more
    assert (bounds <= high).all()
    assert mean_high(np.array([3.0, 3.0]), 3.0, 3.0, 0.95) == 3.0
    assert mean_high(np.zeros(1000), 0.0, 1.0, 0.95) < 0.01
    assert mean_high(np.ones(rng.integers(1, 99)), 0.0, 1.0, 0.95) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def world():
    """Rows that stand for all there will ever be, and tiers."""
    return tier_cases.table(5, 20_000, 2), tier_cases.tiers(5, 2, 2)


@pytest.fixture(scope="module")
def goals(world):
    table, tiers = world
    floor = float(table.correct[:, 0].mean() * 0.4 + table.correct[:, 1].mean() * 0.6)
    planned = make_plan(tiers, table, Goal("latency", None, floor))
    cost, found = planned.searched.found[0].cost, planned.plan
    _, paid = outcome(tiers, found, planned.fitted.policy, table, ("latency", "energy"))
    energy = Limit("energy", "mean", 0.9 * float(paid["energy"].mean()))
    return (
        Goal("latency", None, floor),
        Goal("latency", cost),
        Goal("latency", 1.3 * cost, None, (energy,)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("which", range(3))
def test_certified_goals_are_broken_no_more_often_than_they_say(world, goals, which):
    """Plans, each of its own 500 rows, looked at on all rows."""
    (table, tiers), goal = world, goals[which]
    rng, broken = np.random.default_rng(1), []
    for seed in range(30):
        rows = table.take(rng.integers(0, len(table), 500))
        try:
            planned = certified_plan(tiers, rows, goal, 0.8, seed=seed)
        except BudgetError:
            continue
        right, paid = outcome(tiers, planned.plan, planned.fitted.policy, table, goal.objectives)
        kept = goal.accuracy is None or right.mean() >= goal.accuracy
        kept &= goal.budget is None or paid[goal.objective].mean() <= goal.budget
        broken.append(not kept or any(not one.kept(paid[one.objective]) for one in goal.limits))
    made = len(broken)
    assert np.mean(broken) <= 0.2 + 2.33 * (0.2 * 0.8 / made) ** 0.5 and made >= 24


@pytest.mark.parametrize("method", [None, "margin"])
def test_a_certificate_is_of_rows_that_chose_nothing(world, goals, method):
    """A method competes under half of the chance."""
    table, tiers = world
    rows = table.take(np.arange(1501))
    for goal in goals[:2]:
        by = None if method is None else po.make_method(method)
        planned = certified_plan(tiers, rows, goal, 0.9, by, seed=3)
        found = planned.certificate
        assert (found.fitted_rows, found.rows) == (750, 751) and planned.met
        held = rows.take(np.random.default_rng(3).permutation(1501)[750:])
        right, paid = outcome(tiers, planned.plan, planned.fitted.policy, held, ("latency",))
        assert found.accuracy == right.mean() and found.cost == paid["latency"].mean()
        levels = (0.9,) if method is None else (0.9, 0.95)  # both tested, or the search alone
        lows = [share_low(int(right.sum()), 751, level) for level in levels]
        assert found.accuracy_low in lows and found.accuracy_low < found.accuracy
        assert found.cost_high >= found.cost
        assert goal.accuracy is None or found.accuracy_low >= goal.accuracy
        assert goal.budget is None or found.cost_high <= goal.budget
        assert (planned.fitted.method == "margin") == (planned.by is not None)
        due = {"search", "method"} if method else set()
        assert {row["method"] for row in planned.compared} == due


def test_what_cannot_be_shown_is_refused(world):
    table, tiers = world
    rows = table.take(np.arange(300))
    fit = rows.take(np.random.default_rng(0).permutation(300)[:150])
    best = float(fit.correct.mean(axis=0).max())  # possible on the half that fits
    with pytest.raises(BudgetError, match=r"'accuracy' must be at most .* with 99.9999 %"):
        certified_plan(tiers, rows, Goal("latency", None, best - 0.005), 0.999999)
    with pytest.raises(BudgetError):
        tight = Goal("latency", 1e6, None, (Limit("latency", "p95", 1e-9),))
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
    held = rows.take(np.random.default_rng(0).permutation(1000)[500:])

    def costs(goal, rows):
        planned = certified_plan(tiers, rows, goal, 0.9)
        return outcome(tiers, planned.plan, planned.fitted.policy, held, ("latency",))[1]["latency"]

    most = 0.98 * float(costs(Goal("latency", 1e6), rows).max())
    p95, worst = (
        (costs(Goal("latency", 1e6, None, (Limit("latency", one, most),)), rows) > most).sum()
        for one in ("p95", "worst")
    )
    assert share_high(int(p95), 500, 0.9) <= 0.05 and worst == 0


def of_their_own(rows, rare=0.004, dear=200.0):
    """Return rows with costs of their own, of which a rare one is dear: few draws hold one."""
    table = tier_cases.table(5, rows, 2)
    factor = np.where(np.random.default_rng(0).random(rows) < rare, dear, 1.0)
    return replace(table, costs=factor[:, None] * table.costs)


def test_a_stated_bound_keeps_the_mean_of_rare_dear_rows():
    """The largest cost seen is none: where no dear row is drawn it lies below the true mean."""
    table, tiers = of_their_own(20_000), tier_cases.tiers(5, 2, 2)
    bound = float(table.costs.max())
    whole = certified_plan(tiers, table, Goal("latency", accuracy=0.5), 0.9, cost_bound=bound)
    assert whole.certificate.cost <= whole.certificate.cost_high < np.inf
    cheap, dear = plan_table(tiers, whole.plan, "latency", table).costs[:, [0, -1]].mean(axis=0)
    rng, broken = np.random.default_rng(1), 0
    goal = Goal("latency", budget=float(cheap + 2 * (dear - cheap)))
    for seed in range(25):
        rows = table.take(rng.integers(0, len(table), 400))
        try:
            planned = certified_plan(tiers, rows, goal, 0.9, seed=seed, cost_bound=bound)
        except BudgetError:
            continue
        paid = outcome(tiers, planned.plan, planned.fitted.policy, table)[1]["latency"]
        broken += paid.mean() > min(planned.certificate.cost_high, goal.budget)
    assert broken <= 25 * 0.1 + 3 * (25 * 0.09) ** 0.5


def test_without_a_bound_no_mean_is_promised():
    table, tiers = of_their_own(2000), tier_cases.tiers(5, 2, 2)
    floor = Goal("latency", accuracy=0.3)
    limited = replace(floor, limits=(Limit("energy", "mean", 1e9),))
    for goal in (Goal("latency", budget=1e6), limited):
        with pytest.raises(InputError, match=r"cost_bound.*--cost-bound"):
            certified_plan(tiers, table, goal, 0.9)
    with pytest.raises(InputError, match=r"cost_bound.*a row of split"):
        certified_plan(tiers, table, floor, 0.9, cost_bound=1.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf"), 1e300, "9"):
        with pytest.raises(InputError, match="cost_bound"):
            certified_plan(tiers, table, floor, 0.9, cost_bound=wrong)
    # A floor and a percentile need no range of costs; of the mean nothing is said.
    goal = replace(floor, limits=(Limit("latency", "p95", 1e6),))
    found = certified_plan(tiers, table, goal, 0.9).certificate
    assert found.accuracy_low >= 0.3 and found.cost_high is None
    # Where stages take stated times, costs of their own do not change the latency.
    times = tuple(float(k + 1) for k in range(table.exits))
    stated = Tiers((Tier("device", stage_ms=times),), (), 100.0)
    goal = Goal("latency", budget=sum(times))
    assert certified_plan(stated, table, goal, 0.9).certificate.cost_high <= sum(times)


def test_the_command_asks_for_the_bound(run, tmp_path):
    logits, labels = synthetic.outputs(1200, 3, 4)
    costs = np.array([1.0, 2, 4]) * np.random.default_rng(0).uniform(1, 2, (1200, 1))
    np.savez(tmp_path / "a.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=costs.T)
    halves = {"fit": 0.5, "test": 0.5}
    po.import_sources(tmp_path / "a.npz", tmp_path / "c", unit="ms", shares=halves)
    tiers = {"model": {"input_bytes": 10}, "tier": [{"name": "device", "ms_per_unit": 1}]}
    (tmp_path / "t.json").write_text(json.dumps(tiers))
    command = ("plan", tmp_path / "c", "--tiers", tmp_path / "t.json", "--method", "none")
    sure = ("--budget", "5", "--confidence", "90%", "--format", "json")
    for more, due, words in (
        (sure, 2, "--cost-bound"),
        ((*sure, "--cost-bound", "7"), 2, "is what a row of split"),
        (("--accuracy", "30%", "--confidence", "90%"), 0, "no bound without --cost-bound"),
        (("--budget", "5", "--cost-bound", "8"), 2, "given with --confidence"),
        ((*sure, "--cost-bound", "8"), 0, "latency at most"),
    ):
        code, text, said = run(*command, *more)
        assert code == due and words in said
    assert json.loads(text)["cost_bound"] == 8
