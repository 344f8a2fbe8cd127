"""Policy files: a policy, or one per context, as one JSON file, checked when loaded. Never pickle.

A policy file holds exactly these fields::

    format      "policyopt-policy"
    version     1
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

A file of expert policies::

    format      "policyopt-experts"
    version     1
    contexts    names of the contexts, in the order of their numbers
    policies    one policy file's content per context
    provenance  how they were found: method, budget, division of the budget, cache, versions
    sha256      of all the above in canonical form
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ._answers import make_answer
from ._calibrators import make_calibrator
from ._decision import Decisions, Mixture
from ._errors import InputError, input_error
from ._experts import (
    MAX_CONTEXTS,
    ExpertPolicy,
    checked_names,
    context_numbers,
    policy_of,
    renumbered,
)
from ._files import write_file
from ._outputs import KINDS
from ._outputs_file import read_arrays, read_features
from ._parameters import Rule, numbers
from ._policy import Policy
from ._scores import make_rule
from ._strict_json import digest_of, parse, read_plain, to_text, whole_file
from ._typing import Ints

FORMAT, VERSION = "policyopt-policy", 1
FIELDS = {
    "format": str, "version": int, "kind": str, "classes": int, "unit": str, "costs": list,
    "overhead": list, "kept": (list, type(None)), "model_exits": int, "score": dict,
    "answer": dict, "confidence": (dict, type(None)), "thresholds": list,
    "mixture": (dict, type(None)), "provenance": dict, "sha256": str,
}  # fmt: skip
EXPERTS_FORMAT, EXPERTS_VERSION = "policyopt-experts", 1
EXPERTS_FIELDS = {
    "format": str, "version": int, "contexts": list, "policies": list, "provenance": dict,
    "sha256": str,
}  # fmt: skip
#: Of a policy's file; and of several policies in one, four times what one may take.
MAX_BYTES, MAX_EXPERTS_BYTES = 16 << 20, 64 << 20
_AGAIN = "Fit and save it again."


def to_dict(policy: Policy) -> dict[str, Any]:
    """Return the artifact's content for a policy, checksum included."""
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


def _named(rule: Rule) -> dict[str, Any]:
    return {"name": rule.name, "params": rule.params()}


def from_dict(content: Any, source: str = "policy") -> Policy:
    """Build a policy from an artifact's content, checked; `source` names it in errors."""
    whole_file(
        content, source, "a policy file", FORMAT, VERSION, FIELDS, "`policyopt fit` writes one."
    )
    if content["kind"] not in KINDS:
        raise input_error(f"kind in {source}", f"one of {KINDS}", content["kind"], "Fit it again.")
    if len(content["overhead"]) != len(content["costs"]):
        got = f"{len(content['overhead'])} for {len(content['costs'])} exits"
        raise input_error(f"overhead in {source}", "one number per cost", got, _AGAIN)
    if content["model_exits"] < 1:
        raise input_error(f"model_exits in {source}", "1 or more", content["model_exits"], _AGAIN)
    confidence = content["confidence"]
    try:
        return Policy(
            rule=make_rule(*_name_params("score", content["score"])),
            thresholds=_row("thresholds", content["thresholds"]),
            costs=_row("costs", content["costs"]),
            unit=content["unit"],
            kind=content["kind"],
            classes=content["classes"],
            mixture=_mixture(content["mixture"]),
            provenance=content["provenance"],
            answer=make_answer(*_name_params("answer", content["answer"])),
            overhead=_row("overhead", content["overhead"]),
            confidence=None
            if confidence is None
            else make_calibrator(*_name_params("confidence", confidence)),
            kept=content["kept"],
            model_exits=content["model_exits"],
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        allowed = "a whole policy file, its numbers finite"
        raise input_error(source, allowed, str(error), _AGAIN) from error


def _mixture(mixture: Any) -> Mixture | None:
    if mixture is None:
        return None
    _exactly("mixture", mixture, {"thresholds", "share", "seed", "score"})
    if type(mixture["share"]) not in (int, float) or type(mixture["seed"]) is not int:
        allowed = "a number as share, a whole one as seed"
        raise input_error("mixture", allowed, mixture, "Fit it again.")
    score = mixture["score"]
    return Mixture(
        _row("thresholds of the mixture", mixture["thresholds"]),
        mixture["share"],
        mixture["seed"],
        None if score is None else make_rule(*_name_params("score of the mixture", score)),
    )


def _row(name: str, value: list[Any]) -> Any:
    """Return a list of numbers; of a one-exit policy's thresholds there are none."""
    return numbers(name, value, 1) if value else np.empty(0)


def _name_params(field: str, value: Any) -> tuple[str, dict[str, Any]]:
    _exactly(field, value, {"name", "params"})
    return value["name"], value["params"]


def _exactly(field: str, value: Any, names: set[str]) -> None:
    if not isinstance(value, dict) or value.keys() != names:
        raise input_error(field, f"a mapping of {', '.join(sorted(names))}", value, _AGAIN)


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
    """Read an artifact's JSON, strictly (see `policyopt.runtime._strict_json`)."""
    data = read_plain(path, "policy", most, "`policyopt fit` writes one.")
    return parse(data, Path(path).name, most, "Is the file whole? Fit and save it again.")


def experts_to_dict(policy: ExpertPolicy) -> dict[str, Any]:
    """Return the artifact's content, checksum included."""
    content: dict[str, Any] = {
        "format": EXPERTS_FORMAT,
        "version": EXPERTS_VERSION,
        "contexts": list(policy.contexts),
        "policies": [to_dict(one) for one in policy.policies],
        "provenance": dict(policy.provenance),
    }
    return {**content, "sha256": digest_of(content)}


def experts_from_dict(content: Any, source: str = "policy") -> ExpertPolicy:
    """Build an expert policy from an artifact's content, checked; `source` names it in errors."""
    step = "`policyopt fit --experts` writes one."
    whole_file(
        content,
        source,
        "a file of expert policies",
        EXPERTS_FORMAT,
        EXPERTS_VERSION,
        EXPERTS_FIELDS,
        step,
    )
    given = content["policies"]
    if not 1 <= len(given) <= MAX_CONTEXTS:
        raise input_error(f"policies in {source}", f"1 to {MAX_CONTEXTS}", len(given), _AGAIN)
    names = checked_names(content["contexts"])
    policies = tuple(from_dict(one, f"policy {e} of {source}") for e, one in enumerate(given))
    return ExpertPolicy(names, policies, content["provenance"])


def save_experts(policy: ExpertPolicy, path: str | os.PathLike[str]) -> None:
    """Write the artifact, atomically; replaced if it exists."""
    write_file(path, to_text(experts_to_dict(policy), "policy", MAX_EXPERTS_BYTES, indent=2))


def load_experts(path: str | os.PathLike[str]) -> ExpertPolicy:
    """Read an artifact of expert policies and check it.

    Raises
    ------
    InputError
        No such file, too large, not JSON, or no expert policies.
    """
    return experts_from_dict(read_json(path, MAX_EXPERTS_BYTES), Path(path).name)


def load_any(path: str | os.PathLike[str]) -> Policy | ExpertPolicy:
    """Read a policy file, of one policy or of expert policies, and check it.

    Raises
    ------
    InputError
        No such file, too large, not JSON, or neither.
    """
    content = read_json(path, MAX_EXPERTS_BYTES)
    if isinstance(content, dict) and content.get("format") == EXPERTS_FORMAT:
        return experts_from_dict(content, Path(path).name)
    return from_dict(read_json(path), Path(path).name)  # under the limit of one policy


def decide_file(
    policy: Policy | ExpertPolicy, outputs: Any, path: str | os.PathLike[str]
) -> Decisions:
    """Decide for the outputs of a file, reading besides what the policy needs: features, contexts."""
    features = read_features(Path(path), policy)
    if isinstance(policy, ExpertPolicy):
        return policy.decide(outputs, read_context(path, policy), features=features)
    return policy.decide(outputs, features=features)


def read_context(path: str | os.PathLike[str], policy: ExpertPolicy) -> Ints:
    """Return the contexts of new samples, in the policy's own numbers."""
    found, keys = read_arrays(path, {"context", "contexts"})
    if "context" not in found:
        raise input_error(
            f"keys of {Path(path).name}", "with context, one number per sample", ", ".join(keys),
            "The policy has thresholds for each context: save what the classifier said.",
        )  # fmt: skip
    if "contexts" not in found:
        return context_numbers(found["context"], len(policy.contexts), np.size(found["context"]))
    names = checked_names([str(name) for name in np.atleast_1d(found["contexts"])])
    return renumbered(found["context"], names, policy.contexts)
