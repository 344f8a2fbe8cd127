"""Routing policies in exports: golden rows, and what runtimes did with them; the file runs the runtime's own code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from policyopt._cache.data import ExitData
from policyopt._table import Tables
from policyopt.runtime._checks import check_seed
from policyopt.runtime._errors import CheckError, input_error
from policyopt.runtime._routing import RoutingPolicy, Standing
from policyopt.runtime._typing import Array, Floats, Ints

from . import golden as _golden
from .golden import FEW, JUMP, Golden, LeftOut, Walk, given_output, part_of, row_bytes, steps_of
from .graph import ExitGraph
from .rounding import ULPS, UNIT
from .samples import candidates

#: Of the weights of graphs: 64 MB of float64.
_MOST = 1 << 23
_NEVER, _UNCALLED = -1e300, np.int32(-2)


def walked(policy: RoutingPolicy, golden: Golden) -> tuple[Walk, Floats, Floats]:
    """Return what numpy does in a batch, how large terms of gains are, (n, T), and how near it is to do else, (n,)."""
    n, steps, query = len(golden), steps_of(policy), golden.inputs[0].get("query")
    walk, scale, near = Walk.empty(n, steps), np.ones((n, steps)), np.full(n, np.inf)

    def gains(one: Standing, columns: Floats, rows: Ints) -> tuple[Floats, Floats]:
        found, size = one.gains(columns), np.abs(one.weights)
        size = np.maximum((size[:, 0] + np.abs(columns) @ size[:, 1:].T).max(axis=1), 1.0)
        best, rest = found.max(axis=1), np.sort(found, axis=1)[:, :-1].max(axis=1, initial=-np.inf)
        # How far it is from 0; and from the next best, where it is asked.
        gap = np.where(best > 0, np.minimum(best, best - rest), -best)
        near[rows] = np.minimum(near[rows], gap / (size * UNIT))
        return best, size

    def told(rows: Ints, one: Standing, columns: Floats, found: Any) -> None:
        at, gain = len(one.called) - 1, 0.0
        if one.answerer < 0:  # two answers as good as each other
            near[rows[columns[:, 2] <= JUMP]] = 0.0
        if one.actions:
            gain, scale[rows, at] = gains(one, columns, rows)
        walk.put(rows, at, found.exit[rows], found.prediction[rows], gain)

    outputs = zip(policy.active_exits, golden.inputs, strict=True)
    seen = {m: policy._look(m, given_output(policy, given), n) for m, given in outputs}
    policy.follow(seen, golden.sample, costs_of(policy, golden), query, told)
    known, second = policy._known(query, n), policy._second(golden.sample)
    for a, arm in enumerate(policy.arms):
        if known is not None and (root := arm.by_called.get(())) is not None:
            rows = np.flatnonzero(second == a)
            gains(root, known[rows], rows)
    return walk, scale, near


def costs_of(policy: Any, golden: Golden) -> Floats:
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
    rng, pool, distance, of = np.random.default_rng(check_seed(seed)), None, np.zeros(0), 0
    graphs = [ExitGraph(at, m, {}, (), {}, ()) for at, m in enumerate(policy.active_exits)]
    room = max(_golden.BYTES // row_bytes(policy, graphs), FEW)
    table = None if data is None else Tables(data).get(split)
    for inputs, sample in candidates(policy, graphs, data, split, room, rng):
        paid = rng.gamma(2.0, 0.5, (len(sample), policy.model_exits)) * policy.costs
        if table is not None:
            paid = np.broadcast_to(table.standalone_costs, (len(table), policy.model_exits))[sample]
        for m, given in zip(policy.active_exits, inputs, strict=True):
            given |= {"cost": np.ascontiguousarray(paid[:, m])} if policy.needs_costs else {}
        if policy.needs_query:
            asked = rng.normal(size=(len(sample), policy.needs_query)) * 2
            asked = asked if table is None or table.query is None else table.query[sample]
            inputs[0]["query"] = asked.astype(np.float32)
        found = Golden(inputs, sample, Walk.empty(len(sample), steps_of(policy)))
        walk, _, near = walked(policy, found)
        sure, of = np.flatnonzero(near >= ULPS["c"]), of + len(near)
        found = part_of(replace(found, expected=walk), sure)
        pool = found if pool is None else _golden.joined(pool, found)
        distance = np.append(distance, near[sure])
    left, most = of - len(distance), min(rows, len(distance))
    if pool is None or not most:
        raise input_error("golden rows", "some that rounding cannot change", "none", "Give more.")
    close, others = np.split(np.argsort(distance, kind="stable"), [most // 2])
    pool = part_of(pool, np.sort([*close, *rng.permutation(others)[: most - len(close)]]))
    return replace(pool, boundary=part_of(pool, slice(0)), left_out=LeftOut(left, of))


def run_steps(policy: Any, golden: Golden) -> Walk:
    """Return what a policy, or that of an exported file, does step by step; refused where a batch does otherwise."""
    active, asked = policy.active_exits, golden.inputs[0].get("query")
    walk, outputs = Walk.empty(*golden.expected.model.shape), [None] * policy.model_exits
    for row, number in enumerate(golden.sample.tolist()):
        route, at = policy.start(number, None if asked is None else asked[row]), 0
        while (m := route.next) is not None:
            given = {name: a[row] for name, a in golden.inputs[active.index(m)].items()}
            cost = float(given["cost"]) if "cost" in given else None
            told = policy.step(given_output(policy, given), route, cost)
            walk.put(row, at, m, told.prediction, told.gain)
            at += 1
    for m, given in zip(active, golden.inputs, strict=True):
        outputs[m] = given_output(policy, given)
    said = policy.decide(outputs, golden.sample, costs_of(policy, golden), asked)
    return checked(policy, golden, walk, said.exit, said.prediction, said.cost)


def checked(
    policy: Any, golden: Golden, walk: Walk, last: Array, prediction: Array, cost: Floats, ulps: float = 0
) -> Walk:  # fmt: skip
    """Return what was done step by step; refused where what was decided of a batch, (n,) each, is not its end."""
    rows, costs, paid = np.arange(len(golden)), costs_of(policy, golden), np.zeros(len(golden))
    for asked in walk.model.T:
        paid += np.where(asked >= 0, costs[rows, asked], 0.0)
    end = (walk.model >= 0).sum(axis=1) - 1
    off = np.abs(cost - paid) > ulps * UNIT * np.maximum(paid, 1.0)
    off |= (last != walk.model[rows, end]) | (prediction != walk.prediction[rows, end])
    if off.any():
        raise CheckError(f"row {int(off.argmax())} is decided otherwise in a batch than by steps")
    return walk
