"""`Several`: policies of one model of which every sample has its own: by its context, or on its level.

One choice for all samples, or the same policy everywhere, decides exactly as `Policy.decide` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ._checks import check_type, sample_numbers
from ._errors import input_error
from ._kinds import KINDS
from ._outputs import ExitOutput
from ._policy import ALWAYS, Answer, Decision, Decisions, Next, Policy, State
from ._reading import as_array, read_exits
from ._routing import Route, RoutingPolicy, check_next, no_thresholds
from ._shown import Shown
from ._typing import Array, Floats, Ints


class Several(Shown, ABC):
    """Some policies, one of which decides about each sample."""

    policies: tuple[Any, ...]  # each a Policy; of a family, or each a RoutingPolicy
    routable: ClassVar[bool] = False
    #: What chooses among them, and what to do where it is refused.
    role: ClassVar[str]
    remedy: ClassVar[str]
    #: What to do where one policy is wanted.
    singly: ClassVar[str] = "Take one of its `policies`: each is a policy of its own."

    # What its policies share.
    kind = property(lambda self: self.policies[0].kind, doc="What `step` and `decide` are given.")
    classes = property(lambda self: self.policies[0].classes, doc="C; 0 where nobody says.")
    unit = property(lambda self: self.policies[0].unit, doc="Unit of the costs.")
    model_exits = property(lambda self: self.policies[0].model_exits, doc="Exits of the model.")

    observer = property(lambda self: self.policies[0].observer, doc="How outputs are looked at.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.named()}, {self.unit})"

    @abstractmethod
    def number(self, which: Any, /) -> int:
        """Return the number of the policy that is asked for."""

    @abstractmethod
    def named(self) -> str:
        """Return what it is, for people."""

    @cached_property
    def routes(self) -> bool:
        """Whether the policies ask models in any order."""
        return any(isinstance(policy, RoutingPolicy) for policy in self.policies)

    @cached_property
    def abstains(self) -> bool:
        """Whether any of the policies may decline to answer."""
        return any(policy.abstains for policy in self.policies)

    @cached_property
    def needs_features(self) -> bool:
        """Whether a score reads the model's own feature vectors."""
        return any(policy.needs_features for policy in self.policies)

    @cached_property
    def active_exits(self) -> tuple[int, ...]:
        """The model's numbers of the exits that any of the policies runs, in order."""
        return tuple(sorted(set().union(*(policy.active_exits for policy in self.policies))))

    @cached_property
    def exits(self) -> int:
        """How many exits any of the policies runs."""
        return len(self.active_exits)

    @cached_property
    def costs(self) -> Floats:
        """Cost of each of `active_exits` (of models, of a call), mean over the policies that run it."""
        if self.routes:
            return np.mean([p.costs[list(self.active_exits)] for p in self.policies], axis=0)
        each = [dict(zip(p.active_exits, p.costs.tolist(), strict=True)) for p in self.policies]
        means = [np.mean([costs[k] for costs in each if k in costs]) for k in self.active_exits]
        return np.array(means, dtype=np.float64)

    def _check_alike(self) -> None:
        """Refuse no policies, and policies of different models."""
        several = isinstance(self.policies, Iterable)
        given = self.policies if several else ()
        policies = tuple(policy_of(p, True, "policies", self.routable) for p in given)
        object.__setattr__(self, "policies", policies)
        for name in ("kind", "classes", "unit", "model_exits", "error_scale", "needs_query"):
            values = [getattr(policy, name, 0) for policy in policies]
            if any(value != values[0] for value in values):
                what, step = f"{name} of the policies", "Fit them on outputs of the same model."
                raise input_error(what, f"the same in every {self.role}", values, step)

    def _start(self, which: Any, samples: Any = 0, query: Any = None) -> Any:
        """Begin one sample, or several side by side; of several samples, 0 stands for 0..n-1."""
        if self.routes:
            number = self.number(which)
            route = self.policies[number].start(samples, query)
            route.level = number
            return route
        samples = 0 if samples is None else samples
        if isinstance(which, str) or np.ndim(which) == 0:
            e = self.number(which)
            if np.ndim(samples) == 0:
                state = self.policies[e].start(samples)
                return SeveralState(np.array([e]), [(e, np.array([0]), state)], True)
            which = np.full(len(np.asarray(samples)), e)
        n = len(np.asarray(which))
        numbers = sample_numbers(None if np.ndim(samples) == 0 and samples == 0 else samples, n)
        rows = chosen_numbers(which, len(self.policies), n, self.role, self.remedy)
        groups = []
        for e in np.unique(rows).tolist():
            mine = np.flatnonzero(rows == e)
            groups.append((e, mine, self.policies[e].start(numbers[mine])))
        return SeveralState(rows, groups, False)

    def step(
        self, k: int, output: object, state: Any = None, features: object = None, cost: float | None = None
    ) -> Any:  # fmt: skip
        """Decide at exit k, each sample by its own policy.

        Parameters
        ----------
        k : int
            The model's number of the exit: for one sample those of its policy's `active_exits` in turn,
            for several those of this one's `active_exits`; of routing ``state.next``.
        output : array of shape (C,) for one sample, (n, C) for several; mapping for records
            What exit k gave.
        state : SeveralState or Route
            From `start`; advanced in place.
        features : array of shape (D_k,) for one sample, (n, D_k) for several, optional
        cost : float, optional
            Of routing: what the call cost, see `RoutingPolicy.step`.

        Returns
        -------
        Decision, or of routing Routed
            Of several samples, those whose policy skips exit k do not leave there (prediction -1,
            score -1e30, confidence 0); those whose policy ends before it have left.

        Raises
        ------
        InputError
            As `Policy.step`.
        """
        if isinstance(state, Route):
            check_next(k, state)
            return self.policies[state.level].step(output, state, cost)
        allowed, step = "what `start` gave, third", "E.g. step(state.next, output, state)."
        check_type("state", state, SeveralState, allowed, step)
        if state.scalar:
            e, _, inner = state.groups[0]
            return self.policies[e].step(k, output, inner, features)
        if k not in self.active_exits:
            allowed = f"an exit that a policy runs: {', '.join(map(str, self.active_exits))}"
            raise input_error("k", allowed, k, "Loop over `active_exits`.")
        if not isinstance(output, (Mapping, ExitOutput)):
            output = as_array(output)
        n = len(state.chosen)
        stop, prediction = np.zeros(n, dtype=bool), np.full(n, -1, dtype=np.int32)
        score, confidence = np.full(n, ALWAYS), np.zeros(n)
        gone, standing = np.zeros(n, dtype=bool), np.full(n, np.nan)
        number = np.full(n, -1, dtype=np.int32)
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
            number[rows], gone[rows] = found.number, found.abstained
            if policy.abstention is not None:
                standing[rows] = found._standing
            answers.append((rows, found._logits))
        answer = joined(answers, n)
        return Decision(
            stop, prediction, score, confidence, answer, number, abstained=gone, _standing=standing,
            next=state.next, model=state.model,
        )  # fmt: skip

    def answer_now(self, state: SeveralState) -> Answer:
        """Return the best answer so far of each sample, as `Policy.answer_now`.

        Raises
        ------
        InputError
            A sample has seen none of its policy's exits.
        """
        found = [(rows, self.policies[e].answer_now(inner)) for e, rows, inner in state.groups]
        if state.scalar:
            return found[0][1]
        n = len(state.chosen)
        exits, said, sure = np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n)
        for rows, part in found:
            said = shaped(said, part.prediction)
            exits[rows], said[rows], sure[rows] = part.exit, part.prediction, part.confidence
        return Answer(exits, said, sure)

    def _decide(
        self, outputs: object, which: npt.ArrayLike, samples: npt.ArrayLike | None, features: Any,
        costs: Any = None, query: Any = None,
    ) -> Any:  # fmt: skip
        """Decide for many samples whose outputs are all known; `which`: (N,) int."""
        of = self.model_exits
        n, rows_at = read_exits(outputs, of, KINDS[self.kind], self.classes, self.active_exits)
        chosen = chosen_numbers(which, len(self.policies), n, self.role, self.remedy)
        numbers, whole, kind = sample_numbers(samples, n), dict[str, Array](), Decisions
        if self.routes:  # checked as a whole
            costs = None if costs is None else self.policies[0].each_cost(costs, n)
            query = self.policies[0].read_query(query, n)
        # A policy without a sample looks at none: it checks the form of an empty batch.
        for e in np.unique(chosen).tolist() or [0]:
            policy, rows = self.policies[e], np.flatnonzero(chosen == e)
            entries = [rows_at(k, rows) if k in policy.active_exits else None for k in range(of)]
            if self.routes:
                asked = None if query is None else query[rows]
                paid = None if costs is None else costs[rows]
                part = policy.decide(entries, numbers[rows], paid, asked)
            else:
                part = policy.decide(entries, numbers[rows], vectors_of(policy, features, rows))
            kind = type(part)
            for name, column in vars(part).items():
                if name not in whole:
                    whole[name] = np.empty((n, *column.shape[1:]), column.dtype)
                whole[name] = shaped(whole[name], column)
                whole[name][rows] = column
        return kind(**whole)


def chosen_numbers(which: npt.ArrayLike, policies: int, samples: int, role: str, step: str) -> Ints:
    """Return contexts or levels as (N,) int64, refused unless each is the number of a policy."""
    array = as_array(which, role)
    if array.shape != (samples,) or (array.dtype.kind not in "iu" and array.size):
        got = f"shape {array.shape}, dtype {array.dtype}"
        raise input_error(role, f"one whole number per sample: {samples}", got, step)
    off = np.flatnonzero((array < 0) | (array >= policies))
    if len(off):
        got = f"{array[off[0]]} at sample {off[0]}"
        raise input_error(role, f"from 0 to {policies - 1}", got, step)
    return array.astype(np.int64)


def policy_of(
    given: Any, single: bool = False, argument: str = "policy", routes: bool = False
) -> Any:
    """Return the policy that this is, or that a fit holds; several are refused if `single`, routing unless `routes`."""
    fitted = hasattr(given, "policy") and hasattr(given, "expected")  # Fitted and its kin
    found = given.policy if fitted else given
    if single and isinstance(found, Several):
        raise input_error(argument, "one policy", found.named(), found.singly)
    if isinstance(found, RoutingPolicy) or (isinstance(found, Several) and found.routes):
        if not routes:
            raise no_thresholds(argument)
        return found
    if isinstance(given, type) or not isinstance(found, (Policy, Several)):
        step = "E.g. what policyopt.fit returns, or policyopt.load_policy(path)."
        raise input_error(argument, "a Policy, or a fit that holds one", type(given).__name__, step)
    return found


@dataclass(slots=True, eq=False)
class SeveralState(Next):
    """Where some samples stand between exits, each in the hands of its own policy."""

    chosen: Ints  # number of each sample's policy
    groups: list[tuple[int, Ints, State]]  # (policy, rows of its samples, their state)
    scalar: bool

    @property
    def next(self) -> int | None:  # type: ignore[override]
        return min((s.next for _, _, s in self.groups if s.next is not None), default=None)

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.groups[0][2].names if self.groups else ()

    def keep(self, rows: Array) -> SeveralState:
        """Keep some samples only (a mask or row numbers), the survivors of an exit; return itself."""
        chosen = np.arange(len(self.chosen))[rows]
        place = np.empty(len(self.chosen), dtype=np.int64)
        self.chosen = self.chosen[chosen]
        groups = []
        for e, members, state in self.groups:
            place[members] = np.arange(len(members))
            mine = np.flatnonzero(self.chosen == e)
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
