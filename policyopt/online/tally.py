"""What a player did: regret, cost and accuracy per repetition, and their course over the rounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.online.outcomes import Outcomes
from policyopt.online.requests import Block
from policyopt.online.schedule import Schedule
from policyopt.runtime.typing import Floats

_POINTS = 250
WINDOW = 400  # requests over which a policy must have recovered


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Mean rewards of the arms that regret is measured against.

    Attributes
    ----------
    schedule : Schedule
    means : ndarray of shape (S, A)
        Of each arm on each stream.
    best : int
        The arm that is best over the whole schedule.
    """

    schedule: Schedule
    means: Floats
    best: int = field(init=False)

    def __post_init__(self) -> None:
        rounds = np.arange(self.schedule.rounds)
        over = sum(
            self.schedule.shares(part).sum(axis=0)
            for part in np.array_split(rounds, max(len(rounds) // 100_000, 1))
        )
        object.__setattr__(self, "best", int((over @ self.means).argmax()))


def arm_means(
    seen: Outcomes, exits: npt.NDArray[np.integer], overhead: tuple[float, float]
) -> Floats:
    """Return the mean reward of each arm on each stream, (S, A)."""
    rows = np.arange(len(exits))[:, None]
    return seen.stream_means(seen.gain[rows, exits] - np.mean(overhead) * seen.load[exits])


class Tally:
    """Gathers, block by block, what R repetitions of T rounds came to.

    Attributes
    ----------
    rounds : ndarray of shape (P,)
        The rounds at which the course is kept: cumulative sums after so many rounds.
    regret, moving_regret, cost, correct : ndarray of shape (P, R)
        Pseudo-regret: expected reward of the best fixed arm of the whole schedule (`moving`: of
        the best arm at each time) less that of the arm played.
    arms : ndarray of shape (P, A)
        Share of the requests since the point before that were played on each arm.
    """

    def __init__(
        self, seen: Outcomes, exits: npt.NDArray[np.integer], yardstick: Yardstick,
        overhead: tuple[float, float], repetitions: int, contextual: bool = False,
    ) -> None:  # fmt: skip
        self._seen, self._exits, self._yardstick = seen, exits, yardstick
        self._means = arm_means(seen, exits, overhead)
        self._contextual = contextual  # an arm's mean says nothing of requests it was chosen for
        total = yardstick.schedule.rounds
        # Even steps, and every round at which something changes.
        points = np.linspace(0, total, min(_POINTS, total) + 1).astype(int)[1:]
        self.rounds = np.unique(np.concatenate([points, yardstick.schedule.changes]).astype(int))
        shape = (len(self.rounds), repetitions)
        self._sums = {name: np.zeros(repetitions) for name in ("regret", "moving", "cost", "right")}
        self._course = {name: np.zeros(shape) for name in self._sums}
        self.arms = np.zeros((len(self.rounds), exits.shape[1]))
        self.exit_share = np.zeros(seen.cost.shape[1])

    def add(self, block: Block, arms: npt.NDArray[np.integer]) -> None:
        """Take in a block of rounds."""
        rounds = np.arange(block.first, block.first + len(arms))
        shares = self._yardstick.schedule.shares(rounds)
        reference = shares @ self._yardstick.means
        taken = self._exits[block.row, arms].astype(np.int64)
        if self._contextual:
            mine = self._seen.gain[block.row, taken] - block.overhead * self._seen.load[taken]
        else:
            mine = np.take_along_axis(shares @ self._means, arms.astype(np.int64), axis=1)
        found = {
            "regret": reference[:, [self._yardstick.best]] - mine,
            "moving": reference.max(axis=1, keepdims=True) - mine,
            "cost": self._seen.cost[block.row, taken],
        }
        if self._seen.correct is not None:
            found["right"] = self._seen.correct[block.row, taken]
        self.exit_share += np.bincount(taken.ravel(), minlength=len(self.exit_share))
        here = (self.rounds > block.first) & (self.rounds <= block.first + len(arms))
        at = self.rounds[here] - block.first - 1
        for name, values in found.items():
            course = self._sums[name] + np.cumsum(values, axis=0)
            self._course[name][here] = course[at]
            self._sums[name] = course[-1]
        which = np.searchsorted(self.rounds, rounds + 1)
        for point in np.unique(which):
            played = arms[which == point]
            self.arms[point] += np.bincount(played.ravel(), minlength=self.arms.shape[1])

    def course(self, name: str) -> Floats:
        """Return the cumulative sum of regret, moving, cost or right at the points, (P, R)."""
        return self._course[name]

    def final(self, name: str) -> Floats:
        """Return the sum over all rounds, (R,)."""
        return self._sums[name]

    def shares(self) -> Floats:
        """Return the share of each arm between the points, (P, A)."""
        return self.arms / np.maximum(self.arms.sum(axis=1, keepdims=True), 1)

    def record(self) -> dict[str, Any]:
        """Return the means over repetitions with 95 % intervals, JSON-able.

        Intervals end where no mean can lie beyond; of one repetition there is none.
        """
        rounds = self._yardstick.schedule.rounds
        known = self._seen.correct is not None
        paid = self._seen.cost
        bounds = {"cost": (float(paid.min()), float(paid.max())), "right": (0.0, 1.0)}
        found: dict[str, Any] = {}
        for name, label, scale in (
            ("regret", "regret", 1.0), ("moving", "moving_regret", 1.0),
            ("cost", "realised_cost", rounds), ("right", "accuracy", rounds),
        ):  # fmt: skip
            mean, half = (float(x) for x in interval(self.final(name) / scale))
            least, most = bounds.get(name, (-np.inf, np.inf))
            some = known or name != "right"
            single = len(self.final(name)) < 2  # one repetition says nothing of its own spread
            found[label] = mean if some else None
            found[f"{label}_low"] = max(mean - half, least) if some and not single else None
            found[f"{label}_high"] = min(mean + half, most) if some and not single else None
        share = self.exit_share / self.exit_share.sum()
        paid = self.final("cost") / rounds
        ends = [float(paid.min()), float(paid.max())]  # over repetitions
        return {**found, "cost_range": ends, "exit_share": share.tolist()}


def interval(values: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the mean of independent repetitions, and half the width of its t interval.

    Parameters
    ----------
    values : ndarray of shape (..., R)
    level : float

    Returns
    -------
    (ndarray of shape (...), ndarray of shape (...))
        The second is NaN for one repetition.

    Examples
    --------
    >>> [round(float(x), 2) for x in interval(np.array([1.0, 3.0]))]
    [2.0, 12.71]
    """
    from scipy.stats import t

    count, mean = values.shape[-1], values.mean(axis=-1)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    quantile = float(t.ppf(0.5 + level / 2, count - 1))
    return mean, quantile * values.std(axis=-1, ddof=1) / count**0.5


def recovery(tally: Tally, yardstick: Yardstick, window: int = WINDOW) -> list[int | None]:
    """Return how many rounds each sudden change takes to be made good; None: not before the next.

    Recovered is when, over the `window` rounds that end there and all repetitions, the mean regret
    against the arm that is best now is at most a quarter of what staying with the arm that was best
    before would cost (or 0.01, where that is more).
    """
    plan = yardstick.schedule
    edges = [*plan.changes, plan.rounds]
    moving = tally.course("moving").mean(axis=1)
    found: list[int | None] = []
    for change, end in pairwise(edges):
        before, now = plan.shares([change - 1, change]) @ yardstick.means
        allowed = max(0.25 * float(now.max() - now[before.argmax()]), 0.01)
        points = np.flatnonzero((tally.rounds > change) & (tally.rounds <= end))
        at_change = np.searchsorted(tally.rounds, change)
        first: int | None = None
        for point in points:
            since = np.searchsorted(tally.rounds, max(tally.rounds[point] - window, change))
            since = max(since, at_change)
            span = int(tally.rounds[point] - tally.rounds[since])
            if span >= min(window, end - change) * 0.9:
                rate = float(moving[point] - moving[since]) / span
                if rate <= allowed:
                    first = int(tally.rounds[point] - change)
                    break
        found.append(first)
    return found
