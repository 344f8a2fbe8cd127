"""One sample's decision in plain Python, where rounding cannot change it; else the policy decides.

A request of its own (batch 1) pays numpy's cost per call at every exit, which for a small model is
more than an exit may cost. The stateless scores of softmax outputs are computed here from a list of
Python floats; where the score is farther from the threshold than both computations can be off
together, the comparison has only one outcome, and `Policy.step` would say the same. Nearer, or with
a NaN or an infinity anywhere, the answer is None and `Policy.step` decides (and refuses). This is the
floating-point filter of exact geometry (Shewchuk, "Adaptive precision floating-point arithmetic",
Discrete & Computational Geometry 18, 1997, section 1), applied to a threshold.

The bound. Let u = 2**-24, d_i <= 0 the difference of a logit to the largest and r = sum exp(d_i) over
the others. The runtime rounds d_i to float32 (relative error u), takes a float32 exponential (within
4 ulp: 8 u), sums C of them (C u): r is off by at most u (C/e + (8 + C) r). So the largest probability
1 / (1 + r) is off by at most u (0.4 C + (8 + C) / 4), and the margin by u more. For the entropy, with
x = sum exp(d_i) |d_i|, x / (1 + r) <= ln C <= 4.2 for C <= 64, and the same reasoning gives at most
u (23 C + 60) after the division by ln C >= 0.69. The float64 computations here are off by 1e-8 of
that. `TOLERANCE` covers all with room: 32 u (C + 8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, inf, log, log1p, nan

from policyopt.runtime import ExpertPolicy, Policy
from policyopt.runtime.answers import Plain
from policyopt.runtime.scores import Entropy, Margin, MaxProb

#: Above, numpy is as quick as a loop over the classes; the bound on the entropy holds up to here.
MOST_CLASSES = 64
#: Times (C + 8): how near to its threshold a score may come before the policy itself decides.
TOLERANCE = 2.0**-19

Score = Callable[[Sequence[float], float], float]
#: Position on the policy's path, logits -> (whether to leave, class if so), or None: ask the policy.
Certain = Callable[[int, Sequence[float]], "tuple[bool, int] | None"]


def max_prob(row: Sequence[float], peak: float) -> float:
    """Return the largest probability.

    Examples
    --------
    >>> max_prob([0.0, 0.0], 0.0)
    0.5
    """
    return 1.0 / sum([exp(value - peak) for value in row])


def margin(row: Sequence[float], peak: float) -> float:
    """Return the largest less the second probability.

    Examples
    --------
    >>> margin([1.0, 1.0, 0.0], 1.0)
    0.0
    """
    odds = [exp(value - peak) for value in row]
    total = sum(odds)
    if total != total:
        return nan
    odds.remove(1.0)  # one of the largest: exp(0) is 1 exactly
    return (1.0 - max(odds)) / total


def certainty(row: Sequence[float], peak: float) -> float:
    """Return one less the entropy over its largest value.

    Examples
    --------
    >>> round(certainty([2.0, 2.0], 2.0), 12), certainty([0.0, -800.0], 0.0)
    (0.0, 1.0)
    """
    apart = [value - peak for value in row]
    odds = [exp(d) for d in apart]
    total = sum(odds)
    spread = sum([e * d for e, d in zip(odds, apart, strict=True)])
    return 1.0 - (log1p(total - 1.0) - spread / total) / log(len(row))


_SCORES: dict[type, Score] = {MaxProb: max_prob, Margin: margin, Entropy: certainty}


def certain(policy: Policy | ExpertPolicy) -> Certain | None:
    """Return the shortcut for a policy; None where its decisions are not a stateless score's.

    Parameters
    ----------
    policy : Policy
        Of logits as they are, one set of thresholds, and the score `max_prob`, `margin` or `entropy`.

    Returns
    -------
    callable or None

    Examples
    --------
    >>> find = certain(Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", 2))
    >>> find(0, [4.0, 0.0]), find(0, [0.0, 0.5]), find(0, [float("nan"), 0.5]), find(1, [0.0, 0.5])
    ((True, 0), (False, -1), None, (True, 1))
    """
    if isinstance(policy, ExpertPolicy) or type(policy.rule) not in _SCORES:
        return None
    simple = policy.kind == "logits" and type(policy.answer) is Plain and policy.mixture is None
    if not simple or not 2 <= policy.classes <= MOST_CLASSES:
        return None
    score = _SCORES[type(policy.rule)]
    thresholds, last = policy.thresholds.tolist(), policy.exits - 1
    near = TOLERANCE * (policy.classes + 8)

    def find(at: int, row: Sequence[float]) -> tuple[bool, int] | None:
        peak = max(row)
        if at == last:
            # The sum of finite logits is finite, since they are float32; of others it is not.
            return (True, row.index(peak)) if -inf < sum(row) < inf else None
        apart = score(row, peak) - thresholds[at]  # NaN where a logit is NaN or all infinite
        if apart > near:
            return True, row.index(peak)
        return (False, -1) if apart < -near else None

    return find
