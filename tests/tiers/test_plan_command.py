"""`policyopt plan`: table, JSON, files and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import synthetic

import policyopt as po
from policyopt.tiers.tier_policy import load_tier

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


@pytest.fixture
def place(tmp_path):
    logits, labels = synthetic.outputs(1200, 4, 6)
    np.savez(tmp_path / "a.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2, 4, 8])
    po.import_sources(
        tmp_path / "a.npz", tmp_path / "cache", unit="ms", shares={"fit": 0.5, "test": 0.5}
    )
    (tmp_path / "tiers.toml").write_text(TIERS)
    return tmp_path


def test_plan_writes_what_it_says(run, place):
    out = place / "out"
    command = ("plan", place / "cache", "--tiers", place / "tiers.toml", "--budget", "11")
    code, text, _ = run(*command, "--method", "max_prob", "--out", out, "--format", "json")
    assert code == 0
    report = json.loads(text)
    assert json.loads((out / "plan.json").read_text())["chosen"] == report["chosen"]
    assert report["chosen"]["latency_low"] <= 11 and report["chosen"]["rows"] == 600
    assert report["chosen"]["accuracy"] >= 0.5
    assert (out / "plan.png").stat().st_size > 10_000
    policy = po.load_policy(out / "policy.json")
    assert policy.unit == "ms"
    parts = [load_tier(path) for path in sorted(out.glob("tier-*.json"))]
    assert [k for part in parts for k in part.exits] == list(policy.path)
    assert [part.tier for part in parts] == list(dict.fromkeys(report["chosen"]["tiers"]))
    code, text, _ = run(*command, "--method", "none")
    assert code == 0 and "full model, one" in text and "latency [ms]" in text
    assert run(*command, "--method", "none", "--format", "csv")[1].count("\n") == 4


def test_an_accuracy_at_the_least_energy(run, place):
    command = ("plan", place / "cache", "--tiers", place / "tiers.toml", "--method", "none")
    settings = ("--objective", "energy", "--format", "json", "--limit", "latency:worst=60")
    spent = []
    for floor in ("60%", "0.7"):
        code, text, _ = run(*command, *settings, "--accuracy", floor)
        assert code == 0
        report = json.loads(text)
        assert report["met_on_held_out_fit_rows"]
        spent.append(report["chosen"]["energy"])
        assert report["chosen"]["worst"] > 0
    assert spent[0] <= spent[1]


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [
        (("--budget", "0.001"), 3, "at least"),
        (("--accuracy", "100%"), 3, "at most"),
        ((), 2, "budget or accuracy"),
        (("--budget", "9", "--accuracy", "90%"), 2, "one of the two"),
        (("--accuracy", "much"), 2, "--accuracy"),
        (("--budget", "9", "--objective", "speed"), 2, "objective"),
        (("--budget", "9", "--limit", "latency"), 2, "limit"),
        (("--budget", "9", "--tiers", "nowhere.toml"), 2, "tiers"),
    ],
)
def test_errors_are_one_line(run, place, extra, code, said):
    command = ("plan", place / "cache", "--tiers", place / "tiers.toml", "--method", "none")
    got, _, error = run(*command, *extra)
    assert got == code and said in error and "Traceback" not in error
