"""What a bandit is: configuration that makes players for one stream or for many side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from ...checks import check_seed, check_whole, plain_fields
from ...errors import InputError, input_error
from ...typing import Bools, Floats, Ints

#: Rewards may leave [0, 1] by what rounding does when a caller scales them.
LEAST_REWARD, MOST_REWARD = -1e-9, 1.0 + 1e-9


class One(Protocol):
    """A bandit at play on a single stream: plain numbers, constant time and memory per round.

    Rewards are scaled to [0, 1] by the caller. Feedback may come late, in any order, or never.

    Attributes
    ----------
    chances : list of A floats, or None
        Probability with which the last `choose` drew each arm; None where nothing is drawn.
    """

    chances: Sequence[float] | None

    def choose(self) -> int:
        """Return the arm for the next request."""
        ...

    def learn(
        self, first: int, last: int, rewards: Sequence[float], chance: Sequence[float] | None = None
    ) -> None:
        """Take in the rewards of arms first..last of one past request.

        Nothing is taken in where one of them is no number in [0, 1]: one NaN would stay for ever.

        Parameters
        ----------
        first, last : int
            The arms whose rewards are known.
        rewards : sequence of float
            In [0, 1]; entry a is that of arm a; only entries first..last are read.
        chance : sequence of float, optional
            Entry a: the probability with which this reward was to be known (`reveal_chances`);
            read by bandits that draw, which need it for more than one arm.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return all that was learned, JSON-able."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; checked, for it may come from anyone."""
        ...


class Many(Protocol):
    """A bandit at play on R streams side by side; what `One` says holds for each of them.

    Attributes
    ----------
    chances : ndarray of shape (R, A), or None
    """

    chances: Floats | None

    def choose(self) -> Ints:
        """Return the arms for the next request of every stream, (R,)."""
        ...

    def learn(self, seen: Bools, rewards: Floats, chance: Floats | None = None) -> None:
        """Take in the rewards (R, A) that are `seen` (R, A) of one past request per stream."""
        ...


class Bandit(ABC):
    """Configuration of a bandit; subclasses are frozen dataclasses whose fields are its settings."""

    #: Name, that of its file.
    name: ClassVar[str]
    #: What it does, completing "an index that ...".
    summary: ClassVar[str]
    #: Whether it draws its arms with known chances: only then can rewards be weighted by them.
    draws: ClassVar[bool] = False

    def __post_init__(self) -> None:
        plain_fields(self)

    @abstractmethod
    def one(self, arms: int, seed: int = 0, stream: int = 0) -> One:
        """Return a player of one stream.

        Parameters
        ----------
        arms : int
            A.
        seed, stream : int
            Of its random numbers, if it needs any: those of stream number `stream` in `many`.
        """

    @abstractmethod
    def many(self, arms: int, streams: int, seed: int = 0) -> Many:
        """Return a player of R streams."""


def check_player(arms: Any, seed: Any, streams: Any = 1) -> None:
    """Refuse numbers of arms and streams below 1, and seeds below 0."""
    check_whole("arms", arms)
    check_whole("streams", streams)
    check_seed(seed)


def unscaled(got: Any) -> InputError:
    """Return the error for a reward outside [0, 1]."""
    return input_error(
        "rewards", "numbers in [0, 1]", got, "Scale them by the range they can have."
    )


def no_such_arms(first: int, last: int, arms: int) -> InputError:
    """Return the error for arms that there are not."""
    return input_error(
        "first, last", f"0 <= first <= last < {arms} arms", (first, last), "Count from 0."
    )


def no_chance(got: Any = "none") -> InputError:
    """Return the error for rewards whose chance of becoming known is missing or is none."""
    return input_error(
        "chance", "the probability, above 0, that each reward was to be known", got,
        "See policyopt.runtime.bandits.parts.reveal.",
    )  # fmt: skip
