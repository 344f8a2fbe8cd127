"""Inputs for golden vectors: rows of a cache, or made up to be awkward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.cache.data import ExitData
from policyopt.runtime.checks import check_seed
from policyopt.runtime.deciding import arms
from policyopt.runtime.errors import bad
from policyopt.runtime.policy import Policy

from .edges import edges_of, limits_of
from .golden import Golden, Inputs, LeftOut, expect, rows_of
from .graph import ExitGraph
from .manifest import ULPS

_CANDIDATES = 4096
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
    policy: Policy, graphs: list[ExitGraph], data: ExitData | None = None,
    split: str = "test", rows: int = 512, seed: int = 0,
) -> Golden:  # fmt: skip
    """Return golden vectors of a policy.

    Parameters
    ----------
    policy : Policy
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
        raise bad("rows", "1 or more", rows, "E.g. 512.")
    rng = np.random.default_rng(check_seed(seed))
    if data is None:
        inputs = made_up(policy, graphs, rng)
        sample = np.arange(_CANDIDATES)
    else:
        inputs, sample = from_cache(policy, graphs, data, split)
    whole = expect(policy, inputs, sample)
    ulps = doubtful_ulps(policy, graphs, whole, rng)
    gap = gaps(policy, whole)
    doubt: npt.NDArray[np.bool_] = np.any(gap < np.array(ulps), axis=1)
    if doubt.all():
        raise bad(
            "golden rows", "not all within rounding of a threshold", f"{len(doubt)} such rows", ""
        )
    kept = _chosen(policy, whole, gap, np.flatnonzero(~doubt), rows, rng)
    close = rng.permutation(np.flatnonzero(doubt))[:_EDGES]
    return replace(
        _part(policy, whole, kept),
        edges=edges_of(policy, whole, _part(policy, whole, np.sort(close))),
        left_out=LeftOut(int(doubt.sum()), len(whole), tuple(ulps)),
    )


def _part(policy: Policy, whole: Golden, rows: npt.NDArray[np.int64]) -> Golden:
    return expect(policy, rows_of(whole.inputs, rows), whole.sample[rows])


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
    policy: Policy, graphs: list[ExitGraph], data: ExitData, split: str = "test"
) -> tuple[list[Inputs], npt.NDArray[np.int64]]:
    """Return what the exits on the policy's path gave for the rows of a split, and their numbers."""
    if (data.kind, data.exits) != (policy.kind, policy.model_exits):
        got = f"{data.kind} of {data.exits} exits"
        raise bad(
            "cache", f"{policy.kind} of {policy.model_exits} exits", got, "Of the same model."
        )
    key, places = data.rows(split)
    rows = data.splits[key]
    inputs: list[Inputs] = []
    for graph in graphs:
        k, given = graph.exit, {}
        for name, node in graph.inputs.items():
            if name == "sample":
                continue
            if name == "features":
                column = rows.array(f"features:{k}")[places]
            elif name == "second":
                column = rows.array("top_prob")[places][:, k, 1]
            elif policy.kind == "record":
                column = rows.array(name)[places][:, k]
            else:
                column = rows.array("outputs")[places][:, k]
            given[name] = np.ascontiguousarray(column, dtype=node.dtype)
        inputs.append(_whole(policy, given, rows, places, k))
    return inputs, np.arange(len(places))


def _whole(policy: Policy, given: Inputs, rows: Any, places: Any, k: int) -> Inputs:
    """Add what `Policy.step` wants though the graph of this exit does not read it."""
    if policy.kind == "record":
        for name, dtype in (("prediction", np.int32), ("confidence", np.float64)):
            given.setdefault(
                name, np.ascontiguousarray(rows.array(name)[places][:, k], dtype=dtype)
            )
    elif policy.kind not in given:
        given[policy.kind] = np.ascontiguousarray(rows.array("outputs")[places][:, k], np.float32)
    if policy.needs_features:
        given.setdefault(
            "features", np.ascontiguousarray(rows.array(f"features:{k}")[places], np.float32)
        )
    return given


def made_up(policy: Policy, graphs: list[ExitGraph], rng: np.random.Generator) -> list[Inputs]:
    """Return awkward inputs, exit by exit."""
    n, c = _CANDIDATES, max(policy.classes, 2)
    likely = rng.normal(size=(n, c)) * rng.choice([0.3, 1, 3, 10], size=(n, 1))
    inputs: list[Inputs] = []
    for graph in graphs:
        sharp = (graph.position + 1.0) / policy.exits
        logits = likely * sharp + rng.normal(size=(n, c)) * rng.choice([0.1, 0.5, 2], size=(n, 1))
        logits[: n // 16] = np.round(logits[: n // 16])  # equal ones
        logits[n // 16 : n // 8] *= 10  # saturated
        impossible = rng.random((n // 16, c)) < 0.3
        impossible[:, 0] = False
        logits[n // 8 : n // 8 + n // 16][impossible] = -np.inf
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
