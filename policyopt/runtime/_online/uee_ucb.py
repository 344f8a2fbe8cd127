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
from typing import Any

from .._bandits.base import Steering, setting
from .._bandits.saved_state import check_fields, check_list, count_list, refused
from .._checks import check_positive
from .feedback import Seen, ascending, check_prices


@dataclass(frozen=True)
class UEEUCB(Steering):
    """Finds the exit of the least cost plus error, by disagreements.

    Parameters
    ----------
    costs : tuple of K floats
        Of leaving at each exit, in units of the error rate: ascending.
    alpha : float
        Weight of exploration; the analysis of USS-UCB needs more than 1/2.
    """

    costs: tuple[float, ...]
    alpha: float = setting(0.51, check_positive)

    name = "uee_ucb"
    summary = "finds the one best exit from how often exits disagree"
    reference = (
        "UEE-UCB: one exit for all, found without labels from how exits disagree (2209.09480)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        costs = ascending("costs", self.costs, "ascending numbers")
        object.__setattr__(self, "costs", costs)

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> UEEPlayer:
        """Return a player of a model with so many exits; it draws nothing."""
        del seed, stream
        check_prices("costs", self.costs, arms)
        return UEEPlayer(self)


class UEEPlayer:
    """Rounds that `reached` each exit (K), and how often j and i < j disagreed: `differ[j][i]`."""

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

    def leaves(self, seen: Seen, at: int) -> bool:
        """Return whether to leave at exit `at`, not the last."""
        return at == seen.arm

    def learn(self, seen: Seen, worth: Sequence[float]) -> None:
        """Take in what the exits up to the one taken have predicted; no reward is needed."""
        del worth
        prediction = seen.predictions
        for j in range(seen.arm + 1):
            self.reached[j] += 1
            row, own = self.differ[j], prediction[j]
            for i in range(j):
                row[i] += prediction[i] != own

    def state(self) -> dict[str, Any]:
        """Return all that was learned, JSON-able."""
        differ = [list(row) for row in self.differ]
        return {"rounds": self.rounds, "reached": list(self.reached), "differ": differ}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, checked."""
        state = check_fields("state of uee_ucb", state, ("rounds", "reached", "differ"))
        exits, table = len(self.reached), state["differ"]
        reached = count_list("reached", state["reached"], exits, state["rounds"])
        if any(after > n for n, after in pairwise(reached)):
            raise refused("reached", "counts that never rise from exit to exit", reached)
        check_list("differ", table, exits, "lists")
        differ = [count_list("differ", row, j, reached[j]) for j, row in enumerate(table)]
        self.rounds, self.reached, self.differ = state["rounds"], reached, differ
