"""What goes into and comes out of a decision: mixture, state between exits, decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .scores.base import ScoreRule
from .typing import Floats


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
        array = np.array(self.thresholds, dtype=np.float64)
        array.flags.writeable = False
        object.__setattr__(self, "thresholds", array)


class State:
    """Where some samples stand between exits; owned by the caller, advanced by `Policy.step`."""

    __slots__ = ("answer_state", "arm", "position", "rule_states", "scalar")

    def __init__(
        self,
        rule_states: tuple[tuple[Any, ...], ...],
        answer_state: tuple[Any, ...],
        arm: npt.NDArray[np.bool_],
        scalar: bool,
    ) -> None:
        self.position = 0  # how many exits have been looked at
        self.rule_states = rule_states
        self.answer_state = answer_state
        self.arm = arm
        self.scalar = scalar

    def keep(self, rows: npt.NDArray[Any]) -> State:
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

    exit: npt.NDArray[np.int64]
    prediction: npt.NDArray[np.int32]
    cost: Floats
