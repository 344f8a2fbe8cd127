"""JSON Schemas (draft 2020-12) of all policy files and manifests, made from what the loaders know.

``python -m policyopt._export.schema DIR`` writes them; those in ``docs/`` are written so, and a test
holds them to it. Fields come from the loaders, rules and their parameters from the registries.

A schema cannot say all that a loader checks (shapes that must fit each other, thresholds per exit,
the checksum): what loads is valid, what is valid may still be refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from policyopt.runtime import _artifact as artifact
from policyopt.runtime._answers import ANSWERS
from policyopt.runtime._bandits import BANDITS
from policyopt.runtime._calibrators import CALIBRATORS
from policyopt.runtime._checks import MAX_UNIT
from policyopt.runtime._experts import MAX_CONTEXTS
from policyopt.runtime._files import write_file
from policyopt.runtime._online import serving as online_file
from policyopt.runtime._online.family import Controller
from policyopt.runtime._online.serving import EXIT_RULES as BY_EXIT
from policyopt.runtime._outputs import KINDS
from policyopt.runtime._parameters import Array, Choice
from policyopt.runtime._scores import OWN

from . import manifest, onnx_folder
from .onnx_graphs import IR, OPSET
from .rounding import MACHINE

Schema = dict[str, Any]
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
NUMBER: Schema = {"type": "number"}


def _nested(depth: int) -> Schema:
    """Return the schema of numbers so many lists deep."""
    return {"type": "array", "items": _nested(depth - 1)} if depth else NUMBER


def or_null(schema: Schema) -> Schema:
    """Return the schema of the same or nothing."""
    return {"anyOf": [schema, {"type": "null"}]}


_LEVELS = [_nested(depth) for depth in range(5)]
_PLAIN: Mapping[str, Schema] = {
    "int": {"type": "integer"}, "float": NUMBER, "float | None": or_null(NUMBER),
    "str": {"type": "string"}, "bool": {"type": "boolean"}, "tuple[float, ...]": _LEVELS[1],
}  # fmt: skip


def object_of(properties: Mapping[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    """Return the schema of an object of exactly these fields."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def rule_schema(rule: type, inner: str = "params") -> Schema:
    """Return the schema of a rule by name: its parameters are the fields that its class declares.

    Examples
    --------
    >>> from policyopt.runtime._scores import Entropy
    >>> rule_schema(Entropy)["properties"]["params"]["properties"]
    {'classes': {'type': 'integer'}}
    """
    given: tuple[Field[Any], ...] = fields(rule)
    found = {field.name: _field_schema(field) for field in given}
    optional = tuple(f.name for f in given if f.default is not MISSING)
    name = getattr(rule, "name")  # noqa: B009
    return object_of({"name": {"const": name}, inner: object_of(found, optional)})


def _field_schema(field: Field[Any]) -> Schema:
    spec = field.metadata.get("spec")
    if isinstance(spec, Choice):
        return {"enum": list(spec.names)}
    if isinstance(spec, Array):
        nested = _LEVELS[len(spec.shape) + bool(spec.each)]
        return or_null(nested) if spec.optional else nested
    return _PLAIN[str(field.type)]


def _any_of(rules: Mapping[str, type]) -> Schema:
    return {"oneOf": [rule_schema(rules[n]) for n in sorted(rules)]}


def _policy_schema() -> Schema:
    score = {"$ref": "#/$defs/score"}
    mixture = {"thresholds": _LEVELS[1], "share": {**NUMBER, "minimum": 0, "maximum": 1}}
    mixture |= {"seed": {"type": "integer"}, "score": or_null(score)}
    costs = {"type": "array", "items": {**NUMBER, "minimum": 0}, "minItems": 1}
    count = {"type": "integer", "minimum": 0}
    known: dict[str, Schema] = {
        "format": {"const": artifact.FORMAT},
        "version": {"const": artifact.VERSION},
        "kind": {"enum": list(KINDS)},
        "classes": count,
        "unit": {"type": "string", "minLength": 1, "maxLength": MAX_UNIT},
        "costs": costs,
        "overhead": costs,
        "kept": or_null({"type": "array", "items": count, "minItems": 1, "uniqueItems": True}),
        "model_exits": {**count, "minimum": 1},
        "score": score,
        "answer": {"$ref": "#/$defs/answer"},
        "confidence": or_null({"$ref": "#/$defs/confidence"}),
        "thresholds": _LEVELS[1],
        "mixture": or_null(object_of(mixture)),
        "provenance": {"type": "object"},
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    }
    return object_of({name: known[name] for name in artifact.FIELDS})


def _experts_schema() -> Schema:
    name = {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}
    many = {"type": "array", "minItems": 1, "maxItems": MAX_CONTEXTS}
    known: dict[str, Schema] = {
        "format": {"const": artifact.EXPERTS_FORMAT},
        "version": {"const": artifact.EXPERTS_VERSION},
        "contexts": {**many, "items": name, "uniqueItems": True},
        "policies": {**many, "items": {"$ref": "#/$defs/policy"}},
        "provenance": {"type": "object"},
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    }
    return object_of({name: known[name] for name in artifact.EXPERTS_FIELDS})


def _online_schema() -> Schema:
    steering = {**BANDITS, **BY_EXIT, Controller.name: Controller}
    count = {"type": "integer", "minimum": 0}
    settings: dict[str, Schema] = {
        "overhead": {**_LEVELS[1], "minItems": 2, "maxItems": 2}, "reward": {"type": "string"},
        "reveal": {"type": "string"}, "seed": count, "stream": count,
    }  # fmt: skip
    known: dict[str, Schema] = {
        "format": {"const": online_file.FORMAT},
        "version": {"const": online_file.VERSION},
        "saves": {"type": "integer", "minimum": 1},
        "policy": {"$ref": "#/$defs/policy"},
        "thresholds": {**_LEVELS[2], "minItems": 1},
        "labels": or_null(_LEVELS[1]),
        "steering": {"oneOf": [rule_schema(steering[n], "settings") for n in sorted(steering)]},
        "settings": object_of(settings),
        "state": object_of({"requests": count, "player": {"type": "object"}}),
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    }
    return object_of({name: known[name] for name in online_file.FIELDS})


_SHA: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NAME: Schema = {"type": "string"}


def _export() -> Schema:
    """Return the schema of the manifest of an export."""
    amounts = {"type": "array", "items": {**NUMBER, "minimum": 0}}
    known: dict[str, Schema] = {
        "format": {"const": manifest.FORMAT},
        "version": {"const": manifest.VERSION},
        "score": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,63}$"},  # perhaps one of your own
        "answer": {"enum": sorted(ANSWERS)},
        "path": {"type": "array", "items": _COUNT, "minItems": 1, "uniqueItems": True},
        "kind": {"enum": list(KINDS)},
        "classes": _COUNT,
        "unit": {**_NAME, "maxLength": MAX_UNIT},
        "costs": {**amounts, "minItems": 1},
        "rows": {**_COUNT, "minimum": 1},
        "edges": _COUNT,
        "left_out": object_of({"rows": _COUNT, "of": _COUNT, "ulps": amounts}),
        "targets": {
            **object_of(
                {t: object_of({"ulps": {"const": manifest.ULPS[t]}}) for t in manifest.TARGETS},
                manifest.TARGETS,
            ),
            "minProperties": 1,
        },
        "machine": object_of(
            {
                name: {"type": "array", "items": _NAME} if name == "features" else _NAME
                for name in MACHINE
            }
        ),
        "files": {
            "type": "object", "additionalProperties": _SHA,
            "required": [manifest.POLICY, manifest.GOLDEN, manifest.EDGES],
        },
        "sha256": _SHA,
    }  # fmt: skip
    return object_of({name: known[name] for name in manifest.FIELDS})


def _onnx() -> Schema:
    """Return the schema of the manifest of ONNX graphs."""
    put = object_of(
        {
            "name": _NAME, "dtype": _NAME,
            "shape": {
                "type": "array", "prefixItems": [{"const": "n"}],
                "items": {**_COUNT, "minimum": 1}, "minItems": 1,
            },
        }
    )  # fmt: skip
    puts = {"type": "array", "items": put}
    limit, file = or_null(NUMBER), {"type": "string", "pattern": r"^exit_[0-9]{1,4}\.onnx$"}
    entry: dict[str, Schema] = {
        "exit": _COUNT, "file": file, "sha256": _SHA, "cost": {**NUMBER, "minimum": 0},
        "threshold": limit, "threshold_of_share": limit, "inputs": puts, "outputs": puts,
        "states": {"type": "array", "items": object_of({"output": _NAME, "input": _NAME})},
    }  # fmt: skip
    key = {"type": "string", "pattern": "^0x[0-9A-F]{16}$"}
    coin = object_of({"formula": _NAME, "keys": {"type": "array", "items": key, "minItems": 1}})
    return object_of(
        {
            "format": {"const": onnx_folder.FORMAT},
            "version": {"const": onnx_folder.VERSION},
            "opset": {"const": OPSET},
            "ir_version": {"const": IR},
            "policy_sha256": _SHA,
            "kind": {"enum": list(KINDS)},
            "classes": _COUNT,
            "model_exits": {**_COUNT, "minimum": 1},
            "unit": {**_NAME, "maxLength": MAX_UNIT},
            "share": or_null({**NUMBER, "minimum": 0, "maximum": 1}),
            "coin": or_null(coin),
            "tolerance_ulps": {"const": manifest.ULPS["onnx"]},
            "exits": {"type": "array", "items": object_of(entry), "minItems": 1},
        }
    )


def manifest_schemas() -> dict[str, tuple[str, str, Schema]]:
    """Return title, description and schema of each manifest by the name of the schema's file."""
    export = "What is in the folder, with checksums. What it says of the policy is what policy.json says."
    onnx = (
        "The exits' graphs in order, their inputs and outputs, and which output feeds which input."
    )
    title = "the manifest of {}, version {}".format
    return {
        "export.schema.json": (title("an export", manifest.VERSION), export, _export()),
        "onnx.schema.json": (title("ONNX graphs", onnx_folder.VERSION), onnx, _onnx()),
    }


def schemas() -> dict[str, Schema]:
    """Return every schema by the name of its file."""
    parts = {
        "score": _any_of({rule.name: rule for rule in OWN}),
        "answer": _any_of(ANSWERS),
        "confidence": _any_of(CALIBRATORS),
    }
    policy = _policy_schema()
    nested = {**parts, "policy": policy}
    found = {
        "policy.schema.json": _whole("a policy file", "Scores of your own are not in it.", policy, parts),
        "experts.schema.json": _whole(
            "a file of expert policies", "One policy per context.", _experts_schema(), nested
        ),
        "online.schema.json": _whole(
            "a file of an online policy",
            "A policy, its levels, who steers it, and what was learned so far.",
            _online_schema(), nested,
        ),
    }  # fmt: skip
    for file, (title, description, schema) in manifest_schemas().items():
        found[file] = _whole(title, description, schema, {})
    return found


def _whole(title: str, description: str, schema: Schema, parts: Mapping[str, Schema]) -> Schema:
    head = {"$schema": _DRAFT, "title": f"policyopt: {title}", "description": description}
    used = {n: p for n, p in parts.items() if "policy" in parts or f"#/$defs/{n}" in str(schema)}
    return {**head, **schema, "$defs": used}


if __name__ == "__main__":
    for file, schema in schemas().items():
        write_file(Path(sys.argv[1]) / file, json.dumps(schema, indent=1) + "\n")
