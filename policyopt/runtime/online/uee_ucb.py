"""UEE-UCB: one exit for all, found without labels from how exits disagree (2209.09480).

Hari Narayan, Hanawal & Bhardwaj, "Unsupervised Early Exit in DNNs with Multiple Exits" (AIMLSystems
2022), bring USS-UCB (Verma, Hanawal, Szepesvari & Saligrama, "Online Algorithm for Unsupervised
Sensor Selection", AISTATS 2019) to exits. An arm is an exit. The loss of exit i is c_i + error_i; no
error is ever seen, but playing exit i shows what exits 0 to i predict. Under strong dominance,
where an exit that is right is followed by exits that are right,

    error_i - error_j = P(prediction_i != prediction_j) = p_ij   for i < j,

so that exits compare by how often they disagree. After playing the last exit once, each round plays
the smallest exit i from which no later exit is worth its cost, for all that is known:

    c_j - c_i >= p_ij + sqrt(alpha ln t / N_j)   for all j > i,

p_ij the share of disagreements among the N_j rounds that reached exit j. Bounds are from above, so
that what is little known is played, deep exits first. It suffices that ``c_j - c_i > p_ij`` for the
best i and all j > i (weak dominance). Where exits overthink, or swap errors,
p_ij is larger than what going on gains, and the exit found is deeper than the best.

Taken from what is public of the two papers; their numbered equations were not at hand. Departures:
bounds are not clipped at 1, which changes no choice as long as costs differ by less than 1; t counts
requests, also those whose feedback is late or lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..bandits.parts.base import Bools, Ints
from ..bandits.parts.saved import checked
from ..checks import check_positive, check_whole, plain_fields
from ..errors import input_error
from ..parameters import numbers

_MOST = 2.0**53  # counts that a float holds exactly


@dataclass(frozen=True)
class UEEUCB:
    """Finds the exit of the least cost plus error, by disagreements.

    Parameters
    ----------
    costs : tuple of K floats
        Of leaving at each exit, in units of the error rate: ascending.
    alpha : float
        Weight of exploration; the analysis of USS-UCB needs more than 1/2.

    Examples
    --------
    >>> player = UEEUCB(costs=(0.0, 0.3)).one()
    >>> for _ in range(200):
    ...     exit = player.choose()
    ...     player.learn([4, 4][: exit + 1])
    >>> player.choose()  # the last exit never said otherwise
    0
    """

    costs: tuple[float, ...]
    alpha: float = 0.51

    name: ClassVar[str] = "uee_ucb"
    summary: ClassVar[str] = "finds the one best exit from how often exits disagree"

    def __post_init__(self) -> None:
        plain_fields(self)
        costs = tuple(numbers("costs", self.costs, 1).tolist())
        if not costs or list(costs) != sorted(costs):
            raise input_error("costs", "ascending numbers", list(costs), "One per exit.")
        object.__setattr__(self, "costs", costs)
        check_positive("alpha", self.alpha)

    def one(self) -> OneUEEUCB:
        """Return a player of one stream."""
        return OneUEEUCB(self)

    def many(self, streams: int) -> ManyUEEUCB:
        """Return a player of R streams."""
        return ManyUEEUCB(self, streams)


class OneUEEUCB:
    """Counts on one stream: rounds that reached each exit, and disagreements with exits before.

    Attributes
    ----------
    rounds : int
    reached : list of K int
    differ : list of K lists
        ``differ[j][i]``, i < j: how often exits i and j disagreed.
    """

    def __init__(self, rule: UEEUCB) -> None:
        exits = len(rule.costs)
        self.rule, self.rounds = rule, 0
        self.reached = [0] * exits
        self.differ = [[0] * j for j in range(exits)]

    def choose(self) -> int:
        """Return the exit for the next request: O(K^2)."""
        self.rounds += 1
        costs, reached, last = self.rule.costs, self.reached, len(self.reached) - 1
        if not reached[last]:
            return last
        clock = self.rule.alpha * math.log(self.rounds)
        bound = [math.sqrt(clock / n) for n in reached]
        for i in range(last):
            if all(
                costs[j] - costs[i] >= self.differ[j][i] / reached[j] + bound[j]
                for j in range(last, i, -1)
            ):
                return i
        return last

    def learn(self, prediction: Sequence[int]) -> None:
        """Take in what exits 0 to i have predicted, of a request that left at i."""
        if not 0 < len(prediction) <= len(self.reached):
            allowed = f"of 1 to {len(self.reached)} exits"
            raise input_error(
                "prediction", allowed, f"{len(prediction)}", "Those that were reached."
            )
        for j, own in enumerate(prediction):
            self.reached[j] += 1
            row = self.differ[j]
            for i in range(j):
                row[i] += prediction[i] != own

    def state(self) -> dict[str, Any]:
        """Return all that was learned, JSON-able."""
        differ = [list(row) for row in self.differ]
        return {"rounds": self.rounds, "reached": list(self.reached), "differ": differ}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, checked."""
        state = checked("state of uee_ucb", state, ("rounds", "reached", "differ"))
        check_whole("rounds", state["rounds"], 0)
        exits, table = len(self.reached), state["differ"]
        reached = _counts("reached", state["reached"], exits, state["rounds"])
        if any(after > n for n, after in pairwise(reached)):
            raise input_error(
                "reached", "counts that never rise from exit to exit", reached, "Start anew."
            )
        if not isinstance(table, list) or len(table) != exits:
            raise input_error("differ", f"{exits} lists", table, "Start anew.")
        differ = [_counts("differ", row, j, reached[j]) for j, row in enumerate(table)]
        self.rounds, self.reached, self.differ = state["rounds"], reached, differ


def _counts(name: str, row: Any, length: int, most: int) -> list[int]:
    """Return a saved list of whole numbers in [0, most], checked."""
    whole = isinstance(row, list) and all(type(x) is int and 0 <= x <= most for x in row)
    if not whole or len(row) != length or most > _MOST:
        raise input_error(name, f"{length} whole numbers from 0 to {most}", row, "Start anew.")
    return list(row)


class ManyUEEUCB:
    """Counts on R streams: `reached` (R, K) and `differ` (R, K, K), entry j, i as in `OneUEEUCB`."""

    def __init__(self, rule: UEEUCB, streams: int) -> None:
        check_whole("streams", streams)
        exits = len(rule.costs)
        self.rule, self.rounds = rule, 0
        self.reached = np.zeros((streams, exits))
        self.differ = np.zeros((streams, exits, exits))
        costs = np.asarray(rule.costs, dtype=np.float64).reshape(-1)
        self._dearer = np.subtract.outer(costs, costs)
        self._later = np.tri(exits, k=-1, dtype=bool)  # j > i

    def choose(self) -> Ints:
        """Return the exits for the next request of every stream, (R,)."""
        self.rounds += 1
        clock = self.rule.alpha * math.log(self.rounds)
        count = np.maximum(self.reached, 1.0)[:, :, None]  # 0 only before the last exit was seen
        short = self._dearer < self.differ / count + np.sqrt(clock / count)
        stop = ~(short & self._later).any(axis=1)  # for the last exit always
        first = stop.argmax(axis=1)
        return np.where(self.reached[:, -1] > 0, first, len(self.rule.costs) - 1)

    def learn(self, prediction: npt.NDArray[np.integer], taken: Ints, arrives: Bools) -> None:
        """Take in one request per stream.

        Parameters
        ----------
        prediction : ndarray of shape (R, K)
            Of all exits; those beyond the exit taken have no say.
        taken : ndarray of shape (R,)
        arrives : ndarray of shape (R,), bool
        """
        seen = (np.arange(prediction.shape[1]) <= taken[:, None]) & arrives[:, None]
        self.reached += seen
        other = prediction[:, :, None] != prediction[:, None, :]
        self.differ += other & seen[:, :, None] & self._later
