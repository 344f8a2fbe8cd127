"""Robustness: every number against a replay by hand, the dearest versions against a loop, who keeps what."""

import numpy as np
import pytest
from synthetic import outputs

import policyopt as po
from policyopt._study.figures import robustness_figure
from policyopt._study.streams import DEAREST, efficacy, tail
from tests.conftest import refuses

METHODS = ["max_prob", "patience", "random"]


def distorted(rows=600, fog=0.4, per_sample=False, other=None):
    """Fit and test rows, and copies of these: dulled, brightened, and one with rows in another order."""
    logits, labels = outputs(2 * rows, 4, 5)
    at, rng = slice(rows, None), np.random.default_rng(1)
    order = rng.permutation(rows) if other is None else other
    noise = rng.normal(size=(rows, 4, 5)) * 0.2
    versions = {
        "fit": (logits[:rows], labels[:rows]), "test": (logits[at], labels[at]),
        "fog": (fog * logits[at] + noise, labels[at]), "sun": (1.3 * logits[at] + noise, labels[at]),
        "other": (logits[at][order], labels[at][order]), "train": (logits[at], labels[at]),
    }  # fmt: skip
    splits = {n: {"outputs": o.astype(np.float32), "labels": y} for n, (o, y) in versions.items()}
    if not per_sample:
        return po.from_arrays(splits=splits, costs=[1, 2, 4, 8], unit="ms")
    for one in splits.values():
        one["sample_costs"] = {
            "time": np.cumsum(rng.gamma(2.0, size=(len(one["labels"]), 4)), axis=1)
        }
    return po.from_arrays(splits=splits, unit="ms")


@pytest.mark.parametrize("per_sample", [False, True])
def test_every_number_is_that_of_a_replay_by_hand(per_sample):
    data = distorted(per_sample=per_sample)
    found = po.robustness(data, METHODS, "50%", max_drop="2%")
    assert len(found.records) == 3 * 5 and "other is no copy" in found.notes[0]
    full = {n: po.evaluate(po.fit(data, "100%", "always:exit=3"), data, n).quality for n in ("test", "fog", "sun")}  # fmt: skip
    for label in METHODS:
        mine = {r["stream"]: r for r in found.records if r["method"] == label}
        assert list(mine) == ["test", "fog", "sun", "other", DEAREST]
        policy = next(f for key, f in found.frontier.fitted.items() if key[0] == label)
        seen = {n: po.evaluate(policy, data, n) for n in ("test", "fog", "sun")}
        for name, outcome in seen.items():
            one = mine[name]
            assert one["realised_cost"] == pytest.approx(outcome.cost.mean())
            assert one["quality"] == outcome.quality.mean() == one["accuracy"]
            assert one["off_budget"] == pytest.approx(one["realised_cost"] / policy.budget - 1)
            assert one["over_budget"] == (one["realised_cost_low"] > policy.budget)
            assert one["full_quality"] == full[name].mean()
            lack = (outcome.quality - full[name]).mean() + 0.02
            assert one["off_floor"] == pytest.approx(lack)
            assert one["below_floor"] == (one["off_floor_high"] < 0)
            clean = seen["test"].cost.mean()
            assert one["slowdown"] == pytest.approx(outcome.cost.mean() / clean)
            assert one["worst_cost"] == outcome.cost.max()
            assert set(one["dearest_rows"]) <= set(
                np.flatnonzero(outcome.cost >= np.sort(outcome.cost)[-10])
            )
        worst = [max((seen[n].cost[i], -seen[n].quality[i]) for n in seen) for i in range(600)]
        cost, loss = np.array(worst).T
        assert mine[DEAREST]["realised_cost"] == pytest.approx(cost.mean())
        assert mine[DEAREST]["quality"] == pytest.approx(-loss.mean())
        assert mine[DEAREST]["worst_cost"] == cost.max()
        assert mine[DEAREST]["realised_cost"] >= max(mine[n]["realised_cost"] for n in seen) - 1e-9
        rows = [one for one in found.dearest if one["method"] == label]
        assert len(rows) == 10
        mean = np.mean([outcome.cost for outcome in seen.values()], axis=0)
        best = sorted(range(600), key=lambda i, c=cost, m=mean: (-c[i], -m[i]))[:10]
        assert [one["row"] for one in rows] == best
        for one in rows:
            version = seen[one["stream"]]
            i = one["row"]
            assert (one["cost"], one["quality"]) == (version.cost[i], version.quality[i]) and one[
                "cost"
            ] == cost[i]
            assert one["exit"] == version.exit[i] and one["mean_cost"] == pytest.approx(mean[i])


def test_a_floor_may_be_fixed_and_other_rows_are_no_copies():
    data = distorted()
    whole = po.robustness(data, METHODS, "40%,60%", floor="60%")
    assert len(whole.records) == 2 * 3 * 5
    for one in whole.records:
        assert one["off_floor"] == pytest.approx(one["quality"] - 0.6)
    fewer = po.robustness(data, METHODS, "40%,60%", streams="other")
    assert {one["stream"] for one in fewer.records} == {"test", "other"}  # no copies: no adversary
    assert {one["stream"] for one in fewer.dearest} == {"test"}
    assert all(one["off_floor"] is None and not one["below_floor"] for one in fewer.records)


def test_violations_are_told_where_there_are_some_and_only_there():
    """Dull copies make a confident policy go on: over the budget; the same rows again keep it."""
    data = distorted(2000, fog=0.3, other=np.arange(2000))
    (clean, fog, _, same, dearest) = po.robustness(data, "max_prob:spend=all", "50%").records
    assert fog["over_budget"] and fog["slowdown"] > 1.2 and dearest["over_budget"]
    assert not clean["over_budget"] and same["slowdown"] == 1 and not same["over_budget"]
    assert fog["efficacy"] < clean["efficacy"]


def test_efficacy_is_the_area_under_the_curve():
    rng, costs = np.random.default_rng(0), np.array([1.0, 3.0, 4.0, 10.0])
    for _ in range(20):
        exits = rng.choice(4, 50, p=rng.dirichlet(np.ones(4)))
        left = np.cumsum(np.bincount(exits, minlength=4)) / 50
        area = np.trapezoid(np.append(0, left), np.append(0, costs) / costs[-1])
        assert efficacy(costs[exits], exits, costs) == pytest.approx(area)
    none, all_ = np.full(9, 3), np.zeros(9, int)
    assert efficacy(costs[none], none, costs) == pytest.approx(0.3)  # half of (10 - 4) / 10
    assert efficacy(costs[all_], all_, costs) == pytest.approx(0.95)


@pytest.mark.parametrize("rows", [3, 99, 100, 250, 1000])
def test_the_tail_is_the_conditional_value_at_risk(rows):
    cost = np.random.default_rng(rows).lognormal(size=rows)
    by_definition = min(t + np.maximum(cost - t, 0).mean() / 0.01 for t in cost)
    assert tail(cost) == pytest.approx(by_definition)


def test_values_and_sets_have_copies_too():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    at = {"fit": (0, 1.0), "test": (200, 1.0), "fog": (200, 3.0)}
    splits = {
        name: {
            "outputs": (values[i : i + 200, None] + s * rng.normal(size=(200, 3)))[:, :, None],
            "labels": values[i : i + 200],
        }
        for name, (i, s) in at.items()
    }
    data = po.from_arrays(
        splits=splits, kind="regression", error_scale=1.0, costs=[1, 2, 4], unit="ms"
    )
    found = po.robustness(data, {"coin": "random"}, "50%")
    assert found.records[-1]["stream"] == DEAREST and found.records[0]["accuracy"] is None
    assert robustness_figure(found.records) is not None


def test_the_picture_names_all_and_frames_what_fails():
    records = po.robustness(distorted(fog=0.2), METHODS, "40%,70%", max_drop=0).records
    figure = robustness_figure(records, "two budgets")
    figure.draw_without_rendering()
    assert len(figure.axes) == 4
    for left, right in zip(figure.axes[::2], figure.axes[1::2], strict=True):
        full, *others = (t.get_text() for t in left.get_yticklabels())
        assert full == "full model" and sorted(others) == sorted(METHODS)
        assert all(t.get_text() for t in left.texts)  # of the dearest versions, too
        assert [t.get_text() for t in right.get_xticklabels()][-1] == DEAREST
    for i, field in enumerate(("below_floor", "over_budget")):
        assert sum(len(axes.patches) for axes in figure.axes[i::2]) == sum(
            r[field] for r in records
        )


def test_a_colour_means_the_same_at_every_budget():
    """Whether all lie over the budget or not: on it is white, over it red, under it blue; points behind are seen."""
    one = po.robustness(distorted(fog=0.2), "max_prob,random", "50%").records
    rows = []
    for budget, shift in ((1.0, 0.0), (2.0, 0.3)):
        offs, qualities = (0.02, -0.2 + shift), (0.8, 0.795)
        for method, off, quality in zip(("max_prob", "random"), offs, qualities, strict=True):
            mine = [r for r in one if r["method"] == method]
            rows += [{**r, "budget": budget, "off_budget": off, "quality": quality} for r in mine]
    figure = robustness_figure(rows)
    behind, *offs = (figure.axes[i].images[0] for i in (0, 1, 3))
    assert len({image.get_clim() for image in offs}) == 1
    (least, under), (same, over) = (image.to_rgba(image.get_array())[1:, 0, :3] for image in offs)
    assert np.array_equal(least, same) and np.abs(least - 1).max() < 0.1
    assert under[2] > under[0] + 0.1 and over[0] > over[2] + 0.1
    best, other = behind.to_rgba(behind.get_array())[1:, 0, :3]
    assert np.abs(best - other).max() > 0.1  # half a point


def test_every_cache_has_its_picture_and_every_budget_its_lines(tmp_path, run):
    data, words = distorted(200), list[str]()
    for name in ("x/0", "x-0", "long" * 60, "long" * 60 + "er"):
        with po.CacheWriter(tmp_path / str(len(words)), costs=data.costs) as writer:
            for split, rows in data.splits.items():
                writer.append(split, rows.array("outputs"), rows.array("labels"))
        words.append(f"{name}={tmp_path / str(len(words))}")
    words += ["--streams", "fog", "--methods", "max_prob", "--budgets", "40%,60%", "--jobs", "1"]
    code, out, err = run("study", *words, "--no-join", "--out", tmp_path / "out")
    assert code == 0, err
    names = sorted(path.name for path in (tmp_path / "out").glob("streams*.png"))
    cut = f"streams-{'long' * 25}"
    assert names == [f"{cut}-2.png", f"{cut}.png", "streams-x-0-2.png", "streams-x-0.png"]
    assert "budget [ms]" in out and "over" in out
    once = run("study", words[0].partition("=")[2], *words[4:], "--budgets", "40%")[1]
    assert "budget [ms]" not in once


def test_refusals():
    data = distorted(200)
    refuses("'split' must be one of", po.robustness, data, "max_prob", streams="mist")
    refuses("besides test", po.robustness, data, "max_prob", streams="fog,test")
    refuses("Leave one of the two out", po.robustness, data, "max_prob", floor=0.9, max_drop=0.1)
    refuses("floor", po.robustness, data, "max_prob", floor="much")
    logits, labels = outputs(100, 3, 4)
    pool = po.from_arrays(logits, labels, [1, 2, 4], unit="ms")
    refuses("at least one split besides test", po.robustness, pool, "max_prob")
