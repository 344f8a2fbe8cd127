"""Agreement within a tier of exits: Kolawole et al., Agreement-Based Cascading, TMLR 2025, arXiv:2407.02348.

Exits 0..size-1 are the first tier, an ensemble, exits size..2 size-1 the second, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import input_error
from ..output import ExitOutput
from .base import Floats, ScoreRule, State


@dataclass(frozen=True)
class Agreement(ScoreRule):
    """Share of the tier's members that vote for the leading class; -1 inside a tier.

    With ``soft=1`` the mean probability that the members give to that class. Of equally many votes the
    class that was voted for first leads; an exit without an answer casts no vote.

    Parameters
    ----------
    size : int
        Exits per tier.
    soft : {0, 1}
        Probabilities instead of votes.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_record
    >>> from policyopt.runtime.scores.base import score_table
    >>> score_table(
    ...     Agreement(2), [reduce_record([1, 1], [0.6, 0.7]), reduce_record([1, 2], [0.9, 0.9])]
    ... )
    array([[-1. ,  1. ],
           [-1. ,  0.5]])
    """

    size: int
    soft: int = 0

    name = "agreement"

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise input_error(
                "size of a tier", "a whole number, 1 or more", self.size, "Fit it again."
            )
        if self.soft not in (0, 1):
            raise input_error("soft", "0 or 1", self.soft, "Fit it again.")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Probabilities of a class that others voted for, where they are asked for."""
        return frozenset({"log_prob"}) if self.soft else frozenset()

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start with no votes, (n, 0), and, where they count, no probabilities, (n, 0, 0)."""
        n = len(samples)
        votes = np.empty((n, 0), dtype=np.int32)
        return (votes, np.empty((n, 0, 0), dtype=np.float32)) if self.soft else (votes,)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Add exit k's vote; at the last of a tier return the agreement and forget the tier."""
        n = len(output)
        votes = np.concatenate([state[0], output.prediction[:, None]], axis=1)
        log_prob = None
        if self.soft:
            assert output.log_prob is not None  # the policy refuses records for rules that need it
            here = output.log_prob[:, None]
            # An empty state does not know the number of classes yet.
            log_prob = np.concatenate([state[1], here], axis=1) if state[1].shape[1] else here
        if (k + 1) % self.size:
            return np.full(n, -1.0), (votes,) if log_prob is None else (votes, log_prob)
        # Tiers are small: comparing all pairs of members beats counting per class.
        same = (votes[:, :, None] == votes[:, None, :]) & (votes >= 0)[:, :, None]
        count = same.sum(axis=2)
        if log_prob is None:
            agreement = count.max(axis=1) / self.size
        else:
            rows = np.arange(n)
            leader = votes[rows, count.argmax(axis=1)]
            # Contiguous, so that the sum over members runs in the same order for one row as for many.
            given = log_prob[rows, :, leader].astype(np.float64, order="C")
            agreement = np.where(leader >= 0, np.exp(given).sum(axis=1) / self.size, 0.0)
        return agreement, self.start(np.zeros(n, dtype=np.int64))

    def operations(self, k: int, classes: int) -> float:
        """Logarithms of all probabilities, where they are read."""
        del k
        return float(classes) if self.soft else 0.0
