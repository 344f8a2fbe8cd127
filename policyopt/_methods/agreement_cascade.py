"""Agreement-based cascading: Kolawole et al., ABC, TMLR 2025, arXiv:2407.02348: tiers are ensembles.

Exits are called tier by tier, all of a tier each time; at its end a sample leaves if the share of the
members that vote for the leading class reaches the tier's threshold (their vote-based deferral rule; the
released code's ``majority_count / members >= threshold``), or the mean probability that the members give
to that class does (their score-based rule, for models whose probabilities can be seen).

Departures: the answer is that of the tier's last exit, not the majority's; they differ only where a tier
of three or more leaves against its last member. Members run one after the other and are all paid for.
Thresholds, which the paper sets by hand or on held-out rows, come from the joint search at the budget,
and what votes cannot divide is divided by a coin. Budgets under the cost of the first tier are met by
sending the coin's share home at exit 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._methods.base import Method, own_costs
from policyopt._methods.exit_batch import outputs_of, subsample_outputs
from policyopt._methods.fitted import Draft
from policyopt._methods.settings import COUNT, Choice, Integer
from policyopt._table import Table
from policyopt._thresholds.joint import solve_joint
from policyopt._thresholds.problem import Problem, Solution
from policyopt.runtime._errors import InputError
from policyopt.runtime._policy import NEVER
from policyopt.runtime._scores import Agreement, score_table
from policyopt.runtime._typing import Floats

VOTES = ("share", "probability")


@dataclass(frozen=True)
class AgreementCascade(Method):
    """Leave at the end of a tier whose members agree.

    Parameters
    ----------
    tiers : int
        Exits per tier, 1 or more; the last tier has what is left.
    vote : {"share", "probability"}
        Share of the members that vote for the leading class, or the mean probability they give it.
    """

    tiers: int = 2
    vote: str = "share"

    label = "agreement_cascade"
    allowed: ClassVar = {"tiers": COUNT, "vote": VOTES}
    tuned: ClassVar = {"tiers": Integer(2, 4), "vote": Choice(VOTES)}
    decides = True

    def needs(self) -> frozenset[str]:
        """Probabilities of a class that others voted for, where they are asked for."""
        return Agreement(1, int(self.vote == "probability")).needs

    def check(self, table: Table) -> None:
        """Refuse records where probabilities are asked for."""
        if self.lacks(table):
            raise InputError(
                "'vote' must be 'share' where only records are kept. Got 'probability'. "
                "Import full logits or probabilities, or leave it out."
            )
        super().check(table)

    def pose(self, table: Table, seed: int) -> Draft:
        """Count the votes."""
        rule = Agreement(self.tiers, int(self.vote == "probability"))
        if rule.soft:
            table = subsample_outputs(table, seed)
        outputs = outputs_of(table) if rule.soft else table.statistics.outputs()
        costs = table.costs + own_costs(rule, table)
        scores = score_table(rule, outputs)
        return Draft(rule, table, Problem(scores, table.correct, costs, table.unit))

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        """Choose thresholds at the ends of tiers for each budget."""
        ends = gates(problem.exits, self.tiers)
        scores, value = problem.scores[:, ends], problem.value[:, ends]
        small = Problem(scores, value, problem.costs[..., ends], problem.unit)
        found = solve_joint(small, budgets, mix=True)
        return [_spread(solution, ends, problem.exits) for solution in found]


def gates(exits: int, size: int) -> list[int]:
    """Return the exits at which samples may leave: 0, the ends of tiers, the last."""
    return sorted({0, *range(size - 1, exits, size), exits - 1})


def _spread(found: Solution, ends: list[int], exits: int) -> Solution:
    """Return a solution over the ends of tiers as one over all exits: never inside a tier."""

    def whole(thresholds: Floats) -> Floats:
        out = np.full(exits, NEVER)
        out[ends[:-1]] = thresholds
        return out[:-1]

    other = None if found.other is None else whole(found.other)
    return Solution(whole(found.thresholds), other, found.share)
