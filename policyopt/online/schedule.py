"""Schedules: which stream of a cache each request comes from, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policyopt.runtime.checks import check_names, check_type, check_whole
from policyopt.runtime.errors import input_error
from policyopt.runtime.typing import Floats, Ints

KINDS = ("stationary", "abrupt", "gradual", "recurring")
_CYCLES = 3


@dataclass(frozen=True)
class Schedule:
    """Shares of the streams over time, piecewise linear.

    Parameters
    ----------
    streams : tuple of S str
        Names of splits or streams of a cache.
    knots : tuple of int
        Rounds at which shares are stated, ascending from 0; the last is the number of rounds.
    before, after : tuple of S-tuples
        Shares just before and just after each knot; between two knots they run in straight lines
        from `after` of the one to `before` of the next.
    """

    streams: tuple[str, ...]
    knots: tuple[int, ...]
    before: tuple[tuple[float, ...], ...]
    after: tuple[tuple[float, ...], ...]

    @property
    def rounds(self) -> int:
        """T."""
        return self.knots[-1]

    @property
    def changes(self) -> tuple[int, ...]:
        """Rounds at which a sudden change happens."""
        pairs = zip(self.knots, self.before, self.after, strict=True)
        return tuple(t for t, old, new in pairs if 0 < t < self.rounds and old != new)

    def shares(self, rounds: npt.ArrayLike) -> Floats:
        """Return the shares of the streams at some rounds, (n, S).

        Examples
        --------
        >>> plan = make_schedule("abrupt", ["test", "blur"], 10)
        >>> plan.shares([4, 5])
        array([[1., 0.],
               [0., 1.]])
        """
        t = np.asarray(rounds, dtype=np.float64)
        at = np.clip(np.searchsorted(self.knots, t, side="right") - 1, 0, len(self.knots) - 2)
        knots = np.asarray(self.knots, dtype=np.float64)
        part = ((t - knots[at]) / (knots[at + 1] - knots[at]))[:, None]
        return np.asarray(self.after)[at] * (1 - part) + np.asarray(self.before)[at + 1] * part

    def draw(self, rounds: npt.ArrayLike, uniform: Floats) -> Ints:
        """Return which stream each request comes from.

        Parameters
        ----------
        rounds : array of shape (n,)
        uniform : ndarray of shape (n, R)
            Numbers in [0, 1).

        Returns
        -------
        ndarray of shape (n, R), int64
        """
        edges = np.cumsum(self.shares(rounds), axis=1)[:, :-1]
        found = np.zeros(uniform.shape, dtype=np.int64)
        for edge in edges.T:
            found += uniform >= edge[:, None]
        return found


def make_schedule(kind: str, streams: str | Sequence[str], rounds: int) -> Schedule:
    """Make a schedule of T rounds.

    Parameters
    ----------
    kind : str
        ``stationary`` (a mixture of the streams in equal parts, throughout), ``abrupt`` (one
        after the other), ``gradual`` (each held for half of its part, then crossing over to the
        next in a straight line), ``recurring`` (three times round, abruptly), or a plan of your
        own: ``test:4000,blur_medium:6000`` (streams and rounds; `streams` and `rounds` are then
        taken from it).
    streams : str or sequence of str
        Names, each once; two or more where something is to change.
    rounds : int

    Returns
    -------
    Schedule

    Raises
    ------
    InputError
        Unknown kind, no streams, fewer rounds than parts.

    Examples
    --------
    >>> make_schedule("test:4,blur:6", [], 0).changes
    (4,)
    >>> make_schedule("recurring", ["test", "blur"], 12).changes
    (2, 4, 6, 8, 10)
    """
    check_type("schedule", kind, str, "a text", "E.g. abrupt, or test:4000,blur_medium:6000.")
    if ":" in kind:
        names, lengths = zip(*(_part(item) for item in kind.split(",")), strict=True)
        edges = np.concatenate([[0], np.cumsum(lengths)])
        if rounds and rounds != edges[-1]:
            raise input_error(
                "rounds", f"the sum of the schedule, {edges[-1]}", rounds, "Or leave it out."
            )
        known = tuple(dict.fromkeys(names))
        if streams and set(check_names("streams", streams)) != set(known):
            allowed = f"those of the schedule, {', '.join(known)}"
            raise input_error(
                "streams", allowed, ", ".join(check_names("streams", streams)), "Or none."
            )
        return _steps(known, [known.index(name) for name in names], edges)
    if kind not in KINDS:
        allowed = f"one of {', '.join(KINDS)}, or streams with rounds"
        raise input_error("schedule", allowed, kind, "E.g. abrupt, or test:4000,blur_medium:6000.")
    known = check_names("streams", streams, "`policyopt info CACHE` lists them.")
    if len(known) < 2 and kind != "stationary":
        allowed = f"two or more, for a schedule that is {kind}"
        raise input_error("streams", allowed, ", ".join(known), "E.g. --streams test,blur_medium.")
    order = list(range(len(known))) * (_CYCLES if kind == "recurring" else 1)
    parts = 1 if kind == "stationary" else len(order)
    rounds = check_whole("rounds", rounds, 2 * parts, step="E.g. 10000.")
    if kind == "stationary":
        even = (1.0 / len(known),) * len(known)
        return Schedule(known, (0, rounds), (even, even), (even, even))
    edges = np.round(np.linspace(0, rounds, parts + 1)).astype(int)
    if kind != "gradual":
        return _steps(known, order, edges)
    one = np.eye(len(known))
    knots, levels = [0], [one[0]]
    for i in range(len(known) - 1):  # held to the middle of its part, then over to the next
        knots += [int(edges[i] + edges[i + 1]) // 2, int(edges[i + 1])]
        levels += [one[i], one[i + 1]]
    knots, levels = [*knots, rounds], [*levels, one[-1]]
    rows = tuple(tuple(float(x) for x in level) for level in levels)
    return Schedule(known, tuple(knots), rows, rows)


def _part(item: str) -> tuple[str, int]:
    name, _, length = item.rpartition(":")
    if not name.strip() or not length.strip().isdigit() or int(length) < 1:
        raise input_error(
            "schedule", "streams with rounds", item.strip(), "E.g. test:4000,blur:6000."
        )
    return name.strip(), int(length)


def _steps(streams: tuple[str, ...], order: list[int], edges: npt.NDArray[np.int64]) -> Schedule:
    one = [tuple(float(x) for x in row) for row in np.eye(len(streams))]
    levels = [one[i] for i in order]
    return Schedule(
        streams, tuple(int(e) for e in edges), (levels[0], *levels), (*levels, levels[-1])
    )
