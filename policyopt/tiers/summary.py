"""What a plan comes to on rows: right or wrong, every objective, and what is done without a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from policyopt.intervals import bootstrap_means, interval
from policyopt.methods.always import Always, alone
from policyopt.replay import replay
from policyopt.runtime.policy import Policy
from policyopt.runtime.typing import Floats
from policyopt.table import Table
from policyopt.tiers.describe import OBJECTIVES, Tiers
from policyopt.tiers.plans import Plan, leaving_costs, plan_table


def outcome(
    tiers: Tiers, plan: Plan, policy: Policy, table: Table, objectives: Sequence[str] = OBJECTIVES
) -> tuple[Floats, dict[str, Floats]]:
    """Replay a plan's policy: whether each row is right, and what it costs per objective, (N,) each."""
    first = objectives[0]
    done = replay(policy, plan_table(tiers, plan, first, table))
    at = np.searchsorted(plan.kept, done.exit)
    paid = {first: done.cost}
    for name in objectives[1:]:
        costs = np.broadcast_to(leaving_costs(tiers, plan, name, table), (len(at), len(plan.kept)))
        paid[name] = np.take_along_axis(costs, at[:, None], axis=1)[:, 0]
    return done.correct, paid


def summary(
    tiers: Tiers, plan: Plan, policy: Policy, table: Table, objective: str, seed: int = 0
) -> dict[str, Any]:
    """Return accuracy and every objective on rows that chose nothing, with 95 % intervals.

    Means, and the objective's 95th percentile and worst row; the share of the rows that leave at
    each tier.
    """
    order = (objective, *(name for name in OBJECTIVES if name != objective))
    correct, paid = outcome(tiers, plan, policy, table, order)
    columns = np.stack([correct, *(paid[name] for name in OBJECTIVES)], axis=1)
    low, high = interval(bootstrap_means(columns, np.random.default_rng(seed)))
    exits = replay(policy, plan_table(tiers, plan, objective, table)).exit
    where = np.array(plan.tier)[exits]
    record: dict[str, Any] = {
        "plan": plan.text([tier.name for tier in tiers.tiers]),
        "kept": list(plan.kept),
        "tiers": [tiers.tiers[t].name for t in plan.tier],
        "tier_share": [float((where == t).mean()) for t in range(len(tiers.tiers))],
        "rows": len(table),
    }
    for i, name in enumerate(("accuracy", *OBJECTIVES)):
        record[name] = float(columns[:, i].mean())
        record[f"{name}_low"], record[f"{name}_high"] = float(low[i]), float(high[i])
    for name in OBJECTIVES:
        record[f"{name}_unit"] = tiers.unit_of(name)
    record["p95"] = float(np.quantile(paid[objective], 0.95, method="inverted_cdf"))
    record["worst"] = float(paid[objective].max())
    return record


def references(
    tiers: Tiers, table: Table, objective: str, seed: int = 0
) -> list[tuple[Plan, Policy]]:
    """Return what is done without a plan: the full model on each tier that can hold it, no early exit."""
    last = table.exits - 1
    found = []
    for t, tier in enumerate(tiers.tiers):
        if tier.most_stages is not None and tier.most_stages < (1 if table.cascade else last + 1):
            continue
        plan = Plan((last,), (t,) * (last + 1))
        small = plan_table(tiers, plan, objective, table)
        found.append((plan, alone(Always(0), small, 0, float(small.mean_costs[0]), seed).policy))
    return found
