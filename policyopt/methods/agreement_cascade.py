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

import numpy as np

from policyopt.methods.base import Fitted, Method, check_exits, conclude
from policyopt.methods.held_out import outputs_of, own_costs
from policyopt.methods.seen import thinned
from policyopt.methods.settings import check_choice, check_number
from policyopt.methods.space import Choice, Domain, Integer
from policyopt.runtime.errors import InputError
from policyopt.runtime.policy import NEVER
from policyopt.runtime.scores import score_table
from policyopt.runtime.scores.agreement import Agreement
from policyopt.table import Table
from policyopt.thresholds import joint
from policyopt.thresholds.problem import Floats, Problem, Solution

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

    Examples
    --------
    >>> AgreementCascade(tiers=3)
    AgreementCascade(tiers=3, vote='share')
    """

    tiers: int = 2
    vote: str = "share"

    def __post_init__(self) -> None:
        check_number("tiers", self.tiers, above=0, whole=True)
        check_choice("vote", self.vote, VOTES)

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {"tiers": Integer(2, 4), "vote": Choice(VOTES)}

    def needs(self) -> frozenset[str]:
        """Probabilities of a class that others voted for, where they are asked for."""
        return Agreement(1, int(self.vote == "probability")).needs

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Choose thresholds at the ends of tiers for each budget; see `Method.propose`."""
        if self.lacks(table):
            raise InputError(
                "'vote' must be 'share' where only records are kept. Got 'probability'. "
                "Import full logits or probabilities, or leave it out."
            )
        check_exits(table)
        rule = Agreement(self.tiers, int(self.vote == "probability"))
        if rule.soft:
            table = thinned(table, seed)
        outputs = outputs_of(table) if rule.soft else table.statistics.outputs()
        costs = table.costs + own_costs(rule, table)
        problem = Problem(score_table(rule, outputs), table.correct, costs, table.unit)
        ends = gates(table.exits, self.tiers)
        small = Problem(
            problem.scores[:, ends], problem.value[:, ends], costs[..., ends], table.unit
        )
        return [
            conclude(self, "agreement_cascade", rule, table, problem, solution, budget, seed)
            for budget, found in zip(
                budgets, joint.solve_path(small, budgets, mix=True), strict=True
            )
            for solution in [_spread(found, ends, table.exits)]
        ]


def gates(exits: int, size: int) -> list[int]:
    """Return the exits at which samples may leave: 0, the ends of tiers, the last.

    Examples
    --------
    >>> gates(5, 2), gates(4, 2), gates(3, 1)
    ([0, 1, 3, 4], [0, 1, 3], [0, 1, 2])
    """
    return sorted({0, *range(size - 1, exits, size), exits - 1})


def _spread(found: Solution, ends: list[int], exits: int) -> Solution:
    """Return a solution over the ends of tiers as one over all exits: never inside a tier."""

    def whole(thresholds: Floats) -> Floats:
        out = np.full(exits, NEVER)
        out[ends[:-1]] = thresholds
        return out[:-1]

    other = None if found.other is None else whole(found.other)
    return Solution(whole(found.thresholds), other, found.share)
