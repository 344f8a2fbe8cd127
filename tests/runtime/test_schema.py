"""The schemas in docs/: up to date, of every rule, true to every file that is or was written."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec

import jsonschema
import pytest
from rules import (
    ANSWERS,
    CONFIDENCES,
    DOCS,
    SCORES,
    artifact,
    assert_valid,
    experts,
    online_policies,
    policies,
    validator,
)  # fmt: skip

from policyopt._export.bundle import write_bundle
from policyopt._export.samples import golden_of
from policyopt._export.schema import schemas
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._answers import ANSWERS as KNOWN_ANSWERS
from policyopt.runtime._artifact import experts_to_dict, load_policy, to_dict
from policyopt.runtime._calibrators import CALIBRATORS as KNOWN_CONFIDENCES
from policyopt.runtime._scores import RULES


def test_the_files_in_docs_are_what_the_code_makes():
    made = schemas()
    assert {path.name for path in DOCS.glob("*.schema.json")} == set(made)
    for file, schema in made.items():
        text = (DOCS / file).read_text()
        again = "python -m policyopt._export.schema docs"
        assert text == json.dumps(schema, indent=1) + "\n", f"{file} is stale: {again}"


def test_every_rule_has_a_sample():
    assert set(SCORES) == set(RULES)
    assert set(ANSWERS) == set(KNOWN_ANSWERS) and set(CONFIDENCES) == set(KNOWN_CONFIDENCES)


@pytest.mark.parametrize("name", list(policies()))
def test_policies_are_valid(name):
    assert_valid(artifact(policies()[name]))


def test_experts_and_online_policies_are_valid(tmp_path):
    assert_valid(json.loads(json.dumps(experts_to_dict(experts()))))
    for number, online in enumerate(online_policies().values()):
        online.save(tmp_path / f"{number}.json")
        assert_valid(json.loads((tmp_path / f"{number}.json").read_text()))


def test_golden_files_are_valid(root):
    for path in (root / "tests" / "golden").glob("policy_*.json"):
        assert_valid(json.loads(path.read_text()))
        assert_valid(to_dict(load_policy(path)))  # as it would be written now


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Return an export of a mixture that draws by a coin, with ONNX graphs where onnx is."""
    folder = tmp_path_factory.mktemp("schema") / "out"
    policy = policies()["mixture of one score"]
    onnx = find_spec("onnx") is not None
    golden = golden_of(policy, trace_policy(policy), rows=20)
    write_bundle(policy, folder, ["python", "c", *["onnx"] * onnx], golden)
    return folder


def test_manifests_of_exports_are_valid(export):
    manifest = json.loads((export / "manifest.json").read_text())
    assert_valid(manifest)
    changes = [
        {"extra": 1}, {"version": 9}, {"rows": 0}, {"targets": {}}, {"files": {}}, {"score": "X!"},
        {"targets": {"c": {"ulps": 10**18}}}, {"targets": {"rust": {"ulps": 0}}}, {"sha256": "0"},
    ]  # fmt: skip
    for change in changes:
        assert not validator("export.schema.json").is_valid({**manifest, **change}), change
    for name in manifest:
        less = {n: value for n, value in manifest.items() if n != name}
        assert not validator("export.schema.json").is_valid(less), name


def test_manifests_of_onnx_graphs_are_valid(export):
    pytest.importorskip("onnx")
    manifest = json.loads((export / "onnx" / "manifest.json").read_text())
    assert manifest["coin"] is not None and manifest["exits"][1]["states"]
    assert_valid(manifest)
    entry = manifest["exits"][0]
    for change in ({"extra": 1}, {"file": "../x"}, {"inputs": [{"name": "x"}]}, {"threshold": "1"}):
        other = {**manifest, "exits": [{**entry, **change}]}
        assert not validator("onnx.schema.json").is_valid(other), change
    for name in manifest:
        less = {n: value for n, value in manifest.items() if n != name}
        assert not validator("onnx.schema.json").is_valid(less), name


def _objects(node, path=()):
    """Yield the path of every object whose fields are fixed."""
    if isinstance(node, dict) and path[:1] != ("provenance",):
        yield path
        for key, value in node.items():
            yield from _objects(value, (*path, key))


def test_unknown_and_missing_fields_are_invalid_at_every_level():
    content = artifact(policies()["mixture of two scores"])
    tried = 0
    for path in _objects(content):
        for change in ("add", "drop"):
            other = copy.deepcopy(content)
            at = other
            for key in path:
                at = at[key]
            if change == "add":
                at["colour"] = 1
            elif at:
                at.pop(next(iter(at)))
            else:
                continue  # a rule without parameters
            tried += 1
            assert not validator("policy.schema.json").is_valid(other), (path, change)
    assert tried >= 18
    with pytest.raises(jsonschema.ValidationError):
        validator("policy.schema.json").validate({**content, "costs": ["a", 2, 3]})
