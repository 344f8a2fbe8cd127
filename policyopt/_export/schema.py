"""JSON Schemas (draft 2020-12) of all policy files and manifests, made from loaders and registries.

``python -m policyopt._export.schema DIR`` writes them; a test holds those in ``docs/`` to it. What loads is valid;
what is valid may still be refused (shapes that must fit each other, checksums).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from policyopt.runtime._answers import ANSWERS
from policyopt.runtime._bandits import BANDITS
from policyopt.runtime._calibrators import CALIBRATORS
from policyopt.runtime._checks import MAX_UNIT
from policyopt.runtime._experts import EXPERTS, MAX_CONTEXTS
from policyopt.runtime._family import FAMILY, LEVELS, MAX_LEVELS, RULES
from policyopt.runtime._files import write_file
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._online.controller import Controller
from policyopt.runtime._online.serving import EXIT_RULES as BY_EXIT
from policyopt.runtime._online.serving import ONLINE
from policyopt.runtime._parameters import Array, Choice, fields_of
from policyopt.runtime._policy import POLICY
from policyopt.runtime._query import Query
from policyopt.runtime._routing import MAX_KNOTS, MAX_MODELS, MAX_STANDINGS, ROUTING
from policyopt.runtime._scores import OWN
from policyopt.runtime._scores.history import Hidden
from policyopt.runtime._strict_json import Form

from . import bundle, onnx_graphs
from .bundle import EXPORT
from .rounding import MACHINE, ULPS

Schema = dict[str, Any]
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
NUMBER: Schema = {"type": "number"}
AMOUNT: Schema = {**NUMBER, "minimum": 0}
SHARE: Schema = {**AMOUNT, "maximum": 1}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {**WHOLE, "minimum": 0}
TEXT: Schema = {"type": "string"}
SHA: Schema = {**TEXT, "pattern": "^[0-9a-f]{64}$"}
ANYTHING: Schema = {"type": "object"}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def or_null(schema: Schema) -> Schema:
    """Return the schema of the same or nothing."""
    return {"anyOf": [schema, {"type": "null"}]}


def _nested(depth: int) -> Schema:
    """Return the schema of numbers so many lists deep."""
    return _list(_nested(depth - 1)) if depth else NUMBER


VECTOR = _nested(1)
EXITS = _list(COUNT, minItems=1, uniqueItems=True)
_PLAIN: Mapping[str, Schema] = {
    "int": WHOLE, "float": NUMBER, "float | None": or_null(NUMBER), "str": TEXT,
    "bool": {"type": "boolean"}, "tuple[float, ...]": VECTOR,
}  # fmt: skip


def object_of(properties: Mapping[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    """Return the schema of an object of exactly these fields."""
    return {
        **ANYTHING, "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }  # fmt: skip


def _file(form: Form, known: Mapping[str, Schema]) -> Schema:
    """Return the schema of a kind of file."""
    head = {"format": {"const": form.format}, "version": {"const": form.version}, "sha256": SHA}
    return _fields_of(form.fields, {**head, **known})


def _fields_of(names: Iterable[str], known: Mapping[str, Schema]) -> Schema:
    """Return the schema of an object of these fields, as far as known; those that end in "?" may be left out."""
    optional = {name.rstrip("?"): name.endswith("?") for name in names}
    found = {name: known[name] for name in optional if name in known}
    return object_of(found, tuple(name for name, left_out in optional.items() if left_out))


def rule_schema(rule: type, inner: str = "params") -> Schema:
    """Return the schema of a rule by name: its parameters are the fields that its class declares."""
    given: tuple[Field[Any], ...] = fields(rule)
    found = {field.name: _field_schema(field) for field in given}
    optional = tuple(f.name for f in given if f.default is not MISSING)
    name = getattr(rule, "name")  # noqa: B009
    return object_of({"name": {"const": name}, inner: object_of(found, optional)})


def _field_schema(field: Field[Any]) -> Schema:
    if field.type == "Hidden | None":
        return or_null(object_of({one.name: _field_schema(one) for one in fields_of(Hidden)}))
    spec = field.metadata.get("spec")
    if isinstance(spec, Choice):
        return {"enum": list(spec.names)}
    if isinstance(spec, Array):
        nested = _nested(len(spec.shape) + bool(spec.each))
        return or_null(nested) if spec.optional else nested
    return _PLAIN[str(field.type)]


def _any_of(rules: Mapping[str, type], inner: str = "params") -> Schema:
    return {"oneOf": [rule_schema(rules[n], inner) for n in sorted(rules)]}


def _policy_fields() -> dict[str, Schema]:
    score, costs = {"$ref": "#/$defs/score"}, _list(AMOUNT, minItems=1)
    mixture = {"thresholds": VECTOR, "share": SHARE, "seed": WHOLE, "score": or_null(score)}
    declines = {
        "thresholds": _list(NUMBER, minItems=1), "score": or_null(score), "cost": AMOUNT, "quality": SHARE,
    }  # fmt: skip
    return {
        "abstention": object_of(declines), "kind": {"enum": list(KINDS)}, "classes": COUNT,
        "unit": {**TEXT, "minLength": 1, "maxLength": MAX_UNIT},
        "costs": costs, "overhead": costs, "active_exits": EXITS,
        "model_exits": {**COUNT, "minimum": 1}, "error_scale": {**NUMBER, "exclusiveMinimum": 0},
        "score": score, "answer": {"$ref": "#/$defs/answer"},
        "calibrator": or_null({"$ref": "#/$defs/calibrator"}),
        "thresholds": VECTOR, "mixture": or_null(object_of(mixture)), "provenance": ANYTHING,
    }  # fmt: skip


def _family() -> Schema:
    own = {
        "rule": COUNT, "name": or_null({**TEXT, "pattern": "^[A-Za-z][A-Za-z0-9_.-]{0,63}$"}),
        "expected_cost": or_null(AMOUNT), "budget": or_null(AMOUNT),
    }  # fmt: skip
    of, routing = _policy_fields(), _routing_fields()
    each = of, {**routing, "arms": {**EXITS, "maxItems": 2, "uniqueItems": False}}
    rules = [_fields_of(names, known) for names, known in zip(RULES, each, strict=True)]
    levels = [
        _fields_of(names, {**known, **own}) for names, known in zip(LEVELS, each, strict=True)
    ]
    known = {
        **of, "full_cost": or_null({**NUMBER, "exclusiveMinimum": 0}),
        "rules": _list({"anyOf": rules}, minItems=1), "arms": {**routing["arms"], "maxItems": 2 * MAX_LEVELS},
        "levels": _list({"anyOf": levels}, minItems=1, maxItems=MAX_LEVELS),
    }  # fmt: skip
    return _file(FAMILY, known)


def _experts() -> Schema:
    name = {**TEXT, "pattern": "^[A-Za-z0-9_.-]{1,64}$"}
    many = {"type": "array", "minItems": 1, "maxItems": MAX_CONTEXTS}
    known = {
        "contexts": {**many, "items": name, "uniqueItems": True},
        "policies": {**many, "items": {"$ref": "#/$defs/policy"}}, "provenance": ANYTHING,
    }  # fmt: skip
    return _file(EXPERTS, known)


def _online() -> Schema:
    settings = {
        "overhead": {**VECTOR, "minItems": 2, "maxItems": 2},
        "offload_at": or_null(_list(COUNT, minItems=1)), "reward": TEXT, "reveal": TEXT,
        "seed": COUNT, "stream": COUNT,
    }  # fmt: skip
    known = {
        "saves": {**WHOLE, "minimum": 1}, "family": {"$ref": "#/$defs/family"},
        "steering": _any_of({**BANDITS, **BY_EXIT, Controller.name: Controller}, "settings"),
        "settings": object_of(settings, ("offload_at",)),
        "state": object_of({"requests": COUNT, "player": ANYTHING}),
    }  # fmt: skip
    return _file(ONLINE, known)


def _routing_fields() -> dict[str, Schema]:
    of, models = _policy_fields(), {"type": "array", "maxItems": MAX_MODELS}
    standing = {
        "called": {**EXITS, "minItems": 0, "maxItems": MAX_MODELS}, "powers": VECTOR,
        "answerer": {**WHOLE, "minimum": -1},
        "actions": {**EXITS, "minItems": 0, "maxItems": MAX_MODELS}, "weights": _nested(2),
        "parts": VECTOR,
    }  # fmt: skip
    standings = _list(object_of(standing), minItems=1, maxItems=MAX_STANDINGS)
    return {
        **{name: of[name] for name in ("classes", "unit", "provenance")},
        "kind": {"enum": [name for name, kind in KINDS.items() if kind.answers_class]},
        "costs": {**models, "items": AMOUNT, "minItems": 1},
        "temper": {**models, "items": NUMBER, "minItems": 1},
        "answers": {**NUMBER, "minimum": 2},
        "knots": {**models, "items": {**VECTOR, "maxItems": MAX_KNOTS}, "minItems": 1},
        "odds": {**models, "items": {**VECTOR, "minItems": 2, "maxItems": 2}, "minItems": 1},
        "timed": {"type": "boolean"}, "share": SHARE, "seed": COUNT, "names": {**models, "items": TEXT},
        "explore": SHARE, "query": rule_schema(Query)["properties"]["params"],
        "arms": _list(object_of({"first": COUNT, "standings": standings}), minItems=1, maxItems=2),
    }  # fmt: skip


def _export() -> Schema:
    """Return the schema of the manifest of an export."""
    targets = {t: object_of({"ulps": {"const": ULPS[t]}}) for t in bundle.TARGETS}
    known = {
        "score": {**TEXT, "pattern": "^[a-z][a-z0-9_]{0,63}$"},  # perhaps one of your own
        "answer": {"enum": sorted([*ANSWERS, "ensemble"])}, "levels": or_null({**COUNT, "minimum": 1}),
        "active_exits": EXITS, "kind": {"enum": list(KINDS)},
        "classes": COUNT, "unit": {**TEXT, "maxLength": MAX_UNIT},
        "costs": _list(AMOUNT, minItems=1), "rows": {**COUNT, "minimum": 1}, "boundary": COUNT,
        "left_out": object_of({"rows": COUNT, "of": COUNT, "ulps": _list(AMOUNT)}),
        "targets": {**object_of(targets, bundle.TARGETS), "minProperties": 1},
        "machine": object_of({n: _list(TEXT) if n == "features" else TEXT for n in MACHINE}),
        "files": {
            **ANYTHING, "additionalProperties": SHA,
            "required": [bundle.POLICY, bundle.GOLDEN, bundle.BOUNDARY],
        },
    }  # fmt: skip
    return _file(EXPORT, known)


def _onnx(routes: bool = False) -> Schema:
    """Return the schema of the manifest of ONNX graphs; `routes`: of a routing policy's."""
    shape = {
        "type": "array", "prefixItems": [{"const": "n"}], "items": {**COUNT, "minimum": 1},
        "minItems": 1,
    }  # fmt: skip
    puts, limit = _list(object_of({"name": TEXT, "dtype": TEXT, "shape": shape})), or_null(NUMBER)
    entry = {
        "exit": COUNT, "file": {**TEXT, "pattern": r"^(exit_[0-9]{1,4}|route|step)\.onnx$"}, "sha256": SHA,
        "cost": AMOUNT, "threshold": limit, "threshold_of_share": limit, "inputs": puts,
        "outputs": puts, "states": _list(object_of({"output": TEXT, "input": TEXT})),
    }  # fmt: skip
    keys = _list({**TEXT, "pattern": "^0x[0-9A-F]{16}$"}, minItems=1)
    own = {"levels": or_null({**COUNT, "minimum": 1}), "exits": _list(object_of(entry), minItems=1)}
    if routes:
        graph = object_of({n: entry[n] for n in ("file", "sha256", "inputs", "outputs")})
        own = {"names": _list(TEXT), "graphs": _list(graph, minItems=2, maxItems=2)}
    return object_of({
        "format": {"const": onnx_graphs.ROUTES if routes else onnx_graphs.FORMAT},
        "version": {"const": onnx_graphs.VERSION},
        "opset": {"const": onnx_graphs.OPSET}, "ir_version": {"const": onnx_graphs.IR},
        "policy_sha256": SHA, "kind": {"enum": list(KINDS)}, "classes": COUNT,
        "model_exits": {**COUNT, "minimum": 1}, "unit": {**TEXT, "maxLength": MAX_UNIT},
        **own, "share": or_null(SHARE),
        "coin": or_null(object_of({"formula": TEXT, "keys": keys})),
        "tolerance_ulps": {"const": ULPS["onnx"]},
    })  # fmt: skip


def schemas() -> dict[str, Schema]:
    """Return every schema by the name of its file."""
    parts = {
        "score": _any_of({rule.name: rule for rule in OWN}), "answer": _any_of(ANSWERS),
        "calibrator": _any_of(CALIBRATORS),
    }  # fmt: skip
    policy, family = _file(POLICY, _policy_fields()), _family()
    nested, title = {**parts, "policy": policy}, "the manifest of {}, version {}".format
    found = {
        "policy": ("a policy file", "Scores of your own are not in it.", policy, parts),
        "experts": ("a file of expert policies", "One policy per context.", _experts(), nested),
        "family": (
            "a file of a policy family", "Levels from the cheapest to the dearest, their rules once each.",
            family, parts,
        ),
        "online": (
            "a file of an online policy", "A family, who steers it, and what was learned so far.",
            _online(), {**parts, "family": family},
        ),
        "routing": (
            "a file of a routing policy", "Which model first, and, by what has been called, which next.",
            _file(ROUTING, _routing_fields()), {},
        ),
        "export": (
            title("an export", EXPORT.version), "What is in the folder, with checksums. What it "
            "says of the policy is what policy.json says.", _export(), {},
        ),
        "onnx": (
            title("ONNX graphs", onnx_graphs.VERSION), "The exits' graphs in order, their inputs "
            "and outputs, and which output feeds which input.", _onnx(), {},
        ),
        "onnx-routing": (
            title("ONNX graphs of a routing policy", onnx_graphs.VERSION), "The graph that decides for "
            "a batch, that of a step, and their inputs and outputs.", _onnx(routes=True), {},
        ),
    }  # fmt: skip
    return {f"{name}.schema.json": _whole(*whole) for name, whole in found.items()}


def _whole(title: str, description: str, schema: Schema, parts: Mapping[str, Schema]) -> Schema:
    head = {"$schema": _DRAFT, "title": f"policyopt: {title}", "description": description}
    used = {n: p for n, p in parts.items() if len(parts) > 3 or f"#/$defs/{n}" in str(schema)}
    return {**head, **schema, "$defs": used}


if __name__ == "__main__":
    for file, schema in schemas().items():
        write_file(Path(sys.argv[1]) / file, json.dumps(schema, indent=1) + "\n")
