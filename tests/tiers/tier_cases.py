"""Random tiers and tables, and leaving costs by a walk along the way, one number at a time."""

from __future__ import annotations

import numpy as np
import synthetic

from policyopt._table import Tables
from policyopt._tiers.description import Link, Tier, Tiers


def table(seed, rows=240, exits=3, cascade=False, per_sample=False):
    rng = np.random.default_rng(seed)
    logits, labels = synthetic.outputs(rows, exits, 4, seed)
    costs = rng.uniform(0.5, 4.0, (rows, exits) if per_sample else exits)
    import policyopt as po

    kind = "standalone" if cascade else "cumulative"
    costs = costs if cascade else np.cumsum(costs, axis=-1)
    data = po.from_arrays(logits, labels, costs, unit="MMACs", cost_kind=kind, split={"fit": 1.0})
    return Tables(data).get("fit")


def tiers(seed, exits=3, count=3, cascade=False, answer=8.0):
    rng = np.random.default_rng(seed)
    speeds = np.sort(rng.uniform(0.05, 4.0, count))[::-1]
    rows = tuple(
        Tier(
            f"tier{t}", float(speeds[t]), mJ_per_unit=float(rng.uniform(0, 3)),
            watts=float(rng.uniform(0, 2)), price_per_unit=float(rng.uniform(0, 1)),
            price_per_hour=float(rng.uniform(0, 5)),
        )
        for t in range(count)
    )  # fmt: skip
    links = tuple(
        Link(
            float(rng.uniform(1, 20)), float(rng.uniform(1, 20)), float(rng.uniform(0, 4)),
            float(rng.uniform(0, 2)), float(rng.uniform(0, 1)),
        )
        for _ in range(count - 1)
    )  # fmt: skip
    cut = () if cascade else tuple(float(b) for b in rng.uniform(100, 5000, exits - 1))
    heads = () if cascade else tuple(float(h) for h in rng.uniform(0, 0.3, exits))
    return Tiers(rows, links, 2000.0, cut, answer, 30.0, heads)


def walk(tiers, tier_of, kept, objective, amounts, cascade):
    """What leaving at each kept exit costs: stage after stage, link after link."""
    out, total, here = [], 0.0, 0
    for stage, tier in enumerate(tier_of):
        if cascade and stage not in kept:
            continue
        size = tiers.input_bytes if stage == 0 or cascade else tiers.cut_bytes[stage - 1]
        while here < tier:
            link = tiers.links[here]
            moved = size + tiers.message_bytes
            total += {
                "latency": link.round_trip_ms / 2 + moved * 8 / (link.megabits_per_second * 1000),
                "energy": moved / 1000 * link.mJ_per_kB,
                "price": moved / 1e9 * link.price_per_GB,
            }[objective]
            here += 1
        one = tiers.tiers[tier]
        ms = one.ms_per_unit * amounts[stage]
        spent = {
            "latency": ms,
            "energy": one.mJ_per_unit * amounts[stage] + one.watts * ms,
            "price": one.price_per_unit * amounts[stage] + one.price_per_hour * ms / 3_600_000,
        }[objective]
        if stage not in kept and tiers.head_share:
            spent *= 1 - tiers.head_share[stage]
        total += spent
        if stage in kept:
            home = 0.0
            if tiers.answer_bytes is not None:
                for link in tiers.links[:here]:
                    home += {
                        "latency": link.round_trip_ms / 2
                        + tiers.answer_bytes * 8 / (link.back_megabits_per_second * 1000),
                        "energy": tiers.answer_bytes / 1000 * link.mJ_per_kB,
                        "price": tiers.answer_bytes / 1e9 * link.price_per_GB,
                    }[objective]
            out.append(total + home)
    return out
