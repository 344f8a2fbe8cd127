"""Budgets as limits, floors and limits on costs: what fits offer, against brute force and closed forms."""

import json
import re

import numpy as np
import pytest
from checks import fit_table
from conftest import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import cache, outputs

import policyopt as po
from policyopt._limits import Limit
from policyopt._methods import choosing
from policyopt._methods.base import outcome_of
from policyopt._methods.levels import Levels, price_of
from policyopt._methods.registry import make_method
from policyopt._methods.targets import Target
from policyopt._methods.threshold import Threshold
from policyopt._table import Tables
from policyopt.runtime._errors import BudgetError
from policyopt.runtime._policy import first_exit


def overthinking(rows, seed, exits=3, graded=False):
    """Summaries whose last exit is worse than the one before."""
    rng = np.random.default_rng(seed)
    sure = rng.random((rows, exits))
    accuracy = np.array([0.5, 0.85, 0.65])[:exits]
    right = rng.random((rows, exits)) < 0.5 * accuracy + 0.5 * accuracy * sure * 1.3
    worth = (
        {"quality": 0.8 * right + 0.2 * rng.random(right.shape)} if graded else {"correct": right}
    )
    return po.from_arrays(
        prediction=np.where(right, 1, 0), confidence=sure, costs=[1.0, 2.0, 5.0][:exits], unit="ms",
        split={"fit": 0.5, "test": 0.5}, **worth,
    )  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(30, 300), st.booleans(),
    st.sampled_from(["max_prob", "max_prob:thresholds=joint", "patience", "eero"]),
)  # fmt: skip
def test_more_is_never_worse_fitted_one_at_a_time(seed, rows, graded, spec):
    """On the rows of the fit, whatever budgets are asked for in whatever calls, to a hundredth of the range."""
    table = fit_table(overthinking(2 * rows, seed, graded=graded))
    budgets = np.sort(np.random.default_rng(seed).permutation(np.arange(1.0, 5.0, 0.05))[:4])
    fits = [make_method(spec).fit_path(table, [float(b)], 0)[0] for b in budgets]
    worth = [outcome_of(one.policy, table).right.mean() for one in fits]
    assert (np.diff(worth) >= -1e-9).all()
    for one, budget in zip(fits, budgets, strict=True):
        assert one.expected.cost <= budget * (1 + 1e-9) and one.budget == budget


def test_a_level_is_the_best_of_all_thresholds_short_of_a_price():
    """Two exits: no threshold within the budget has more quality less price than a level of the joint search."""
    table = fit_table(overthinking(400, 3, exits=2))
    levels, price = Levels(make_method("max_prob:thresholds=joint"), table, 0), price_of(table)
    quality, costs = table.quality, table.mean_costs
    gain = quality[:, 1] - quality[:, 0]
    assert price == pytest.approx(gain.std() / len(table) ** 0.5 / (costs[1] - costs[0]))
    scores = table.statistics.confidence
    points = []
    for threshold in np.append(np.unique(scores[:, 0]), 2.0):
        exits = first_exit(scores, np.array([threshold]))
        points.append((costs[exits].mean(), quality[np.arange(len(exits)), exits].mean()))
    cost, value = np.array(points).T
    for aim, level in zip(levels.aims, levels.on_grid(), strict=True):
        within = cost <= aim + 1e-9
        best = (value - price * cost)[within].max()
        assert level.value - price * level.cost == pytest.approx(best, abs=0.015)
        assert level.cost <= aim + 1e-9


def test_spend_all_spends_and_needed_says_what_is_left():
    table = fit_table(overthinking(2000, 0))
    spent, needed = (
        make_method(f"max_prob:spend={s}").fit_path(table, [4.6])[0] for s in ("all", "needed")
    )
    assert spent.expected.cost == pytest.approx(4.6, rel=0.01) and needed.expected.cost < 2.6
    assert needed.quality > spent.quality + 0.1
    (note,) = needed.policy.provenance["notes"]
    assert note.startswith("spends") and "of the budget 4.6 ms" in note and "spend=all" in note
    refuses("spend", make_method, "max_prob:spend=some")


def test_floors_are_met_at_the_least_cost_and_what_cannot_be_is_named():
    data = overthinking(4000, 1)
    fit, test = (Tables(data).get(name) for name in ("fit", "test"))
    full = fit.quality[:, -1].mean()
    for target, floor in (
        (Target(quality="68%"), 0.68), (Target(max_drop=0.02), full - 0.02), (Target(3.0, 0.65), 0.65),
    ):  # fmt: skip
        (found,) = make_method("max_prob").fit_path(fit, [target])
        assert found.quality == pytest.approx(floor, abs=0.005) or found.expected.cost == 1.0
        assert outcome_of(found.policy, test).right.mean() > floor - 0.03
        low, high = found.policy.provenance["expected_quality_95"]
        assert low < found.quality < high and found.policy.provenance["target"] == target.text
    (cheap,) = make_method("max_prob").fit_path(fit, [Target(quality=0.68)])
    (dear,) = make_method("max_prob").fit_path(fit, [cheap.expected.cost * 0.97])
    assert dear.quality < 0.68  # for less it is not to be had
    for target, said in (
        (Target(quality=0.99), "'quality' must be at most 0."), (Target(1.2, 0.69), "within 1.2 ms"),
        (Target(accuracy=0.99), "'accuracy' must be at most 0.*--method auto"),
        (Target(1.2, max_drop=0.0), "'max_drop' must be at least 0.*within 1.2 ms"),
        (Target(9.0), r"from 1 to 5 ms, that is 20% to 100% .* 9 ms, or 180%. Lower it: --budget 100%"),
        (Target(limits=("mean<=0.5",)), "limit mean<=0.5"), (Target(0.5), "budget"),
        (Target(quality=0.68, limits=("p99<=1",)), "must be at most 0.* within p99<=1"),
        (Target(limits=("p99<=5", "worst<=0.9")), "limit worst<=0.9' must be 1 or more"),
    ):  # fmt: skip
        with pytest.raises(BudgetError, match=said):
            make_method("max_prob").fit_path(fit, [target])
    with pytest.raises(BudgetError) as refused:
        make_method("auto").fit_path(fit, [Target(accuracy=0.99)])
    assert "another method" not in str(refused.value)
    can = float(re.search(r"at most ([\d.]+)", str(refused.value))[1])  # which is so
    assert make_method("auto").fit_path(fit, [Target(accuracy=can)])


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(10, 200), st.booleans(),
    st.sampled_from(["max_prob", "patience", "eero"]),
)  # fmt: skip
def test_what_the_full_model_meets_is_met(seed, rows, graded, spec):
    """Also where stopping all there costs more than it is worth, and within any limit that an exit keeps."""
    table = fit_table(overthinking(2 * rows, seed, graded=graded))
    worth, costs = table.quality.mean(axis=0), table.mean_costs
    (full,) = make_method(spec).fit_path(table, [Target("100%", max_drop=0.0)])
    assert full.quality >= worth[-1] - 1e-9
    for k, least in enumerate(worth.tolist()):
        worst = Limit("", "worst", float(costs[k]))
        (found,) = make_method(spec).fit_path(table, [Target(quality=least, limits=(worst,))])
        assert (
            found.quality >= least - 1e-9 and outcome_of(found.policy, table).paid.max() <= costs[k]
        )
        (best,) = make_method(spec).fit_path(table, [Target(limits=(worst,))])
        reached = outcome_of(best.policy, table)
        short = price_of(table) * (costs[k] - reached.paid.mean())
        assert reached.paid.max() <= costs[k] and reached.right.mean() >= least - short - 1e-9


def test_what_is_trained_per_budget_is_trained_once():
    """A floor takes the level of the grid that meets it, which may be another budget's solution."""
    asked = []

    class Trained(Threshold):
        per_budget, validates = True, False

        def solve_problem(self, problem, budgets):
            asked.extend(budgets)
            return super().solve_problem(problem, [min(budget, 1.5) for budget in budgets])

    method, table = Trained("max_prob"), fit_table(overthinking(600, 0))
    best = max(level.value for level in Levels(method, table, 0).on_grid())
    asked.clear()
    (found,) = method.fit_path(table, [Target(quality=best)])
    assert found.quality >= best and len(asked) == len(set(asked)) == 11
    asked.clear()
    method.fit_path(table, [2.0, 3.0])
    assert asked == [2.0, 3.0]


def test_limits_hold_on_the_rows_of_the_fit_for_every_cost():
    rng = np.random.default_rng(0)
    right, sure = rng.random((1000, 3)) < [0.5, 0.7, 0.9], rng.random((1000, 3))
    money, time = rng.lognormal(size=(1000, 3)), rng.gamma(2.0, 50.0, (1000, 3))
    data = po.from_arrays(
        prediction=right.astype(int), confidence=sure, correct=right, cost_kind="standalone",
        sample_costs={"dollars": money, "latency": time}, split={"fit": 1.0}, unit="x",
    )  # fmt: skip
    limits = ("latency:p90<=250", "dollars:mean<=3", "latency:worst<=900")
    fitted = po.fit(data, method="max_prob", limits=limits)
    table = Tables(data, "dollars").get("fit")
    exits = po.evaluate(fitted, data, "fit").exit
    late = np.cumsum(time, axis=1)[np.arange(1000), exits]
    assert (
        (late > 250).mean() <= 0.1
        and late.max() <= 900
        and outcome_of(fitted.policy, table).paid.mean() <= 3
    )
    loose = po.fit(data, method="max_prob", limits=("dollars:mean<=1e9",))
    assert loose.expected.cost > fitted.expected.cost
    refuses("cost of a limit", po.fit, data, method="max_prob", limits=("watts:mean<=3",))


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=30),
    st.sampled_from(["mean", "p5", "p50", "p95", "worst"]),
)
def test_what_a_limit_says_is_reached_is_the_least_that_is_kept(costs, statistic):
    rows = np.array(costs)
    reached = Limit("", statistic, 0.0).reached(rows)
    assert Limit("", statistic, reached).kept(rows)
    below = rows[rows < reached - 1e-6]
    if statistic != "mean" and len(below):
        assert not Limit("", statistic, float(below.max())).kept(rows)


def test_grammar_of_limits_and_targets():
    assert Limit.parse("a cost: p99.5 <= 2e1") == Limit("a cost", "p99.5", 20.0)
    assert Limit.parse("worst<=0").share == 0.0 and Limit.parse("p90<=1").share == pytest.approx(
        0.1
    )
    for wrong in ("p95=20", "p0<=nan", "median<=2", "p95<=-1", "p0<=1", "latency<=3", "", 3):
        refuses("limit", Limit.parse, wrong)
    assert Target(saving="25%").most(fit_table(cache(100))) == 6.0
    for wrong, said in (
        ({}, "budget"), ({"quality": 1.2}, "quality"), ({"quality": 0.5, "max_drop": 0.1}, "max_drop"),
        ({"saving": True}, "saving"), ({"limits": (3,)}, "limit"), ({"max_drop": "100%"}, "share under 1"),
        ({"max_drop": "1"}, "1 is 100 points: write 1% or 0.01"), ({"max_drop": 2.5}, "write 2.5% or 0.025"),
    ):  # fmt: skip
        refuses(said, Target, **wrong)
    data = cache(300)
    assert po.fit(data, method="max_prob", accuracy="60%").quality > 0.58
    assert po.fit(data, method="max_prob", accuracy=np.float64(0.6)).quality > 0.58
    for one in ("worst<=2", Limit("", "worst", 2.0)):
        assert po.evaluate(po.fit(data, method="max_prob", limits=one), data, "fit").cost.max() <= 2
    assert (
        po.curve(data, ["max_prob"], Target(quality=0.5)).records[0]["target"] == "quality >= 0.5"
    )
    refuses("accuracy", po.fit, data, method="max_prob", accuracy=0.5, quality=0.6)
    refuses(
        "graded|utility",
        po.curve,
        data,
        "max_prob",
        Target(accuracy=0.5),
        utility="1,1,1,1,1,1,1,1,1,2",
    )
    refuses("budget", po.fit, data, method="max_prob")
    assert po.fit(data, method="eero", shares="risk").budget is None
    path = po.curve(data, ["max_prob"], [Target(quality=0.5), Target(saving=0.5)]).records
    assert [r["target"] for r in path] == ["quality >= 0.5", "saving >= 0.5"]
    json.dumps(path, allow_nan=False)
    with pytest.raises(BudgetError, match="'quality' must be at most 0"):
        po.curve(data, ["max_prob"], [Target(quality=1.0)])
    some = po.curve(data, ["max_prob"], [Target(quality=0.5), Target(quality=1.0)])
    assert len(some.records) == 1 and "'quality' must be at most 0" in some.notes[0]


def test_beliefs_are_those_of_a_normal_prior(monkeypatch):
    """One aim, one size: the posterior mean is the textbook's; without noise it is what was measured."""
    rng = np.random.default_rng(0)
    known = [("max_prob", make_method("max_prob"), 0), ("joint", make_method("max_prob"), 1)]
    monkeypatch.setattr(choosing, "_SIZES", np.array([1.0]))
    monkeypatch.setattr(choosing, "_OTHERS", (0.01, 0.02))
    rows = rng.normal(size=(2, 500)) * 0.3
    values = np.stack([rows[0], rows[1] + 0.05])[None]
    gap = values[0, 1] - values[0, 0]
    noise = gap.var() / 500
    wanted = 0.01 + 0.02**2 / (0.02**2 + noise) * (gap.mean() - 0.01)
    np.testing.assert_allclose(choosing.shrunken(values, known), [[0.0, wanted]], rtol=1e-6)
    exact = np.stack([rows[0], rows[0] + 0.05])[None]
    np.testing.assert_allclose(choosing.shrunken(exact, known)[0, 1], 0.05, rtol=1e-4)
    cannot = np.stack([rows[0], np.full(500, -np.inf)])[None]
    assert choosing.shrunken(cannot, known)[0, 1] == -np.inf
    # What is chosen of many alike looks better by chance than it is: the largest of normals, shrunk.
    many = [("max_prob", known[0][1], 0), *[(str(i), known[0][1], 0) for i in range(5)]]
    noisy = rng.normal(size=(1, 6, 300))
    chosen = choosing.shrunken(noisy, many).argmax(axis=1)
    assert choosing.gains_by_chance(noisy, many, chosen, 0)[0] > 0


def test_no_drop_loses_nothing_in_the_mean_and_a_small_one_is_used():
    """Fits of 300 rows, looked at on everyone: what looks as good as the full model by chance is not taken for it."""
    rng, people = np.random.default_rng(5), 20_000
    ease, noise = rng.random(people), rng.random((people, 3))
    right = 0.6 * ease[:, None] + 0.4 * noise < [0.55, 0.7, 0.78]
    sure = 1 - 0.6 * ease[:, None] - 0.4 * rng.random((people, 3))
    everyone = fit_table(po.from_arrays(
        prediction=right.astype(int), confidence=sure, correct=right, costs=[1.0, 2.0, 5.0], unit="ms",
        split={"fit": 1.0},
    ))  # fmt: skip
    full, short, spent = everyone.quality[:, -1].mean(), [], []
    for _ in range(40):
        rows = everyone.take(np.sort(rng.integers(0, people, 300)))
        fits = make_method("max_prob").fit_path(rows, [Target(max_drop=d) for d in (0, 0.02)])
        seen = [outcome_of(one.policy, everyone) for one in fits]
        short.append([full - one.right.mean() for one in seen])
        spent.append([one.paid.mean() for one in seen])
    mean, error = np.mean(short, axis=0), np.std(short, axis=0) / 40**0.5
    assert (mean <= [0.0002, 0.02] + 2 * error).all()
    assert np.mean(spent, axis=0)[1] < 3.4  # of 5.0


@pytest.mark.parametrize("spec", ["margin:answer=combined", "optimal_stopping", "always"])
def test_the_full_model_is_always_there_in_any_unit(spec):
    """Also where a policy's arithmetic costs more than the model, and the same in units of any size."""
    logits, labels = outputs(300)

    def fitted(scale, unit, drop):
        costs = scale * np.array([1.0, 2.0, 5.0, 8.0])
        data = po.from_arrays(logits, labels, costs, unit=unit, split={"fit": 1.0})
        one = po.fit(data, method=spec, max_drop=drop)
        return one.expected.cost / scale, po.evaluate(one, data, "fit").exit

    for drop in (0.0, 0.02):
        cost, exits = fitted(1.0, "ms", drop)
        for scale in (2.0**-40, 2.0**40):
            other = fitted(scale, "ms", drop)
            assert other[0] == pytest.approx(cost) and (other[1] == exits).all()
        assert fitted(1e-12, "FLOPs", drop)[0] <= 8.0 * (1 + 1e-9)


def test_a_fixed_exit_costs_what_rows_say_however_heavy_the_tail():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        right = rng.random((300, 4)) < [0.5, 0.7, 0.72, 0.9]
        costs = rng.lognormal(0.0, 2.0, (300, 4)) * [1.0, 1.0, 2.0, 4.0]
        table = fit_table(po.from_arrays(
            prediction=right.astype(int), confidence=rng.random((300, 4)), correct=right, unit="ms",
            sample_costs={"time": costs}, cost_kind="standalone", split={"fit": 1.0},
        ))  # fmt: skip
        budgets = np.quantile(table.mean_costs, [0.5, 0.9]).tolist()
        for one, budget in zip(
            make_method("always").fit_path(table, budgets), budgets, strict=True
        ):
            paid = outcome_of(one.policy, table).paid.mean()
            assert one.expected.cost == pytest.approx(paid) and paid <= budget


@pytest.mark.parametrize(
    "spec", ["eero", "max_prob:thresholds=joint", "always", "vote", "max_prob"]
)
def test_rows_without_a_label_are_left_out_or_used(spec):
    """A method that needs labels is fitted on the rows that have one, and on no others."""
    logits, labels = outputs(300)
    labels[::3] = -1
    some, known = (
        po.from_arrays(
            logits[rows], labels[rows], [1.0, 2.0, 4.0, 8.0], split={"fit": 1.0}, unit="ms"
        )
        for rows in (slice(None), labels >= 0)
    )
    one = po.fit(some, "40%", spec)
    if make_method(spec).requires_labels():
        np.testing.assert_array_equal(
            one.policy.thresholds, po.fit(known, "40%", spec).policy.thresholds
        )
    assert one.policy.provenance["rows"] == (200 if make_method(spec).requires_labels() else 300)
