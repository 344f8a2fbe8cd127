"""Requests: cached rows drawn as a stream, by a schedule, for R repetitions side by side, seeded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime._bandits.base import Steering
from policyopt.runtime._checks import check_names, check_type, check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Bools, Floats, Ints

KINDS = ("stationary", "abrupt", "gradual", "recurring")
_CYCLES = 3
_BLOCK = 4096  # rounds drawn at once
#: Bandits of the same seed draw from counters whose third word is below 2**63 (`runtime.bandits.base`).
_COUNTER = (0, 0, 1 << 63, 0)


@dataclass(frozen=True)
class Schedule:
    """Shares of the S streams over time, piecewise linear."""

    streams: tuple[str, ...]  # names of splits or streams of a cache
    knots: tuple[int, ...]  # rounds at which shares are stated, from 0; the last is T
    # Shares just before and just after each knot; between two knots they run in straight lines.
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
        """Return the shares of the streams at some rounds, (n, S)."""
        t = np.asarray(rounds, dtype=np.float64)
        at = np.clip(np.searchsorted(self.knots, t, side="right") - 1, 0, len(self.knots) - 2)
        knots = np.asarray(self.knots, dtype=np.float64)
        part = ((t - knots[at]) / (knots[at + 1] - knots[at]))[:, None]
        return np.asarray(self.after)[at] * (1 - part) + np.asarray(self.before)[at + 1] * part

    def draw(self, rounds: npt.ArrayLike, uniform: Floats) -> Ints:
        """Return which stream each request comes from, (n, R), by rounds (n,) and numbers in [0, 1) (n, R)."""
        edges = np.cumsum(self.shares(rounds), axis=1)[:, :-1]
        found = np.zeros(uniform.shape, dtype=np.int64)
        for edge in edges.T:
            found += uniform >= edge[:, None]
        return found


def make_schedule(kind: str, streams: str | Sequence[str], rounds: int) -> Schedule:
    """Make a schedule of T rounds.

    ``stationary``: a mixture of the streams in equal parts, throughout; ``abrupt``: one after the other;
    ``gradual``: each held for half of its part, then crossing over to the next in a straight line;
    ``recurring``: three times round, abruptly; or a plan of your own, ``test:4000,blur_medium:6000``:
    streams and rounds are then taken from it.
    """
    check_type("schedule", kind, str, "a text", "E.g. abrupt, or test:4000,blur_medium:6000.")
    if ":" in kind:
        names, lengths = zip(*(_part(item) for item in kind.split(",")), strict=True)
        edges = np.concatenate([[0], np.cumsum(lengths)])
        if rounds and rounds != edges[-1]:
            allowed = f"the sum of the schedule, {edges[-1]}"
            raise input_error("rounds", allowed, rounds, "Or leave it out.")
        known = tuple(dict.fromkeys(names))
        given = check_names("streams", streams) if streams else known
        if set(given) != set(known):
            allowed = f"those of the schedule, {', '.join(known)}"
            raise input_error("streams", allowed, ", ".join(given), "Or none.")
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
    # Each is held to the middle of its part, then gives way to the next.
    middles = (edges[:-2] + edges[1:-1]) // 2
    knots = [0, *np.stack([middles, edges[1:-1]], axis=1).ravel().tolist(), rounds]
    held = [0, *(i for k in order[1:] for i in (k - 1, k)), order[-1]]
    rows = _alone(len(known), held)
    return Schedule(known, tuple(knots), rows, rows)


def _part(item: str) -> tuple[str, int]:
    name, _, length = item.rpartition(":")
    if not name.strip() or not length.strip().isdigit() or int(length) < 1:
        step = "E.g. test:4000,blur:6000."
        raise input_error("schedule", "streams with rounds", item.strip(), step)
    return name.strip(), int(length)


def _steps(streams: tuple[str, ...], order: list[int], edges: Ints) -> Schedule:
    shares = _alone(len(streams), order)
    return Schedule(streams, tuple(edges.tolist()), (shares[0], *shares), (*shares, shares[-1]))


def _alone(count: int, order: list[int]) -> tuple[tuple[float, ...], ...]:
    """Return the shares where one of so many streams has all, for each in the order."""
    return tuple(tuple(float(j == i) for j in range(count)) for i in order)


@dataclass(frozen=True)
class Requests:
    """What arrives in each round of each of R repetitions; a row's number counts through all streams."""

    schedule: Schedule
    sizes: tuple[int, ...]  # rows of each stream
    repetitions: int
    seed: int = 0  # repetition r draws its own numbers: the same in a run of fewer repetitions
    label_share: float = 1.0  # of the requests, those whose feedback ever arrives
    overhead: tuple[float, float] = (0.0, 0.0)  # of the last exit, drawn evenly per request

    def players(self, rule: Steering, arms: int) -> list[Any]:
        """Return a player per repetition."""
        return [rule.player(arms, self.seed, r) for r in range(self.repetitions)]

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
            overhead = low + (high - low) * drawn[:, 3]
            yield Block(first, row, drawn[:, 2] < self.label_share, overhead)


@dataclass(frozen=True)
class Block:
    """Some rounds of all repetitions; arrays of shape (n, R)."""

    first: int  # number of the first round
    row: Ints
    arrives: Bools  # whether feedback ever comes
    overhead: Floats
