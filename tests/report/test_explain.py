"""Explanations: every number against a loop over rows, every picture against its data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from synthetic import outputs

import policyopt as po
from policyopt.replay import replay
from policyopt.report.explain import explain
from policyopt.report.explain.explanation import default_reference
from policyopt.report.explain.pictures import figures
from policyopt.report.explain.scores import auroc
from policyopt.table import Tables
from policyopt.trace import trace


@pytest.mark.parametrize("kind", ["plain", "mixture", "combined"])
def test_trace_is_what_step_says(world, kind, combined_policy):
    """Scores, predictions and exits of a trace are those of the loop that is deployed."""
    data, table, policy, _ = world
    if kind == "mixture":
        policy = po.fit(data, "40%", "patience").policy
        assert policy.mixture is not None
    if kind == "combined":
        policy = combined_policy(table)
    found = trace(policy, table)
    key, where = data.rows("test")
    logits = data.splits[key].array("outputs")[where]
    for row in range(60):
        state, left = policy.start(row), None
        for k in range(4):
            decision = policy.step(k, logits[row, k], state)
            assert decision.score == found.scores[row, k]
            assert decision.prediction == found.predictions[row, k]
            if k < 3:
                assert decision.exit == (decision.score >= found.thresholds[row, k])
            left = k if left is None and decision.exit else left
        assert left == found.exit[row]
    assert found.correct is not None
    np.testing.assert_array_equal(found.correct, found.predictions == found.labels[:, None])
    outcome = replay(policy, table)
    np.testing.assert_array_equal(outcome.exit, found.exit)
    np.testing.assert_array_equal(outcome.cost, found.cost)
    np.testing.assert_array_equal(outcome.correct, found.correct_taken)


@pytest.mark.parametrize("kind", ["plain", "combined"])
def test_exits_against_a_loop(world, kind, combined_policy):
    _, table, policy, _ = world
    policy = combined_policy(table) if kind == "combined" else policy
    found = trace(policy, table)
    record = explain(policy, table).record
    for k, told in enumerate(record["exits"]):
        left, stayed, everyone, spent = [], [], [], 0.0
        rescued = overthought = 0
        for row, exit_ in enumerate(found.exit):
            right = bool(found.predictions[row, k] == table.statistics.labels[row])
            final = bool(found.predictions[row, exit_] == table.statistics.labels[row])
            everyone.append(right)
            if exit_ == k:
                left.append(right)
                spent += float(table.mean_costs[k] + policy.overhead[k])
            if exit_ > k:
                stayed.append(right)
                rescued += final and not right
                overthought += right and not final
        assert (told["rows_left"], told["rows_reached"]) == (len(left), len(left) + len(stayed))
        assert told["share_left"] == pytest.approx(len(left) / len(table))
        assert told["accuracy"] == pytest.approx(np.mean(everyone))
        assert told["accuracy_left"] == pytest.approx(np.mean(left))
        assert told["accuracy_stayed"] == (pytest.approx(np.mean(stayed)) if stayed else None)
        assert (told["rescued"], told["overthought"]) == (rescued, overthought)
        assert told["cost_share"] == pytest.approx(spent / found.cost.sum())
        assert told["cost"] == pytest.approx(table.mean_costs[k] + policy.overhead[k])
        assert told["thresholds"] == ([float(policy.thresholds[k])] if k < 3 else [])
    shares = [e["share_left"] for e in record["exits"]]
    assert sum(shares) == pytest.approx(1)
    # The whole is the sum of its parts.
    parts = [e["share_left"] * e["accuracy_left"] for e in record["exits"]]
    assert sum(parts) == pytest.approx(record["accuracy"])
    json.dumps(record, allow_nan=False)


def test_score_groups_against_a_loop(world):
    _, table, policy, _ = world
    found = trace(policy, table)
    for k, told in enumerate(explain(policy, table).record["exits"]):
        for group, gone in (("reached", False), ("gone", True)):
            for name, wanted in (("right", True), ("wrong", False)):
                scores = [
                    found.scores[row, k]
                    for row in range(len(table))
                    if (found.exit[row] < k) == gone and bool(found.correct[row, k]) == wanted
                ]
                part = told["score"][group][name]
                assert part["rows"] == len(scores) == sum(part["counts"])
                if scores:
                    assert part["mean"] == pytest.approx(np.mean(scores))
                    assert part["quantiles"][2] == pytest.approx(np.median(scores))
                else:
                    assert part["mean"] is None and part["quantiles"] is None


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 6, 80).astype(float), rng.random(80) < 0.6
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
    assert auroc(scores, right) == pytest.approx(np.mean(pairs))
    assert auroc(scores, np.ones(80, bool)) is None


def test_classes_against_a_loop(world):
    _, table, policy, _ = world
    found = trace(policy, table)
    told = explain(policy, table).record["classes"]
    assert sum(c["rows"] for c in told) == len(table)
    for record in told:
        rows = np.flatnonzero(table.statistics.labels == record["class"])
        assert record["rows"] == len(rows)
        assert record["cost"] == pytest.approx(found.cost[rows].mean())
        assert record["accuracy"] == pytest.approx(found.correct_taken[rows].mean())
        for k in range(4):
            assert record["exit_share"][k] == pytest.approx((found.exit[rows] == k).mean())
            assert record["accuracy_exits"][k] == pytest.approx(found.correct[rows, k].mean())


def test_changes_against_a_loop(world):
    _, table, policy, rival = world
    new, old = replay(policy, table), replay(rival, table)
    told = explain(policy, table, rival).record["changes"]
    moves = {name: np.zeros((4, 4), int) for name in ("transitions", "better_at", "worse_at")}
    right, wrong = [], []
    for row in range(len(table)):
        at = (old.exit[row], new.exit[row])
        moves["transitions"][at] += 1
        if new.correct[row] > old.correct[row]:
            moves["better_at"][at] += 1
            right.append(row)
        if new.correct[row] < old.correct[row]:
            moves["worse_at"][at] += 1
            wrong.append(row)
    for name, wanted in moves.items():
        np.testing.assert_array_equal(told[name], wanted)
    assert np.sum(told["transitions"]) == len(table)
    assert (told["rows_better"], told["rows_worse"]) == (right, wrong)
    assert len(right) and len(wrong)  # else the test says little
    assert told["better"] + told["worse"] + told["both_right"] + told["both_wrong"] == len(table)
    assert told["earlier"] + told["later"] + told["same_exit"] == len(table)
    gain = (len(right) - len(wrong)) / len(table)
    assert told["accuracy"] - told["reference_accuracy"] == pytest.approx(gain)
    by_class = sum(c["rows"] * (c["accuracy"] - c["reference_accuracy"]) for c in told["classes"])
    assert by_class == pytest.approx(len(right) - len(wrong))


def test_a_policy_against_itself_changes_nothing(world):
    _, table, policy, _ = world
    told = explain(policy, table, policy).record["changes"]
    assert (told["better"], told["worse"], told["same_exit"]) == (0, 0, len(table))
    assert told["mcnemar_p"] == 1.0 and not np.triu(told["transitions"], 1).any()


def test_costs_per_sample():
    logits, labels = outputs(800, exits=3)
    costs = np.cumsum(np.random.default_rng(1).uniform(0.5, 1.5, (800, 3)), axis=1)
    data = po.from_arrays(logits, labels, costs, unit="ms")
    tables = Tables(data)
    policy = po.fit(data, 2.0, "max_prob", tables=tables).policy
    table = tables.get("test")
    record, found = explain(policy, table).record, trace(policy, table)
    for k, told in enumerate(record["exits"]):
        rows = np.flatnonzero(found.exit == k)
        assert told["cost_left"] == pytest.approx(table.costs[rows, k].mean())
    assert record["realised_cost"] == pytest.approx(np.mean(found.cost))


def test_without_labels_only_what_needs_none(world):
    data, _, policy, rival = world
    key, where = data.rows("test")
    bare = po.from_arrays(
        data.splits[key].array("outputs")[where], costs=[1, 2, 4, 8], unit="ms", split={"test": 1.0}
    )
    result = explain(policy, Tables(bare).get("test"), rival)
    record = result.record
    assert (
        record["accuracy"] is None
        and record["classes"] is None
        and "no labels" in record["notes"][0]
    )
    assert record["exits"][0]["accuracy_left"] is None
    assert record["changes"]["better"] is None and record["changes"]["earlier"] >= 0
    assert sum(record["exits"][1]["score"]["reached"]["all"]["counts"]) > 0
    assert "label" not in result.rows_csv().splitlines()[0]
    drawn = figures(result, policy)
    assert sorted(drawn) == ["changes.png", "exits.png", "scores.png"]
    assert len(drawn["exits.png"].axes) == 1
    assert default_reference(policy, Tables(bare))[0] is None


@pytest.mark.parametrize("labelled", [True, False])
def test_records(world, labelled):
    """Records: with labels everything is told; with `correct` alone nothing by class."""
    _, table, _, _ = world
    stats = table.statistics
    known = (
        {"prediction": stats.prediction, "labels": stats.labels}
        if labelled
        else {"correct": stats.correct}
    )
    records = po.from_arrays(
        confidence=stats.confidence, costs=[1, 2, 4, 8], unit="ms", kind="record", **known
    )
    policy = po.fit(records, "50%", "max_prob").policy
    result = explain(policy, Tables(records).get("test"), policy)
    assert result.record["accuracy"] == pytest.approx(po.evaluate(policy, records).correct.mean())
    assert (result.record["classes"] is not None) == labelled
    assert len(result.record["notes"]) == (not labelled)
    assert ("classes.png" in figures(result, policy)) == labelled
