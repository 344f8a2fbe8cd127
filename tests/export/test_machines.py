"""Exports between machines: numpy with and without the processor's features, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policyopt._export.bundle import checksum
from policyopt.runtime._artifact import load_policy
from policyopt.runtime._strict_json import digest_of

SIMD = np.show_config(mode="dicts")["SIMD Extensions"]
FOUND = " ".join(SIMD.get("found", ()))
#: numpy with all that this processor has; without its widest vectors; with none but the baseline.
PROCESSORS = {"all": "", "narrower": " ".join(FOUND.split()[1:]), "baseline": FOUND}
pytestmark = pytest.mark.skipif(not FOUND, reason="numpy has no features to disable here")

ALL_RULES = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from rules import policies
from policyopt._export.bundle import read_export, write_bundle
from policyopt._export.samples import golden_of
from policyopt._export.symbolic import trace_policy
from policyopt._export.verify import verify
from policyopt.runtime._errors import CheckError

what, folder = sys.argv[2], Path(sys.argv[3])
for name, policy in policies().items():
    both = policy.kind == "logits" and name.startswith(("answer", "score advantage", "score entropy"))
    for kind in ("logits", "probabilities") if both else (policy.kind,):
        policy, place = replace(policy, kind=kind), folder / f"{name} {kind}".replace(" ", "_")
        if what == "write":
            graphs = trace_policy(policy)
            write_bundle(policy, place, ["python"], golden_of(policy, graphs, rows=60), graphs)
            continue
        try:
            found = list(verify(read_export(place)))
            print(place.name, found[0].error, found[0].turned, sum(v.turned for v in found[1:]))
        except CheckError as error:
            print(place.name, error)
"""


def python(processor, *words):
    more = {"NPY_DISABLE_CPU_FEATURES": PROCESSORS[processor], "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more})


def cli(processor, *words):
    return python(processor, "-m", "policyopt", *words)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Every rule, some of probabilities too, exported with all features and with none."""
    place = tmp_path_factory.mktemp("machines")
    for processor in ("all", "baseline"):
        done = python(
            processor, "-c", ALL_RULES, Path(__file__).parents[1], "write", place / processor
        )
        assert done.returncode == 0, done.stderr
    return place


def told(processor, exports, by):
    done = python(processor, "-c", ALL_RULES, Path(__file__).parents[1], "read", exports / by)
    assert done.returncode == 0, done.stderr
    return [line.split(maxsplit=1) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("by", "on"), [("all", "baseline"), ("baseline", "all"), ("all", "narrower")]
)
def test_every_rule_verifies_on_another_processor(by, on, exports):
    """Within the ulps stated, and exits equal but at a threshold; some differ, or nothing was tried."""
    lines = told(on, exports, by)
    assert len(lines) > 35
    failed = [(name, said) for name, said in lines if len(said.split()) != 3]
    assert not failed
    figures = np.array([said.split() for _, said in lines], float)
    assert (figures[:, 2] == 0).all()  # all else is compared with numpy here, and equal
    if on != "narrower":
        assert (figures[:, 0] > 0).sum() > 20 and figures[:, 1].sum() > 0
        plain = [error for (name, _), error in zip(lines, figures[:, 0], strict=True)
                 if name.split("_logits")[0] in ("score_max_prob", "score_margin", "score_entropy")]  # fmt: skip
        assert len(plain) == 3 and max(plain) <= 4


def test_on_the_machine_that_exported_all_is_equal(exports):
    """To the bit, on either."""
    for name, said in told("baseline", exports, "baseline"):
        assert said.split() in (["0.0", "0", "0"], ["nan", "0", "0"]), (name, said)


def sign(folder, **fields):
    manifest = {**json.loads((folder / "manifest.json").read_text()), **fields}
    manifest["files"] = {name: checksum(folder / name) for name in manifest["files"]}
    manifest["sha256"] = digest_of({n: v for n, v in manifest.items() if n != "sha256"})
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit(folder, file, change):
    with np.load(folder / file) as given:
        arrays = dict(given)
    change(arrays)
    np.savez(folder / file, **arrays)


def thresholds(folder, by):
    """The policy's thresholds a little off: fewer ulps than scores may differ by."""
    policy = load_policy(folder / "policy.json")
    object.__setattr__(policy, "thresholds", policy.thresholds + by)
    policy.save(folder / "policy.json")


def moved(name, row, by):
    def change(arrays):
        arrays[name][row] += np.asarray(by).astype(arrays[name].dtype)

    return change


def turned(arrays):
    arrays["leave"][:, 0] = ~arrays["leave"][:, 0]


def turned_with_scores(arrays):
    """A golden row that says of itself, consistently, that it left: far from the threshold."""
    row = int(np.argmin(arrays["score"][:, 0]))
    arrays["leave"][row, 0] = True
    arrays["score"][row, 0] = 0.6 + 1e-9


FAULTS = {
    "thresholds 4 ulps up": lambda d: thresholds(d, 5e-7),
    "thresholds 4 ulps down": lambda d: thresholds(d, -5e-7),
    "thresholds far": lambda d: thresholds(d, 0.05),
    "an answer": lambda d: edit(d, "golden.npz", moved("prediction", (7, 1), 1)),
    "a score": lambda d: edit(d, "golden.npz", moved("score", (7, 1), 2e-5)),
    "a confidence": lambda d: edit(d, "golden.npz", moved("confidence", (7, 0), 2e-5)),
    "exits": lambda d: edit(d, "golden.npz", turned),
    "an exit and its score": lambda d: edit(d, "golden.npz", turned_with_scores),
    "exits at thresholds": lambda d: edit(d, "edges.npz", turned),
    "a sign": lambda d: replaced(d / "policy.py", "np.log1p(", "-np.log1p("),
}


def replaced(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("machine", ["as it was", "forged"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_whatever_machine_is_named(fault, machine, exports, tmp_path, run):
    """The name of another machine loosens equality to the ulps stated, and nothing else."""
    folder = shutil.copytree(exports / "all" / "score_entropy_logits", tmp_path / "copy")
    FAULTS[fault](folder)
    made = json.loads((folder / "manifest.json").read_text())["machine"]
    sign(folder, machine=made if machine == "as it was" else {**made, "libc": "another 1.0"})
    code, _, said = run("verify", folder)
    assert code == 4, said
    assert "golden row" in said and "Traceback" not in said


def test_what_is_no_machine_is_refused(exports, tmp_path, run):
    folder = shutil.copytree(exports / "all" / "score_margin_logits", tmp_path / "copy")
    made = json.loads((folder / "manifest.json").read_text())["machine"]
    for machine in (None, [], {}, {**made, "x": 1}, {**made, "numpy": 2}, {**made, "libc": "x" * 999},
                    {**made, "features": "X86_V3"}, {**made, "features": [1]},
                    {**made, "features": ["X"] * 999}):  # fmt: skip
        sign(folder, machine=machine)
        code, _, said = run("verify", folder)
        assert code == 2 and "'machine of manifest.json' must be" in said, machine


def test_the_command_tells_the_two_apart(exports):
    """In the table and as JSON."""
    folder = exports / "all" / "score_entropy_logits"
    for processor, same in (("all", True), ("baseline", False)):
        done = cli(processor, "verify", folder, "--format", "json", "--require", "python")
        assert done.returncode == 0, done.stderr
        rows = {row["runtime"]: row for row in json.loads(done.stdout)}
        assert {row["same_machine"] for row in rows.values()} == {same}
        batch = rows["numpy batch"]
        assert (batch["error_ulps"] == 0) is same and batch["error_ulps"] < 4
        assert (batch["turned_at_threshold"] == 0) is same
        assert rows["python"]["error_ulps"] == 0 and rows["python"]["turned_at_threshold"] == 0
    done = cli("baseline", "verify", folder)
    words = " ".join(done.stdout.split())
    assert "Exported on another processor or C library" in words and "of the 64 stated" in words
    assert f"{batch['turned_at_threshold']} rows at a threshold leave otherwise" in words
