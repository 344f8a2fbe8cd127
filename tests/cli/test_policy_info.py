"""``policyopt info policy.json``, and provenance that is not what it should be."""

import json

import numpy as np
import pytest
from rules import artifact, experts, policies, policy

import policyopt as po
from policyopt.cache import CacheWriter
from policyopt.runtime.artifact import save_policy
from policyopt.runtime.experts_file import save_experts


def test_a_policy_file_tells_its_provenance(run, tmp_path):
    save_policy(policies()["mixture of two scores"], tmp_path / "p.json")
    code, out, err = run("info", tmp_path / "p.json", "--format", "json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["provenance"]["versions"] == {"policyopt": "0.1.0"}
    assert (told["score"], told["share of the mixture"]) == ("margin", 0.25)
    code, out, _ = run("info", tmp_path / "p.json", "--format", "csv")
    assert code == 0 and "provenance.versions.policyopt,0.1.0" in out
    save_experts(experts(), tmp_path / "e.json")
    code, out, _ = run("info", tmp_path / "e.json")
    assert code == 0 and "experts.blur.score" in out


def test_a_policy_file_that_was_changed_is_refused(run, tmp_path):
    content = artifact(policy())
    (tmp_path / "p.json").write_text(json.dumps({**content, "unit": "s"}))
    code, out, err = run("info", tmp_path / "p.json")
    assert (code, out) == (2, "") and "checksum" in err


@pytest.mark.parametrize("odd", [3, "x", None, [], {"method": 3}, {"a": {}}])
def test_odd_provenance_ends_nothing(run, tmp_path, odd):
    rng = np.random.default_rng(0)
    with CacheWriter(tmp_path / "c", costs=[po.Cost("c", "ms", [1, 2, 4])]) as cache:
        cache.append("test", rng.normal(size=(30, 3, 3)), rng.integers(0, 3, 30))
    one = policy()
    object.__setattr__(one, "provenance", dict.fromkeys(("method", "budget", "chosen"), odd))
    save_policy(one, tmp_path / "p.json")
    for style in ("table", "json", "csv"):
        code, out, err = run("evaluate", tmp_path / "p.json", tmp_path / "c", "--format", style)
        assert code == 0 and out, err
        assert run("info", tmp_path / "p.json", "--format", style)[0] == 0
