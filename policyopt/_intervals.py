"""Intervals of means over rows: bootstrap, bootstrap-t for costs, whose tails may be heavy, and of qualities."""

from __future__ import annotations

from functools import partial
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from policyopt._engine import run
from policyopt.runtime._typing import Array, Floats, Ints

REPLICATES = 1000
_PIECE = 1 << 20  # values looked at at a time
_BLOCK = 1 << 22  # resampled counts held at a time
_LONG = 1 << 28  # draws, some seconds, from which on others are asked to help
_MOST_RESAMPLED = 2_000  # rows: of more, the first terms of the expansion say the same


class MeanInterval(NamedTuple):
    """A mean, its interval, and on how many rows it rests."""

    mean: float
    low: float
    high: float
    effective_rows: float  # sum(x)**2 / sum(x**2) (Kish, 1965): as many equal rows say as much


def by_group(values: Array, group: Ints | None) -> Floats:
    """Return G values, (G, ...), of the same mean whose spread is that of groups of rows, (N, ...)."""
    # What a group adds to the mean beyond its rows' share, ``mean + G / N * sum(values - mean)``: the linearised
    # ratio of sums (Cochran, Sampling Techniques, 1977, 6.3), so that resampling groups is resampling these.
    values = np.asarray(values, dtype=np.float64)
    if group is None:
        return values
    mean = values.mean(axis=0)
    _, at = np.unique(group, return_inverse=True)
    order = np.argsort(at, kind="stable")
    first = np.flatnonzero(np.diff(at[order], prepend=-1))
    sums = np.add.reduceat((values - mean)[order], first, axis=0)
    return np.asarray(mean + sums * (len(first) / len(values)))


def standard_error(values: Array, group: Ints | None = None) -> Floats:
    """Return the standard error of the mean over rows (N, ...) of what belongs together."""
    each = by_group(values, group)
    return np.asarray(each.std(axis=0) / len(each) ** 0.5)


def proportion_interval(
    values: Array, level: float = 0.95, group: Ints | None = None
) -> tuple[float, float]:
    """Return the score interval of the mean of values in [0, 1], (N,) (Wilson, 1927): never of width 0."""
    mean = float(np.mean(values))
    return wilson(mean, effective_rows(values, mean, group), level)


def effective_rows(values: Array, mean: float, group: Ints | None) -> float:
    """Return how many rows that stand alone tell as much of a mean in [0, 1] as these (Korn & Graubard, 1998)."""
    # Few groups know their own spread badly: theirs is a t, not a normal.
    if group is None:
        return len(values)
    each = by_group(values, group)
    variance, alone = float(each.var(ddof=1)) if len(each) > 1 else 0.0, mean * (1 - mean)
    if not (variance and alone):
        return len(each)
    spread = _few(len(each)) / _few(len(values))
    return float(np.clip(alone * len(each) / variance / spread**2, 1.0, len(values)))


def _few(units: int) -> float:
    """Return how much wider a t makes the 95 % interval of so many units than a normal."""
    from scipy.stats import t

    return float(t.ppf(0.975, max(units - 1, 1))) / NormalDist().inv_cdf(0.975)


def wilson(mean: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return the same of a share of n rows."""
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2 / n
    middle = (mean + z2 / 2) / (1 + z2)
    half = (z2 * mean * (1 - mean) + z2**2 / 4) ** 0.5 / (1 + z2)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def with_interval(name: str, value: Any, low: Any, high: Any) -> dict[str, Any]:
    """Return the fields of a value and its interval."""
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def worth_fields(value: Any, graded: bool, prefix: str = "") -> dict[str, Any]:
    """Return a mean quality as the fields that records have of it; right or wrong, it is the accuracy, too."""
    return {f"{prefix}accuracy": None if graded else value, f"{prefix}quality": value}


def quality_fields(
    quality: Array, correct: Array | None, graded: bool, seed: int = 0, group: Ints | None = None
) -> dict[str, Any]:
    """Return mean quality and share of right answers of rows (N,) as fields with 95 % intervals, None if not known."""
    # Right or wrong, both are the same; graded, an answer's quality is not whether it is right. Wilson's interval
    # holds for shares; of grades it is the bootstrap-t, within [0, 1].
    if not len(quality):
        nothing = with_interval("accuracy", None, None, None)
        return nothing | with_interval("quality", None, None, None)
    if graded:
        found = mean_interval(quality, span=1.0, seed=seed, group=group)
        low, high = max(found.low, 0.0), min(found.high, 1.0)
    else:
        low, high = proportion_interval(quality, group=group)
        correct = quality
    own = with_interval("quality", float(quality.mean()), low, high)
    right: tuple[Any, ...] = (None, None, None)
    if correct is not None:
        right = float(correct.mean()), *proportion_interval(correct, group=group)
    return {**with_interval("accuracy", *right), **own}


def mean_interval(
    values: Array,
    level: float = 0.95,
    *,
    group: Ints | None = None,
    center: float | None = None,
    more_variance: float = 0.0,
    span: float | None = None,
    seed: int = 0,
) -> MeanInterval:
    """Return the bootstrap-t interval of the mean of values (N,) (Efron & Tibshirani, 1993, 12.5)."""
    # Quantiles of ``(mean* - mean) / error*`` over resamples: it leans as the values do (second order: Hall, 1988);
    # of more than 2,000 rows by their expansion in the skewness. `group` (N,): rows that are resampled together.
    # `center`: the mean where better known, `more_variance`: per row, from elsewhere, `span`: how far off another row
    # may lie (default: the range).
    rows = np.asarray(values, dtype=np.float64)
    values = by_group(rows, group)
    n, more_variance = len(values), more_variance * len(values) / len(rows)
    mean = float(values.mean())
    unseen = (float(np.ptp(values)) if span is None else span) ** 2 / (n + 1)
    squares, cubes = _powers(values, mean)
    variance = max(squares / max(n - 1, 1), unseen) + more_variance
    error = (variance / n) ** 0.5
    tails = (1 - level) / 2
    z = np.array([NormalDist().inv_cdf(tail) for tail in (tails, 1 - tails)])
    if error == 0.0:
        quantiles = z
    elif n > _MOST_RESAMPLED:
        skewness = cubes / n / variance**1.5
        quantiles = z - skewness * (2 * z**2 + 1) / (6 * n**0.5)
    else:
        centred = values - mean
        columns = np.stack([centred, centred**2], axis=1)
        first, second = bootstrap_means(columns, np.random.default_rng(seed)).T
        spread = (second - first**2) * n / max(n - 1, 1) + more_variance
        # A resample that misses the few rows that differ knows no error: it must not count as infinitely sure.
        # What the other sources would have made of each resample.
        noise = np.random.default_rng([seed, 1]).normal(size=len(first))
        moved = first + noise * (more_variance / n) ** 0.5
        studentised = moved / np.sqrt(np.maximum(spread, 0.05 * variance) / n)
        quantiles = np.quantile(studentised, [tails, 1 - tails])
    # Never narrower than the normal's: resamples of values nearly all alike know too little of their tails.
    quantiles = np.array([min(quantiles[0], z[0]), max(quantiles[1], z[1])])
    squares = float(values @ values)
    effective = float(values.sum()) ** 2 / squares if squares > 0 else float(n)
    middle = mean if center is None else center
    low, high = middle - error * quantiles[1], middle - error * quantiles[0]
    return MeanInterval(middle, float(low), float(high), effective)


def _powers(values: Floats, mean: float) -> tuple[float, float]:
    """Return the sums of squares and of cubes of what values (N,) differ by from their mean, some at a time."""
    squares = cubes = 0.0
    for low in range(0, len(values), _PIECE):
        centred = values[low : low + _PIECE] - mean
        squares += float(centred @ centred)
        cubes += float((centred * centred) @ centred)
    return squares, cubes


def bootstrap_means(
    columns: Floats,
    rng: np.random.Generator,
    replicates: int = REPLICATES,
    group: Ints | None = None,
) -> Floats:
    """Return the means of resampled rows (of groups) of (N, P), (replicates, P): one resample for all columns."""
    # Of few groups resamples are as far apart as a t has it, not as they are.
    columns = by_group(columns, group)
    n = len(columns)
    if group is not None and n > 1:
        mean = columns.mean(axis=0)
        columns = mean + (columns - mean) * (_few(n) * (n / (n - 1)) ** 0.5)
    # Rows that are alike in all columns are drawn together: the counts of the distinct rows are
    # multinomial, which is the same bootstrap and far fewer draws (costs take K values).
    distinct, counts = _distinct(columns)
    if len(distinct) <= n // 4:
        drawn = rng.multinomial(n, counts / n, size=replicates)
        return drawn @ distinct / n
    block = max(_BLOCK // n, 1)
    sizes = [min(block, replicates - low) for low in range(0, replicates, block)]
    # Each block has a stream of its own, so that it is the same whoever draws it.
    tasks = zip(sizes, [rng, *rng.spawn(len(sizes) - 1)], strict=True)
    work = partial(_resampled, columns)
    found = run(work, tasks) if n * replicates >= _LONG else map(work, tasks)
    return np.concatenate(list(found))


def _resampled(columns: Floats, block: tuple[int, np.random.Generator]) -> Floats:
    """Return the means of some resamples, (size, P)."""
    (size, rng), n = block, len(columns)
    drawn = rng.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
    weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
    return weights @ columns / n


def interval(replicates: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the percentile interval over the first axis."""
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    return low, high


def _distinct(columns: Floats) -> tuple[Floats, Ints]:
    """Distinct rows and their counts; through one integer key per row, which sorts fast."""
    key = np.zeros(len(columns), dtype=np.int64)
    for column in columns.T:
        levels, code = np.unique(column, return_inverse=True)
        most = (1 << 62) // max(len(levels), 1)
        if len(levels) > len(columns) // 4 or key.max(initial=0) >= most:
            return columns, np.ones(len(columns), dtype=np.int64)
        key = key * len(levels) + code
        _, key = np.unique(key, return_inverse=True)
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    return columns[first], counts
