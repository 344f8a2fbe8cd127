"""Families and policies that abstain in every exported form: a level as an input, or fixed; who is handed over."""

import json
import runpy

import numpy as np
import pytest
from rules import C, assert_valid, families, policies

from policyopt._export.bundle import read_export, write_bundle
from policyopt._export.golden import expect
from policyopt._export.samples import golden_of
from policyopt._export.symbolic import trace_policy
from policyopt._export.verify import RUNNERS, verify
from policyopt.runtime import load_family, load_policy

EVERY = {**families(), **{n: p for n, p in policies().items() if n.startswith("abstains")}}


@pytest.mark.parametrize("name", EVERY)
def test_every_form_decides_as_numpy_on_every_level(name, tmp_path):
    """On golden vectors of all levels, and again on rows of another draw, level by level, against the level's own policy."""
    pytest.importorskip("onnxruntime")
    policy = EVERY[name]
    graphs = trace_policy(policy)
    golden = golden_of(policy, graphs, rows=120)
    write_bundle(policy, tmp_path / "out", ["python", "onnx", "c"], golden, graphs)
    found = {verdict.runtime: verdict for verdict in verify(tmp_path / "out")}
    assert {"numpy batch", "numpy step", "python", "onnx", "c"} <= found.keys()
    assert not any(verdict.absent for verdict in found.values())
    export = read_export(tmp_path / "out")
    assert_valid(json.loads((tmp_path / "out" / "manifest.json").read_text()))
    assert_valid(json.loads((tmp_path / "out" / "onnx" / "manifest.json").read_text()))
    levels = range(len(policy)) if name in families() else [None]
    assert name not in families() or set(export.golden.sample[:, 1]) == set(levels)
    rows = np.random.default_rng(9).normal(size=(40, policy.model_exits, C)).astype(np.float32) * 2
    inputs = [{"logits": rows[:, k]} for k in policy.active_exits]
    for level in levels:
        numbers = np.arange(40)
        sample = numbers if level is None else np.stack([numbers, np.full(40, level)], axis=1)
        alone = (policy if level is None else policy.at(level)).decide(rows, numbers)
        here = expect(policy, inputs, sample)
        path = np.asarray(policy.active_exits)
        for form, run in RUNNERS.items():
            ran = run(tmp_path / "out", here)
            at = (numbers, ran.exit)
            np.testing.assert_array_equal(path[ran.exit], alone.exit, err_msg=form)
            np.testing.assert_array_equal(ran.prediction[at], alone.prediction, err_msg=form)
            np.testing.assert_array_equal(ran.abstained[at], alone.abstained, err_msg=form)
        module = runpy.run_path(str(tmp_path / "out" / "policy.py"))
        said = module["decide"](list(rows.swapaxes(0, 1)), numbers, level=level)
        for field in ("exit", "prediction", "cost", "abstained"):
            np.testing.assert_array_equal(getattr(said, field), getattr(alone, field))


def test_the_python_file_refuses_what_is_no_level(tmp_path):
    family = families()["one rule"]
    golden = golden_of(family, trace_policy(family), rows=30)
    write_bundle(family, tmp_path / "out", ["python"], golden)
    start = runpy.run_path(str(tmp_path / "out" / "policy.py"))["start"]
    for level in (None, 3, -1, 0.5, [0, 1]):
        with pytest.raises(Exception, match="'level' must be"):
            start(0, level)
    assert start([4, 5], [0, 2]).levels.tolist() == [0, 2]


def test_the_command_exports_a_family_or_one_level_of_it(run, tmp_path):
    families()["one rule"].save(tmp_path / "f.json")
    for more, expected in (((), load_family), (("--level", "1"), load_policy)):
        out = tmp_path / f"out{len(more)}"
        code, _, err = run("export", tmp_path / "f.json", "--out", out, "--to", "python,c", *more)
        assert code == 0, err
        assert expected(out / "policy.json").kind == "logits"
        code, told, err = run("verify", out, "--format", "json")
        assert code == 0, err
        ran = {r["runtime"]: r["absent"] for r in json.loads(told)}
        assert ran["c"] is None and ran["python"] is None and ran["torch server, one batch"] is None
