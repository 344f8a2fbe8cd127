"""The schemas in docs/: up to date, of every rule, true to every file that is or was written."""

from __future__ import annotations

import json

import pytest
import rules
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


def test_manifests_of_exports_are_valid_and_those_of_fewer_fields_are_not(tmp_path):
    """Of a mixture that draws by a coin, ONNX graphs too."""
    pytest.importorskip("onnx")
    policy, out = policies()["mixture of two scores"], tmp_path / "out"
    golden = golden_of(policy, trace_policy(policy), rows=20)
    write_bundle(policy, out, ["python", "c", "onnx"], golden)
    bundle, graphs = (json.loads((out / at / "manifest.json").read_text()) for at in ("", "onnx"))
    for content in (bundle, graphs, artifact(policy)):
        assert_valid(content)
        less = [{n: value for n, value in content.items() if n != name} for name in content]
        for wrong in (*less, {**content, "extra": 1}, {**content, "version": 9}):
            assert not validator(rules.schema_of(content)).is_valid(wrong), wrong
