"""What goes into and comes out of a decision: exits, thresholds, mixture, state between exits, decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._errors import input_error
from ._parameters import numbers
from ._scores.base import ScoreRule
from ._typing import Array, Bools, Floats, Ints

#: Thresholds that no score reaches and that every score reaches: finite, so that JSON, C and
#: float32 runtimes hold them (EENet's Algorithm 1 writes +-1e8 for the same purpose).
NEVER = 1e30
ALWAYS = -1e30
#: More exits than this are no model (a cache holds no more): a policy file may claim anything.
MAX_EXITS = 1024


def first_exit(scores: Floats, thresholds: Floats) -> Ints:
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


def checked_kept(kept: object, exits: int, model_exits: int) -> tuple[tuple[int, ...] | None, int]:
    """Return the kept exits, None where all are, and how many the model has."""
    if isinstance(model_exits, bool) or not isinstance(model_exits, (int, np.integer)):
        step = "How many exits the model has."
        raise input_error("model_exits", "a whole number", model_exits, step)
    of = int(model_exits) or exits
    if kept is None:
        if of != exits:
            allowed, got = f"the {exits} exits that the policy runs", f"none, of {of} exits"
            raise input_error("kept", allowed, got, "Name them, or leave model_exits out.")
        return None, of
    if not exits <= of <= MAX_EXITS:
        raise input_error("model_exits", f"from {exits} to {MAX_EXITS}", of, "Check the policy.")
    chosen = exit_numbers(kept, range(of))
    if len(chosen) != exits:
        allowed = f"{exits} exits, one per cost"
        raise input_error("kept", allowed, f"{len(chosen)}", "Check the policy.")
    return (None if len(chosen) == of else chosen), of


def exit_numbers(kept: object, allowed: Sequence[int]) -> tuple[int, ...]:
    """Return exit numbers as a tuple, refused unless they ascend and each is allowed."""
    given = list(kept) if isinstance(kept, (list, tuple, range, np.ndarray)) else []
    whole = all(isinstance(k, (int, np.integer)) and not isinstance(k, bool) for k in given)
    numbers = tuple(int(k) for k in given) if whole else ()
    if not numbers or list(numbers) != sorted(set(numbers)) or not set(numbers) <= set(allowed):
        told = f"at least one exit of {', '.join(map(str, allowed))}, in ascending order"
        raise input_error("kept", told, kept, "Exits are numbered from 0.")
    return numbers


def over_model_exits(thresholds: Floats, kept: tuple[int, ...] | None, model_exits: int) -> Floats:
    """Return thresholds over all the model's exits, which lead to the same exits.

    Never at exits that are skipped, always at the last one kept: who is left leaves there.
    """
    if kept is None:
        return thresholds
    whole = np.full(model_exits, NEVER)
    whole[list(kept)] = [*thresholds, ALWAYS]
    return whole[:-1]


@dataclass(frozen=True, eq=False)
class Mixture:
    """A second set of thresholds, used for a share of the samples.

    Attributes
    ----------
    thresholds : ndarray of shape (K-1,), float64
    share : float
        Probability of the second set, in (0, 1).
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


class State:
    """Where some samples stand between exits; owned by the caller, advanced by `Policy.step`."""

    __slots__ = ("answer_state", "arm", "position", "rule_states", "scalar")

    def __init__(
        self,
        rule_states: tuple[tuple[Any, ...], ...],
        answer_state: tuple[Any, ...],
        arm: Bools,
        scalar: bool,
    ) -> None:
        self.position = 0  # how many exits have been looked at
        self.rule_states = rule_states
        self.answer_state = answer_state
        self.arm = arm
        self.scalar = scalar

    def keep(self, rows: Array) -> State:
        """Keep some samples only (a mask or row numbers), the survivors of an exit; return itself."""
        self.rule_states = tuple(tuple(a[rows] for a in state) for state in self.rule_states)
        self.answer_state = tuple(a[rows] for a in self.answer_state)
        self.arm = self.arm[rows]
        return self


@dataclass(frozen=True)
class Decision:
    """What `Policy.step` says at one exit.

    Attributes
    ----------
    exit : bool, or ndarray of shape (n,), bool
        Whether to leave here.
    prediction : int, or ndarray of shape (n,), int32
        Class of this exit; -1 where it gave no answer.
    score : float, or ndarray of shape (n,), float64
    confidence : float, or ndarray of shape (n,), float64
        Probability that the prediction is right: the largest class probability of the answer,
        or that number calibrated where the policy carries a confidence map.
    """

    exit: Any
    prediction: Any
    score: Any
    confidence: Any
    _logits: Any = field(default=None, repr=False, compare=False)

    @property
    def answer(self) -> Floats | None:
        """Class probabilities of this exit, (C,) or (n, C); None where only records are kept."""
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
        The answer's class; -1 where the exit gave no answer.
    cost : ndarray of shape (n,), float64
        Mean cost of the exit taken, in the policy's unit.
    """

    exit: Ints
    prediction: Array
    cost: Floats


@dataclass(frozen=True)
class Trace:
    """What a policy would have scored and answered at every exit it runs, and where it left.

    Attributes
    ----------
    scores : ndarray of shape (n, K), float64
    predictions : ndarray of shape (n, K), int32
        Classes of the policy's answers; -1 where an exit gave none.
    thresholds : ndarray of shape (n, K-1), float64
        Those that held for each sample (a mixture has two sets); read-only where all are equal.
    exit : ndarray of shape (n,), int64
        Exit taken: the model's number.
    kept : tuple of K int, or None
        The model's numbers of the exits that the policy runs, one per column; None: 0..K-1.
    """

    scores: Floats
    predictions: Array
    thresholds: Floats
    exit: Ints
    kept: tuple[int, ...] | None = field(default=None, kw_only=True)

    @property
    def path(self) -> tuple[int, ...]:
        """The model's exit number of each column, K of them."""
        return tuple(range(self.scores.shape[1])) if self.kept is None else self.kept

    @property
    def position(self) -> Ints:
        """Column of the exit taken, (n,)."""
        return self.exit if self.kept is None else np.searchsorted(self.kept, self.exit)

    @property
    def taken(self) -> Array:
        """The prediction at the exit taken, (n,)."""
        return self.predictions[np.arange(len(self.exit)), self.position]
