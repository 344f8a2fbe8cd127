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
from policyopt.runtime._errors import CheckError, input_error
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
from .graph import ExitGraph, Pool
from .rounding import ULPS, UNIT
from .samples import candidates
from .symbolic import Symbol

#: Of the tables of graphs: 64 MB of float64.
MOST_NUMBERS = 1 << 23
NEVER = -1e300


def walked(policy: RoutingPolicy, golden: Golden) -> tuple[Walk, Floats, Floats]:
    """Return what numpy does in a batch, how large terms of gains are, (n, T), and how near it is to do else, (n,)."""
    n, active, steps = len(golden), policy.active_exits, steps_of(policy)
    walk, scale, near = Walk.empty(n, steps), np.ones((n, steps)), np.full(n, np.inf)
    seen = {
        m: policy._look(m, given_output(policy, given), n)
        for m, given in zip(active, golden.inputs, strict=True)
    }

    def told(rows: Ints, one: Standing, columns: Floats, found: Any) -> None:
        at = len(one.called) - 1
        walk.put(rows, at, found.last[rows], found.prediction[rows], 0.0)
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
            spread = 1.0 if data is not None else rng.gamma(2.0, 0.5, (len(sample), len(paid)))
            costs = np.broadcast_to(
                paid, (len(paid) if paid.ndim > 1 else of + len(sample), policy.model_exits)
            )
            costs = costs[sample] * spread
            for m, given in zip(policy.active_exits, inputs, strict=True):
                given["cost"] = np.ascontiguousarray(costs[:, m])
        found = Golden(inputs, sample, Walk.empty(len(sample), 1))
        walk, _, near = walked(policy, found)
        found, sure = replace(found, expected=walk), np.flatnonzero(near >= ULPS["c"])
        left, of = left + len(near) - len(sure), of + len(near)
        found, near = part_of(found, sure), near[sure]
        pool = found if pool is None else joined(pool, found)
        distance = np.append(distance, near)
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
            walk.put(row, at, m, told.prediction, told.gain)
            at += 1
    return walk


def check_ends(
    policy: RoutingPolicy, golden: Golden, walk: Walk, last: Array, prediction: Array, cost: Floats, ulps: float = 0
) -> None:  # fmt: skip
    """Refuse what a runtime decided of a batch, (n,) each, where it is not what it did step by step."""
    rows, costs, paid = np.arange(len(golden)), costs_of(policy, golden), np.zeros(len(golden))
    for asked in walk.model.T:
        paid += np.where(asked >= 0, costs[rows, asked], 0.0)
    end = (walk.model >= 0).sum(axis=1) - 1
    off = np.abs(cost - paid) > ulps * UNIT * np.maximum(paid, 1.0)
    off |= (last != walk.model[rows, end]) | (prediction != walk.prediction[rows, end])
    if off.any():
        raise CheckError(f"row {int(off.argmax())} is decided otherwise in a batch than by steps")


def check_decide(policy: Any, golden: Golden, walk: Walk) -> Walk:
    """Return what a policy did step by step, if it decides so of a batch, too."""
    outputs: list[Any] = [None] * policy.model_exits
    for m, given in zip(policy.active_exits, golden.inputs, strict=True):
        outputs[m] = given_output(policy, given)
    said = policy.decide(outputs, golden.sample, costs_of(policy, golden))
    check_ends(policy, golden, walk, said.exit, said.prediction, said.cost)
    return walk


def run_graphs(policy: RoutingPolicy, golden: Golden, batch: Any, step: Any) -> Walk:
    """Return what graphs, functions from inputs to outputs by name, do step by step, if they do so in a batch, too."""
    n, k, active = len(golden), policy.model_exits, policy.active_exits
    whole: dict[str, Any] = {"sample": golden.sample, "costs": costs_of(policy, golden)}
    for m, given in zip(active, golden.inputs, strict=True):
        for name, array in given.items():
            made = whole.setdefault(name, np.zeros((n, k, *array.shape[1:]), array.dtype))
            made[:, m] = array
    whole |= {f"given_{name}": array for name, array in whole.items()}
    rows, walk, paid = np.arange(n), Walk.empty(*golden.expected.model.shape), np.zeros(n)
    called, going = np.zeros((n, k), dtype=bool), np.ones(n, dtype=bool)
    asked = step({**whole, "called": called, "paid": paid})["next"]
    for at in range(walk.model.shape[1]):
        called[rows[going], asked[going]] = True
        paid[going] += whole["costs"][rows[going], asked[going]]
        said = step({**whole, "called": called, "paid": paid})
        walk.put(going, at, *(x[going] for x in (asked, said["prediction"], said["gain"])))
        asked, going = said["next"], going & (said["next"] >= 0)
    said = batch(whole)
    check_ends(policy, golden, walk, said["last"], said["prediction"], said["cost"], ULPS["onnx"])
    if (said["called"] != called).any():
        raise CheckError("a batch calls other models than steps do")
    return walk


class RouteGraphs:
    """A routing policy as graphs, in which where a sample stands is the number of a standing.

    S standings, all arms'; A actions at most; P models, those of `active_exits`, by their places; W columns of them all.
    """

    def __init__(self, policy: RoutingPolicy) -> None:
        self.policy, self.pool = policy, Pool()
        self.kind, own = policy.observer.kind, policy.ensemble
        self.active = list(policy.active_exits)
        every = [(a, one) for a, arm in enumerate(policy.arms) for one in arm.standings]
        number = {(a, one.called): s for s, (a, one) in enumerate(every)}
        s, p, most = len(every), len(self.active), max(1, *(len(one.actions) for _, one in every))
        width = GENERAL + 2 * p + own.timed
        if s * most * width > MOST_NUMBERS:
            allowed, got = f"of {MOST_NUMBERS:,} weights at most", f"{s * most * width:,}"
            step = "Deploy policy.json or the Python file (--to python)."
            raise input_error("policy", allowed, got, step)
        self.arm = np.array([a for a, _ in every], np.int32)
        self.first = [number[a, (arm.first,)] for a, arm in enumerate(policy.arms)]
        self.member, self.powers = np.zeros((s, p), bool), np.zeros((s, p))
        self.answerer, self.usual = np.full(s, -1, np.int32), np.ones(s)
        self.actions, self.after = (np.full((s, most), fill, np.int32) for fill in (-1, 0))
        # Where there is nothing to choose from, the gain is 0; what is none of several never is the best.
        self.offsets, self.weights = np.full((s, most), NEVER), np.zeros((s, most, width))
        for i, (a, one) in enumerate(every):
            at = [self.active.index(m) for m in one.called]
            self.member[i, at], self.powers[i, at] = True, one.powers
            self.answerer[i] = self.active.index(one.answerer) if one.answerer >= 0 else -1
            usual = own.costs[list(one.called)].sum()
            self.usual[i] = max(usual, 1e-9 * own.costs.sum())
            n = len(one.actions)
            if not n:
                self.offsets[i] = 0.0
                continue
            places = [*range(GENERAL), *(GENERAL + 2 * q + j for q in at for j in range(2))]
            places += [width - 1] * own.timed
            self.offsets[i, :n] = one.weights[:, 0]
            self.weights[i][np.ix_(range(n), places)] = one.weights[:, 1:]
            self.actions[i, :n] = [self.active.index(m) for m in one.actions]
            self.after[i, :n] = [number[a, tuple(sorted((*one.called, m)))] for m in one.actions]

        self.lowest = self.member.argmax(axis=1).astype(np.int32)  # place of the first model

    def input(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an input as a symbol."""
        return Symbol(self.pool, self.pool.make("input", (), shape, dtype, name=name))

    def start(self, sample: Any) -> Any:
        """Return the standing after the first call, by the coin."""
        first = [np.array([s], np.int32) for s in self.first]
        if len(first) == 1:
            return sample.of(first[0])
        policy = self.policy
        return np.where(sample.traced_coin(policy.seed, 0) < policy.share, first[1], first[0])

    def sure(self, confidence: Any, offset: Any, slope: Any) -> Any:
        """As `Ensemble.sure`, on symbols."""
        p = np.clip(confidence, _EDGE, 1.0 - _EDGE)
        return offset + slope * np.log(p / (1.0 - p))

    def look(self, given: Any) -> tuple[Any, Any, Any]:
        """Return what one model says, from its values (1, W): prediction, confidence, and logarithms (1, C)."""
        logits = self.kind.logits(given)
        output = logits.traced_reduce(1)
        logs: Any = with_log_prob(output, logits).log_prob
        return output.prediction, output.confidence, np.maximum(logs.astype(np.float64), LOWEST)

    def stand(self, at: Any, logs: Any, said: Any, sure: Any, paid: Any) -> dict[str, Any]:
        """Return the answer at a standing, the gain, whether to go on, with whom, and the standing after that.

        `logs` (1, P, C), None of records; `said`, `sure` (1, P); of models not called any finite numbers.
        """
        policy, rows = self.policy, np.arange(1)
        called, power = at.traced_lookup(self.member), at.traced_lookup(self.powers)
        if logs is not None:
            score = (power[:, :, None] * logs).sum(axis=1)
            best = score.argmax(axis=1)
            answer, allowed = best.astype(np.int32), None
        else:
            least, p = float(policy.ensemble.least), len(self.active)
            mine = np.where(called, said, np.int32(-1))
            alike = mine[:, :, None] == mine[:, None, :]
            earlier = np.logical_and(alike, np.tri(p, k=-1, dtype=bool)[None]).max(axis=2)
            first = np.logical_and(mine >= 0, np.logical_not(earlier))
            votes = power * (sure + np.log(least - 1.0))
            score = (alike.astype(np.float64) * votes[:, None, :]).sum(axis=2)
            others = np.maximum(least - first.astype(np.float64).sum(axis=1), 1e-9)
            score = np.where(first, score, -np.inf)
            score = np.concatenate([score, np.log(others)[:, None]], axis=1)
            none = np.zeros_like(others, dtype=np.int32) - np.int32(1)
            mine = np.concatenate([mine, none[:, None]], axis=1)
            allowed = mine >= 0
            best = np.where(allowed, score, -np.inf).argmax(axis=1)
            answer = mine[rows, best]
        share = np.exp(score - score.max(axis=1, keepdims=True))
        share = share / share.sum(axis=1, keepdims=True)
        given = share if allowed is None else np.where(allowed, share, -1.0)
        others = np.where(np.arange(score.shape[1])[None] == best[:, None], 0.0, given)
        top, second = (np.maximum(x, 0.0) for x in (given[rows, best], others.max(axis=1)))
        entropy = -(share * np.log(np.maximum(share, 1e-30))).sum(axis=1)
        who = at.traced_lookup(self.answerer)
        answer = np.where(who >= 0, said[rows, who], answer)
        agrees = np.logical_and(said == answer[:, None], called).astype(np.float64)
        kept = np.clip(top, 0.01, 0.9999)
        count = at.traced_lookup(self.member.sum(axis=1).astype(np.float64))
        out = [np.log(kept / (1.0 - kept)), entropy, top - second, agrees.sum(axis=1) / count]
        out += [*(x * x for x in out), out[0] * out[3]]
        pairs = np.stack([sure, agrees], axis=2).copy().reshape(1, 2 * len(self.active))
        columns = [np.stack(out, axis=1), pairs]
        if policy.needs_costs:
            spent = np.maximum(paid, 1e-9 * float(policy.costs.sum()))
            columns.append(np.log(spent / at.traced_lookup(self.usual))[:, None])
        terms = at.traced_lookup(self.weights) * np.concatenate(columns, axis=1)[:, None, :]
        gains = terms.sum(axis=2) + at.traced_lookup(self.offsets)
        place = gains.argmax(axis=1)
        gain = gains[rows, place]
        model, after = (at.traced_lookup(t)[rows, place] for t in (self.actions, self.after))
        return {"prediction": answer, "gain": gain, "on": gain > 0, "model": model, "after": after}

    def batch(self) -> ExitGraph:
        """Return the graph that decides for a batch of which all models' outputs are known."""
        policy, rows, numbers = self.policy, np.arange(1), np.array(self.active, np.int32)
        sample = self.input("sample", (1,), np.int64)
        outputs, seen = self.seen(None)
        paid = sample.of(policy.costs[None])
        if policy.needs_costs:
            outputs["costs"] = paid = self.input("costs", (1, policy.model_exits), np.float64)
        cost = np.stack([paid[:, m] for m in self.active], axis=1)
        at = self.start(sample)
        last = at.traced_lookup(self.lowest)
        paid, found = cost[rows, last], {}
        for _ in range(steps_of(policy)):  # who has stopped stops again
            found = self.stand(at, *seen, paid)
            on = found["on"]
            at, last = np.where(on, found["after"], at), np.where(on, found["model"], last)
            paid = paid + np.where(on, cost[rows, found["model"]], 0.0)
        said = {
            "last": last.traced_lookup(numbers), "prediction": found["prediction"], "cost": paid,
            "called": at.traced_lookup(self.models()),
        }  # fmt: skip
        return self.graph({"sample": sample, **outputs}, said)

    def step(self) -> ExitGraph:
        """Return the graph that says who is asked next, from who has been called and what they said."""
        policy, numbers = self.policy, np.array(self.active, np.int32)
        sample = self.input("sample", (1,), np.int64)
        called = self.input("called", (1, policy.model_exits), bool)
        paid = self.input("paid", (1,), np.float64)
        outputs, seen = self.seen(called)
        same = (called[:, None, :] == self.models()[None]).min(axis=2)
        first = self.start(sample)
        if len(self.first) > 1:  # of the sample's own arm
            same = np.logical_and(same, self.arm[None] == first.traced_lookup(self.arm)[:, None])
        known, at = same.max(axis=1), same.argmax(axis=1)
        found = self.stand(at, *seen, paid)
        begun, on = called.max(axis=1), np.logical_and(found["on"], known)
        model = np.where(begun, found["model"], first.traced_lookup(self.lowest))
        on = np.logical_or(on, np.logical_not(begun))
        said = {
            "next": np.where(on, model.traced_lookup(numbers), np.int32(-1)),
            "prediction": np.where(known, found["prediction"], np.int32(-1)),
            "gain": np.where(known, found["gain"], 0.0),
        }  # fmt: skip
        return self.graph({"sample": sample, "called": called, "paid": paid, **outputs}, said)

    def seen(self, called: Any) -> tuple[dict[str, Any], tuple[Any, Any, Any]]:
        """Return the inputs of all models' outputs, and what those say; who is not called says nothing."""
        policy, k, logs = self.policy, self.policy.model_exits, None
        if self.kind.record:
            inputs = {
                "prediction": self.input("prediction", (1, k), np.int32),
                "confidence": self.input("confidence", (1, k), np.float64),
            }
            said, sure = (np.stack([x[:, m] for m in self.active], axis=1) for x in inputs.values())
        else:
            given = self.input(policy.kind, (1, k, self.kind.width(policy.classes)), np.float32)
            inputs = {policy.kind: given}
            each = zip(*(self.look(given[:, m]) for m in self.active), strict=True)
            said, sure, logs = (np.stack(x, axis=1) for x in each)
        if called is not None:
            mine = np.stack([called[:, m] for m in self.active], axis=1)
            sure = np.where(mine, sure, 0.5)
            logs = None if logs is None else np.where(mine[:, :, None], logs, 0.0)
        offset, slope = policy.ensemble.odds[self.active].T[:, None]
        return inputs, (logs, said, self.sure(sure, offset, slope))

    def models(self) -> Array:
        """Return the models of each standing, (S, K)."""
        whole = np.zeros((len(self.member), self.policy.model_exits), dtype=bool)
        whole[:, self.active] = self.member
        return whole

    def graph(self, given: dict[str, Any], said: dict[str, Any]) -> ExitGraph:
        """Return a graph of what is said, and of the inputs that this takes."""
        made = ExitGraph(0, 0, {}, (), {name: x.node for name, x in said.items()}, ())
        used = {id(node) for node in made.order()}
        return replace(made, inputs={n: x.node for n, x in given.items() if id(x.node) in used})
