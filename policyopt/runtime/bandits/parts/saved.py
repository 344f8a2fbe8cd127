"""Saved states are read as what they are: input from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import input_error
from ...parameters import numbers
from .base import LEAST_REWARD, MOST_REWARD
from .memory import FORGOTTEN

_MOST = 2**53  # counts that a float64 holds exactly


def checked(what: str, state: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """Return a saved state that has exactly the given fields, and a count of rounds if so named.

    Examples
    --------
    >>> checked("state", {"rounds": 3}, ["rounds"])
    {'rounds': 3}
    """
    if not isinstance(state, Mapping) or state.keys() != set(names):
        got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise input_error(
            what, f"a mapping of exactly {', '.join(sorted(set(names)))}", got, "Start anew."
        )
    rounds = state.get("rounds", 0)
    if type(rounds) is not int or not 0 <= rounds <= _MOST:
        raise input_error("rounds", "a whole number from 0 to 2**53", rounds, "Start anew.")
    return state


def row(name: str, value: Any, count: int, low: float = 0.0, high: float = _MOST) -> list[float]:
    """Return `count` saved numbers in [low, high] as plain numbers.

    Examples
    --------
    >>> row("pulls", [1, 2.5], 2)
    [1.0, 2.5]
    """
    if not isinstance(value, list) or len(value) != count:
        got = f"{len(value)} entries" if isinstance(value, list) else type(value).__name__
        raise input_error(name, f"a list of {count} numbers", got, "Start anew.")
    found = numbers(name, value, 1).tolist()
    if not all(low <= x <= high for x in found):
        raise input_error(name, f"numbers in [{low:g}, {high:g}]", found, "Start anew.")
    return [float(x) for x in found]


def whole(name: str, value: Any, count: int) -> list[int]:
    """Return `count` saved whole numbers, none below 0.

    Examples
    --------
    >>> whole("choices", [1, 2], 2)
    [1, 2]
    """
    found = row(name, value, count)
    if not all(x == int(x) for x in found):
        raise input_error(name, "whole numbers", found, "Start anew.")
    return [int(x) for x in found]


def sums(
    state: Mapping[str, Any], names: Sequence[str], arms: int, unit: float, counted: bool
) -> list[list[float]]:
    """Return saved counts, and saved sums of as many numbers in [0, 1].

    Parameters
    ----------
    state : mapping
    names : sequence of str
        The first is that of the counts.
    arms : int
    unit : float
        What one reward adds to the count now.
    counted : bool
        Counts must be whole.

    Examples
    --------
    >>> sums({"pulls": [2], "total": [1.5]}, ("pulls", "total"), 1, 1.0, True)
    [[2.0], [1.5]]
    """
    found = [row(name, state[name], arms, -unit, _MOST * unit) for name in names]
    pulls = found[0]
    if (
        not all(n == 0 or (n == int(n) if counted else n >= FORGOTTEN) for n in pulls)
        or min(pulls) < 0
    ):
        raise input_error(names[0], "counts, 0 or more", pulls, "Start anew.")
    for name, values in zip(names[1:], found[1:], strict=True):
        for x, n in zip(values, pulls, strict=True):
            # What rounding may leave of sums, and of rewards that a caller scaled.
            slack = 1e-6 * (n + unit) if n else 0.0
            if not -slack <= x <= n + slack:
                raise input_error(name, f"from 0 to '{names[0]}'", values, "Start anew.")
    return found


def items(
    value: Any, window: int, pulls: Sequence[float], total: Sequence[float]
) -> list[list[tuple[int, tuple[float, ...]]]]:
    """Return what a saved window holds, round by round: the first arm, and the rewards from it on.

    It must add up to `pulls` and `total`: otherwise counts would fall below 0 as it empties.

    Examples
    --------
    >>> items([[], [[0, [0.5]]]], 2, [1.0], [0.5])
    [[], [(0, (0.5,))]]
    """
    if not isinstance(value, list) or len(value) != window:
        got = f"{len(value)} entries" if isinstance(value, list) else type(value).__name__
        raise input_error("ring", f"a list of {window} rounds", got, "Start anew.")
    found, arms = [[_item(item, len(pulls)) for item in _list(slot)] for slot in value], len(pulls)
    count, summed = [0.0] * arms, [0.0] * arms
    for first, known in (item for slot in found for item in slot):
        for a, reward in enumerate(known, first):
            count[a] += 1.0
            summed[a] += reward
    off = max(abs(x - y) for x, y in zip(total, summed, strict=True))
    if count != list(pulls) or off > 1e-6:
        raise input_error("ring", "what 'pulls' and 'total' sum up", [count, summed], "Start anew.")
    return found


def _list(slot: Any) -> list[Any]:
    if not isinstance(slot, list):
        raise input_error("ring", "a list per round", type(slot).__name__, "Start anew.")
    return slot


def _item(item: Any, arms: int) -> tuple[int, tuple[float, ...]]:
    pair = isinstance(item, list) and len(item) == 2 and type(item[0]) is int
    count = len(item[1]) if pair and isinstance(item[1], list) else 0
    if not count or not 0 <= item[0] <= arms - count:
        raise input_error("ring", "entries [first arm, [rewards]]", item, "Start anew.")
    return item[0], tuple(row("ring", item[1], count, LEAST_REWARD, MOST_REWARD))
