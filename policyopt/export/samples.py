"""Inputs for golden vectors: rows of a cache, or made up to be awkward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.cache.data import ExitData
from policyopt.runtime.checks import check_seed
from policyopt.runtime.deciding import arms
from policyopt.runtime.errors import input_error
from policyopt.runtime.experts import policy_of
from policyopt.runtime.policy import Policy

from .edges import edges_of, limits_of
from .golden import BYTES, FEW, Golden, Inputs, LeftOut, expect, joined, part_of, row_bytes
from .graph import ExitGraph
from .manifest import ULPS

#: Candidates that are made up, and how many numbers they may take.
CANDIDATES, _NUMBERS = 4096, 1 << 25
_UNIT = 2.0**-23
#: Scores nearer to a threshold than this, in units of float32 rounding, are left out: there two runtimes
#: may differ in the last bits and both be right. Of the exit's largest score where that is under 1. Over
#: all methods on two caches ONNX and C were 2.3 off at most.
NEAR = 16
#: Where rounding was found to take scores further on `_MEASURED` of the rows, so many times that, but no
#: more than exports are held to.
_TIMES, _MEASURED = 8, 128
#: Rows left out that are kept as edges.
_EDGES = 64


def golden_of(
    policy: Any, graphs: list[ExitGraph], data: ExitData | None = None,
    split: str = "test", rows: int = 512, seed: int = 0,
) -> Golden:  # fmt: skip
    """Return golden vectors of a policy.

    Parameters
    ----------
    policy : Policy, or a fit that holds one
    graphs : list of K ExitGraph
    data : ExitData, optional
        Rows of its `split` are used, else made-up ones: of all sizes, with equal logits, classes that
        cannot be, answers that change and that do not.
    split : str
    rows : int
        At most so many: half of them those whose scores are nearest to the thresholds, on both sides
        and outside of what rounding may decide, and others by lot.
    seed : int

    Returns
    -------
    Golden
        With edges, and what was left out.

    Raises
    ------
    InputError
        The cache is of another model.
    """
    if rows < 1:
        raise input_error("rows", "1 or more", rows, "E.g. 512.")
    policy = policy_of(policy, single=True)
    rng = np.random.default_rng(check_seed(seed))
    room = max(BYTES // row_bytes(policy, graphs), FEW)
    pool: Golden | None = None
    ulps, left, of = [0.0] * (policy.exits - 1), 0, 0
    for inputs, sample in _candidates(policy, graphs, data, split, room, rng):
        found = expect(policy, inputs, sample)
        if pool is None:
            ulps = doubtful_ulps(policy, graphs, found, rng)
        left, of = left + int(_doubt(policy, found, ulps).sum()), of + len(found)
        pool = found if pool is None else joined(pool, found)
        if len(pool) > room:  # the best of those seen so far
            doubt = _doubt(policy, pool, ulps)
            close = np.flatnonzero(doubt & pool.sure)[: min(_EDGES, room // 4)]
            fit = np.flatnonzero(~doubt)
            kept = _chosen(policy, pool, gaps(policy, pool), fit, room - len(close), rng)
            pool = part_of(pool, np.sort(np.concatenate([kept, close])))
    if pool is None or (doubt := _doubt(policy, pool, ulps)).all():
        got = f"{0 if pool is None else len(pool)} such rows"
        raise input_error(
            "golden rows", "some that rounding cannot take to another exit", got, "Give more."
        )
    fit = np.flatnonzero(~doubt)
    kept = _chosen(policy, pool, gaps(policy, pool), fit, min(rows, room), rng)
    close = rng.permutation(np.flatnonzero(doubt & pool.sure))[: min(_EDGES, room // 4)]
    return replace(
        part_of(pool, kept),
        edges=edges_of(policy, pool, part_of(pool, np.sort(close))),
        left_out=LeftOut(left, of, tuple(ulps)),
    )


def _doubt(policy: Policy, whole: Golden, ulps: list[float]) -> npt.NDArray[np.bool_]:
    """Return which samples rounding elsewhere may take to another exit or class, (n,)."""
    return np.any(gaps(policy, whole) < np.array(ulps), axis=1) | ~whole.sure


def _candidates(
    policy: Policy, graphs: list[ExitGraph], data: ExitData | None, split: str, room: int,
    rng: np.random.Generator,
) -> Iterator[tuple[list[Inputs], npt.NDArray[np.int64]]]:  # fmt: skip
    """Yield candidates for golden vectors and their numbers, at most `room` at a time."""
    if data is not None:
        yield from from_cache(policy, graphs, data, split, room)
        return
    most = max(min(CANDIDATES, _NUMBERS // max(policy.exits * policy.classes, 1)), FEW)
    for low in range(0, most, room):
        n = min(room, most - low)
        yield made_up(policy, graphs, rng, n), np.arange(low, low + n)


def gaps(policy: Policy, whole: Golden) -> npt.NDArray[np.float64]:
    """Return how far scores are from their thresholds, (n, K-1), in units of float32 rounding.

    Of the larger of score, threshold and 1, as `verify.scaled_error`.
    """
    score, limits = whole.expected.score[:, :-1], limits_of(policy, whole.sample)
    scale = np.maximum(np.maximum(np.abs(score), np.abs(limits)), 1.0) * _UNIT
    return np.abs(score - limits) / scale


def doubtful_ulps(
    policy: Policy, graphs: list[ExitGraph], whole: Golden, rng: np.random.Generator
) -> list[float]:
    """Return how near to its threshold a score is in doubt, by exit but the last; see `NEAR`.

    0 where the graph takes no sum and no exponential: scores have the same bits everywhere, ties too.
    """
    from .scalar_policy import ScalarPolicy  # which needs the rows made up here
    from .scalar_source import exact_scores

    if policy.kind == "record":  # columns have no names in the functions of one sample
        graphs = [replace(graph, inputs={}) for graph in graphs]
    exact = exact_scores(graphs)[:-1]
    score = np.abs(whole.expected.score[:, :-1])
    most = float(ULPS["c"])
    if all(exact):
        return [0.0] * len(exact)
    # Plain Python's doubles, as far as they are exact: their difference is the runtime's own rounding.
    scalar = ScalarPolicy(policy)
    if scalar.reason:
        return [0.0 if sure else most for sure in exact]
    off = np.zeros(policy.exits)
    for row in rng.permutation(len(whole))[:_MEASURED].tolist():
        state = scalar.start(int(whole.sample[row]))
        for at, k in enumerate(policy.path):
            given = whole.inputs[at]
            vector = given["features"][row] if "features" in given else None
            said = scalar.step(k, given[policy.kind][row], state, vector).score
            own = float(whole.expected.score[row, at])
            if said != own:
                off[at] = max(off[at], abs(said - own) / max(abs(own), 1.0) / _UNIT)
    largest = np.minimum(score.max(axis=0, initial=0.0), 1.0)
    near = np.minimum(np.maximum(NEAR * largest, _TIMES * off[:-1]), most)
    return [0.0 if sure else float(n) for n, sure in zip(near, exact, strict=True)]


def _chosen(
    policy: Policy, whole: Golden, gap: npt.NDArray[np.float64], fit: npt.NDArray[np.int64],
    rows: int, rng: np.random.Generator,
) -> npt.NDArray[np.int64]:  # fmt: skip
    """Return the rows to keep, ascending: half of them nearest to the thresholds, in turn on every side."""
    near: list[npt.NDArray[np.int64]] = []
    leave, arm = whole.expected.leave, arms(policy, whole.sample)
    for at in range(policy.exits - 1):
        for side in (True, False):
            for which in np.unique(arm):
                mine = fit[(leave[fit, at] == side) & (arm[fit] == which)]
                near.append(mine[np.argsort(gap[mine, at], kind="stable")][: rows // 2])
    depth = max(map(len, near), default=0)
    turns = np.full((depth, len(near)), -1)
    for column, mine in enumerate(near):
        turns[: len(mine), column] = mine
    ranked = turns[turns >= 0]  # all nearest ones, then all second ones, ...
    _, first = np.unique(ranked, return_index=True)
    close = ranked[np.sort(first)][: rows // 2]
    others = rng.permutation(np.setdiff1d(fit, close))[: rows - len(close)]
    return np.sort(np.concatenate([close, others]))


def from_cache(
    policy: Policy, graphs: list[ExitGraph], data: ExitData, split: str, room: int
) -> Iterator[tuple[list[Inputs], npt.NDArray[np.int64]]]:
    """Yield what the exits on the policy's path gave for rows of a split, and their numbers."""
    if (data.kind, data.exits) != (policy.kind, policy.model_exits):
        got = f"{data.kind} of {data.exits} exits"
        raise input_error(
            "cache", f"{policy.kind} of {policy.model_exits} exits", got, "Of the same model."
        )
    key, places = data.rows(split)
    for first, block in data.splits[key].chunks(room):
        low, high = np.searchsorted(places, [first, first + len(next(iter(block.values())))])
        if low == high:
            continue
        mine = places[low:high] - first
        inputs: list[Inputs] = []
        for graph in graphs:
            k, given = graph.exit, {}
            for name, node in graph.inputs.items():
                if name == "sample":
                    continue
                if name == "features":
                    column = block[f"features:{k}"][mine]
                elif name == "second":
                    column = block["top_prob"][:, k, 1][mine]
                else:
                    column = block[name if policy.kind == "record" else "outputs"][:, k][mine]
                given[name] = np.ascontiguousarray(column, dtype=node.dtype)
            inputs.append(_whole(policy, given, block, mine, k))
        yield inputs, np.arange(low, high)


def _whole(policy: Policy, given: Inputs, block: Any, mine: Any, k: int) -> Inputs:
    """Add what `Policy.step` wants though the graph of this exit does not read it."""
    if policy.kind == "record":
        for name, dtype in (("prediction", np.int32), ("confidence", np.float64)):
            given.setdefault(name, np.ascontiguousarray(block[name][:, k][mine], dtype=dtype))
    elif policy.kind not in given:
        given[policy.kind] = np.ascontiguousarray(block["outputs"][:, k][mine], np.float32)
    if policy.needs_features:
        given.setdefault("features", np.ascontiguousarray(block[f"features:{k}"][mine], np.float32))
    return given


def made_up(
    policy: Policy, graphs: list[ExitGraph], rng: np.random.Generator, n: int = CANDIDATES
) -> list[Inputs]:
    """Return awkward inputs of n samples, exit by exit."""
    c, part = max(policy.classes, 2), max(n // 16, 1)
    likely = rng.normal(size=(n, c)) * rng.choice([0.3, 1, 3, 10], size=(n, 1))
    inputs: list[Inputs] = []
    for graph in graphs:
        sharp = (graph.position + 1.0) / policy.exits
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


def _outputs(policy: Policy, graph: ExitGraph, logits: Any, rng: np.random.Generator) -> Inputs:
    mass = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    mass /= mass.sum(axis=1, keepdims=True)
    given: Inputs = {"logits": logits, "probabilities": mass.astype(np.float32)}
    if policy.kind == "record":
        top = np.sort(mass, axis=1)
        prediction = logits.argmax(axis=1).astype(np.int32)
        prediction[::37] = -1  # no answer
        confidence = np.where(prediction < 0, 0.0, top[:, -1])
        given = {"prediction": prediction, "confidence": confidence}
        if "second" in graph.inputs:
            given["second"] = np.minimum(top[:, -2], confidence)
        if "entropy" in graph.inputs:
            given["entropy"] = -(mass * np.log(np.maximum(mass, 1e-300))).sum(axis=1)
        return given
    given = {policy.kind: given[policy.kind]}
    if policy.needs_features:
        node = graph.inputs.get("features")
        width = 1 if node is None else node.size
        spread = rng.choice([0.1, 1.0, 5.0], size=(len(logits), 1))
        given["features"] = (rng.normal(size=(len(logits), width)) * spread).astype(np.float32)
    return given
