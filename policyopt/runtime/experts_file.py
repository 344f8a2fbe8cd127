"""The artifact of an `ExpertPolicy`: one JSON file, checked when loaded. Never pickle.

Version 1 holds exactly these fields::

    format      "policyopt-experts"
    version     1
    contexts    names of the contexts, in the order of their numbers
    policies    one policy file's content per context (see `policyopt.runtime.artifact`)
    provenance  how they were found: method, budget, division of the budget, cache, versions
    sha256      of all the above in canonical form
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .artifact import from_dict, read_json, to_dict
from .contexts import MAX_CONTEXTS, checked_names, context_numbers, renumbered
from .decision import Decisions
from .errors import InputError, input_error
from .experts import ExpertPolicy
from .files import write_file
from .outputs_file import read_arrays, read_features
from .policy import Policy
from .strict_json import digest_of, to_text

__all__ = ["decide_file", "load_any", "load_experts", "read_context", "save_experts"]

FORMAT, VERSION = "policyopt-experts", 1
FIELDS = {
    "format": str, "version": int, "contexts": list, "policies": list, "provenance": dict,
    "sha256": str,
}  # fmt: skip
#: Several policies in one file: four times what one may take.
MAX_BYTES = 64 << 20


def experts_to_dict(policy: ExpertPolicy) -> dict[str, Any]:
    """Return the artifact's content, checksum included.

    Examples
    --------
    >>> from policyopt.runtime.scores import MaxProb
    >>> one = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", 2)
    >>> content = experts_to_dict(ExpertPolicy(("clean", "blur"), (one, one)))
    >>> experts_from_dict(content).contexts
    ('clean', 'blur')
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "contexts": list(policy.contexts),
        "policies": [to_dict(one) for one in policy.policies],
        "provenance": dict(policy.provenance),
    }
    return {**content, "sha256": digest_of(content)}


def experts_from_dict(content: Any, source: str = "policy") -> ExpertPolicy:
    """Build an expert policy from an artifact's content, checked.

    Parameters
    ----------
    content : dict
    source : str
        Name used in errors.

    Returns
    -------
    ExpertPolicy

    Raises
    ------
    InputError
        Not such an artifact, another version, unknown or missing fields, changed since written.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        step = "`policyopt fit --experts` writes one."
        raise input_error(
            source, f"a file of expert policies (format '{FORMAT}')", "something else", step
        )
    if type(content.get("version")) is not int or content["version"] != VERSION:
        step = "Use a policyopt that knows it."
        raise input_error(f"version of {source}", f"{VERSION}", content.get("version"), step)
    for kind_of, names in (
        ("unknown", content.keys() - FIELDS),
        ("missing", FIELDS.keys() - content),
    ):
        if names:
            raise InputError(
                f"'{source}' has {kind_of} fields: {', '.join(sorted(names))}. Fit and save it again."
            )
    for name, type_ in FIELDS.items():
        if not isinstance(content[name], type_):
            got = type(content[name]).__name__
            raise input_error(
                f"{name} in {source}", f"a {type_.__name__}", got, "Fit and save it again."
            )
    if not 1 <= len(content["policies"]) <= MAX_CONTEXTS:
        got = len(content["policies"])
        raise input_error(
            f"policies in {source}", f"1 to {MAX_CONTEXTS}", got, "Fit and save it again."
        )
    try:
        digest = digest_of({name: value for name, value in content.items() if name != "sha256"})
    except ValueError as error:  # a number too large for a float reads as infinity
        raise input_error(
            source, "free of infinite numbers", str(error), "Fit and save it again."
        ) from error
    if digest != content["sha256"]:
        raise InputError(
            f"'{source}' was changed after it was written: its checksum differs. Fit and save it again."
        )
    names = checked_names(content["contexts"])
    policies = tuple(
        from_dict(one, f"policy {e} of {source}") for e, one in enumerate(content["policies"])
    )
    return ExpertPolicy(names, policies, content["provenance"])


def save_experts(policy: ExpertPolicy, path: str | os.PathLike[str]) -> None:
    """Write the artifact, atomically; replaced if it exists."""
    write_file(path, to_text(experts_to_dict(policy), "policy", MAX_BYTES, indent=2))


def load_experts(path: str | os.PathLike[str]) -> ExpertPolicy:
    """Read an artifact of expert policies and check it.

    Raises
    ------
    InputError
        No such file, too large, not JSON, or no expert policies.
    """
    return experts_from_dict(read_json(path, MAX_BYTES), Path(path).name)


def load_any(path: str | os.PathLike[str]) -> Policy | ExpertPolicy:
    """Read a policy file, of one policy or of expert policies, and check it.

    Raises
    ------
    InputError
        No such file, too large, not JSON, or neither.
    """
    content = read_json(path, MAX_BYTES)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return experts_from_dict(content, Path(path).name)
    return from_dict(read_json(path), Path(path).name)  # under the limit of one policy


def decide_file(
    policy: Policy | ExpertPolicy, outputs: Any, path: str | os.PathLike[str]
) -> Decisions:
    """Decide for the outputs of a file, reading besides what the policy needs: features, contexts.

    Parameters
    ----------
    policy : Policy or ExpertPolicy
    outputs : sequence of K outputs
        From `policyopt.runtime.outputs_file.read_outputs`.
    path : path-like
        The same file.

    Returns
    -------
    Decisions
    """
    features = read_features(Path(path), policy)
    if isinstance(policy, ExpertPolicy):
        return policy.decide(outputs, read_context(path, policy), features=features)
    return policy.decide(outputs, features=features)


def read_context(path: str | os.PathLike[str], policy: ExpertPolicy) -> npt.NDArray[np.int64]:
    """Return the contexts of new samples, in the policy's own numbers.

    Parameters
    ----------
    path : path-like
        ``.npz`` with ``context`` (N,); their numbers are the policy's, or count the names in
        ``contexts`` where the file has some.
    policy : ExpertPolicy

    Returns
    -------
    ndarray of shape (N,), int64

    Raises
    ------
    InputError
        No key ``context``, not whole numbers, a name that the policy does not know.
    """
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
