"""Bounds that hold with a confidence for finite samples: of shares exactly, of means of bounded costs.

Shares: Clopper and Pearson (Biometrika 1934). Means: the bound of Waudby-Smith and Ramdas (JRSS B 2024,
arXiv:2010.09686) as in Bates et al., "Distribution-free, risk-controlling prediction sets" (JACM 2021,
arXiv:2101.02703), Proposition 5: who bets against a mean of at least r, on rows in random order, seldom
gets rich where it is true. It follows the spread of the costs, which is far less than their range.
"""

from __future__ import annotations

from math import log

import numpy as np
from scipy.stats import beta

from policyopt.runtime.typing import Floats

_HALVINGS = 40


def share_low(hits: int, rows: int, confidence: float) -> float:
    """Return a lower bound of a share of which `hits` of `rows` were seen.

    Examples
    --------
    >>> round(share_low(95, 100, 0.95), 3), share_low(0, 100, 0.95)
    (0.898, 0.0)
    """
    return 0.0 if hits == 0 else float(beta.ppf(1 - confidence, hits, rows - hits + 1))


def share_high(hits: int, rows: int, confidence: float) -> float:
    """Return an upper bound of a share of which `hits` of `rows` were seen.

    Examples
    --------
    >>> round(share_high(0, 100, 0.95), 3)  # the rule of three
    0.03
    """
    return 1.0 - share_low(rows - hits, rows, confidence)


def mean_high(values: Floats, low: float, high: float, confidence: float) -> float:
    """Return an upper bound of the mean that `values`, (n,) in random order, were drawn from.

    Parameters
    ----------
    values : ndarray of shape (n,)
    low, high : float
        What no value can be below or above.
    confidence : float

    Returns
    -------
    float
        At most `high`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> round(mean_high(rng.choice([1.0, 5.0], 1000, p=[0.9, 0.1]), 1.0, 5.0, 0.95), 2)
    1.48
    """
    if high <= low:
        return high
    n, rich = len(values), log(1 / (1 - confidence))
    x = np.clip((values - low) / (high - low), 0.0, 1.0)
    count = np.arange(2, n + 2)
    mean = (0.5 + np.cumsum(x)) / count
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / count
    # A bet may look only at the rows before its own.
    stake = np.minimum(1.0, np.sqrt(2 * rich / (n * np.array([0.25, *variance[:-1]]))))

    def refuted(mean: float) -> bool:
        with np.errstate(divide="ignore"):  # all lost: the logarithm of nothing
            return bool(np.cumsum(np.log1p(-stake * (x - mean))).max() >= rich)

    below, above = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        below, above = (below, middle) if refuted(middle) else (middle, above)
    return low + (high - low) * above
