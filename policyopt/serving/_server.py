"""`serve`: a staged model and a policy run a batch; the survivors of every exit go on together.

`policyopt.runtime` decides, on logits brought to the host as float32, so a served sample leaves where
the same logits leave in a replay. One sample goes by itself, by the policy's own step or in machine code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._export.c_native import ASK
from policyopt._export.c_native import native as machine_code
from policyopt.runtime import Decisions, ExpertPolicy, Policy, PolicyFamily
from policyopt.runtime._checks import check_type, sample_numbers
from policyopt.runtime._errors import input_error
from policyopt.runtime._forks import Line, parted, tell_of_forks
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._reading import FEWEST, refuse_probabilities
from policyopt.runtime._several import Several, policy_of, rows_of, shaped
from policyopt.runtime._typing import Floats, Ints

from ._latency import LatencyTable
from ._staged import StagedModel, host, refuse_numpy, size, take, warn_of_training


@dataclass(frozen=True)
class Served(Decisions):
    """What was done with the n samples of a batch, in the batch's order.

    Attributes
    ----------
    exit : ndarray of shape (n,), int64
        Exit taken: the model's number.
    prediction : ndarray of shape (n,), int32
        The answer's class; sets of labels and values as `policyopt.runtime.Decision` has them.
    cost : ndarray of shape (n,), float64
        Mean cost of the exit taken, in the policy's unit, and of handing over where it abstained.
    abstained : ndarray of shape (n,), bool
        Who is handed over.
    probabilities : ndarray of shape (n, C), float64, or None
        The answers, where asked for.
    confidence : ndarray of shape (n,), float64, or None
        How sure each answer is (`Decision.confidence`), where asked for.
    """

    probabilities: Floats | None = None
    confidence: Floats | None = None


class Server:
    """A staged model with an exit policy; made by `serve`, called with a batch.

    Attributes
    ----------
    reason : str
        Why a batch of one goes as many do; empty where it goes by itself.
    """

    def __init__(
        self,
        model: StagedModel,
        policy: Policy | ExpertPolicy | PolicyFamily,
        probabilities: bool = False,
        native: bool = False,
        confidence: bool = False,
        latency: LatencyTable | None = None,
    ) -> None:
        import torch

        self.model, self.policy = model, policy
        self.probabilities, self.confidence = probabilities, confidence
        self._wanted = policy.needs_features
        policies = policy.policies if isinstance(policy, Several) else (policy,)
        self._policies, self._costs = policies, np.stack([_by_exit(p) for p in policies])
        self._plan = None if latency is None else latency.plan(policy.active_exits)
        self._count, self._lock = 0, Lock()
        tell_of_forks(self)
        self._inference = torch.inference_mode
        self._rows: list[Any] = []  # of the first exit, seen so far
        self.looking = policy.kind == "logits"
        whys = {
            "the answers' probabilities are asked for": probabilities,
            "the answers' confidence is asked for": confidence,
            "several contexts are served": isinstance(policy, ExpertPolicy),
            "several levels are served": isinstance(policy, PolicyFamily),
            "it may abstain": policy.abstains,
        }
        self.reason = next((why for why, holds in whys.items() if holds), "")
        if native and self.reason:
            raise input_error("native", "False here", True, f"Of this policy {self.reason}.")
        single = _Machine if native else _Single
        self._single = None if self.reason else single(self)

    def look(self, output: Any) -> None:
        """Refuse outputs of the first exit that are probabilities, where the policy is of logits.

        One sample alone does not tell: logits may be non-negative with sum 1 by chance. So rows are gathered
        over the first requests until they are as many as tell.
        """
        # A copy: what a head returns may be written over by the next request.
        rows = np.array(host(output))
        if rows.ndim != 2 or (self._rows and rows.shape[1] != self._rows[0].shape[1]):
            return  # the policy says what is wrong with it
        seen = [*self._rows, rows]  # threads may be here at once: each has a list of its own
        if sum(map(len, seen)) >= FEWEST:
            # Where these are refused, what comes next is looked at with those before.
            first = self.policy.active_exits[0]
            refuse_probabilities(np.concatenate(seen), f"output of exit {first}")
            self.looking, seen = False, []
        self._rows = seen

    def __call__(
        self,
        batch: Any,
        *,
        samples: npt.ArrayLike | None = None,
        context: Any = None,
        level: Any = None,
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
        level : int, float, str, or array of shape (n,), int, optional
            For a `PolicyFamily`: the level of all samples, or the number of each sample's.

        Returns
        -------
        Served

        Raises
        ------
        InputError
            As `Policy.step`; an exit's output that is not what the policy was fitted on. Probabilities
            where it takes logits are told by the first four rows that come; one row does not tell.
        """
        try:
            n = size(batch)
            with self._inference():
                single = self._single if n == 1 and context is None and level is None else None
                if single is not None and samples is None:
                    return single.run(batch, self._counted(1))
                first = self._counted(n) if samples is None else 0
                numbers = sample_numbers(samples, n) + first
                if single is not None:
                    return single.run(batch, int(numbers[0]))
                return self._many(batch, n, numbers, context, level)
        except (TypeError, AttributeError) as error:
            refuse_numpy(self.model, batch, error)

    def _counted(self, n: int) -> int:
        """Count n samples, and return the first one's number; threads may serve at once."""
        with self._lock:
            first, self._count = self._count, self._count + n
        return first

    def _renew(self, line: Line) -> None:
        """Give the samples of a forked child numbers of their own."""
        self._count, self._lock = parted(self._count, line), Lock()

    def _many(self, batch: Any, n: int, numbers: Ints, context: Any, level: Any) -> Served:
        """Run a batch; after every exit only the survivors are decided on, and go on where regrouping pays."""
        state, chosen = _started(self.policy, numbers, context, level)
        results, hidden = Results(self, n, chosen), batch
        # The survivors; how many run, and the survivors' places among them.
        rows, of, places = np.arange(n), n, None
        for at, k in enumerate(self.policy.active_exits if n else ()):
            hidden, decision = self._exit(at, hidden, state, places)
            leaving: Any = decision.exit
            results.leave(k, rows[leaving], decision, leaving)
            if leaving.all():
                break
            if not leaving.any():
                continue
            stay = np.flatnonzero(~leaving)
            state.keep(stay)
            rows, places = rows[stay], stay if places is None else places[stay]
            if self._plan is None or len(rows) <= self._plan(at, of):
                hidden, of, places = take(hidden, places, of), len(rows), None
        return results.served()

    def _exit(self, at: int, hidden: Any, state: Any, rows: Ints | None = None) -> tuple[Any, Any]:
        """Run the stages up to exit `at` of the path; return the hidden state there, and what is decided of `rows`."""
        model, policy = self.model, self.policy
        k, before = policy.active_exits[at], policy.active_exits[at - 1] if at else -1
        hidden, output = model.onward(hidden, before, k)
        output = host(output)
        vectors = host(model.vectors(k, hidden)) if self._wanted else None
        if rows is not None:
            output, vectors = rows_of(output, rows), vectors if vectors is None else vectors[rows]
        if self.looking and not at:
            self.look(output)
        return hidden, policy.step(k, output, state, vectors)


class Results:
    """What was done with n samples, filled in as they leave."""

    def __init__(self, server: Server, n: int, chosen: Ints | None) -> None:
        self._server, self.chosen = server, chosen
        self._exits, self._predictions = np.empty(n, np.int64), np.empty(n, np.int32)
        self._gone_over = np.zeros(n, dtype=bool)
        self._answers = np.empty((n, server.policy.classes)) if server.probabilities else None
        self._sure = np.empty(n) if server.confidence else None

    def leave(self, k: int, rows: Ints, decision: Any, leaving: Any) -> None:
        """Note that those of `rows` leave at exit k: those of the decision that are `leaving`, (m,) bool."""
        if not len(rows):
            return
        self._predictions = shaped(self._predictions, decision.prediction)
        self._exits[rows], self._predictions[rows] = k, decision.prediction[leaving]
        self._gone_over[rows] = decision.abstained[leaving]
        if self._answers is not None:
            assert decision.answer is not None  # refused for records by `serve`
            self._answers[rows] = decision.answer[leaving]
        if self._sure is not None:
            self._sure[rows] = decision.confidence[leaving]

    def served(self, rows: Any = slice(None)) -> Served:
        """Return what was done with some of them, all of which have left."""
        exits, gone_over, table = self._exits[rows], self._gone_over[rows], self._server._costs
        chosen = None if self.chosen is None else self.chosen[rows]
        costs = table[0 if chosen is None else chosen, exits]
        for e, policy in enumerate(self._server._policies):
            if policy.abstention is not None:
                own = gone_over & ((chosen == e) | (chosen is None))
                costs = policy.abstention.paid(costs, own)
        answers, sure = (None if x is None else x[rows] for x in (self._answers, self._sure))
        return Served(exits, self._predictions[rows], costs, gone_over, answers, sure)


def serve(
    model: StagedModel,
    policy: Policy | ExpertPolicy | PolicyFamily,
    *,
    probabilities: bool = False,
    confidence: bool = False,
    compile: bool = False,  # as torch calls it
    backend: Any = "inductor",
    native: bool = False,
    latency: LatencyTable | None = None,
) -> Server:
    """Attach a policy to a staged model.

    Parameters
    ----------
    model : StagedModel
        Its exits are those of the cache that the policy was fitted on.
    policy : Policy, ExpertPolicy or PolicyFamily
        From a fit, or `policyopt.load_policy`.
    probabilities : bool, default False
        Whether to return the answers' class probabilities too.
    confidence : bool, default False
        Whether to return how sure each answer is (the largest probability, or that number calibrated
        where the policy was fitted with a calibrator).
    compile : bool, default False
        Whether to compile every stage and head (`StagedModel.compiled`). A compiled model rounds
        otherwise than a plain one: export the cache from the compiled one where that matters.
    backend : str or callable, default "inductor"
        Of `torch.compile`.
    native : bool, default False
        Whether a batch of one is decided in machine code, which a C compiler here makes from the
        policy's header: a few microseconds per exit whatever the policy, not some tens. What was compiled
        is kept in a folder of yours (``POLICYOPT_CACHE``, else ``~/.cache/policyopt``), by the hash of its
        source. For policies of logits.
    latency : LatencyTable, optional
        From `measure` with `batches`: survivors are then regrouped only where that is faster than to run the
        batch on as it is. Default: after every exit.

    Returns
    -------
    Server

    Raises
    ------
    InputError
        Another number of exits, features that are needed and lacking, probabilities of summaries;
        `native` where it cannot be.
    NoCompiler
        `native` without a C compiler.

    Warns
    -----
    TrainingModeWarning
        A module in training mode that holds dropout or batch norm. Looked for here, not at requests.

    Examples
    --------
    >>> import torch  # doctest: +SKIP
    >>> import policyopt as po
    >>> policy = Policy(po.make_score("max_prob"), [0.8], [1.0, 3.0], "ms", "logits", 2)
    >>> model = StagedModel(
    ...     [torch.nn.Identity()] * 2, [lambda h: h, lambda h: -h]
    ... )  # doctest: +SKIP
    >>> served = serve(model, policy)(torch.tensor([[4.0, 0.0], [0.2, 0.0]]))  # doctest: +SKIP
    >>> served.exit, served.prediction, served.cost  # doctest: +SKIP
    (array([0, 1]), array([0, 1], dtype=int32), array([1., 3.]))
    """
    check_type("model", model, StagedModel, "a StagedModel", "Wrap its stages and heads.")
    policy = policy_of(policy)
    if latency is not None and latency.stages.shape[1] != model.exits:
        allowed, got = f"of {model.exits} exits, as the model's", latency.stages.shape[1]
        raise input_error("latency", allowed, got, "Measure it on this model.")
    if model.exits != policy.model_exits:
        allowed = f"of {policy.model_exits} exits, as the policy's"
        step = "Fit the policy on a cache of this model."
        raise input_error("model", allowed, f"{model.exits} stages", step)
    if policy.needs_features and model.features is None:
        model.vectors(0, None)  # says what is lacking
    if probabilities and not KINDS[policy.kind].whole:
        allowed = f"False: the policy is of {policy.kind}, with no probability of every class"
        raise input_error("probabilities", allowed, probabilities)
    warn_of_training(model)
    run = model.compiled(backend) if compile else model
    return Server(run, policy, probabilities, native, confidence, latency)


def _started(policy: Any, numbers: Ints, context: Any, level: Any) -> tuple[Any, Any]:
    """Return the state of a batch, and the number of each sample's policy, (n,), where there are several."""
    family, experts = isinstance(policy, PolicyFamily), isinstance(policy, ExpertPolicy)
    if experts and context is None:
        allowed = f"given: one of {', '.join(policy.contexts)} per sample"
        raise input_error("context", allowed, "none", "Ask the classifier of contexts.")
    if family and level is None:
        raise input_error("level", f"given: {policy.told()}", "none", "E.g. level=0.")
    if context is not None and not experts:
        raise input_error("context", "left out: the policy is the same in all of them", context)
    if level is not None and not family:
        raise input_error("level", "left out: the policy is no family", level)
    if not experts and not family:
        return policy.start(numbers), None
    state = policy.start(context if experts else level, numbers)
    return state, state.chosen


def _by_exit(policy: Policy) -> Floats:
    """Return the policy's costs by the model's exit numbers; NaN at exits it skips."""
    costs = np.full(policy.model_exits, np.nan)
    costs[list(policy.active_exits)] = policy.costs
    costs.flags.writeable = False  # results hold views of it
    return costs


class _Single:
    """Decides about one sample by `Policy.step`; every line of `run` is paid at every exit of every request."""

    def __init__(self, server: Server) -> None:
        import torch

        self.server, self.model = server, server.model
        self.policy: Any = server.policy
        self._path, self._float32 = frozenset(self.policy.active_exits), torch.float32
        self._shape, self._vectors = (1, self.policy.classes), self.policy.needs_features
        self._costs = _by_exit(self.policy)
        self._results: dict[tuple[int, int], Served] = {}  # by exit and class

    def run(self, batch: Any, number: int) -> Served:
        """Run a batch of one sample, of that number; return its result."""
        first = self.policy.active_exits[0]
        hidden, logits = self.model.onward(batch, -1, first)
        if self.server.looking:
            self.server.look(logits)
        return self.by_policy(first, hidden, logits, number, ())

    def result(self, k: int, c: int) -> Served:
        """Return the result of one sample that left at exit k with class c; frozen, so it serves again."""
        if (k, c) not in self._results:
            exits, classes = np.array([k]), np.array([c], dtype=np.int32)
            never = np.zeros(1, dtype=bool)  # which `reason` sees to
            for array in (exits, classes, never):
                array.flags.writeable = False
            self._results[k, c] = Served(exits, classes, self._costs[k : k + 1], never)
        return self._results[k, c]

    def by_policy(self, k: int, hidden: Any, logits: Any, number: int, seen: Sequence[Any]) -> Any:
        """Run one sample to its end by the policy, from exit k on; `seen`: outputs before."""
        model, policy = self.model, self.policy
        state = caught_up(policy, number, seen)
        while True:
            vectors = host(model.vectors(k, hidden)) if self._vectors else None
            decision = policy.step(k, host(logits), state, vectors)
            if decision.exit:
                if not policy.observer.kind.answers_class:  # too many to keep
                    said = np.asarray(decision.prediction)[None]
                    never = np.zeros(1, dtype=bool)
                    return Served(np.array([k]), said, self._costs[k : k + 1], never)
                return self.result(k, decision.prediction)
            following = policy.active_exits[policy.active_exits.index(k) + 1]
            hidden, logits = model.onward(hidden, k, following)
            k = following


class _Machine(_Single):
    """Decides in machine code (`policyopt._export.c_native`)."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._native = machine_code(self.policy)

    def run(self, batch: Any, number: int) -> Served:
        """Run a batch of one sample, of that number; return its result."""
        model, path, shape, float32 = self.model, self._path, self._shape, self._float32
        step, hidden, at = self._native.step, batch, 0
        state = ctypes.create_string_buffer(self._native.size)
        for k in range(model.exits):
            hidden, given = model.stage(k, hidden)
            if k not in path:
                continue
            logits = model.head(k, hidden, given)
            if not at and self.server.looking:
                self.server.look(logits)
            if (
                getattr(logits, "dtype", None) is float32
                and logits.shape == shape
                and logits.is_cpu
                and logits.is_contiguous()
            ):
                said = step(state, number, at, logits.data_ptr())
            else:
                said = self._converted(logits, state, number, at)
            if said == ASK:
                return self.by_policy(k, hidden, logits, number, self._native.seen(state, at))
            if said & 1:
                return self._results.get((k, said >> 1)) or self.result(k, said >> 1)
            at += 1
        raise AssertionError("the last exit on a path always stops")

    def _converted(self, logits: Any, state: Any, number: int, at: int) -> int:
        """Step on an output of another form; the policy has to look at what has no such row."""
        row = host(logits)
        if getattr(row, "shape", None) != self._shape or row.dtype.kind not in "fiu":
            return ASK
        x = (ctypes.c_float * self._shape[1])(*row[0].astype(np.float32).tolist())
        return self._native.step(state, number, at, ctypes.addressof(x))


def caught_up(policy: Policy, number: int, seen: Sequence[Any]) -> Any:
    """Return the policy's state of a sample after the outputs of its first exits."""
    state = policy.start(number)
    for k, output in zip(policy.active_exits, seen, strict=False):
        policy.step(k, output, state)
    return state
