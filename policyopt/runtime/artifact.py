"""The artifact: a policy as one JSON file, checked when loaded. Never pickle.

Version 3 holds exactly these fields::

    format      "policyopt-policy"
    version     3
    kind        "logits" | "probabilities" | "record"
    classes     C, 0 where records do not say
    unit        unit of the costs
    costs       K mean cumulative costs, the policy's own arithmetic included
    overhead    K numbers: the part of them that is the policy's own arithmetic
    kept        null | the K of the model's exits that the policy runs, ascending from 0
    model_exits how many exits the model has
    score       {"name": ..., "params": {...}}
    answer      {"name": "plain" | ..., "params": {...}}
    confidence  null | {"name": "platt" | ..., "params": {...}}: not used to decide
    thresholds  K-1 numbers; 1e30 = never, -1e30 = always
    mixture     null | {"thresholds": [...], "share": s, "seed": n, "score": null | {...}}
    provenance  how it was found: method, configuration, budget, expected cost, cache, versions
    sha256      of all the above in canonical form

Earlier versions are read too. Version 2 has no kept and model_exits: the policy runs every exit.
Version 1 has no overhead and confidence besides, plain answers, and mixtures of one score rule.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .answers import AnswerRule
from .confidence import ConfidenceRule
from .content import FORMAT, VERSION, digest_of, from_dict
from .experts import policy_of
from .files import write_file
from .policy import Policy
from .scores import ScoreRule
from .strict_json import parse, read_plain, to_text

__all__ = ["from_dict", "load_policy", "read_json", "save_policy", "to_dict"]

MAX_BYTES = 16 << 20


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
        "kept": None if policy.kept is None else list(policy.kept),
        "model_exits": policy.model_exits,
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
    return {**content, "sha256": digest_of(content)}


def _named(rule: ScoreRule | AnswerRule | ConfidenceRule) -> dict[str, Any]:
    return {"name": rule.name, "params": rule.params()}


def save_policy(policy: Any, path: str | os.PathLike[str]) -> None:
    """Write the artifact, atomically.

    Parameters
    ----------
    policy : Policy, or a fit that holds one
    path : path-like
        Replaced if it exists.

    Raises
    ------
    InputError
        Larger than what `load_policy` reads; the system refuses (disk full, no permission).
    """
    policy = policy_of(policy, single=True)
    write_file(path, to_text(to_dict(policy), "policy", MAX_BYTES, indent=2))


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
    return from_dict(read_json(path), Path(path).name)


def read_json(path: str | os.PathLike[str], most: int = MAX_BYTES) -> Any:
    """Read an artifact's JSON, strictly (see `policyopt.runtime.strict_json`).

    Raises
    ------
    InputError
        No such file, more than `most` bytes, not JSON, nested too deep, a key twice, ...
    """
    data = read_plain(path, "policy", most, "`policyopt fit` writes one.")
    return parse(data, Path(path).name, most, "Is the file whole? Fit and save it again.")
