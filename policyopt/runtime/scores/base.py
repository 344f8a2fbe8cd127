"""What every score rule is: a pure step from one exit's output and a state to one number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import input_error
from ..features import FEATURES
from ..output import ExitOutput
from ..typing import Floats

#: Arrays with the samples on their first axis, so that survivors can be picked by index.
State = tuple[npt.NDArray[Any], ...]


class ScoreRule(ABC):
    """One number per sample and exit; higher = readier to exit.

    A subclass is a frozen dataclass: its fields are its parameters and stand in the artifact.
    `score` sees exit k and the state left by exits 0..k-1, nothing else: a rule cannot peek.
    """

    name: ClassVar[str]
    #: Columns of `ExitOutput` that the rule reads and a record may lack; with "log_prob" it is
    #: given the logarithms of all class probabilities.
    needs: ClassVar[frozenset[str]] = frozenset()
    #: Parameters that are not plain numbers; the rule checks them itself, for artifacts are not trusted.
    arrays: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the scores (n,) at exit k, and the new state."""

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Return the state before exit 0, for samples numbered `samples`, (n,)."""
        del samples
        return ()

    def operations(self, k: int, classes: int) -> float:
        """Return the multiply-adds that the score spends at exit k, beyond softmax and entropy."""
        del k, classes
        return 0.0

    def check(self, exits: int, classes: int) -> None:
        """Raise `InputError` where the parameters are not made for K exits and C classes."""
        del exits, classes

    def params(self) -> dict[str, Any]:
        """Return the fields of the rule, JSON-able."""
        return asdict(self)  # type: ignore[call-overload]


class HistoryRule(ScoreRule):
    """A rule that reads history features, standardised exit by exit but the last."""

    features: str
    center: Any

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Columns read beyond prediction and confidence."""
        return FEATURES[self.features].needs

    def check(self, exits: int, classes: int) -> None:
        """Refuse parameters of another number of exits."""
        del classes
        if len(self.center) != exits - 1:
            raise input_error(
                "score", f"made for {exits} exits", len(self.center) + 1, "Fit it again."
            )

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start without history."""
        return FEATURES[self.features].start(len(samples))


def score_table(
    rule: ScoreRule, outputs: list[ExitOutput], samples: npt.NDArray[np.int64] | None = None
) -> Floats:
    """Score all exits of all samples.

    Parameters
    ----------
    rule : ScoreRule
    outputs : list of K ExitOutput, n samples each
    samples : ndarray of shape (n,), int64, optional
        Numbers of the samples (counters of the coin); default 0..n-1.

    Returns
    -------
    ndarray of shape (n, K), float64

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_record
    >>> from policyopt.runtime.scores import MaxProb
    >>> score_table(MaxProb(), [reduce_record([1], [0.6]), reduce_record([1], [0.9])])
    array([[0.6, 0.9]])
    """
    n = len(outputs[0])
    samples = np.arange(n) if samples is None else samples
    state = rule.start(samples)
    table = np.empty((n, len(outputs)), order="F")  # solvers read it exit by exit
    for k, output in enumerate(outputs):
        table[:, k], state = rule.score(k, output, state)
    return table
