"""Players of a simulation: who decides on a stream of cached rows, each repetition as a server would."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._online.outcomes import Outcomes
from policyopt._online.requests import Block, Requests
from policyopt.runtime._bandits import Bandit
from policyopt.runtime._checks import check_whole
from policyopt.runtime._online.controller import Controller
from policyopt.runtime._online.exit_rules import ExitRule
from policyopt.runtime._online.family import PolicyFamily
from policyopt.runtime._online.feedback import reveal_chances, reward_range
from policyopt.runtime._online.serving import check_nested
from policyopt.runtime._typing import Floats, Ints

Arms = npt.NDArray[np.int16]
Feedback = tuple[Any, ...] | None  # what `learn` takes, where it comes


class SimulatedPlayer(ABC):
    """Chooses an arm for every request; feedback comes `delay` rounds late.

    `exits` (n, A) is the exit of each row on each arm. `contextual`: the arm depends on the request. Then the
    mean reward of an arm says nothing of the requests that it was chosen for: regret is to be measured by
    the rewards that came.
    """

    contextual = False

    def __init__(
        self, exits: npt.NDArray[np.integer], players: Sequence[Any], delay: int = 0
    ) -> None:
        self.exits, self._players = exits, players
        self._delay = check_whole("delay", delay, 0)
        self._late: list[deque[Feedback]] = [deque() for _ in players]

    @abstractmethod
    def serve(self, player: Any, block: Block, r: int) -> Iterator[tuple[int, Feedback]]:
        """Yield the arm of each request of repetition r, and its feedback, None where none comes."""

    def play(self, block: Block) -> Arms:
        """Return the arms of a block of rounds, (rounds, R); blocks come in order."""
        out = np.zeros(block.row.shape, dtype=np.int16)  # without players, always the smallest
        for r, (player, late) in enumerate(zip(self._players, self._late, strict=True)):
            arms, learn, delay = [], player.learn, self._delay
            for arm, feedback in self.serve(player, block, r):
                arms.append(arm)
                if delay:
                    late.append(feedback)
                    feedback = late.popleft() if len(late) > delay else None
                if feedback is not None:
                    learn(*feedback)
            out[:, r] = arms
        return out


class BudgetPlayer(SimulatedPlayer):
    """The budget controller on a family, whose policy's costs scale what requests cost, as in `Online`.

    What a request cost needs no label, and comes for every one. Without a rule: a fixed level, the first.
    """

    def __init__(
        self, rule: Controller | None, family: PolicyFamily, seen: Outcomes, repetitions: int,
        delay: int = 0,
    ) -> None:  # fmt: skip
        players, costs = [], family.policy.costs
        if rule is not None:
            rule.check_family(family)
            players = [rule.player(family.arms) for _ in range(repetitions)]
            self._cost = (seen.cost - costs[0]) / float(costs[-1] - costs[0])
        super().__init__(family.exits(seen.scores), players, delay)

    def serve(self, player: Any, block: Block, r: int) -> Iterator[tuple[int, Feedback]]:
        """Yield levels; see `SimulatedPlayer.serve`."""
        rows = block.row[:, r]
        for exits, cost in zip(self.exits[rows], self._cost[rows].tolist(), strict=True):
            arm = player.choose()
            yield arm, (cost[exits[arm]],)


class BanditPlayer(SimulatedPlayer):
    """A bandit over the arms of a table of exits (n, A).

    `reveal` says whose rewards feedback shows. ``smaller``: also those of all smaller arms, which
    would have left no later: side information. ``all``: of larger arms too, where the sample went far
    enough; whether it did depends on the sample, so that this is biased unless weighted, as bandits
    that draw do.
    """

    def __init__(
        self, bandit: Bandit, seen: Outcomes, exits: npt.NDArray[np.integer], requests: Requests,
        reveal: str = "smaller", delay: int = 0,
    ) -> None:  # fmt: skip
        check_nested(reveal, bool((np.diff(exits, axis=1) >= 0).all()))
        arms, (low, high) = exits.shape[1], requests.overhead
        super().__init__(exits, requests.players(bandit, arms), delay)
        self._reveal, self._draws = reveal, bandit.draws
        self._least, most = reward_range(seen.reward, seen.load.tolist(), requests.overhead)
        self._width = max(most - self._least, 1e-12)
        rows = np.arange(len(exits))[:, None]
        self._gain, self._load = seen.gain[rows, exits], seen.load[exits]
        self._reward = None if high > low else self._scaled(self._gain, self._load, low)
        # The smallest arm that leaves where arm a does: what is known together.
        new = np.diff(exits, axis=1, prepend=-1) != 0
        self._start = np.maximum.accumulate(np.where(new, np.arange(arms), 0), axis=1)

    def _scaled(self, gain: Floats, load: Floats, overhead: Any) -> Floats:
        return (gain - overhead * load - self._least) / self._width

    def _rewards(self, rows: Ints, overhead: Floats) -> list[list[float]]:
        if self._reward is not None:
            return self._reward[rows].tolist()
        return self._scaled(self._gain[rows], self._load[rows], overhead[:, None]).tolist()

    def serve(self, player: Any, block: Block, r: int) -> Iterator[tuple[int, Feedback]]:
        """Yield arms and what they and others would have earned; see `SimulatedPlayer.serve`."""
        rows, reveal, choose = block.row[:, r], self._reveal, player.choose
        came, rewards = block.arrives[:, r].tolist(), self._rewards(rows, block.overhead[:, r])
        if reveal == "smaller" and not self._draws:
            for arrives, reward in zip(came, rewards, strict=True):
                arm = choose()
                yield arm, (0, arm, reward) if arrives else None
            return
        starts, exits = self._start[rows].tolist(), self.exits[rows]
        for j, reward in enumerate(rewards):
            arm = choose()
            first, last = (arm, arm) if reveal == "played" else (0, arm)
            if reveal == "all":
                last = int((exits[j] <= exits[j, arm]).sum()) - 1
            chance = player.chances and reveal_chances(player.chances, reveal, starts[j])
            yield arm, (first, last, reward, chance) if came[j] else None


@dataclass(slots=True)
class _Shown:
    """A request of a simulation, as rules by exit see it."""

    arm: int
    confidences: list[float]
    predictions: list[int]
    exit: int = 0


class ExitPlayer(SimulatedPlayer):
    """A rule that says at each exit whether to leave: its arms are exits, or split layers.

    What an exit is worth is its gain by the reading of the outcomes less its share of the overhead, so
    that the sum of what LinUCB learns from is the reward by which simulations measure. It is
    contextual: a pseudo-regret by the means of its arms would be wrong. SplitEE learns from its own
    reward; what simulations tell of it, rewards and costs, is by the exit it leaves at: a sample sent
    on pays for the last exit there, not for the layer it was split at and for sending it.
    """

    def __init__(self, rule: ExitRule, seen: Outcomes, requests: Requests, delay: int = 0) -> None:
        exits = seen.cost.shape[1]
        super().__init__(rule.exits(seen.confidence), requests.players(rule, exits), delay)
        self._seen, self._last, self.contextual = seen, exits - 1, rule.contextual

    def serve(self, player: Any, block: Block, r: int) -> Iterator[tuple[int, Feedback]]:
        """Yield exits or split layers, and what was shown; see `SimulatedPlayer.serve`."""
        rows, seen, leaves, last = block.row[:, r], self._seen, player.leaves, self._last
        worth = (seen.gain[rows] - block.overhead[:, [r]] * seen.load).tolist()
        confidences, predictions = seen.confidence[rows].tolist(), seen.prediction[rows].tolist()
        exits, came = self.exits[rows].tolist(), block.arrives[:, r].tolist()
        for j, arrives in enumerate(came):
            shown = _Shown(player.choose(), confidences[j], predictions[j])
            if self.contextual:
                while shown.exit < last and not leaves(shown, shown.exit):
                    shown.exit += 1
                shown.arm = shown.exit
            else:  # known beforehand
                shown.exit = exits[j][shown.arm]
            yield shown.arm, (shown, worth[j][: shown.exit + 1]) if arrives else None
