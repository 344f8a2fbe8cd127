"""Index bandits play the arm whose index is largest: UCB1, UCB-tuned, UCB-V, two that forget, and the base of all."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import numpy as np

from .._checks import check_positive, check_whole
from .._saved_state import MOST_COUNT, check_fields, refused, saved_counts, saved_numbers
from .base import (
    LEAST_REWARD,
    MOST_REWARD,
    NORMAL,
    Bandit,
    Player,
    RandomRows,
    check_player,
    known_rewards,
    setting,
)

#: The weight of a discounted reward grows up to this; then all is divided by it.
HEAVY = 1e100
#: Of an arm whose count is below this then, nothing is known any more.
FORGOTTEN = 1e-100


class IndexBandit(Bandit):
    """A bandit that plays the arm with the largest index; ties go to the largest arm.

    Arms without feedback come first, the largest of them before the others: with side information
    the largest arm shows the rewards of all.
    """

    #: Whether the index reads the squares of the rewards.
    spread: ClassVar[bool] = False
    #: Rounds in memory, 0 for all; an index with `spread` has them all, for windows keep no squares.
    window = 0
    #: What a reward weighs after another round, of what it weighed before.
    discount = 1.0

    @abstractmethod
    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the largest of the arms with the largest index; every arm has been seen.

        `clock` is the logarithm of the rounds in memory. With a discount, counts and clock are both
        in the unit of the present weight: only their quotient may be read. One loop over plain
        numbers, for calls are most of what those cost.
        """

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> Player:
        """Return a player; see `Steering.player`."""
        return IndexPlayer(self, arms, seed, stream)


class IndexPlayer:
    """Counts, sums and squares of each arm's rewards, and the arm with the largest index.

    Nothing is summed anew. In a window every reward comes and goes, and each time rounding leaves
    something. So a second sum, of what came in since the last multiple of the window, takes the place
    of the first at the next: an error lives for two windows. With a discount, what comes in weighs more
    and more (`weight`) instead of all else less and less; counts, sums and the clock are all in that
    unit.
    """

    chances: Sequence[float] | None = None

    def __init__(self, rule: IndexBandit, arms: int, seed: int, stream: int) -> None:
        check_player(arms, seed, stream)
        self.rule, self.noise = rule, RandomRows(NORMAL, seed, stream, arms)
        self._window, self._discount = rule.window, rule.discount
        self.rounds, self.weight = 0, 1.0
        self.pulls, self.total, self.square = ([0.0] * arms for _ in range(3))
        self.choices = [0] * arms
        self._empty = arms  # arms without a reward in memory
        # What is in the window: the round, the first arm, the rewards from it on.
        self._recent: deque[tuple[int, int, tuple[float, ...]]] = deque()
        self._new_total = [0.0] * arms

    def choose(self) -> int:
        """Return the arm for the next request; see `Player.choose`."""
        self.rounds = rounds = self.rounds + 1
        discount = self._discount
        if discount < 1.0:
            self._fade(discount)
        elif self._window:
            self._forget(rounds - self._window)
        if self._empty:  # the least tried of them, the largest of equals
            empty = (a for a, n in enumerate(self.pulls) if n <= 0)
            chosen = min(empty, key=lambda a: (self.choices[a], -a))
        else:
            if discount < 1.0:
                clock = math.log(max((1 - discount**rounds) / (1 - discount), 1.0)) * self.weight
            else:
                clock = math.log(min(rounds, self._window) if self._window else rounds)
            chosen = self.rule.best(self, clock)
        self.choices[chosen] += 1
        return chosen

    def learn(
        self, first: int, last: int, rewards: Sequence[float], chance: Sequence[float] | None = None
    ) -> None:
        """Take in rewards; see `Player.learn`."""
        pulls, total, weight = self.pulls, self.total, self.weight
        known = known_rewards(first, last, rewards, len(pulls))
        if self._empty:
            self._empty -= pulls[first : last + 1].count(0.0)
        for a, reward in enumerate(known, first):
            pulls[a] += weight
            total[a] += weight * reward
        if self.rule.spread:
            for a, reward in enumerate(known, first):
                self.square[a] += weight * (reward * reward)
        if self._window:
            self._recent.append((self.rounds, first, tuple(known)))
            if self.rounds % self._window:
                for a, reward in enumerate(known, first):
                    self._new_total[a] += reward

    def _fade(self, discount: float) -> None:
        self.weight /= discount
        if self.weight > HEAVY:
            for values in (self.pulls, self.total, self.square):
                values[:] = [x / self.weight for x in values]
            for a, n in enumerate(self.pulls):
                if n < FORGOTTEN:
                    self.pulls[a] = self.total[a] = self.square[a] = 0.0
            self.weight, self._empty = 1.0, self.pulls.count(0.0)

    def _forget(self, until: int) -> None:
        """Forget what came in a full window ago."""
        recent, pulls, total = self._recent, self.pulls, self.total
        while recent and recent[0][0] <= until:
            _, first, known = recent.popleft()
            for a, reward in enumerate(known, first):
                pulls[a] = n = pulls[a] - 1.0
                total[a] -= reward
                if n <= 0.0:
                    pulls[a] = total[a] = 0.0
                    self._empty += 1
        slot = self.rounds % self._window
        if slot == 0:
            total[:] = self._new_total
        elif slot == 1:
            self._new_total = [0.0] * len(pulls)

    def state(self) -> dict[str, Any]:
        """Return all that was learned; see `Player.state`."""
        found: dict[str, Any] = {"rounds": self.rounds}
        for name in ("choices", "pulls", "total", "square"):
            found[name] = list(getattr(self, name))
        if self._discount < 1.0:
            found["weight"] = self.weight
        if self._window:
            found["recent"] = [[t, first, list(x)] for t, first, x in self._recent]
            found["new_total"] = list(self._new_total)
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; see `Player.restore`."""
        arms, unit, least = len(self.pulls), 1.0, 1.0
        state = check_fields("state of the bandit", state, list(self.state()))
        if self._discount < 1.0:
            unit, least = (
                saved_numbers("weight", [state["weight"]], (1,), 1.0, HEAVY).item(),
                FORGOTTEN,
            )
        choices = saved_counts("choices", state["choices"], arms)
        pulls, total, square = _sums(state, arms, unit, least)
        if self._window:
            since = state["rounds"] - self._window, state["rounds"]
            recent = _recent_items(state["recent"], since, pulls, total)
            new_total = saved_numbers("new_total", state["new_total"], (arms,), -1.0)
            self._new_total = new_total.tolist()
            self._recent = recent
        self.rounds, self.choices, self.weight = state["rounds"], choices, unit
        self.pulls, self.total, self.square = pulls, total, square
        self._empty = pulls.count(0.0)


def _sums(state: Mapping[str, Any], arms: int, unit: float, least: float) -> list[list[float]]:
    """Return saved counts, and saved sums of rewards and of their squares, A of each.

    `unit` is what one reward adds to a count now, `least` what a count above 0 may be: 1 where they are
    whole.
    """
    names, most = ("pulls", "total", "square"), MOST_COUNT * unit
    found = [saved_numbers(name, state[name], (arms,), -unit, most) for name in names]
    pulls = found[0]
    if not ((pulls == 0) | (pulls >= least) & ((least < 1) | (pulls == np.floor(pulls)))).all():
        raise refused("pulls", "counts, 0 or more", pulls.tolist())
    # What rounding may leave of sums, and of rewards that a caller scaled.
    slack = np.where(pulls > 0, 1e-6 * (pulls + unit), 0.0)
    for name, values in zip(names[1:], found[1:], strict=True):
        if ((values < -slack) | (values > pulls + slack)).any():
            raise refused(name, "from 0 to 'pulls'", values.tolist())
    return [values.tolist() for values in found]


def _recent_items(
    value: Any, since: tuple[int, int], pulls: Sequence[float], total: Sequence[float]
) -> deque[tuple[int, int, tuple[float, ...]]]:
    """Return what a saved window holds: of rounds in (low, high], what came in.

    It must add up to `pulls` and `total`: otherwise counts would fall below 0 as it empties.
    """
    arms, (low, high) = len(pulls), since
    count, summed = ([0.0] * arms for _ in range(2))
    found: deque[tuple[int, int, tuple[float, ...]]] = deque()
    for item in value if isinstance(value, list) else [value]:
        fine = isinstance(item, list) and [type(x) for x in item] == [int, int, list]
        fine = fine and low < item[0] <= high
        if not fine or not 0 <= item[1] < item[1] + len(item[2]) <= arms:
            raise refused("recent", f"[round after {low}, first arm, [rewards]] each", item)
        low, first = item[0] - 1, item[1]  # rounds never fall
        known = saved_numbers("recent", item[2], None, LEAST_REWARD, MOST_REWARD).tolist()
        found.append((item[0], first, tuple(known)))
        for a, reward in enumerate(known, first):
            count[a] += 1.0
            summed[a] += reward
    off = max(abs(x - y) for x, y in zip(total, summed, strict=True))
    if count != list(pulls) or off > 1e-6:
        raise refused("recent", "what 'pulls' and 'total' sum up", [count, summed])
    return found


# ---- indices in closed form


def _best_mean_plus_root(seen: IndexPlayer, weight: float, clock: float) -> int:
    """Return the arm with the largest mean reward plus ``weight * sqrt(clock / N)``, the simplest index."""
    total, chosen, highest = seen.total, 0, -math.inf
    for a, n in enumerate(seen.pulls):
        value = total[a] / n + weight * sqrt(clock / n)
        if value >= highest:
            chosen, highest = a, value
    return chosen


@dataclass(frozen=True)
class UCB1(IndexBandit):
    """Mean reward plus ``c * sqrt(ln t / N)``.

    Parameters
    ----------
    c : float
        Weight of exploration. AdaEE (Pacheco et al., ICC 2023) has 1; UCB1 as first published has
        the square root of 2.

    Examples
    --------
    >>> player = UCB1().player(arms=2)
    >>> [player.choose() for _ in range(2)]  # each arm once, the largest first
    [1, 0]
    >>> player.learn(0, 1, [0.2, 0.9])
    >>> player.choose()
    1
    """

    c: float = setting(1.0, check_positive)

    name = "ucb1"
    summary = "adds to the mean what its count leaves open"
    reference = (
        "UCB1 (Auer, Cesa-Bianchi & Fischer, Machine Learning 47, 2002, figure 1), "
        "as AdaEE plays it."
    )

    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest index."""
        return _best_mean_plus_root(seen, self.c, clock)


@dataclass(frozen=True)
class DiscountedUCB(IndexBandit):
    """Discounted mean plus ``2 sqrt(xi ln n / N)``: n the discounted rounds, N those of the arm.

    Parameters
    ----------
    discount : float
        gamma. For T rounds with Y changes the paper takes ``1 - sqrt(Y / T) / 4``.
    xi : float
        Weight of exploration, above 1/2 in the paper's theorem 1; its experiments have 0.6.

    Notes
    -----
    The paper's n is the sum of all N. With side information a round counts for several arms, so n
    is counted in rounds; without it the two are the same.
    """

    discount: float = setting(0.998, check_positive, most=1 - 1e-9)
    xi: float = setting(0.6, check_positive)

    name = "discounted_ucb"
    summary = "lets old rewards fade, so that it follows changes"
    reference = (
        "Discounted UCB (Kocsis & Szepesvari 2006; Garivier & Moulines, ALT 2011, section 2.1)."
    )

    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest index."""
        return _best_mean_plus_root(seen, 2.0, self.xi * clock)


@dataclass(frozen=True)
class SlidingWindowUCB(IndexBandit):
    """Mean over the last w rounds plus ``sqrt(xi ln min(t, w) / N)``, N counted in the window.

    Parameters
    ----------
    window : int
        w, rounds. For T rounds with Y changes the paper takes ``2 sqrt(T ln T / Y)``.
    xi : float
        Weight of exploration, above 1/2 in the paper's theorem 2; its experiments have 0.6.
    """

    window: int = setting(1000, check_whole, least=2, most=10**6)
    xi: float = setting(0.6, check_positive)

    name = "sliding_window_ucb"
    summary = "looks at the last rounds only, so that it follows changes"
    reference = "Sliding-window UCB (Garivier & Moulines, ALT 2011, section 2.2)."

    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest index."""
        return _best_mean_plus_root(seen, 1.0, self.xi * clock)


@dataclass(frozen=True)
class UCBTuned(IndexBandit):
    """Mean reward plus ``sqrt(ln t / N * min(1/4, V + sqrt(2 ln t / N)))``, V the variance seen."""

    name = "ucb_tuned"
    summary = "explores less where rewards vary little"
    reference = "UCB-tuned (Auer, Cesa-Bianchi & Fischer, Machine Learning 47, 2002, section 4)."
    spread = True

    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest index."""
        total, square, chosen, highest = seen.total, seen.square, 0, -math.inf
        for a, n in enumerate(seen.pulls):
            mean, share = total[a] / n, clock / n
            bound = max(square[a] / n - mean * mean, 0.0) + sqrt(2.0 * share)
            value = mean + sqrt(share * (bound if bound < 0.25 else 0.25))
            if value >= highest:
                chosen, highest = a, value
        return chosen


@dataclass(frozen=True)
class UCBV(IndexBandit):
    """Mean reward plus ``sqrt(2 V zeta ln t / N) + 3 c zeta ln t / N``, V the variance seen.

    Parameters
    ----------
    zeta : float
        Weight of the exploration function ``zeta * ln t``; the paper's theorem 3 has 1.2.
    c : float
        Weight of the term for the range; 1 by the empirical Bernstein bound.
    """

    zeta: float = setting(1.0, check_positive)
    c: float = setting(1.0, check_positive)

    name = "ucb_v"
    summary = "bounds the mean by an empirical Bernstein bound"
    reference = (
        "UCB-V (Audibert, Munos & Szepesvari, Theoretical Computer Science 410, 2009, equation 1)."
    )
    spread = True

    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest index."""
        total, square, chosen, highest = seen.total, seen.square, 0, -math.inf
        level, weight = self.zeta * clock, 3.0 * self.c
        for a, n in enumerate(seen.pulls):
            mean, share = total[a] / n, level / n
            variance = max(square[a] / n - mean * mean, 0.0)
            value = mean + sqrt(2.0 * variance * share) + weight * share
            if value >= highest:
                chosen, highest = a, value
        return chosen
