"""`Policy`: answer rule + score rule + thresholds, frozen. The only code that decides.

Evaluation replays `Policy.decide`; deployment calls `Policy.step`. Both compare the same
float64 scores with the same thresholds: exit at the first k with ``score >= threshold``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._answers import AnswerRule, Identity, make_answer
from ._arithmetic import coin
from ._calibrators import Calibrator, make_calibrator
from ._checks import (
    MAX_COST,
    check_least,
    check_one_of,
    check_seed,
    check_share,
    check_text,
    check_type,
    check_whole,
    sample_numbers,
)  # fmt: skip
from ._errors import InputError, input_error
from ._files import write_file
from ._kinds import KINDS, Kind
from ._outputs import TOP, ExitOutput, reduce_logits, with_columns, with_log_prob
from ._parameters import Rule, numbers
from ._reading import (
    FEWEST,
    as_array,
    check_finite,
    number_answer,
    read_exits,
    read_features,
    read_values,
    read_vectors,
    reduce_exit,
    refuse_probabilities,
    text_of,
)
from ._scores import RULES, ScoreRule, make_rule
from ._scores.base import scored
from ._shown import Shown
from ._strict_json import AGAIN, Form, parse, read_plain, to_text
from ._thresholds import ALWAYS, NEVER
from ._typing import Array, Bools, Floats, Ints

_CHUNK, _NUMBERS = 8192, 1 << 22  # samples, and numbers, looked at side by side
_MOST_CLASSES = 10**7
#: More exits than this are no model (a cache holds no more): a policy file may claim anything.
MAX_EXITS = 1024


def first_exit(scores: Array, thresholds: Array) -> Ints:
    """Return the first exit whose score reaches its threshold; the last where none does.

    Parameters
    ----------
    scores : ndarray of shape (n, K)
    thresholds : ndarray of shape (K-1,) or (n, K-1)

    Returns
    -------
    ndarray of shape (n,), int64

    Examples
    --------
    >>> first_exit(np.array([[0.9, 0.1], [0.5, 0.1]]), np.array([0.8]))
    array([0, 1])
    """
    n, exits = scores.shape
    taken = np.zeros(n, dtype=np.int64)
    onward = np.ones(n, dtype=bool)
    for k in range(exits - 1):
        onward &= ~(scores[:, k] >= thresholds[..., k])
        taken += onward
    return taken


def checked_exits(active: object, exits: int, model_exits: int) -> tuple[tuple[int, ...], int]:
    """Return the active exits, given as None where all are, and how many the model has."""
    if isinstance(model_exits, bool) or not isinstance(model_exits, (int, np.integer)):
        raise input_error("model_exits", "a whole number", model_exits, "How many the model has.")
    of = int(model_exits) or exits
    if active is None:
        if of != exits:
            allowed, got = f"the {exits} exits that the policy runs", f"none, of {of} exits"
            raise input_error("active_exits", allowed, got, "Name them, or leave model_exits out.")
        return tuple(range(exits)), of
    most = max(exits, MAX_EXITS)
    if not exits <= of <= most:
        raise input_error("model_exits", f"from {exits} to {most}", of, "Check the policy.")
    chosen = exit_numbers(active, range(of))
    if len(chosen) != exits:
        allowed = f"{exits} exits, one per cost"
        raise input_error("active_exits", allowed, f"{len(chosen)}", "Check the policy.")
    return chosen, of


def exit_numbers(given: object, allowed: Sequence[int]) -> tuple[int, ...]:
    """Return exit numbers as a tuple, refused unless they ascend and each is allowed."""
    listed = list(given) if isinstance(given, (list, tuple, range, np.ndarray)) else []
    whole = all(isinstance(k, (int, np.integer)) and not isinstance(k, bool) for k in listed)
    numbers = tuple(int(k) for k in listed) if whole else ()
    if not numbers or list(numbers) != sorted(set(numbers)) or not set(numbers) <= set(allowed):
        told = f"at least one exit of {', '.join(map(str, allowed))}, in ascending order"
        raise input_error("active_exits", told, given, "Exits are numbered from 0.")
    return numbers


def over_model_exits(thresholds: Floats, active_exits: Sequence[int], model_exits: int) -> Floats:
    """Return thresholds over all the model's exits, which lead to the same exits: never where exits are skipped."""
    whole = np.full(model_exits, NEVER)
    whole[list(active_exits)] = [*thresholds, ALWAYS]
    return whole[:-1]


@dataclass(frozen=True, eq=False)
class Mixture:
    """A second set of thresholds, used for a share of the samples.

    Attributes
    ----------
    thresholds : ndarray of shape (K-1,), float64
    share : float
        Probability of the second set, in [0, 1].
    seed : int
        Of the coin, whose counter is the sample's number.
    rule : ScoreRule, optional
        Score rule of the second set; default the policy's own.
    """

    thresholds: Floats
    share: float
    seed: int = 0
    rule: ScoreRule | None = None

    def __post_init__(self) -> None:
        found = numbers("thresholds of the mixture", self.thresholds, 1)
        object.__setattr__(self, "thresholds", found)
        check_share("share of the mixture", self.share)
        check_seed(self.seed)


@dataclass(frozen=True, eq=False)
class Abstention:
    """When a policy declines to answer at the exit taken, and hands the sample over, to a person say.

    What such a sample counts is said here once: it costs what its exit costs and `cost` besides, and its
    quality is `quality`. Coverage is the share of the others, selective quality their mean.

    Attributes
    ----------
    thresholds : ndarray of shape (K,), float64
        Declines where the score at the exit taken is below.
    rule : ScoreRule, optional
        Whose score; default the decision's confidence, calibrated where the policy has a map.
    cost : float
        Of handing a sample over, in the policy's unit.
    quality : float
        Of the answer that comes then, in [0, 1].
    """

    thresholds: Floats
    rule: ScoreRule | None = None
    cost: float = 0.0
    quality: float = 1.0

    def __post_init__(self) -> None:
        found = numbers("thresholds of abstention", self.thresholds, 1)
        object.__setattr__(self, "thresholds", found)
        check_least("cost of abstention", self.cost, MAX_COST)
        check_share("quality of abstention", self.quality)

    def paid(self, cost: Any, abstained: Any) -> Any:
        """Return what samples cost, from what their exits cost."""
        return cost + np.where(abstained, self.cost, 0.0)

    def worth(self, quality: Any, abstained: Any) -> Any:
        """Return the quality of samples, from that of the policy's answers."""
        return np.where(abstained, self.quality, quality)


class Next:
    """Which exit or model is run next: ``next``, its number, None: none; `model`, its name."""

    __slots__ = ()
    next: int | None
    names: tuple[str, ...]

    @property
    def model(self) -> str | None:
        """Its name; the number as text where there are none."""
        at = self.next
        return None if at is None else self.names[at] if self.names else str(at)


@dataclass(slots=True, eq=False)
class State(Next):
    """Where some samples stand between exits; owned by the caller, advanced by `Policy.step`."""

    rule_states: tuple[tuple[Any, ...], ...]
    answer_state: tuple[Any, ...]
    arm: Bools
    scalar: bool
    position: int = 0  # how many exits have been looked at
    answer: tuple[Array, Floats] | None = None  # prediction and confidence at the last of them
    texts: dict[str, str] | None = None  # answers that are texts, by what they have in common
    next: int | None = None
    names: tuple[str, ...] = ()

    def keep(self, rows: Array) -> State:
        """Keep some samples only (a mask or row numbers), the survivors of an exit; return itself."""
        self.rule_states = tuple(tuple(a[rows] for a in state) for state in self.rule_states)
        self.answer_state = tuple(a[rows] for a in self.answer_state)
        self.arm = self.arm[rows]
        if self.answer is not None:
            self.answer = self.answer[0][rows], self.answer[1][rows]
        return self

    @classmethod
    def join(cls, states: Sequence[State]) -> State:
        """Return the state of the samples of several states that stand before the same exit, one after another."""

        def side_by_side(columns: Any) -> tuple[Any, ...]:
            return tuple(map(np.concatenate, zip(*columns, strict=True)))

        first, answers = states[0], [state.answer for state in states if state.answer is not None]
        rules = zip(*(state.rule_states for state in states), strict=True)
        return cls(
            tuple(map(side_by_side, rules)), side_by_side(state.answer_state for state in states),
            np.concatenate([state.arm for state in states]), False, first.position,
            side_by_side(answers) if answers else None, None, first.next, first.names,  # type: ignore[arg-type]
        )  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """What `Policy.step` says at one exit.

    Attributes
    ----------
    exit : bool, or ndarray of shape (n,), bool
        Whether to leave here.
    prediction : int, or ndarray of shape (n,), int32
        Class of this exit; -1 where it gave no answer. Of several labels the set, (C,) or (n, C) of
        1 and 0, int8; of a regression the value, or the D values, (D,) or (n, D).
    score : float, or ndarray of shape (n,), float64
    confidence : float, or ndarray of shape (n,), float64
        Probability that the prediction is right: the largest class probability of the answer,
        or that number calibrated where the policy carries a confidence map.
    next, model : int and str, or None
        Number and name (as `State` has it) of the exit that those run next who go on; None: all stop here.
    """

    exit: Any
    prediction: Any
    score: Any
    confidence: Any
    _logits: Any = field(default=None, repr=False, compare=False)
    #: Whether the policy declines to answer here (see `Abstention`): bool, or (n,); False where it goes on.
    abstained: Any = field(default=False, kw_only=True)
    _standing: Any = field(default=None, repr=False, compare=False, kw_only=True)
    _number: Any = field(default=None, repr=False, compare=False)
    next: int | None = field(default=None, kw_only=True)
    model: str | None = field(default=None, kw_only=True)

    @property
    def number(self) -> Any:
        """The prediction as one number per sample, by which scores compare answers: of a class itself."""
        return self.prediction if self._number is None else self._number

    @property
    def answer(self) -> Floats | None:
        """Class probabilities of this exit, (C,) or (n, C); None of kinds that say none of every class."""
        if self._logits is None:
            return None
        values = np.asarray(self._logits, dtype=np.float64)
        values = np.exp(values - values.max(axis=-1, keepdims=True))
        values = values / values.sum(axis=-1, keepdims=True)
        return values[0] if np.ndim(self.exit) == 0 else values


@dataclass(frozen=True)
class Decisions:
    """What a policy did with n samples.

    Attributes
    ----------
    exit : ndarray of shape (n,), int64
        Exit taken: the model's number.
    prediction : ndarray of shape (n,), int32
        The answer's class; -1 where the exit gave no answer. Of several labels, and of a regression,
        as `Decision` has it.
    cost : ndarray of shape (n,), float64
        Mean cost of the exit taken, in the policy's unit, and of handing over where it abstained.
    abstained : ndarray of shape (n,), bool
        Who is handed over; the prediction is what the policy would have said.
    """

    exit: Ints
    prediction: Array
    cost: Floats
    abstained: Bools


@dataclass(frozen=True)
class Answer:
    """The best answer so far, of samples that are between exits: see `Policy.answer_now`.

    Attributes
    ----------
    exit : int, or ndarray of shape (n,), int64
        The model's number of the last exit seen, whose answer it is.
    prediction : int, or ndarray of shape (n,), int32
    confidence : float, or ndarray of shape (n,), float64
    """

    exit: Any
    prediction: Any
    confidence: Any


@dataclass(frozen=True)
class Trace:
    """What a policy would have scored and answered at every exit it runs, and where it left.

    Shapes: scores, predictions (-1: no answer; as `Decision.number`) (n, K); thresholds (n, K-1), read-only where
    all are equal; exit (n,) and active_exits (K,), the model's numbers.
    """

    scores: Floats
    predictions: Array
    thresholds: Floats
    exit: Ints
    active_exits: tuple[int, ...] = field(kw_only=True)
    #: Of a policy that abstains: what that looks at, and below what it declines, (n, K) and (K,).
    standing: Floats | None = field(default=None, kw_only=True)
    declines: Floats | None = field(default=None, kw_only=True)

    @property
    def abstained(self) -> Bools:
        """Who is handed over, (n,)."""
        if self.standing is None or self.declines is None:
            return np.zeros(len(self.exit), dtype=bool)
        at = self.position
        return self.standing[np.arange(len(at)), at] < self.declines[at]

    @property
    def position(self) -> Ints:
        """Column of the exit taken, (n,)."""
        return np.searchsorted(self.active_exits, self.exit)

    @property
    def taken(self) -> Array:
        """The prediction at the exit taken, (n,)."""
        return self.predictions[np.arange(len(self.exit)), self.position]


@dataclass(frozen=True, eq=False, repr=False)
class Policy(Shown):
    """A frozen exit policy: numpy only, ready to deploy.

    Parameters
    ----------
    rule : ScoreRule
        Gives one score per exit.
    thresholds : array of shape (K-1,)
        Exit at the first k with ``score >= thresholds[k]``; the last exit always stops.
    costs : array of shape (K,)
        Mean cumulative cost per exit, in `unit`, the policy's own arithmetic included.
    unit : str
    kind : str
        What `step` and `decide` are given: ``logits``, ``probabilities``, ``logit``, ``probability``,
        ``multilabel``, ``multilabel_probabilities``, ``regression``, ``regression_variances`` or ``summary``.
    classes : int
        C (0 where summaries do not say); labels of `multilabel`, values of a regression.
    mixture : Mixture, optional
        A second set of thresholds (and score rule) for a share of the samples.
    provenance : mapping
        How the policy was found; JSON-able, not used to decide.
    answer : AnswerRule
        What exit k returns, made from exits 0..k; the score is computed on it.
    overhead : array of shape (K,), optional
        The part of `costs` that is the policy's own arithmetic; default none.
    calibrator : Calibrator, optional
        Says how probable it is that an answer is right; not used to decide.
    active_exits : tuple of int, optional
        The model's exits that the policy runs, ascending; default all. K is their number: costs,
        thresholds, rules and answers know positions 0..K-1 among them only.
    model_exits : int, optional
        How many exits the model has; default K.
    error_scale : float, optional
        Of a regression: the error, in its own unit, at which an answer is worth 1/e.
    abstention : Abstention, optional
        When it declines to answer; default never.

    Examples
    --------
    >>> from policyopt.runtime._scores import MaxProb
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
    >>> state = policy.start()
    >>> decision = policy.step(0, [0.9, 0.1], state)
    >>> decision.exit, decision.prediction, round(decision.score, 6)
    (True, 0, 0.9)
    """

    rule: ScoreRule
    thresholds: Floats
    costs: Floats
    unit: str
    kind: str
    classes: int
    mixture: Mixture | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    answer: AnswerRule = field(default_factory=Identity)
    overhead: Floats = field(default_factory=lambda: np.zeros(0))
    calibrator: Calibrator | None = None
    active_exits: tuple[int, ...] = None  # type: ignore[assignment]  # None is read as all
    model_exits: int = 0
    error_scale: float = 0.0
    abstention: Abstention | None = None

    def __post_init__(self) -> None:
        if not len(self.overhead):
            object.__setattr__(self, "overhead", np.zeros(len(self.costs)))
        for name in ("thresholds", "costs", "overhead"):
            object.__setattr__(self, name, numbers(name, getattr(self, name), 1))
        active, of = checked_exits(self.active_exits, len(self.costs), self.model_exits)
        object.__setattr__(self, "active_exits", active)
        object.__setattr__(self, "model_exits", of)
        check_policy(self)

    def __repr__(self) -> str:
        return f"Policy({self.rule.name}, {self.exits} of {self.model_exits} exits, {self.unit})"

    # What follows from the fields alone is worked out once: `step` asks for it at every exit.

    @cached_property
    def rules(self) -> tuple[ScoreRule, ...]:
        """The score rule, and those of the mixture and of abstention where they have their own."""
        more = [part.rule for part in (self.mixture, self.abstention) if part is not None]
        return (self.rule, *(rule for rule in more if rule is not None))

    @cached_property
    def required_columns(self) -> frozenset[str]:
        """The columns that its score rules read and a summary may lack (`ScoreRule.required_columns`)."""
        return frozenset().union(*(rule.required_columns for rule in self.rules))

    @cached_property
    def observer(self) -> Observer:
        """How it looks at what an exit gave: at what its score rules say they read, and no more."""
        # No summary serves rules that read all classes: they may read the rest too.
        full = "log_prob" in self.required_columns
        top = 2 if full or "margin" in self.required_columns else 1
        entropy = full or "entropy" in self.required_columns
        kind = KINDS[self.kind]
        return Observer(self.answer, kind, self.classes, full, top, entropy, self.error_scale)

    @property
    def reads_summaries(self) -> bool:
        """Whether reduced outputs suffice to decide."""
        return isinstance(self.answer, Identity) and not self.observer.full

    @property
    def abstains(self) -> bool:
        """Whether it may decline to answer."""
        return self.abstention is not None

    @cached_property
    def needs_features(self) -> bool:
        """Whether a score, or the answer, reads the model's own feature vectors."""
        return "features" in self.required_columns or self.answer.reads_features

    @cached_property
    def needs_predictions(self) -> bool:
        """Whether summaries must say predictions: a score reads them, and the rows of the fit had any."""
        read = any(rule.reads_predictions for rule in self.rules)
        return read and self.provenance.get("predictions") is not False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the model's exits, as the rows of the fit had them; empty where they have none."""
        told = self.provenance.get("names")
        whole = isinstance(told, list) and len(told) == self.model_exits
        return tuple(map(str, told or ())) if whole else ()

    @cached_property
    def exits(self) -> int:
        """K, the exits that the policy runs."""
        return len(self.costs)

    def start(self, samples: int | npt.ArrayLike = 0) -> State:
        """Begin one sample, or several side by side.

        Parameters
        ----------
        samples : int or array of shape (n,), int
            The sample's number (e.g. a request counter). Only a policy that mixes or draws
            looks at it; the same number gives the same decisions in every runtime.

        Returns
        -------
        State
        """
        given = sample_numbers(samples)
        numbers = given.reshape(1) if given.ndim == 0 else given
        return State(
            tuple([rule.start(numbers) for rule in self.rules]),
            self.observer.start(len(numbers)),
            arms(self, numbers),
            given.ndim == 0,
            next=self.active_exits[0],
            names=self.names,
        )

    def step(self, k: int, output: object, state: State, features: object = None) -> Decision:
        """Decide at exit k.

        Parameters
        ----------
        k : int
            The model's number of the exit: those of `active_exits` in turn, 0, 1, ... unless some are skipped.
        output : array of shape (C,) for one sample, (n, C) for several; mapping for records
            What exit k gave, of the policy's `kind`; numpy or torch. Of one sample a record may have ``answer``, a text
            (None: there was none), in the place of ``prediction``: then predictions are texts, too.
        state : State
            From `start`; advanced in place.
        features : array of shape (D_k,) for one sample, (n, D_k) for several, optional
            The model's feature vector at exit k: only where the policy `needs_features`.

        Returns
        -------
        Decision

        Raises
        ------
        InputError
            Exits out of turn, wrong shape, NaN or infinity, features that are needed and lacking.
        """
        at, kind = position(self, k, state), self.observer.kind
        if kind.record and state.scalar:
            output = number_answer(output, state, self.provenance)
        if not kind.record and not isinstance(output, ExitOutput):
            output = as_array(output)
            output = output.reshape(1, -1) if state.scalar and output.ndim < 2 else output
            if at == 0:
                self._look_at_first(k, output, state)
        reduced, score, answer, standing = advance(self, at, output, state, features)
        state.position = at + 1
        stop = leaves(self, at, score, state)
        state.next = None if stop.all() else self.active_exits[at + 1]
        sure = sureness(self, at, reduced)
        said: Any = reduced.prediction
        number: Any = None
        if not kind.answers_class and answer is not None:
            said, number, answer = kind.answer(answer), said, None
        state.answer = said, sure
        gone: Any = np.zeros(len(stop), dtype=bool)
        if self.abstention is not None:
            standing = sure if standing is None else standing
            gone = stop & (standing < self.abstention.thresholds[at : at + 1])
        if state.scalar:
            number = None if number is None else int(number[0])
            number = number if state.texts is None else int(said[0])
            return Decision(
                bool(stop[0]), _first(said, state), float(score[0]), float(sure[0]), answer, number,
                abstained=bool(gone[0]), next=state.next, model=state.model,
            )  # fmt: skip
        return Decision(
            stop, said, score, sure, answer, number, abstained=gone, _standing=standing, next=state.next,
            model=state.model,
        )  # fmt: skip

    def _look_at_first(self, k: int, output: Any, state: State) -> None:
        """Refuse probabilities in the place of logits: of several samples, or of the first few that come one by one."""
        if not state.scalar:
            refuse_probabilities(output, f"output of exit {k}", self.kind)
        elif len(self._first_rows) < FEWEST:
            self._first_rows.append(output.copy())
            if len(self._first_rows) == FEWEST:
                rows = np.concatenate(self._first_rows)
                self._first_rows.clear()
                refuse_probabilities(rows, f"output of exit {k}", self.kind)
                self._first_rows.extend([rows] * FEWEST)  # looked at

    @cached_property
    def _first_rows(self) -> list[Any]:
        """The first samples' outputs at the first exit, until they have been looked at."""
        return []

    def answer_now(self, state: State) -> Answer:
        """Return the best answer so far: what the policy would return if it left at the last exit seen.

        At a deadline, whichever exit comes next. A later exit's answer is the better one on average, and with
        combined answers (``answer=combined``) it is made of all exits seen.

        Parameters
        ----------
        state : State
            That `step` has advanced.

        Returns
        -------
        Answer

        Raises
        ------
        InputError
            No exit has been seen.

        Examples
        --------
        >>> from policyopt.runtime._scores import MaxProb
        >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
        >>> state = policy.start()
        >>> policy.step(0, [0.7, 0.3], state).exit
        False
        >>> policy.answer_now(state).prediction  # the deadline is here
        0
        """
        if state.answer is None:
            allowed = "one that has seen an exit"
            raise input_error("state", allowed, "one before the first", "Step to an exit first.")
        (prediction, sure), k = state.answer, self.active_exits[state.position - 1]
        if state.scalar:
            return Answer(k, _first(prediction, state), float(sure[0]))
        return Answer(np.full(len(prediction), k, dtype=np.int64), prediction, sure)

    def decide(
        self, outputs: object, samples: npt.ArrayLike | None = None, features: Any = None
    ) -> Decisions:
        """Decide for many samples whose outputs are all known.

        Parameters
        ----------
        outputs : array of shape (N, K, C), or sequence of K outputs of one exit each
            Of all the model's exits, of the policy's `kind`; each entry (N, C), (N,) of one number
            per row, a summary mapping, or an `ExitOutput`. Those that the policy skips are not looked at and may
            be None.
        samples : array of shape (N,), int, optional
            Their numbers; default 0..N-1.
        features : sequence of K arrays of shape (N, D_k), optional
            The model's feature vectors, exit by exit: only where the policy `needs_features`.

        Returns
        -------
        Decisions

        Raises
        ------
        InputError
            Wrong number of exits, shape, NaN or infinity; probabilities for a policy of logits (told by
            the first rows of the first exit, four or more).

        Examples
        --------
        >>> from policyopt.runtime._scores import MaxProb
        >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
        >>> policy.decide(np.array([[[0.9, 0.1], [1, 0]], [[0.6, 0.4], [0, 1]]])).exit
        array([0, 1])
        """
        trace = self.trace(outputs, samples, features)
        cost, abstained = self.costs[trace.position], trace.abstained
        if self.abstention is not None:
            cost = self.abstention.paid(cost, abstained)
        return Decisions(trace.exit, self._said(outputs, trace), cost, abstained)

    def _said(self, outputs: object, trace: Trace) -> Array:
        """Return the predictions at the exits taken, as `Decision` has them."""
        kind, path = self.observer.kind, self.active_exits
        if kind.answers_class:
            return trace.taken
        n, rows = read_exits(outputs, self.model_exits, kind, self.classes, path)
        found: Array | None = None
        for k in path:
            mine = np.flatnonzero(trace.exit == k)
            given = rows(k, mine if n else slice(None))
            if isinstance(given, ExitOutput):
                return trace.taken  # reduced: the values are not there
            said = kind.answer(read_values(given, kind, self.classes, f"output of exit {k}"))
            assert said is not None  # of such kinds
            found = np.empty((n, *said.shape[1:]), dtype=said.dtype) if found is None else found
            found[mine] = said
        return trace.taken if found is None else found

    def trace(
        self, outputs: object, samples: npt.ArrayLike | None = None, features: Any = None
    ) -> Trace:
        """Decide as `decide` does, and keep every exit's score and prediction.

        Parameters
        ----------
        outputs, samples, features
            As `decide` takes them.

        Returns
        -------
        Trace

        Raises
        ------
        InputError
            As `decide`.

        Examples
        --------
        >>> from policyopt.runtime._scores import MaxProb
        >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
        >>> policy.trace(np.array([[[0.9, 0.1], [0, 1]]])).predictions
        array([[0, 1]], dtype=int32)
        """
        path, of = self.active_exits, self.model_exits
        n, rows = read_exits(outputs, of, self.observer.kind, self.classes, path)
        refuse_probabilities(rows(path[0], slice(None)), f"output of exit {path[0]}", self.kind)
        wanted = self.needs_features and features is not None
        vectors = read_features(features, of, n, path) if wanted else None
        numbers = sample_numbers(samples, n)
        scores = np.empty((n, self.exits), order="F")
        predictions = np.empty((n, self.exits), dtype=np.int32)
        declines = self.abstention
        standing = None if declines is None else np.empty((n, self.exits))
        size = max(min(_CHUNK, _NUMBERS // (self.exits * max(self.classes, 1))), 16)
        for low in range(0, max(n, 1), size):  # an empty batch is checked like any other
            part = slice(low, min(low + size, n))
            state = self.start(numbers[part])
            for k in range(self.exits):
                vector = None if vectors is None else vectors[k][part]
                output = rows(path[k], part)
                reduced, scores[part, k], _, stands = advance(self, k, output, state, vector)
                predictions[part, k] = reduced.prediction
                if standing is not None:
                    own = sureness(self, k, reduced) if stands is None else stands
                    standing[part, k] = own
        thresholds = thresholds_of(self, arms(self, numbers))
        taken = first_exit(scores, thresholds)
        taken = np.asarray(self.active_exits, dtype=np.int64)[taken]
        return Trace(
            scores, predictions, thresholds, taken, active_exits=self.active_exits, standing=standing,
            declines=None if declines is None else declines.thresholds,
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact, one JSON file, atomically, in the place of what is there."""
        write_file(path, self.file_text())

    def file_text(self) -> str:
        """Return what `save` writes."""
        return to_text(to_dict(self), "policy", MAX_BYTES, indent=2)


@dataclass(frozen=True)
class Observer:
    """How outputs are looked at, the same in a replay and in an inference loop."""

    answer: AnswerRule
    kind: Kind
    classes: int
    full: bool = False
    top: int = TOP
    entropy: bool = True
    scale: float = 0.0

    def start(self, samples: int) -> tuple[Any, ...]:
        """Return the state of `samples` samples before exit 0: the answer's, or the kind's own."""
        found: Any = self.answer if self.kind.whole else self.kind
        return found.start(samples, self.classes)

    def look(
        self,
        k: int,
        output: Any,
        state: tuple[Any, ...],
        samples: int,
        name: str = "",
        features: Any = None,
    ) -> tuple[ExitOutput, npt.NDArray[np.floating] | None, tuple[Any, ...]]:
        """Return exit k's reduced answer, its logits (else values; None for records), and the new state."""
        name, plain = name or f"output of exit {k}", isinstance(self.answer, Identity)
        if isinstance(output, ExitOutput) and (self.full or not plain):
            got = "reduced columns"
            raise input_error(name, "all class outputs, (n, C)", got, "Pass the logits.")
        columns, kind = self.kind.record or isinstance(output, ExitOutput), self.kind
        if columns:
            seen: Any = reduce_exit(output, kind.name, self.classes, name)
        else:
            seen = read_values(output, kind, self.classes, name)
        if len(seen) != samples:
            step = "Start with one number per sample, and State.keep the survivors."
            raise input_error(name, f"one row per sample: {samples}", f"{len(seen)} rows", step)
        if columns:
            return seen, None, state
        if not kind.whole:
            reduced, state = kind.reduce(k, seen, state, self.scale)
            return reduced, seen, state
        logits = kind.logits(seen)
        if not plain:
            if logits.dtype != np.float32:
                with np.errstate(over="ignore"):  # a number too large is found as infinity
                    logits = logits.astype(np.float32)
            check_finite(logits, name)
            logits, state = self.answer.answer(k, logits, state, features)
        reduced = reduce_logits(logits, self.top, entropy=self.entropy, name=name if plain else "")
        return with_log_prob(reduced, logits) if self.full else reduced, logits, state


def _first(said: Array, state: State) -> Any:
    """Return the prediction of one sample: a number, the text it stands for, or a set of labels or values."""
    return said[0] if said.ndim > 1 else text_of(said[0].item(), state)


def position(policy: Policy, k: int, state: State) -> int:
    """Return where on the path the model's exit k stands; refused where it is not the next one."""
    path, at = policy.active_exits, state.position
    if at >= policy.exits or k != path[at]:
        due = "none: the sample was at the last one" if at >= policy.exits else f"{path[at]}"
        shown = ", ".join(map(str, path))
        raise input_error("k", f"the next exit, {due}, of {shown}", k, "One state per sample.")
    return at


def advance(
    policy: Policy, at: int, output: Any, state: State, features: Any
) -> tuple[ExitOutput, Floats, Any, Floats | None]:
    """Look at the output of an exit and score it, for abstention too where that has a rule; the state moves on."""
    k, samples = policy.active_exits[at], len(state.arm)
    vectors = None
    if policy.answer.reads_features:
        vectors = read_vectors(k, features, samples, state.scalar)
    reduced, answer, answer_state = policy.observer.look(
        at, output, state.answer_state, samples, f"output of exit {k}", vectors
    )
    if policy.needs_features and (features is not None or reduced.features is None):
        if vectors is None:
            vectors = read_vectors(k, features, samples, state.scalar)
        reduced = with_columns(reduced, features=vectors)
    if not policy.observer.kind.whole:
        _check_columns(policy, output, reduced, k)
    scores, states = [], []
    for rule, before in zip(policy.rules, state.rule_states, strict=True):
        score, after = scored(rule, at, reduced, before)
        scores.append(score)
        states.append(after)
    state.answer_state, state.rule_states = answer_state, tuple(states)
    declines = policy.abstention is not None and policy.abstention.rule is not None
    standing = scores.pop() if declines else None
    score = scores[0] if len(scores) == 1 else np.where(state.arm, scores[1], scores[0])
    return reduced, score, answer, standing


def sureness(policy: Policy, at: int, reduced: ExitOutput) -> Floats:
    """Return the confidence of answers at a position on the path, by the policy's map where it has one, (n,)."""
    if policy.calibrator is None:
        return reduced.confidence
    return policy.calibrator.confidence(at, reduced)


def arms(policy: Policy, samples: Ints) -> Bools:
    """Return which of the samples go by the second set of a mixture, (n,)."""
    if policy.mixture is None:
        return np.zeros(len(samples), dtype=bool)
    return coin(policy.mixture.seed, samples) < policy.mixture.share


def thresholds_of(policy: Policy, arm: Bools) -> Floats:
    """Return the thresholds that hold for each sample, (n, K-1)."""
    if policy.mixture is None:
        return np.broadcast_to(policy.thresholds, (len(arm), len(policy.thresholds)))
    return np.where(arm[:, None], policy.mixture.thresholds, policy.thresholds)


def leaves(policy: Policy, at: int, score: Floats, state: State) -> Bools:
    """Return which samples leave at a position on the path, (n,)."""
    if at == policy.exits - 1:
        return np.ones(len(score), dtype=bool)
    # Slices, for numpy 1 would compare with a single number at the width of the scores.
    threshold = policy.thresholds[at : at + 1]
    if policy.mixture is not None:
        threshold = np.where(state.arm, policy.mixture.thresholds[at : at + 1], threshold)
    return score >= threshold


def _check_columns(policy: Policy, given: Any, output: ExitOutput, k: int) -> None:
    """Refuse summaries that lack a column which a score reads."""
    said = not hasattr(given, "keys") or {"prediction", "top_classes"} & set(given)
    if policy.needs_predictions and not said:
        allowed = "with predictions (pred), as the rows of the fit"
        step = (
            f"Score '{policy.rule.name}' reads them; -1 stands for no answer. Give them, or fit "
            "a score that does not, such as max_prob."
        )
        raise input_error(f"summary of exit {k}", allowed, "none", step)
    for name in policy.required_columns - {"features"}:
        column = getattr(output, name)
        if column is None or np.isnan(column).any():
            what, allowed = f"summary of exit {k}", f"such that {name} is known"
            step = f"The policy's score reads it; see score '{policy.rule.name}'."
            raise input_error(what, allowed, "rows without", step)


def check_policy(policy: Policy) -> None:
    """Refuse a policy whose parts do not fit each other."""
    check_text("unit", policy.unit, step="E.g. ms, MMACs, USD.")
    check_one_of("kind", policy.kind, tuple(KINDS), "Fit it again.")
    kind = KINDS[policy.kind]
    least = min(kind.least, 1)
    check_whole("classes", policy.classes, least, _MOST_CLASSES, "Fit it again.")
    if kind.single and kind.whole and policy.classes != 2:
        raise input_error("classes", "2 of one logit", policy.classes, "Fit it again.")
    scale = policy.error_scale
    if not isinstance(scale, (int, float)) or not (scale > 0 if kind.scaled else scale == 0):
        allowed = f"a number over 0 for kind {kind.name}" if kind.scaled else "0 (no regression)"
        raise input_error("error_scale", allowed, scale, "Fit it again.")
    for rule in policy.rules:
        check_type("rule", rule, ScoreRule, "a score rule", 'E.g. make_score("max_prob").')
    costs, overhead = policy.costs, policy.overhead
    if (costs > MAX_COST).any():
        raise input_error("costs", f"at most {MAX_COST:g}", costs.tolist(), "Choose a larger unit.")
    if (costs < 0).any() or (np.diff(costs) < 0).any():
        raise input_error("costs", "0 or more, not decreasing", costs.tolist(), "Cumulate them.")
    # A cost is mean plus overhead in floats: the overhead may pass it by a rounding.
    fits = overhead.shape == costs.shape and (overhead >= 0).all()
    if not fits or (overhead > costs * (1 + 1e-9)).any():
        allowed = "one number per exit, from 0 to the costs, of which it is a part"
        raise input_error("overhead", allowed, overhead.tolist(), "Check the policy.")
    mixture, needed = policy.mixture, policy.exits - 1
    for thresholds in (policy.thresholds, *([] if mixture is None else [mixture.thresholds])):
        if len(thresholds) != needed:
            allowed, got = f"one per exit but the last: {needed}", f"{len(thresholds)}"
            raise input_error("thresholds", allowed, got, "The last exit always stops.")
    if policy.abstention is not None:
        check_type("abstention", policy.abstention, Abstention, "an Abstention", "Or None.")
        if len(policy.abstention.thresholds) != policy.exits:
            got = f"{len(policy.abstention.thresholds)}"
            raise input_error(
                "thresholds of abstention", f"one per exit: {policy.exits}", got, AGAIN
            )
    if not kind.whole and not isinstance(policy.answer, Identity):
        raise input_error("answer", f"plain for {kind.name}", policy.answer.name, "Fit again.")
    for rule in (policy.answer, *policy.rules, policy.calibrator):
        if rule is not None:
            rule.check(policy.exits, policy.classes)


POLICY = Form(
    "a policy file", "policyopt-policy", 1,
    {
        "format": str, "version": int,
        "kind": str,  # "logits", "probabilities", "summary", ...: see `_kinds`
        "classes": int,  # C, 0 where summaries do not say
        "unit": str,  # of the costs
        "costs": list,  # K mean cumulative costs, the policy's own arithmetic included
        "overhead": list,  # K numbers: the part of them that is the policy's own arithmetic
        "active_exits": list,  # the K of the model's exits that the policy runs, ascending from 0
        "model_exits": int,  # how many exits the model has
        "error_scale?": (int, float),  # of a regression: the error at which an answer is worth 1/e
        "score": dict, "answer": dict,  # {"name": ..., "params": {...}}
        "calibrator": (dict, type(None)),  # as they; not used to decide
        "thresholds": list,  # K-1 numbers; 1e30 = never, -1e30 = always
        "mixture": (dict, type(None)),  # {"thresholds": ..., "share": s, "seed": n, "score": null | {...}}
        "abstention?": dict,  # where it declines: {"thresholds": K, "score": null | {...}, "cost": x, "quality": q}
        "provenance": dict,  # how it was found: method, settings, budget, expected cost, cache, versions
        "sha256": str,  # of all the above in canonical form
    },
    "`policyopt fit` writes one.",
)  # fmt: skip
MAX_BYTES = 16 << 20


def to_dict(policy: Policy) -> dict[str, Any]:
    """Return the content of a policy's file, checksum included."""
    return POLICY.signed(
        kind=policy.kind, classes=policy.classes, unit=policy.unit, costs=policy.costs.tolist(),
        overhead=policy.overhead.tolist(), active_exits=list(policy.active_exits),
        model_exits=policy.model_exits, **({"error_scale": policy.error_scale} if policy.error_scale else {}),
        score=_named(policy.rule), answer=_named(policy.answer), calibrator=_named(policy.calibrator),
        **own_to_dict(policy),
    )  # fmt: skip


def own_to_dict(policy: Policy) -> dict[str, Any]:
    """Return the fields of a policy's file in which policies of one rule may differ."""
    mixed, declines = policy.mixture, policy.abstention
    own: dict[str, Any] = {} if declines is None else {
        "abstention": {
            "thresholds": declines.thresholds.tolist(), "score": _named(declines.rule),
            "cost": declines.cost, "quality": declines.quality,
        },
    }  # fmt: skip
    return {**own,
        "thresholds": policy.thresholds.tolist(),
        "mixture": None if mixed is None else {
            "thresholds": mixed.thresholds.tolist(), "share": mixed.share, "seed": mixed.seed,
            "score": _named(mixed.rule),
        },
        "provenance": dict(policy.provenance),
    }  # fmt: skip


def own_from_dict(content: dict[str, Any]) -> dict[str, Any]:
    """Return those fields as `Policy` takes them."""
    found = {**content, "mixture": _mixture(content["mixture"])}
    if "abstention" in content:
        given, names = content["abstention"], {"thresholds", "score", "cost", "quality"}
        _exactly("abstention", given, names)
        rule = _made(make_rule, "score of abstention", given["score"])
        found["abstention"] = Abstention(given["thresholds"], rule, given["cost"], given["quality"])
    return found


def _named(rule: Rule | None) -> dict[str, Any] | None:
    if rule is None:
        return None
    if isinstance(rule, ScoreRule) and RULES.get(rule.name, type(rule)) is not type(rule):
        got = f"the class {type(rule).__name__}, where another is '{rule.name}'"
        step = "Give it a name of its own; after a change of the class, fit again."
        allowed = (
            "of a name that no other class is registered by, or its file would be read as that"
        )
        raise input_error("score", allowed, got, step)
    return {"name": rule.name, "params": rule.params()}


def from_dict(content: Any, source: str = "policy") -> Policy:
    """Build a policy from the content of its file, checked; `source` names it in errors."""
    POLICY.check(content, source)
    content = {n: v for n, v in content.items() if n not in ("format", "version", "sha256")}
    if len(content["overhead"]) != len(content["costs"]):
        got = f"{len(content['overhead'])} for {len(content['costs'])} exits"
        raise input_error(f"overhead in {source}", "one number per cost", got, AGAIN)
    if content["model_exits"] < 1:
        raise input_error(f"model_exits in {source}", "1 or more", content["model_exits"], AGAIN)
    try:
        return Policy(
            rule=_made(make_rule, "score", content.pop("score")),
            answer=_made(make_answer, "answer", content.pop("answer")),
            calibrator=_made(make_calibrator, "calibrator", content.pop("calibrator")),
            **own_from_dict(content),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise input_error(source, "whole, its numbers finite", str(error), AGAIN) from error


def _mixture(content: Any) -> Mixture | None:
    if content is None:
        return None
    _exactly("mixture", content, {"thresholds", "share", "seed", "score"})
    rule = _made(make_rule, "score of the mixture", content["score"])
    return Mixture(content["thresholds"], content["share"], content["seed"], rule)


def _made(make: Callable[[str, Any], Any], field: str, value: Any) -> Any:
    """Build a rule from its name and parameters; None stays None."""
    if value is None:
        return None
    _exactly(field, value, {"name", "params"})
    return make(value["name"], value["params"])


def _exactly(field: str, value: Any, names: set[str]) -> None:
    if not isinstance(value, dict) or value.keys() != names:
        raise input_error(field, f"a mapping of {', '.join(sorted(names))}", value, AGAIN)


def load_policy(path: str | os.PathLike[str]) -> Any:
    """Read an artifact of one policy and check it.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Policy, or RoutingPolicy (method ``routing``)

    Raises
    ------
    InputError
        No such file, too large, not JSON, or not a policy.
    """
    from ._routing import MAX_ROUTING_BYTES, ROUTING, routing_from_dict  # which stands on this

    name, content = Path(path).name, read_json(path, MAX_ROUTING_BYTES)
    if isinstance(content, dict) and content.get("format") == ROUTING.format:
        return routing_from_dict(content, name)
    return from_dict(read_json(path), name)  # under the limit of one with thresholds


def read_json(path: str | os.PathLike[str], most: int = MAX_BYTES) -> Any:
    """Read an artifact's JSON, strictly (see `parse`)."""
    data = read_plain(path, "policy", most, "`policyopt fit` writes one.")
    return parse(data, Path(path).name, most, "Is the file whole? Fit and save it again.")
