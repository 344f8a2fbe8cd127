"""Inputs for golden vectors: rows of a cache, or made up to be awkward."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.cache.data import ExitData
from policyopt.runtime.errors import bad
from policyopt.runtime.policy import Policy

from .golden import Golden, Inputs, expect
from .graph import ExitGraph

_CANDIDATES = 4096
#: Scores nearer to a threshold than this, relative to the larger of both and 1, but not equal to it,
#: are left out: there two runtimes may differ in the last bits of a float32 and both be right.
BAND = 1e-5


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
        At most so many: those whose scores are nearest to the thresholds, and others by lot.
    seed : int

    Returns
    -------
    Golden

    Raises
    ------
    InputError
        The cache is of another model.
    """
    if rows < 1:
        raise bad("rows", "1 or more", rows, "E.g. 512.")
    rng = np.random.default_rng(seed)
    if data is None:
        inputs = made_up(policy, graphs, rng)
        sample = np.arange(_CANDIDATES)
    else:
        inputs, sample = from_cache(policy, graphs, data, split)
    whole = expect(policy, inputs, sample)
    kept = _chosen(policy, whole, rows, rng)
    return expect(
        policy, [{n: a[kept] for n, a in given.items()} for given in inputs], sample[kept]
    )


def _chosen(
    policy: Policy, whole: Golden, rows: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the rows to keep, ascending."""
    score = whole.expected.score[:, :-1]
    limits = policy.thresholds[None]
    if policy.mixture is not None:
        limits = np.stack([policy.thresholds, policy.mixture.thresholds])
    gap = np.abs(score[:, None] - limits) / np.maximum(
        np.maximum(np.abs(score[:, None]), np.abs(limits)), 1
    )
    near = np.where(gap > 0, gap, np.inf).min(axis=(1, 2), initial=np.inf)
    fit = np.flatnonzero(near > BAND)
    if not len(fit):
        raise bad(
            "golden rows", "not all within rounding of a threshold", f"{len(near)} such rows", ""
        )
    close = fit[np.argsort(near[fit], kind="stable")][: rows // 2]
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
