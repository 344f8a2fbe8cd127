"""A policy's exits as functions of one sample, compiled, and tried before they are used.

How near to its threshold a score is in doubt. Let u = 2**-24, d_i <= 0 the difference of a logit to the
largest and r = sum exp(d_i) over the others. The runtime rounds d_i to float32, takes a float32
exponential (within 4 ulp: 8 u) and sums C of them: r is off by at most r u (|d| + 8 + C), where |d| <
104, since what is below is 0 in float32. Of `max_prob`, 1 - s = r / (1 + r); of `margin`, (r + e_2) /
(1 + r); of `entropy`, log1p(r) + sum exp(d_i) |d_i| / (1 + r) over ln C: sums of positive terms, each
off by no more than that share of itself. So all three scores are off by at most u (128 + C) (1 - s),
however saturated; `_proven` has four times that. The doubles' own
rounding adds at most C times 2**-52 or so.

For other scores nothing is proven: the functions are tried on made-up rows, half of them far from 0
(where float32 is coarse), and `MEASURED` times the largest error found there is in doubt, at least
`LEAST` and at most `BAND`. A policy whose error comes within `ROOM` of `BAND` is not run this way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policyopt.runtime.answers import Plain
from policyopt.runtime.errors import InputError
from policyopt.runtime.policy import Policy
from policyopt.runtime.scores import Entropy, Margin, MaxProb

from .golden import BYTES, FEW, Inputs, expect
from .graph import ExitGraph
from .samples import CANDIDATES, made_up
from .scalar_source import BAND, LARGEST, NAMES, scalar_source
from .tracing import trace_policy

#: Above, numpy is as quick as loops over the classes.
MOST_CLASSES = 256
#: Scores may be off by this share of `BAND` on the rows that are tried.
ROOM = 1 / 8
_TRIED = 256
#: Units of float32 rounding.
_UNIT = 2.0**-23
LEAST = 16 * _UNIT
MEASURED = 64

#: Logits, features, sample's number, states -> what was asked for and the states left, or None.
ExitFunction = Callable[[Sequence[float], Any, int, "tuple[Any, ...]"], "tuple[Any, ...] | None"]
#: What numbers may raise that only the runtime can judge: overflow, division by 0, logarithm of 0.
UNSURE = (ArithmeticError, ValueError)


@dataclass(frozen=True)
class Compiled:
    """Functions of a policy's exits.

    Attributes
    ----------
    functions : tuple of K callables
        Return exit flag, prediction, what else was asked for, and the tuple of states left; None
        where rounding could change the outcome. They may raise `UNSURE`, which means the same.
    widths : tuple of K int or None
        Numbers of the feature vectors, where they are read.
    numbered : bool
        Whether the sample's number is looked at.
    reason : str
        Why there are none; empty where there are.
    near : tuple of K-1 float
        How near to its threshold a score is in doubt.
    """

    functions: tuple[ExitFunction, ...] = ()
    widths: tuple[int | None, ...] = ()
    numbered: bool = False
    reason: str = ""
    near: tuple[float, ...] = ()


def compiled(policy: Policy, wanted: Sequence[str] = ()) -> Compiled:
    """Compile the exits of a policy.

    Parameters
    ----------
    policy : Policy
    wanted : sequence of str
        Of ``score``, ``confidence``: what the functions return besides exit flag and prediction.

    Returns
    -------
    Compiled
        Without functions, and with a reason, where the policy reads records, has more than
        `MOST_CLASSES` classes or a rule that graphs cannot say, or where the functions' scores on
        made-up rows are off by more than `ROOM` times `BAND`.

    Examples
    --------
    >>> from policyopt.runtime.scores import MaxProb
    >>> made = compiled(Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", 2))
    >>> made.functions[0]([4.0, 0.0], None, 0, ()), made.functions[0]([0.0, 0.5], None, 0, ())
    ((True, 0, ()), (False, 1, ()))
    >>> compiled(Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "record", 2)).reason
    'the policy reads records'
    """
    if policy.kind == "record":
        return Compiled(reason="the policy reads records")
    if policy.classes < 2:
        return Compiled(reason="one class")
    if policy.classes > MOST_CLASSES:
        return Compiled(reason=f"{policy.classes} classes: over {MOST_CLASSES}")
    everywhere = [BAND] * (policy.exits - 1)
    try:
        graphs = trace_policy(policy)
        functions = _functions(graphs, ("exit", "prediction", "score"), everywhere)
    except (InputError, TypeError) as error:
        return Compiled(reason=f"a rule cannot be written for one sample: {error}")
    off = tried(policy, graphs, functions)
    if not off <= ROOM * BAND:
        return Compiled(reason=f"rounding takes its scores too far: by {off:.1g}")
    near = doubtful(policy, off)
    widths = [g.inputs["features"].size if "features" in g.inputs else None for g in graphs]
    numbered = any("sample" in g.inputs for g in graphs)
    functions = _functions(graphs, ("exit", "prediction", *wanted), near)
    return Compiled(functions, tuple(widths), numbered, near=tuple(near))


def doubtful(policy: Policy, off: float) -> list[float]:
    """Return how near to its threshold a score is in doubt, by exit but the last.

    Parameters
    ----------
    policy : Policy
    off : float
        How far scores were found off.
    """
    mixture = policy.mixture
    limits = np.abs(policy.thresholds)
    plain = mixture is None and policy.kind == "logits" and type(policy.answer) is Plain
    if plain and type(policy.rule) in (MaxProb, Margin, Entropy):
        return [_proven(t, policy.classes) for t in policy.thresholds.tolist()]
    if mixture is not None:
        limits = np.maximum(limits, np.abs(mixture.thresholds))
    near = min(max(MEASURED * off, LEAST), BAND)
    return (near * np.maximum(limits, 1.0)).tolist()


def _proven(threshold: float, classes: int) -> float:
    """Return what is in doubt for the scores that 1 less a sum of positive terms is.

    Examples
    --------
    >>> _proven(0.5, 10) < 2e-5, _proven(0.999999, 10) < 4e-11
    (True, True)
    """
    return 4 * 2.0**-24 * (128 + classes) * max(1.0 - threshold, 0.0) + 2.0**-49 * (classes + 8)


def _functions(
    graphs: Sequence[ExitGraph], wanted: Sequence[str], near: Sequence[float]
) -> tuple[ExitFunction, ...]:
    names, parts, exact = dict(NAMES), [], []
    for graph, doubt in zip(graphs, [*near, BAND], strict=True):
        source, exact = scalar_source(graph, exact, wanted, names, doubt)
        parts.append(source)
    exec(compile("\n".join(parts), "<policy of one sample>", "exec"), names)  # our own text
    return tuple(names[f"exit_{graph.position}"] for graph in graphs)


def tried(
    policy: Policy, graphs: Sequence[ExitGraph], functions: Sequence[ExitFunction],
    rows: int = _TRIED,
) -> float:  # fmt: skip
    """Return how far scores are off on made-up rows; infinite where a decision is another.

    Parameters
    ----------
    policy : Policy
    graphs : sequence of K ExitGraph
    functions : sequence of K callables
        That return exit flag, prediction, score and states.
    rows : int

    Returns
    -------
    float
        Relative to the larger of the score and 1.
    """
    with np.errstate(all="ignore"):
        most = max(BYTES // (4 * policy.exits * policy.classes), FEW)  # of many classes, fewer rows
        whole = made_up(policy, list(graphs), np.random.default_rng(0), min(most, CANDIDATES))
        step = max(len(next(iter(whole[0].values()))) // rows, 1)
        inputs = [_far({name: a[::step] for name, a in given.items()}) for given in whole]
        sample = np.arange(len(next(iter(inputs[0].values()))))
        expected = expect(policy, inputs, sample).expected
    outputs = [given[policy.kind] for given in inputs]
    vectors = [given.get("features") for given in inputs]
    worst = 0.0
    for row in sample.tolist():
        states: tuple[Any, ...] = ()
        for at, function in enumerate(functions):
            vector = vectors[at]
            try:
                found = function(
                    outputs[at][row].tolist(), None if vector is None else vector[row].tolist(), row,
                    states,
                )  # fmt: skip
            except UNSURE:
                found = None  # as where it is used
            if found is None:
                break
            leave, prediction, score, states = found
            if bool(expected.leave[row, at]) != leave or expected.prediction[row, at] != prediction:
                return np.inf
            if at == len(functions) - 1:
                break  # all leave there, whatever the score
            own = float(expected.score[row, at])
            gap = 0.0 if score == own else abs(score - own) / max(abs(own), 1.0)
            worst = worst if gap <= worst else gap  # NaN stays
    return worst


def _far(given: Inputs) -> Inputs:
    """Return the rows, and again with their logits moved together nearly as far as they may be."""
    both = {name: np.concatenate([a, a]) for name, a in given.items()}
    if "logits" in given:
        x = given["logits"]
        norm = np.linalg.norm(np.where(np.isfinite(x), x, 0.0), axis=1)
        room = np.maximum(LARGEST - norm, 0.0) / np.sqrt(x.shape[1])
        signs = np.resize([1.0, -1.0, 0.5, -0.5], len(x))
        both["logits"][len(x) :] += (0.99 * room * signs).astype(np.float32)[:, None]
    return both
