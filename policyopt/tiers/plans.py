"""Plans: which tier runs which stage, which exits are kept, and what leaving at each of them costs.

The cost of leaving at exit k is the sum along its way: stages at their tier, each link that is crossed
before the stage that needs it, and the answer's way back. With leaving probabilities these are the edge
weights of the graph of Pacheco & Couto (ISCC 2020, arXiv:2005.04099), whose shortest path is the best cut;
cuts are nested here as there: once handed on, a sample is not handed back but for its answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from math import comb

import numpy as np

from policyopt.runtime.errors import input_error
from policyopt.runtime.typing import Floats
from policyopt.table import Table
from policyopt.tiers.describe import Tiers

MOST_CUTS = 20_000


@dataclass(frozen=True)
class Plan:
    """Where each stage runs, and the exits that are kept.

    Attributes
    ----------
    kept : tuple of int
        Exits, ascending; stages after the last one are not run.
    tier : tuple of int
        Place among the tiers of stage 0, 1, ... up to the last kept exit's; never falls.

    Examples
    --------
    >>> Plan((0, 2), (0, 0, 1)).text(["device", "cloud"])
    'device 0-1, cloud 2; exits 0 2'
    """

    kept: tuple[int, ...]
    tier: tuple[int, ...]

    def stages(self, tier: int) -> tuple[int, ...]:
        """Return the stages that a tier runs."""
        return tuple(j for j, t in enumerate(self.tier) if t == tier)

    def exits(self, tier: int) -> tuple[int, ...]:
        """Return the kept exits of a tier."""
        return tuple(k for k in self.kept if self.tier[k] == tier)

    def text(self, names: Sequence[str]) -> str:
        """Return the plan in words."""
        parts = []
        for t, name in enumerate(names):
            stages = self.stages(t)
            if stages:
                last = "" if len(stages) == 1 else f"-{stages[-1]}"
                parts.append(f"{name} {stages[0]}{last}")
        return f"{', '.join(parts)}; exits {' '.join(map(str, self.kept))}"


def cuts(tiers: Tiers, kept: tuple[int, ...], cascade: bool) -> list[Plan]:
    """Return all plans that keep these exits.

    Of a cascade only the kept models run, wherever the others stand: cuts between them are one.

    Raises
    ------
    InputError
        More than 20,000 of them.

    Examples
    --------
    >>> from policyopt.tiers.describe import Link, Tier
    >>> tiers = Tiers((Tier("device", 2.0), Tier("cloud", 0.1)), (Link(8.0),), 1000)
    >>> [plan.tier for plan in cuts(tiers, (0, 1), cascade=False)]
    [(0, 0), (0, 1), (1, 1)]
    """
    last, count = kept[-1] + 1, len(tiers.tiers)
    run = kept if cascade else tuple(range(last))
    if comb(len(run) + count - 1, count - 1) > MOST_CUTS:
        raise input_error(
            "tiers", f"such that there are at most {MOST_CUTS:,} ways to cut the model",
            f"{count} tiers for {len(run)} stages", "Leave out tiers, or import fewer exits.",
        )  # fmt: skip
    found = []
    for chosen in combinations_with_replacement(range(count), len(run)):
        limits = (tier.most_stages for tier in tiers.tiers)
        if any(m is not None and chosen.count(t) > m for t, m in enumerate(limits)):
            continue
        # Models that are jumped stand with the next one that runs.
        places = np.searchsorted(run, np.arange(last))
        found.append(Plan(kept, tuple(chosen[i] for i in places)))
    return found


def leaving_costs(tiers: Tiers, plan: Plan, objective: str, table: Table) -> Floats:
    """Return what leaving at each kept exit costs under a plan, (len(kept),) or (N, len(kept)).

    Parameters
    ----------
    tiers : Tiers
    plan : Plan
    objective : {"latency", "energy", "price"}
    table : Table
        Of all the model's exits, with the cache's own cost.

    Returns
    -------
    ndarray
        Never falls from exit to exit; in ms, mJ or the currency.
    """
    return next(costs_of([plan], tiers, objective, table))


def costs_of(plans: Sequence[Plan], tiers: Tiers, objective: str, table: Table) -> Iterator[Floats]:
    """Yield the leaving costs of each plan, what they have in common computed once."""
    amounts = np.diff(table.costs, axis=-1, prepend=0.0)
    work = [tier.work(objective, amounts) for tier in tiers.tiers]
    spared = 1.0 - np.array(tiers.head_share or (0.0,) * table.exits)
    # onward[j, t]: from the first tier to tier t with what stage j reads.
    onward, back = np.zeros((table.exits, len(work))), np.zeros(len(work))
    for j in range(table.exits):
        whole = j == 0 or not tiers.cut_bytes
        size = (tiers.input_bytes if whole else tiers.cut_bytes[j - 1]) + tiers.message_bytes
        onward[j, 1:] = np.cumsum([link.carry(objective, size) for link in tiers.links])
    if tiers.answer_bytes is not None:
        returned = [link.carry(objective, tiers.answer_bytes, back=True) for link in tiers.links]
        back[1:] = np.cumsum(returned)
    for plan in plans:
        kept, total, at, out = set(plan.kept), 0.0, 0, []
        for j, t in enumerate(plan.tier):
            if j in kept or not table.cascade:
                total = total + onward[j, t] - onward[j, at]
                total = total + work[t][..., j] * (1.0 if j in kept else spared[j])
                at = t
            if j in kept:
                out.append(total + back[t])
        costs = np.stack(out, axis=-1)
        # The same sums in another order may differ in their last digit: never let that be a fall.
        yield np.maximum.accumulate(costs, axis=-1)


def plan_table(tiers: Tiers, plan: Plan, objective: str, table: Table) -> Table:
    """Return the rows as a model of the kept exits whose cost is what leaving there costs.

    A policy's own arithmetic is counted at the rate of the slowest tier that holds a kept exit.
    """
    amounts = np.atleast_2d(np.diff(table.costs, axis=-1, prepend=0.0)).mean(axis=0)
    used = {plan.tier[k] for k in plan.kept}
    whole = max(float(amounts.sum()), 1e-300)
    rate = max(float(tiers.tiers[t].work(objective, amounts).sum()) / whole for t in used)
    return replace(
        table.keep_exits(plan.kept),
        costs=leaving_costs(tiers, plan, objective, table),
        unit=tiers.unit_of(objective),
        cost_name=objective,
        cascade=False,
        rate=table.rate * rate,
    )
