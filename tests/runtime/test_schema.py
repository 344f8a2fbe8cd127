"""The schemas in docs/: up to date, of every rule, true to every file that is or was written."""

from __future__ import annotations

import copy
import json

import pytest
import rules
from mutations import paths
from rules import artifact, assert_valid, policies, validator

from policyopt._export.bundle import write_bundle
from policyopt._export.samples import golden_of
from policyopt._export.schema import schemas
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._answers import ANSWERS
from policyopt.runtime._calibrators import CALIBRATORS
from policyopt.runtime._experts import experts_to_dict
from policyopt.runtime._policy import load_policy, to_dict
from policyopt.runtime._scores import RULES


def test_the_files_in_docs_are_what_the_code_makes_and_every_rule_has_a_sample():
    made = schemas()
    assert {path.name for path in rules.DOCS.glob("*.schema.json")} == set(made)
    for file, schema in made.items():
        text = (rules.DOCS / file).read_text()
        again = "python -m policyopt._export.schema docs"
        assert text == json.dumps(schema, indent=1) + "\n", f"{file} is stale: {again}"
    for samples, known in (
        (rules.SCORES, RULES),
        (rules.ANSWERS, ANSWERS),
        (rules.CONFIDENCES, CALIBRATORS),
    ):
        assert set(samples) == set(known)


def test_files_are_valid(tmp_path, root):
    """Of every rule, of contexts, of everything online, and those of old, as they are and as written now."""
    found = {name: artifact(policy) for name, policy in policies().items()}
    found["experts"] = json.loads(json.dumps(experts_to_dict(rules.experts())))
    for name, online in rules.online_policies().items():
        online.save(tmp_path / f"{name}.json")
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
    for path in (root / "tests" / "golden").glob("policy_*.json"):
        found |= {path: json.loads(path.read_text()), path.name: to_dict(load_policy(path))}
    for content in found.values():
        assert_valid(content)


def test_manifests_of_exports_are_valid(tmp_path):
    """Of a mixture that draws by a coin, ONNX graphs too; changed, or of fewer fields, they are not."""
    pytest.importorskip("onnx")
    policy, out = policies()["mixture of one score"], tmp_path / "out"
    golden = golden_of(policy, trace_policy(policy), rows=20)
    write_bundle(policy, out, ["python", "c", "onnx"], golden)
    bundle, graphs = (json.loads((out / at / "manifest.json").read_text()) for at in ("", "onnx"))
    assert graphs["coin"] is not None and graphs["exits"][1]["states"]
    changes = [
        {"extra": 1}, {"version": 9}, {"rows": 0}, {"targets": {}}, {"files": {}}, {"score": "X!"},
        {"targets": {"c": {"ulps": 10**18}}}, {"targets": {"rust": {"ulps": 0}}}, {"sha256": "0"},
    ]  # fmt: skip
    of_exit = ({"extra": 1}, {"file": "../x"}, {"inputs": [{"name": "x"}]}, {"threshold": "1"})
    of_graphs = [{"exits": [{**graphs["exits"][0], **change}]} for change in of_exit]
    for manifest, wrong in ((bundle, changes), (graphs, of_graphs)):
        assert_valid(manifest)
        less = [{n: value for n, value in manifest.items() if n != name} for name in manifest]
        for other in (*less, *({**manifest, **change} for change in wrong)):
            assert not validator(rules.schema_of(manifest)).is_valid(other), other


def test_unknown_and_missing_fields_are_invalid_at_every_level():
    """Of objects whose fields are fixed."""
    content = artifact(policies()["mixture of two scores"])
    tried = 0
    for path in ((), *(p for p in paths(content) if p[0] != "provenance")):
        for change in ("add", "drop"):
            other = at = copy.deepcopy(content)
            for key in path:
                at = at[key]
            if isinstance(at, dict) and (at or change == "add"):
                at.update(colour=1) if change == "add" else at.pop(next(iter(at)))
                tried += 1
                assert not validator("policy.schema.json").is_valid(other), (path, change)
    assert tried >= 18
    assert not validator("policy.schema.json").is_valid({**content, "costs": ["a", 2, 3]})
