"""Rounding: which scores have the same bits everywhere, how far the others may be off, and whose arithmetic gave them.

Sums go in the same order everywhere (see `c_header`) and the rest is IEEE arithmetic, but `exp`, `log`, `log1p` and
`tanh` differ by processor and C library. So exports to other machines are held to the number of those to C and
ONNX, `ULPS`: 64 units of 2**-23 of the larger of score and 1.

Where it comes from. Let r be the sum of exp(d_i), d_i <= 0 the difference of a logit to the largest, the
same float32 everywhere. Two exponentials differ by 4 ulp at most (numpy documents 2.52, libms are
within 1), and two sums of C of them by the roundings of 19 + log2(C / 128) additions each (8 partial
sums of up to 16, 3 to join them, halves), half a unit each: r differs by rho = 23 + log2(C / 128) units
of itself if all err to their worst and to one side. Of `max_prob` and `margin`, 1 - s is a fraction
of r over 1 + r: rho / 4 and rho / 2 at most. Of `entropy`, the sum of exp(d_i) |d_i| rounds once more,
and the score moves by 2 (rho + 1) at most: 64 units at 32,768 classes. A logarithm of probabilities adds its own
4 ulp. Measured without AVX-512 and AVX2 (all score rules, 4,096 awkward rows each): 1.1 units of these three, 2.3
of fitted learned scores.

All three are off by a share of 1 - s, however saturated: `proven` has u (128 + C), u = 2**-24, for a sum of
C terms each off by 8 u and by what rounding d_i does, |d_i| < 104 (what is below is 0 in float32), four
times over. That is what a threshold near 1 needs.

A learned score multiplies its rounding too (random weights: 79 units). So the policy's graphs are run in float64
as well (`own_rounding`), and `verify` allows `TIMES` times the distance where that is more than 64.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from policyopt._thresholds import degenerate_scores
from policyopt.runtime._answers import Identity
from policyopt.runtime._errors import input_error
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import Entropy, Margin, MaxProb
from policyopt.runtime._typing import Floats

from .golden import Golden, by_name, few_at_a_time, rows_of
from .graph import ExitGraph, Node, evaluate, ordered

#: How far scores may be from those of the runtime: units of float32 rounding (2**-23) of the larger of
#: the score and 1. The Python file runs the runtime's own code. The others sum and take exponentials of
#: float32 in another order; exits and answers must be equal all the same.
ULPS = {"python": 0, "onnx": degenerate_scores.ULPS, "c": degenerate_scores.ULPS}
#: One unit of float32 rounding.
UNIT = 2.0**-23
#: Furthest that rounding is ever allowed to take a score, of the larger of score and 1.
BAND = 1024 * UNIT
#: Two processors may both be off by what float64 shows, to either side, and these are few rows.
TIMES = 8
#: Differences of larger logits (Euclidean norm) are rounded further: they say nothing of other rows.
LARGEST = 256.0
MACHINE = ("numpy", "features", "system", "architecture", "libc")
_MOST, _LONG = 256, 64
_ROUNDED_ALIKE = ("add", "sub", "mul", "div", "sqrt")
_CHOSEN = ("neg", "abs", "maximum", "minimum", "where", "max", "min", "slice", "concat", "reshape",
           "take", "lookup", "minimum_at")  # fmt: skip


def scaled_error(score: Any, expected: Any) -> Floats:
    """Return differences of scores in units of float32 rounding (2**-23) of the larger of score and 1."""
    with np.errstate(all="ignore"):
        scale = np.maximum(np.abs(expected), 1.0) * UNIT
        return np.where(score == expected, 0.0, np.abs(score - expected) / scale)


def exact_scores(graphs: Sequence[ExitGraph]) -> list[bool]:
    """Return per exit whether its score has the runtime's bits wherever IEEE arithmetic is kept."""
    found: list[bool] = []
    exact: dict[int, bool] = {}
    left: list[bool] = []
    for graph in graphs:
        exact |= {id(node): known for node, known in zip(graph.states, left, strict=True)}
        for node in ordered([graph.outputs["score"], *graph.left]):
            exact.setdefault(id(node), _exact(node, all(exact[id(arg)] for arg in node.args)))
        found.append(exact[id(graph.outputs["score"])])
        left = [exact[id(node)] for node in graph.left]
    return found


def _exact(node: Node, given: bool) -> bool:
    if node.dtype.kind != "f" or node.op in ("const", "input", "coin"):
        return True  # whole numbers made of rounded ones are the same but at a jump
    double = node.dtype == np.float64
    alike = double if node.op == "cast" else double and node.op in _ROUNDED_ALIKE
    return given and (alike or node.op in _CHOSEN)


def own_rounding(graphs: Sequence[ExitGraph], golden: Golden) -> Floats:
    """Return how far float32 takes scores from float64's, (K,), in its units, while both take the same turns."""
    worst = np.zeros(len(graphs))
    for part in few_at_a_time(golden.inputs, len(golden)):
        inputs, sample = rows_of(golden.inputs, part), golden.sample[part]
        alike, states = np.ones(len(sample), dtype=bool), ((), ())
        for at, (graph, given) in enumerate(zip(graphs, inputs, strict=True)):
            if "logits" in given:
                alike &= np.linalg.norm(given["logits"], axis=1) < LARGEST
            numbers = by_name(sample)
            given = {n: numbers[n] if n in numbers else given[n] for n in graph.inputs}
            one, other = (
                evaluate(graph, given, state, wide)
                for state, wide in zip(states, (False, True), strict=True)
            )
            for node in ordered([graph.outputs["score"], *graph.left]):
                if node.dtype.kind != "f" and node.op != "const":
                    same = one[id(node)] == other[id(node)]
                    alike = alike & same.reshape(len(same), -1).all(axis=1)
            score = id(graph.outputs["score"])
            off = np.broadcast_to(scaled_error(other[score], one[score]), alike.shape)[alike]
            worst[at] = np.max(off[np.isfinite(off)], initial=worst[at])
            states = tuple(tuple(v[id(node)] for node in graph.left) for v in (one, other))
    return worst


def proven(threshold: float, classes: int) -> float:
    """Return what is in doubt of the scores that 1 less a sum of positive terms is."""
    return 4 * 2.0**-24 * (128 + classes) * max(1.0 - threshold, 0.0) + 2.0**-49 * (classes + 8)


def doubtful(policy: Policy, off: float) -> Floats:
    """Return how near to its threshold a score is in doubt, (K-1,); `off`: how far scores were found off."""
    limits, mixture = np.abs(policy.thresholds), policy.mixture
    simple = mixture is None and policy.kind == "logits" and type(policy.answer) is Identity
    if simple and type(policy.rule) in (MaxProb, Margin, Entropy):
        return np.array([proven(t, policy.classes) for t in policy.thresholds.tolist()])
    if mixture is not None:
        limits = np.maximum(limits, np.abs(mixture.thresholds))
    return min(max(64 * off, 16 * UNIT), BAND) * np.maximum(limits, 1.0)


def this_machine() -> dict[str, Any]:
    """Return what decides the last bits here: numpy's version and its processor features, the C library."""
    simd: Any = np.show_config(mode="dicts")["SIMD Extensions"]  # type: ignore[index]
    return {
        "numpy": np.__version__,
        "features": [*simd["baseline"], *simd.get("found", ())],
        "system": platform.system(), "architecture": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip(),
    }  # fmt: skip


def check_machine(value: Any, argument: str, step: str) -> None:
    """Refuse what is no machine."""
    known = isinstance(value, dict) and value.keys() == set(MACHINE)
    known = known and isinstance(value["features"], list) and len(value["features"]) <= _MOST
    if not known or not all(
        isinstance(text, str) and len(text) <= _LONG
        for name, given in value.items()
        for text in (given if name == "features" else [given])
    ):
        allowed = f"{', '.join(MACHINE)}: texts of at most {_LONG} letters"
        raise input_error(argument, allowed, value, step)
