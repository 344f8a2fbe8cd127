"""What is written in the place of something else is told; what is none of ours is left alone."""

from __future__ import annotations

import json
import os

import pytest
from synthetic import cache as in_memory

import policyopt as po


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    data = in_memory(400)
    path = tmp_path_factory.mktemp("replacing") / "cache"
    pool = data.splits["pool"]
    with po.CacheWriter(path, costs=list(data.costs)) as writer:
        writer.append("pool", pool.array("outputs"), pool.array("labels"))
    return path


def test_fit_tells_which_policy_it_replaces(run, cache, tmp_path):
    out = tmp_path / "p.json"
    line = ("fit", cache, "--out", out, "--method")
    assert "replaced" not in run(*line, "max_prob", "--budget", 2)[2]
    code, _, err = run(*line, "margin", "--budget", 3, "--format", "json")
    assert code == 0
    unit = po.load_policy(out).unit
    assert f"note: replaced {out}, which held max_prob at 2 {unit}\n" in err
    assert po.load_policy(out).provenance["method"] == "margin"
    content = json.loads(out.read_text())
    content["thresholds"] = "many"
    for held in ("hello", "", json.dumps(content)):
        out.write_text(held)
        code, _, err = run(*line, "max_prob", "--budget", 2)
        if held:
            assert code == 2 and "which is none" in err and out.read_text() == held
        else:  # as mktemp makes it
            assert code == 0 and po.load_policy(out).provenance["method"] == "max_prob"


@pytest.mark.parametrize(
    "line, names",
    [
        ("curve CACHE --methods max_prob --budgets 1 --out OUT", ["curve.csv", "curve.png"]),
        ("compare CACHE --methods max_prob,margin --budgets 1 --out OUT", ["compare.csv"]),
        ("calibration CACHE --maps platt --out OUT", ["calibration.json", "reliability.png"]),
        ("explain POLICY CACHE --out OUT", ["explain.json", "rows.csv", "exits.png"]),
        ("simulate CACHE --rounds 20 --repetitions 1 --out OUT", ["simulation.csv", "simulation.png"]),
        ("tune CACHE --method max_prob --trials 1 --budget 2 --out OUT", ["tuned.json", "policy.json"]),
        ("export POLICY --to python --out OUT", ["policy.py", "manifest.json"]),
        ("evaluate POLICY CACHE --out OUT.csv", []),
    ],
)  # fmt: skip
def test_every_command_tells_what_it_replaces(run, cache, tmp_path, line, names):
    policy, out = tmp_path / "p.json", tmp_path / "out"
    assert run("fit", cache, "--method", "max_prob", "--budget", 2, "--out", policy)[0] == 0
    fill = {"CACHE": cache, "POLICY": policy, "OUT": out, "OUT.csv": tmp_path / "out.csv"}
    words = [fill.get(word, word) for word in line.split()]
    first, second = run(*words), run(*words)
    assert first[0] == second[0] == 0, second[2]
    assert "note: replaced" not in first[2]
    told = [line for line in second[2].splitlines() if line.startswith("note: replaced")]
    assert len(told) == 1 and str(tmp_path / "out") in told[0]
    assert all(name in told[0] for name in names)


LINES = {
    "curve CACHE --methods max_prob --budgets 1": ["curve.csv", "curve.png"],
    "compare CACHE --methods max_prob,margin --budgets 1": ["compare.csv"],
    "calibration CACHE --maps platt": ["calibration.json"],
    "explain POLICY CACHE": ["rows.csv"],
    "simulate CACHE --rounds 20 --repetitions 1": ["simulation.csv"],
    "tune CACHE --method max_prob --trials 1 --budget 2": ["tuned.json", "policy.json", "study.db"],
    "plan CACHE --tiers TIERS --objective latency": ["plan.json", "policy.json", "tier-9-x.json"],
}


@pytest.mark.parametrize("how", ["a link", "own"])
@pytest.mark.parametrize("line, names", LINES.items())
def test_results_do_not_go_through_links_or_over_own_files(
    run, cache, tmp_path, line, names, how, root
):
    """A folder from an archive may hold a link named as a result is: what it leads to stays as it was."""
    policy, out, mine = tmp_path / "p.json", tmp_path / "out", tmp_path / "mine.txt"
    if "POLICY" in line:
        assert run("fit", cache, "--method", "max_prob", "--budget", 2, "--out", policy)[0] == 0
    fill = {"CACHE": cache, "POLICY": policy, "TIERS": root / "docs" / "tiers.toml"}
    words = [*(fill.get(word, word) for word in line.split()), "--out", out]
    for name in names:
        if how == "own" and name not in (
            "curve.csv",
            "compare.csv",
            "rows.csv",
            "simulation.csv",
            "policy.json",
        ):
            continue
        out.mkdir(exist_ok=True)
        mine.write_text("thesis")
        (out / name).write_text("thesis") if how == "own" else (out / name).symlink_to(mine)
        code, _, err = run(*words)
        assert code == 2 and "--out" in err and ("a link" in err) == (how == "a link"), (name, err)
        assert mine.read_text() == (out / name).read_text() == "thesis"
        (out / name).unlink()


def test_no_input_and_no_device_is_taken_for_an_output(run, cache, tmp_path):
    policy = tmp_path / "p.json"
    run("fit", cache, "--method", "max_prob", "--budget", 2, "--out", policy)
    before = policy.read_bytes()
    code, _, err = run("evaluate", policy, cache, "--out", policy)
    assert code == 2 and "a table with row,exit,prediction,cost,correct" in err
    assert policy.read_bytes() == before
    code, _, err = run("fit", cache, "--budget", 2, "--out", cache / "manifest.json")
    assert code == 2 and "a policy to replace" in err
    os.mkfifo(tmp_path / "pipe")
    for line in (("fit", cache, "--budget", 2), ("evaluate", policy, cache)):
        code, _, err = run(*line, "--out", tmp_path / "pipe")
        assert code == 2 and "'--out' must be a file" in err
