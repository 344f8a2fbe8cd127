"""Explanations: every number against a loop over rows, every picture against its data."""

import json

import numpy as np
import pytest
from synthetic import cache as make_cache
from synthetic import outputs

import policyopt as po
from policyopt._page.panels import explanation_panels
from policyopt._replay import replay, trace
from policyopt._report.calibration import auroc
from policyopt._report.explanation import default_reference
from policyopt._report.explanation import explain_rows as explain
from policyopt._report.figures import panel_figure
from policyopt._table import Tables
from policyopt.runtime._answers import Combined
from policyopt.runtime._policy import NEVER, Policy
from policyopt.runtime._scores import MaxProb


@pytest.fixture(scope="module")
def world():
    data = make_cache(n=1600, exits=4, classes=5)
    tables = Tables(data)
    fits = (po.fit(data, *how, tables=tables) for how in (("40%", "entropy"), ("45%", "max_prob")))
    return data, tables.get("test"), *(fit.policy for fit in fits)


def combined(table, thresholds=(0.5, 0.6, 0.7)):
    return Policy(
        MaxProb(), np.array(thresholds), table.mean_costs, table.unit, table.kind, table.classes,
        answer=Combined(np.tril(np.full((4, 4), 0.4))), overhead=[0.0, 0.1, 0.2, 0.3],
    )  # fmt: skip


def mean(values):
    return pytest.approx(np.mean(values)) if len(values) else None


@pytest.mark.parametrize("kind", ["plain", "combined", "costs per sample"])
def test_exits_against_a_loop(world, kind):
    _, table, policy, _ = world
    policy = combined(table) if kind == "combined" else policy
    if kind == "costs per sample":
        costs = np.cumsum(np.random.default_rng(1).uniform(0.5, 1.5, (800, 4)), axis=1)
        tables = Tables(po.from_arrays(*outputs(800), costs, unit="ms"))
        policy, table = (po.fit(tables.data, 2.0, "max_prob", tables=tables).policy, tables.get("test"))  # fmt: skip
    found, record = trace(policy, table), explain(policy, table).record
    assert record["realised_cost"] == mean(found.cost)
    right = found.predictions == table.statistics.labels[:, None]
    final = right[np.arange(len(table)), found.exit]
    for k, told in enumerate(record["exits"]):
        cost, here = table.mean_costs[k] + policy.overhead[k], right[:, k]
        gone, left, stay = found.exit < k, found.exit == k, found.exit > k
        assert (told["rows_left"], told["rows_reached"]) == (left.sum(), (~gone).sum())
        assert (told["share_left"], told["share_reached"]) == (mean(left), mean(~gone))
        assert told["accuracy"] == mean(here)
        assert told["accuracy_left"] == mean(here[left])
        assert told["accuracy_stayed"] == mean(here[stay])
        assert told["rescued"] == (stay & final & ~here).sum()
        assert told["overthought"] == (stay & ~final & here).sum()
        assert told["cost"] == pytest.approx(cost)
        assert told["cost_left"] == mean(found.cost[left])
        assert told["cost_share"] == pytest.approx(found.cost[left].sum() / found.cost.sum())
        assert told["thresholds"] == ([float(policy.thresholds[k])] if k < 3 else [])
        for place, rows in (("gone", gone), ("reached", ~gone)):
            for name, of in (("right", here), ("wrong", ~here)):
                part, values = told["score"][place][name], found.scores[rows & of, k]
                assert part["rows"] == len(values) == sum(part["counts"])
                assert part["mean"] == mean(values)
                median = part["quantiles"] and part["quantiles"][2]
                assert median == (pytest.approx(np.median(values)) if len(values) else None)
        for name, rows in (("auroc", ~gone), ("auroc_all", found.exit >= 0)):
            assert told[name] == auroc(found.scores[rows, k], here[rows])
    # The whole is the sum of its parts.
    assert sum(e["share_left"] for e in record["exits"]) == pytest.approx(1)
    parts = [e["share_left"] * (e["accuracy_left"] or 0.0) for e in record["exits"]]
    assert sum(parts) == pytest.approx(record["accuracy"])
    json.dumps(record, allow_nan=False)


def test_classes_against_a_loop(world):
    _, table, policy, _ = world
    found, told = trace(policy, table), explain(policy, table).record["classes"]
    assert sum(c["rows"] for c in told) == len(table)
    for record in told:
        rows = np.flatnonzero(table.statistics.labels == record["class"])
        assert record["rows"] == len(rows)
        assert record["cost"] == mean(found.cost[rows])
        assert record["accuracy"] == mean(found.quality_taken[rows])
        for k in range(4):
            assert record["exit_share"][k] == mean(found.exit[rows] == k)
            assert record["accuracy_exits"][k] == mean(found.quality[rows, k])


def test_changes_against_a_loop(world):
    _, table, policy, rival = world
    new, old = replay(policy, table), replay(rival, table)
    told = explain(policy, table, rival).record["changes"]
    better, worse = new.quality > old.quality, new.quality < old.quality
    for name, rows in (("transitions", better | True), ("better_at", better), ("worse_at", worse)):
        wanted = np.zeros((4, 4), int)
        np.add.at(wanted, (old.exit[rows], new.exit[rows]), 1)
        np.testing.assert_array_equal(told[name], wanted)
    assert told["rows_better"] == np.flatnonzero(better).tolist() != []
    assert told["rows_worse"] == np.flatnonzero(worse).tolist() != []
    assert told["better"] + told["worse"] + told["both_right"] + told["both_wrong"] == len(table)
    for name, rows in (
        ("earlier", new.exit < old.exit), ("later", new.exit > old.exit), ("same_exit", new.exit == old.exit),
    ):  # fmt: skip
        assert told[name] == rows.sum()
    gain = better.mean() - worse.mean()
    assert told["accuracy"] - told["reference_accuracy"] == pytest.approx(gain)
    by_class = sum(c["rows"] * (c["accuracy"] - c["reference_accuracy"]) for c in told["classes"])
    assert by_class == pytest.approx(gain * len(table))


def test_without_labels_only_what_needs_none(world):
    data, _, policy, rival = world
    key, where = data.rows("test")
    rows = data.splits[key].array("outputs")[where]
    bare = Tables(po.from_arrays(rows, costs=[1, 2, 4, 8], unit="ms", split={"test": 1.0}))
    result = explain(policy, bare.get("test"), rival)
    record = result.record
    assert record["accuracy"] is None and record["classes"] is None
    assert "no labels" in record["notes"][0] and record["exits"][0]["accuracy_left"] is None
    assert record["changes"]["better"] is None and record["changes"]["earlier"] >= 0
    assert sum(record["exits"][1]["score"]["reached"]["all"]["counts"]) > 0
    assert "label" not in result.rows()[0]
    drawn = figures(result)
    assert sorted(drawn) == ["changes.png", "exits.png", "scores.png"]
    assert len(drawn["exits.png"].axes) == 1  # who leaves, and no view of how right
    assert default_reference(policy, bare)[0] is None


@pytest.mark.parametrize("labelled", [True, False])
def test_records(world, labelled):
    """Records: with labels everything is told; with `correct` alone nothing by class."""
    stats = world[1].statistics
    known = {"prediction": stats.prediction, "labels": stats.labels}
    known = known if labelled else {"correct": stats.quality}
    records = po.from_arrays(confidence=stats.confidence, costs=[1, 2, 4, 8], kind="summary", **known)  # fmt: skip
    policy = po.fit(records, "50%", "max_prob").policy
    result = explain(policy, Tables(records).get("test"), policy)
    assert result.record["accuracy"] == mean(po.evaluate(policy, records).quality)
    assert (result.record["classes"] is not None) == labelled
    assert len(result.record["notes"]) == (not labelled)
    assert ("classes.png" in figures(result)) == labelled


# Pictures.
def figures(result, title=""):
    return {
        f"{one['id']}.png": panel_figure(one, title=title) for one in explanation_panels(result)
    }


def test_pictures_show_the_data(world):
    _, table, policy, rival = world
    result = explain(policy, table, rival)
    drawn, found, record = figures(result, "a title"), result.found, result.record
    assert all(figure.get_suptitle() == "a title" for figure in drawn.values())
    bars = [b.get_height() for b in drawn["exits.png"].axes[0].patches[:4]]
    np.testing.assert_allclose(bars, [e["share_left"] for e in record["exits"]], rtol=1e-5)
    assert len(drawn["scores.png"].axes) == 4
    for k, axes in enumerate(drawn["scores.png"].axes):
        here = np.sum([b.get_height() for b in axes.patches])
        assert here == pytest.approx(2 if (found.exit >= k).any() else 0, rel=1e-4)  # right, wrong
        shown = k < 3 and abs(policy.thresholds[k]) < 1e30
        lines = [line.get_xdata()[0] for line in axes.lines]
        assert lines == ([pytest.approx(policy.thresholds[k], rel=1e-5)] if shown else [])
        assert [t.get_text()[:9] for t in axes.texts] == ["threshold"] * int(shown)
    parts = drawn["classes.png"].axes[0].patches
    assert sum(p.get_height() for p in parts) == pytest.approx(5, rel=1e-4)
    assert max(p.get_y() + p.get_height() for p in parts) == pytest.approx(1, rel=1e-4)
    told = [t.get_text() for t in drawn["changes.png"].axes[0].texts]
    wanted = np.array(record["changes"]["transitions"]).ravel().tolist()
    assert told == [str(count or "") for count in wanted]


def test_both_thresholds_of_a_mixture_are_drawn():
    data = make_cache(n=8000, exits=2, classes=60, seed=2)
    policy = po.fit(data, "70%", "max_prob", mix=True, thresholds="joint").policy
    drawn = figures(explain(policy, Tables(data).get("test")))
    assert len(drawn["scores.png"].axes[0].lines) == 2
    assert len(drawn["classes.png"].axes[0].get_xticks()) == 30  # the dearest


def test_a_threshold_that_nobody_reaches_is_said(world):
    found = explain(combined(world[1], (NEVER, 0.6, -1e30)), world[1])
    assert not figures(found)["scores.png"].axes[0].lines
    rows = explanation_panels(found)[0]["table"]["rows"]
    assert [row[2] for row in rows] == ["never", "0.6000", "always", "-"]
