"""Plans: costs against a walk, the search against all there are, certified goals; tiers decide as the whole policy."""

import base64
import copy
import json
import shutil
import time
from dataclasses import replace
from functools import cache, partial
from itertools import combinations, pairwise, product

import numpy as np
import pytest
import synthetic
from conftest import refuses
from faults import tree
from mutations import signed
from scipy.stats import binom

import policyopt as po
from policyopt import Goal, Limit, Link, Tier, Tiers
from policyopt import plan as make_plan
from policyopt._bounds import binomial_of, share_high, upper
from policyopt._replay import replay
from policyopt._tiers.choose import mean_high
from policyopt._tiers.description import load_tiers, tiers_from
from policyopt._tiers.plans import (
    Plan,
    cuts,
    leaving_costs,
    outcome,
    plan_table,
    references,
    summary,
)
from policyopt._tiers.search import axis, search
from policyopt._tiers.tier_policy import LEAVE, MOST_SAMPLES, SEND_ON, TierPolicy, tier_policies
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._policy import ALWAYS, NEVER


def certified_plan(tiers, table, goal, confidence, method=None, **more):
    return make_plan(tiers, table, goal, method, confidence=confidence, **more)


def table_of(seed, rows=240, exits=3, cascade=False, per_sample=False):
    rng = np.random.default_rng(seed)
    logits, labels = synthetic.outputs(rows, exits, 4, seed)
    costs = rng.uniform(0.5, 4.0, (rows, exits) if per_sample else exits)
    kind = "standalone" if cascade else "cumulative"
    costs = costs if cascade else np.cumsum(costs, axis=-1)
    data = po.from_arrays(logits, labels, costs, unit="MMACs", cost_kind=kind, split={"fit": 1.0})
    return po.Tables(data).get("fit")


def tiers_of(seed, exits=3, count=3, cascade=False, answer=8.0):
    rng = np.random.default_rng(seed)
    speeds = np.sort(rng.uniform(0.05, 4.0, count))[::-1]
    paid = ("mJ_per_unit", "watts", "price_per_unit", "price_per_hour")
    own = [dict(zip(paid, rng.uniform(0, [3, 2, 1, 5]).tolist(), strict=True)) for _ in speeds]
    rows = (Tier(f"tier{t}", float(speeds[t]), **own[t]) for t in range(count))
    links = [rng.uniform([1, 1, 0, 0, 0], [20, 20, 4, 2, 1]).tolist() for _ in range(count - 1)]
    cut = () if cascade else tuple(rng.uniform(100, 5000, exits - 1).tolist())
    heads = () if cascade else tuple(rng.uniform(0, 0.3, exits).tolist())
    return Tiers(tuple(rows), tuple(Link(*one) for one in links), 2000.0, cut, answer, 30.0, heads)


def walk(tiers, tier_of, kept, objective, amounts, cascade):
    """What leaving at each kept exit costs: stage after stage, link after link, one number at a time."""

    def sent(link, size, speed):
        return {
            "latency": link.round_trip_ms / 2 + size * 8 / (speed * 1000),
            "energy": size / 1000 * link.mJ_per_kB,
            "price": size / 1e9 * link.price_per_GB,
        }[objective]

    out, total, here = [], 0.0, 0
    for stage, tier in enumerate(tier_of):
        if cascade and stage not in kept:
            continue
        size = tiers.input_bytes if stage == 0 or cascade else tiers.cut_bytes[stage - 1]
        for link in tiers.links[here:tier]:
            total += sent(link, size + tiers.message_bytes, link.megabits_per_second)
        here, one = tier, tiers.tiers[tier]
        ms = one.ms_per_unit * amounts[stage]
        spent = {
            "latency": ms,
            "energy": one.mJ_per_unit * amounts[stage] + one.watts * ms,
            "price": one.price_per_unit * amounts[stage] + one.price_per_hour * ms / 3_600_000,
        }[objective]
        if stage not in kept and tiers.head_share:
            spent *= 1 - tiers.head_share[stage]
        total += spent
        if stage in kept:
            back = 0.0
            for link in tiers.links[:here] if tiers.answer_bytes is not None else ():
                back += sent(link, tiers.answer_bytes, link.back_megabits_per_second)
            out.append(total + back)
    return out


@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("objective", ["latency", "energy", "price"])
def test_costs_are_those_of_the_way(objective, cascade):
    table = table_of(1, 3, 4, cascade, per_sample=not cascade)
    tiers = tiers_of(2, 4, 3, cascade)
    every = [kept for size in range(1, 5) for kept in combinations(range(4), size)]
    plans = [plan for kept in every for plan in cuts(tiers, kept, cascade)]
    assert len(plans) > 100
    for plan in plans:
        found = np.atleast_2d(leaving_costs(tiers, plan, objective, table))
        for row, costs in zip(found, np.atleast_2d(table.costs), strict=True):
            amounts = np.diff(costs, prepend=0.0)
            due = walk(tiers, plan.tier, plan.kept, objective, amounts, cascade)
            np.testing.assert_allclose(row, due, rtol=1e-12)
    small = plan_table(tiers, plans[-1], objective, table)
    assert small.unit == tiers.unit_of(objective) and small.active_exits == plans[-1].kept
    np.testing.assert_array_equal(small.costs, leaving_costs(tiers, plans[-1], objective, table))


@pytest.mark.parametrize("per_sample", [False, True])
def test_heads_are_those_of_the_cache_where_the_tiers_say_none(per_sample):
    table, tiers = table_of(3, 3, 4, per_sample=per_sample), tiers_of(2, 4)
    alone = np.diff(np.atleast_2d(table.costs), axis=-1, prepend=0.0)
    heads = alone.min(axis=0) * [0.3, 0.1, 0.2, 0.0]
    own = replace(table, known_costs=(po.Cost("cost", "MMACs", None, heads=heads),))
    plan = Plan((1, 3), (0, 0, 1, 2))
    found = leaving_costs(replace(tiers, head_share=()), plan, "energy", own)
    for row, (costs, spent) in enumerate(zip(np.atleast_2d(table.costs), alone, strict=True)):
        said = replace(tiers, head_share=tuple(heads / spent))
        due = walk(said, plan.tier, plan.kept, "energy", spent, cascade=False)
        np.testing.assert_allclose(np.atleast_2d(found)[row], due, rtol=1e-12)
        assert len(costs) == 4
    stated = leaving_costs(tiers, plan, "energy", table)  # which goes before the cache's
    np.testing.assert_array_equal(leaving_costs(tiers, plan, "energy", own), stated)


def test_cuts_are_all_the_ways_that_never_turn_back():
    tiers = tiers_of(0, 4, 3)
    every = [t for t in product(range(3), repeat=4) if list(t) == sorted(t)]
    assert [plan.tier for plan in cuts(tiers, (1, 3), False)] == every
    assert len(cuts(tiers, (1, 3), True)) == 6  # of a cascade only the two models that run matter
    first, *rest = tiers.tiers[:2]
    small = replace(tiers, tiers=(replace(first, most_stages=1), *rest), links=tiers.links[:1])
    assert [p.tier for p in cuts(small, (2,), False)] == [(0, 1, 1), (1, 1, 1)]
    refuses("20,000 ways to cut", cuts, tiers_of(0, 60, 8), tuple(range(60)), False)


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
    right, exits = table.quality, table.exits
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
                        np.array(walk(tiers, tier_of, kept, name, amounts, cascade))
                        for name in ("latency", "energy")
                    )
                    for at, value in ways:
                        yield value, latency[at], energy[at]


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("cascade", [False, True])
def test_as_good_as_all_cuts_exits_and_thresholds(seed, cascade):
    table = table_of(seed, 24, 2 + seed % 2, cascade)  # all thresholds fit into the grid
    tiers = tiers_of(seed, table.exits, 2 + (seed + 1) % 2, cascade)
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


def test_a_beam_over_more_exits_comes_close_to_all_sets(monkeypatch):
    monkeypatch.setattr("policyopt._tiers.search._CELLS", 2000)
    table, tiers = table_of(1, 120, 7), tiers_of(1, 7, 2)
    goal = Goal("latency", 0.5 * search(tiers, table, Goal("latency", 1e6)).found[0].cost)
    whole, beam = search(tiers, table, goal, exact=True), search(tiers, table, goal)
    assert whole.found[0].value - beam.found[0].value <= 0.01 and beam.sets < 0.9 * whole.sets


def test_many_rows_cost_little_though_not_all_thresholds_are_tried():
    """A grid of quantiles, then refined: within two rows of 90 of the best of all thresholds."""
    table, tiers = table_of(3, 90, 3), tiers_of(3, 3, 2)
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
    table, tiers = table_of(0, 60, 3), tiers_of(0, 3)
    with pytest.raises(BudgetError, match="'budget' must be at least"):
        search(tiers, table, Goal("latency", 1e-9))
    with pytest.raises(BudgetError, match="'accuracy' must be at most"):
        search(tiers, table, Goal("latency", None, 1.0))
    for wrong in ("latency", "speed<=3", "latency:p100<=3", "energy:mean<=-1", "energy:mean<=x"):
        refuses("limit", Limit.parse, wrong)
    for settings in ({}, {"budget": 1.0, "accuracy": 0.5}, {"budget": -1.0}, {"accuracy": 2.0}):
        refuses(".", Goal, "latency", **settings)
    for kind, *given in (
        (Link, 0.0), (Link, np.nan), (Link, "8"), (Link, 8.0, -1.0), (Link, 8.0, 0.0, -50.0), (Tier, 3),
        (Tier, "a", 1.0, (np.inf,)), (Tiers, ("a",), (), 1.0), (Tiers, (Tier("a"),), (), -1.0), (Goal, "latency", "9"),
        (Goal, "latency", 9.0, None, ["price=3"]), (Limit, "latency", "p100", 3.0), (Limit, "latency", "mean", "3"),
    ):  # fmt: skip
        refuses("must be", kind, *given)


@pytest.mark.parametrize(("method", "seed"), [(None, 3), ("max_prob", 8), ("optimal_stopping", 11)])
def test_no_stage_that_no_row_reaches_is_planned(method, seed):
    """Random models and tiers, limits that only early exits keep: the plan ends where rows do."""
    table, tiers = table_of(seed, 400, 4), tiers_of(seed, 4, 2 + seed % 2)
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
        assert plan.kept[-1] == replay(policy, small).exit.max() == policy.active_exits[-1], goal
        assert len(plan.tier) == plan.kept[-1] + 1
        assert goal.kept(*outcome(tiers, plan, policy, table, goal.objectives))


def test_a_method_competes_and_reports_stay_honest():
    table, tiers = table_of(7, 600, 4, per_sample=True), tiers_of(7, 4)
    fit, test = table.take(np.arange(300)), table.take(np.arange(300, 600))
    planned = make_plan(tiers, fit, Goal("latency", 12.0), po.make_method("margin"))
    assert {row["method"] for row in planned.compared} == {"search", "method"}
    record = summary(tiers, planned.plan, planned.fitted.policy, test, "latency")
    assert record["accuracy_low"] <= record["accuracy"] <= record["accuracy_high"]
    assert record["p95"] <= record["worst"] and sum(record["tier_share"]) == pytest.approx(1.0)
    alone = references(tiers, fit, "latency")
    full = [summary(tiers, plan, policy, test, "latency") for plan, policy in alone]
    assert all(r["accuracy"] == pytest.approx(test.quality[:, -1].mean()) for r in full)
    # What is found is what a replay pays.
    planned = make_plan(tiers, fit, Goal("latency", 9.0))
    correct, paid = outcome(tiers, planned.plan, planned.fitted.policy, fit)
    one = next(f for f in planned.searched.found if f.plan == planned.plan)
    assert paid["latency"].mean() <= 9.0 * (1 + 1e-9)
    assert planned.fitted.expected.cost == pytest.approx(paid["latency"].mean())
    assert correct.mean() == pytest.approx(planned.fitted.quality)
    assert correct.mean() >= one.value - 0.02


def test_bounds_of_shares_are_exact():
    for rows, hits, level in ((50, 45, 0.95), (400, 3, 0.9), (7, 7, 0.8), (1, 1, 0.95)):
        low, missed = 1 - share_high(rows - hits, rows, 1 - level), rows - hits
        # The least share under which so many or more are seen with chance 1 - level.
        assert binom.sf(hits - 1, rows, low) == pytest.approx(1 - level)
        turned = upper(partial(binomial_of, np.array(missed), rows), 1 - level)
        assert turned == pytest.approx(1 - low)
    assert share_high(9, 9, 0.05) == 1.0


@pytest.mark.parametrize(
    ("values", "chances"),
    [([0.0, 1.0], [0.98, 0.02]), ([2.0, 3.0, 12.0], [0.6, 0.3, 0.1]), ([5.0, 6.0], [0.5, 0.5])],
)
def test_the_bound_of_a_mean_holds_and_is_near(values, chances):
    rng, true = np.random.default_rng(0), float(np.dot(values, chances))
    low, high = values[0], values[-1]
    draws = rng.choice(values, (300, 300), p=chances)
    bounds = np.array([mean_high(x, low, high, 0.1) for x in draws])
    assert (bounds < true).mean() <= 0.1 + 3 * (0.1 * 0.9 / 300) ** 0.5
    spread = float(np.sqrt(np.dot(np.square(np.array(values) - true), chances) / 300))
    assert bounds.mean() - true <= 3.5 * spread + 0.01 * (high - low)  # Hoeffding: far more
    assert (bounds <= high).all()
    assert mean_high(np.array([3.0, 3.0]), 3.0, 3.0, 0.05) == 3.0
    assert mean_high(np.zeros(1000), 0.0, 1.0, 0.05) < 0.01
    assert mean_high(np.ones(rng.integers(1, 99)), 0.0, 1.0, 0.05) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def world():
    return table_of(5, 20_000, 2), tiers_of(5, 2, 2)


@pytest.fixture(scope="module")
def goals(world):
    table, tiers = world
    floor = Goal("latency", None, float(table.quality[:, :2].mean(axis=0) @ [0.4, 0.6]))
    planned = make_plan(tiers, table, floor)
    _, paid = outcome(tiers, planned.plan, planned.fitted.policy, table, ("latency", "energy"))
    energy = Limit("energy", "mean", 0.9 * float(paid["energy"].mean()))
    cost = planned.searched.found[0].cost
    return floor, Goal("latency", cost), Goal("latency", 1.3 * cost, None, (energy,))


def broken_of(table, tiers, goal, level, rows, times, **more):
    """Make plans, each of its own rows, look at them on all rows; return who broke a promise."""
    rng, broken = np.random.default_rng(1), []
    for seed in range(times):
        some = table.take(rng.integers(0, len(table), rows))
        try:
            planned = certified_plan(tiers, some, goal, level, seed=seed, **more)
        except BudgetError:
            continue
        right, paid = outcome(tiers, planned.plan, planned.fitted.policy, table, goal.objectives)
        most = min(planned.certificate.cost_high or np.inf, goal.budget or np.inf)
        kept = goal.accuracy is None or right.mean() >= goal.accuracy
        kept &= goal.budget is None or paid[goal.objective].mean() <= most
        broken.append(not kept or any(not one.kept(paid[one.cost]) for one in goal.limits))
    return broken


@pytest.mark.slow
@pytest.mark.parametrize("which", range(3))
def test_certified_goals_are_broken_no_more_often_than_they_say(world, goals, which):
    broken = broken_of(*world, goals[which], 0.8, 500, 30)
    assert np.mean(broken) <= 0.2 + 2.33 * (0.2 * 0.8 / len(broken)) ** 0.5 and len(broken) >= 24


def test_bounds_count_groups_as_draws():
    """Equal rows of a group say what one does; of unequal groups a row's bound is broken in 20 % of draws."""
    rng = np.random.default_rng(0)
    one = rng.random(60) < 0.2
    bound = mean_high(one.astype(float), 0.0, 1.0, 0.1)
    again = mean_high(np.repeat(one, 9).astype(float), 0.0, 1.0, 0.1, np.repeat(np.arange(60), 9))
    assert bound == pytest.approx(again)
    broken = 0
    for _ in range(200):
        group = np.repeat(np.arange(60), rng.integers(1, 16, 60))
        miss = rng.random(len(group)) < rng.beta(1, 4, 60)[group]
        broken += mean_high(miss.astype(float), 0.0, 1.0, 0.1, group) < 0.2
    assert broken <= 0.1 * 200
    tiers, tables = tiers_of(5, 2, 2), []
    for name in (None, "group"):
        logits, labels = (np.repeat(a, 10, axis=0) for a in synthetic.outputs(60, 2, 4, 5))
        logits = logits + 0.01 * rng.normal(size=logits.shape)
        more = {} if name is None else {name: np.repeat(np.arange(60), 10)}
        data = po.from_arrays(logits, labels, [1.0, 2.0], split={"fit": 1.0}, **more)
        tables.append(po.Tables(data).get("fit"))
    goal = Goal("latency", accuracy=0.2)
    alone, grouped = (certified_plan(tiers, t, goal, 0.9).certificate for t in tables)
    assert alone.rows == grouped.rows == 300
    assert grouped.accuracy - grouped.accuracy_low > 2 * (alone.accuracy - alone.accuracy_low)
    planned = make_plan(tiers, tables[1], goal).held_out
    assert planned.rows == 600 and planned.effective < 120
    with pytest.raises(po.InputError, match="two labelled rows"):
        certified_plan(tiers, tables[1].take(np.arange(10)), goal, 0.9)


@pytest.mark.parametrize("method", [None, "margin"])
def test_a_certificate_is_of_rows_that_chose_nothing(world, goals, method):
    table, tiers = world
    rows = table.take(np.arange(1501))
    for goal in goals[:2]:
        by = None if method is None else po.make_method(method)
        planned = certified_plan(tiers, rows, goal, 0.9, by, seed=3)
        found = planned.certificate
        assert (found.fitted_rows, found.rows) == (750, 751) and planned.met
        held = rows.take(np.sort(np.random.default_rng(3).permutation(1501)[750:]))
        right, paid = outcome(tiers, planned.plan, planned.fitted.policy, held, ("latency",))
        assert found.accuracy == right.mean() and found.cost == paid["latency"].mean()
        levels = (0.9,) if method is None else (0.9, 0.95)  # both tested, or the search alone
        lows = [1 - share_high(751 - int(right.sum()), 751, 1 - level) for level in levels]
        assert any(found.accuracy_low == pytest.approx(low) for low in lows)
        assert found.accuracy_low < found.accuracy
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
    best = float(fit.quality.mean(axis=0).max())  # possible on the half that fits
    tight = Goal("latency", 1e6, None, (Limit("latency", "p95", 1e-9),))
    easy, none, two = Goal("latency", 1e6), rows.take(np.arange(0)), rows.take(np.arange(2))
    for error, words, given, goal, level in (
        (BudgetError, r"'accuracy' must be at most .* with 99.9999 %", rows, Goal("latency", None, best - 0.005), 0.999999),
        (BudgetError, "limit", rows, tight, 0.95), (InputError, "two labelled rows", none, easy, 0.95),
        (InputError, "two labelled rows", rows.take(np.arange(1)), easy, 0.95),
        *((InputError, "confidence", rows, easy, wrong) for wrong in (0.3, 1.0, float("nan"))),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            certified_plan(tiers, given, goal, level)
    assert certified_plan(tiers, two, easy, 0.95).met


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
    assert share_high(int(p95), 500, 0.1) <= 0.05 and worst == 0


def of_their_own(rows, rare=0.004, dear=200.0):
    """Return rows with costs of their own, of which a rare one is dear: few draws hold one."""
    table = table_of(5, rows, 2)
    factor = np.where(np.random.default_rng(0).random(rows) < rare, dear, 1.0)
    return replace(table, costs=factor[:, None] * table.costs)


def test_a_stated_bound_keeps_the_mean_of_rare_dear_rows():
    """The largest cost seen is none: where no dear row is drawn it lies below the true mean."""
    table, tiers = of_their_own(20_000), tiers_of(5, 2, 2)
    bound = float(table.costs.max())
    whole = certified_plan(tiers, table, Goal("latency", accuracy=0.5), 0.9, cost_bound=bound)
    assert whole.certificate.cost <= whole.certificate.cost_high < np.inf
    cheap, dear = plan_table(tiers, whole.plan, "latency", table).costs[:, [0, -1]].mean(axis=0)
    goal = Goal("latency", budget=float(cheap + 2 * (dear - cheap)))
    broken = broken_of(table, tiers, goal, 0.9, 400, 25, cost_bound=bound)
    assert sum(broken) <= 25 * 0.1 + 3 * (25 * 0.09) ** 0.5


def test_without_a_bound_no_mean_is_promised():
    table, tiers = of_their_own(2000), tiers_of(5, 2, 2)
    floor = Goal("latency", accuracy=0.3)
    limited = replace(floor, limits=(Limit("energy", "mean", 1e9),))
    for goal, bound, words in (
        (Goal("latency", budget=1e6), None, "--cost-bound"), (limited, None, "--cost-bound"),
        (floor, 1.0, "a row of split"),
        *((floor, wrong, "") for wrong in (0.0, -1.0, float("nan"), float("inf"), 1e300, "9")),
    ):  # fmt: skip
        refuses("cost_bound.*" + words, certified_plan, tiers, table, goal, 0.9, cost_bound=bound)
    # A floor and a percentile need no range of costs; of the mean nothing is said.
    goal = replace(floor, limits=(Limit("latency", "p95", 1e6),))
    found = certified_plan(tiers, table, goal, 0.9).certificate
    assert found.accuracy_low >= 0.3 and found.cost_high is None
    # Where stages take stated times, costs of their own do not change the latency.
    times = tuple(float(k + 1) for k in range(table.exits))
    stated = Tiers((Tier("device", stage_ms=times),), (), 100.0)
    goal = Goal("latency", budget=sum(times))
    assert certified_plan(stated, table, goal, 0.9).certificate.cost_high <= sum(times)


GOOD = {
    "model": {"input_bytes": 784, "cut_bytes": [100], "answer_bytes": 8},
    "tier": [{"name": "device", "ms_per_unit": 1}, {"name": "cloud", "stage_ms": [1, 2]}],
    "link": [{"megabits_per_second": 8, "round_trip_ms": 10}],
}
LONG = [10**5000]  # more digits than Python prints


def test_the_example_fits_the_cache_that_ships(root):
    tiers = load_tiers(root / "docs" / "tiers.toml")
    cost = po.open_cache(root / "cache" / "fashion_mnist").cost()
    tiers.check(5, cost.cascade, cost.unit)
    refuses("cut_bytes", tiers.check, 4, False, cost.unit)
    refuses("unit", tiers.check, 5, False, "ms")
    refuses("stage_ms", tiers_from({**GOOD, "model": {"input_bytes": 1}}).check, 3, True, "ms")


def test_json_and_toml_say_the_same(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    (tmp_path / "a.toml").write_text(
        "[model]\ninput_bytes = 784\ncut_bytes = [100]\nanswer_bytes = 8\n"
        '[[tier]]\nname = "device"\nms_per_unit = 1\n[[tier]]\nname = "cloud"\nstage_ms = [1, 2]\n'
        "[[link]]\nmegabits_per_second = 8\nround_trip_ms = 10\n"
    )
    assert load_tiers(tmp_path / "a.json") == load_tiers(tmp_path / "a.toml") == tiers_from(GOOD)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("model input_bytes", -1, "input_bytes of the model"), ("model input_bytes", np.nan, "input_bytes of the model"),
        ("model input_bytes", True, "input_bytes of the model"), ("model cut_bytes", 5, "cut_bytes of the model"),
        ("model head_share", [2.0], "head_share of the model"), ("model colour", 1, "colour"), ("model", [], "model"),
        ("model input_bytes", 10**400, "input_bytes of the model"), ("model input_bytes", LONG, "input_bytes of the model"),
        ("model cut_bytes", LONG, "cut_bytes of the model"), ("more", 1, "more"), ("tier", [], "'tier'"),
        ("tier 0 name", "", "name of tier 0"), ("tier 0 name", "cloud", "different names"),
        ("tier 0 stage_ms", [1.0], "stage_ms, one of the two"), ("tier 1 watts", "x", "watts of tier 1"),
        ("tier 1 most_stages", 1.5, "most_stages of tier 1"), ("tier 1 most_stages", 10_001, "most_stages of tier 1"),
        ("tier 1 most_stages", True, "most_stages of tier 1"), ("tier 1 name", "a\x1b[31m", "name of tier 1"),
        ("tier 1 name", "a" * 101, "name of tier 1"), ("tier 1 speed", 1, "speed"), ("link", [], "'link'"),
        ("link 0 megabits_per_second", 0, "megabits_per_second of link 0"), ("link 0", LONG, "link 0"),
        ("link 0 round_trip_ms", 1e400, "round_trip_ms of link 0"),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(place, value, named):
    at = content = copy.deepcopy(GOOD)
    *way, last = (int(step) if step.isdigit() else step for step in place.split())
    for step in way:
        at = at[step]
    at[last] = value
    refuses(named, tiers_from, content)


TIER = '[[tier]]\nname = "a"\nms_per_unit = 1\n'
KEY = ".".join("a" * 30_000) + " = 1\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "x =", "TOML"), ("b.json", "[" * 100_000, "at most 65536 bytes"), ("c.json", "3", "a table with"),
        ("d.toml", "", "given"), ("e.toml", "#" * 65_537, "at most 65536 bytes"),
        ("a.json", '{"model": {"input_bytes": 1, "input_bytes": 5}, "tier": []}', "twice"),
        ("a.json", '{"model": {"input_bytes": 1' + "0" * 400 + "}}", "digits"),
        ("a.json", '{"model": {"input_bytes": NaN}}', "no JSON"), ("a.json", "[" * 40 + "]" * 40, "deep"),
        ("a.toml", "[model]\ninput_bytes = 1" + "0" * 400 + "\n" + TIER, "input_bytes"),
        ("a.toml", "[model]\ninput_bytes = 0x1" + "0" * 9999 + "\n" + TIER, "too long to print"),
        ("a.toml", "[model]\ninput_bytes = 1\ninput_bytes = 2\n" + TIER, "TOML"), ("a.toml", KEY, "8 parts"),
        ("a.toml", "[" + KEY[:-5] + "]\n", "8 parts"), ("a.toml", "model = {" + KEY[:-1] + "}\n", "8 parts"),
        ("a.toml", "'a' . \"b\" ." * 9 + "c = 1", "8 parts"),
        # Text that would hide the key, were strings and comments not read as TOML reads them.
        ("a.toml", '# """\n' + KEY + '# """\n', "8 parts"), ("a.toml", "x = \"'''\"\n" + KEY + "#'''\n", "8 parts"),
        ("a.toml", 'x = [{y = """z"""", ' + KEY[:-4] + '= "1"}]', "8 parts"), ("a.toml", "a" * 60_000, "TOML"),
        ("a.toml", "x = " + "[" * 20 + "]" * 20, "16 deep"), ("a.toml", "x = " + "{a=" * 20 + "1" + "}" * 20, "16 deep"),
        ("a.toml", "x = " + '"""\\' * 12_000, "TOML"), ("a.toml", "x = " + '"\\' * 30_000, "TOML"),
    ],
    ids=range(24),
)  # fmt: skip
def test_what_would_take_long_or_mean_two_things_is_refused_at_once(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    began = time.process_time()
    refuses(said, load_tiers, tmp_path / name)
    assert time.process_time() - began < 1.0
    refuses("must be a file", load_tiers, tmp_path / "none.toml")


def test_dots_in_text_are_no_parts_of_a_key(tmp_path):
    dots = "a." * 40 + "[" * 40
    text = (
        f'currency = "USD" # {dots}\nmodel.input_bytes = 784.5\nmodel.unit = """{dots[64:96]}"""\n'
        f"[[tier]]\nname = '{dots[-80:]}'\nstage_ms = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]\n"
    )
    (tmp_path / "a.toml").write_text(text)
    tiers = load_tiers(tmp_path / "a.toml")
    assert tiers.unit == dots[64:96] and len(tiers.tiers[0].stage_ms) == 9


DEVICE = {"name": "device", "ms_per_unit": 4, "watts": 2}
TIERS = {
    "model": {"input_bytes": 200, "cut_bytes": [4000] * 3, "answer_bytes": 8},
    "tier": [DEVICE, {"name": "cloud", "ms_per_unit": 0.1, "price_per_hour": 3}],
    "link": [{"megabits_per_second": 20, "round_trip_ms": 12, "mJ_per_kB": 5}],
}
HALVES = {"fit": 0.5, "test": 0.5}


@pytest.fixture
def place(tmp_path):
    logits, labels = synthetic.outputs(1200, 4, 6)
    np.savez(tmp_path / "a.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2, 4, 8])
    po.import_sources(tmp_path / "a.npz", tmp_path / "cache", unit="ms", shares=HALVES)
    (tmp_path / "tiers.json").write_text(json.dumps(TIERS))
    return tmp_path


def planned(run, place, *more):
    command = ("plan", place / "cache", "--tiers", place / "tiers.json", "--method", "none")
    return run(*command, *more)


def test_plan_writes_what_it_says(run, place):
    out = place / "out"
    given = ("--budget", "11", "--method", "max_prob", "--out", out, "--format", "json")
    code, text, _ = planned(run, place, *given)
    assert code == 0
    report = json.loads(text)
    assert json.loads((out / "plan.json").read_text())["chosen"] == report["chosen"]
    assert report["chosen"]["latency_low"] <= 11 and report["chosen"]["rows"] == 600
    assert report["chosen"]["accuracy"] >= 0.5
    assert (out / "plan.png").stat().st_size > 10_000
    policy = po.load_policy(out / "policy.json")
    assert policy.unit == "ms" and policy.provenance["cost"] == "plan latency"
    line = ("evaluate", out / "policy.json", place / "cache")  # whose own cost is in ms, too
    code, _, said = run(*line)
    assert code == 2 and "'cost' must be named" in said and "--cost NAME" in said
    code, text, said = run(*line, "--cost", "cost", "--format", "json")
    assert code == 0 and json.loads(text)[0]["budget"] is None and "not of cost" in said
    parts = [po.load_tier(path) for path in sorted(out.glob("tier-*.json"))]
    assert [k for part in parts for k in part.exits] == list(policy.active_exits)
    assert [part.tier for part in parts] == list(dict.fromkeys(report["chosen"]["tiers"]))
    code, text, _ = planned(run, place, "--budget", "11")
    assert code == 0 and "full model, one" in text and "latency [ms]" in text


def test_an_accuracy_at_the_least_energy(run, place):
    settings = ("--objective", "energy", "--format", "json", "--limit", "latency:worst<=60")
    found = [json.loads(planned(run, place, *settings, "--accuracy", f)[1]) for f in ("60%", "0.7")]
    assert all(one["met_on_held_out_fit_rows"] and one["chosen"]["worst"] > 0 for one in found)
    assert found[0]["chosen"]["energy"] <= found[1]["chosen"]["energy"]


def test_no_threshold_is_a_score(run, place):
    """The last bit of a score computed elsewhere must not turn a decision on the rows of the fit."""
    assert planned(run, place, "--accuracy", "70%", "--out", place / "out")[0] == 0
    policy = po.load_policy(place / "out" / "policy.json")
    data = po.open_cache(place / "cache")
    key, rows = data.rows("fit")
    scores = policy.trace(data.splits[key].array("outputs")[rows]).scores[:, :-1]
    assert np.abs(scores - policy.thresholds).min() > 64 * 2.0**-23  # what exports may differ by
    shares = (scores >= policy.thresholds).mean(axis=0)
    assert ((shares > 0) & (shares < 1)).any()  # thresholds that divide the rows


def test_a_floor_with_confidence(run, place):
    asked = ("--format", "json", "--accuracy", "60%")
    code, text, said = planned(run, place, *asked)
    mean = json.loads(text)
    assert code == 0 and "kept in the mean" in said and "in two folds: accuracy" in said
    held = mean["on_held_out_fit_rows"]
    assert held["accuracy_low"] < held["accuracy"] < held["accuracy_high"] and held["rows"] == 600
    code, text, said = planned(run, place, *asked, "--confidence", "95%")
    sure = json.loads(text)
    assert code == 0 and "with 95.00 % confidence: accuracy at least 60.00 % (" in said
    assert "in the mean" not in said and sure["confidence"] == 0.95
    held = sure["on_held_out_fit_rows"]
    assert held["accuracy_low"] >= 0.6 and held["rows"] + held["fitted_rows"] == 600
    assert sure["chosen"]["latency"] >= mean["chosen"]["latency"]


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [
        ("--budget 0.001", 3, "at least"), ("--accuracy 100%", 3, "at most"), ("", 2, "budget or accuracy"),
        ("--accuracy 85% --confidence 99.9999%", 3, "at most"), ("--budget 9 --confidence 40%", 2, "from 50 %"),
        ("--budget 9 --confidence 100%", 2, "below 100 %"), ("--budget 9 --confidence very", 2, "'confidence'"),
        ("--budget 500 --limit latency:worst<=0.0001", 3, "latency:worst<=0.0001"),
        ("--budget 9 --accuracy 90%", 2, "one of the two"), ("--accuracy much", 2, "--accuracy"),
        ("--budget 9 --objective speed", 2, "objective"), ("--budget 9 --limit latency", 2, "limit"),
        ("--budget 9 --tiers nowhere.toml", 2, "tiers"),
    ],
)  # fmt: skip
def test_errors_are_one_line(run, place, extra, code, said):
    got, _, error = planned(run, place, *extra.split())
    assert got == code and said in error and "Traceback" not in error


def test_costs_of_their_own_need_a_bound(run, place):
    costs = np.array([1.0, 2, 4, 8]) * np.random.default_rng(0).uniform(1, 2, (1200, 1))
    with np.load(place / "a.npz") as kept:
        np.savez(place / "own.npz", **{**kept, "costs": costs.T})
    shutil.rmtree(place / "cache")
    po.import_sources(place / "own.npz", place / "cache", unit="ms", shares=HALVES)
    sure = "--budget 40 --confidence 90% --format json"
    for more, due, words in (
        (sure, 2, "--cost-bound"), (sure + " --cost-bound 7", 2, "is what a row of split"),
        ("--accuracy 30% --confidence 90%", 0, "no bound without --cost-bound"),
        ("--budget 40 --cost-bound 16", 2, "given with --confidence"), (sure + " --cost-bound 16", 0, "latency at most"),
    ):  # fmt: skip
        code, text, said = planned(run, place, *more.split())
        assert code == due and words in said, said
    assert json.loads(text)["cost_bound"] == 16


def test_an_earlier_plan_is_replaced_whole_or_not_at_all(run, place, monkeypatch):
    out, line = place / "out", ("--budget", "500", "--out", place / "out")
    assert planned(run, place, "--budget", "11", "--out", out)[0] == 0
    before = tree(out)
    with monkeypatch.context() as patch:
        patch.setattr("policyopt._report.figures.save_figure", lambda *_: 1 / 0)
        assert planned(run, place, *line)[0] == 1 and tree(out) == before
    for name in ("notes.txt", "tier-0-device.json"):
        (out / name).write_text("mine")
        code, _, said = planned(run, place, *line)
        assert code == 2 and "an earlier plan as it was written" in said
        assert tree(out) == {**before, name: b"mine"}
        (out / name).write_bytes(before[name]) if name in before else (out / name).unlink()
    code, _, said = planned(run, place, *line)
    assert code == 0 and f"note: removed from {out}: tier-0-device.json" in said


NAMES = ("device", "edge", "cloud")
METHODS = (
    "max_prob", "patience", "vote", "window", "optimal_stopping", "random", "beem",
    "margin:answer=combined", "max_prob:thresholds=joint+mix=true", "subset",
)  # fmt: skip
DATA = synthetic.cache(300, 5, 4)
RECORDS = "vote of records"


@cache
def fitted(method):
    if method != RECORDS:
        outputs = np.asarray(DATA.splits["pool"].array("outputs"))[:200]
        return po.fit(DATA, "45%", method=method).policy, list(outputs.swapaxes(0, 1))
    rng = np.random.default_rng(0)
    sure, right, labels = rng.random((200, 5)), rng.random((200, 5)) < 0.7, rng.integers(0, 4, 200)
    said = np.where(right, labels[:, None], (labels[:, None] + 1) % 4)
    rows = {"confidence": sure, "prediction": said, "labels": labels}
    data = po.from_arrays(splits={"fit": rows}, costs=[1, 2, 4, 8, 16], unit="USD")
    outputs = [{"prediction": said[:, k], "confidence": sure[:, k]} for k in range(5)]
    return po.fit(data, "60%", method="vote").policy, outputs


def divided(policy):
    return tier_policies(policy, Plan((0, 1, 2, 3, 4), (0, 0, 1, 1, 2)), NAMES)


def through_tiers(parts, step, number):
    """Serve one sample tier by tier; what is sent on goes as JSON text."""
    message = None
    for part in parts:
        state = part.start(number) if message is None else part.take_over(json.loads(message))
        for k in part.exits:
            action, decision = part.step(k, step(k), state)
            if action == LEAVE:
                return k, decision.prediction
            assert (action == SEND_ON) == (k == part.exits[-1])
        message = json.dumps(part.hand_over(state))
    raise AssertionError("the last exit always stops")


def batch_through_tiers(parts, outputs, numbers):
    taken, said = np.full(len(numbers), -1), np.full(len(numbers), -1)
    rows, message = np.arange(len(numbers)), None
    for part in parts:
        state = part.start(numbers) if message is None else part.take_over(json.loads(message))
        for k in part.exits:
            action, decision = part.step(k, picked(outputs[k], rows), state)
            left = action == LEAVE
            taken[rows[left]], said[rows[left]] = k, decision.prediction[left]
            rows, state = rows[~left], state.keep(~left)
        message = json.dumps(part.hand_over(state))
    assert not len(rows)
    return taken, said


def picked(output, rows):
    record = isinstance(output, dict)
    return {name: column[rows] for name, column in output.items()} if record else output[rows]


@pytest.mark.parametrize("method", [*METHODS, RECORDS])
@pytest.mark.parametrize("tier", [(0, 0, 1, 1, 2), (1, 1, 1, 2, 2)])
def test_tiers_decide_as_the_whole_policy(method, tier, tmp_path):
    policy, outputs = fitted(method)
    numbers = np.arange(1000, 1200)
    parts = []
    for i, part in enumerate(tier_policies(policy, Plan((0, 1, 2, 3, 4), tier), NAMES)):
        part.save(tmp_path / f"{i}.json")
        parts.append(po.load_tier(tmp_path / f"{i}.json"))
    assert [k for part in parts for k in part.exits] == list(policy.active_exits)
    whole = policy.decide(outputs, numbers)
    taken, said = batch_through_tiers(parts, outputs, numbers)
    np.testing.assert_array_equal(taken, whole.exit)
    np.testing.assert_array_equal(said, whole.prediction)
    for row in range(0, 200, 29):
        found = through_tiers(parts, lambda k, row=row: picked(outputs[k], [row]), numbers[row])
        assert found == (whole.exit[row], whole.prediction[row])


def test_a_tier_without_exits_hands_on_what_began():
    policy, kept = fitted("patience")[0], Plan((2, 4), (0, 1, 1, 2, 2))
    small = replace(
        policy, active_exits=(2, 4), model_exits=5, thresholds=policy.thresholds[:1],
        costs=policy.costs[:2], overhead=policy.overhead[:2], mixture=None,
    )  # fmt: skip
    first, second, third = tier_policies(small, kept, NAMES)
    assert (first.exits, second.exits, third.exits) == ((), (2,), (4,))
    assert second.take_over(first.hand_over(first.start(7))).position == 0


def test_changed_files_are_refused(tmp_path):
    part, path = divided(fitted("max_prob")[0])[1], tmp_path / "tier.json"
    part.save(path)
    text = path.read_text()
    content = json.loads(text)
    changes = (
        {"version": 2}, {"version": True}, {"version": 1.0}, {"exits": [True]}, {"tier": 1}, {"more": 1},
    )  # fmt: skip
    less = {k: v for k, v in content.items() if k != "next"}
    forged = [json.dumps(signed(other)) for other in (less, *({**content, **c} for c in changes))]
    for wrong in (text[:-20], text.replace('"edge"', '"edgy"'), "[]", *forged):
        path.write_text(wrong)
        refuses(".", po.load_tier, path)


def test_wrong_messages_are_refused():
    parts = divided(fitted("patience")[0])
    state = parts[0].start([1, 2])
    for k in (0, 1):
        parts[0].step(k, np.zeros((2, 4)), state)
    good = parts[0].hand_over(state)
    parts[1].take_over(good)
    arm, rule = good["arm"], good["rules"][0]
    arms = [("shape", [2, 10**9]), ("data", "!!"), ("data", ""), ("data", "AgI="), ("dtype", "O")]
    changes = [
        ("more", 1), ("position", 1), ("position", True), ("position", 5), ("samples", 3), ("samples", -1),
        ("samples", 10**12), ("samples", True), ("samples", 2.0), ("scalar", True), ("rules", []), ("rules", [[]]),
        ("rules", [rule + rule]), ("rules", [1]), ("answer", [arm]), ("answer", {}), ("format", "x"), ("format", ["x"]),
        ("version", True), ("version", 1.0), ("version", [1]), ("version", 2), ("policy", "0" * 64),
        *(("arm", {**arm, key: value}) for key, value in arms),
    ]  # fmt: skip
    for wrong in (None, [], *({**good, name: value} for name, value in changes)):
        refuses(".", parts[1].take_over, wrong)
    # The same shapes, other thresholds: what was decided before would not be this policy's.
    other = TierPolicy(replace(parts[1].policy, thresholds=[9.0] * 4), "edge", (2, 3), "cloud")
    refuses(r"policy of the message.*the files of one plan", other.take_over, good)
    refuses("an exit of tier 'edge'", parts[1].step, 0, np.zeros((2, 4)), parts[1].take_over(good))


def test_a_message_holds_no_more_samples_than_it_says():
    parts = divided(fitted("max_prob")[0])
    state = parts[0].start(np.arange(MOST_SAMPLES + 1))
    for k in (0, 1):
        parts[0].step(k, np.zeros((MOST_SAMPLES + 1, 4)), state)
    refuses(f"at most {MOST_SAMPLES}", parts[0].hand_over, state)
    part = state.keep(np.arange(MOST_SAMPLES + 1) < MOST_SAMPLES)
    message = parts[0].hand_over(part)
    assert len(parts[1].take_over(message).arm) == MOST_SAMPLES
    # As long as it says, all its arrays too, and more than is taken.
    raw = base64.b64encode(bytes(MOST_SAMPLES + 1)).decode()
    arm = {"dtype": "|b1", "shape": [MOST_SAMPLES + 1], "data": raw}
    with pytest.raises(InputError, match="samples of the message"):
        parts[1].take_over({**message, "samples": MOST_SAMPLES + 1, "arm": arm})
