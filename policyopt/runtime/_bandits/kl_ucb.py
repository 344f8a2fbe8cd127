"""KL-UCB, for rewards in [0, 1] with the divergence of two Bernoulli variables."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .._checks import check_least
from .base import setting
from .index import IndexBandit, IndexPlayer

_STEPS = 60  # of Newton's method at most; 3 to 6 are usual
_SMALL = 1e-300  # stands in for 0 where there is a logarithm
_LEAST_SHARE = 1e-30  # moves the index by 1e-15 at most
_2_3, _8_9 = 2.0 / 3.0, 8.0 / 9.0
_BELOW = 1.0 - 2.0**-53  # the largest number below 1
_TIE = 1e-12  # indices this near to the largest are equal to it


@dataclass(frozen=True)
class KLUCB(IndexBandit):
    """The largest q with ``N kl(mean, q) <= ln t + c ln ln t``, kl that of two Bernoulli variables.

    Of all rewards in [0, 1] with a given mean Bernoulli's deviate most, so the bound holds for all.

    Parameters
    ----------
    c : float
        The paper's analysis has 3; for practice it recommends 0.

    Notes
    -----
    For t < 3, ``ln ln t`` is taken as 0. Indices are solved for only where bounds on them leave open
    which is the largest. Indices within 1e-12 are equal.
    """

    c: float = setting(0.0, check_least)

    name = "kl_ucb"
    summary = "bounds the mean as tightly as 0/1 rewards allow"
    reference = (
        "KL-UCB (Garivier & Cappe, COLT 2011, algorithm 1), for rewards in [0, 1] "
        "with Bernoulli's kl."
    )

    def best(self, seen: IndexPlayer, clock: float) -> int:
        """Return the arm with the largest index, by bounds on the indices if they will do."""
        level = clock + self.c * math.log(max(clock, 1.0))
        arms = [(x / n, level / n) for x, n in zip(seen.total, seen.pulls, strict=True)]
        bounds = [_not_above(mean, share) for mean, share in arms]
        for _ in range(2):
            top = max(bounds)
            first = bounds.index(top)
            bounds[first] = -1.0
            if _above(*arms[first], max(bounds) + 2.0 * _TIE):
                return first
            # The bounds of those in question, and of those only, are brought nearer to the indices.
            bounds[first] = bar = _nearer(*arms[first], top)
            for a, bound in enumerate(bounds):
                if bound > bar:
                    bounds[a] = _nearer(*arms[a], bound)
        found = [upper_bound(mean, share) for mean, share in arms]
        bar = max(found) - _TIE
        return max(a for a, value in enumerate(found) if value >= bar)


def _nearer(p: float, share: float, q: float) -> float:
    """Return a bound on the index between the index and the bound q: one step of Newton's method."""
    if not 0.0 < p < q < 1.0:
        return q
    d, rest = q - p, 1.0 - p
    over = -p * math.log1p(d / p) - rest * math.log1p(-d / rest) - share
    return q - over * q * (rest - d) / d if over > 0.0 else q


def _not_above(p: float, share: float) -> float:
    """Return a bound that no index is above, without logarithms and near it where share is small.

    ``kl(p, p + d)`` is the integral of ``x h(p + x)`` from 0 to d with the convex
    ``h(y) = 1 / (y (1 - y))``, so by Jensen's inequality at least ``d^2 / 2 h(p + 2 d / 3)``.
    """
    if not 0.0 <= p <= 1.0:
        p = min(max(p, 0.0), 1.0)
    k, h = 1.0 + share * _8_9, share * (1.0 - p - p) * _2_3
    return p + (h + math.sqrt(h * h + 2.0 * share * k * (p - p * p))) / k


def _above(p: float, share: float, q: float) -> bool:
    """Return whether the index is above q: kl(p, q) < share; without logarithms if a bound will do."""
    d = q - p
    if d <= 0.0:
        return True
    if not 0.0 < p < q < 1.0:
        return False
    # The chord of the convex h lies above it.
    if d * d * (1.0 / (p - p * p) + 2.0 / (q - q * q)) < 6.0 * share:
        return True
    return -p * math.log1p(d / p) - (1.0 - p) * math.log1p(-d / (1.0 - p)) < share


def upper_bound(mean: float, share: float) -> float:
    """Return the largest q with ``kl(mean, q) <= share``.

    Newton's method from the right: there kl is convex in q, so it falls to the root and never under it
    (but for rounding). It starts at the lesser of two bounds: `_not_above`, and that which follows
    from ``kl >= mean ln mean + (1 - mean) ln((1 - mean) / (1 - q))``.
    """
    p, share = min(max(mean, _SMALL), _BELOW), max(share, _LEAST_SHARE)
    rest = 1.0 - p
    most = rest * _BELOW
    d = _not_above(p, share) - p
    if d > 0.5 * rest:
        tail = rest - rest * math.exp(max((p * math.log(p) - share) / rest, -700.0))
        d = min(d, tail, most)
    d = max(d, _SMALL)
    for _ in range(_STEPS):
        over = -p * math.log1p(d / p) - rest * math.log1p(-d / rest) - share
        step = over * (p + d) * (rest - d) / d
        d = min(max(d - step, _SMALL), most)
        # The next step would be about step^2 / (d (1 - q)).
        if abs(step) < 1e-8 * math.sqrt(d * (rest - d)):
            break
    return p + d
