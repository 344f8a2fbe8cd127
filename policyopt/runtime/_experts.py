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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._checks import sample_numbers
from ._errors import input_error
from ._files import write_file
from ._kinds import KINDS
from ._outputs import ExitOutput
from ._policy import Decision, Decisions, Policy, State, from_dict, read_json, to_dict
from ._reading import as_array, read_exits
from ._strict_json import AGAIN, Form, to_text
from ._typing import Array, Floats, Ints

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
    array, step = as_array(context, "context"), "Number the contexts from 0."
    if array.shape != (samples,) or (array.dtype.kind not in "iu" and array.size):
        got = f"shape {array.shape}, dtype {array.dtype}"
        raise input_error("context", f"one whole number per sample: {samples}", got, step)
    off = np.flatnonzero((array < 0) | (array >= experts))
    if len(off):
        got = f"{array[off[0]]} at sample {off[0]}"
        raise input_error("context", f"from 0 to {experts - 1}", got, step)
    return array.astype(np.int64)


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


@dataclass(frozen=True, eq=False)
class ExpertPolicy:
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "contexts", checked_names(self.contexts))
        several = isinstance(self.policies, Iterable)
        policies = tuple(policy_of(p, True, "policies") for p in (self.policies if several else ()))
        object.__setattr__(self, "policies", policies)
        if len(self.policies) != len(self.contexts):
            got = f"{len(self.policies)} for {len(self.contexts)} contexts"
            raise input_error("policies", "one per context", got, "A policy may stand for several.")
        for name in ("kind", "classes", "unit", "model_exits"):
            values = [getattr(policy, name) for policy in self.policies]
            if any(value != values[0] for value in values):
                what, step = f"{name} of the policies", "Fit them on outputs of the same model."
                raise input_error(what, "the same in every context", values, step)

    # What its policies share.
    kind = property(lambda self: self.policies[0].kind, doc="What `step` and `decide` are given.")
    classes = property(lambda self: self.policies[0].classes, doc="C; 0 where nobody says.")
    unit = property(lambda self: self.policies[0].unit, doc="Unit of the costs.")
    model_exits = property(lambda self: self.policies[0].model_exits, doc="Exits of the model.")

    @property
    def needs_features(self) -> bool:
        """Whether a score reads the model's own feature vectors."""
        return any(policy.needs_features for policy in self.policies)

    @property
    def active_exits(self) -> tuple[int, ...]:
        """The model's numbers of the exits that any of the policies runs, in order."""
        return tuple(sorted(set().union(*(policy.active_exits for policy in self.policies))))

    @property
    def costs(self) -> Floats:
        """Cost of each of `active_exits`, mean over the policies that run it (not over samples)."""
        each = [dict(zip(p.active_exits, p.costs.tolist(), strict=True)) for p in self.policies]
        means = [np.mean([costs[k] for costs in each if k in costs]) for k in self.active_exits]
        return np.array(means, dtype=np.float64)

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
    ) -> ExpertState:
        """Begin one sample, or several side by side.

        Parameters
        ----------
        context : int or str, or array of shape (n,), int
            What the classifier of contexts says.
        samples : int or array of shape (n,), int
            The samples' numbers, see `Policy.start`; of several samples, 0 stands for 0..n-1.

        Returns
        -------
        ExpertState
        """
        if isinstance(context, str) or np.ndim(context) == 0:
            e = self.number(context)  # type: ignore[arg-type]
            if np.ndim(samples) == 0:
                state = self.policies[e].start(samples)
                return ExpertState(np.array([e]), [(e, np.array([0]), state)], True)
            context = np.full(len(np.asarray(samples)), e)
        n = len(np.asarray(context))
        numbers = sample_numbers(None if np.ndim(samples) == 0 and samples == 0 else samples, n)
        rows = context_numbers(context, len(self.contexts), n)
        groups = []
        for e in np.unique(rows).tolist():
            mine = np.flatnonzero(rows == e)
            groups.append((e, mine, self.policies[e].start(numbers[mine])))
        return ExpertState(rows, groups, False)

    def step(self, k: int, output: object, state: ExpertState, features: object = None) -> Decision:
        """Decide at exit k, each sample by its context's policy.

        Parameters
        ----------
        k : int
            The model's number of the exit: for one sample those of its policy's `active_exits` in turn,
            for several those of this one's `active_exits`.
        output : array of shape (C,) for one sample, (n, C) for several; mapping for records
            What exit k of each sample's own expert gave.
        state : ExpertState
            From `start`; advanced in place.
        features : array of shape (D_k,) for one sample, (n, D_k) for several, optional

        Returns
        -------
        Decision
            Of several samples, those whose policy skips exit k do not leave there (prediction -1,
            score NaN); those whose policy ends before it have left.

        Raises
        ------
        InputError
            As `Policy.step`.
        """
        if state.scalar:
            e, _, inner = state.groups[0]
            return self.policies[e].step(k, output, inner, features)
        if k not in self.active_exits:
            allowed = f"an exit that a policy runs: {', '.join(map(str, self.active_exits))}"
            raise input_error("k", allowed, k, "Loop over `active_exits`.")
        if not isinstance(output, (Mapping, ExitOutput)):
            output = as_array(output)
        n = len(state.context)
        stop, prediction = np.zeros(n, dtype=bool), np.full(n, -1, dtype=np.int32)
        score, confidence = np.full(n, np.nan), np.full(n, np.nan)
        answers = []
        for e, rows, inner in state.groups:
            policy = self.policies[e]
            if k not in policy.active_exits:
                stop[rows] = k > policy.active_exits[-1]
                continue
            vectors = None if features is None else as_array(features)[rows]
            found = policy.step(k, rows_of(output, rows), inner, vectors)
            prediction = shaped(prediction, found.prediction)
            stop[rows], prediction[rows] = found.exit, found.prediction
            score[rows], confidence[rows] = found.score, found.confidence
            answers.append((rows, found._logits))
        return Decision(stop, prediction, score, confidence, joined(answers, n))

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
        of = self.model_exits
        kind = KINDS[self.kind]
        n, rows_at = read_exits(outputs, of, kind, self.classes, self.active_exits)
        contexts = context_numbers(context, len(self.contexts), n)
        numbers = sample_numbers(samples, n)
        exits, cost, said = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int32)
        # A policy without a sample looks at none: it checks the form of an empty batch.
        for e in np.unique(contexts).tolist() or [0]:
            policy, rows = self.policies[e], np.flatnonzero(contexts == e)
            entries = [rows_at(k, rows) if k in policy.active_exits else None for k in range(of)]
            part = policy.decide(entries, numbers[rows], vectors_of(policy, features, rows))
            said = shaped(said, part.prediction)
            exits[rows], said[rows], cost[rows] = part.exit, part.prediction, part.cost
        return Decisions(exits, said, cost)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact, one JSON file, atomically."""
        write_file(path, to_text(experts_to_dict(self), "policy", MAX_EXPERTS_BYTES, indent=2))


def policy_of(given: Any, single: bool = False, argument: str = "policy") -> Any:
    """Return the policy that this is, or that a fit holds; `single`: expert branches are refused."""
    fitted = hasattr(given, "policy") and hasattr(given, "expected")  # Fitted, FittedExperts
    found = given.policy if fitted else given
    if single and isinstance(found, ExpertPolicy):
        step = "Take one of its `policies`: each is a policy of its own."
        raise input_error(argument, "one policy", f"one each for {', '.join(found.contexts)}", step)
    if isinstance(given, type) or not isinstance(found, (Policy, ExpertPolicy)):
        step = "E.g. what policyopt.fit returns, or policyopt.load_policy(path)."
        raise input_error(argument, "a Policy, or a fit that holds one", type(given).__name__, step)
    return found


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


@dataclass(slots=True, eq=False)
class ExpertState:
    """Where some samples stand between exits, each in the hands of its context's policy."""

    context: Ints
    groups: list[tuple[int, Ints, State]]  # (context, rows of its samples, their state)
    scalar: bool

    def keep(self, rows: Array) -> ExpertState:
        """Keep some samples only (a mask or row numbers), the survivors of an exit; return itself."""
        chosen = np.arange(len(self.context))[rows]
        place = np.empty(len(self.context), dtype=np.int64)
        self.context = self.context[chosen]
        groups = []
        for e, members, state in self.groups:
            place[members] = np.arange(len(members))
            mine = np.flatnonzero(self.context == e)
            if len(mine):
                groups.append((e, mine, state.keep(place[chosen[mine]])))
        self.groups = groups
        return self


def rows_of(output: Any, rows: Ints) -> Any:
    """Return what an exit gave of some samples: outputs, a summary or reduced columns."""
    if isinstance(output, ExitOutput):
        return output.take(rows)
    if isinstance(output, Mapping):
        return {key: as_array(column)[rows] for key, column in output.items()}
    return output[rows]


def vectors_of(policy: Policy, features: Any, rows: Ints) -> Any:
    """Return the feature vectors of some samples, where the policy reads any."""
    if features is None or not policy.needs_features or not isinstance(features, (list, tuple)):
        return features
    return [as_array(v)[rows] if k in policy.active_exits else None for k, v in enumerate(features)]


def shaped(whole: Array, part: Array) -> Array:
    """Return the predictions of all samples, or, where those of some are of other shape, -1 in that."""
    if (whole.shape[1:], whole.dtype) == (part.shape[1:], part.dtype):
        return whole
    return np.full((len(whole), *part.shape[1:]), -1, dtype=part.dtype)


def joined(answers: list[tuple[Ints, Any]], n: int) -> Array | None:
    """Return the answers' logits of all samples, (n, C); NaN where a policy skips the exit."""
    if not answers or any(logits is None for _, logits in answers):
        return None
    first = np.asarray(answers[0][1])
    joined = np.full((n, first.shape[1]), np.nan, dtype=np.result_type(*(a for _, a in answers)))
    for rows, logits in answers:
        joined[rows] = logits
    return joined


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


def load_any(path: str | os.PathLike[str]) -> Policy | ExpertPolicy:
    """Read a policy file, of one policy or of expert policies, and check it.

    Raises
    ------
    InputError
        No such file, too large, not JSON, or neither.
    """
    content = read_json(path, MAX_EXPERTS_BYTES)
    if isinstance(content, dict) and content.get("format") == EXPERTS.format:
        return experts_from_dict(content, Path(path).name)
    return from_dict(read_json(path), Path(path).name)  # under the limit of one policy
