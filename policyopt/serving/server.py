"""`serve`: a staged model and a policy run a batch; the survivors of every exit go on together.

`policyopt.runtime` decides, on logits brought to the host as float32, so a served sample leaves where
the same logits leave in a replay. (One sample at a time, functions written from the policy's graphs
decide in plain Python where the outcome is beyond doubt: `policyopt.export.scalar_compile`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.export.scalar_compile import UNSURE, Compiled, compiled
from policyopt.export.scalar_policy import caught_up
from policyopt.runtime import Decisions, ExpertPolicy, Policy
from policyopt.runtime.errors import bad

from .hidden import size, take
from .staged import StagedModel

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Served(Decisions):
    """What was done with the n samples of a batch, in the batch's order.

    Attributes
    ----------
    exit : ndarray of shape (n,), int64
        Exit taken: the model's number.
    prediction : ndarray of shape (n,), int32
        The answer's class.
    cost : ndarray of shape (n,), float64
        Mean cost of the exit taken, in the policy's unit.
    probabilities : ndarray of shape (n, C), float64, or None
        The answers, where asked for.
    """

    probabilities: Floats | None = None


class Server:
    """A staged model with an exit policy; made by `serve`, called with a batch."""

    def __init__(
        self, model: StagedModel, policy: Policy | ExpertPolicy, probabilities: bool = False
    ) -> None:
        import torch

        self.model, self.policy, self.probabilities = model, policy, probabilities
        self._path, self._wanted = frozenset(policy.path), policy.needs_features
        self._costs = [_by_exit(p) for p in _policies(policy)]
        self._count, self._lock = 0, Lock()
        self._inference, self._float32 = torch.inference_mode, torch.float32
        self._single = self._compiled()
        self._results: dict[tuple[int, int], Served] = {}  # of single samples, by exit and class

    @property
    def reason(self) -> str:
        """Why single samples go by `Policy.step`; empty where plain Python decides them."""
        return self._single.reason

    def _compiled(self) -> Compiled:
        if self.probabilities:
            return Compiled(reason="the answers' probabilities are asked for")
        if isinstance(self.policy, ExpertPolicy):
            return Compiled(reason="the policy is of several contexts")
        return compiled(self.policy)

    def __call__(
        self, batch: Any, *, samples: npt.ArrayLike | None = None, context: Any = None
    ) -> Served:
        """Run a batch, each sample until its exit.

        Parameters
        ----------
        batch : tensor, or tuple, list or mapping of tensors
            What stage 0 takes, on the model's device; first axis = samples.
        samples : array of shape (n,), int, optional
            Their numbers, which only policies that mix or draw look at (see `Policy.start`); default:
            the server counts the samples it has seen, from 0.
        context : int, str, or array of shape (n,), int, optional
            For an `ExpertPolicy`: what the classifier of contexts says. The model's stages must
            themselves run each sample's own branches (let the batch carry the contexts, too).

        Returns
        -------
        Served

        Raises
        ------
        InputError
            As `Policy.step`; an exit's output that is not what the policy was fitted on.
        """
        n = size(batch)
        with self._inference():
            one = n == 1 and context is None and not self._single.reason
            if one and samples is None:
                return self._one(batch, self._counted(1) if self._single.numbered else 0)
            given = np.arange(n) + self._counted(n) if samples is None else samples
            numbers = np.asarray(given, dtype=np.int64)
            if numbers.shape != (n,):
                raise bad("samples", f"one number per sample: {n}", f"shape {numbers.shape}", "")
            if one:
                return self._one(batch, int(numbers[0]))
            return self._many(batch, n, numbers, context)

    def _counted(self, n: int) -> int:
        """Count n samples, and return the first one's number; threads may serve at once."""
        with self._lock:
            first, self._count = self._count, self._count + n
        return first

    def _one(self, batch: Any, number: int) -> Served:
        """Run one sample, decided in plain Python until that is in doubt; then by the policy.

        Every line here is paid at every exit of every request, and after a stage has swept the caches.
        """
        model, path, wanted = self.model, self._path, (1, self.policy.classes)
        functions, hidden, at, vector = self._single.functions, batch, 0, None
        states: tuple[Any, ...] = ()
        seen: list[tuple[Any, Any]] = []  # logits and features of the exits before
        for k in range(model.exits):
            hidden, given = model.stage(k, hidden)
            if k not in path:
                continue
            logits = model.head(k, hidden, given)
            if getattr(logits, "dtype", None) is self._float32 and logits.shape == wanted:
                kept = row = logits.tolist()[0]
            else:
                kept, row = _host_row(logits, wanted)
            if self._wanted:
                vector = self._vector(k, hidden, self._single.widths[at])
            found = None
            if row is not None and (vector is not None or not self._wanted):
                try:
                    found = functions[at](row, vector, number, states)
                except UNSURE:
                    found = None  # the policy decides
            if found is None:
                return self._slowly(k, hidden, logits, number, seen)
            leave, c, states = found
            if leave:
                return self._results.get((k, c)) or self._result(k, c)
            seen.append((kept, vector))
            at += 1
        raise AssertionError("the last exit on a path always stops")

    def _vector(self, k: int, hidden: Any, width: int | None) -> list[float] | None:
        """Return the features of one sample; None where the policy has to look at them."""
        vector = _host(self.model.vectors(k, hidden))
        known = vector.shape == (1, vector.shape[-1] if width is None else width)
        return vector[0].tolist() if known and np.isfinite(vector).all() else None

    def _slowly(
        self, k: int, hidden: Any, logits: Any, number: int, seen: list[tuple[Any, Any]]
    ) -> Served:
        """Run one sample to its end by the policy, from exit k on."""
        given: Any = None
        model, policy = self.model, self.policy
        assert isinstance(policy, Policy)
        state = caught_up(policy, number, seen)
        while True:
            vectors = _host(model.vectors(k, hidden)) if self._wanted else None
            decision = policy.step(k, _host(logits), state, vectors)
            if decision.exit:
                return self._result(k, decision.prediction)
            following = policy.path[policy.path.index(k) + 1]
            for stage in range(k + 1, following + 1):
                hidden, given = model.stage(stage, hidden)
            k, logits = following, model.head(following, hidden, given)

    def _result(self, k: int, c: int) -> Served:
        """Make the result of one sample that left at exit k with class c; frozen, so it serves again."""
        exits, classes = np.array([k]), np.array([c], dtype=np.int32)
        for array in (exits, classes):
            array.flags.writeable = False
        self._results[k, c] = made = Served(exits, classes, self._costs[0][k : k + 1])
        return made

    def _many(self, batch: Any, n: int, numbers: npt.NDArray[np.int64], context: Any) -> Served:
        """Run a batch; after every exit, only the survivors go on."""
        model, policy = self.model, self.policy
        state, context = _started(policy, numbers, context)
        exits, predictions = np.empty(n, np.int64), np.empty(n, np.int32)
        answers = np.empty((n, policy.classes)) if self.probabilities else None
        rows, hidden = np.arange(n), batch
        for k in range(policy.path[-1] + 1 if n else 0):
            hidden, given = model.stage(k, hidden)
            if k not in self._path:
                continue
            output = _host(model.head(k, hidden, given))
            vectors = _host(model.vectors(k, hidden)) if self._wanted else None
            decision = policy.step(k, output, state, vectors)
            leaving = decision.exit
            gone = rows[leaving]
            exits[gone], predictions[gone] = k, decision.prediction[leaving]
            if answers is not None:
                answers[gone] = _answers(decision)[leaving]
            if len(gone) == len(rows):
                break
            if len(gone):
                stay = np.flatnonzero(~leaving)
                hidden = take(hidden, stay, len(rows))
                state.keep(stay)
                rows = rows[stay]
        if context is None:
            costs = self._costs[0][exits]
        else:
            costs = np.array([self._costs[e][k] for e, k in zip(context, exits, strict=True)])
        return Served(exits, predictions, costs, answers)


def serve(
    model: StagedModel,
    policy: Policy | ExpertPolicy,
    *,
    probabilities: bool = False,
    compile: bool = False,  # as torch calls it
    backend: Any = "inductor",
) -> Server:
    """Attach a policy to a staged model.

    Parameters
    ----------
    model : StagedModel
        Its exits are those of the cache that the policy was fitted on.
    policy : Policy or ExpertPolicy
        From a fit, or `policyopt.load_policy`.
    probabilities : bool, default False
        Whether to return the answers' class probabilities too.
    compile : bool, default False
        Whether to compile every stage and head (`StagedModel.compiled`). A compiled model rounds
        otherwise than a plain one: export the cache from the compiled one where that matters.
    backend : str or callable, default "inductor"
        Of `torch.compile`.

    Returns
    -------
    Server

    Raises
    ------
    InputError
        Another number of exits, features that are needed and lacking, probabilities of records.

    Examples
    --------
    >>> import torch  # doctest: +SKIP
    >>> from policyopt.runtime.scores import MaxProb  # doctest: +SKIP
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", 2)  # doctest: +SKIP
    >>> model = StagedModel(
    ...     [torch.nn.Identity()] * 2, [lambda h: h, lambda h: -h]
    ... )  # doctest: +SKIP
    >>> served = serve(model, policy)(torch.tensor([[4.0, 0.0], [0.2, 0.0]]))  # doctest: +SKIP
    >>> served.exit, served.prediction, served.cost  # doctest: +SKIP
    (array([0, 1]), array([0, 1], dtype=int32), array([1., 3.]))
    """
    if not isinstance(model, StagedModel):
        raise bad("model", "a StagedModel", type(model).__name__, "Wrap its stages and heads.")
    if not isinstance(policy, (Policy, ExpertPolicy)):
        raise bad("policy", "a Policy", type(policy).__name__, "E.g. policyopt.load_policy(path).")
    if model.exits != policy.model_exits:
        raise bad(
            "model", f"of {policy.model_exits} exits, as the policy's", f"{model.exits} stages",
            "Fit the policy on a cache of this model.",
        )  # fmt: skip
    if policy.needs_features and model.features is None:
        model.vectors(0, None)  # says what is lacking
    if probabilities and policy.kind == "record":
        raise bad("probabilities", "False: the policy is of records", probabilities, "")
    return Server(model.compiled(backend) if compile else model, policy, probabilities)


def _started(policy: Any, numbers: npt.NDArray[np.int64], context: Any) -> tuple[Any, Any]:
    """Return the state of a batch, and its contexts as (n,) where the policy goes by them."""
    if isinstance(policy, ExpertPolicy):
        if context is None:
            allowed = f"given: one of {', '.join(policy.contexts)} per sample"
            raise bad("context", allowed, "none", "Ask the classifier of contexts.")
        state = policy.start(context, numbers)
        return state, state.context
    if context is not None:
        raise bad("context", "left out: the policy is the same in all of them", context, "")
    return policy.start(numbers), None


def _host(output: Any) -> Any:
    """Return an exit's output on the host, as float32; records column by column."""
    if isinstance(output, Mapping):
        return {name: _host_column(column) for name, column in output.items()}
    if hasattr(output, "detach"):
        return output.detach().float().cpu().numpy()
    return np.asarray(output)


def _host_row(logits: Any, wanted: tuple[int, int]) -> tuple[Any, list[float] | None]:
    """Return one sample's logits as the policy gets them, and as floats; None: of another form."""
    host = _host(logits)
    if getattr(host, "shape", None) != wanted or host.dtype.kind not in "fiu":
        return host, None
    return host, host[0].astype(np.float32).tolist()


def _host_column(column: Any) -> npt.NDArray[Any]:
    return column.detach().cpu().numpy() if hasattr(column, "detach") else np.asarray(column)


def _answers(decision: Any) -> Floats:
    answers = decision.answer
    assert answers is not None  # refused for records by `serve`
    return answers


def _policies(policy: Policy | ExpertPolicy) -> tuple[Policy, ...]:
    return policy.policies if isinstance(policy, ExpertPolicy) else (policy,)


def _by_exit(policy: Policy) -> Floats:
    """Return the policy's costs by the model's exit numbers; NaN at exits it skips."""
    costs = np.full(policy.model_exits, np.nan)
    costs[list(policy.path)] = policy.costs
    costs.flags.writeable = False  # results hold views of it
    return costs
