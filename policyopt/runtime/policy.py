"""`Policy`: answer rule + score rule + thresholds, frozen. The only code that decides.

Evaluation replays `Policy.decide`; deployment calls `Policy.step`. Both compare the same
float64 scores with the same thresholds: exit at the first k with ``score >= threshold``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .answers import AnswerRule, Plain
from .batches import read_exits, read_features
from .checks import sample_numbers
from .confidence import ConfidenceRule
from .deciding import advance, arms, leaves, observer_of, position, thresholds_of
from .decision import Decision, Decisions, Mixture, State
from .kept import checked_kept
from .observe import Observer
from .output import ExitOutput
from .reading import as_array, refuse_probabilities
from .scores import ScoreRule
from .thresholds import ALWAYS, NEVER, first_exit
from .trace import Trace
from .typing import Floats
from .validity import check_policy, finite_row

__all__ = ["ALWAYS", "NEVER", "Policy", "first_exit"]

_CHUNK, _NUMBERS = 8192, 1 << 22  # samples, and numbers, looked at side by side


@dataclass(frozen=True, eq=False)
class Policy:
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
    kind : {"logits", "probabilities", "record"}
        What `step` and `decide` are given.
    classes : int
        C (0 where records do not say).
    mixture : Mixture, optional
        A second set of thresholds (and score rule) for a share of the samples.
    provenance : mapping
        How the policy was found; JSON-able, not used to decide.
    answer : AnswerRule
        What exit k returns, made from exits 0..k; the score is computed on it.
    overhead : array of shape (K,), optional
        The part of `costs` that is the policy's own arithmetic; default none.
    confidence : ConfidenceRule, optional
        Says how probable it is that an answer is right; not used to decide.
    kept : tuple of int, optional
        The model's exits that the policy runs, ascending; default all. K is their number: costs,
        thresholds, rules and answers know positions 0..K-1 among them only.
    model_exits : int, optional
        How many exits the model has; default K.

    Examples
    --------
    >>> from policyopt.runtime.scores import MaxProb
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
    answer: AnswerRule = field(default_factory=Plain)
    overhead: Floats = field(default_factory=lambda: np.zeros(0))
    confidence: ConfidenceRule | None = None
    kept: tuple[int, ...] | None = None
    model_exits: int = 0

    def __post_init__(self) -> None:
        if not len(self.overhead):
            object.__setattr__(self, "overhead", np.zeros(len(self.costs)))
        for name in ("thresholds", "costs", "overhead"):
            object.__setattr__(self, name, finite_row(name, getattr(self, name)))
        kept, of = checked_kept(self.kept, len(self.costs), self.model_exits)
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "model_exits", of)
        check_policy(self)

    # What follows from the fields alone is worked out once: `step` asks for it at every exit.

    @cached_property
    def rules(self) -> tuple[ScoreRule, ...]:
        """The score rule, and that of the mixture where it has its own."""
        other = None if self.mixture is None else self.mixture.rule
        return (self.rule,) if other is None else (self.rule, other)

    @cached_property
    def needs(self) -> frozenset[str]:
        """The columns that its score rules read and a record may lack (`ScoreRule.needs`)."""
        return frozenset().union(*(rule.needs for rule in self.rules))

    @cached_property
    def observer(self) -> Observer:
        """How it looks at what an exit gave."""
        return observer_of(self)

    @property
    def reads_records(self) -> bool:
        """Whether reduced outputs suffice to decide."""
        return isinstance(self.answer, Plain) and not self.observer.full

    @cached_property
    def needs_features(self) -> bool:
        """Whether a score reads the model's own feature vectors."""
        return "features" in self.needs

    @cached_property
    def exits(self) -> int:
        """K, the exits that the policy runs."""
        return len(self.costs)

    @cached_property
    def path(self) -> tuple[int, ...]:
        """The model's numbers of the exits that the policy runs, in order: what to loop over.

        Examples
        --------
        >>> from policyopt.runtime.scores import MaxProb
        >>> Policy(MaxProb(), [0.8], [1, 3], "ms", "logits", 2, kept=(0, 2), model_exits=3).path
        (0, 2)
        """
        return tuple(range(self.exits)) if self.kept is None else self.kept

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
            self.answer.start(len(numbers), self.classes),
            arms(self, numbers),
            given.ndim == 0,
        )

    def step(self, k: int, output: object, state: State, features: object = None) -> Decision:
        """Decide at exit k.

        Parameters
        ----------
        k : int
            The model's number of the exit: those of `path` in turn, 0, 1, ... unless some are skipped.
        output : array of shape (C,) for one sample, (n, C) for several; mapping for records
            What exit k gave, of the policy's `kind`; numpy or torch.
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
        at = position(self, k, state)
        if self.kind != "record" and not isinstance(output, ExitOutput):
            output = as_array(output)
            output = output.reshape(1, -1) if state.scalar and output.ndim < 2 else output
        reduced, score, answer = advance(self, at, output, state, features)
        state.position = at + 1
        stop = leaves(self, at, score, state)
        sure = reduced.confidence
        if self.confidence is not None:
            sure = self.confidence.confidence(at, reduced)
        if state.scalar:
            first = int(reduced.prediction[0])
            return Decision(bool(stop[0]), first, float(score[0]), float(sure[0]), answer)
        return Decision(stop, reduced.prediction, score, sure, answer)

    def decide(
        self, outputs: object, samples: npt.ArrayLike | None = None, features: Any = None
    ) -> Decisions:
        """Decide for many samples whose outputs are all known.

        Parameters
        ----------
        outputs : array of shape (N, K, C), or sequence of K outputs of one exit each
            Of all the model's exits, of the policy's `kind`; each entry (N, C), a record mapping,
            or an `ExitOutput`. Those that the policy skips are not looked at and may be None.
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
        >>> from policyopt.runtime.scores import MaxProb
        >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
        >>> policy.decide(np.array([[[0.9, 0.1], [1, 0]], [[0.6, 0.4], [0, 1]]])).exit
        array([0, 1])
        """
        trace = self.trace(outputs, samples, features)
        return Decisions(trace.exit, trace.taken, self.costs[trace.position])

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
        >>> from policyopt.runtime.scores import MaxProb
        >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
        >>> policy.trace(np.array([[[0.9, 0.1], [0, 1]]])).predictions
        array([[0, 1]], dtype=int32)
        """
        path, of = self.path, self.model_exits
        n, rows = read_exits(outputs, of, self.classes, path)
        if self.kind == "logits":
            refuse_probabilities(rows(path[0], slice(None)), f"output of exit {path[0]}")
        wanted = self.needs_features and features is not None
        vectors = read_features(features, of, n, path) if wanted else None
        numbers = sample_numbers(samples, n)
        scores = np.empty((n, self.exits), order="F")
        predictions = np.empty((n, self.exits), dtype=np.int32)
        size = max(min(_CHUNK, _NUMBERS // (self.exits * max(self.classes, 1))), 16)
        for low in range(0, max(n, 1), size):  # an empty batch is checked like any other
            part = slice(low, min(low + size, n))
            state = self.start(numbers[part])
            for k in range(self.exits):
                vector = None if vectors is None else vectors[k][part]
                output = rows(path[k], part)
                reduced, scores[part, k], _ = advance(self, k, output, state, vector)
                predictions[part, k] = reduced.prediction
        thresholds = thresholds_of(self, arms(self, numbers))
        taken = first_exit(scores, thresholds)
        taken = taken if self.kept is None else np.asarray(self.kept, dtype=np.int64)[taken]
        return Trace(scores, predictions, thresholds, taken, kept=self.kept)

    def save(self, path: Any) -> None:
        """Write the artifact (JSON); see `policyopt.runtime.artifact`."""
        from .artifact import save_policy

        save_policy(self, path)
