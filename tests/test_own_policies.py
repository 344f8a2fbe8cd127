"""Policies written outside the package, as docs/own_policies.md shows them: one file each, and all works."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from rules import SCORES, C, K
from synthetic import outputs

import policyopt as po
from policyopt.runtime.scores import make_rule

TARGETS = ["python", "c", "onnx"]


def blocks(root):
    """The Python files on the page, by name."""
    text = (root / "docs" / "own_policies.md").read_text()
    found = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", text, re.M | re.S)
    return dict(found)


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory):
    """An empty folder with the two files of the page, and somebody's logits."""
    at = tmp_path_factory.mktemp("own")
    for name, text in blocks(root).items():
        (at / name).write_text(text)
    logits, labels = outputs(800, exits=3)
    np.savez(at / "logits.npz", logits=logits.swapaxes(0, 1), labels=labels)
    return at


@pytest.mark.parametrize("name", list(SCORES))
def test_our_scores_pass_the_checks_of_scores(name):
    po.check_score(make_rule(name, SCORES[name]), exits=K, classes=C)


@pytest.mark.parametrize("column", ["margin", "entropy", "log_prob", "features"])
def test_a_column_that_is_not_declared_is_not_there(column):
    """Neither in a fit nor in serving: the error names it and what to add."""

    class Careless(po.ScoreRule):
        name = "careless"

        def score(self, k, output, state):
            return np.asarray(getattr(output, column), dtype=float).reshape(len(output), -1)[
                :, 0
            ], state

    logits, _ = outputs(50, exits=3)
    words = rf"'{column}' must be declared .* needs = frozenset\(\{{\"{column}\"\}}\)"
    with pytest.raises(po.InputError, match=words):
        po.check_score(Careless)
    policy = po.Policy(Careless(), [0.5, 0.5], [1, 2, 3], "ms", "logits", 6)
    with pytest.raises(po.InputError, match=words):
        policy.decide(logits)
    with pytest.raises(po.InputError, match=words):
        policy.step(0, logits[0, 0], policy.start())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Bad Name"}, "small letters"),
        ({"name": "margin"}, "one that no other has"),
        ({}, "small letters"),
    ],
)
def test_names_that_cannot_be_are_refused(fields, words):
    with pytest.raises(po.InputError, match=words):
        po.register_score(type("Mine", (po.ScoreRule,), {**fields, "score": lambda *_: None}))


def policyopt(at, *arguments, code=0):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "policyopt", *arguments]
    done = subprocess.run(command, cwd=at, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_files_are_short(root):
    lines = {name: len(text.splitlines()) for name, text in blocks(root).items()}
    assert lines.keys() == {"gap.py", "linear_trust.py"}
    assert lines["gap.py"] < 15 and lines["linear_trust.py"] < 60


@pytest.mark.parametrize(
    ("file", "method"), [("gap.py", "gap"), ("linear_trust.py", "learned_trust")]
)
def test_a_policy_of_ones_own_has_everything(folder, file, method):
    plugin = ["--plugin", file]
    costs = ["--costs", "1,2,4"]
    policyopt(folder, "import", "logits.npz", "--out", "cache", *costs, "--overwrite")
    assert method in policyopt(folder, *plugin, "methods", "--format", "csv")
    policyopt(
        folder,
        *plugin,
        "fit",
        "cache",
        "--method",
        method,
        "--budget",
        "60%",
        "--out",
        f"{method}.json",
    )
    told = policyopt(folder, "run", f"{method}.json", "logits.npz", code=2)
    score = json.loads((folder / f"{method}.json").read_text())["score"]["name"]
    assert score in told and "register" in told and "--plugin" in told
    policyopt(folder, *plugin, "run", f"{method}.json", "logits.npz")
    policyopt(folder, "evaluate", f"{method}.json", "cache", *plugin)
    names = f"max_prob,{method}"
    told = policyopt(
        folder, "curve", "cache", "--methods", names, "--budgets", "2", "--format", "json", *plugin
    )
    rows = json.loads(told[: told.rindex("]") + 1]) if told.lstrip().startswith("[") else told
    assert method in str(rows)
    policyopt(
        folder,
        *plugin,
        "export",
        f"{method}.json",
        "--to",
        ",".join(TARGETS),
        "--out",
        f"{method}_out",
        "--cache",
        "cache",
    )
    policyopt(folder, *plugin, "verify", f"{method}_out")
