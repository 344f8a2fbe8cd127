"""Routing policies in exports: golden rows, what runtimes did with them, and their decisions as graphs.

The Python file runs the runtime's own code. In graphs the place where a sample stands is a number, by which powers and
weights are looked up: `Ensemble` is shown all models, those not called with no power, no weight and no answer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from policyopt._cache.data import ExitData
from policyopt._table import Tables
from policyopt.runtime._checks import check_seed, check_whole
from policyopt.runtime._errors import CheckError, input_error
from policyopt.runtime._outputs import ExitOutput, with_log_prob
from policyopt.runtime._routing import GENERAL, RoutingPolicy, Standing, joined
from policyopt.runtime._typing import Array, Floats, Ints

from . import golden as _golden
from .golden import FEW, JUMP, Golden, LeftOut, Walk, given_output, part_of, row_bytes, steps_of
from .graph import ExitGraph, Pool
from .rounding import ULPS, UNIT
from .samples import candidates
from .symbolic import Symbol

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
    check_whole("rows", rows, step="E.g. 512.")
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


def of_models(policy: RoutingPolicy, golden: Golden) -> dict[str, Any]:
    """Return what golden vectors hold of all models, (n, K, ...), by name."""
    known = {"costs": costs_of(policy, golden)}
    known |= {"query": golden.inputs[0]["query"]} if policy.needs_query else {}
    for m, given in zip(policy.active_exits, golden.inputs, strict=True):
        for name in given.keys() - {"query", "cost"}:
            shape = (len(golden), policy.model_exits, *given[name].shape[1:])
            known.setdefault(name, np.zeros(shape, given[name].dtype))[:, m] = given[name]
    return known


def run_graphs(policy: RoutingPolicy, golden: Golden, batch: Any, step: Any) -> Walk:
    """As `run_steps`, of graphs: functions from inputs by name to outputs by name."""
    n, k, known = len(golden), policy.model_exits, of_models(policy, golden)
    known |= {f"given_{name}": array for name, array in known.items()} | {"sample": golden.sample}
    known |= {"paid": np.zeros(n), "called": np.zeros((n, k), dtype=bool)}
    walk, going = Walk.empty(*golden.expected.model.shape), np.arange(n)
    asked = step(known)["next"]
    for at in range(walk.model.shape[1]):
        known["called"][going, asked[going]] = True
        known["paid"][going] += known["costs"][going, asked[going]]
        said = step(known)
        walk.put(going, at, *(x[going] for x in (asked, said["prediction"], said["gain"])))
        asked, going = said["next"], going[said["next"][going] >= 0]
    said = batch(known)
    if (said["called"] != known["called"]).any():
        raise CheckError("a batch calls other models than steps do")
    ends = said["last"], said["prediction"], said["cost"]
    return checked(policy, golden, walk, *ends, ulps=ULPS["onnx"])


class RouteGraphs:
    """A routing policy as graphs of P models, those of `active_exits` by their places.

    S standings, all arms'; A actions at most; W columns of all models.
    """

    def __init__(self, policy: RoutingPolicy) -> None:
        if getattr(policy, "explore", 0):
            step = "Export policy.exploring(0.0), or the Python file (--to python)."
            raise input_error("policy", "one that does not explore", "one that does", step)
        self.policy, self.pool, self.active = policy, Pool(), list(policy.active_exits)
        self.inputs, self.numbers = dict[str, Any](), np.array(self.active, np.int32)
        own, p, every = policy.ensemble, len(self.active), self.active
        arms = enumerate(policy.arms)
        stood = [(a, one) for a, arm in arms for one in arm.standings if one.called]
        self.number = {(a, one.called): s for s, (a, one) in enumerate(stood)}
        s, width, most = len(stood), own.width(every), max(1, *(len(x.actions) for _, x in stood))
        if s * most * width > _MOST:
            step = "Deploy policy.json or the Python file (--to python)."
            raise input_error("policy", f"of {_MOST:,} weights at most", s * most * width, step)
        self.arm = np.array([a for a, _ in stood], np.int32)
        self.called, self.powers = np.zeros((s, policy.model_exits), bool), np.zeros((s, p))
        self.mean, self.voices = any(len(one.parts) for _, one in stood), np.zeros((s, p))
        self.who, self.actions = np.full(s, -1), np.full((s, most), -1)
        self.after = np.zeros((s, most), int)
        self.offsets, self.weights = np.full((s, most), _NEVER), np.zeros((s, most, width))
        total = own.costs[every].sum()
        for i, (a, one) in enumerate(stood):
            at, n = [every.index(m) for m in one.called], len(one.actions)
            self.called[i, list(one.called)], self.powers[i, at] = True, one.powers
            self.voices[i, at] = one.parts if len(one.parts) else 1e-200  # as good as none
            self.who[i] = every.index(one.answerer) if one.answerer >= 0 else -1
            if not n:
                self.offsets[i] = 0.0
                continue
            pairs = [GENERAL + own.own * q + j for q in at for j in range(own.own)]
            places = [*range(GENERAL), *pairs, *range(GENERAL + own.own * p, width)]
            self.offsets[i, :n], weights = one.weights[:, 0], one.weights[:, 1:].copy()
            # The share that agrees is of all models here, and what is usual to have paid is for all.
            weights[:, [3, 7, 8]] *= (p / len(at)) ** np.array([1, 2, 1])
            if own.timed:
                usual = max(own.costs[list(one.called)].sum(), 1e-9 * own.costs.sum())
                self.offsets[i, :n] += weights[:, GENERAL + own.own * len(at)] * np.log(
                    total / usual
                )
            self.weights[i][np.ix_(range(n), places)] = weights
            self.actions[i, :n] = [every.index(m) for m in one.actions]
            after = (tuple(sorted((*one.called, m))) for m in one.actions)
            self.after[i, :n] = [self.number[a, called] for called in after]
        self.alone = self.called[:, every].argmax(axis=1)  # of standings of one model its place

    def input(self, name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
        """Return an input as a symbol."""
        made = self.pool.make("input", (), shape, dtype, name=name)
        self.inputs[name] = Symbol(self.pool, made)
        return self.inputs[name]

    def known(self) -> Any:
        """Return the columns of a query; None without one."""
        own = self.policy.ensemble.query
        if own is None:
            return None
        return own.columns(self.input("query", (1, len(own.center)), np.float32).astype(np.float64))

    def start(self, sample: Any, known: Any) -> Any:
        """Return the standing after the first call, by the coin and the columns of a query."""
        found = []
        for a, arm in enumerate(self.policy.arms):
            at, root = sample.of(np.array([self.number[a, (arm.first,)]])), arm.by_called.get(())
            if root is not None:
                gains, then = root.gains(known), [self.number[a, (m,)] for m in root.actions]
                then = gains.argmax(axis=1).traced_lookup(np.array(then))
                at = np.where(gains.max(axis=1) > 0, then, at)
            found.append(at)
        if len(found) == 1:
            return found[0]
        return np.where(sample.traced_coin(self.policy.seed, 0) < self.policy.share, *found[::-1])

    def look(self, given: Any) -> ExitOutput:
        """Return what a model says by its values, (1, W)."""
        logits = self.policy.observer.kind.logits(given)
        return with_log_prob(logits.traced_reduce(1), logits)

    def stand(self, at: Any, seen: dict[int, ExitOutput], paid: Any, known: Any) -> dict[str, Any]:
        """Return the answer at a standing, the gain, whether to go on, with whom, and the standing after that."""
        own, every, rows, masked = self.policy.ensemble, self.active, np.arange(1), {}
        called = at.traced_lookup(self.called[:, every])
        for i, m in enumerate(every):
            one, mine = seen[m], called[:, i]
            logs = one.log_prob
            logs = None if logs is None else np.where(mine[:, None], logs, np.float32(0))
            said = np.where(mine, one.prediction, _UNCALLED)
            masked[m] = output(said, np.where(mine, one.confidence, 0.5), logs)
        tables = (self.powers, self.voices) if self.mean else (self.powers,)
        found = map(at.traced_lookup, tables)
        by = [_Each(x[:, i, None] for i in range(len(every))) for x in found]
        one: Any = Standing(tuple(every), by[0], parts=by[-1] if self.mean else [])  # type: ignore[arg-type]
        score, said = own.tally(masked, one)
        answer, share = joined(score, at.of(said))
        who = at.traced_lookup(self.who)
        said = np.stack([masked[m].prediction for m in every], axis=1)
        answer = np.where(who >= 0, said[rows, who], np.maximum(answer, np.int32(-1)))
        columns: Any = own.columns(masked, every, answer, share, paid, known)
        gains = (at.traced_lookup(self.weights) * columns[:, None, :]).sum(axis=2)
        gains = gains + at.traced_lookup(self.offsets)
        place, gain = gains.argmax(axis=1), gains.max(axis=1)
        model, after = (at.traced_lookup(t)[rows, place] for t in (self.actions, self.after))
        return {"prediction": answer, "gain": gain, "on": gain > 0, "model": model, "after": after}

    def graphs(self) -> list[ExitGraph]:
        """Return the graph of a batch of which all models' outputs are known, and that of a step."""
        policy, k, rows = self.policy, self.policy.model_exits, np.arange(1)
        sample, known, numbers = self.input("sample", (1,), np.int64), self.known(), self.numbers
        called, spent = self.input("called", (1, k), bool), self.input("paid", (1,))
        paid = self.input("costs", (1, k)) if policy.needs_costs else sample.of(policy.costs[None])
        if policy.observer.kind.record:
            said = self.input("prediction", (1, k), np.int32)
            sure = self.input("confidence", (1, k))
            seen = {m: output(said[:, m], sure[:, m]) for m in self.active}
        else:
            width = policy.observer.kind.width(policy.classes)
            values = self.input(policy.kind, (1, k, width), np.float32)
            seen = {m: self.look(values[:, m]) for m in self.active}
        first = self.start(sample, known)
        at, last = first, first.traced_lookup(self.alone)
        cost = np.stack([paid[:, m] for m in self.active], axis=1)
        paid, found = cost[rows, last], {}
        for _ in range(steps_of(policy)):  # who has stopped stops again
            found = self.stand(at, seen, paid, known)
            on, model = found["on"], found["model"]
            paid = paid + np.where(on, cost[rows, model], 0.0)
            at, last = np.where(on, found["after"], at), np.where(on, model, last)
        batch = self.graph(
            last=last.traced_lookup(numbers), prediction=found["prediction"], cost=paid,
            called=at.traced_lookup(self.called),
        )  # fmt: skip
        same = (called[:, None, :] == self.called[None]).min(axis=2)
        same = np.logical_and(same, self.arm[None] == first.traced_lookup(self.arm)[:, None])
        there, begun = same.max(axis=1), called.max(axis=1)
        found = self.stand(same.argmax(axis=1), seen, spent, known)
        on = np.logical_or(np.logical_and(found["on"], there), np.logical_not(begun))
        model = np.where(begun, found["model"], first.traced_lookup(self.alone))
        return [batch, self.graph(
            next=np.where(on, model.traced_lookup(numbers), np.int32(-1)),
            prediction=np.where(there, found["prediction"], np.int32(-1)),
            gain=np.where(there, found["gain"], 0.0),
        )]  # fmt: skip

    def parts(self) -> list[ExitGraph]:
        """Return the graphs of a start, of what a model says, and of a step, that read the state of a C header."""
        policy, p, classes = self.policy, len(self.active), self.policy.classes
        known = self.known()
        begin: dict[str, Any] = {"at": self.start(self.input("number", (1,), np.int64), known)}
        if known is not None:
            begin["known"], known = known, self.input("state->known", known.shape)
        look, logs, kind = {}, None, policy.observer.kind
        if kind.whole:
            one = self.look(self.input(policy.kind, (1, kind.width(classes)), np.float32))
            look = {n: getattr(one, n) for n in ("prediction", "confidence", "log_prob")}
            logs = self.input("state->log_prob", (1, p, classes), np.float32)
        said = self.input("state->prediction", (1, p), np.int32)
        sure = self.input("state->confidence", (1, p))
        seen = {
            m: output(said[:, i], sure[:, i], None if logs is None else logs[:, i])
            for i, m in enumerate(self.active)
        }
        at, paid = self.input("state->at", (1,), np.int64), self.input("state->paid", (1,))
        found = self.stand(at, seen, paid, known)
        found["model"] = np.where(found.pop("on"), found["model"], -1)
        return [self.graph(**said) for said in (begin, look, found)]

    def graph(self, **said: Any) -> ExitGraph:
        """Return a graph of what is said, and of the inputs that this takes."""
        made = ExitGraph(0, 0, {}, (), {name: x.node for name, x in said.items()}, ())
        used = {id(node) for node in made.order()}
        given = {name: x.node for name, x in self.inputs.items() if id(x.node) in used}
        return replace(made, inputs=given)


class _Each(list[Any]):
    """An array of numbers that differ by row."""

    def tolist(self) -> list[Any]:
        return self


def output(said: Any, sure: Any, logs: Any = None) -> ExitOutput:
    """Return what a model says, of symbols."""
    return ExitOutput(said, sure[:, None], None, sure, sure, logs)  # type: ignore[arg-type]
