"""Which rows golden vectors are made of: of a cache or made up to be awkward, and some at the thresholds.

A wrong threshold shows only in scores between it and the right one. Such samples are searched: one exit's output
is moved on a line from a sample that stays to one that leaves, and halved until the score turns from one float to
the next (bisection). There two runtimes may both be right: `verify` goes by the runtime's *own* score.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from policyopt._cache.data import ExitData
from policyopt.runtime._checks import check_seed, check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._policy import ALWAYS, NEVER, Policy, arms, thresholds_of
from policyopt.runtime._typing import Bools, Floats, Ints

from .golden import (
    BYTES,
    FEW,
    JUMP,
    Golden,
    Inputs,
    LeftOut,
    begin,
    expect,
    exported,
    joined,
    levels_of,
    numbered,
    part_of,
    row_bytes,
    rows_of,
    stepped,
    sure_class,
    words,
)
from .graph import ExitGraph
from .rounding import TIMES, ULPS, UNIT, exact_scores, own_rounding

#: Candidates that are made up, and how many numbers they may take.
CANDIDATES, _NUMBERS = 4096, 1 << 25
#: Scores nearer to a threshold than this, in units of float32 rounding, are left out: there two runtimes
#: may differ in the last bits and both be right. Of the exit's largest score where that is under 1. Over
#: all methods on two caches ONNX and C were 2.3 off at most. Where rounding was found to take scores
#: further on `_MEASURED` of the rows, `TIMES` that, but no more than exports are held to.
NEAR, _MEASURED = 16, 128
#: Rows left out that are kept for the boundary.
_EDGES = 64
#: Kinds of which 0 is a class that cannot be.
_SHARES = ("probabilities", "probability")
#: Pairs of samples that are tried per threshold, and kept: the nearest at it, and off it on both sides.
#: Fewer where rows are large.
_TRIED, _KEPT = 16, (4, 1, 1)
_HALVINGS = 45
#: How far from the threshold some more lie, of the larger of threshold and 1.
_OFF = 16 * UNIT


def golden_of(
    policy: Any, graphs: list[ExitGraph], data: ExitData | None = None,
    split: str = "test", rows: int = 512, seed: int = 0,
) -> Golden:  # fmt: skip
    """Return golden vectors of a policy or fit, `rows` at most, with those at the thresholds, and what was left out."""
    check_whole("rows", rows, step="E.g. 512.")
    policy = exported(policy)
    rng = np.random.default_rng(check_seed(seed))
    room = max(BYTES // row_bytes(policy, graphs), FEW)
    pool: Golden | None = None
    ulps, left, of = np.zeros(policy.exits - 1), 0, 0
    for inputs, sample in candidates(policy, graphs, data, split, room, rng):
        found = expect(policy, inputs, sample)
        if not np.isfinite(score := found.expected.score).all():
            got, step = score[~np.isfinite(score)][0], "log_prob is -inf where a class cannot be."
            raise input_error(f"scores of '{words(policy, 'rule')}'", "finite", str(got), step)
        if pool is None:
            ulps = _doubtful_ulps(graphs, found, rng)
        left, of = left + int(_doubt(policy, found, ulps).sum()), of + len(found)
        pool = found if pool is None else joined(pool, found)
        if len(pool) > room:  # the best of those seen so far
            doubt = _doubt(policy, pool, ulps)
            close = np.flatnonzero(doubt & pool.sure)[: min(_EDGES, room // 4)]
            kept = _chosen(policy, pool, np.flatnonzero(~doubt), room - len(close), rng)
            pool = part_of(pool, np.sort(np.concatenate([kept, close])))
    if pool is None or (doubt := _doubt(policy, pool, ulps)).all():
        allowed = "some that rounding cannot take to another exit"
        got = f"{0 if pool is None else len(pool)} such rows"
        raise input_error("golden rows", allowed, got, "Give more.")
    kept = _chosen(policy, pool, np.flatnonzero(~doubt), min(rows, room), rng)
    close = rng.permutation(np.flatnonzero(doubt & pool.sure))[: min(_EDGES, room // 4)]
    boundary = boundary_samples(policy, pool, part_of(pool, np.sort(close)))
    left_out = LeftOut(left, of, tuple(ulps.tolist()))
    return replace(part_of(pool, kept), boundary=boundary, left_out=left_out)


def _doubt(policy: Policy | PolicyFamily, whole: Golden, ulps: Floats) -> Bools:
    """Return which samples rounding elsewhere may take to another exit or class, (n,)."""
    return np.any(gaps(policy, whole) < ulps, axis=1) | ~whole.sure


def candidates(
    policy: Any, graphs: list[ExitGraph], data: ExitData | None, split: str, room: int,
    rng: np.random.Generator,
) -> Iterator[tuple[list[Inputs], Ints]]:  # fmt: skip
    """Yield candidates for golden vectors and their numbers, at most `room` at a time."""
    if data is not None:
        yield from from_cache(policy, graphs, data, split, room)
        return
    most = max(min(CANDIDATES, _NUMBERS // max(len(graphs) * policy.classes, 1)), FEW)
    for low in range(0, most, room):
        n = min(room, most - low)
        yield made_up(policy, graphs, rng, n), numbered(policy, low, low + n)


def limits_of(policy: Policy | PolicyFamily, sample: Ints) -> Floats:
    """Return the thresholds that hold for each sample, (n, K-1): the mixture's by the coin, its level's."""
    # At exits that its level skips a sample never leaves; it has left from that one's last exit on.
    if not isinstance(policy, PolicyFamily):
        return thresholds_of(policy, arms(policy, sample))
    found, path = np.full((len(sample), policy.exits), NEVER), np.asarray(policy.active_exits)
    for a in np.unique(sample[:, 1]).tolist():
        one, mine = policy.policies[a], np.flatnonzero(sample[:, 1] == a)
        at = np.searchsorted(path, one.active_exits)
        found[np.ix_(mine, at[:-1])] = thresholds_of(one, arms(one, sample[mine, 0]))
        found[mine[:, None], np.arange(at[-1], policy.exits)] = ALWAYS
    return found[:, :-1]


def sides_of(policy: Policy | PolicyFamily, sample: Ints) -> Ints:
    """Return a number for each sample that those share who have the same thresholds, (n,)."""
    if not isinstance(policy, PolicyFamily):
        return arms(policy, sample).astype(np.int64)
    found = 2 * sample[:, 1]
    for a in np.unique(sample[:, 1]).tolist():
        mine = sample[:, 1] == a
        found[mine] += arms(policy.policies[a], sample[mine, 0])
    return found


def gaps(policy: Policy | PolicyFamily, whole: Golden) -> Floats:
    """Return how far scores are from their thresholds, (n, K-1), in units of `rounding.scaled_error`."""
    score, limits = whole.expected.score[:, :-1], limits_of(policy, whole.sample)
    scale = np.maximum(np.maximum(np.abs(score), np.abs(limits)), 1.0) * UNIT
    return np.where(np.abs(limits) >= NEVER, np.inf, np.abs(score - limits) / scale)


def _doubtful_ulps(graphs: list[ExitGraph], whole: Golden, rng: np.random.Generator) -> Floats:
    """Return how near to its threshold a score is in doubt (`NEAR`; 0: the same bits everywhere), (K-1,)."""
    exact = np.array(exact_scores(graphs)[:-1], dtype=bool)
    if exact.all():
        return np.zeros(len(exact))
    off = own_rounding(graphs, part_of(whole, rng.permutation(len(whole))[:_MEASURED]))[:-1]
    largest = np.abs(whole.expected.score[:, :-1]).max(axis=0, initial=0.0)
    near = np.maximum(NEAR * np.minimum(largest, 1.0), TIMES * off)
    return np.where(exact, 0.0, np.minimum(near, ULPS["c"]))


def _chosen(
    policy: Policy | PolicyFamily, whole: Golden, fit: Ints, rows: int, rng: np.random.Generator
) -> Ints:  # fmt: skip
    """Return the rows to keep, ascending: half of them nearest to the thresholds, in turn on every side."""
    near: list[Ints] = []
    gap, leave, arm = gaps(policy, whole), whole.expected.leave, sides_of(policy, whole.sample)
    for at in range(policy.exits - 1):
        for side in (True, False):
            for which in np.unique(arm):
                mine = fit[(leave[fit, at] == side) & (arm[fit] == which)]
                near.append(mine[np.argsort(gap[mine, at], kind="stable")][: rows // 2])
    turns = np.full((max(map(len, near), default=0), len(near)), -1)
    for column, mine in enumerate(near):
        turns[: len(mine), column] = mine
    ranked = turns[turns >= 0]  # all nearest ones, then all second ones, ...
    _, first = np.unique(ranked, return_index=True)
    close = ranked[np.sort(first)][: rows // 2]
    others = rng.permutation(np.setdiff1d(fit, close))[: rows - len(close)]
    return np.sort(np.concatenate([close, others]))


def from_cache(
    policy: Policy | PolicyFamily, graphs: list[ExitGraph], data: ExitData, split: str, room: int
) -> Iterator[tuple[list[Inputs], Ints]]:
    """Yield what the exits on the policy's path gave for rows of a split, and their numbers."""
    if (data.kind, data.exits) != (policy.kind, policy.model_exits):
        allowed = f"{policy.kind} of {policy.model_exits} exits"
        got = f"{data.kind} of {data.exits} exits"
        raise input_error("cache", allowed, got, "Of the same model.")
    key, places = data.rows(split)
    for first, block in data.splits[key].chunks(room):
        low, high = np.searchsorted(places, [first, first + len(next(iter(block.values())))])
        if low < high:
            mine = places[low:high] - first
            inputs = [_of_exit(policy, graph, block, mine) for graph in graphs]
            yield inputs, numbered(policy, low, high)


def _of_exit(policy: Policy | PolicyFamily, graph: ExitGraph, block: Any, rows: Any) -> Inputs:
    """Return what an exit gave for some rows: what its graph reads, and what `Policy.step` wants besides."""
    k, names = graph.exit, graph.inputs.keys() - {"sample", "level", "features"}
    record = policy.observer.kind.record
    names |= {"prediction", "confidence"} if record else {policy.kind}
    given: Inputs = {}
    for name in sorted(names):
        if not record:
            column, kind = block["outputs"][:, k], np.float32
        else:
            column = block["top_prob"][:, k, 1] if name == "second" else block[name][:, k]
            kind = np.int32 if name == "prediction" else np.float64
        given[name] = np.ascontiguousarray(column[rows], dtype=kind)
    if policy.needs_features:
        given["features"] = np.ascontiguousarray(block[f"features:{k}"][rows], np.float32)
    return given


def made_up(
    policy: Policy | PolicyFamily,
    graphs: list[ExitGraph],
    rng: np.random.Generator,
    n: int = CANDIDATES,
) -> list[Inputs]:
    """Return awkward inputs of n samples, exit by exit."""
    c, part = max(policy.classes, 2), max(n // 16, 1)
    likely = rng.normal(size=(n, c)) * rng.choice([0.3, 1, 3, 10], size=(n, 1))
    inputs: list[Inputs] = []
    for graph in graphs:
        sharp = (graph.position + 1.0) / len(graphs)
        logits = likely * sharp + rng.normal(size=(n, c)) * rng.choice([0.1, 0.5, 2], size=(n, 1))
        logits[:part] = np.round(logits[:part])  # equal ones
        logits[part : 2 * part] *= 10  # saturated
        impossible = rng.random((part, c)) < 0.3
        impossible[:, 0] = False
        some = logits[2 * part : 3 * part]
        some[impossible[: len(some)]] = -np.inf
        logits[-1] = 0.0
        inputs.append(_outputs(policy, graph, logits.astype(np.float32), rng))
    return inputs


def _outputs(
    policy: Policy | PolicyFamily, graph: ExitGraph, logits: Any, rng: np.random.Generator
) -> Inputs:
    kind = policy.observer.kind
    if kind.record:
        mass = KINDS["probabilities"].example(logits.astype(np.float64), 0.0)
        top = np.sort(mass, axis=1)
        prediction = logits.argmax(axis=1).astype(np.int32)
        prediction[::37] = -1  # no answer
        # One that is given without a second may be anything from 0 to 1, and so thresholds.
        least = 0.0 if "second" in graph.inputs else 1.0 / top.shape[1]
        sure = np.maximum(top[:, -1] - least, 0.0) / (1.0 - least)
        confidence = np.where(prediction < 0, 0.0, sure)
        given: Inputs = {"prediction": prediction, "confidence": confidence}
        if "second" in graph.inputs:
            given["second"] = np.minimum(top[:, -2], confidence)
        if "entropy" in graph.inputs:
            given["entropy"] = -(mass * np.log(np.maximum(mass, 1e-300))).sum(axis=1)
        return given
    wanted = logits[:, : policy.classes].astype(np.float64) if policy.classes else logits
    wanted = logits.astype(np.float64) if kind.whole else wanted
    with np.errstate(over="ignore"):
        example = kind.example(wanted, levels_of(policy)[0].error_scale)
        given = {kind.name: example.astype(np.float32)}
    if policy.needs_features:
        width = graph.inputs["features"].size if "features" in graph.inputs else 1
        spread = rng.choice([0.1, 1.0, 5.0], size=(len(logits), 1))
        given["features"] = (rng.normal(size=(len(logits), width)) * spread).astype(np.float32)
    return given


def boundary_samples(policy: Any, whole: Golden, close: Golden | None = None) -> Golden:
    """Return samples made from `whole` on both sides of each threshold that can be met, and those of `close`."""
    found = [] if close is None else [(close.inputs, close.sample)]
    limits, arm = limits_of(policy, whole.sample), sides_of(policy, whole.sample)
    sound = _sound(whole)
    row = sum(array[:1].nbytes for given in whole.inputs for array in given.values())
    pairs = BYTES // max(2 * row * (policy.exits - 1) * len(np.unique(arm)), 1)
    kept = _KEPT if pairs >= sum(_KEPT) else (max(pairs - 2, 1), *([1, 1] if pairs > 2 else []))
    for at in range(policy.exits - 1):
        for which in np.unique(arm):
            rows = np.flatnonzero(sound & (arm == which))
            if len(rows) and ALWAYS < limits[rows[0], at] < NEVER:
                found += _at(policy, whole, at, rows, float(limits[rows[0], at]), kept)
    if not found:
        return expect(policy, rows_of(whole.inputs, slice(0)), whole.sample[:0])
    inputs = [
        {name: np.concatenate([part[at][name] for part, _ in found]) for name in given}
        for at, given in enumerate(whole.inputs)
    ]
    made = expect(policy, inputs, np.concatenate([sample for _, sample in found]))
    return part_of(made, np.flatnonzero(made.sure))  # answers are to be equal everywhere


def _sound(whole: Golden) -> Bools:
    """Return which samples have finite logits, no class that cannot be, and an answer everywhere."""
    sound = np.ones(len(whole), dtype=bool)
    for given in whole.inputs:
        for name, array in given.items():
            good = np.isfinite(array) & ((array > 0) | (name not in _SHARES))
            if name == "prediction":
                good = array >= 0
            sound &= good.reshape(len(sound), -1).all(axis=1)
    return sound


def _at(
    policy: Policy | PolicyFamily,
    whole: Golden,
    at: int,
    rows: Ints,
    limit: float,
    kept: Sequence[int],
) -> list[tuple[list[Inputs], Ints]]:
    """Return the pairs found at one threshold."""
    score = whole.expected.score[rows, at]
    # Those who come to this exit first: a serving loop sees no others.
    gone = whole.expected.leave[rows, :at].any(axis=1)
    rows = rows[np.lexsort([np.abs(score - limit), gone])]
    leave = whole.expected.score[rows, at] >= limit
    stay, go = rows[~leave], rows[leave]
    if not len(stay) or not len(go):
        return []
    tried = _TRIED if sum(kept) == sum(_KEPT) else 2 * kept[0]
    # Of pairs in turn one who stays or one who goes: the nearest; and partners from everywhere, which
    # are sooner on the other side for every history.
    turn, spread = np.arange(tried), np.linspace(0, 1, tried)
    near = [each[turn // 2 % len(each)] for each in (stay, go)]
    far = [each[(spread * (len(each) - 1)).astype(int)] for each in (go, stay)]
    one, other = np.where(turn % 2 == 0, *near), np.where(turn % 2 == 0, *far)
    inputs, partner = rows_of(whole.inputs, one), rows_of(whole.inputs[at : at + 1], other)[0]
    start = begin(policy, whole.sample[one])
    for k, given in zip(policy.active_exits[:at], inputs, strict=False):
        stepped(policy, k, given, start)

    def between(t: Floats) -> Inputs:
        """Return the exit's output on lines from one sample to the other: t = 0 to 1."""
        found: Inputs = {}
        for name, array in inputs[at].items():
            if array.dtype.kind != "f":  # the answer of a summary
                found[name] = array
                continue
            begin = array.astype(np.float64)
            share = t.reshape(-1, *[1] * (array.ndim - 1))
            found[name] = (begin + share * (partner[name] - begin)).astype(array.dtype)
        return found

    def look(t: Floats) -> Any:
        return stepped(policy, policy.active_exits[at], between(t), copy.deepcopy(start))

    # Elsewhere the nearest may all come to lie on one side: so some a little further off, too.
    off = _OFF * max(abs(limit), 1.0)
    found = []
    for goal, most in zip((limit, limit - off, limit + off), kept, strict=False):
        low, high = np.zeros(tried), np.ones(tried)
        first = look(low).score >= goal
        turns = first != (look(high).score >= goal)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            same = (look(middle).score >= goal) == first
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        before, after = look(low), look(high)
        fit = turns & (np.abs(before.score - after.score) <= JUMP * max(abs(goal), 1.0))
        fit &= before.number == after.number
        for t, seen in ((low, before), (high, after)):
            fit &= sure_class(policy, between(t), seen)
        gap = np.maximum(np.abs(before.score - goal), np.abs(after.score - goal))
        best = np.flatnonzero(fit)[np.argsort(gap[fit], kind="stable")][:most]
        for t in (low, high):
            every = [*inputs[:at], between(t), *inputs[at + 1 :]]
            found.append((rows_of(every, best), whole.sample[one[best]]))
    return found
