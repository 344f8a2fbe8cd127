"""`policyopt export`: names of C headers, what is told and what is refused."""

from __future__ import annotations

import pytest
from policies import fitted


@pytest.fixture
def policy(tmp_path):
    fitted("max_prob").save(tmp_path / "policy.json")
    return tmp_path / "policy.json"


def test_names_notes_and_refusals(run, policy, tmp_path, monkeypatch):
    out = tmp_path / "out"
    code, said, noted = run("export", policy, "--to", "c,python", "--name", "easy", "--out", out)
    assert code == 0 and "wrote" in said and not noted
    text = (out / "easy.h").read_text()
    assert "easy_step(" in text and "EASY_EXITS" in text and "policyopt_policy" not in text
    assert run("verify", out)[0] == 0
    code, _, noted = run("export", policy, "--to", "python", "--rows", "9999999", "--out", out)
    assert code == 0 and f"note: replaced {out}" in noted and "golden rows of 9,999,999" in noted
    assert not (out / "easy.h").exists()
    code, _, noted = run("export", policy, "--split", "test", "--out", out)
    assert code == 2 and "'--split' must be given with --cache. Got test." in noted
    for name in ("3x", "int", "a-b", ""):
        code, _, noted = run("export", policy, "--to", "c", "--name", name, "--out", tmp_path / "x")
        assert code == 2 and "'name' must be a C identifier" in noted
    assert not (tmp_path / "x").exists()
    code, _, noted = run("export", policy, "--to", "python", "--out", "/")
    assert code == 2 and "a folder that can be made" in noted
    monkeypatch.setattr("policyopt.cli.export.find_spec", lambda name: None)
    code, said, noted = run("export", policy, "--out", out)
    assert code == 0 and "no ONNX graphs" in noted and "onnx" not in said
