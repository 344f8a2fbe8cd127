"""Reading an artifact's content: every field checked, for it may come from anyone."""

from __future__ import annotations

from typing import Any

import numpy as np

from .answers import make_answer
from .confidence import make_confidence
from .decision import Mixture
from .errors import InputError, input_error
from .output import KINDS
from .parameters import numbers
from .policy import Policy
from .scores import make_rule
from .strict_json import digest_of

__all__ = ["FIELDS", "FORMAT", "VERSION", "digest_of", "from_dict", "known_fields"]

FORMAT = "policyopt-policy"
VERSION = 3
FIELDS = {
    "format": str, "version": int, "kind": str, "classes": int, "unit": str, "costs": list,
    "overhead": list, "kept": (list, type(None)), "model_exits": int, "score": dict,
    "answer": dict, "confidence": (dict, type(None)), "thresholds": list,
    "mixture": (dict, type(None)), "provenance": dict, "sha256": str,
}  # fmt: skip
#: The version that each field came with; those not named came with the first.
_SINCE = {"overhead": 2, "confidence": 2, "kept": 3, "model_exits": 3}


def from_dict(content: Any, source: str = "policy") -> Policy:
    """Build a policy from an artifact's content, checked.

    Parameters
    ----------
    content : dict
    source : str
        Name used in errors.

    Returns
    -------
    Policy

    Raises
    ------
    InputError
        Not an artifact, another version, unknown or missing fields, changed since written.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise input_error(
            source,
            f"a policy file (format '{FORMAT}')",
            "something else",
            "`policyopt fit` writes one.",
        )
    version = content.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        allowed = f"from 1 to {VERSION}"
        raise input_error(
            f"version of {source}", allowed, version, "Use a policyopt that knows it."
        )
    known = known_fields(version)
    for kind_of, names in (
        ("unknown", content.keys() - known),
        ("missing", known.keys() - content),
    ):
        if names:
            raise InputError(
                f"'{source}' has {kind_of} fields: {', '.join(sorted(names))}. Fit and save it again."
            )
    for name, type_ in known.items():
        if not isinstance(content[name], type_) or isinstance(content[name], bool):
            raise input_error(
                f"{name} in {source}", f"of type {type_}", content[name], "Fit and save it again."
            )
    body = {name: value for name, value in content.items() if name != "sha256"}
    try:
        digest = digest_of(body)
    except ValueError as error:  # a number too large for a float reads as infinity
        raise input_error(
            source, "free of infinite numbers", str(error), "Fit and save it again."
        ) from error
    if digest != content["sha256"]:
        raise InputError(
            f"'{source}' was changed after it was written: its checksum differs. Fit and save it again."
        )
    if content["kind"] not in KINDS:
        raise input_error(f"kind in {source}", f"one of {KINDS}", content["kind"], "Fit it again.")
    if version > 1 and len(content["overhead"]) != len(content["costs"]):
        got = f"{len(content['overhead'])} for {len(content['costs'])} exits"
        raise input_error(
            f"overhead in {source}", "one number per cost", got, "Fit and save it again."
        )
    if version > 2 and content["model_exits"] < 1:
        got = content["model_exits"]
        raise input_error(f"model_exits in {source}", "1 or more", got, "Fit and save it again.")
    if version < 3:
        content = {**content, "kept": None, "model_exits": len(content["costs"])}
    if version == 1:
        content = _from_version_1(content, source)
    try:
        mixture = content["mixture"]
        if mixture is not None:
            _exactly("mixture", mixture, {"thresholds", "share", "seed", "score"})
            if type(mixture["share"]) not in (int, float) or type(mixture["seed"]) is not int:
                raise input_error(
                    "mixture", "a number as share, a whole one as seed", mixture, "Fit it again."
                )
            score = mixture["score"]
            mixture = Mixture(
                numbers("thresholds of the mixture", mixture["thresholds"], 1),
                float(mixture["share"]),
                mixture["seed"],
                None if score is None else make_rule(*_name_params("score", score)),
            )
        confidence = content["confidence"]
        return Policy(
            rule=make_rule(*_name_params("score", content["score"])),
            thresholds=_list("thresholds", content["thresholds"]),
            costs=_list("costs", content["costs"]),
            unit=content["unit"],
            kind=content["kind"],
            classes=content["classes"],
            mixture=mixture,
            provenance=content["provenance"],
            answer=make_answer(*_name_params("answer", content["answer"])),
            overhead=_list("overhead", content["overhead"]),
            confidence=None
            if confidence is None
            else make_confidence(*_name_params("confidence", confidence)),
            kept=content["kept"],
            model_exits=content["model_exits"],
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise input_error(
            source, "a whole policy file, its numbers finite", str(error), "Fit and save it again."
        ) from error


def known_fields(version: int) -> dict[str, Any]:
    """Return the fields that a version has, with their types.

    Examples
    --------
    >>> sorted(known_fields(3).keys() - known_fields(1))
    ['confidence', 'kept', 'model_exits', 'overhead']
    """
    return {name: t for name, t in FIELDS.items() if version >= _SINCE.get(name, 1)}


def _list(name: str, value: list[Any]) -> Any:
    """Return a list of numbers; of a one-exit policy's thresholds there are none."""
    return numbers(name, value, 1) if value else np.empty(0)


def _name_params(field: str, value: Any) -> tuple[str, dict[str, Any]]:
    _exactly(field, value, {"name", "params"})
    return value["name"], value["params"]


def _exactly(field: str, value: Any, names: set[str]) -> None:
    if not isinstance(value, dict) or value.keys() != names:
        raise input_error(
            field, f"a mapping of {', '.join(sorted(names))}", value, "Fit and save it again."
        )


def _from_version_1(content: dict[str, Any], source: str) -> dict[str, Any]:
    if content["answer"] != {"name": "plain"}:
        raise input_error(f"answer in {source}", "plain", content["answer"], "Fit it again.")
    mixture = content["mixture"]
    if mixture is not None:
        _exactly("mixture", mixture, {"thresholds", "share", "seed"})
    return {
        **content,
        "overhead": [0.0] * len(content["costs"]),
        "confidence": None,
        "answer": {"name": "plain", "params": {}},
        "mixture": mixture if mixture is None else {**mixture, "score": None},
    }
