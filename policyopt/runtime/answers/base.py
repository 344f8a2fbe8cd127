"""What every answer rule is: from the logits of exits 0..k to the logits of what exit k returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
#: Arrays with the samples on their first axis, so that survivors can be picked by index.
State = tuple[npt.NDArray[Any], ...]


class AnswerRule(ABC):
    """The class probabilities returned at exit k, made from the outputs of exits 0..k.

    A subclass is a frozen dataclass: its fields are its parameters and stand in the artifact.
    Probabilities come in as their logarithms; a constant added to a row changes nothing.
    """

    name: ClassVar[str]

    @abstractmethod
    def answer(self, k: int, logits: Logits, state: State) -> tuple[Logits, State]:
        """Return the answer's logits at exit k, (n, C) float32, and the new state.

        Parameters
        ----------
        k : int
        logits : ndarray of shape (n, C), float32
            Exit k's own, or log-probabilities; -inf marks a class that cannot be. Not written to.
        state : tuple of ndarray
            What this rule left at exit k-1.
        """

    def start(self, samples: int, classes: int) -> State:
        """Return the state of `samples` samples before exit 0."""
        del samples, classes
        return ()

    def operations(self, k: int, classes: int) -> float:
        """Return the multiply-adds that the rule spends at exit k, beyond the exit's own softmax."""
        del k, classes
        return 0.0

    def check(self, exits: int, classes: int) -> None:
        """Raise `InputError` where the parameters are not made for K exits and C classes."""
        del exits, classes

    def params(self) -> dict[str, Any]:
        """Return the fields of the rule, JSON-able."""
        return asdict(self)  # type: ignore[call-overload]
