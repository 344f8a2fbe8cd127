"""`ExpertPolicy`: one policy per context, for models with expert branches.

A light classifier says what is wrong with an input (blur, noise, nothing): its context. The
context chooses the branches that were trained for such inputs, and the thresholds that go with
them. One context for all samples, or the same policy in all contexts, decides exactly as
`Policy.decide` does.

References
----------
R. G. Pacheco, F. D. V. R. Oliveira, R. S. Couto, "Early-exit deep neural networks for distorted
images: providing an efficient edge offloading", GLOBECOM 2021, arXiv:2108.09343.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._errors import input_error
from ._family import FAMILY, PolicyFamily, family_from_dict, family_to_dict
from ._files import write_file
from ._policy import Decisions, Policy, from_dict, load_policy, read_json, to_dict
from ._reading import as_array
from ._routing import RoutingPolicy, routing_to_dict
from ._several import Several, SeveralState, chosen_numbers
from ._strict_json import AGAIN, Form, to_text
from ._typing import Array, Ints

#: More contexts than this are some other number (a class, a row), not a context.
MAX_CONTEXTS = 1024
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def checked_names(names: object, least: int = 1) -> tuple[str, ...]:
    """Return the names of contexts as a tuple; refused unless each is a name of its own."""
    given = tuple(names) if isinstance(names, (list, tuple)) else (None,)
    fits = all(isinstance(name, str) and _NAME.fullmatch(name) for name in given)
    if not fits or not least <= len(given) <= MAX_CONTEXTS or len(set(given)) < len(given):
        allowed = f"{least} to {MAX_CONTEXTS} different names of A-Z a-z 0-9 _ . -"
        raise input_error("contexts", allowed, names, "E.g. ['clean', 'blur', 'noise'].")
    return given  # type: ignore[return-value]


def context_numbers(context: npt.ArrayLike, experts: int, samples: int) -> Ints:
    """Return contexts as (N,) int64, refused unless each is the number of an expert."""
    return chosen_numbers(context, experts, samples, ExpertPolicy.role, ExpertPolicy.remedy)


def renumbered(context: npt.ArrayLike, names: tuple[str, ...], known: tuple[str, ...]) -> Ints:
    """Return contexts that count `names` in the numbers of `known`."""
    rows = context_numbers(context, len(names), np.size(context))
    places = {name: e for e, name in enumerate(known)}
    to = np.array([places.get(name, -1) for name in names], dtype=np.int64)
    if (to[rows] < 0).any():
        missing = names[int(rows[to[rows] < 0][0])]
        allowed = f"one that the policy knows: {', '.join(known)}"
        raise input_error("context", allowed, missing, "Fit it again with rows of that context.")
    return to[rows]


@dataclass(frozen=True, eq=False, repr=False)
class ExpertPolicy(Several):
    """One frozen policy per context: numpy only, ready to deploy.

    Parameters
    ----------
    contexts : tuple of str
        Names of the contexts, in the order of their numbers.
    policies : tuple of Policy
        One per context, for the same exits, classes, kind of outputs and unit.
    provenance : mapping
        How they were found; JSON-able, not used to decide.

    Raises
    ------
    InputError
        Names that are none or stand twice, another number of policies, policies that do not fit.

    Examples
    --------
    >>> import policyopt as po
    >>> easy, hard = (
    ...     Policy(po.make_score("max_prob"), [t], [1.0, 3.0], "ms", "probabilities", 2)
    ...     for t in (0.6, 0.9)
    ... )
    >>> policy = ExpertPolicy(("clean", "blur"), (easy, hard))
    >>> outputs = np.array([[[0.8, 0.2], [1, 0]], [[0.8, 0.2], [0, 1]]])
    >>> policy.decide(outputs, [0, 1]).exit
    array([0, 1])
    >>> policy.step(0, [0.8, 0.2], policy.start("blur")).exit
    False
    """

    contexts: tuple[str, ...]
    policies: tuple[Policy, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    role = "context"
    remedy = "Number the contexts from 0."

    def __post_init__(self) -> None:
        object.__setattr__(self, "contexts", checked_names(self.contexts))
        self._check_alike()
        if len(self.policies) != len(self.contexts):
            got = f"{len(self.policies)} for {len(self.contexts)} contexts"
            raise input_error("policies", "one per context", got, "A policy may stand for several.")

    def named(self) -> str:
        return f"one each for {', '.join(self.contexts)}"

    def number(self, context: int | str) -> int:
        """Return the number of a context that is given by name or by number.

        Raises
        ------
        InputError
            No such context.
        """
        if isinstance(context, str) and context in self.contexts:
            return self.contexts.index(context)
        whole = isinstance(context, (int, np.integer)) and not isinstance(context, bool)
        if not whole or not 0 <= int(context) < len(self.contexts):
            allowed = f"one of {', '.join(self.contexts)}, or their numbers from 0"
            raise input_error("context", allowed, context, "Ask the classifier of contexts.")
        return int(context)

    def policy_of(self, context: int | str) -> Policy:
        """Return the policy of a context, e.g. to loop over its `active_exits`."""
        return self.policies[self.number(context)]

    def start(
        self, context: int | str | npt.ArrayLike, samples: int | npt.ArrayLike = 0
    ) -> SeveralState:
        """Begin one sample, or several side by side.

        Parameters
        ----------
        context : int or str, or array of shape (n,), int
            What the classifier of contexts says.
        samples : int or array of shape (n,), int
            The samples' numbers, see `Policy.start`; of several samples, 0 stands for 0..n-1.

        Returns
        -------
        SeveralState
        """
        return self._start(context, samples)

    def decide(
        self,
        outputs: object,
        context: npt.ArrayLike,
        samples: npt.ArrayLike | None = None,
        features: Any = None,
    ) -> Decisions:
        """Decide for many samples whose outputs are all known.

        Parameters
        ----------
        outputs : array of shape (N, K, C), or sequence of K outputs of one exit each
            Each sample's are those of its own expert (see `route`).
        context : array of shape (N,), int
        samples : array of shape (N,), int, optional
            Their numbers; default 0..N-1.
        features : sequence of K arrays of shape (N, D_k), optional

        Returns
        -------
        Decisions

        Raises
        ------
        InputError
            As `Policy.decide`; a context without a policy.
        """
        return self._decide(outputs, context, samples, features)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact, one JSON file, atomically."""
        write_file(path, self.file_text())

    def file_text(self) -> str:
        """Return what `save` writes."""
        return to_text(experts_to_dict(self), "policy", MAX_EXPERTS_BYTES, indent=2)


def route(outputs_by_expert: Sequence[npt.ArrayLike], context: npt.ArrayLike) -> Array:
    """Return of every sample the outputs of the expert that its context chose.

    Parameters
    ----------
    outputs_by_expert : sequence of E arrays of shape (N, K, C)
        What each expert's branches gave for all samples.
    context : array of shape (N,), int
        Number of the expert, from 0 to E-1, per sample.

    Returns
    -------
    ndarray of shape (N, K, C)

    Raises
    ------
    InputError
        No expert, arrays of other shapes, a context without an expert.

    Examples
    --------
    >>> route([np.zeros((2, 1, 3)), np.ones((2, 1, 3))], [1, 0])[:, 0, 0]
    array([1., 0.])
    """
    arrays = [as_array(a, f"outputs of expert {e}") for e, a in enumerate(outputs_by_expert)]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 3:
        allowed, got = (
            "one array (N, K, C) per expert, all of one shape",
            f"shapes {sorted(shapes)}",
        )
        raise input_error("outputs_by_expert", allowed, got, "Run all experts on the same samples.")
    rows = context_numbers(context, len(arrays), len(arrays[0]))
    routed = np.empty(arrays[0].shape, dtype=np.result_type(*arrays))
    for e, array in enumerate(arrays):
        mine = rows == e
        routed[mine] = array[mine]
    return routed


EXPERTS = Form(
    "a file of expert policies", "policyopt-experts", 1,
    {
        "format": str, "version": int,
        "contexts": list,  # names of the contexts, in the order of their numbers
        "policies": list,  # the content of one policy's file per context
        "provenance": dict,  # how they were found: method, budget and its division, cache, versions
        "sha256": str,  # of all the above in canonical form
    },
    "`policyopt fit --experts` writes one.",
)  # fmt: skip
MAX_EXPERTS_BYTES = 64 << 20  # four times what one policy may take


def experts_to_dict(policy: ExpertPolicy) -> dict[str, Any]:
    """Return the file's content, checksum included."""
    return EXPERTS.signed(
        contexts=list(policy.contexts),
        policies=[to_dict(one) for one in policy.policies],
        provenance=dict(policy.provenance),
    )


def experts_from_dict(content: Any, source: str = "policy") -> ExpertPolicy:
    """Build an expert policy from its file's content, checked; `source` names it in errors."""
    EXPERTS.check(content, source)
    given = content["policies"]
    if not 1 <= len(given) <= MAX_CONTEXTS:
        raise input_error(f"policies in {source}", f"1 to {MAX_CONTEXTS}", len(given), AGAIN)
    names = checked_names(content["contexts"])
    policies = tuple(from_dict(one, f"policy {e} of {source}") for e, one in enumerate(given))
    return ExpertPolicy(names, policies, content["provenance"])


def load_experts(path: str | os.PathLike[str]) -> ExpertPolicy:
    """Read an artifact of expert policies and check it.

    Raises
    ------
    InputError
        No such file, too large, not JSON, or no expert policies.
    """
    return experts_from_dict(read_json(path, MAX_EXPERTS_BYTES), Path(path).name)


def any_to_dict(policy: Policy | ExpertPolicy | PolicyFamily | RoutingPolicy) -> dict[str, Any]:
    """Return the content of the file that `load_any` reads, checksum included."""
    if isinstance(policy, RoutingPolicy):
        return routing_to_dict(policy)
    if isinstance(policy, PolicyFamily):
        return family_to_dict(policy)
    return experts_to_dict(policy) if isinstance(policy, ExpertPolicy) else to_dict(policy)


def load_any(path: str | os.PathLike[str]) -> Any:
    """Read a policy file, of one policy, of a family or of expert policies, and check it.

    Raises
    ------
    InputError
        No such file, too large, not JSON, or none of these.
    """
    name, content = Path(path).name, read_json(path, MAX_EXPERTS_BYTES)
    form = content.get("format") if isinstance(content, dict) else None
    if form == EXPERTS.format:
        return experts_from_dict(content, name)
    if form == FAMILY.format:
        return family_from_dict(content, name)
    return load_policy(path)
