"""The command line end to end: every command, formats, exit codes, and what is written."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from synthetic import outputs

from policyopt.runtime import load_policy


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of one pool, imported by the command line from an npz."""
    folder = tmp_path_factory.mktemp("cli")
    logits, labels = outputs(3000, exits=4)
    np.savez(
        folder / "logits.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2, 4, 8]
    )
    command = [
        sys.executable,
        "-m",
        "policyopt",
        "import",
        folder / "logits.npz",
        "--out",
        folder / "c",
        "--unit",
        "ms",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "divided 50:50" in done.stderr
    return folder / "c"


def test_info(run, cache):
    code, out, _ = run("info", cache, "--format", "json")
    content = json.loads(out)
    assert code == 0
    assert (content["exits"], content["classes"], content["pooled"]) == (4, 6, True)
    assert [s["split"] for s in content["splits"]] == ["fit", "test"]
    assert content["costs"][0]["cumulative_mean"] == [1, 2, 4, 8]
    assert "exit 3" in run("info", cache)[1]


def test_methods(run):
    code, out, _ = run("methods", "--format", "json")
    rows = {row["method"]: row for row in json.loads(out)}
    assert code == 0 and rows["margin"]["needs"] == ["top_prob"]
    assert rows["max_prob"]["settings"]["thresholds"] == "geometric"
    for row in rows.values():
        assert row["supports"].keys() == {"online", "records"} and row["wins"] and row["paper"]
    assert "EACL 2021" in run("methods", "berxit")[1]
    code, out, _ = run("methods", "confidence", "--format", "json")
    assert {row["method"] for row in json.loads(out)} == {"max_prob", "entropy", "margin"}
    code, _, err = run("methods", "magic")
    assert code == 2 and "a family (confidence" in err


def test_fit_without_labels(run, tmp_path):
    """Quotas of a static score need none; what needs them says so."""
    from synthetic import outputs

    np.savez(tmp_path / "o.npz", logits=outputs(200)[0].swapaxes(0, 1))
    folder = tmp_path / "unlabelled"
    split = ("--split", "fit=0.5,test=0.5")
    assert run("import", tmp_path / "o.npz", "--out", folder, "--costs", "1,2,4,8", *split)[0] == 0
    fit = ("fit", folder, "--budget", "40%", "--out", tmp_path / "p.json", "--format", "json")
    code, out, err = run(*fit, "--method", "max_prob")
    assert code == 0, err
    assert json.loads(out)[0]["fit_accuracy"] is None
    code, _, err = run(*fit, "--method", "optimal_stopping")
    assert code == 2 and "labels" in err


def test_fit_evaluate_run_agree(run, cache, tmp_path):
    """One artifact: `evaluate`, `run` and numpy alone give the same exits."""
    policy = tmp_path / "policy.json"
    code, out, _ = run(
        "fit", cache, "--budget", "40%", "--method", "max_prob", "--out", policy, "--format", "json"
    )
    (fitted,) = json.loads(out)
    assert code == 0 and fitted["budget"] == pytest.approx(3.2)
    assert fitted["expected_cost_low"] < 3.2 < fitted["expected_cost_high"]
    rows = tmp_path / "rows.csv"
    code, out, _ = run("evaluate", policy, cache, "--out", rows, "--format", "json")
    (found,) = json.loads(out)
    assert fitted["expected_cost_low"] <= found["realised_cost_high"]
    assert found["realised_cost_low"] <= fitted["expected_cost_high"]
    assert json.loads(policy.read_text())["provenance"]["expected_cost_95"] == [
        fitted["expected_cost_low"],
        fitted["expected_cost_high"],
    ]
    written = list(csv.DictReader(io.StringIO(rows.read_text())))
    assert np.mean([float(r["cost"]) for r in written]) == pytest.approx(found["realised_cost"])

    from policyopt import open_cache

    data = open_cache(cache)
    key, where = data.rows("test")
    logits = data.splits[key].array("outputs")[where]
    np.savez(tmp_path / "new.npz", logits=np.swapaxes(logits, 0, 1))
    code, out, _ = run("run", policy, tmp_path / "new.npz", "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(out)))
    assert [r["exit"] for r in lines] == [r["exit"] for r in written]
    assert [r["prediction"] for r in lines] == [r["prediction"] for r in written]
    exits = load_policy(policy).decide(logits).exit
    assert [int(r["exit"]) for r in written] == exits.tolist()


def test_curve_writes_what_it_prints(run, cache, tmp_path):
    code, out, _ = run(
        "curve", cache, "--methods", "max_prob,patience", "--budgets", "2.0,50%", "--seeds", 2, "--out", tmp_path,
        "--format", "json",
    )  # fmt: skip
    records = json.loads(out)
    assert code == 0 and len(records) == 2 * 2 * 2
    wanted = {
        "method", "budget", "realised_cost", "realised_cost_low", "realised_cost_high", "accuracy",
        "accuracy_low", "accuracy_high", "exit_share", "thresholds", "seed",
    }  # fmt: skip
    for record in records:
        assert wanted <= record.keys()
        assert (
            record["realised_cost_low"] <= record["realised_cost"] <= record["realised_cost_high"]
        )
        assert record["accuracy_low"] <= record["accuracy"] <= record["accuracy_high"]
        assert sum(record["exit_share"]) == pytest.approx(1) and len(record["exit_share"]) == 4
        if record["method"] == "max_prob":
            assert len(record["thresholds"]) == 3 and record["mixture"] is None
        else:
            assert record["thresholds"] is None and len(record["mixture"]["thresholds"]) == 2
    assert {r["budget"] for r in records} == {2.0, 4.0}
    assert len(list(csv.DictReader(io.StringIO((tmp_path / "curve.csv").read_text())))) == len(
        records
    )
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_nine_budgets_stand_at_even_positions(run, cache):
    _, out, _ = run("curve", cache, "--methods", "always", "--budgets", "9", "--format", "csv")
    budgets = [float(r["budget"]) for r in csv.DictReader(io.StringIO(out))]
    np.testing.assert_allclose(budgets, np.interp(np.arange(1, 10) * 0.3, range(4), [1, 2, 4, 8]))


def test_settings_bounds_and_joint(run, cache):
    code, out, _ = run(
        "curve", cache, "--methods", "max_prob,patience", "--set", "thresholds=joint", "--budgets", 3, "--bounds",
        "--format", "json",
    )  # fmt: skip
    records = json.loads(out)
    assert code == 0
    bound = [r for r in records if r["method"] == "oracle"]
    assert [r["deployable"] for r in bound] == [False] * 3
    assert all(
        records[0].keys() - r.keys()
        <= {
            "expected_cost",
            "rows",
            "effective_rows",
            "expected_cost_low",
            "expected_cost_high",
        }
        for r in bound
    )
    assert "hindsight (not deployable)" in run("curve", cache, "--methods", "always", "--bounds")[1]


@pytest.mark.parametrize("seeds", [1, 3])
def test_compare_prints_and_writes_the_same_rows(run, cache, tmp_path, seeds):
    """What the table says over all seeds is in CSV and JSON too, marked: its seed is none."""
    line = ["compare", cache, "--methods", "random,max_prob", "--budgets", 2, "--seeds", seeds]
    rows = json.loads(run(*line, "--format", "json")[1])
    printed = run(*line, "--format", "csv", "--out", tmp_path)[1]
    assert (tmp_path / "compare.csv").read_text() == printed
    for row, text in zip(rows, csv.DictReader(io.StringIO(printed)), strict=True):
        assert {k: "" if v is None else str(v) for k, v in row.items()} == {k: text[k] for k in row}
    single = [row for row in rows if row["seed"] is not None]
    whole = [row for row in rows if row["seed"] is None] if seeds > 1 else single
    assert len(single) == 3 * seeds and len(whole) == 3
    table = run(*line)[1]
    for row in whole:
        name, digits = ("area", 3) if row["budget"] is None else ("difference", 2)
        mine = [r for r in single if r["budget"] == row["budget"]]
        for end in ("", "_low", "_high"):
            assert row[name + end] == pytest.approx(np.mean([r[name + end] for r in mine]))
            assert f"{100 * row[name + end]:+.{digits}f}" in table
    if seeds > 1:
        areas = [r["area"] for r in single if r["budget"] is None]
        assert whole[-1]["area_sd"] == pytest.approx(np.std(areas, ddof=1))


def test_compare(run, cache, tmp_path):
    code, out, _ = run(
        "compare", cache, "--methods", "random,max_prob", "--budgets", 3, "--seeds", 2, "--format", "json",
        "--out", tmp_path,
    )  # fmt: skip
    records = json.loads(out)
    assert code == 0
    points = [r for r in records if r["budget"] is not None and r["seed"] is not None]
    assert len(points) == 6 and all(r["reference"] == "random" for r in points)
    assert all(r["difference"] > 0 for r in points)
    assert sum(r["difference_low"] > 0 and r["mcnemar_p"] < 0.05 for r in points) >= 3
    assert all(r["area_low"] > 0 for r in records if r["budget"] is None)
    assert (
        "at equal realised cost"
        in run("compare", cache, "--methods", "random,max_prob", "--budgets", 2)[1]
    )


def test_a_budget_that_cannot_be_met_is_exit_code_3(run, cache, tmp_path):
    for budget in ("0.5", "9", "5%", "200%"):
        code, out, err = run("fit", cache, "--budget", budget, "--out", tmp_path / "p.json")
        assert code == 3 and not out and "[1, 8] ms" in err and err.startswith("error: 'budget'")
    assert not (tmp_path / "p.json").exists()


def test_debug_shows_the_traceback_and_the_same_code(run, cache):
    code, _, err = run("fit", cache, "--budget", "9", "--debug")
    assert code == 3 and "Traceback" in err
    assert "Traceback" not in run("fit", cache, "--budget", "9")[2]


def test_missing_extra_is_named():
    """With numpy alone the command line says which extra to install."""
    code = """
import sys
class Ban:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("scipy", "typer", "rich", "safetensors", "sklearn"):
            raise ModuleNotFoundError("banned", name=name.partition(".")[0])
sys.meta_path.insert(0, Ban())
sys.argv = ["policyopt", "info", "x"]
from policyopt.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error:") and "policyopt[fit]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_is_no_option_of_the_fit(run, cache, tmp_path):
    """Settings of any name reach the method's own check."""
    fit = ("fit", cache, "--budget", "40%", "--out", tmp_path / "p.json")
    for method in ((), ("--method", "subset")):
        for name in ("method", "seed", "tables"):
            code, _, err = run(*fit, *method, "--set", f"{name}=1")
            assert code == 2 and "setting" in err and name in err, err
    code, _, err = run(*fit, "--method", "subset", "--set", "inner=nope")
    assert code == 2 and "nope" in err


def test_long_work_is_foretold(run, cache):
    """By method, rows and seeds, before it begins; what is quick is not."""
    pytest.importorskip("torch")
    line = ["curve", cache, "--budgets", 1, "--methods", "margin,dqn:steps=1", "--seeds"]
    code, _, err = run(*line, 9)
    assert code == 0
    told = re.match(r"note: about (\d+) s of processor time: dqn:steps=1 (\d+) s, margin", err)
    assert 20 <= int(told[2]) <= int(told[1]) <= 100
    assert "about" not in run(*line, 1)[2]
