"""Players whose arms are exits: LinUCB (DEE), SplitEE and UEE-UCB in simulations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.online.outcomes import Outcomes
from policyopt.online.requests import Block, Requests
from policyopt.runtime.checks import check_whole
from policyopt.runtime.errors import input_error
from policyopt.runtime.online.linucb import LinUCB, contexts
from policyopt.runtime.online.splitee import SplitEE
from policyopt.runtime.online.uee_ucb import UEEUCB
from policyopt.runtime.typing import Floats, Ints

Arms = npt.NDArray[np.int16]


def static_exits(rows: int, exits: int) -> npt.NDArray[np.int16]:
    """Return the table of arms that each are one exit, whatever the row, (n, K).

    Examples
    --------
    >>> static_exits(2, 3)
    array([[0, 1, 2],
           [0, 1, 2]], dtype=int16)
    """
    return np.broadcast_to(np.arange(exits, dtype=np.int16), (rows, exits))


class RoundPlayer(ABC):
    """Plays round by round, all repetitions side by side; feedback comes `delay` rounds late.

    Attributes
    ----------
    exits : ndarray of shape (n, A)
        Exit of each row on each arm.
    contextual : bool
        Whether the arm depends on the request. If so the mean reward of an arm says nothing of the
        requests that it was chosen for: regret is to be measured by the rewards that came.
    """

    contextual = False

    def __init__(self, exits: npt.NDArray[np.integer], delay: int) -> None:
        self.exits, self._delay = exits, check_whole("delay", delay, 0)
        self._late: deque[tuple[Any, ...]] = deque()

    @abstractmethod
    def choose(self, row: Ints) -> Ints:
        """Return the arms for a request per repetition, (R,)."""

    @abstractmethod
    def learn(self, row: Ints, arm: Ints, arrives: npt.NDArray[np.bool_], overhead: Floats) -> None:
        """Take in the feedback of a request per repetition, where it arrives; all (R, ...)."""

    def play(self, block: Block) -> Arms:
        """Return the arms of a block of rounds, (rounds, R); blocks come in order."""
        out = np.empty(block.row.shape, dtype=np.int16)
        for j, row in enumerate(block.row):
            out[j] = arm = self.choose(row)
            item: tuple[Any, ...] = (row, arm, block.arrives[j], block.overhead[j])
            if self._delay:
                self._late.append(item)
                if len(self._late) <= self._delay:
                    continue
                item = self._late.popleft()
            self.learn(*item)
        return out


class LinUCBPlayer(RoundPlayer):
    """LinUCB (DEE): arm k is exit k, chosen by what the exits up to it have shown.

    What an exit is worth is its gain by the reading of the outcomes less its share of the overhead,
    so that the sum of what it learns from is the reward by which simulations measure. It is
    contextual (see `RoundPlayer`): a pseudo-regret by the means of its arms would be wrong.

    Parameters
    ----------
    rule : LinUCB
    seen : Outcomes
    requests : Requests
    delay : int
        Rounds until feedback comes.
    """

    contextual = True

    def __init__(self, rule: LinUCB, seen: Outcomes, requests: Requests, delay: int = 0) -> None:
        rows, exits = seen.cost.shape
        super().__init__(static_exits(rows, exits), delay)
        self._phi = contexts(seen.confidence, seen.prediction)
        self._gain, self._load = seen.gain, seen.load
        self._many = rule.many(exits, requests.repetitions)

    def choose(self, row: Ints) -> Ints:
        """Return the exits; see `RoundPlayer.choose`."""
        return self._many.choose(self._phi[:, row])

    def learn(self, row: Ints, arm: Ints, arrives: npt.NDArray[np.bool_], overhead: Floats) -> None:
        """Take in what the exits were worth; see `RoundPlayer.learn`."""
        worth = self._gain[row] - overhead[:, None] * self._load
        self._many.learn(self._phi[:, row], worth, arm, arrives)


class SplitEEPlayer(RoundPlayer):
    """SplitEE: arm i computes up to exit i, and leaves there or goes to the last exit.

    It learns from its own reward, by the confidences of the outcomes. What simulations tell of it,
    rewards and costs, is by the exit it leaves at: a sample sent on pays for the last exit there,
    not for the layer it was split at and for sending it.

    Parameters
    ----------
    rule : SplitEE
    seen : Outcomes
    requests : Requests
    delay : int
        Rounds until feedback comes.
    """

    def __init__(self, rule: SplitEE, seen: Outcomes, requests: Requests, delay: int = 0) -> None:
        exits = seen.cost.shape[1]
        if len(rule.layers) != exits:
            raise input_error(
                "layers", f"one per exit: {exits}", len(rule.layers), "Of the policy's path."
            )
        super().__init__(rule.exits(seen.confidence), delay)
        self._confidence = seen.confidence
        self._many = rule.many(requests.repetitions, requests.seed)

    def choose(self, row: Ints) -> Ints:
        """Return the split layers; see `RoundPlayer.choose`."""
        return self._many.choose()

    def learn(self, row: Ints, arm: Ints, arrives: npt.NDArray[np.bool_], overhead: Floats) -> None:
        """Take in the rewards that were seen; see `RoundPlayer.learn`."""
        self._many.learn(self._confidence[row], arm, arrives)


class UEEPlayer(RoundPlayer):
    """UEE-UCB: arm k is exit k; it learns from the predictions of the exits up to it, nothing else.

    Parameters
    ----------
    rule : UEEUCB
        Its costs in units of the error rate, e.g. an overhead times `Outcomes.load`.
    seen : Outcomes
    requests : Requests
    delay : int
        Rounds until feedback comes.
    """

    def __init__(self, rule: UEEUCB, seen: Outcomes, requests: Requests, delay: int = 0) -> None:
        rows, exits = seen.cost.shape
        if len(rule.costs) != exits:
            raise input_error(
                "costs", f"one per exit: {exits}", len(rule.costs), "Of the policy's path."
            )
        super().__init__(static_exits(rows, exits), delay)
        self._prediction = seen.prediction
        self._many = rule.many(requests.repetitions)

    def choose(self, row: Ints) -> Ints:
        """Return the exits; see `RoundPlayer.choose`."""
        return self._many.choose()

    def learn(self, row: Ints, arm: Ints, arrives: npt.NDArray[np.bool_], overhead: Floats) -> None:
        """Take in the predictions that were seen; see `RoundPlayer.learn`."""
        self._many.learn(self._prediction[row], arm, arrives)
