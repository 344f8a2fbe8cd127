"""Everything a policy saw and said on samples whose outputs are all known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .typing import Floats


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
    predictions: npt.NDArray[np.int32]
    thresholds: Floats
    exit: npt.NDArray[np.int64]
    kept: tuple[int, ...] | None = field(default=None, kw_only=True)

    @property
    def path(self) -> tuple[int, ...]:
        """The model's exit number of each column, K of them."""
        return tuple(range(self.scores.shape[1])) if self.kept is None else self.kept

    @property
    def position(self) -> npt.NDArray[np.int64]:
        """Column of the exit taken, (n,)."""
        return self.exit if self.kept is None else np.searchsorted(self.kept, self.exit)

    @property
    def taken(self) -> npt.NDArray[np.int32]:
        """The prediction at the exit taken, (n,)."""
        return self.predictions[np.arange(len(self.exit)), self.position]
