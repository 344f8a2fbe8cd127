"""Routing policies in exports: golden rows, what runtimes did with them, and decisions as tables and graphs.

The Python file runs the runtime's own code. ONNX and C read one graph in which the standing is a number: powers and
weights are rows of tables over the columns of all models, 0 where a model was not called.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from policyopt._cache.data import ExitData
from policyopt._table import Tables
from policyopt.runtime._checks import check_seed
from policyopt.runtime._errors import input_error
from policyopt.runtime._outputs import LOWEST, with_log_prob
from policyopt.runtime._routing import _EDGE, GENERAL, RoutingPolicy, Standing
from policyopt.runtime._typing import Array, Floats, Ints

from .golden import (
    BYTES,
    FEW,
    JUMP,
    Golden,
    LeftOut,
    Walk,
    given_output,
    joined,
    part_of,
    row_bytes,
    steps_of,
)
from .graph import ExitGraph, Node, Pool
from .rounding import ULPS, UNIT
from .samples import candidates
from .symbolic import Symbol


def walked(policy: RoutingPolicy, golden: Golden) -> tuple[Walk, Floats, Floats]:
    """Return what numpy does in a batch; how large sums of gains get, (n, T); how near rounding is to change it, (n,)."""
    n, active = len(golden), policy.active_exits
    walk, scale, near = Walk.empty(n, steps_of(policy)), np.ones((n, steps_of(policy))), np.full(n, np.inf)
    seen = {
        m: policy._look(m, given_output(policy, given), n)
        for m, given in zip(active, golden.inputs, strict=True)
    }

    def told(rows: Ints, one: Standing, columns: Floats, found: Any) -> None:
        at = len(one.called) - 1
        walk.model[rows, at], walk.prediction[rows, at] = found.last[rows], found.prediction[rows]
        if one.answerer < 0:  # two answers as good as each other
            near[rows[columns[:, 2] <= JUMP]] = 0.0
        if one.actions:
            gains, size = one.gains(columns), np.abs(one.weights)
            size = size[:, 0] + np.abs(columns) @ size[:, 1:].T
            best, most = gains.max(axis=1), np.maximum(size.max(axis=1), 1.0)
            # To 0, and to the next best where one is asked.
            gap = np.abs(best)
            if len(one.actions) > 1:
                gap = np.where(best > 0, np.minimum(gap, best - np.sort(gains, axis=1)[:, -2]), gap)
            walk.gain[rows, at], scale[rows, at] = best, most
            near[rows] = np.minimum(near[rows], gap / (most * UNIT))

    policy.follow(seen, golden.sample, costs_of(policy, golden), told)
    return walk, scale, near


def costs_of(policy: RoutingPolicy, golden: Golden) -> Floats:
    """Return what each call of each golden sample costs, (n, K)."""
    costs = np.tile(policy.costs, (len(golden), 1))
    for m, given in zip(policy.active_exits, golden.inputs, strict=True):
        costs[:, m] = given.get("cost", costs[:, m])
    return costs


def golden_routes(
    policy: RoutingPolicy, data: ExitData | None = None, split: str = "test", rows: int = 512, seed: int = 0
) -> Golden:  # fmt: skip
    """Return golden vectors of a routing policy, half of them those nearest to deciding otherwise."""
    if rows < 1:
        raise input_error("rows", "1 or more", rows, "E.g. 512.")
    rng = np.random.default_rng(check_seed(seed))
    graphs = [ExitGraph(at, m, {}, (), {}, ()) for at, m in enumerate(policy.active_exits)]
    room = max(BYTES // row_bytes(policy, graphs), FEW)
    paid = np.asarray(policy.costs) if data is None else Tables(data).get(split).standalone_costs
    pool, distance, left, of = None, np.zeros(0), 0, 0
    for inputs, sample in candidates(policy, graphs, data, split, room, rng):
        if policy.needs_costs:
            per_row = paid.ndim == 2
            spread = 1.0 if data is not None else rng.gamma(2.0, 0.5, (len(sample), len(paid)))
            costs = (paid[sample] if per_row else paid) * np.broadcast_to(spread, (len(sample), policy.model_exits))
            for m, given in zip(policy.active_exits, inputs, strict=True):
                given["cost"] = np.ascontiguousarray(costs[:, m])
        found = Golden(inputs, sample, Walk.empty(len(sample), 1))
        walk, _, near = walked(policy, found)
        found, sure = replace(found, expected=walk), np.flatnonzero(near >= ULPS["c"])
        left, of = left + len(near) - len(sure), of + len(near)
        found, near = part_of(found, sure), near[sure]
        pool, distance = (found, near) if pool is None else (joined(pool, found), np.append(distance, near))
        if len(pool) > (most := min(rows, room)):
            close = np.argsort(distance, kind="stable")[: most // 2]
            others = rng.permutation(np.setdiff1d(np.arange(len(pool)), close))[: most - len(close)]
            kept = np.sort(np.append(close, others))
            pool, distance = part_of(pool, kept), distance[kept]
    if pool is None or not len(pool):
        raise input_error("golden rows", "some that rounding cannot change", "none", "Give more.")
    empty = part_of(pool, slice(0))
    return replace(pool, boundary=empty, left_out=LeftOut(left, of))


def run_steps(policy: Any, golden: Golden) -> Walk:
    """Take one sample after the other through a policy's `start` and `step`, or those of an exported file."""
    active = policy.active_exits
    walk = Walk.empty(len(golden), golden.expected.model.shape[1])
    for row, number in enumerate(golden.sample.tolist()):
        route, at = policy.start(number), 0
        while (m := route.next) is not None:
            given = {name: a[row] for name, a in golden.inputs[active.index(m)].items()}
            paid = {"cost": float(given.pop("cost"))} if "cost" in given else {}
            told = policy.step(given_output(policy, given), route, **paid)
            walk.model[row, at], walk.prediction[row, at], walk.gain[row, at] = m, told.prediction, told.gain
            at += 1
    return walk
