"""What is written in the place of something else is told; what is none of ours is left alone."""

from __future__ import annotations

import json
import os

import pytest
from synthetic import cache as in_memory

import policyopt as po

#: Commands that write a folder, and names of what they write there; those in capitals are tables or
#: policies that a user may have made, too.
LINES = {
    "curve CACHE --methods max_prob --budgets 1": ["CURVE.CSV", "curve.png"],
    "compare CACHE --methods max_prob,margin --budgets 1": ["COMPARE.CSV"],
    "calibration CACHE --method max_prob --maps platt": ["calibration.json", "reliability.png"],
    "explain POLICY CACHE": ["explain.json", "ROWS.CSV", "exits.png"],
    "simulate CACHE --rounds 20 --repetitions 1": ["SIMULATION.CSV", "simulation.png"],
    "tune CACHE --method max_prob --trials 1 --budget 2": ["tuned.json", "POLICY.JSON", "study.db"],
    "plan CACHE --tiers TIERS --objective latency": ["plan.json", "POLICY.JSON", "tier-9-x.json"],
    "export POLICY --to python": ["policy.py", "manifest.json"],
    "evaluate POLICY CACHE": [],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    data = in_memory(400)
    path = tmp_path_factory.mktemp("replacing") / "cache"
    pool = data.splits["pool"]
    with po.CacheWriter(path, costs=list(data.costs)) as writer:
        writer.append("pool", pool.array("outputs"), pool.array("labels"))
    return path


@pytest.fixture(scope="module")
def policy(cache):
    path = cache.parent / "p.json"
    po.fit(po.open_cache(cache), 2, "max_prob").save(path)
    return path


@pytest.fixture
def words(cache, policy, root):
    """Fill a line of `LINES`."""
    fill = {"CACHE": cache, "POLICY": policy, "TIERS": root / "docs" / "tiers.toml"}
    return lambda line: [fill.get(word, word) for word in line.split()]


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


@pytest.mark.parametrize("line, names", [i for i in LINES.items() if not i[0].startswith("plan")])
def test_every_command_tells_what_it_replaces(run, words, tmp_path, line, names):
    out = tmp_path / ("out" if names else "out.csv")
    first, second = (run(*words(line), "--out", out) for _ in range(2))
    assert first[0] == second[0] == 0, second[2]
    assert "note: replaced" not in first[2]
    told = [line for line in second[2].splitlines() if line.startswith("note: replaced")]
    assert len(told) == 1 and str(out) in told[0]
    assert all(name.lower() in told[0] for name in names if name != "study.db")


@pytest.mark.parametrize("how", ["a link", "own"])
@pytest.mark.parametrize(
    "line, names", [i for i in LINES.items() if not i[0].startswith(("evaluate", "export"))]
)
def test_results_do_not_go_through_links_or_over_own_files(run, words, tmp_path, line, names, how):
    """A folder from an archive may hold a link named as a result is: what it leads to stays as it was."""
    out, mine = tmp_path / "out", tmp_path / "mine.txt"
    for name in names if how == "a link" else [name for name in names if name.isupper()]:
        result = out / name.lower()
        out.mkdir(exist_ok=True)
        mine.write_text("thesis")
        result.write_text("thesis") if how == "own" else result.symlink_to(mine)
        code, _, err = run(*words(line), "--out", out)
        assert code == 2 and "--out" in err and ("a link" in err) == (how == "a link"), (name, err)
        assert mine.read_text() == result.read_text() == "thesis"
        result.unlink()


def test_no_input_and_no_device_is_taken_for_an_output(run, cache, policy, tmp_path):
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
