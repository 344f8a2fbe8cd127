"""The command line end to end: every command, formats, exit codes, what is written and what is replaced."""

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from keyword import iskeyword
from pathlib import Path

import numpy as np
import pytest
from rules import artifact, experts, policies, policy
from synthetic import outputs

import policyopt as po
from policyopt._cli.app import COMMANDS
from policyopt._cli.fit import foretell
from policyopt._cli.options import usual_budget
from policyopt._costs import parse_budget
from policyopt._methods.registry import make_method
from policyopt.runtime import ALWAYS, NEVER, load_policy
from policyopt.runtime._thresholds import scale_text, threshold_text


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of one pool, imported by the command line from an npz."""
    folder = tmp_path_factory.mktemp("cli")
    logits, labels = outputs(3000, exits=4)
    arrays = {"logits": logits.swapaxes(0, 1), "labels": labels, "costs": [1.0, 2, 4, 8]}
    np.savez(folder / "logits.npz", **arrays)
    start = [sys.executable, "-m", "policyopt", "import", folder / "logits.npz", "--unit", "ms"]
    done = subprocess.run([*start, "--out", folder / "c"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "divided 50:50" in done.stderr
    return folder / "c"


@pytest.fixture(scope="module")
def fixed(cache):
    path = cache.parent / "p.json"
    po.fit(po.open_cache(cache), 2, "max_prob").save(path)
    return path


def records(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_commands_are_listed_as_they_say_of_themselves(run):
    listed = run("--help")[1]
    for name, (module, text) in COMMANDS.items():
        function = name.replace("-", "_") + "_" * iskeyword(name)
        command = getattr(import_module(f"policyopt._cli.{module}"), function)
        assert re.match(re.escape(text) + "[.:;,]", command.__doc__), name
        assert re.search(rf"^  {name} +{re.escape(text)}\.$", listed, re.M), name
        code, out, _ = run(name, "--help")
        assert code == 0 and text in " ".join(out.split())
    assert max(map(len, listed.splitlines())) <= 80


def program(text, *words):
    command = [sys.executable, "-c", f"import sys\n{text}", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "line", ["--help", "info CACHE", "import NPZ --out OUT", "evaluate POLICY CACHE", "fit --help"]
)
def test_what_is_quick_loads_nothing_heavy(cache, fixed, tmp_path, line):
    heavy = {"sklearn", "pandas", "matplotlib", "torch", "optuna", "pyarrow", "onnx"}
    heavy |= {"scipy"} if "fit" not in line else set()
    heavy |= {"policyopt._methods"} if "fit" not in line and "evaluate" not in line else set()
    text = (
        "from policyopt._cli import main\ntry: main()\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    fill = {"CACHE": cache, "POLICY": fixed, "NPZ": cache.parent / "logits.npz", "OUT": tmp_path}
    done = program(text, *(fill.get(word, word) for word in line.split()))
    assert done.stdout and not heavy & set(done.stderr.split())


@pytest.mark.parametrize("absent", [["scipy", "typer", "rich", "safetensors", "sklearn"], ["scipy"]])  # fmt: skip
def test_missing_extra_is_named(cache, absent):
    """With numpy alone, or without one of its packages, the command line says which extra to install."""
    text = f"sys.modules.update(dict.fromkeys({absent}))\nfrom policyopt._cli import main\nmain()"
    done = program(text, "curve", cache, "--methods", "optimal_stopping")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error:") and "policyopt[fit]" in done.stderr


def test_the_budget_to_begin_with_can_be_met():
    assert usual_budget(np.array([1.0, 9.0])) == "40%"
    assert usual_budget(np.array([5.0, 10.0])) == "75%"


def test_debug_shows_where_an_error_came_from(run, cache):
    for line in (("--debug", "fit", cache), ("fit", cache, "--debug")):
        code, _, err = run(*line, "--budget", 9)
        assert code == 3 and "Traceback" in err


def test_long_work_is_foretold(run, cache, capsys, monkeypatch):
    foretell(["margin", "dqn:steps=1"], 1500, 1, seeds=9)
    err = capsys.readouterr().err
    told = re.match(r"note: about (\d+) s of processor time: dqn:steps=1 (\d+) s, margin", err)
    assert 20 <= int(told[2]) <= int(told[1]) <= 100
    line = ["curve", cache, "--budgets", 1, "--methods", "margin"]
    assert "about" not in run(*line)[2]
    monkeypatch.setattr("policyopt._cli.fit._LONG", 0.1)
    assert run(*line)[2].startswith("note: about 0 s of processor time: margin 0 s")


def test_info(run, cache):
    code, out, _ = run("info", cache, "--format", "json")
    content = json.loads(out)
    assert (code, content["exits"], content["classes"], content["pooled"]) == (0, 4, 6, True)
    assert [s["split"] for s in content["splits"]] == ["fit", "test"]
    assert content["costs"][0]["cumulative_mean"] == [1, 2, 4, 8]
    assert "exit 3" in run("info", cache)[1] and "metadata: {" in run("info", cache)[1]
    told = {0.5: "0.5000", 0.999998: "0.9999980", 1e-6: "1e-06", NEVER: "never", ALWAYS: "always"}
    told |= {-np.inf: "always", 1e12: "1e+12", 0: "0.0000"}
    assert {t: threshold_text(t) for t in told} == told
    fitted = po.fit(po.open_cache(cache), "50%", "optimal_stopping")
    assert "0: going on is not worth its cost" in scale_text(fitted.policy)
    told = run("info", cache, columns="60")[1]
    lines = [line for line in told.splitlines() if "metadata" not in line]
    assert max(map(len, lines)) <= 60


def test_methods(run):
    code, out, _ = run("methods", "--format", "json")
    rows = {row["method"]: row for row in json.loads(out)}
    assert code == 0 and rows["margin"]["needs"] == ["top_prob"]
    assert rows["max_prob"]["settings"]["thresholds"] == "geometric"
    for row in rows.values():
        assert row["supports"].keys() == {"online", "summaries"} and row["wins"] and row["paper"]
        assert {one["setting"]: one["default"] for one in row["explained"]} == row["settings"]
    online = json.loads(run("methods", "online", "--format", "json")[1])
    for one in (one for row in [*rows.values(), *online] for one in row["explained"]):
        assert one["what"] and one["allowed"], one
        listed = re.fullmatch(r"\w+(, \w+)+", one["allowed"]) and one["default"] is not None
        assert not listed or str(one["default"]).lower() in one["allowed"].split(", "), one
    out = run("methods", "vote")[1]
    assert re.search(r"ties +none +coin, kept +Equal shares are told apart by a coin", out)
    with pytest.raises(po.InputError, match=r"'ties' must be one of coin, kept\. Got 3"):
        make_method("vote:ties=3")
    assert "EACL 2021" in run("methods", "berxit")[1]
    code, out, _ = run("methods", "confidence", "--format", "json")
    assert {row["method"] for row in json.loads(out)} == {"max_prob", "entropy", "margin"}
    code, _, err = run("methods", "magic")
    assert code == 2 and "a family (confidence" in err


def test_a_policy_file_tells_its_provenance(run, tmp_path):
    policies()["mixture of two scores"].save(tmp_path / "p.json")
    code, out, err = run("info", tmp_path / "p.json", "--format", "json")
    told = json.loads(out)
    assert (code, err) == (0, "") and told["provenance"]["versions"] == {"policyopt": "0.1.0"}
    assert (told["score"], told["share of the mixture"]) == ("margin", 0.25)
    code, out, _ = run("info", tmp_path / "p.json", "--format", "csv")
    assert code == 0 and "provenance.versions.policyopt,0.1.0" in out
    experts().save(tmp_path / "e.json")
    code, out, _ = run("info", tmp_path / "e.json")
    assert code == 0 and "experts.blur.score" in out
    (tmp_path / "p.json").write_text(json.dumps({**artifact(policy()), "unit": "s"}))
    code, out, err = run("info", tmp_path / "p.json")
    assert (code, out) == (2, "") and "checksum" in err


def test_odd_provenance_ends_nothing(run, cache, fixed, tmp_path):
    for odd in (3, "x", None, [], {"method": 3}, {"a": {}}):
        told = dict.fromkeys(("method", "budget", "chosen"), odd)
        replace(load_policy(fixed), provenance=told).save(tmp_path / "p.json")
        for style in ("table", "json", "csv"):
            code, out, err = run("evaluate", tmp_path / "p.json", cache, "--format", style)
            assert code == 0 and out, err
            assert run("info", tmp_path / "p.json", "--format", style)[0] == 0


def test_rows_without_labels(run, cache, tmp_path):
    """Quotas of a static score need none; what `explain` can say without is said."""
    folder, path = tmp_path / "unlabelled", tmp_path / "p.json"
    np.savez(tmp_path / "o.npz", logits=outputs(200)[0].swapaxes(0, 1))
    line = ("import", tmp_path / "o.npz", "--out", folder, "--costs", "1,2,4,8", "--unit", "ms")
    assert run(*line)[0] == 0
    fit = ("fit", folder, "--budget", "40%", "--method", "max_prob", "--out", path)
    code, out, err = run(*fit, "--format", "json")
    assert code == 0 and json.loads(out)[0]["expected_accuracy"] is None, err
    po.fit(po.open_cache(cache), "60%", "patience").save(path)
    code, out, err = run("explain", path, folder, "--out", tmp_path)
    assert code == 0 and "no labels" in err and "overthought" not in out and " or " in out
    assert not (tmp_path / "classes.png").exists() and (tmp_path / "scores.png").exists()


def test_fit_evaluate_run_agree(run, cache, tmp_path):
    """One artifact: `evaluate`, `run` and numpy alone give the same exits."""
    path, rows = tmp_path / "policy.json", tmp_path / "rows.csv"
    fit = ("fit", cache, "--budget", "40%", "--method", "max_prob", "--calibrator", "platt")
    code, out, err = run(*fit, "--out", path, "--format", "json")
    (fitted,) = json.loads(out)
    assert code == 0 and fitted["budget"] == pytest.approx(3.2)
    assert "calibrated by platt" in err and load_policy(path).calibrator.name == "platt"
    assert fitted["expected_cost_low"] < 3.2 < fitted["expected_cost_high"]
    assert fitted["expected_accuracy"] == load_policy(path).provenance["expected_quality"]
    code, out, _ = run("evaluate", path, cache, "--out", rows, "--format", "json")
    (found,) = json.loads(out)
    assert fitted["expected_cost_low"] <= found["realised_cost_high"]
    assert found["realised_cost_low"] <= fitted["expected_cost_high"]
    stated = json.loads(path.read_text())["provenance"]["expected_cost_95"]
    assert stated == [fitted["expected_cost_low"], fitted["expected_cost_high"]]
    written = records(rows.read_text())
    assert np.mean([float(r["cost"]) for r in written]) == pytest.approx(found["realised_cost"])
    data = po.open_cache(cache)
    key, where = data.rows("test")
    logits = data.splits[key].array("outputs")[where]
    np.savez(tmp_path / "new.npz", logits=np.swapaxes(logits, 0, 1))
    lines = records(run("run", path, tmp_path / "new.npz", "--format", "csv")[1])
    for name in ("exit", "prediction"):
        assert [r[name] for r in lines] == [r[name] for r in written]
    assert [int(r["exit"]) for r in written] == load_policy(path).decide(logits).exit.tolist()


def test_names_and_notes_of_export(run, fixed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    code, said, noted = run("export", fixed, "--to", "c,python", "--name", "easy", "--out", out)
    assert code == 0 and "wrote" in said and not noted
    text = (out / "easy.h").read_text()
    assert "easy_step(" in text and "EASY_EXITS" in text and "policyopt_policy" not in text
    assert run("verify", out)[0] == 0
    code, _, noted = run("export", fixed, "--to", "python", "--rows", "9999999", "--out", out)
    assert code == 0 and f"note: replaced {out}" in noted and "golden rows of 9,999,999" in noted
    assert not (out / "easy.h").exists() and f"note: removed from {out}: easy.h" in noted
    monkeypatch.setattr("policyopt._export.bundle.find_spec", lambda name: None)
    code, said, noted = run("export", fixed, "--out", out)
    assert code == 0 and "no ONNX graphs" in noted and "onnx" not in said


def test_curve_writes_what_it_prints(run, cache, tmp_path):
    line = ["curve", cache, "--methods", "max_prob,patience", "--budgets", "2.0,50%", "--seeds", 2]
    code, out, _ = run(*line, "--out", tmp_path, "--format", "json")
    found = json.loads(out)
    assert code == 0 and len(found) == 2 * 2 * 2
    for record in found:
        for name in ("realised_cost", "accuracy"):
            assert record[f"{name}_low"] <= record[name] <= record[f"{name}_high"]
        assert sum(record["exit_share"]) == pytest.approx(1) and len(record["exit_share"]) == 4
        if record["method"] == "max_prob":
            assert len(record["thresholds"]) == 3 and record["mixture"] is None
        else:
            assert record["thresholds"] is None and len(record["mixture"]["thresholds"]) == 2
    assert {r["budget"] for r in found} == {2.0, 4.0} and {r["seed"] for r in found} == {0, 1}
    assert len(records((tmp_path / "curve.csv").read_text())) == len(found)
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_the_glossary_has_the_words_of_tables_and_records(run, cache, root, tmp_path):
    line = ("--format", "json", "--out")
    (fitted,) = json.loads(
        run("fit", cache, "--budget", "50%", "--abstain", "5%", *line, tmp_path / "p.json")[1]
    )
    made = run(
        "curve",
        cache,
        "--methods",
        "max_prob",
        "--abstain",
        "5%",
        "--budgets",
        "1",
        *line,
        tmp_path / "c",
    )
    compared = load_policy(tmp_path / "p.json").provenance["compared"]
    told = (root / "docs" / "glossary.md").read_text()
    for field in {*fitted, *json.loads(made[1])[0], *compared[0]}:
        word = re.sub("^((expected|realised|selective)_)+|_(low|high)$", "", field)
        assert f"`{word}`" in told or word.replace("_", " ") in told, field
    assert "| off %" in told


def test_which_exits_to_build(run, cache, tmp_path):
    out, line = tmp_path / "p.json", ("--methods", "max_prob", "--budgets", "40%", "--max-exits", 2)
    told = run("curve", cache, *line, "--head-cost", "10%")[1]
    (record,) = json.loads(run("curve", cache, *line, "--head-cost", "10%", "--format", "json")[1])
    assert "exits kept" in told and len(record["active_exits"]) == 2
    fit = ("fit", cache, "--budget", "40%", "--method", "max_prob", "--out", out, "--max-exits", 2)
    (fitted,) = json.loads(run(*fit, "--head-cost", "10%", "--format", "json")[1])
    assert fitted["active_exits"] == record["active_exits"]
    rows = json.loads(run("evaluate", out, cache, "--format", "json")[1])
    assert rows[0]["realised_cost"] == record["realised_cost"]  # though the cache knows no heads
    for wrong, said in (
        (("--head-cost", "1,2"), "[0-9] numbers in .* per exit.* Got 2: 1, 2"),
        (("--head-cost", "x=10%"), "'head cost' must be of one of"),
        (("--head-cost", "101%"), "its own stage"),
        (("--head-cost", "-1"), "0 to .* its own stage"),
        (("--head-cost", "nan"), "0 to .* its own stage"),
        (("--set", "thresholds=0.9,0.8,0.7"), "'max_exits' must be given with a method"),
        (("--risk", "drop<=1%"), "'--risk' must be given without --max-exits"),
    ):
        code, _, error = run(*fit, *wrong)
        assert code == 2 and re.search(said, error), (wrong, error)


@pytest.mark.parametrize(
    ("budget", "unit", "found"),
    [
        ("$3/1000", "1e-6 USD", 3000), ("3 USD/1000", "usd", 0.003), ("3USD per 1000 calls", "$", 0.003),
        ("$0.003", "USD/1k", 3), ("€ 2.5/1000", "EUR", 0.0025), ("0.2ct", "USD", 0.002), ("$3/1000", "ct", 0.3),
        ("2 cents", "ct", 2), ("£1e-3", "1e-6 GBP", 1000), ("0.5", "USD", 0.5), ("50%", "$", 2),
    ],
)  # fmt: skip
def test_a_budget_may_be_money(budget, unit, found):
    assert parse_budget(budget, np.array([1.0, 4.0]), unit) == pytest.approx(found, rel=1e-12)


def test_notes_say_what_is_not_seen(run, tmp_path):
    """A policy's own arithmetic, exits that nobody takes, budgets that are not spent, what was tried."""
    logits, labels = outputs(900, exits=3)
    logits = logits[:, [0, 0, 1, 1]]  # exits 1 and 3 add nothing
    np.savez(tmp_path / "o.npz", logits=logits, labels=labels, costs=[1000.0, 3000, 6000, 9000])
    line = ("--axes", "NKC", "--split", "fit=0.4,calibrate=0.3,test=0.3")
    cache, out = tmp_path / "c", tmp_path / "p.json"
    assert run("import", tmp_path / "o.npz", *line, "--unit", "FLOPs", "--out", cache)[0] == 0
    fit = ("fit", cache, "--out", out, "--method", "optimal_stopping")
    code, _, notes = run(*fit, "--budget", "50%")
    policy = load_policy(out)
    costs, own = (
        ", ".join(f"{v:.4g}" for v in each)
        for each in (policy.costs.tolist(), policy.overhead.tolist())
    )
    said = f"costs include the policy's own arithmetic: {costs} FLOPs, of which {own}"
    assert code == 0 and said in notes and (policy.overhead > 0).all()
    assert "leave at exit 1 and exit 3: --max-exits 2, or --method subset" in notes
    assert "believed" not in notes
    assert re.search(r"overhead .*\(the policy's own arithmetic", run("info", out)[1])
    assert "own arithmetic" not in run("fit", cache, "--budget", "50%", "--method", "max_prob", "--out", out)[2]  # fmt: skip
    for budget in ("40", "0.4"):
        code, _, error = run(*fit, "--budget", budget)
        assert code == 3 and "40 % of the full model is written 40%." in error
    assert "is written" not in run(*fit, "--budget", "5")[2]
    unspent = "more bought nothing on the fit rows, so it is not spent"
    for budget, left in (("95%", True), ("30%", False)):
        assert run(*fit, "--budget", budget)[0] == 0
        assert (unspent in run("evaluate", out, cache)[2]) is left
        line = ("curve", cache, "--methods", "optimal_stopping", "--budgets", budget)
        assert (unspent in run(*line)[2]) is left
    line = ("certify", cache, "--risk", "error<=90%", "--budgets", "2", "--out", out)
    code, _, notes = run(*line)
    assert code == 0 and "tried by auto: max_prob, " in notes and "routing" not in notes


def test_marks_and_prices_that_are_not_understood_say_what_to_do(run, tmp_path):
    head = "small_correct,large_correct,small_price,large_price"
    (tmp_path / "m.csv").write_text(f"{head}\n" + "1,1,2,3\n0,1,2,4\n" * 20 + ",,2,3\n")
    line = ("import", tmp_path / "m.csv", "--out", tmp_path / "c")
    assert "leave the row out" in run(*line)[2]
    (tmp_path / "m.csv").write_text(f"{head}\n" + "1,1,2,3\n0,1,2,4\n" * 20)
    price = "--key small_cost_usd=small_price"
    assert price in run(*line, "--key", "costs=small_price,large_price")[2]
    code, _, notes = run(*line)
    assert code == 0 and "--key NAME_cost_usd=KEY" in notes
    keys = (*price.split(), "--key", "large_cost_usd=large_price", "--cost-kind", "standalone")
    assert run(*line, *keys, "--overwrite")[0] == 0
    assert "USD" in run("info", tmp_path / "c")[1]


def test_money_on_the_command_line_and_models_by_their_names(run, tmp_path):
    """One budget in three ways of writing; what cannot be read or converted is refused with what can be done."""
    logits, labels = outputs(800, exits=3)
    names, line = (
        ("haiku", "sonnet", "opus"),
        ("--labels", tmp_path / "y.npy", "--cost-kind", "standalone"),
    )
    np.save(tmp_path / "y.npy", labels)
    for k, name in enumerate(names):
        np.save(tmp_path / f"{name}.npy", logits[:, k])
    files = [tmp_path / f"{name}.npy" for name in names]
    cache, out = tmp_path / "c", tmp_path / "p.json"
    for unit, costs, place in (
        ("1e-6 USD", "100,900,4000", cache),
        ("ms", "1,9,40", tmp_path / "ms"),
    ):
        made = run(
            "import", "--exits", *files, *line, "--costs", costs, "--unit", unit, "--out", place
        )
        assert made[0] == 0, made
    fit = ("--method", "subset:inner=max_prob", "--out", out)
    ways = ("$1.5/1000", "1.5 USD per 1000", "$0.0015", "1500")
    found = [
        json.loads(run("fit", cache, *fit, "--format", "json", "--budget", b)[1])[0] for b in ways
    ]
    assert {one["budget"] for one in found} == {1500.0} and len({str(one) for one in found}) == 1
    _, told, notes = run("fit", cache, *fit, "--budget", ways[0])
    assert "($1.5/1000)" in told and re.search(r"max_prob on \w+, \w+", notes)
    said = run("curve", cache, "--methods", "always", "--budgets", "$0.5/1000,0.3 ct")[1]
    assert re.search(r"500 .* haiku .*\n.* 3000 .* sonnet", said)
    assert (
        "900 ($0.9/1000)" in run("info", cache)[1]
        and "/1000" not in run("info", tmp_path / "ms")[1]
    )
    assert re.search("haiku|sonnet|opus", run("run", out, *files)[1])
    for place, budget, words in (
        (cache, "€3/1000", "'budget' must be in USD.*Convert it"),
        (cache, "/1000", "single quotes.*3USD/1000"),  # what a shell makes of "$3/1000"
        (cache, "$/1000", "single quotes"),
        (tmp_path / "ms", "$3/1000", "'budget' must be in ms.*--cost NAME"),
        (cache, "3 USD/day", "'budget' must be a number in 1e-6 USD"),
        (cache, "$3/1M", "money per request or per 1000 requests"),
        (cache, "$3e400", "'budget' must be a number"),
        (cache, "30000", r"\$3/1000' is money for 1,000"),
        (tmp_path / "ms", "3 MFLOPs", "a number in ms"),
    ):
        code, _, error = run("fit", place, *fit, "--budget", budget)
        assert code in (2, 3) and re.search(words, error), (budget, error)
    assert run("fit", tmp_path / "ms", *fit, "--budget", "12 ms")[0] == 0


def test_settings_and_bounds(run, cache):
    line = ["curve", cache, "--methods", "max_prob,patience", "--set", "thresholds=joint"]
    line += ["--budgets", 1, "--bounds"]
    code, out, _ = run(*line, "--format", "json")
    (bound,) = [r for r in json.loads(out) if r["method"] == "oracle"]
    assert code == 0 and bound["deployable"] is False
    unknown = {
        "expected_cost",
        "expected_cost_low",
        "expected_cost_high",
        "rows",
        "labelled",
        "effective_rows",
    }
    assert json.loads(out)[0].keys() - bound.keys() <= unknown
    assert "hindsight (not deployable)" in run(*line)[1]


@pytest.mark.parametrize("seeds", [1, 3])
def test_compare_prints_and_writes_the_same_rows(run, cache, tmp_path, seeds):
    """What the table says over all seeds is in CSV and JSON too, marked: its seed is none."""
    line = ["compare", cache, "--methods", "random,max_prob", "--budgets", 3, "--seeds", seeds]
    code, out, _ = run(*line, "--format", "json")
    rows = json.loads(out)
    printed = run(*line, "--format", "csv", "--out", tmp_path)[1]
    assert code == 0 and (tmp_path / "compare.csv").read_text() == printed
    for row, text in zip(rows, records(printed), strict=True):
        assert {k: "" if v is None else str(v) for k, v in row.items()} == {k: text[k] for k in row}
    single = [row for row in rows if row["seed"] is not None]
    whole = [row for row in rows if row["seed"] is None] if seeds > 1 else single
    assert len(single) == 4 * seeds and len(whole) == 4
    points = [row for row in single if row["budget"] is not None]
    assert all(row["reference"] == "random" and row["difference"] > 0 for row in points)
    assert sum(row["difference_low"] > 0 and row["mcnemar_p"] < 0.05 for row in points) >= seeds
    areas = [row["area"] for row in single if row["budget"] is None]
    table = run(*line)[1]
    assert min(areas) > 0 and "at equal realised cost" in table
    for row in whole:
        name, digits = ("area", 3) if row["budget"] is None else ("difference", 2)
        mine = [r for r in single if r["budget"] == row["budget"]]
        for end in ("", "_low", "_high"):
            assert row[name + end] == pytest.approx(np.mean([r[name + end] for r in mine]))
            assert f"{100 * row[name + end]:+.{digits}f}" in table
    if seeds > 1:
        assert whole[-1]["area_sd"] == pytest.approx(np.std(areas, ddof=1))


def test_explain_writes_what_it_prints(run, cache, tmp_path):
    """Against max_prob at the same budget, or the policy of a file."""
    policy, rival = tmp_path / "p.json", tmp_path / "q.json"
    po.fit(po.open_cache(cache), "50%", "entropy").save(policy)
    po.fit(po.open_cache(cache), "60%", "patience").save(rival)
    code, out, err = run("explain", policy, cache, "--out", tmp_path, "--format", "json")
    record = json.loads(out)
    assert code == 0 and "max_prob fitted at the same budget" in err
    assert json.loads((tmp_path / "explain.json").read_text()) == record
    assert record["reference"]["method"] == "max_prob"
    lines = records((tmp_path / "rows.csv").read_text())
    assert len(lines) == record["rows"] == 1500
    became = [int(r["row"]) for r in lines if float(r["quality"]) > float(r["reference_quality"])]
    assert became == record["changes"]["rows_better"]
    assert np.mean([float(r["cost"]) for r in lines]) == pytest.approx(record["realised_cost"])
    for name in ("exits", "scores", "classes", "changes"):
        assert (tmp_path / f"{name}.png").stat().st_size > 15_000
    command = ("explain", policy, cache, "--reference", rival)
    code, out, err = run(*command)
    # Of a policy of the entropy, in the papers' terms; nothing else.
    assert code == 0 and err.count("\n") == 1 and "entropy H in nats" in err
    for text in ("exit", "overthought", "against patience", "became right", "McNemar"):
        assert text in out
    assert [r["exit"] for r in records(run(*command, "--format", "csv")[1])] == list("0123")


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


@pytest.fixture
def words(cache, fixed, root):
    fill = {"CACHE": cache, "POLICY": fixed, "TIERS": root / "docs" / "tiers.toml"}
    return lambda line: [fill.get(word, word) for word in line.split()]


def test_fit_tells_which_policy_it_replaces(run, cache, tmp_path):
    out = tmp_path / "p.json"
    out.touch()  # as mktemp makes it
    line = ("fit", cache, "--out", out, "--method")
    code, _, err = run(*line, "max_prob", "--budget", 2)
    assert code == 0 and "which held" not in err
    code, _, err = run(*line, "margin", "--budget", 3, "--format", "json")
    assert code == 0 and f"note: replaced {out}, which held max_prob at 2 ms\n" in err
    assert po.load_policy(out).provenance["method"] == "margin"


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
@pytest.mark.parametrize("line, names", [i for i in LINES.items() if not i[0].startswith(("evaluate", "export"))])  # fmt: skip
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


LONG = "curve c --methods optimal_stopping --budgets 400 --seeds 400 --out out"


def heard():
    """In a child, before it begins: heed Ctrl-C, which a suite run in the background was told to ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def script():
    found = shutil.which("policyopt", path=str(Path(sys.executable).parent))
    return [found] if found else pytest.skip("not installed")


@pytest.mark.parametrize("entry", [lambda: ["-m", "policyopt"], script], ids=["module", "script"])
@pytest.mark.parametrize("delay", [0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5])
def test_ctrl_c_is_one_line(entry, delay, cache):
    """So many seconds after the command line began: while packages load, and at work."""
    line, before = [*entry(), *LONG.split()], sorted(cache.parent.iterdir())
    child = subprocess.Popen(
        [sys.executable, "-X", "importtime", *line], cwd=cache.parent, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heard,
    )  # fmt: skip
    assert any(line.rstrip().endswith("| policyopt._cli") for line in child.stderr)
    time.sleep(delay)
    child.send_signal(signal.SIGINT)
    try:
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    told = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert child.returncode == 130 and out == ""
    assert told[-1] == "interrupted"
    assert all(line == "fitting ..." or line.startswith("note: about ") for line in told[:-1])
    assert sorted(cache.parent.iterdir()) == before


#: An import of a compiled module that is interrupted may raise what it likes.
BROKEN = """
def broken(*_, **__):
    try: signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt: raise ImportError("numpy._core.multiarray failed to import")
"""


@pytest.mark.parametrize(
    ("before", "ends"),
    [(f"{BROKEN}{place} = broken", (130, "interrupted\n")) for place in ("app.app", "app.import_module")]
    + [("signal.signal(signal.SIGINT, signal.SIG_IGN)", (0, ""))],
)  # fmt: skip
def test_ctrl_c_in_compiled_code_and_ignored_signals(cache, before, ends):
    text = f"import signal, policyopt._cli as cli, policyopt._cli.app as app\n{before}\n"
    text += "try: cli.main()\nexcept SystemExit: print(repr(signal.getsignal(signal.SIGINT)))"
    command = [sys.executable, "-c", text, "info", cache]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=heard)
    assert (done.returncode, done.stderr) == ends
    assert ("4 exits" in done.stdout and "SIG_IGN" in done.stdout) == (not ends[0])
