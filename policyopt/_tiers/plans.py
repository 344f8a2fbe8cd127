"""Plans: which tier runs which stage, which exits are kept; what leaving there costs, and what rows come to.

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
from typing import Any

import numpy as np

from policyopt._intervals import bootstrap_means, interval, with_interval
from policyopt._methods.baselines import Always, standalone
from policyopt._replay import replay
from policyopt._table import Table
from policyopt._tiers.description import OBJECTIVES, Tiers
from policyopt.runtime._errors import input_error
from policyopt.runtime._policy import Policy
from policyopt.runtime._typing import Floats

MOST_CUTS = 20_000


@dataclass(frozen=True)
class Plan:
    """Where each stage runs, and the exits that are kept.

    >>> Plan((0, 2), (0, 0, 1)).text(["device", "cloud"])
    'device 0-1, cloud 2; exits 0 2'
    """

    kept: tuple[int, ...]  # exits, ascending; stages after the last one are not run
    tier: tuple[int, ...]  # place among the tiers of stage 0, 1, ...; never falls

    def stages(self, tier: int) -> tuple[int, ...]:
        """Return the stages that a tier runs."""
        return tuple(j for j, t in enumerate(self.tier) if t == tier)

    def exits(self, tier: int) -> tuple[int, ...]:
        """Return the kept exits of a tier."""
        return tuple(k for k in self.kept if self.tier[k] == tier)

    def ending(self, kept: tuple[int, ...]) -> Plan:
        """Return the plan with fewer exits, and no stage behind the last of them."""
        return Plan(kept, self.tier[: kept[-1] + 1])

    def text(self, names: Sequence[str]) -> str:
        """Return the plan in words."""
        parts = []
        for t, name in enumerate(names):
            if stages := self.stages(t):
                last = "" if len(stages) == 1 else f"-{stages[-1]}"
                parts.append(f"{name} {stages[0]}{last}")
        return f"{', '.join(parts)}; exits {' '.join(map(str, self.kept))}"


def cuts(tiers: Tiers, kept: tuple[int, ...], cascade: bool) -> list[Plan]:
    """Return all plans, at most 20,000, that keep these exits; of a cascade only the kept models run."""
    last, count = kept[-1] + 1, len(tiers.tiers)
    run = kept if cascade else tuple(range(last))
    if comb(len(run) + count - 1, count - 1) > MOST_CUTS:
        allowed = f"such that there are at most {MOST_CUTS:,} ways to cut the model"
        got = f"{count} tiers for {len(run)} stages"
        raise input_error("tiers", allowed, got, "Leave out tiers, or import fewer exits.")
    # Models that are jumped stand with the next one that runs.
    places = np.searchsorted(run, np.arange(last))
    room = [len(run) if t.most_stages is None else t.most_stages for t in tiers.tiers]
    return [
        Plan(kept, tuple(chosen[i] for i in places))
        for chosen in combinations_with_replacement(range(count), len(run))
        if all(chosen.count(t) <= most for t, most in enumerate(room))
    ]


def leaving_costs(tiers: Tiers, plan: Plan, objective: str, table: Table) -> Floats:
    """Return what leaving at each kept exit costs, (len(kept),) or (N, len(kept)), in ms, mJ or the currency."""
    return next(costs_of([plan], tiers, objective, table))


def costs_of(plans: Sequence[Plan], tiers: Tiers, objective: str, table: Table) -> Iterator[Floats]:
    """Yield the leaving costs of each plan, what they have in common computed once."""
    amounts = np.diff(table.costs, axis=-1, prepend=0.0)
    work = [tier.work(objective, amounts) for tier in tiers.tiers]
    spared = 1.0 - head_share(tiers, table)
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
                total = total + work[t][..., j] * (1.0 if j in kept else spared[..., j])
                at = t
            if j in kept:
                out.append(total + back[t])
        costs = np.stack(out, axis=-1)
        # The same sums in another order may differ in their last digit: never let that be a fall.
        yield np.maximum.accumulate(costs, axis=-1)


def head_share(tiers: Tiers, table: Table) -> Floats:
    """Return what share of each stage's cost its head is, (K,) or (N, K): as described, else by the cache."""
    if tiers.head_share or table.heads is None:
        return np.array(tiers.head_share or (0.0,) * table.exits)
    alone = np.diff(table.costs, axis=-1, prepend=0.0)
    return np.minimum(table.heads / np.where(alone > 0, alone, np.inf), 1.0)


def plan_table(tiers: Tiers, plan: Plan, objective: str, table: Table) -> Table:
    """Return the rows as a model of the kept exits; own arithmetic is counted at the slowest used tier's rate."""
    amounts = np.atleast_2d(np.diff(table.costs, axis=-1, prepend=0.0)).mean(axis=0)
    used = {plan.tier[k] for k in plan.kept}
    whole = max(float(amounts.sum()), 1e-300)
    rate = max(float(tiers.tiers[t].work(objective, amounts).sum()) / whole for t in used)
    return replace(
        table.keep_exits(plan.kept),
        costs=leaving_costs(tiers, plan, objective, table),
        unit=tiers.unit_of(objective),
        cost_name=f"plan {objective}",  # no cost of the cache, whatever that has
        cascade=False,
        rate=table.rate * rate,
    )


def outcome(
    tiers: Tiers, plan: Plan, policy: Policy, table: Table, objectives: Sequence[str] = OBJECTIVES
) -> tuple[Floats, dict[str, Floats]]:
    """Replay a plan's policy: what each answer is worth, and what it costs per objective, (N,) each."""
    first = objectives[0]
    done = replay(policy, plan_table(tiers, plan, first, table))
    at = np.searchsorted(plan.kept, done.exit)
    paid = {first: done.cost}
    for name in objectives[1:]:
        costs = np.broadcast_to(leaving_costs(tiers, plan, name, table), (len(at), len(plan.kept)))
        paid[name] = np.take_along_axis(costs, at[:, None], axis=1)[:, 0]
    return done.quality, paid


def summary(
    tiers: Tiers, plan: Plan, policy: Policy, table: Table, objective: str, seed: int = 0
) -> dict[str, Any]:
    """Return quality and every objective on rows that chose nothing, with 95 % intervals and shares per tier."""
    order = (objective, *(name for name in OBJECTIVES if name != objective))
    correct, paid = outcome(tiers, plan, policy, table, order)
    columns = np.stack([correct, *(paid[name] for name in OBJECTIVES)], axis=1)
    low, high = interval(bootstrap_means(columns, np.random.default_rng(seed), group=table.group))
    exits = replay(policy, plan_table(tiers, plan, objective, table)).exit
    where = np.array(plan.tier)[exits]
    record: dict[str, Any] = {
        "plan": plan.text([tier.name for tier in tiers.tiers]),
        "kept": list(plan.kept),
        "tiers": [tiers.tiers[t].name for t in plan.tier],
        "tier_share": [float((where == t).mean()) for t in range(len(tiers.tiers))],
        "rows": len(table),
    }
    for i, name in enumerate(("quality", *OBJECTIVES)):
        ends = float(low[i]), float(high[i])
        record |= with_interval(name, float(columns[:, i].mean()), *ends)
    for end in ("", "_low", "_high"):
        record[f"accuracy{end}"] = None if table.graded else record[f"quality{end}"]
    for name in OBJECTIVES:
        record[f"{name}_unit"] = tiers.unit_of(name)
    record["p95"] = float(np.quantile(paid[objective], 0.95, method="inverted_cdf"))
    record["worst"] = float(paid[objective].max())
    return record


def references(
    tiers: Tiers, table: Table, objective: str, seed: int = 0
) -> list[tuple[Plan, Policy]]:
    """Return what is done without a plan: the full model on each tier that can hold it, no early exit."""
    last, found = table.exits - 1, []
    for t, tier in enumerate(tiers.tiers):
        needed = 1 if table.cascade else table.exits
        if tier.most_stages is None or tier.most_stages >= needed:
            plan = Plan((last,), (t,) * table.exits)
            small = plan_table(tiers, plan, objective, table)
            cost = float(small.mean_costs[0])
            found.append((plan, standalone(Always(0), small, 0, cost, seed).policy))
    return found
