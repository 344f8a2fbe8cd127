"""`policyopt export` and `policyopt verify`: whole folders, first differences, and folders from anyone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from synthetic import cache

import policyopt as po
from policyopt.export.bundle import checksum, write_bundle, write_golden
from policyopt.export.golden import expect
from policyopt.export.samples import golden_of
from policyopt.export.tracing import trace_policy
from policyopt.export.verify import read_golden, verify
from policyopt.runtime.artifact import load_policy
from policyopt.runtime.errors import CheckError, InputError


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    po.fit(cache(), 3.7, "optimal_stopping").policy.save(folder / "policy.json")
    done = cli("export", folder / "policy.json", "--to", "python", "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.fixture
def copy(export, tmp_path):
    return shutil.copytree(export, tmp_path / "copy")


def cli(*words):
    command = [sys.executable, "-m", "policyopt", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def sign(folder):
    """Make the manifest agree with files that were changed."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: checksum(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_what_was_exported_verifies(export):
    found = {v.runtime: v for v in verify(export)}
    assert {"numpy batch", "numpy step", "python"} <= found.keys()
    for v in found.values():
        assert v.absent or (v.rows == 512 and v.error == 0), v
    done = cli("verify", export, "--format", "json", "--require", "python")
    assert done.returncode == 0, done.stderr
    assert {row["runtime"] for row in json.loads(done.stdout)} == found.keys()
    done = cli("verify", export, "--require", "c")
    assert done.returncode == 4 and "c could not be run" in done.stderr


def test_a_policy_that_was_changed_is_found(copy):
    """Golden vectors are of one policy: another, whole in itself, fails with exit code 4."""
    po.fit(cache(), 2.0, "optimal_stopping").policy.save(copy / "policy.json")
    done = cli("verify", copy)
    assert done.returncode == 2 and "'policy.json' is missing, or was changed" in done.stderr
    sign(copy)
    done = cli("verify", copy)
    assert done.returncode == 4
    assert "numpy batch: exit of golden row" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("np.maximum(", "np.minimum(", "python: "),
        ("np.log(", "np.log2(", "python: "),
        ("def step(", "def stepp(", "python: does not run: KeyError"),
        ("import math", "import math,,", "python: does not run: SyntaxError"),
    ],
)
def test_a_file_that_decides_otherwise_is_found(copy, old, new, words):
    text = (copy / "policy.py").read_text()
    assert old in text
    (copy / "policy.py").write_text(text.replace(old, new))
    sign(copy)
    with pytest.raises(CheckError, match=words):
        list(verify(copy))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "manifest.json").unlink(), "'DIR' must be a folder"),
        (lambda d: (d / "manifest.json").write_text("{"), "'manifest.json' must be JSON"),
        (lambda d: (d / "manifest.json").write_text("[" * 10**5), "'manifest.json' must be"),
        (lambda d: change(d, format="x"), "of format 'policyopt-export'"),
        (lambda d: change(d, version=99), "'version of manifest.json' must be 1"),
        (lambda d: change(d, extra=1), "'fields of manifest.json'"),
        (lambda d: change(d, targets={"rust": {"ulps": 0}}), "with files and targets"),
        (lambda d: change(d, files={"../policy.json": "0"}), "with files and targets"),
        (
            lambda d: (d / "golden.npz").write_bytes(b"PK"),
            "'golden.npz' is missing, or was changed",
        ),
        (lambda d: resigned(d, "golden.npz", b"PK"), "'golden.npz' must be an .npz"),
        (lambda d: resigned(d, "policy.json", b"{}"), "policy.json"),
    ],
)
def test_folders_from_anyone(copy, damage, words):
    damage(copy)
    with pytest.raises(InputError, match=words):
        list(verify(copy))


def change(folder, **fields):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def resigned(folder, name, content):
    (folder / name).write_bytes(content)
    sign(folder)


def test_an_export_replaces_an_export_and_nothing_else(export, tmp_path):
    policy = load_policy(export / "policy.json")
    golden = golden_of(policy, trace_policy(policy), rows=20)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("hours")
    with pytest.raises(InputError, match="'--out' must be a new folder"):
        write_bundle(policy, tmp_path / "mine", ["python"], golden)
    with pytest.raises(InputError, match="'--to' must be of python, onnx, c"):
        write_bundle(policy, tmp_path / "out", ["rust"], golden)
    for _ in range(2):
        write_bundle(policy, tmp_path / "out", ["python"], golden)
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "out"}


def test_golden_rows_of_a_cache(export, tmp_path):
    data = cache()
    policy = load_policy(export / "policy.json")
    golden = golden_of(policy, trace_policy(policy), data, rows=100)
    assert len(golden) == 100
    key, places = data.rows("test")
    outputs = data.splits[key].array("outputs")[places][golden.sample]
    assert (golden.expected.exit == policy.decide(outputs).exit).all()
    write_golden(golden, tmp_path / "golden.npz")
    again = read_golden(tmp_path / "golden.npz", policy)
    assert (
        expect(policy, again.inputs, again.sample).expected.score == golden.expected.score
    ).all()
    # Half of them are the nearest to the thresholds: nearer than rows drawn by lot.
    gap = np.abs(golden.expected.score[:, :-1] - policy.thresholds).min(axis=1)
    every = policy.trace(data.splits[key].array("outputs")[places]).scores[:, :-1]
    assert np.median(gap) < np.median(np.abs(every - policy.thresholds).min(axis=1))
    other = po.from_arrays(np.zeros((20, 2, 3)), np.zeros(20, int), costs=[1, 2])
    with pytest.raises(InputError, match="'cache' must be logits of 4 exits"):
        golden_of(policy, trace_policy(policy), other)
