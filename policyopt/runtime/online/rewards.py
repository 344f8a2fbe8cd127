"""What a request was worth to a bandit: gain beyond exit 0, less the overhead of going on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..checks import plain
from ..errors import input_error

#: Readings of the gain: AdaEE's ``max(conf_k - conf_0, 0)``; the same without the maximum (UCBEE);
#: of calibrated confidences, signed; correctness at k less that at 0.
REWARDS = ("confidence", "signed", "calibrated", "label")


def reward_range(
    reward: str, load: Sequence[float], overhead: tuple[float, float]
) -> tuple[float, float]:
    """Return the least and the largest reward that there can be.

    Parameters
    ----------
    reward : str
        One of `REWARDS`; all but ``confidence`` have gains below 0.
    load : sequence of K floats
        Share of the overhead that leaving at exit k bears.
    overhead : (float, float)
        The least and the largest overhead of a request.

    Examples
    --------
    >>> reward_range("confidence", [0, 1], (0.1, 0.1))
    (-0.1, 0.9)
    """
    least = 0.0 if reward == "confidence" else -1.0
    low, high = overhead
    first = min(load[1:], default=1.0)
    return least - high * max(load), max(0.0, 1.0 - low * first)


def load_of(costs: Sequence[float]) -> list[float]:
    """Return the share of the overhead that leaving at each exit bears, by cost: 0 to 1.

    Where all exits cost the same, by number.

    Examples
    --------
    >>> load_of([1.0, 2.0, 5.0]), load_of([3.0, 3.0])
    ([0.0, 0.25, 1.0], [0.0, 1.0])
    """
    span, last = costs[-1] - costs[0], max(len(costs) - 1, 1)
    return [(c - costs[0]) / span if span > 0 else k / last for k, c in enumerate(costs)]


def gain(reward: str, levels: Sequence[float], k: int) -> float:
    """Return what exit k is worth beyond exit 0, from the levels of exits 0..k.

    `levels` are confidences, or correctness (0 or 1) for ``label``.

    Examples
    --------
    >>> gain("confidence", [0.9, 0.8], 1), round(gain("signed", [0.9, 0.8], 1), 3)
    (0.0, -0.1)
    """
    found = levels[k] - levels[0]
    return max(found, 0.0) if reward == "confidence" else found


def overhead_range(overhead: Any) -> tuple[float, float]:
    """Return an overhead, a number or a pair, as a range.

    Examples
    --------
    >>> overhead_range(0.1)
    (0.1, 0.1)
    """
    ends = overhead if isinstance(overhead, (tuple, list)) else (overhead, overhead)
    ends = [plain(x) for x in ends]
    fine = len(ends) == 2 and all(type(x) in (int, float) for x in ends)
    if not fine or not 0 <= ends[0] <= ends[1] < 1e6:
        raise input_error(
            "overhead", "a number, 0 or more, or a range of two", overhead, "E.g. 0.1."
        )
    return float(ends[0]), float(ends[1])
