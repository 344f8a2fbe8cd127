"""The artifact: a policy as one JSON file, checked when loaded. Never pickle.

Version 2 holds exactly these fields::

    format      "policyopt-policy"
    version     2
    kind        "logits" | "probabilities" | "record"
    classes     C, 0 where records do not say
    unit        unit of the costs
    costs       K mean cumulative costs, the policy's own arithmetic included
    overhead    K numbers: the part of them that is the policy's own arithmetic
    score       {"name": ..., "params": {...}}
    answer      {"name": "plain" | ..., "params": {...}}
    confidence  null | {"name": "platt" | ..., "params": {...}}: not used to decide
    thresholds  K-1 numbers; 1e30 = never, -1e30 = always
    mixture     null | {"thresholds": [...], "share": s, "seed": n, "score": null | {...}}
    provenance  how it was found: method, configuration, budget, expected cost, cache, versions
    sha256      of all the above in canonical form

Version 1, which is read too, has no overhead and confidence, plain answers, and mixtures of one score rule.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .answers import AnswerRule, make_answer
from .confidence import ConfidenceRule, make_confidence
from .decision import Mixture
from .errors import InputError, bad
from .output import KINDS
from .parameters import numbers
from .policy import Policy
from .scores import ScoreRule, make_rule

FORMAT = "policyopt-policy"
VERSION = 2
MAX_BYTES = 16 << 20
_FIELDS = {
    "format": str, "version": int, "kind": str, "classes": int, "unit": str, "costs": list,
    "overhead": list, "score": dict, "answer": dict, "confidence": (dict, type(None)),
    "thresholds": list, "mixture": (dict, type(None)),
    "provenance": dict, "sha256": str,
}  # fmt: skip

#: Fields that version 1 does not have.
_NEW = {"overhead", "confidence"}


def to_dict(policy: Policy) -> dict[str, Any]:
    """Return the artifact's content for a policy, checksum included.

    Parameters
    ----------
    policy : Policy

    Returns
    -------
    dict, JSON-able

    Examples
    --------
    >>> from policyopt.runtime.scores import MaxProb
    >>> to_dict(Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", 2))["thresholds"]
    [0.8]
    """
    mixture = policy.mixture
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kind": policy.kind,
        "classes": policy.classes,
        "unit": policy.unit,
        "costs": policy.costs.tolist(),
        "overhead": policy.overhead.tolist(),
        "score": _named(policy.rule),
        "answer": _named(policy.answer),
        "confidence": None if policy.confidence is None else _named(policy.confidence),
        "thresholds": policy.thresholds.tolist(),
        "mixture": None
        if mixture is None
        else {
            "thresholds": np.asarray(mixture.thresholds).tolist(),
            "share": mixture.share,
            "seed": mixture.seed,
            "score": None if mixture.rule is None else _named(mixture.rule),
        },
        "provenance": dict(policy.provenance),
    }
    return {**content, "sha256": _digest(content)}


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
        raise bad(
            source,
            f"a policy file (format '{FORMAT}')",
            "something else",
            "`policyopt fit` writes one.",
        )
    version = content.get("version")
    if version not in (1, VERSION) or isinstance(version, bool):
        raise bad(
            f"version of {source}",
            f"1 or {VERSION}",
            content.get("version"),
            "Use a policyopt that knows it.",
        )
    known = {name: t for name, t in _FIELDS.items() if version > 1 or name not in _NEW}
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
            raise bad(
                f"{name} in {source}", f"of type {type_}", content[name], "Fit and save it again."
            )
    body = {name: value for name, value in content.items() if name != "sha256"}
    try:
        digest = _digest(body)
    except ValueError as error:  # a number too large for a float reads as infinity
        raise bad(
            source, "free of infinite numbers", str(error), "Fit and save it again."
        ) from error
    if digest != content["sha256"]:
        raise InputError(
            f"'{source}' was changed after it was written: its checksum differs. Fit and save it again."
        )
    if content["kind"] not in KINDS:
        raise bad(f"kind in {source}", f"one of {KINDS}", content["kind"], "Fit it again.")
    if version == 1:
        content = _from_version_1(content, source)
    try:
        mixture = content["mixture"]
        if mixture is not None:
            _exactly("mixture", mixture, {"thresholds", "share", "seed", "score"})
            if type(mixture["share"]) not in (int, float) or type(mixture["seed"]) is not int:
                raise bad(
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
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise bad(
            source, "a whole policy file, its numbers finite", str(error), "Fit and save it again."
        ) from error


def _named(rule: ScoreRule | AnswerRule | ConfidenceRule) -> dict[str, Any]:
    return {"name": rule.name, "params": rule.params()}


def _list(name: str, value: list[Any]) -> Any:
    """Return a list of numbers; of a one-exit policy's thresholds there are none."""
    return numbers(name, value, 1) if value else np.empty(0)


def _name_params(field: str, value: Any) -> tuple[str, dict[str, Any]]:
    _exactly(field, value, {"name", "params"})
    return value["name"], value["params"]


def _exactly(field: str, value: Any, names: set[str]) -> None:
    if not isinstance(value, dict) or value.keys() != names:
        raise bad(
            field, f"a mapping of {', '.join(sorted(names))}", value, "Fit and save it again."
        )


def _from_version_1(content: dict[str, Any], source: str) -> dict[str, Any]:
    if content["answer"] != {"name": "plain"}:
        raise bad(f"answer in {source}", "plain", content["answer"], "Fit it again.")
    mixture = content["mixture"]
    return {
        **content,
        "overhead": [0.0] * len(content["costs"]),
        "confidence": None,
        "answer": {"name": "plain", "params": {}},
        "mixture": mixture if mixture is None else {**mixture, "score": None},
    }


def save_policy(policy: Policy, path: str | os.PathLike[str]) -> None:
    """Write the artifact, atomically.

    Parameters
    ----------
    policy : Policy
    path : path-like
        Replaced if it exists.
    """
    write_text(path, json.dumps(to_dict(policy), indent=2, allow_nan=False) + "\n")


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Read an artifact and check it.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Policy

    Raises
    ------
    InputError
        No such file, too large, not JSON, or not a policy.
    """
    path = Path(path)
    if not path.is_file():
        raise bad("policy", "a file", str(path), "`policyopt fit` writes one.")
    if path.stat().st_size > MAX_BYTES:
        raise bad("policy", f"at most {MAX_BYTES >> 20} MiB", f"{path.stat().st_size} bytes", "")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise bad(
            path.name, "JSON", str(error), "Is the file whole? Fit and save it again."
        ) from error
    return from_dict(content, path.name)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all: temporary file, flush to disk, rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
