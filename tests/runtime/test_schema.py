"""The schemas in docs/: up to date, of every rule, true to every file that is or was written."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec

import pytest
import rules
from mutations import paths
from rules import artifact, assert_valid, policies, validator

from policyopt._export.bundle import write_bundle
from policyopt._export.samples import golden_of
from policyopt._export.schema import schemas
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._answers import ANSWERS as KNOWN_ANSWERS
from policyopt.runtime._calibrators import CALIBRATORS as KNOWN_CALIBRATORS
from policyopt.runtime._experts import experts_to_dict
from policyopt.runtime._policy import load_policy, to_dict
from policyopt.runtime._scores import RULES


def test_the_files_in_docs_are_what_the_code_makes():
    made = schemas()
    assert {path.name for path in rules.DOCS.glob("*.schema.json")} == set(made)
    for file, schema in made.items():
        text = (rules.DOCS / file).read_text()
        again = "python -m policyopt._export.schema docs"
        assert text == json.dumps(schema, indent=1) + "\n", f"{file} is stale: {again}"


def test_every_rule_has_a_sample():
    assert set(rules.SCORES) == set(RULES)
    assert set(rules.ANSWERS) == set(KNOWN_ANSWERS) and set(rules.CALIBRATORS) == set(
        KNOWN_CALIBRATORS
    )


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


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Return an export of a mixture that draws by a coin, with ONNX graphs where onnx is."""
    folder = tmp_path_factory.mktemp("schema") / "out"
    policy = policies()["mixture of one score"]
    onnx = find_spec("onnx") is not None
    golden = golden_of(policy, trace_policy(policy), rows=20)
    write_bundle(policy, folder, ["python", "c", *["onnx"] * onnx], golden)
    return folder


def _refuses(schema, manifest, others):
    """Each of these changes, and each field left out, is invalid."""
    assert_valid(manifest)
    less = [{n: value for n, value in manifest.items() if n != name} for name in manifest]
    for other in (*others, *less):
        assert not validator(schema).is_valid(other), other


def test_manifests_of_exports_are_valid(export):
    manifest = json.loads((export / "manifest.json").read_text())
    changes = [
        {"extra": 1}, {"version": 9}, {"rows": 0}, {"targets": {}}, {"files": {}}, {"score": "X!"},
        {"targets": {"c": {"ulps": 10**18}}}, {"targets": {"rust": {"ulps": 0}}}, {"sha256": "0"},
    ]  # fmt: skip
    _refuses("export.schema.json", manifest, [{**manifest, **change} for change in changes])


def test_manifests_of_onnx_graphs_are_valid(export):
    pytest.importorskip("onnx")
    manifest = json.loads((export / "onnx" / "manifest.json").read_text())
    assert manifest["coin"] is not None and manifest["exits"][1]["states"]
    changes = ({"extra": 1}, {"file": "../x"}, {"inputs": [{"name": "x"}]}, {"threshold": "1"})
    exits = ([{**manifest["exits"][0], **change}] for change in changes)
    _refuses("onnx.schema.json", manifest, [{**manifest, "exits": some} for some in exits])


def test_unknown_and_missing_fields_are_invalid_at_every_level():
    """Of objects whose fields are fixed."""
    content = artifact(policies()["mixture of two scores"])
    objects = [p for p in [(), *paths(content)] if p[:1] != ("provenance",)]
    tried = 0
    for path in objects:
        for change in ("add", "drop"):
            other = at = copy.deepcopy(content)
            for key in path:
                at = at[key]
            if not isinstance(at, dict) or not (at or change == "add"):
                continue  # no object, or a rule without parameters
            at.update(colour=1) if change == "add" else at.pop(next(iter(at)))
            tried += 1
            assert not validator("policy.schema.json").is_valid(other), (path, change)
    assert tried >= 18
    assert not validator("policy.schema.json").is_valid({**content, "costs": ["a", 2, 3]})
