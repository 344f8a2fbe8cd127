"""Models side by side: heights at equal realised cost, tests over rows and over training runs, and their oracles."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.transforms import Bbox
from scipy import stats

import policyopt as po
from policyopt._frontier import Path as Replays
from policyopt._study.exits import ExitMetrics
from policyopt._study.figures import dominance_figure, study_figure
from policyopt._study.runs import dunn
from policyopt._study.study import (
    JOINED,
    Study,
    _budgets,
    _heights,
    _pairs,
    _Ran,
    named_caches,
    values_at,
)
from policyopt._testing import holm, letters
from tests.conftest import refuses

CLASSES = 4


def models(seed, rows=4000, own=0.35, costs=(1, 4), **strengths):
    """Return caches of the same rows whose models err alike but for a share of their own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    shared = rng.normal(size=(rows, 2, CLASSES))
    found = {}
    for name, strength in strengths.items():
        noise = (1 - own**2) ** 0.5 * shared + own * rng.normal(size=shared.shape)
        truth = np.eye(CLASSES)[labels][:, None] * np.array([[1.2 + strength], [2.0 + strength]])
        found[name.replace("_", "/")] = po.from_arrays(
            (noise + truth).astype(np.float32), labels, costs=list(costs), unit="ms"
        )
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10**6))
def test_a_frontiers_heights_are_those_of_the_raw_line_and_their_errors_those_at_equal_cost(
    points, seed
):
    rng = np.random.default_rng(seed)
    cost = np.sort(rng.uniform(1, 5, size=points)) + rng.uniform(-0.3, 0.3, size=(200, points))
    quality = (rng.uniform(size=(200, points)) < np.linspace(0.5, 0.9, points)).astype(float)
    means, heights = cost.mean(axis=0), quality.mean(axis=0)
    order = np.argsort(means)
    asked = np.array([0.5, *rng.uniform(means.min(), means.max(), size=3), means.max() + 1])
    value, paid = values_at(Replays(cost, quality), asked)
    line = np.interp(asked, means[order], heights[order])
    assert np.isnan(value[:, 0]).all() and np.isnan(paid[0])
    assert value[:, 1:].mean(axis=0) == pytest.approx(line[1:])
    assert paid[1:] == pytest.approx(np.minimum(asked[1:], means.max()))
    # The delta method's error is the bootstrap's.
    at = float(asked[2])
    drawn = np.random.default_rng(0).integers(0, 200, size=(3000, 200))
    again = [np.interp(at, *(lambda c, q: (c[np.argsort(c)], q[np.argsort(c)]))(cost[d].mean(0), quality[d].mean(0))) for d in drawn]  # fmt: skip
    gaps = np.diff(means[order])
    if gaps.min() > 0.2 and min(abs(at - means)) > 0.1:  # no kink within the noise
        assert value[:, 2].std(ddof=1) / 200**0.5 == pytest.approx(np.std(again), rel=0.15)


def ran(model, value, universe="a", full=1.0, graded=False):
    """Return what one entry's rows bring at one budget."""
    value, none = np.asarray(value, dtype=float), ExitMetrics("test", [], {}, [])
    ends = np.array([full, value.mean()]), np.ones(1)
    at = value[:, None], np.arange(len(value)), universe, *ends
    return _Ran({"model": model, "run": "0"}, model, *at, [], none, graded, [])


def test_pairs_are_scipys_tests_paired_where_rows_are_shared_and_not_where_they_are_others():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 500)) + rng.normal(size=500)

    for universe, test in (
        ("a", stats.ttest_rel),
        ("b", partial(stats.ttest_ind, equal_var=False)),
    ):
        heights = _heights([ran("a", first, "a"), ran("b", second, universe)], 0.05)
        gap, low, high, p = heights.test([0], 0, 1)
        assert gap == pytest.approx(first.mean() - second.mean())
        assert 2 * min(p, 1 - p) == pytest.approx(test(first, second).pvalue, rel=0.02)
        assert (low, high) == pytest.approx(tuple(test(first, second).confidence_interval()), 0.01)
        assert _pairs(heights)[0]["paired"] == (universe == "a")
    # End to end, at the dearest budget, where nothing is mixed: the same numbers.
    caches = models(1, a=0.0, b=0.1)
    found = po.study(caches, "100%", "max_prob", join=False)
    fitted = {name: po.fit(data, "100%", "max_prob") for name, data in caches.items()}
    right = {name: po.evaluate(one, caches[name]).quality for name, one in fitted.items()}
    assert found.budgets[0]["lead"] == pytest.approx(right["b"].mean() - right["a"].mean())
    half = stats.ttest_rel(right["b"], right["a"]).confidence_interval(0.95)
    assert (found.budgets[0]["lead_low"], found.budgets[0]["lead_high"]) == pytest.approx(
        tuple(half)
    )


def test_few_rows_or_rows_that_are_all_apart_are_never_sure():
    one = _heights([ran("a", [1.0]), ran("b", [0.0])], 0.05)
    assert one.test([0], 0, 1) == (1.0, None, None, 1.0) and one.test([0], 0)[1:3] == (None, None)
    assert _pairs(one)[0]["p"] == 1.0
    assert _budgets(one, np.ones(1), [])[0]["winner"] is None
    for count, graded in ((3, False), (10, False), (10, True)):
        apart = _heights([ran("a", [1.0] * count, graded=graded), ran("b", [0.0] * count)], 0.05)
        gap, low, high, p = apart.test([0], 0, 1)
        assert gap == 1.0 and low < 1.0 < high and 0 < p < 0.5**count * 5
    # What is equal but for rounding goes to the cheaper, and is not shown to be better.
    dear = ran("dear", np.full(50, 0.7) + 2e-16, full=2.0, graded=True)
    equal = _heights([dear, ran("cheap", np.full(50, 0.7), graded=True)], 0.05)
    budget = _budgets(equal, np.ones(1), [])[0]
    assert budget["best"] == _pairs(equal)[0]["better"] == "cheap" and budget["winner"] is None


def test_intervals_of_heights_cover_near_one_and_of_few_groups():
    rng, held, trials = np.random.default_rng(0), [0, 0], 400
    for _ in range(trials):
        value = rng.uniform(size=150) < 0.985
        _, low, high, _ = _heights([ran("a", value)], 0.05).test([0], 0)
        assert 0 <= low <= value.mean() <= high <= 1 and low < high
        held[0] += low <= 0.985 <= high
        # Eight groups of rows that are as hard as each other.
        group = replace(ran("a", np.repeat(rng.uniform(size=8), 20)), row=np.repeat(range(8), 20))
        _, low, high, _ = _heights([group], 0.05).test([0], 0)
        held[1] += low <= 0.5 <= high
    assert min(held) / trials > 0.93


def test_equal_models_win_no_more_often_than_stated_and_a_better_one_is_found():
    false, pairs, found = 0, 0, 0
    for seed in range(14):
        study = po.study(
            models(seed, 6000, a=0.0, b=0.0, c=0.08), "40%,60%,100%", "max_prob", join=False
        )
        false += any(one["winner"] in ("a", "b") for one in study.budgets)
        equal = next(p for p in study.pairs if {p["better"], p["worse"]} == {"a", "b"})
        pairs += equal["holm_p"] <= 0.05
        found += (
            study.models[0]["model"] == "c" and study.models[0]["group"] != study.models[1]["group"]
        )
    # Of 14 draws at 5 %: 4 or more come once in a hundred.
    assert false <= 3 and pairs <= 3
    assert found >= 12


def test_runs_of_a_model_are_told_apart_and_their_spread_counts(tmp_path):
    runs = {}
    for seed in range(3):
        for name, data in models(7, a=0.0 + 0.05 * (seed - 1), b=0.02 + 0.05 * (seed - 1)).items():
            runs[f"{name}/{seed}"] = data
    several = po.study(runs, "40%,100%", "max_prob", join=False)
    assert [one["runs"] for one in several.models] == [3, 3]
    assert {one["run"] for one in several.points} == {"0", "1", "2"}
    alone = po.study({"a": runs["a/1"], "b": runs["b/1"]}, "40%,100%", "max_prob", join=False)
    width = [s.pairs[0]["area_high"] - s.pairs[0]["area_low"] for s in (several, alone)]
    assert width[0] > width[1]
    assert any("means nothing" in note for note in alone.notes) and not alone.tests
    by_name = {one["metric"]: one for one in several.tests}
    qualities = {
        m: [po.Tables(runs[f"{m}/{s}"]).get("test").quality[:, 0].mean() for s in range(3)]
        for m in "ab"
    }
    exact = by_name["quality of exit 0"]
    assert exact["p"] == pytest.approx(stats.f_oneway(*qualities.values()).pvalue)
    for figure in (study_figure(several, "runs"), dominance_figure(several.tests, 0.95)):
        figure.savefig(tmp_path / "one.png")


def test_dunns_test_of_two_is_kruskals_and_of_few_runs_it_finds_what_is_far_apart():
    rng = np.random.default_rng(0)
    for _ in range(20):
        two = [rng.integers(0, 5, size) for size in (4, 6)]  # with ties
        assert dunn(two, 0, 1) == pytest.approx(stats.kruskal(*two).pvalue)
    far = {f"m{i}": [100.0 * (i + 1) ** 4 * (1 + 0.1 * run) for run in range(3)] for i in range(6)}
    found = po.compare_runs(far)
    assert found["test"] == "kruskal" and found["post_hoc"] == "Dunn, Holm"
    assert not set(found["groups"]["m0"]) & set(found["groups"]["m5"])


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.integers(3, 6), st.integers(0, 10**6), st.booleans())
def test_tests_over_runs_are_scipys_and_letters_part_what_they_part(count, runs, seed, less):
    rng = np.random.default_rng(seed)
    spread = rng.choice([0.1, 1.0], size=count)
    values = {
        f"m{i}": rng.normal(rng.integers(0, 3), spread[i], size=runs).tolist() for i in range(count)
    }
    found = po.compare_runs(values, less=less)
    groups = list(values.values())
    residuals = np.concatenate([np.array(g) - np.mean(g) for g in groups])
    assert found["shapiro_p"] == pytest.approx(stats.shapiro(residuals).pvalue)
    assert found["levene_p"] == pytest.approx(stats.levene(*groups).pvalue)
    alike = found["levene_p"] >= 0.05
    exact = (
        stats.kruskal(*groups)
        if found["shapiro_p"] < 0.05
        else stats.f_oneway(*groups, equal_var=alike)
    )
    assert found["p"] == pytest.approx(exact.pvalue)
    after, names = stats.tukey_hsd(*groups, equal_var=alike).pvalue, list(values)
    if found["test"] == "kruskal":  # whose pairs are ranked, too
        two = [(names.index(pair["better"]), names.index(pair["worse"])) for pair in found["pairs"]]
        each = holm(np.array([dunn(groups, a, b) for a, b in two]))
        for (a, b), p in zip(two, each, strict=True):
            after[a, b] = p
    paired = holm(
        np.array(
            [
                stats.ttest_rel(values[p["better"]], values[p["worse"]]).pvalue
                for p in found["pairs"]
            ]
        )
    )
    for pair, holm_p in zip(found["pairs"], paired, strict=True):
        a, b = names.index(pair["better"]), names.index(pair["worse"])
        assert pair["p"] == pytest.approx(after[a, b]) and pair["paired_p"] == pytest.approx(holm_p)
        assert (
            (np.mean(groups[a]) <= np.mean(groups[b]))
            if less
            else (np.mean(groups[a]) >= np.mean(groups[b]))
        )
        together = set(found["groups"][pair["better"]]) & set(found["groups"][pair["worse"]])
        assert bool(together) == (pair["p"] > 0.05)
    two = po.compare_runs({"a": [0.1, 0.2], "b": [0.4, 0.7]})
    assert two["levene_p"] is None and two["test"] == "anova"
    assert po.compare_runs({"a": [0.1, 0.1, 0.1], "b": [0.4, 0.5, 0.7]})["p"] < 0.05
    ranked = po.compare_runs(
        {"a": [1, 2, 3, 4, 900], "b": [11, 12.5, 13, 14, 15], "c": [5, 6, 7, 8, 9]}
    )
    assert ranked["test"] == "kruskal" and ranked["pairs"][0]["low"] is None


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 7), st.integers(0, 10**6), st.floats(0, 1))
def test_two_share_a_letter_if_and_only_if_they_are_not_parted(count, seed, share):
    rng, names = np.random.default_rng(seed), [f"m{i}" for i in range(count)]
    every = list(combinations(names, 2))
    apart = [pair for pair in every if rng.uniform() < share]
    found = letters(names, [{"better": a, "worse": b} for a, b in apart])
    for a, b in every:
        assert bool(set(found[a]) & set(found[b])) == ((a, b) not in apart)
    assert all(found.values()) and found[names[0]][0] == "a"


def test_the_full_models_are_tried_as_one_cascade_and_what_cannot_be_joined_is_told():
    caches = models(3, small=-0.3, large=0.4)
    caches["large"] = po.from_arrays(
        *(caches["large"].splits["pool"].array(n) for n in ("outputs", "labels")),
        costs=[8, 16],
        unit="ms",
    )
    found = po.study(caches, "8,12", "max_prob")
    assert {one["model"] for one in found.models} == {"small", "large", JOINED}
    joined = next(one for one in found.models if one["model"] == JOINED)
    assert joined["full_cost"] == 4 + 16  # each is paid where it is asked
    # Other rows are told; few labels tell nothing, unless it is stated, and not where they contradict it.
    two = {"small": caches["small"], "large": models(4, large=0.4)["large"]}
    other = po.study(two, "4", "max_prob")
    assert any("not joined" in note for note in other.notes) and not other.pairs[0]["paired"]
    assert any("--paired states it" in note for note in other.notes)
    with pytest.raises(po.InputError, match=r"large/0: .*other labels, or another number"):
        po.study(two, "4", "max_prob", paired=True)
    few = {}
    for name, data in models(3, small=-0.3, large=0.4).items():
        labels = np.zeros(4000, int)
        few[name] = po.from_arrays(data.splits["pool"].array("outputs"), labels, costs=[1, 4])
    for paired in (False, True):
        assert po.study(few, "4", "max_prob", paired=paired).pairs[0]["paired"] == paired


def test_rows_that_are_equal_in_one_model_only_are_the_same_rows_in_all():
    caches, equal = models(3, 2000, a=0.0, b=0.05), {}
    labels = caches["a"].splits["pool"].array("labels").copy()
    labels[1000:1100] = labels[:100]
    for name, data in caches.items():
        outputs = data.splits["pool"].array("outputs").copy()
        if name == "a":
            outputs[1000:1100] = outputs[:100]
        equal[name] = po.from_arrays(outputs, labels, costs=[1, 4], unit="ms")
    assert equal["a"].splits["pool"].has("group") and not equal["b"].splits["pool"].has("group")
    for jobs, paired in ((1, False), (2, False), (1, True)):
        with po.parallel(jobs):
            found = po.study(equal, "100%", "max_prob", paired=paired)
        assert all(pair["paired"] for pair in found.pairs)
        assert len({one["rows"] for one in found.models}) == 1  # all of the same test rows


def test_the_chain_narrows_for_no_model_and_takes_the_rows_asked_for():
    caches = models(3, small=-0.3, large=0.4)
    splits = {}
    for name, costs in (("small", [1, 4]), ("large", [8, 16])):
        outputs, labels = (caches[name].splits["pool"].array(n) for n in ("outputs", "labels"))
        at = {"fit": slice(0, 1500), "test": slice(1500, 2500), "fog": slice(2500, 4000)}
        rows = {n: {"outputs": outputs[i], "labels": labels[i]} for n, i in at.items()}
        splits[name] = po.from_arrays(splits=rows, costs=costs, unit="ms")
    found = po.study(splits, "3,8,12", "max_prob,entropy", test="fog")
    areas = {one["model"]: one["area"] for one in found.models}
    assert f"{JOINED}: max_prob" in areas and areas["small: max_prob"] is not None
    assert {one["rows"] for one in found.models} == {1500}
    assert not any("training run" in note and JOINED in note for note in found.notes)


@pytest.mark.parametrize("pooled", [True, False])
def test_costs_by_row_are_those_of_the_rows_that_fit(pooled):
    rng, caches = np.random.default_rng(0), {}
    for name, data in models(3, 600, a=0.0, b=0.2).items():
        costs = np.cumsum(rng.lognormal([0, 1.5], 0.8, size=(600, 2)), axis=1)
        outputs, labels = (data.splits["pool"].array(n) for n in ("outputs", "labels"))
        rows = {"outputs": outputs, "labels": labels, "sample_costs": {"compute": costs}}
        if pooled:
            caches[name] = po.from_arrays(**rows, unit="ms")
        else:
            splits = {}
            for split, at in (("fit", slice(300)), ("test", slice(300, 600))):
                splits[split] = {"outputs": outputs[at], "labels": labels[at]}
                splits[split]["sample_costs"] = {"compute": costs[at]}
            caches[name] = po.from_arrays(splits=splits, unit="ms")
    found = po.study(caches, "40%,60%,100%", "max_prob", seeds=3, join=False)
    assert len(found.budgets) == 3 and found.pairs[0]["paired"]


def test_budgets_are_spread_over_all_costs_and_must_be_within_reach():
    caches = models(1, 1000, a=0.0, b=0.1)
    found = po.study(caches, 3, "max_prob")
    costs = [one["budget"] for one in found.budgets]
    assert costs == pytest.approx(4.0 ** (np.arange(1, 4) / 4))
    assert "3 budget(s) from 1.41421 to 2.82843 ms" in found.notes[0]
    assert len(po.study(caches, "2,2,50%", "max_prob").budgets) == 1
    for low in ("0.01", "-1,2", "0%,100%"):
        with pytest.raises(po.BudgetError, match="1 ms at least"):
            po.study(caches, low, "max_prob")


def test_what_is_of_a_model_counts_once_whatever_its_policies_and_what_cannot_be_tested_is_told():
    runs = models(7, 1200, a_0=0.0, a_1=0.05, b_0=0.1, b_1=0.12, c_0=0.5, c_1=0.6)
    for run in range(2):
        each = [runs[f"{m}/{run}"].splits["pool"].array("outputs") for m in "bc"]
        outputs = np.concatenate(each, axis=1)
        labels = runs["a/0"].splits["pool"].array("labels")
        runs[f"three/{run}"] = po.from_arrays(outputs[:, 1:], labels, costs=[6, 7, 9], unit="ms")
        del runs[f"c/{run}"]
    found = po.study(runs, "3,7,8", "max_prob,entropy")
    tests = {one["metric"]: one for one in found.tests}
    assert set(tests["quality of exit 0"]["means"]) == {"a", "b"}
    joined = {f"{JOINED}: max_prob", f"{JOINED}: entropy"}
    assert joined <= {one["model"] for one in found.models if one["runs"] == 1}
    assert not any(JOINED in m for one in found.tests for m in one["means"])
    assert any("of one run: b/0, three/0" in note for note in found.notes)
    assert {one["model"] for one in found.exits} == {"a", "b", "three", JOINED}
    assert len(found.exits) == 2 * (2 + 2 + 3) + 2
    assert any(note.startswith("three: not 2 exits") for note in found.notes)
    # An area over runs is the area of the table of models.
    areas = {one["model"]: one["area"] for one in found.models}
    assert tests["area"]["means"] == pytest.approx({m: areas[m] for m in tests["area"]["means"]})


def test_rows_that_fitted_are_told():
    caches = {}
    for name, data in models(3, 1000, a=0.0, b=0.2).items():
        outputs, labels = (data.splits["pool"].array(n) for n in ("outputs", "labels"))
        rows = {n: {"outputs": outputs[at], "labels": labels[at]} for n, at in (("fit", slice(500)), ("test", slice(500, 1000)))}  # fmt: skip
        rows["fog"] = {"outputs": rows["fit"]["outputs"] / 2, "labels": rows["fit"]["labels"]}
        rows["train"] = rows["test"]
        caches[name] = po.from_arrays(splits=rows, costs=[1, 4])
    for test, flattered in (("test", False), ("fit", True), ("fog", True), ("train", True)):
        found = po.study(caches, "50%", "max_prob", test=test)
        assert any("they flatter it" in note for note in found.notes) == flattered


def test_opened_caches_are_handed_to_other_processes(tmp_path):
    opened = {}
    for name, data in models(2, 300, a=0.0, b=0.1).items():
        rows = data.splits["pool"]
        with po.CacheWriter(tmp_path / name, costs=data.costs, shares=data.shares) as writer:
            writer.append("pool", list(rows.array("outputs").swapaxes(0, 1)), rows.array("labels"))
        opened[name] = po.open_cache(tmp_path / name)
    here = po.study(opened, "50%,100%", "max_prob")
    with po.parallel(2):
        there = po.study(opened, "50%,100%", "max_prob")
    assert here.budgets == there.budgets and here.points == there.points


def test_a_model_without_early_exits_takes_part():
    caches = models(6, early=0.3)
    outputs, labels = (caches["early"].splits["pool"].array(n) for n in ("outputs", "labels"))
    plain = po.from_arrays(outputs[:, 1:], labels, costs=[3.0], unit="ms")
    found = po.study({**caches, "plain": plain}, "2,3.5,4", "max_prob", join=False)
    assert found.budgets[0]["too_dear"] == ["plain"] and found.budgets[0]["winner"] == "early"
    quality = po.Tables(plain).get("test").quality.mean()
    rows = {"test": {"outputs": outputs[:, 1:], "labels": labels}}
    alone = po.from_arrays(splits=rows, costs=[3.0], unit="ms")  # no rows to fit on are needed
    assert (
        po.study({**caches, "plain": alone}, "2,4", "max_prob").budgets[1]["cost"]["plain"] == 3.0
    )
    assert (
        found.budgets[1]["quality"]["plain"]
        == found.budgets[2]["quality"]["plain"]
        == pytest.approx(quality)
    )
    assert found.budgets[1]["cost"]["plain"] == 3.0


def test_groups_match_rows_that_stand_in_another_order():
    caches = models(5, a=0.0, b=0.05)
    outputs, labels = (caches["b"].splits["pool"].array(n) for n in ("outputs", "labels"))
    order = np.random.default_rng(0).permutation(len(labels))
    grouped = {
        "a": po.from_arrays(caches["a"].splits["pool"].array("outputs"), labels, costs=[1, 4], group=np.arange(len(labels))),
        "b": po.from_arrays(outputs[order], labels[order], costs=[1, 4], group=order),
    }  # fmt: skip
    found = po.study(grouped, "100%", "max_prob", join=False)
    lines = po.study(
        {n: po.from_arrays(caches[n].splits["pool"].array("outputs"), labels, costs=[1, 4], group=np.arange(len(labels))) for n in "ab"},
        "100%", "max_prob", join=False,
    )  # fmt: skip
    for name in ("lead", "lead_low", "lead_high"):
        assert found.budgets[0][name] == pytest.approx(lines.budgets[0][name])


def test_the_command_prints_and_writes_what_the_call_returns(tmp_path, run):
    for name, data in models(2, joint_0=0.0, joint_1=0.02, two_0=0.1, two_1=0.12).items():
        rows = data.splits["pool"]
        with po.CacheWriter(tmp_path / "in" / name, costs=data.costs, shares=data.shares) as writer:
            writer.append("pool", list(rows.array("outputs").swapaxes(0, 1)), rows.array("labels"))
    words = (
        "study",
        tmp_path / "in",
        "--methods",
        "max_prob",
        "--budgets",
        "50%,100%",
        "--out",
        tmp_path / "out",
    )
    code, out, err = run(*words, "--jobs", "1", "--format", "json")
    found = json.loads(out)
    assert code == 0 and {one["model"] for one in found["models"]} == {"joint", "two"}
    assert {"study.png", "dominance.png", "budgets.csv"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
    code, out, err = run(*words, "--jobs", "1", columns="80")
    assert code == 0 and "over training runs" in out and max(map(len, out.splitlines()[:-1])) <= 80
    assert "fewer than 5 runs" in err
    assert run("study", tmp_path / "in" / "joint" / "0")[0] == 2


def test_names_runs_and_errors(tmp_path):
    for place in ("x/joint/0", "x/joint/1", "x/two-stage/0", "alone"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "manifest.json").write_text('{"format": "policyopt-cache"}')
    found = named_caches([tmp_path / "x"])
    assert list(found) == ["joint/0", "joint/1", "two-stage/0"]
    assert list(named_caches([f"mine/0={tmp_path / 'alone'}", tmp_path / "alone"])) == [
        "mine/0",
        "alone",
    ]
    with pytest.raises(po.InputError, match="two or more models"):
        po.study({"a/0": models(0, a=0.0)["a"], "a/1": models(1, a=0.0)["a"]})
    other = po.from_arrays(np.zeros((10, 2, 3)), np.zeros(10, int), costs=[1, 2], unit="J")
    with pytest.raises(po.InputError, match="of one unit in all caches"):
        po.study({"a": models(0, a=0.0)["a"], "b": other})
    a, b = models(0, 300, a=0.0, b=0.1).values()
    for wrong, match in (
        ({"=x": a, "": b}, "each of a name"),
        ({"/": a, "b": b}, "each of a name"),
        ({JOINED: a, "b": b}, "each of a name"),
        ({"a": [], "b": b}, "cache a"),
        ({"a": None, "b": b}, "cache a"),
        ({"a/0": a, "a/1": a, "b": b}, "a/1 twice"),
    ):
        with pytest.raises(po.InputError, match=match):
            po.study(wrong)
    for more, match in (
        ({"method": "all"}, "Got all"),
        ({"method": "max_prop"}, "max_prob"),
        ({"test": "fog"}, "^a/0: "),
    ):
        with pytest.raises(po.InputError, match=match):
            po.study({"a": a, "b": b}, **more)
    assert len(po.study({"a": a, "b": b}, 2, "max_prob,max_prob").models) == 2
    for runs, match in (
        ([1.0], "two or more finite numbers"),
        ([1.0, np.inf], "runs of b"),
        ([1.0, "x"], "runs of b"),
    ):
        with pytest.raises(po.InputError, match=match):
            po.compare_runs({"a": [1.0, 2.0], "b": runs})


# --- what is written, drawn, and found in folders ----------------------------------------------


def written(folder, **strengths):
    for name, data in models(2, rows=400, **strengths).items():
        rows = data.splits["pool"]
        with po.CacheWriter(folder / name, costs=data.costs, shares=data.shares) as writer:
            writer.append("pool", list(rows.array("outputs").swapaxes(0, 1)), rows.array("labels"))


def test_a_study_can_be_repeated_also_where_tables_are_empty(tmp_path, run):
    """No runs: no tests; no budget that two can keep: no pairs. What is empty has its columns all the same."""
    heads = {}
    for name, budgets in (("few", "1.5"), ("all", "50%,100%")):
        written(tmp_path / name / "in", a_0=0.0, a_1=0.01, b_0=0.02, b_1=0.0)
        if name == "few":
            for run_, costs in ((0, [1, 4]), (1, [2, 8])):
                data = models(3, rows=400, costs=costs, m=0.1 * run_)["m"].splits["pool"]
                with po.CacheWriter(
                    tmp_path / name / f"m{'xy'[run_]}",
                    costs=po.Cost("c", "ms", costs),
                    shares={"fit": 0.5, "test": 0.5},
                ) as writer:
                    writer.append("pool", list(data.array("outputs").swapaxes(0, 1)), data.array("labels"))  # fmt: skip
        given = sorted((tmp_path / name).glob("m*")) or [tmp_path / name / "in"]
        words = ("--methods", "max_prob", "--jobs", 1, "--budgets", budgets, "--no-join")
        for _ in range(2):
            code, _, err = run("study", *given, *words, "--out", tmp_path / name / "out")
            assert code == 0, err
        read = [(tmp_path / name / "out" / f"{of}.csv").read_text() for of in ("pairs", "tests")]
        heads[name] = [text.splitlines()[0] for text in read]
        assert all((text.count("\n") == 1) == (name == "few") for text in read)
    assert heads["few"] == heads["all"]


def test_folders_hold_other_things_links_and_nothing(tmp_path, run):
    written(tmp_path / "real", a=0.0, b=0.1)
    (tmp_path / "links").mkdir()
    for name, target in (("one", "a"), ("two", "b"), ("two-again", "b")):
        (tmp_path / "links" / name).symlink_to(tmp_path / "real" / target)
    assert list(named_caches([tmp_path / "links"])) == ["one", "two"]
    (tmp_path / "real" / "export").mkdir()
    (tmp_path / "real" / "export" / "manifest.json").write_text('{"format": "policyopt-export"}')
    code, _, err = run("study", tmp_path / "real", "--methods", "max_prob", "--jobs", 1)
    assert code == 0 and "export left out" in err
    (tmp_path / "empty").mkdir()
    refuses("a cache, or a folder with some", named_caches, [tmp_path / "empty"])
    assert list(named_caches([tmp_path / "absent"])) == ["absent"]  # opening it says so


def test_curves_and_marks_are_told_apart_and_stand_at_budgets_tried():
    names, budgets = [f"model {m}" for m in range(20)], [1.0, 2.0, 7.0]
    rows = [
        {"budget": b, "quality": dict.fromkeys(names, 0.8), "winner": None, "contenders": names}
        for b in budgets
    ]
    found = Study([{"model": name} for name in names], rows, [], [], [], [], "ms", 0.95)
    axes, strip = study_figure(found).axes
    looks = [(line.get_color(), line.get_marker()) for line in axes.lines]
    assert len(set(looks)) == len(names)
    widths = [line.get_linewidth() for line in axes.lines]
    assert widths == sorted(widths, reverse=True)  # one that is drawn later hides none
    assert not strip.patches and len(strip.collections) == len(names)
    assert all(marks.get_offsets()[:, 0].tolist() == budgets for marks in strip.collections)


@pytest.mark.parametrize("count", [2, 3, 9, 11, 12])
def test_names_stand_beside_the_circles_and_each_other(count):
    names = [f"pretrained_branch_{m}" for m in range(count)]
    one = {
        "metric": "area", "less_is_better": False, "post_hoc": "Tukey HSD",
        "rank": {name: 1 + m for m, name in enumerate(names)},
        "pairs": [{"better": names[0], "worse": names[1], "p": 0.01}],
    }  # fmt: skip
    figure = dominance_figure([one] * 6, 0.95)
    figure.draw_without_rendering()
    boxes = []
    for axes in figure.axes:
        boxes += [t.get_window_extent() for t in axes.texts if t.get_text() in names]
        for line in axes.lines:  # squares within the circles
            (x, y), half = axes.transData.transform(line.get_xydata()[0]), 6 * figure.dpi / 72
            boxes.append(Bbox([[x - half, y - half], [x + half, y + half]]))
    assert len(boxes) == 12 * count and not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_groups_of_other_rows_are_not_shared():
    """Import numbers equal rows from 0 in every cache: such groups, of other rows, name nothing in common."""
    rng = np.random.default_rng(0)

    def cache(labels, group):
        logits = rng.normal(size=(400, 2, 4)) + 2 * np.eye(4)[labels][:, None]
        return po.from_arrays(logits, labels, [1, 2], unit="ms", group=group)

    labels, group = rng.integers(0, 4, 400), np.arange(400)
    of = {"a": (labels, group), "b": (labels[::-1].copy(), group[::-1].copy())}
    of["c"] = rng.integers(0, 4, 400), group
    caches = {name: cache(*given) for name, given in of.items()}
    found = po.study(caches, "60%,80%", "max_prob", join=False)
    paired = {frozenset((p["better"], p["worse"])): p["paired"] for p in found.pairs}
    assert paired == {frozenset("ab"): True, frozenset("ac"): False, frozenset("bc"): False}
