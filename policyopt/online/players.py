"""Players: who decides in a simulation, block of rounds by block, all repetitions side by side."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from policyopt.online.outcomes import Outcomes
from policyopt.online.requests import Block, Requests
from policyopt.runtime.bandits import Bandit
from policyopt.runtime.bandits.parts.reveal import REVEALS, reveal_chances
from policyopt.runtime.checks import check_whole
from policyopt.runtime.errors import input_error
from policyopt.runtime.online.controller import Controller
from policyopt.runtime.online.ladder import Ladder
from policyopt.runtime.online.steering import check_nested
from policyopt.runtime.typing import Floats

Arms = npt.NDArray[np.int16]
_FEW = 4  # streams up to which the form that serves is faster than numpy on all of them


class Player(Protocol):
    """Chooses an arm for every request.

    Attributes
    ----------
    exits : ndarray of shape (n, A)
        Exit of each row on each arm.
    """

    exits: npt.NDArray[np.integer]

    def play(self, block: Block) -> Arms:
        """Return the arms of a block of rounds, (rounds, R); blocks come in order."""
        ...


class Fixed:
    """Always the same arm."""

    def __init__(self, exits: npt.NDArray[np.integer], arm: int = 0) -> None:
        self.exits, self._arm = exits, arm

    def play(self, block: Block) -> Arms:
        """Return the arm; see `Player.play`."""
        return np.full(block.row.shape, self._arm, dtype=np.int16)


class BudgetPlayer:
    """The budget controller on a ladder.

    Parameters
    ----------
    rule : Controller
    ladder : Ladder
        Its policy's costs scale what requests cost, as in `Online`.
    seen : Outcomes
        Of that policy.
    repetitions : int
    delay : int
        Rounds until a cost is known; that needs no label, and comes for every request.
    """

    def __init__(
        self, rule: Controller, ladder: Ladder, seen: Outcomes, repetitions: int, delay: int = 0
    ) -> None:
        check_whole("delay", delay, 0)
        rule.check_ladder(ladder)
        costs = ladder.policy.costs
        self.exits = ladder.exits(seen.scores)
        self._cost = (seen.cost - costs[0]) / float(costs[-1] - costs[0])
        self._many = rule.many(ladder.arms, repetitions)
        self._late: deque[Floats] = deque()
        self._delay = delay

    def play(self, block: Block) -> Arms:
        """Return the rungs; see `Player.play`."""
        out = np.empty(block.row.shape, dtype=np.int16)
        for j, row in enumerate(block.row):
            out[j] = arm = self._many.choose()
            self._late.append(self._cost[row, self.exits[row, arm]])
            if len(self._late) > self._delay:
                self._many.learn(self._late.popleft())
        return out


class BanditPlayer:
    """A bandit over the arms of a table of exits.

    Parameters
    ----------
    bandit : Bandit
    seen : Outcomes
    exits : ndarray of shape (n, A)
    requests : Requests
    reveal : {"played", "smaller", "all"}
        Whose rewards feedback shows. ``smaller``: also those of all smaller arms that would have
        left no later: side information. ``all``: of larger arms too, where the sample went far
        enough; whether it did depends on the sample, so that this is biased unless weighted, as
        bandits that draw do.
    delay : int
        Rounds until feedback comes.
    """

    def __init__(
        self, bandit: Bandit, seen: Outcomes, exits: npt.NDArray[np.integer], requests: Requests,
        reveal: str = "smaller", delay: int = 0,
    ) -> None:  # fmt: skip
        if reveal not in REVEALS:
            raise input_error("reveal", f"one of {', '.join(REVEALS)}", reveal, "E.g. smaller.")
        check_whole("delay", delay, 0)
        nested = bool((np.diff(exits, axis=1) >= 0).all())
        check_nested(reveal, nested)
        self.exits, self._reveal, self._delay = exits, reveal, delay
        arms = exits.shape[1]
        low, high = requests.overhead
        self._least, most = seen.range_of(requests.overhead)
        self._width = max(most - self._least, 1e-12)
        rows = np.arange(len(exits))[:, None]
        self._gain, self._load = seen.gain[rows, exits], seen.load[exits]
        self._reward = None if high > low else self._scaled(self._gain, self._load, low)
        # The smallest and the largest arm that leave where arm a does: what is known together.
        new = np.diff(exits, axis=1, prepend=-1) != 0
        self._start = np.maximum.accumulate(np.where(new, np.arange(arms), 0), axis=1)
        self._weighted = bandit.draws and reveal == "all"
        self._draws = bandit.draws
        self._cols = np.arange(arms)
        self._late: deque[Any] = deque()
        few = requests.repetitions <= _FEW and nested
        self._ones = [bandit.one(arms, requests.seed, r) for r in range(requests.repetitions * few)]
        self._lates = [deque() for _ in self._ones]
        self._many = None if few else bandit.many(arms, requests.repetitions, requests.seed)

    def _scaled(self, gain: Floats, load: Floats, overhead: Any) -> Floats:
        return (gain - overhead * load - self._least) / self._width

    def _rewards(self, row: npt.NDArray[np.int64], overhead: Floats) -> Floats:
        if self._reward is not None:
            return self._reward[row]
        return self._scaled(self._gain[row], self._load[row], overhead[:, None])

    def play(self, block: Block) -> Arms:
        """Return the arms; see `Player.play`."""
        out = np.empty(block.row.shape, dtype=np.int16)
        if self._many is not None:
            for j in range(len(block.row)):
                out[j] = self._next(block, j)
        else:
            for r in range(block.row.shape[1]):
                out[:, r] = self._alone(block, r)
        return out

    def _next(self, block: Block, j: int) -> Any:
        """Play one round of all streams."""
        assert self._many is not None
        arm, row = self._many.choose(), block.row[j]
        exits = self.exits[row]
        taken = exits[np.arange(len(row)), arm][:, None]
        if self._reveal == "played":
            seen = self._cols == arm[:, None]
        else:
            seen = exits <= taken
            if self._reveal == "smaller":
                seen &= self._cols <= arm[:, None]
        seen &= block.arrives[j][:, None]
        chance = None
        if self._draws and self._many.chances is not None:
            chance = reveal_chances(self._many.chances, self._reveal, self._start[row])
        item: Any = (seen, self._rewards(row, block.overhead[j]), chance)
        if self._delay:
            self._late.append(item)
            item = self._late.popleft() if len(self._late) > self._delay else None
        if item is not None:
            self._many.learn(*item)
        return arm

    def _alone(self, block: Block, r: int) -> list[int]:
        """Play a block of rounds of one stream, as a server would."""
        one, late, delay, reveal = self._ones[r], self._lates[r], self._delay, self._reveal
        row = block.row[:, r]
        rewards = self._rewards(row, block.overhead[:, r]).tolist()
        choose, learn, arms = one.choose, one.learn, []
        if reveal == "smaller" and not (delay or self._draws) and block.arrives[:, r].all():
            for reward in rewards:
                arm = choose()
                learn(0, arm, reward)
                arms.append(arm)
            return arms
        start, exits, arrives = self._start[row], self.exits[row], block.arrives[:, r]
        for j, reward in enumerate(rewards):
            arm = choose()
            arms.append(arm)
            first, last = (arm, arm) if reveal == "played" else (0, arm)
            if reveal == "all":
                last = int((exits[j] <= exits[j, arm]).sum()) - 1
            chance = None
            if one.chances is not None:
                chance = reveal_chances(one.chances, reveal, start[j].tolist())
            item: Any = (first, last, reward, chance) if arrives[j] else None
            if delay:
                late.append(item)
                item = late.popleft() if len(late) > delay else None
            if item is not None:
                learn(*item)
        return arms
