"""Requests: cached rows drawn as a stream, for R repetitions side by side, seeded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policyopt.online.schedule import Schedule
from policyopt.runtime.typing import Floats, Ints

_BLOCK = 4096  # rounds drawn at once
#: Bandits of the same seed draw from counters whose third word is below 2**63 (`runtime.bandits.parts.noise`).
_COUNTER = (0, 0, 1 << 63, 0)


@dataclass(frozen=True)
class Requests:
    """What arrives in each round of each repetition.

    Parameters
    ----------
    schedule : Schedule
    sizes : tuple of S int
        Rows of each stream; a row's number counts through all streams.
    repetitions : int
        R.
    seed : int
        Repetition r draws its own numbers: the same in a run of fewer repetitions.
    label_share : float
        Share of the requests whose feedback ever arrives.
    overhead : tuple of two floats
        Range of the overhead of going to the last exit, drawn evenly per request.
    """

    schedule: Schedule
    sizes: tuple[int, ...]
    repetitions: int
    seed: int = 0
    label_share: float = 1.0
    overhead: tuple[float, float] = (0.0, 0.0)

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks of rounds in order; rows are drawn with replacement, as AdaEE does."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        size = np.asarray(self.sizes)
        sources = [
            np.random.Generator(np.random.Philox(key=[self.seed, r], counter=_COUNTER))
            for r in range(self.repetitions)
        ]
        low, high = self.overhead
        for first in range(0, self.schedule.rounds, _BLOCK):
            rounds = np.arange(first, min(first + _BLOCK, self.schedule.rounds))
            # (n, 4, R); a whole block is always drawn, so that numbers do not depend on the end
            drawn = np.stack([g.random((_BLOCK, 4))[: len(rounds)] for g in sources], axis=2)
            stream = self.schedule.draw(rounds, drawn[:, 0])
            row = starts[stream] + (drawn[:, 1] * size[stream]).astype(np.int64)
            yield Block(
                first, stream.astype(np.int16), row, drawn[:, 2] < self.label_share,
                low + (high - low) * drawn[:, 3],
            )  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Some rounds of all repetitions; arrays of shape (n, R).

    Attributes
    ----------
    first : int
        Number of the first round.
    stream : ndarray of int16
    row : ndarray of int64
    arrives : ndarray of bool
        Whether feedback ever comes.
    overhead : ndarray of float64
    """

    first: int
    stream: npt.NDArray[np.int16]
    row: Ints
    arrives: npt.NDArray[np.bool_]
    overhead: Floats
