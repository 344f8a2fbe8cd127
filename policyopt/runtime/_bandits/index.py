"""Index bandits: play the arm whose index is largest."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .base import NORMAL, Bandit, Player, RandomRows, check_player, known_rewards
from .saved_state import Item, check_fields, count_list, number_list, recent_items, reward_sums

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

    @abstractmethod
    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest index; every arm has been seen.

        `clock` is the logarithm of the rounds in memory. With a discount, counts and clock are both
        in the unit of the present weight: only their quotient may be read. One loop over plain
        numbers, for calls are most of what those cost.
        """

    def memory(self) -> tuple[int, float]:
        """Return the window in rounds, 0 for all of them, and the discount per round, 1 for none.

        Squares are not kept in a window: no index with `spread` has one.
        """
        return 0, 1.0

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> Player:
        """Return a player; see `Bandit.player`."""
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
        self._window, self._discount = rule.memory()
        self.rounds, self.weight = 0, 1.0
        self.pulls, self.total, self.square = ([0.0] * arms for _ in range(3))
        self.choices = [0] * arms
        self._empty = arms  # arms without a reward in memory
        self._recent: deque[Item] = deque()  # what is in the window
        self._new_total = [0.0] * arms

    def choose(self) -> int:
        """Return the arm for the next request; see `Player.choose`."""
        self.rounds = rounds = self.rounds + 1
        discount = self._discount
        if discount < 1.0:
            self._fade(discount)
        elif self._window:
            self._forget(rounds - self._window)
        if self._empty:
            chosen = self._least_tried()
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
        pulls, total, weight, a = self.pulls, self.total, self.weight, first
        known = known_rewards(first, last, rewards, len(pulls))
        if self._empty:
            self._empty -= pulls[first : last + 1].count(0.0)
        if self.rule.spread:
            square = self.square
            for reward in known:
                pulls[a] += weight
                total[a] += weight * reward
                square[a] += weight * (reward * reward)
                a += 1
        else:
            for reward in known:
                pulls[a] += weight
                total[a] += weight * reward
                a += 1
        if self._window:
            self._recent.append((self.rounds, first, tuple(known)))
            if self.rounds % self._window:
                for a, reward in enumerate(known, first):
                    self._new_total[a] += reward

    def _least_tried(self) -> int:
        """Return the least tried of the arms of which nothing is known, the largest of equals."""
        empty = (a for a, n in enumerate(self.pulls) if n <= 0)
        return min(empty, key=lambda a: (self.choices[a], -a))

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
        found: dict[str, Any] = {
            "rounds": self.rounds, "choices": list(self.choices), "pulls": list(self.pulls),
            "total": list(self.total), "square": list(self.square),
        }  # fmt: skip
        if self._discount < 1.0:
            found["weight"] = self.weight
        if self._window:
            found["recent"] = [[t, first, list(x)] for t, first, x in self._recent]
            found["new_total"] = list(self._new_total)
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; see `Player.restore`."""
        arms, fading = len(self.pulls), self._discount < 1.0
        state = check_fields("state of the bandit", state, list(self.state()))
        weight = number_list("weight", [state["weight"]], 1, 1.0, HEAVY)[0] if fading else 1.0
        choices = count_list("choices", state["choices"], arms)
        sums = ("pulls", "total", "square")
        pulls, total, square = reward_sums(state, sums, arms, weight, FORGOTTEN if fading else 1.0)
        if self._window:
            since = state["rounds"] - self._window, state["rounds"]
            recent = recent_items(state["recent"], since, pulls, total)
            self._new_total = number_list("new_total", state["new_total"], arms, -1.0)
            self._recent = deque(recent)
        self.rounds, self.choices, self.weight = state["rounds"], choices, weight
        self.pulls, self.total, self.square = pulls, total, square
        self._empty = pulls.count(0.0)
