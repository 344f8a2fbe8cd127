"""Saved states are read as what they are: input from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._errors import InputError, input_error
from .._parameters import numbers
from .base import LEAST_REWARD, MOST_REWARD

_MOST = 2**53  # counts that a float64 holds exactly
Item = tuple[int, int, tuple[float, ...]]  # the round, the first arm, the rewards from it on


def refused(name: str, allowed: str, got: Any) -> InputError:
    """Return the error for a part of a saved state."""
    return input_error(name, allowed, got, "Start anew.")


def check_fields(what: str, state: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """Return a saved state that has exactly these fields, and a count of rounds if so named."""
    if not isinstance(state, Mapping) or state.keys() != set(names):
        got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise refused(what, f"a mapping of exactly {', '.join(sorted(set(names)))}", got)
    rounds = state.get("rounds", 0)
    if type(rounds) is not int or not 0 <= rounds <= _MOST:
        raise refused("rounds", "a whole number from 0 to 2**53", rounds)
    return state


def check_list(name: str, value: Any, count: int, of: str) -> None:
    """Refuse what is no list of so many."""
    if not isinstance(value, list) or len(value) != count:
        got = f"{len(value)} entries" if isinstance(value, list) else type(value).__name__
        raise refused(name, f"a list of {count} {of}", got)


def number_list(
    name: str, value: Any, count: int, low: float = 0.0, high: float = _MOST
) -> list[float]:
    """Return `count` saved numbers in [low, high]."""
    check_list(name, value, count, "numbers")
    found = numbers(name, value, 1).tolist()
    if not all(low <= x <= high for x in found):
        raise refused(name, f"numbers in [{low:g}, {high:g}]", found)
    return found


def count_list(name: str, value: Any, count: int, most: int = _MOST) -> list[int]:
    """Return `count` saved whole numbers from 0 to `most`."""
    found = number_list(name, value, count, 0.0, most)
    if not all(x == int(x) for x in found):
        raise refused(name, "whole numbers", found)
    return [int(x) for x in found]


def reward_sums(
    state: Mapping[str, Any], names: Sequence[str], arms: int, unit: float, least: float
) -> list[list[float]]:
    """Return saved counts, and saved sums of as many numbers in [0, 1], A of each.

    `unit` is what one reward adds to a count now, `least` what a count above 0 may be: 1 where they are
    whole.
    """
    found = [number_list(name, state[name], arms, -unit, _MOST * unit) for name in names]
    pulls = found[0]
    if not all(n == 0 or (n >= least and (least < 1 or n == int(n))) for n in pulls):
        raise refused(names[0], "counts, 0 or more", pulls)
    for name, values in zip(names[1:], found[1:], strict=True):
        for x, n in zip(values, pulls, strict=True):
            # What rounding may leave of sums, and of rewards that a caller scaled.
            slack = 1e-6 * (n + unit) if n else 0.0
            if not -slack <= x <= n + slack:
                raise refused(name, f"from 0 to '{names[0]}'", values)
    return found


def recent_items(
    value: Any, since: tuple[int, int], pulls: Sequence[float], total: Sequence[float]
) -> list[Item]:
    """Return what a saved window holds: of rounds in (low, high], what came in.

    It must add up to `pulls` and `total`: otherwise counts would fall below 0 as it empties.
    """
    arms, (low, high) = len(pulls), since
    count, summed = ([0.0] * arms for _ in range(2))
    found: list[Item] = []
    for item in value if isinstance(value, list) else [value]:
        fine = isinstance(item, list) and [type(x) for x in item] == [int, int, list]
        if (
            not fine
            or not low < item[0] <= high
            or not 0 <= item[1] < item[1] + len(item[2]) <= arms
        ):
            raise refused("recent", f"[round after {low}, first arm, [rewards]] each", item)
        low, first = item[0] - 1, item[1]  # rounds never fall
        known = number_list("recent", item[2], len(item[2]), LEAST_REWARD, MOST_REWARD)
        found.append((item[0], first, tuple(known)))
        for a, reward in enumerate(known, first):
            count[a] += 1.0
            summed[a] += reward
    off = max(abs(x - y) for x, y in zip(total, summed, strict=True))
    if count != list(pulls) or off > 1e-6:
        raise refused("recent", "what 'pulls' and 'total' sum up", [count, summed])
    return found
