"""Bandits: they choose among arms while serving, and a simulation plays them as a server would.

A `Bandit` holds settings; its `player` serves one stream. Random numbers are counter-based: those of a
block of rounds follow from seed, stream and the block's number, so that a restored player goes on with
the same ones (unless numpy changes how it makes them; then it draws others, as good).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import accumulate, count
from math import sqrt
from typing import Any, ClassVar, Protocol, cast

import numpy as np

from ._checks import check_least, check_one_of, check_positive, check_seed, check_whole, to_python
from ._errors import InputError, input_error
from ._saved_state import MOST_COUNT, check_fields, refused, saved_counts, saved_numbers
from ._typing import Floats

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
        """Take in rewards of arms first..last; `chance`: with which each was to be known. All or nothing."""

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
    """Rows of random numbers of a stream, by round, drawn a block at a time; each series is independent."""

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


# ---- bandits that play the arm with the largest index

#: The weight of a discounted reward grows up to this; then all is divided by it.
HEAVY = 1e100
#: Of an arm whose count is below this then, nothing is known any more.
FORGOTTEN = 1e-100


class IndexBandit(Bandit):
    """A bandit that plays the arm with the largest index; arms without feedback first; of equals the largest."""

    #: Whether the index reads the squares of the rewards.
    spread: ClassVar[bool] = False
    #: Rounds in memory, 0 for all; an index with `spread` has them all, for windows keep no squares.
    window = 0
    #: What a reward weighs after another round, of what it weighed before.
    discount = 1.0

    @abstractmethod
    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the largest of the arms with the largest index; every arm has been seen.

        `clock` is the logarithm of the rounds in memory. With a discount, counts and clock are in the unit of
        the present weight: only their quotient may be read. One loop: calls are most of the time.
        """

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> Player:
        return IndexPlayer(self, arms, seed, stream)


class IndexPlayer:
    """Counts, sums and squares of each arm's rewards, and the arm with the largest index.

    Nothing is summed anew. In a window, where rounding piles up, a second sum of what came in since the last
    multiple of the window takes the place of the first at the next. With a discount, what comes in weighs
    more and more (`weight`) instead of all else less and less; counts, sums and clock are in that unit.
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
        arms, unit, least = len(self.pulls), 1.0, 1.0
        state = check_fields("state of the bandit", state, list(self.state()))
        if self._discount < 1.0:
            unit = saved_numbers("weight", [state["weight"]], (1,), 1.0, HEAVY).item()
            least = FORGOTTEN
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
    """Return saved counts and sums of rewards and squares, A of each; a reward counts `unit`, an arm `least` or 0."""
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
    """Return what a saved window holds, of rounds in (low, high]: what adds up to `pulls` and `total`."""
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
        Weight of exploration: 1 in AdaEE (Pacheco et al., ICC 2023), the square root of 2 in UCB1.

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
        return _best_mean_plus_root(seen, self.c, clock)


@dataclass(frozen=True)
class DiscountedUCB(IndexBandit):
    """Discounted mean plus ``2 sqrt(xi ln n / N)``: n the discounted rounds, N those of the arm.

    The paper's n is the sum of all N; with side information, where a round counts for several arms, it is not.

    Parameters
    ----------
    discount : float
        gamma. For T rounds with Y changes the paper takes ``1 - sqrt(Y / T) / 4``.
    xi : float
        Weight of exploration, above 1/2 in the paper's theorem 1; its experiments have 0.6.
    """

    discount: float = setting(0.998, check_positive, most=1 - 1e-9)
    xi: float = setting(0.6, check_positive)

    name = "discounted_ucb"
    summary = "lets old rewards fade, so that it follows changes"
    reference = (
        "Discounted UCB (Kocsis & Szepesvari 2006; Garivier & Moulines, ALT 2011, section 2.1)."
    )

    def best(self, seen: IndexPlayer, clock: float) -> int:
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
        return _best_mean_plus_root(seen, 1.0, self.xi * clock)


@dataclass(frozen=True)
class UCBTuned(IndexBandit):
    """Mean reward plus ``sqrt(ln t / N * min(1/4, V + sqrt(2 ln t / N)))``, V the variance seen."""

    name = "ucb_tuned"
    summary = "explores less where rewards vary little"
    reference = "UCB-tuned (Auer, Cesa-Bianchi & Fischer, Machine Learning 47, 2002, section 4)."
    spread = True

    def best(self, seen: IndexPlayer, clock: float) -> int:
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
        total, square, chosen, highest = seen.total, seen.square, 0, -math.inf
        level, weight = self.zeta * clock, 3.0 * self.c
        for a, n in enumerate(seen.pulls):
            mean, share = total[a] / n, level / n
            variance = max(square[a] / n - mean * mean, 0.0)
            value = mean + sqrt(2.0 * variance * share) + weight * share
            if value >= highest:
                chosen, highest = a, value
        return chosen


# ---- KL-UCB

_STEPS = 60  # of Newton's method at most; 3 to 6 are usual
_SMALL = 1e-300  # stands in for 0 where there is a logarithm
_LEAST_SHARE = 1e-30  # moves the index by 1e-15 at most
_2_3, _8_9 = 2.0 / 3.0, 8.0 / 9.0
_BELOW = 1.0 - 2.0**-53  # the largest number below 1
_TIE = 1e-12  # indices this near to the largest are equal to it


@dataclass(frozen=True)
class KLUCB(IndexBandit):
    """The largest q with ``N kl(mean, q) <= ln t + c ln ln t``, kl that of two Bernoulli variables.

    Of all rewards in [0, 1] with a given mean Bernoulli's deviate most, so the bound holds for all.
    For t < 3, ``ln ln t`` is taken as 0. Indices within 1e-12 are equal.

    Parameters
    ----------
    c : float
        The paper's analysis has 3; for practice it recommends 0.
    """

    c: float = setting(0.0, check_least)

    name = "kl_ucb"
    summary = "bounds the mean as tightly as 0/1 rewards allow"
    reference = (
        "KL-UCB (Garivier & Cappe, COLT 2011, algorithm 1), for rewards in [0, 1] "
        "with Bernoulli's kl."
    )

    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest index, by bounds on the indices if they will do."""
        level = clock + self.c * math.log(max(clock, 1.0))
        arms = [(x / n, level / n) for x, n in zip(seen.total, seen.pulls, strict=True)]
        bounds = [_not_above(mean, share) for mean, share in arms]
        for _ in range(2):
            top = max(bounds)
            first = bounds.index(top)
            bounds[first] = -1.0
            if _above(*arms[first], max(bounds) + 2.0 * _TIE):
                return first
            # The bounds of those in question, and of those only, are brought nearer to the indices.
            bounds[first] = bar = _nearer(*arms[first], top)
            for a, bound in enumerate(bounds):
                if bound > bar:
                    bounds[a] = _nearer(*arms[a], bound)
        found = [upper_bound(mean, share) for mean, share in arms]
        bar = max(found) - _TIE
        return max(a for a, value in enumerate(found) if value >= bar)


def _nearer(p: float, share: float, q: float) -> float:
    """Return a bound on the index between the index and the bound q: one step of Newton's method."""
    if not 0.0 < p < q < 1.0:
        return q
    d, rest = q - p, 1.0 - p
    over = -p * math.log1p(d / p) - rest * math.log1p(-d / rest) - share
    return q - over * q * (rest - d) / d if over > 0.0 else q


def _not_above(p: float, share: float) -> float:
    """Return a bound that no index is above, without logarithms and near it where share is small.

    ``kl(p, p + d)`` is the integral of ``x h(p + x)`` from 0 to d with the convex
    ``h(y) = 1 / (y (1 - y))``, so by Jensen's inequality at least ``d^2 / 2 h(p + 2 d / 3)``.
    """
    if not 0.0 <= p <= 1.0:
        p = min(max(p, 0.0), 1.0)
    k, h = 1.0 + share * _8_9, share * (1.0 - p - p) * _2_3
    return p + (h + math.sqrt(h * h + 2.0 * share * k * (p - p * p))) / k


def _above(p: float, share: float, q: float) -> bool:
    """Return whether the index is above q: kl(p, q) < share; without logarithms if a bound will do."""
    d = q - p
    if d <= 0.0:
        return True
    if not 0.0 < p < q < 1.0:
        return False
    # The chord of the convex h lies above it.
    if d * d * (1.0 / (p - p * p) + 2.0 / (q - q * q)) < 6.0 * share:
        return True
    return -p * math.log1p(d / p) - (1.0 - p) * math.log1p(-d / (1.0 - p)) < share


def upper_bound(mean: float, share: float) -> float:
    """Return the largest q with ``kl(mean, q) <= share``, by Newton's method.

    From the right, where kl is convex in q; from the lesser of two bounds: `_not_above`, and that which
    follows from ``kl >= mean ln mean + (1 - mean) ln((1 - mean) / (1 - q))``.
    """
    p, share = min(max(mean, _SMALL), _BELOW), max(share, _LEAST_SHARE)
    rest = 1.0 - p
    most = rest * _BELOW
    d = _not_above(p, share) - p
    if d > 0.5 * rest:
        tail = rest - rest * math.exp(max((p * math.log(p) - share) / rest, -700.0))
        d = min(d, tail, most)
    d = max(d, _SMALL)
    for _ in range(_STEPS):
        over = -p * math.log1p(d / p) - rest * math.log1p(-d / rest) - share
        step = over * (p + d) * (rest - d) / d
        d = min(max(d - step, _SMALL), most)
        # The next step would be about step^2 / (d (1 - q)).
        if abs(step) < 1e-8 * math.sqrt(d * (rest - d)):
            break
    return p + d


# ---- Thompson sampling (Agrawal & Goyal, COLT 2012, algorithm 2; AISTATS 2013, section 2)

_COINS = 1 << 32  # the series of arm 0's coins; those of the tries are far below


@dataclass(frozen=True)
class Thompson(IndexBandit):
    """Draws a mean for every arm from what is known of it, and plays the arm of the largest.

    Parameters
    ----------
    posterior : {"gaussian", "beta"}
        ``gaussian``: ``Normal(mean, min(1/4, V + sqrt(2 ln t / N)) / N)``, V the variance seen.
        ``beta``: ``Beta(1 + S, 1 + N - S)``; a reward r counts as 1 with probability r, else as 0,
        and S is how many were 1 (COLT 2012, algorithm 2). Several times slower.

    Notes
    -----
    The gaussian posterior of the AISTATS paper is ``Normal(N mean / (N + 1), 1 / (N + 1))``: a
    variance that no rewards in [0, 1] have. UCB-tuned's bound of it takes its place; the one seen
    alone gives up arms whose first rewards are all 0 (linear regret on some streams). There is no
    pull towards 0, since every arm is played before the first draw. A bound on the regret is proven
    for ``beta`` only. Draws are not known as probabilities: `chances` stays None.
    """

    posterior: str = setting("gaussian", check_one_of, known=("gaussian", "beta"))

    name = "thompson"
    summary = "plays each arm as often as it may be the best"
    reference = (
        "Thompson sampling (Agrawal & Goyal, COLT 2012, algorithm 2; AISTATS 2013, section 2)."
    )
    spread = True

    def best(self, seen: IndexPlayer, clock: float) -> int:
        if isinstance(seen, BetaPlayer):
            draws = seen.draws()
            return max(range(len(draws)), key=lambda a: (draws[a], a))
        total, square, chosen, highest = seen.total, seen.square, 0, -math.inf
        noise, twice = seen.noise[seen.rounds - 1], 2.0 * clock
        for a, n in enumerate(seen.pulls):
            mean = total[a] / n
            variance = square[a] / n - mean * mean
            bound = (variance if variance > 0.0 else 0.0) + sqrt(twice / n)
            value = mean + noise[a] * sqrt((bound if bound < 0.25 else 0.25) / n)
            if value >= highest:
                chosen, highest = a, value
        return chosen

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> Player:
        kind = BetaPlayer if self.posterior == "beta" else IndexPlayer
        return kind(self, arms, seed, stream)


class BetaPlayer(IndexPlayer):
    """Counts of 1 and 0 of each arm, and beta draws that a counter fixes: every try of every round has its own.

    A beta variable is ``G / (G + H)`` of two gamma variables by Marsaglia & Tsang, ACM TOMS 26, 2000, figure 1.
    """

    def __init__(self, rule: IndexBandit, arms: int, seed: int, stream: int) -> None:
        super().__init__(rule, arms, seed, stream)
        self._key = seed, stream
        self._coins = [RandomRows(UNIFORM, *self._key, 1, _COINS + a) for a in range(arms)]
        self._tries: list[tuple[RandomRows, RandomRows]] = []

    def learn(
        self, first: int, last: int, rewards: Sequence[float], chance: Sequence[float] | None = None
    ) -> None:
        """Take in rewards, each as 1 with its own probability, else as 0."""
        coins = [0.0] * len(self.pulls)
        for a, reward in enumerate(known_rewards(first, last, rewards, len(coins)), first):
            # The number that belongs to the arm's next reward: by its count, however late.
            coins[a] = float(self._coins[a][int(self.pulls[a])][0] < reward)
        super().learn(first, last, coins, chance)

    def draws(self) -> list[float]:
        """Return a beta draw per arm."""
        found = []
        for a, (ones, n) in enumerate(zip(self.total, self.pulls, strict=True)):
            g = self._gamma(2 * a, 1.0 + ones)
            found.append(g / (g + self._gamma(2 * a + 1, 1.0 + (n - ones))))
        return found

    def _gamma(self, slot: int, shape: float) -> float:
        d, at = shape - 1.0 / 3.0, self.rounds - 1
        scale = sqrt(9.0 * d)
        for attempt in count():
            if attempt == len(self._tries):
                width, series = 2 * len(self.pulls), 2 * attempt
                normal = RandomRows(NORMAL, *self._key, width, series)
                self._tries.append((normal, RandomRows(UNIFORM, *self._key, width, series + 1)))
            normal, uniform = self._tries[attempt]
            x, u = normal[at][slot], uniform[at][slot]
            v = 1.0 + x / scale
            if v > 0.0:
                v = v * v * v
                if math.log(1.0 - u) < 0.5 * x * x + d * (1.0 - v + math.log(v)):
                    return d * v
        raise AssertionError("unreachable")


# ---- EXP3 and EXP3.S (Auer, Cesa-Bianchi, Freund & Schapire, SIAM J. Comput. 32, 2002, sections 3, 8)

_LARGEST = 1e100  # of a saved estimate


def _share_or(name: str, value: Any, absent: Any) -> Any:
    """Return a number in (0, 1], or what stands for none."""
    value = to_python(value)
    none = value is None if absent is None else value == absent
    return value if none else check_positive(name, value, most=1.0)


@dataclass(frozen=True)
class EXP3(Bandit):
    """Plays arm a with ``(1 - gamma) w_a / sum(w) + gamma / A``, w the exponential of rewards / chance.

    Whatever the rewards do, and without bias: each is divided by the probability that it became known, so
    those of larger arms may be used (as in Alon et al., SIAM J. Comput. 46, 2017).

    Parameters
    ----------
    gamma : float, optional
        Share of rounds played at random, and the rate of learning, in (0, 1]. None: in round t what the
        paper's corollary 3.2 takes for a horizon of t rounds, ``min(1, sqrt(A ln A / ((e - 1) t)))``; where
        `share` is set, section 8's for ``T = 1 / share`` rounds and S - 1 changes,
        ``min(1, sqrt(A (S ln(A T) + e) / ((e - 1) T)))``, at its least: S = 1.
    share : float
        alpha of EXP3.S: after each reward every arm gets ``e alpha / A`` of all weight, so that
        none is lost for ever. The paper takes 1 / T. 0: EXP3, which follows no changes.

    Notes
    -----
    ``w = exp(gamma / A * sum of estimates)``: for a fixed gamma the paper's weights; the falling rate of None
    applies to all rewards so far, as in Bubeck & Cesa-Bianchi (2012, section 3.1).

    Examples
    --------
    >>> player = EXP3(gamma=0.5).player(arms=2)
    >>> arm = player.choose()
    >>> player.chances
    [0.5, 0.5]
    >>> player.learn(0, 1, [0.0, 1.0], chance=[1.0, 0.5])
    >>> arm = player.choose()
    >>> [round(x, 4) for x in player.chances]
    [0.4388, 0.5612]
    """

    gamma: float | None = setting(None, _share_or, absent=None)
    share: float = setting(0.0, _share_or, absent=0)

    name = "exp3"
    summary = "draws its arms, so that all feedback can be weighted"
    reference = (
        "EXP3 and EXP3.S (Auer, Cesa-Bianchi, Freund & Schapire, SIAM J. Comput. 32, 2002, "
        "sections 3, 8)."
    )
    draws = True

    def gamma_at(self, rounds: int, arms: int) -> float:
        """Return gamma in a round."""
        if self.gamma is not None:
            return self.gamma
        if self.share:
            top = arms * (math.log(arms / self.share) + math.e) * self.share
        else:
            top = arms * math.log(arms) / max(rounds, 1)
        return min(1.0, math.sqrt(top / (math.e - 1.0)))

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> Player:
        return EXP3Player(self, arms, seed, stream)


class EXP3Player:
    """Estimated sums of rewards; see `Player`."""

    def __init__(self, rule: EXP3, arms: int, seed: int, stream: int) -> None:
        check_player(arms, seed, stream)
        self.rule, self.rounds, self.gains = rule, 0, [0.0] * arms
        self.chances: Sequence[float] | None = None
        self._draws = RandomRows(UNIFORM, seed, stream, 1, series=1)

    def choose(self) -> int:
        self.rounds = rounds = self.rounds + 1
        gains, exp = self.gains, math.exp
        arms, top = len(gains), max(gains)
        gamma = self.rule.gamma_at(rounds, arms)
        rate = gamma / arms
        weights = [exp(rate * (x - top)) for x in gains]
        total = 0.0
        for w in weights:  # plainly: `sum` rounds otherwise from one Python to the next
            total += w
        keep = (1.0 - gamma) / total
        self.chances = chances = [keep * w + rate for w in weights]
        sums = list(accumulate(chances))
        drawn = self._draws[rounds - 1][0] * sums[-1]
        for a, upto in enumerate(sums):
            if upto > drawn:
                return a
        return arms - 1

    def learn(
        self, first: int, last: int, rewards: Sequence[float], chance: Sequence[float] | None = None
    ) -> None:
        """Take in rewards; without `chance`, by that of the arm just played."""
        gains = self.gains
        known = known_rewards(first, last, rewards, len(gains))
        if chance is None:
            chance = self.chances
            if first != last or chance is None:
                raise _no_chance("none")
        for p in chance[first : last + 1]:
            if not 0.0 < p <= MOST_REWARD:
                raise _no_chance(p)
        before = list(gains) if self.rule.share else gains
        for a, reward in enumerate(known, first):
            gains[a] += reward / chance[a]
        if self.rule.share:
            self.gains = self._shared(before)

    def _shared(self, before: list[float]) -> list[float]:
        """Return the sums after every arm got its share of the weight there was `before`."""
        arms = len(before)
        rate = self.rule.gamma_at(self.rounds, arms) / arms
        top, high = max(before), max(self.gains)
        weight = 0.0
        for x in before:
            weight += math.exp(rate * (x - top))
        part = math.e * self.rule.share / arms * weight * math.exp(rate * (top - high))
        return [math.log(math.exp(rate * (x - high)) + part) / rate for x in self.gains]

    def state(self) -> dict[str, Any]:
        chances = None if self.chances is None else list(self.chances)
        return {"rounds": self.rounds, "gains": list(self.gains), "chances": chances}

    def restore(self, state: Mapping[str, Any]) -> None:
        state = check_fields("state of the bandit", state, ("rounds", "gains", "chances"))
        arms, chances = len(self.gains), state["chances"]
        gains = saved_numbers("gains", state["gains"], (arms,), -_LARGEST, _LARGEST).tolist()
        if chances is not None:
            chances = saved_numbers("chances", chances, (arms,), 1e-300, MOST_REWARD).tolist()
        self.rounds, self.gains, self.chances = state["rounds"], gains, chances


def _no_chance(got: float | str) -> InputError:
    allowed = "the probability, above 0, that each reward was to be known"
    return input_error("chance", allowed, got, "`reveal_chances` tells it.")


# ---- by name

_EVERY = (DiscountedUCB, EXP3, KLUCB, SlidingWindowUCB, Thompson, UCB1, UCBTuned, UCBV)
BANDITS: Mapping[str, type[Bandit]] = {bandit.name: bandit for bandit in _EVERY}


def make_bandit(name: str, settings: Mapping[str, Any] | None = None) -> Bandit:
    """Build a bandit from its name and settings, as a saved state holds them.

    Parameters
    ----------
    name : str
        One of `BANDITS`.
    settings : mapping, optional
        Of the bandit.

    Returns
    -------
    Bandit

    Raises
    ------
    InputError
        Unknown name or setting, or a value that is not allowed.

    Examples
    --------
    >>> make_bandit("ucb1", {"c": 0.5})
    UCB1(c=0.5)
    """
    check_one_of("bandit", name, BANDITS, "E.g. ucb1.")
    bandit, wanted = BANDITS[name], dict(settings or {})
    known = [f.name for f in fields(bandit)]  # type: ignore[arg-type]
    for key in wanted:
        if key not in known:
            allowed = f"one of {', '.join(known) or 'none: it has no settings'}"
            raise input_error(f"setting of {name}", allowed, key, f"`policyopt methods {name}`.")
    return bandit(**wanted)
