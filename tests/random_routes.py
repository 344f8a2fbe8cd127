"""Routing policies at random: any standings, orders, answers, costs and queries that hang together."""

from dataclasses import replace
from itertools import combinations

import numpy as np

from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._query import Query
from policyopt.runtime._routing import Arm, Ensemble, RoutingPolicy, Standing


def random_routing(seed, kind="logits", timed=False, arms=1, query=False, models=None, **more):
    rng = np.random.default_rng(seed)
    k = models or int(rng.integers(1, 6))
    classes = {"logit": 2, "probability": 2, "summary": int(rng.choice([0, 2, 5]))}
    temper = rng.uniform(0.5, 1.5, k)
    ensemble = Ensemble(
        np.stack([rng.normal(size=k), rng.uniform(0.2, 1.5, k)], axis=1),
        np.append(rng.uniform(0, 3, k - 1), 1.0), classes.get(kind, int(rng.integers(2, 7))), timed, temper,
        float(rng.uniform(3, 9)), rng.normal(size=(k, k % 3 + 1)), _query(rng, k) if query else None,
    )  # fmt: skip
    made = tuple(_arm(rng, ensemble, k, kind != "summary") for _ in range(arms))
    share = float(rng.uniform(0.2, 0.8)) if arms == 2 else 0.0
    return RoutingPolicy(made, share, int(rng.integers(100)), ensemble, "ms", kind, **more)


def random_family(seed, kind="logits", **more):
    """Return a family of four levels of three arms, the last of which explores."""
    policies = [random_routing(seed, kind, arms=2, models=4, **more) for _ in range(2)]
    (a, b), c = policies[0].arms, random_routing(seed + 1, kind, models=4, **more).arms[0]
    fits = replace(policies[1], arms=(a,)).ensemble  # of equal content
    sides = [((a,), 0.0), ((a, b), 0.3), ((b, c), 0.6), ((c,), 0.0)]
    levels = [
        replace(policies[0], arms=arms, share=share, provenance={"level": n, "told": 1})
        for n, (arms, share) in enumerate(sides)
    ]
    levels[2] = replace(levels[2], ensemble=fits)
    levels[3] = levels[3].exploring(0.5)
    return PolicyFamily(tuple(levels), [1.0, 1.5, 2.0, 3.0], provenance={"told": 1})


def _query(rng, k):
    center, axes, points = rng.normal(size=3), rng.normal(size=(2, 3)), rng.normal(size=(4, 2))
    weights = rng.normal(size=(k, 7))
    return Query(center=center, axes=axes, points=points, width=1.0, weights=weights)


def _arm(rng, ensemble, k, whole):
    members = sorted(rng.choice(k, rng.integers(min(k, 2), min(k, 4) + 1), replace=False).tolist())
    sets = [s for n in range(1, len(members) + 1) for s in combinations(members, n)]
    sets = [s for s in sets if len(s) == 1 or rng.random() < 0.8]
    standings = []
    for called in sets:
        rest = [m for m in members if m not in called and tuple(sorted((*called, m))) in sets]
        actions = tuple(rng.permutation(rest).tolist()) if rest else ()
        weights = rng.normal(size=(len(actions), ensemble.width(called) + 1)) * 0.1
        weights[:, 0] += 0.1
        answerer = int(rng.choice([-1, *called]))
        powers = rng.uniform(0, 1.2, len(called))
        several = whole and rng.random() < 0.5
        parts = rng.uniform(0, 1.2, len(called)) if several else np.empty(0)
        weights = weights if actions else np.empty((0, 0))
        standings.append(Standing(called, powers, answerer, actions, weights, parts))
    if ensemble.query is not None and rng.random() < 0.8:
        weights = rng.normal(size=(len(members), ensemble.width(()) + 1))
        standings.insert(0, Standing((), np.empty(0), -1, tuple(members), weights))
    return Arm(int(rng.choice(members)), tuple(standings))
