"""What a bandit is: settings that make players, each of which serves one stream.

Random numbers are counter-based: those of a block of rounds follow from seed, stream and the block's
number alone, so that a restored player goes on with the same ones. (numpy may change how it makes
them from one version to the next; then a restored player draws others, as good.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from functools import partial
from typing import Any, ClassVar, Protocol, cast

import numpy as np

from .._checks import check_seed, check_whole
from .._errors import input_error
from .._typing import Floats

#: Rewards may leave [0, 1] by what rounding does when a caller scales them.
LEAST_REWARD, MOST_REWARD = -1e-9, 1.0 + 1e-9
#: Rounds whose random numbers are drawn at once.
BLOCK = 256


class Player(Protocol):
    """A bandit at play on one stream: plain numbers, constant time and memory per round.

    Rewards are scaled to [0, 1] by the caller. Feedback may come late, in any order, or never. `chances`
    are those with which the last `choose` drew each arm (A,), None where nothing is drawn.
    """

    chances: Sequence[float] | None

    def choose(self) -> int:
        """Return the arm for the next request."""
        ...

    def learn(
        self, first: int, last: int, rewards: Sequence[float], chance: Sequence[float] | None = None
    ) -> None:
        """Take in the rewards of arms first..last of one past request; nothing if one is refused.

        Entry a of `rewards` is that of arm a, entry a of `chance` the probability with which it was to be known
        (`reveal_chances`): bandits that draw need it for more than one arm.
        """

    def state(self) -> dict[str, Any]:
        """Return all that was learned, JSON-able."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; checked, for it may come from anyone."""


class Steering(ABC):
    """Settings of who chooses while serving; subclasses are frozen dataclasses, their fields these settings."""

    name: ClassVar[str]
    #: What it does, completing "an index that ...".
    summary: ClassVar[str]
    #: The paper.
    reference: ClassVar[str]

    def __post_init__(self) -> None:
        for one in fields(cast(Any, self)):
            value = one.metadata["check"](one.name, getattr(self, one.name))
            object.__setattr__(self, one.name, value)

    @abstractmethod
    def player(self, arms: int, seed: int = 0, stream: int = 0) -> Any:
        """Return a player of A arms; its random numbers, if any, are those of seed and stream."""


def setting(default: Any, check: Callable[..., Any], **limits: Any) -> Any:
    """Return a field of a `Steering`; `check` returns its value as a plain one, or refuses it."""
    return field(default=default, metadata={"check": partial(check, **limits)})


class Bandit(Steering):
    """Settings of a bandit."""

    #: Whether it draws its arms with known chances: only then can rewards be weighted by them.
    draws: ClassVar[bool] = False


def check_player(arms: Any, seed: Any, stream: Any) -> None:
    """Refuse numbers of arms below 1, seeds and streams below 0."""
    check_whole("arms", arms)
    check_whole("stream", stream, 0)
    check_seed(seed)


def known_rewards(first: int, last: int, rewards: Sequence[float], arms: int) -> Sequence[float]:
    """Return the rewards of arms first..last, refused where one is no number in [0, 1]."""
    if not 0 <= first <= last < arms:
        allowed = f"0 <= first <= last < {arms} arms"
        raise input_error("first, last", allowed, (first, last), "Count from 0.")
    known = rewards[first : last + 1]
    for reward in known:
        if not LEAST_REWARD <= reward <= MOST_REWARD:  # a NaN would stay for ever
            step = "Scale them by the range they can have."
            raise input_error("rewards", "numbers in [0, 1]", reward, step)
    if len(known) <= last - first:
        raise input_error("rewards", f"one per arm: {arms}", f"{len(rewards)} of them")
    return known


class RandomRows:
    """Rows of random numbers of a stream by the number of the round, drawn a block at a time.

    Series of the same seed and stream are independent of each other.
    """

    def __init__(self, draw: Draw, seed: int, stream: int, width: int, series: int = 0) -> None:
        self._draw, self._key, self._width, self._series = draw, [seed, stream], width, series
        self._block, self._rows = -1, [[0.0]]

    def __getitem__(self, at: int) -> list[float]:
        block, row = divmod(at, BLOCK)
        if block != self._block:
            # Philox counts up its lowest word, so that series and blocks never meet.
            counter = [0, 0, self._series, block]
            source = np.random.Generator(np.random.Philox(key=self._key, counter=counter))
            self._block, self._rows = block, self._draw(source, (BLOCK, self._width)).tolist()
        return self._rows[row]


Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]
NORMAL: Draw = np.random.Generator.standard_normal
UNIFORM: Draw = np.random.Generator.random
