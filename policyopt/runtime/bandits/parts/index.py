"""Index bandits: play the arm whose index is largest; each file of this kind is one formula."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from .base import Bandit
from .many import ManyIndices
from .memory import Memory
from .one import OneIndex

Floats1 = Sequence[float]


class Arithmetic(Protocol):
    """What a formula may use besides + - * /: the same names for numbers and for arrays.

    All of it is rounded correctly (IEEE 754), so numbers and arrays give the same bits.
    """

    sqrt: Any
    minimum: Any
    maximum: Any


class Numbers:
    """Arithmetic on plain numbers: several times faster than numpy on one number."""

    sqrt = math.sqrt
    minimum = min
    maximum = max


class Index(Bandit):
    """A bandit that plays the arm with the largest index; ties go to the largest arm.

    Arms without feedback come first, the largest of them before the others: with side information
    the largest arm shows the rewards of all.
    """

    #: Whether the formula reads the variance of the rewards.
    spread: ClassVar[bool] = False
    #: Whether the formula reads noise, standard normal, one number per arm and round.
    noisy: ClassVar[bool] = False
    #: Indices this near to the largest are equal to it: for formulas with more than `Arithmetic`.
    tie: ClassVar[float] = 0.0

    @abstractmethod
    def index(self, m: Any, mean: Any, variance: Any, pulls: Any, clock: Any, noise: Any) -> Any:
        """Return the index of all arms of all streams.

        Parameters
        ----------
        m : Arithmetic
            numpy, or plain numbers.
        mean, variance, pulls : ndarray of shape (R, A)
            Of the arm's rewards in memory, and how many there are (> 0); variance only where
            `spread`.
        clock : float
            Logarithm of the rounds in memory. With a discount, `pulls` and `clock` are both in the
            unit of the present weight: only their quotient may be read.
        noise : ndarray of shape (R, A)
            Only where `noisy`.
        """

    @abstractmethod
    def best(
        self, pulls: Floats1, total: Floats1, square: Floats1, clock: float, noise: Floats1
    ) -> int:
        """Return the arm with the largest index from counts, sums and squares of each arm.

        The formula once more, in one loop over plain numbers: calls are most of what those cost.
        Tests hold it to the same arms as `index`.
        """

    def memory(self) -> Memory:
        """Return what is remembered: everything, unless a bandit forgets."""
        return Memory()

    def one(self, arms: int, seed: int = 0, stream: int = 0) -> OneIndex:
        """Return a player of one stream; see `Bandit.one`."""
        return OneIndex(self, self.memory(), arms, seed, stream)

    def many(self, arms: int, streams: int, seed: int = 0) -> ManyIndices:
        """Return a player of R streams; see `Bandit.many`."""
        return ManyIndices(self, self.memory(), arms, streams, seed)


class RootIndex(Index):
    """Mean reward plus ``weight * sqrt(factor * clock / N)``: the form of the simplest indices."""

    @property
    @abstractmethod
    def shape(self) -> tuple[float, float]:
        """Weight and factor."""

    def index(self, m: Any, mean: Any, variance: Any, pulls: Any, clock: Any, noise: Any) -> Any:
        """Return the indices; see `Index.index`."""
        del variance, noise
        weight, factor = self.shape
        return mean + weight * m.sqrt(factor * clock / pulls)

    def best(
        self, pulls: Floats1, total: Floats1, square: Floats1, clock: float, noise: Floats1
    ) -> int:
        """Return the arm with the largest index; see `Index.best`."""
        weight, factor = self.shape
        scaled, sqrt = factor * clock, math.sqrt
        chosen, highest = len(pulls) - 1, -math.inf
        for a in range(len(pulls) - 1, -1, -1):
            n = pulls[a]
            value = total[a] / n + weight * sqrt(scaled / n)
            if value > highest:
                chosen, highest = a, value
        return chosen
