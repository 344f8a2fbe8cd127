"""Metrics of a simulated player: regret, cost and accuracy per repetition, and their course."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._online.outcomes import Outcomes
from policyopt._online.requests import Block, Schedule
from policyopt.runtime._typing import Floats

_POINTS = 250
WINDOW = 400  # requests over which a policy must have recovered


@dataclass(frozen=True, eq=False)
class RegretBaseline:
    """Mean rewards (S, A) of the arms that regret is measured against."""

    schedule: Schedule
    means: Floats
    best: int = field(init=False)  # the arm that is best over the whole schedule

    def __post_init__(self) -> None:
        rounds = np.arange(self.schedule.rounds)
        parts = np.array_split(rounds, max(len(rounds) // 100_000, 1))
        over = sum(self.schedule.shares(part).sum(axis=0) for part in parts)
        object.__setattr__(self, "best", int((over @ self.means).argmax()))


def arm_means(
    seen: Outcomes, exits: npt.NDArray[np.integer], overhead: tuple[float, float]
) -> Floats:
    """Return the mean reward of each arm on each stream, (S, A)."""
    rows = np.arange(len(exits))[:, None]
    return seen.stream_means(seen.gain[rows, exits] - np.mean(overhead) * seen.load[exits])


class Metrics:
    """Gathers, block by block, what R repetitions of T rounds came to.

    Pseudo-regret is the expected reward of the best fixed arm of the whole schedule (`moving`: of the best
    arm at each time) less that of the arm played.
    """

    def __init__(
        self, seen: Outcomes, exits: npt.NDArray[np.integer], baseline: RegretBaseline,
        overhead: tuple[float, float], repetitions: int, contextual: bool = False,
    ) -> None:  # fmt: skip
        self._seen, self._exits, self._baseline = seen, exits, baseline
        self._means = arm_means(seen, exits, overhead)
        self._contextual = contextual  # an arm's mean says nothing of requests it was chosen for
        total = baseline.schedule.rounds
        # The course is kept at P rounds: even steps, and every round at which something changes.
        points = np.linspace(0, total, min(_POINTS, total) + 1).astype(int)[1:]
        self.rounds = np.unique(np.concatenate([points, baseline.schedule.changes]).astype(int))
        shape = (len(self.rounds), repetitions)
        self._sums = {name: np.zeros(repetitions) for name in ("regret", "moving", "cost", "right")}
        self._course = {name: np.zeros(shape) for name in self._sums}
        self.arms = np.zeros((len(self.rounds), exits.shape[1]))  # played since the point before
        self.exit_share = np.zeros(seen.cost.shape[1])

    def add(self, block: Block, arms: npt.NDArray[np.integer]) -> None:
        """Take in a block of rounds."""
        rounds = np.arange(block.first, block.first + len(arms))
        shares = self._baseline.schedule.shares(rounds)
        reference = shares @ self._baseline.means
        taken = self._exits[block.row, arms].astype(np.int64)
        if self._contextual:
            mine = self._seen.gain[block.row, taken] - block.overhead * self._seen.load[taken]
        else:
            mine = np.take_along_axis(shares @ self._means, arms.astype(np.int64), axis=1)
        found = {
            "regret": reference[:, [self._baseline.best]] - mine,
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
        rounds, paid = self._baseline.schedule.rounds, self._seen.cost
        single = len(self.final("cost")) < 2  # one repetition says nothing of its own spread
        found: dict[str, Any] = {}
        for name, label, scale, least, most in (
            ("regret", "regret", 1.0, -np.inf, np.inf),
            ("moving", "moving_regret", 1.0, -np.inf, np.inf),
            ("cost", "realised_cost", rounds, float(paid.min()), float(paid.max())),
            ("right", "accuracy", rounds, 0.0, 1.0),
        ):
            mean, half = (float(x) for x in interval(self.final(name) / scale))
            known = name != "right" or self._seen.correct is not None
            found[label] = mean if known else None
            found[f"{label}_low"] = max(mean - half, least) if known and not single else None
            found[f"{label}_high"] = min(mean + half, most) if known and not single else None
        share, costs = self.exit_share / self.exit_share.sum(), self.final("cost") / rounds
        ends = [float(costs.min()), float(costs.max())]  # over repetitions
        return {**found, "cost_range": ends, "exit_share": share.tolist()}


def interval(values: Floats) -> tuple[Floats, Floats]:
    """Return the mean of repetitions (..., R), and half its 95 % t interval: NaN for one repetition."""
    from scipy.stats import t

    count, mean = values.shape[-1], values.mean(axis=-1)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, float(t.ppf(0.975, count - 1)) * values.std(axis=-1, ddof=1) / count**0.5


def recovery(metrics: Metrics, baseline: RegretBaseline, window: int = WINDOW) -> list[int | None]:
    """Return how many rounds each sudden change takes to be made good; None: not before the next.

    Recovered is when, over the `window` rounds that end there and all repetitions, the mean regret
    against the arm that is best now is at most a quarter of what staying with the arm that was best
    before would cost (or 0.01, where that is more).
    """
    plan, rounds, found = baseline.schedule, metrics.rounds, []
    moving = metrics.course("moving").mean(axis=1)
    for change, end in pairwise([*plan.changes, plan.rounds]):
        before, now = plan.shares([change - 1, change]) @ baseline.means
        allowed = max(0.25 * float(now.max() - now[before.argmax()]), 0.01)
        points = np.flatnonzero((rounds > change) & (rounds <= end))
        since = np.searchsorted(rounds, np.maximum(rounds[points] - window, change))
        span = rounds[points] - rounds[since]
        rate = (moving[points] - moving[since]) / span
        made_good = (rate <= allowed) & (span >= min(window, end - change) * 0.9)
        found.append(int(rounds[points[made_good.argmax()]] - change) if made_good.any() else None)
    return found
