"""`policyopt info` of every file that the product writes, and of files that others made to look like them."""

import json
import os

import numpy as np
import pytest
from rules import policies
from synthetic import outputs

from policyopt.runtime import Controller, DecisionLog, Online, load_policy
from policyopt.runtime._experts import load_any

COMMANDS = [
    "fit C --budget 60% --method margin --out p.json",
    "fit C --budgets 3 --method margin --out family.json",
    "fit Z --budget 60% --method routing --set soft=0 --out r.json",
    "export p.json --to python,c,onnx --rows 20 --out exp",
    "curve C --methods margin --budgets 2 --out curve",
    "compare C --methods margin,max_prob --budgets 2 --out compare",
    "explain p.json C --out explain",
    "explain r.json Z --out routes",
    "calibration C --method margin --maps platt --out calibration",
    "simulate C --rounds 20 --repetitions 1 --out simulation",
    "tune C --method margin --trials 1 --budget 60% --out tune",
    "plan F --tiers T --objective latency --accuracy 91% --method none --out plan",
    "study C Z --methods margin --budgets 2 --out study",
    "evaluate p.json C --out rows.csv",
    "risk-coverage p.json C --out risk",
    "watch losses.csv --risk error<=50% --state monitor.json",
]


@pytest.fixture(scope="module")
def written(tmp_path_factory, root):
    """A folder with what each of the commands writes, and what Python does."""
    from conftest import printed

    at = tmp_path_factory.mktemp("files")
    logits, labels = outputs(600, exits=3)
    arrays = {"logits": logits.swapaxes(0, 1), "labels": labels, "costs": [1.0, 2, 4]}
    np.savez(at / "o.npz", **arrays)
    (at / "losses.csv").write_text("loss\n0\n0\n1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(at)
        made = printed("import", "o.npz", "--unit", "ms", "--out", "C")
        assert made[0] == 0, made
        names = [f"m{k}.npy" for k in range(3)]
        for k, name in enumerate(names):
            np.save(name, logits[:, k])
        np.save("y.npy", labels)
        line = [
            "--labels",
            "y.npy",
            "--cost-kind",
            "standalone",
            "--costs",
            "1,3,9",
            "--unit",
            "ms",
            "--out",
            "Z",
        ]
        assert printed("import", "--exits", *names, *line)[0] == 0
        places = {"F": root / "cache" / "fashion_mnist", "T": root / "docs" / "tiers.toml"}
        for line in COMMANDS:
            code, _, err = printed(*(places.get(word, word) for word in line.split()))
            assert code == 0, (line, err)
        routing = load_policy("r.json")
        DecisionLog("decisions.jsonl", routing)
        family = load_any("family.json")
        Online(family, Controller(0.4)).save("online.json")
    return at


def told_of(run, file):
    code, out, err = run("info", file, "--format", "json")
    assert code == 0, err
    return json.loads(out)


FILES = {
    "exp": ("an export", "verify"), "exp/policy.py": ("an export", "verify"),
    "exp/policyopt_policy.h": ("an export", "verify"), "exp/golden.npz": ("golden", "verify"),
    "exp/onnx": ("ONNX", "verify"), "exp/onnx/exit_0.onnx": ("ONNX", "verify"),
    "curve/curve.csv": ("policyopt curve", "glossary"), "curve/curve.png": ("a picture", "look"),
    "curve": ("policyopt curve", "glossary"), "explain": ("policyopt explain", "--help"),
    "compare/compare.csv": ("policyopt compare", "glossary"),
    "explain/explain.json": ("policyopt explain", "--help"), "routes/explain.json": ("policyopt explain", "--help"),
    "explain/rows.csv": ("policyopt evaluate", "--help"), "rows.csv": ("policyopt evaluate", "--help"),
    "calibration/calibration.json": ("policyopt calibration", "--help"),
    "simulation/simulation.csv": ("policyopt simulate", "--help"),
    "tune/tuned.json": ("policyopt tune", "--help"), "tune/study.db": ("policyopt tune", "--help"),
    "plan": ("a plan", "evaluate"), "plan/plan.json": ("a plan", "evaluate"), "plan/tier-0-device.json": ("one tier", "load_tier"),
    **{f"study/{name}.csv": ("policyopt study", "--help") for name in ("models", "budgets", "pairs", "tests", "heights")},
    "risk/risk_coverage.csv": ("policyopt risk-coverage", "--help"), "monitor.json": ("watch", "--state"),
    "decisions.jsonl": ("a log of decisions", "import"), "online.json": ("an online policy", "Online.load"),
    "C/manifest.json": ("a cache", "policyopt info"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_what_it_is_and_what_is_next(run, written, name, monkeypatch):
    monkeypatch.chdir(written)
    told = told_of(run, name)
    what, then = FILES[name]
    assert what in told["what"] and then in told["next"] and told["facts"]
    code, out, err = run("info", name, columns="80")
    assert (code, err) == (0, "") and what in out and max(map(len, out.splitlines())) <= 90
    if told["next"].startswith("policyopt verify "):
        assert run(*told["next"].split(",")[0].split()[1:])[0] == 0


def test_all_that_is_written_is_known(run, written, root):
    files = [p for p in written.rglob("*") if p.is_file() and p.parent.name not in ("Z",)]
    own = [p for p in files if p.suffix != ".npy" and p.name not in ("losses.csv", "o.npz")]
    assert len(own) > 40
    for path in [*own, root / "docs" / "tiers.toml", *(root / "docs").glob("*.schema.json")]:
        assert run("info", path)[0] == 0, path
    assert "cumulative cost" in run("info", written / "C")[1]
    assert "margin" in run("info", written / "p.json")[1]
    assert " levels [ms]" in run("info", written / "family.json")[1]


def test_an_alarm_that_is_on_is_told(run, tmp_path):
    state = tmp_path / "m.json"
    for losses, code, told in ((["0"], 0, None), (["1"] * 50, 4, "ON, since loss ")):
        (tmp_path / "l.csv").write_text("\n".join(["loss", *losses]))
        line = ("watch", tmp_path / "l.csv", "--risk", "error<=10%", "--state", state)
        assert run(*line)[0] == code
        alarm = told_of(run, state)["facts"]["alarm"]
        assert alarm is told or alarm.startswith(told)
    assert "ON, since loss" in run("info", state)[1]


def test_thresholds_are_words_in_policies(run, tmp_path):
    for name, one in policies().items():
        if hasattr(one, "thresholds"):
            path = tmp_path / "p.json"
            one.save(path)
            line = next(x for x in run("info", path)[1].splitlines() if x.startswith("thresholds"))
            assert "e+30" not in line and "000000000" not in line, name


def test_files_of_others_end_nothing_and_run_nothing(run, tmp_path):
    """Pipes are not read, sizes are looked at first, code is not run, and what cannot be shown is escaped."""
    page = '<!doctype html><meta name="generator" content="policyopt"><script>x</script>'
    (tmp_path / "page.html").write_text(page + "<b>" * 100_000)
    assert told_of(run, tmp_path / "page.html")["what"] == "a page"
    code = '"""An early-exit policy: x. Made by policyopt"""\nopen("ran", "w")\n'
    (tmp_path / "policy.py").write_text(code)
    assert "an export" in told_of(run, tmp_path / "policy.py")["what"]
    odd = tmp_path / "a b;$(touch ran)\x1b[31m.csv"
    odd.write_text("method,budget,\x1b[2J\n" + "9" * 300_000)
    out = run("info", odd)[1]
    assert "\x1b" not in out and "curve" in out
    odd.with_name("{path}.jsonl").write_text(
        '{"format": "policyopt-decisions", "a": "{folder}"}\n{'
    )
    assert "'" in told_of(run, odd.with_name("{path}.jsonl"))["next"]
    os.mkfifo(tmp_path / "pipe.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.write(b"{")
        file.truncate(1 << 33)
    (tmp_path / "deep.json").write_text('{"a":' + "[" * 5000)
    (tmp_path / "list.json").write_text('["policyopt-cache"]')
    (tmp_path / "number.json").write_text('{"format": 3}')
    (tmp_path / "empty.json").touch()
    (tmp_path / "other.csv").write_text("a,b\n")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe", "huge", "deep", "list", "number", "empty", "folder"):
        code, out, err = run("info", tmp_path / f"{name}.json")
        assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1, name
    code, _, err = run("info", tmp_path / "other.csv")
    assert code == 2 and "a cache, or a file of policyopt" in err and "policyopt import" in err
    code, _, err = run("info", odd, "--cost", "x")
    assert code == 2 and "'--cost' must be given with a cache" in err
    assert not (tmp_path / "ran").exists()
