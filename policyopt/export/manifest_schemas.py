"""JSON Schemas of the manifests: of an export, and of its ONNX graphs."""

from __future__ import annotations

from policyopt.runtime.answers import ANSWERS
from policyopt.runtime.checks import MAX_UNIT
from policyopt.runtime.output import KINDS
from policyopt.runtime.scores import RULES

from . import machine, manifest, onnx_manifest
from .onnx_builder import OPSET
from .schema import NUMBER, Schema, object_of, or_null

_SHA: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NAME: Schema = {"type": "string"}


def _export() -> Schema:
    """Return the schema of the manifest of an export."""
    amounts = {"type": "array", "items": {**NUMBER, "minimum": 0}}
    known: dict[str, Schema] = {
        "format": {"const": manifest.FORMAT},
        "version": {"const": manifest.VERSION},
        "score": {"enum": sorted(RULES)},
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
                for name in machine.FIELDS
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
            "format": {"const": onnx_manifest.FORMAT},
            "version": {"const": onnx_manifest.VERSION},
            "opset": {"const": OPSET},
            "ir_version": {"const": onnx_manifest.IR},
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
    return {
        "export.schema.json": (
            f"the manifest of an export, version {manifest.VERSION}",
            export,
            _export(),
        ),
        "onnx.schema.json": (
            f"the manifest of ONNX graphs, version {onnx_manifest.VERSION}",
            onnx,
            _onnx(),
        ),
    }
