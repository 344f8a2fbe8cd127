"""What a request was worth, and how probable it was that it would be shown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from .._checks import plain
from .._errors import input_error

#: Readings of the gain: AdaEE's ``max(conf_k - conf_0, 0)``; the same without the maximum (UCBEE);
#: of calibrated confidences, signed; correctness at k less that at 0.
REWARDS = ("confidence", "signed", "calibrated", "label")
#: Whose rewards feedback shows: of the arm played, of all smaller ones, of all that are known.
REVEALS = ("played", "smaller", "all")


def load_of(costs: Sequence[float]) -> list[float]:
    """Return the share of the overhead that leaving at each exit bears: by cost, or by number if all are alike.

    >>> load_of([1.0, 2.0, 5.0]), load_of([3.0, 3.0])
    ([0.0, 0.25, 1.0], [0.0, 1.0])
    """
    span, last = costs[-1] - costs[0], max(len(costs) - 1, 1)
    return [(c - costs[0]) / span if span > 0 else k / last for k, c in enumerate(costs)]


def reward_range(
    reward: str, load: Sequence[float], overhead: tuple[float, float]
) -> tuple[float, float]:
    """Return the least and the largest reward there can be, by load (K,) and range of the overhead."""
    least = 0.0 if reward == "confidence" else -1.0
    low, high = overhead
    return least - high * max(load), max(0.0, 1.0 - low * min(load[1:], default=1.0))


def overhead_range(overhead: Any) -> tuple[float, float]:
    """Return an overhead, a number or a pair, as a range."""
    ends = overhead if isinstance(overhead, (tuple, list)) else (overhead, overhead)
    ends = [plain(x) for x in ends]
    fine = len(ends) == 2 and all(type(x) in (int, float) for x in ends)
    if not fine or not 0 <= ends[0] <= ends[1] < 1e6:
        allowed = "a number, 0 or more, or a range of two"
        raise input_error("overhead", allowed, overhead, "E.g. 0.1.")
    return float(ends[0]), float(ends[1])


def reveal_chances(
    probabilities: Sequence[float], reveal: str, start: Sequence[int] = ()
) -> Sequence[float]:
    """Return the probability that each arm's reward becomes known, by that with which it was drawn.

    ``played``: that of the arm itself. ``smaller``: that of itself or any larger arm. ``all``: that of any
    arm which goes at least as far on this sample; `start` is the smallest arm with the same exit, per arm.

    >>> reveal_chances([0.5, 0.25, 0.25], "smaller")
    [1.0, 0.5, 0.25]
    >>> reveal_chances([0.5, 0.25, 0.25], "all", [0, 1, 1])
    [1.0, 0.5, 0.5]
    """
    if reveal == "played":
        return probabilities
    tail = list(accumulate(reversed(probabilities)))[::-1]
    return tail if reveal == "smaller" else [tail[a] for a in start]
