"""`policyopt plan`: table, JSON, files and errors."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import synthetic

import policyopt as po

TIERS = """
[model]
input_bytes = 200
cut_bytes = [4000, 4000, 4000]
answer_bytes = 8
[[tier]]
name = "device"
ms_per_unit = 4
watts = 2
[[tier]]
name = "cloud"
ms_per_unit = 0.1
price_per_hour = 3
[[link]]
megabits_per_second = 20
round_trip_ms = 12
mJ_per_kB = 5
"""


HALVES = {"fit": 0.5, "test": 0.5}


@pytest.fixture
def place(tmp_path):
    logits, labels = synthetic.outputs(1200, 4, 6)
    np.savez(tmp_path / "a.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2, 4, 8])
    po.import_sources(tmp_path / "a.npz", tmp_path / "cache", unit="ms", shares=HALVES)
    (tmp_path / "tiers.toml").write_text(TIERS)
    return tmp_path


def planned(run, place, *more):
    command = ("plan", place / "cache", "--tiers", place / "tiers.toml", "--method", "none")
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
    assert policy.unit == "ms"
    parts = [po.load_tier(path) for path in sorted(out.glob("tier-*.json"))]
    assert [k for part in parts for k in part.exits] == list(policy.path)
    assert [part.tier for part in parts] == list(dict.fromkeys(report["chosen"]["tiers"]))
    code, text, _ = planned(run, place, "--budget", "11")
    assert code == 0 and "full model, one" in text and "latency [ms]" in text


def test_an_accuracy_at_the_least_energy(run, place):
    settings = ("--objective", "energy", "--format", "json", "--limit", "latency:worst=60")
    found = [json.loads(planned(run, place, *settings, "--accuracy", f)[1]) for f in ("60%", "0.7")]
    assert all(one["met_on_held_out_fit_rows"] and one["chosen"]["worst"] > 0 for one in found)
    assert found[0]["chosen"]["energy"] <= found[1]["chosen"]["energy"]


def test_no_threshold_is_a_score_and_exports_decide_alike(run, place):
    """The last bit of a score computed elsewhere must not turn a decision on the rows of the fit."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    pytest.importorskip("onnxruntime")
    out, folder = place / "out", place / "exported"
    assert planned(run, place, "--accuracy", "70%", "--out", out)[0] == 0
    policy, data = po.load_policy(out / "policy.json"), po.open_cache(place / "cache")
    key, rows = data.rows("fit")
    scores = policy.trace(data.splits[key].array("outputs")[rows]).scores[:, :-1]
    away = np.abs(scores - policy.thresholds).min()
    assert away > 64 * 2.0**-23  # what exports may differ by
    shares = (scores >= policy.thresholds).mean(axis=0)
    assert ((shares > 0) & (shares < 1)).any()  # thresholds that divide the rows
    export = ("export", out / "policy.json", "--to", "python,onnx,c", "--out", folder)
    assert run(*export, "--cache", place / "cache", "--split", "fit", "--rows", "600")[0] == 0
    code, text, error = run("verify", folder)
    assert code == 0, error
    assert "onnx" in text and " c " in text and "python" in text


def test_a_floor_with_confidence(run, place):
    asked = ("--format", "json", "--accuracy", "60%")
    code, text, said = planned(run, place, *asked)
    mean = json.loads(text)
    assert code == 0 and "kept in the mean" in said and "in two folds: accuracy" in said
    held = mean["on_held_out_fit_rows"]
    assert held["accuracy_low"] < held["accuracy"] < held["accuracy_high"] and held["rows"] == 600
    code, text, said = planned(run, place, *asked, "--confidence", "95%")
    sure = json.loads(text)
    assert code == 0 and "with 95.00 % confidence: accuracy at least" in said
    assert "in the mean" not in said and sure["confidence"] == 0.95
    held = sure["on_held_out_fit_rows"]
    assert held["accuracy_low"] >= 0.6 and held["rows"] + held["fitted_rows"] == 600
    assert sure["chosen"]["latency"] >= mean["chosen"]["latency"]


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [
        ("--budget 0.001", 3, "at least"), ("--accuracy 100%", 3, "at most"), ("", 2, "budget or accuracy"),
        ("--accuracy 85% --confidence 99.9999%", 3, "at most"), ("--budget 9 --confidence 40%", 2, "at least 50%"),
        ("--budget 9 --confidence 100%", 2, "below 100%"), ("--budget 9 --confidence very", 2, "--confidence"),
        ("--budget 500 --limit latency:worst=0.0001", 3, "latency:worst=0.0001"),
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


def test_tiers_of_an_older_plan_go(run, place):
    out = place / "out"
    out.mkdir()
    for name in ("tier-7-moon.json", "tier-8-mine.json", "tier-9-ours.json"):
        (out / name).write_text("{}")
    empty = hashlib.sha256(b"{}").hexdigest()
    files = {"policy.json": "", "tier-7-moon.json": empty, "tier-9-ours.json": "another"}
    (out / "plan.json").write_text(json.dumps({"files": files}))
    assert planned(run, place, "--budget", "500", "--out", out)[0] == 0
    assert not (out / "tier-7-moon.json").exists()
    assert (out / "tier-8-mine.json").exists()  # no plan named it
    assert (out / "tier-9-ours.json").exists()  # a plan named it, but did not write it so
