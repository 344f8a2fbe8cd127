"""P-values of "the mean loss is `most` or more", from n losses of rows that chose nothing.

All are valid at any n (super-uniform where the mean is `most`), but `normal`, which holds in the long run only.

- ``binomial``: exact, of losses 0 or 1. P(B <= sum), B of n draws at `most`.
- ``ternary``: exact, of losses -1, 0 or 1 (a drop of right or wrong). The most of P(S <= sum) over how often losses are
  not 0, within an interval of that which misses it with a chance that is added (Berger & Boos, JASA 89, 1994).
- ``selective``: exact, of wrong answers among those that are given.
- ``hoeffding_bentkus``: of means of losses in [low, high] (Bates, Angelopoulos, Lei, Malik & Jordan, RCPS, JACM 68,
  2021, section 3.1.1; Angelopoulos et al., Learn then test, arXiv:2110.01052, proposition 8).
- ``betting``: one over the most that a bettor against the claim would have made of 1 (Waudby-Smith & Ramdas, Estimating
  means of bounded random variables by betting, JRSS B 86, 2024, section 4; Ville's inequality). It learns the spread of
  the losses, so it is sharp where they are small, signed or rare. It needs no lower end of the losses.
- ``normal``: of the studentised mean. Asymptotic.

The bettor stakes ``lambda_i = min(c / (high - most), sqrt(2 log(1/delta) / (n v_i)))`` on loss i, `v_i` the variance of
the losses before it; as they come in an order, that is drawn anew from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from policyopt._thresholds.budget_search import bisect
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Floats

#: Of what may be staked at all: the rest is never lost.
_STAKED = 0.9
#: Of the level of a `ternary` test: the chance that the interval of what is not 0 misses it; shares looked at in it.
_MISSED, _SHARES = 0.05, 32
_MOST_ROWS = 1 << 22  # told of
_BLOCK = 1 << 24  # losses looked at at a time
_HALVINGS = 40

PValue = Callable[..., Floats]


def delta_of(confidence: float | str) -> float:
    """Return delta of a confidence, 0.95 or "95%"."""
    value: Any = confidence
    if isinstance(confidence, str):
        text = confidence.strip()
        try:
            value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            value = None
    if not isinstance(value, (int, float)) or not 0.5 <= value < 1.0:
        step = 'E.g. 0.95, or "95%".'
        raise input_error("confidence", "from 50 % to below 100 %", confidence, step)
    return 1.0 - float(value)


def upper(p: Callable[[float], float], delta: float) -> float:
    """Return the least mean in [0, 1] that p-values, `p(most)`, show to be passed with chance `delta` at most."""
    return bisect(lambda most: p(most) > delta, 0.0, 1.0, _HALVINGS)[1]


def share_high(hits: int, n: int, delta: float) -> float:
    """Return the upper bound of a share of which `hits` of n were seen: where `binomial` is `delta`."""
    return 1.0 if hits >= n else float(special.betaincinv(hits + 1, n - hits, 1 - delta))


def binomial(losses: Floats, most: float, **_: object) -> Floats:
    """Return p-values of losses 0 or 1, (L, n): (L,)."""
    return binomial_of(losses.sum(axis=1), losses.shape[1], most)


def binomial_of(count: Floats, n: int, most: float) -> Floats:
    """Return P(B <= count), B of n draws at `most`."""
    if most >= 1.0:
        return np.where(count >= n, 1.0, 0.0)
    return np.asarray(special.bdtr(np.floor(count + 1e-9), n, max(most, 0.0)))


def ternary(losses: Floats, most: float, *, delta: float, **_: object) -> Floats:
    """Return p-values of losses -1, 0 or 1, (L, n): (L,)."""
    n = losses.shape[1]
    counts = np.stack([(losses > 0).sum(axis=1), (losses < 0).sum(axis=1)], axis=1)
    known, at = np.unique(counts, axis=0, return_inverse=True)
    each = [_of_counts(a, b, n, most, delta * _MISSED) for a, b in known.tolist()]
    return np.array(each)[at.ravel()]


def _of_counts(plus: int, minus: int, n: int, most: float, missed: float) -> float:
    """Return the p-value of so many losses of 1 and -1 of n."""
    other, difference = plus + minus, plus - minus
    high = share_high(other, n, missed / 2)
    low = max(1.0 - share_high(n - other, n, missed / 2), abs(most))
    if high < low:  # so few can hardly lose that much
        return missed
    found = 0.0
    for share in np.linspace(low, high, _SHARES):
        q = 0.5 * (1 + most / share) if share else 0.5  # of those that are not 0: 1
        middle, reach = n * share, 8 * (n * share * (1 - share)) ** 0.5 + 8
        m = np.arange(max(int(middle - reach), 0), min(int(middle + reach), n) + 1)
        weight = np.exp(
            special.gammaln(n + 1) - special.gammaln(m + 1) - special.gammaln(n - m + 1)
            + special.xlogy(m, share) + special.xlog1py(n - m, -share)
        )  # fmt: skip
        k = np.floor((m + difference) / 2)
        inner = special.bdtr(np.clip(k, 0, np.maximum(m - 1, 0)), np.maximum(m, 1), min(q, 1.0))
        inner = np.where(k >= m, 1.0, np.where(k < 0, 0.0, inner))
        found = max(found, float(weight @ inner))
    return min(found + missed, 1.0)


def selective(losses: Floats, most: float, *, low: float, **_: object) -> Floats:
    """Return p-values of "wrong of the answered are -low or more", (L,); losses (L, n): 0 where not answered."""
    # Given how many are answered, the wrong ones among them are a binomial.
    wrong, answered = (losses > 0).sum(axis=1), (losses != 0).sum(axis=1)
    return np.asarray(special.bdtr(wrong, answered, -low))


def hoeffding_bentkus(
    losses: Floats, most: float, *, low: float, high: float, **_: object
) -> Floats:
    """Return p-values of losses in [low, high], (L, n): (L,)."""
    n, width = losses.shape[1], high - low
    mean, at = (losses.mean(axis=1) - low) / width, (most - low) / width
    mean = np.clip(mean, 0.0, 1.0)
    if at >= 1.0:
        return np.where(mean >= 1.0, 1.0, 0.0)
    if at <= 0.0:
        return np.ones(len(mean))
    below = np.minimum(mean, at)
    divergence = special.rel_entr(below, at) + special.rel_entr(1 - below, 1 - at)
    bentkus = math.e * special.bdtr(np.ceil(n * mean - 1e-9), n, at)
    return np.minimum(np.minimum(np.exp(-n * divergence), bentkus), 1.0)


def betting(losses: Floats, most: float, *, high: float, delta: float, **_: object) -> Floats:
    """Return p-values of losses of at most `high`, (L, n), in an order that says nothing: (L,)."""
    count, n = losses.shape
    if most >= high:
        return np.zeros(count)
    out = np.empty(count)
    step = max(_BLOCK // max(n, 1), 1)
    # Before any loss is seen: the variance of losses 0 and `high` at the border, worth some losses.
    guess = max(most, 0.01 * high) * (high - most)
    weight = 0.25 * high**2 / guess
    before = np.arange(n)
    for low in range(0, count, step):
        x = losses[low : low + step]
        sums = np.cumsum((x - most) ** 2, axis=1) - (x - most) ** 2
        variance = np.maximum((weight * guess + sums) / (weight + before), 1e-12)
        stake = np.sqrt(2 * math.log(1 / delta) / (n * variance))
        stake = np.minimum(stake, _STAKED / (high - most))
        won = np.cumsum(np.log1p(stake * (most - x)), axis=1)
        out[low : low + step] = np.exp(-np.maximum(won.max(axis=1), 0.0))
    return out


def normal(losses: Floats, most: float, **_: object) -> Floats:
    """Return asymptotic p-values of losses (L, n): (L,)."""
    n = losses.shape[1]
    error = losses.std(axis=1, ddof=1) / n**0.5
    gap = losses.mean(axis=1) - most
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error > 0, gap / error, np.where(gap < 0, -np.inf, np.inf))
    return np.asarray(special.ndtr(z))


def crc(losses: Floats, most: float, *, high: float, **_: object) -> Floats:
    """Return what the mean of losses (L, n) and of one that is `high` is of `most`: (L,); no p-value."""
    # Of losses that rise from level to level: the mean loss of the last level at which this is 1 or less is `most` at
    # most, over draws of calibration rows and a request (Angelopoulos et al., Conformal risk control,
    # arXiv:2208.02814, theorem 1).
    n = losses.shape[1]
    return np.asarray((losses.sum(axis=1) + high) / ((n + 1) * most))


P_VALUES: dict[str, PValue] = {
    "binomial": binomial, "ternary": ternary, "selective": selective, "betting": betting,
    "hoeffding_bentkus": hoeffding_bentkus, "normal": normal,
}  # fmt: skip
#: What may be asked for: of a conformal risk control's share of what is allowed, 1 or less is shown.
PROCEDURES: dict[str, PValue] = {**P_VALUES, "crc": crc}


#: By what losses are; of others the procedure of their name.
_DEFAULTS = {"binary": "binomial", "bounded": "betting"}


def default_of(kind: str, n: int, most: float, delta: float) -> str:
    """Return the procedure of n losses: the sharpest that is valid, whatever the losses show."""
    # Of few that are mostly 0 a walk says less than a bet: who loses nothing may have won back what was lost.
    few = kind == "ternary" and n * most < 3 * math.log(1 / delta)
    return "betting" if few else _DEFAULTS.get(kind, kind)


def rows_that_do(
    kind: str, given: str | None, losses: Floats, most: float, delta: float, low: float, high: float
) -> int | None:
    """Return how many losses like these, (n,), would show that their mean is under `most`; None: no number would."""
    if losses.mean() >= most:
        return None
    rng, order = np.random.default_rng(0), np.sort(losses)

    def shown(n: int) -> bool:
        alike = order[np.arange(n) * len(order) // n]  # in the same shares
        test = PROCEDURES[given or default_of(kind, n, most, delta)]
        drawn = rng.permutation(alike)[None]
        return bool(test(drawn, most, low=low, high=high, delta=delta)[0] <= delta)

    few, many = len(losses), 2 * len(losses)
    while not shown(many):
        few, many = many, 2 * many
        if many > _MOST_ROWS:
            return None
    while many - few > max(few // 50, 1):
        middle = (few + many) // 2
        few, many = (few, middle) if shown(middle) else (middle, many)
    return many
