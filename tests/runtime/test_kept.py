"""Kept exits: a policy over some of a model's exits is the policy of the model that has only those."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache as once

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import outputs

import policyopt as po
from policyopt._answers.calibrators import fit_confidence
from policyopt._cache.data import Layout
from policyopt._cache.manifest import Manifest, dump, parse
from policyopt._frontier import record
from policyopt._methods.registry import make_method
from policyopt._replay import replay, trace
from policyopt._report.explanation import explain
from policyopt._table import Tables
from policyopt.runtime import ALWAYS, NEVER, InputError, Policy, first_exit
from policyopt.runtime._policy import over_model_exits
from policyopt.runtime._scores import MaxProb

EXITS = 5
ALONE = [1.0, 2.0, 4.0, 3.0, 16.0]
KEPT = st.sets(st.integers(0, EXITS - 1), min_size=2).map(lambda s: tuple(sorted(s)))


ROWS = outputs(600, EXITS, 4, 0)
#: Standalone costs per sample: whole numbers, so that any order of summing is exact.
WHOLE = np.random.default_rng(0).integers(1, 9, (600, EXITS)).astype(float)


@once
def cascade(per_sample=False):
    costs = WHOLE if per_sample else ALONE
    return po.from_arrays(*ROWS, costs, unit="ms", cost_kind="standalone")


@once
def kept_policy(kept, method="optimal_stopping:mix=true"):
    table = Tables(cascade()).get("fit").keep_exits(kept)
    budget = float(table.mean_costs[[0, -1]] @ [0.6, 0.4])
    policy = make_method(method).fit_path(table, [budget])[0].policy
    rule = fit_confidence("isotonic", table.statistics.confidence, table.correct)
    return replace(policy, confidence=rule)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", ["max_prob", "patience", "max_prob:answer=combined"])
@settings(max_examples=6)
@given(kept=KEPT)
def test_as_fitted_on_a_cache_of_those_exits(method, per_sample, kept):
    alone = (WHOLE if per_sample else np.array(ALONE))[..., kept]
    say = {"unit": "ms", "cost_kind": "standalone"}
    own = Tables(po.from_arrays(ROWS[0][:, kept], ROWS[1], alone, **say))
    table = Tables(cascade(per_sample))
    sub = table.get("fit").keep_exits(kept)
    np.testing.assert_array_equal(sub.costs, own.get("fit").costs)
    budget = float(sub.mean_costs[[0, -1]] @ [0.5, 0.5])
    policy = make_method(method).fit_path(sub, [budget])[0].policy
    other = make_method(method).fit_path(own.get("fit"), [budget])[0].policy
    np.testing.assert_array_equal(policy.thresholds, other.thresholds)
    assert policy.path == kept and policy.model_exits == EXITS
    one, two = replay(policy, table.get("test")), replay(other, own.get("test"))
    np.testing.assert_array_equal(one.exit, np.array(kept)[two.exit])
    for name in ("prediction", "cost", "correct"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert len(one.exit_share) == EXITS and not np.delete(one.exit_share, kept).any()
    # A sub-table of just those exits is the same to it.
    np.testing.assert_array_equal(replay(policy, table.get("test").keep_exits(kept)).cost, two.cost)


def test_costs_of_a_cascade_and_of_one_model():
    """A cascade saves what it skips, each sample its own; the costs of one model stay."""
    kept, table = (1, 2, 4), Tables(cascade(per_sample=True)).get("test")
    alone, sub = WHOLE[table.places], table.keep_exits(kept)
    by_hand = np.stack([alone[:, 1], alone[:, 1:3].sum(1), alone[:, [1, 2, 4]].sum(1)], axis=1)
    np.testing.assert_array_equal(sub.costs, by_hand)
    np.testing.assert_array_equal(sub.keep_exits((2, 4)).costs[:, 1], alone[:, [2, 4]].sum(1))
    one = Tables(po.from_arrays(*ROWS, np.cumsum(ALONE), unit="ms"))
    assert not one.get("test").cascade and one.data.fingerprint != cascade().fingerprint
    costs = one.get("test").keep_exits(kept).costs
    np.testing.assert_array_equal(costs, np.cumsum(ALONE)[list(kept)])
    policy = Policy(MaxProb(), [0.9], [2, 23], "ms", "logits", 4, kept=(1, 4), model_exits=EXITS)
    found = replay(policy, table)
    paid = np.where(found.exit == 1, alone[:, 1], alone[:, [1, 4]].sum(1))
    np.testing.assert_array_equal(found.cost, paid)


def test_a_cascade_is_remembered_in_manifests():
    layout = Layout("logits", 0, 4, "float32", cascade().costs)
    assert cascade().cost().cascade and parse(dump(Manifest(layout))).layout.costs[0].cascade
    text = dump(Manifest(replace(layout, costs=(po.Cost("c", "ms", (1, 2)),), exits=2)))
    assert b"cascade" not in text and not parse(text).layout.costs[0].cascade
    with pytest.raises(InputError, match=r"costs\.cascade"):
        parse(dump(Manifest(layout)).replace(b'"cascade": true', b'"cascade": 1'))


@given(kept=KEPT)
def test_thresholds_over_the_models_exits_lead_to_the_same_exits(kept):
    scores = np.random.default_rng(len(kept)).random((50, EXITS))
    thresholds = np.random.default_rng(kept[0]).random(len(kept) - 1)
    whole = over_model_exits(thresholds, kept, EXITS)
    assert len(whole) == EXITS - 1
    assert all(whole[k] == NEVER for k in range(EXITS - 1) if k not in kept)
    taken = np.array(kept)[first_exit(scores[:, kept], thresholds)]
    np.testing.assert_array_equal(first_exit(scores, whole), taken)


@pytest.mark.parametrize(
    ("kept", "of", "name"),
    [
        ((0, 5), 5, "kept"), ((2, 0), 5, "kept"), ((1, 1), 5, "kept"), ((0, 1, 2), 5, "kept"),
        ((), 5, "kept"), (("0", "1"), 5, "kept"), ((True, 2), 5, "kept"), ((0, 1.0), 5, "kept"),
        (3, 5, "kept"), (None, 5, "kept"), ((0, 1), 10**9, "model_exits"),
        ((0, 1), -2, "model_exits"), ((0, 1), 1, "model_exits"), ((0, 1), True, "model_exits"),
    ],
)  # fmt: skip
def test_kept_exits_are_refused_by_name(kept, of, name):
    with pytest.raises(InputError, match=f"'{name}'"):
        Policy(MaxProb(), [0.5], [1, 2], "ms", "logits", 4, kept=kept, model_exits=of)


def test_wrong_exits_and_outputs_are_named():
    policy, table = kept_policy((1, 3, 4)), Tables(cascade()).get("test")
    logits, state, other = ROWS[0], policy.start(), table.keep_exits((0, 3))
    policy.step(1, logits[0, 1], state)
    two = Policy(MaxProb(), [0.5], [1, 2], "ms", "logits", 4, kept=[0, 1])
    assert two.kept is None and two.path == (0, 1)
    for says, wrong in (
        (r"the next exit, 1, of 1, 3, 4. Got 0", lambda: policy.step(0, logits[0, 0], policy.start())),
        ("the next exit, 3", lambda: policy.step(2, logits[0, 2], state)),
        ("5 exits", lambda: policy.decide(logits[:, [1, 3, 4]])),
        ("'outputs' must be an array, or one entry per exit", lambda: policy.decide(None)),
        ("'outputs' must be an array, or one entry per exit", lambda: policy.decide(5)),
        ("kept", lambda: table.keep_exits((1, 3)).keep_exits((2,))), ("kept", lambda: trace(policy, other)),
        ("exits of the cache", lambda: trace(two, other)),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            wrong()


def test_reports_speak_of_the_models_exits():
    """Last kept exit is not the model's last; every report counts over the same rows."""
    table, kept = Tables(cascade()).get("test"), (1, 3)
    method = make_method("max_prob")
    sub = Tables(cascade()).get("fit").keep_exits(kept)
    fitted = method.fit_path(sub, [float(sub.mean_costs.mean())])[0]
    told = record("max_prob", fitted, table, 0)
    assert len(told["exit_share"]) == EXITS
    assert told["thresholds"] == [NEVER, float(fitted.policy.thresholds[0]), NEVER, ALWAYS]
    reference = method.fit_path(Tables(cascade()).get("fit"), [9.0])[0].policy
    explained = explain(fitted.policy, table, reference).record
    exits = explained["exits"]
    assert [e["exit"] for e in exits] == [1, 3]
    assert [e["share_left"] for e in exits] == [told["exit_share"][k] for k in kept]
    assert exits[0]["cost"] == ALONE[1] and exits[1]["cost"] == ALONE[1] + ALONE[3]
    moves = np.array(explained["changes"]["transitions"])
    assert moves.shape == (EXITS, EXITS) and moves.sum() == len(table)
    assert not np.delete(moves, kept, axis=1).any()
    assert np.isclose(explained["realised_cost"], told["realised_cost"])


def test_the_command_line_takes_policies_of_kept_exits(tmp_path, run):
    source, place, policy = tmp_path / "a.npz", tmp_path / "cache", tmp_path / "p.json"
    np.savez(source, logits=ROWS[0], labels=ROWS[1], costs=ALONE)
    kept_policy((1, 2)).save(policy)
    said = []
    for command in (
        ("import", source, "--out", place, "--unit", "ms", "--cost-kind", "standalone"),
        ("run", policy, source), ("explain", policy, place, "--out", tmp_path / "explained"),
        ("evaluate", policy, place, "--format", "json"), ("run", policy, source, "--format", "json"),
        ("calibration", place, "--policy", policy, "--maps", "none,platt", "--format", "json"),
    ):  # fmt: skip
        code, out, error = run(*command)
        assert code == 0, error
        said.append(out)
    evaluated, ran, calibrated = map(json.loads, said[3:])
    shares = evaluated[0]["exit_share"]
    assert len(shares) == EXITS and shares[0] == shares[3] == shares[4] == 0
    assert {line["exit"] for line in ran} <= {1, 2}
    assert {r["exit"] for r in calibrated["records"]} == {1, 2}
