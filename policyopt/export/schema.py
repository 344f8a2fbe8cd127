"""JSON Schemas (draft 2020-12) of all policy files and manifests, made from what the loaders know.

``python -m policyopt.export.schema DIR`` writes them; those in ``docs/`` are written so, and a test
holds them to it. Fields come from the loaders, rules and their parameters from the registries: a
rule whose array parameters are not described in `ARRAYS` ends in an error, not in a stale schema.

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

from policyopt.runtime import content, experts_file
from policyopt.runtime.answers import ANSWERS
from policyopt.runtime.bandits import BANDITS
from policyopt.runtime.checks import MAX_UNIT
from policyopt.runtime.confidence import CONFIDENCES
from policyopt.runtime.contexts import MAX_CONTEXTS
from policyopt.runtime.errors import input_error
from policyopt.runtime.features import FEATURES
from policyopt.runtime.files import write_file
from policyopt.runtime.online import online_file
from policyopt.runtime.online.by_exit import RULES as BY_EXIT
from policyopt.runtime.online.controller import Controller
from policyopt.runtime.output import KINDS
from policyopt.runtime.prototypes import SPACES
from policyopt.runtime.scores import RULES
from policyopt.runtime.scores.network import ACTIVATIONS
from policyopt.runtime.scores.similarity import MEASURES

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
_HISTORY = {
    "features": {"enum": list(FEATURES)}, "center": _LEVELS[2], "scale": _LEVELS[2],
    "weights": _LEVELS[2], "offset": _LEVELS[1],
}  # fmt: skip
_POINTS = {
    "space": {"enum": list(SPACES)}, "points": _LEVELS[3], "owner": _LEVELS[2],
    "projection": or_null(_LEVELS[3]),
}  # fmt: skip
#: Of each rule, the parameters that are not plain numbers; its plain ones are read off its fields.
ARRAYS: Mapping[str, Mapping[str, Schema]] = {
    "advantage": _HISTORY, "halting": _HISTORY, "logistic": _HISTORY,
    "beem": {"weights": _LEVELS[1]}, "class_offset": {"offset": _LEVELS[1]},
    "window": {"middle": _LEVELS[1]}, "similarity": {"measure": {"enum": list(MEASURES)}},
    "eenet": {"shared": _LEVELS[3], "utility": _LEVELS[2]},
    "eenet_released": {"weights": _LEVELS[2]},
    "network": {
        **_HISTORY, "activation": {"enum": list(ACTIVATIONS)}, "weights": _LEVELS[4],
        "biases": _LEVELS[3],
    },
    "trust_score": _POINTS, "de3_bert": _POINTS, "e2cm": {**_POINTS, "norm": _LEVELS[2]},
    "combined": {"weights": _LEVELS[2], "bias": or_null(_LEVELS[2])},
    "temperature": {"temperatures": _LEVELS[1]},
    "vector": {"scale": _LEVELS[2], "bias": _LEVELS[2]},
    "platt": {"slope": _LEVELS[1], "offset": _LEVELS[1]},
    "beta": {"a": _LEVELS[1], "b": _LEVELS[1], "c": _LEVELS[1]},
    "isotonic": {"knots": _LEVELS[2], "values": _LEVELS[2]},
    "histogram": {"edges": _LEVELS[2], "values": _LEVELS[2]},
}  # fmt: skip
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


def rule_schema(rule: type, arrays: Mapping[str, Schema], inner: str = "params") -> Schema:
    """Return the schema of a rule by name: its parameters are the fields of its class.

    Raises
    ------
    InputError
        A parameter that nothing describes.

    Examples
    --------
    >>> rule_schema(RULES["entropy"], {})["properties"]["params"]["properties"]
    {'classes': {'type': 'integer'}}
    """
    given: tuple[Field[Any], ...] = fields(rule)
    found, name = {}, getattr(rule, "name")  # noqa: B009
    for field in given:
        schema = arrays.get(field.name, _PLAIN.get(str(field.type)))
        if schema is None:
            step = "Describe it in ARRAYS of policyopt/export/schema.py."
            raise input_error(
                f"{field.name} of {name}", "described in its schema", field.type, step
            )
        found[field.name] = schema
    optional = tuple(f.name for f in given if f.default is not MISSING)
    return object_of({"name": {"const": name}, inner: object_of(found, optional)})


def _any_of(rules: Mapping[str, type]) -> Schema:
    return {"oneOf": [rule_schema(rules[n], ARRAYS.get(n, {})) for n in sorted(rules)]}


def policy_schema(version: int) -> Schema:
    """Return the schema of a policy file of one version, its parts by ``#/$defs``.

    Examples
    --------
    >>> "kept" in policy_schema(2)["properties"], "kept" in policy_schema(3)["properties"]
    (False, True)
    """
    score = {"$ref": "#/$defs/score"}
    mixture = {"thresholds": _LEVELS[1], "share": {**NUMBER, "minimum": 0, "maximum": 1}}
    mixture |= {"seed": {"type": "integer"}}
    if version > 1:
        mixture |= {"score": or_null(score)}
    costs = {"type": "array", "items": {**NUMBER, "minimum": 0}, "minItems": 1}
    count = {"type": "integer", "minimum": 0}
    known: dict[str, Schema] = {
        "format": {"const": content.FORMAT},
        "version": {"const": version},
        "kind": {"enum": list(KINDS)},
        "classes": count,
        "unit": {"type": "string", "minLength": 1, "maxLength": MAX_UNIT},
        "costs": costs,
        "overhead": costs,
        "kept": or_null({"type": "array", "items": count, "minItems": 1, "uniqueItems": True}),
        "model_exits": {**count, "minimum": 1},
        "score": score,
        "answer": {"$ref": "#/$defs/answer"} if version > 1 else object_of({"name": {"const": "plain"}}),
        "confidence": or_null({"$ref": "#/$defs/confidence"}),
        "thresholds": _LEVELS[1],
        "mixture": or_null(object_of(mixture)),
        "provenance": {"type": "object"},
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    }  # fmt: skip
    return object_of({name: known[name] for name in content.known_fields(version)})


def _experts_schema() -> Schema:
    name = {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}
    many = {"type": "array", "minItems": 1, "maxItems": MAX_CONTEXTS}
    known: dict[str, Schema] = {
        "format": {"const": experts_file.FORMAT},
        "version": {"const": experts_file.VERSION},
        "contexts": {**many, "items": name, "uniqueItems": True},
        "policies": {**many, "items": {"$ref": "#/$defs/policy"}},
        "provenance": {"type": "object"},
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    }
    return object_of({name: known[name] for name in experts_file.FIELDS})


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
        "steering": {"oneOf": [rule_schema(steering[n], {}, "settings") for n in sorted(steering)]},
        "settings": object_of(settings),
        "state": object_of({"requests": count, "player": {"type": "object"}}),
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    }
    return object_of({name: known[name] for name in online_file.FIELDS})


def schemas() -> dict[str, Schema]:
    """Return every schema by the name of its file: the present version of a policy, and older ones."""
    parts = {
        "score": _any_of(RULES),
        "answer": _any_of(ANSWERS),
        "confidence": _any_of(CONFIDENCES),
    }
    from .manifest_schemas import manifest_schemas  # of the pieces above

    versions = range(content.VERSION, 0, -1)
    nested = {**parts, "policy": {"anyOf": [policy_schema(v) for v in versions]}}
    differs = {
        1: "No overhead, confidence, kept and model_exits; plain answers; mixtures of one score.",
        2: "No kept and model_exits: the policy runs every exit.",
        3: "The version that is written.",
    }
    found = {}
    for v in versions:
        file = "policy.schema.json" if v == content.VERSION else f"policy_v{v}.schema.json"
        found[file] = _whole(f"a policy file, version {v}", differs[v], policy_schema(v), parts)
    experts = "One policy per context; a policy may be of any version."
    found["experts.schema.json"] = _whole(
        "a file of expert policies, version 1", experts, _experts_schema(), nested
    )
    online = "A policy, its rungs, who steers it, and what was learned so far."
    found["online.schema.json"] = _whole(
        "a file of an online policy, version 1", online, _online_schema(), nested
    )
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
