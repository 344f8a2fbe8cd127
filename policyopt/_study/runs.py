"""Statistics over training runs: does the way a model is trained matter, and which ways differ.

The tests of Rahmath P, Chaurasia & Bansal, Strategies at a glance, Neural Networks 2025, section 5.6, by scipy. They
are of independent runs: rows of one trained model are none.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import numpy as np

from policyopt._testing import holm, letters
from policyopt.runtime._checks import check_type, check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Floats

#: Spread that is rounding, as a share of the values.
_ROUNDING = 1e-12
#: What fields of a metric are called of which less is better.
_LESS = re.compile("loss|seconds|bytes|joules|error|gap|epoch|overthinking|brier|cost")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep scipy from warning of runs that hardly differ: their differences are rounding, which p-values tell."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        yield


@_quiet()
def compare_runs(
    values: Mapping[str, Sequence[float]], confidence: float | str = 0.95, *, less: bool = False
) -> dict[str, Any]:
    """Test whether models differ in a metric, by several training runs of each.

    Parameters
    ----------
    values : mapping of str to R numbers
        By model, the metric of each of its runs; two or more runs of each.
    confidence : float or str
        Of intervals and groups, 0.95 or ``"95%"``.
    less : bool
        Whether less is better, as of a loss.

    Returns
    -------
    dict
        ``shapiro_p`` of the pooled residuals (a model's few runs show no shape) and ``levene_p`` of the spreads (of
        medians); ``test``: anova, welch where spreads differ, kruskal where residuals are not normal, its
        ``statistic`` and ``p``; ``eta_squared``, ``omega_squared``; ``post_hoc``: Tukey's HSD, Games & Howell's
        where spreads differ, Dunn's of mean ranks with Holm's correction, which has no intervals, after kruskal;
        ``pairs``: ``better`` by ``difference`` in absolute terms, with simultaneous interval, ``p``, Hedges' ``g``,
        and ``paired_p`` of Holm where runs are matched by number; ``groups``: by model, letters of the groups that
        are not parted; ``rank`` by mean.

    Raises
    ------
    InputError
        Fewer than two models, a model with one run, or what is no number.

    Examples
    --------
    >>> found = compare_runs({"joint": [0.91, 0.92, 0.91], "separate": [0.84, 0.86, 0.85]})
    >>> found["test"], found["groups"], found["p"] < 0.01
    ('anova', {'joint': 'a', 'separate': 'b'}, True)
    """
    from scipy import stats

    from policyopt._bounds import delta_of

    delta = delta_of(confidence)
    step = "E.g. {'joint': [0.91, 0.92], 'separate': [0.88, 0.89]}."
    check_type("values", values, Mapping, "a mapping of model to its runs", step)
    check_whole("models", len(values), 2, step="ANOVA compares two or more.")
    step = "Train it again with other seeds: rows of one model say nothing about training."
    samples = dict[str, Floats]()
    for name, given in values.items():
        try:
            one = samples[name] = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):
            one = np.empty(0)  # refused below
        if one.ndim != 1 or len(one) < 2 or not np.isfinite(one).all():
            allowed = "two or more finite numbers, one per run"
            raise input_error(f"runs of {name}", allowed, given, step)
    names, runs = list(samples), list(samples.values())
    residuals, whole = np.concatenate([one - one.mean() for one in runs]), np.concatenate(runs)
    means = {name: float(one.mean()) for name, one in samples.items()}
    order = sorted(names, key=lambda name: means[name], reverse=not less)
    found: dict[str, Any] = {
        "less_is_better": less,
        "runs": {name: len(one) for name, one in samples.items()},
        "means": means,
        "sds": {name: float(one.std(ddof=1)) for name, one in samples.items()},
        "rank": {name: 1 + order.index(name) for name in names},
    }
    if np.abs(residuals).max() <= _ROUNDING * max(np.abs(whole).max(), 1e-300):
        # Such as a count of parameters: no test is needed, or has a meaning.
        return found | {"test": None, "pairs": [], "groups": {}, "post_hoc": None}
    normal = float(stats.shapiro(residuals).pvalue) if len(residuals) > 3 else None
    # Two runs lie alike about their median, whatever they are; runs that are all equal have no weight to give.
    tried = min(map(len, runs)) > 2 and all(np.ptp(one) > 0 for one in runs)
    spread = float(stats.levene(*runs, center="median").pvalue) if tried else None
    alike = spread is None or not spread < delta
    if ranked := normal is not None and normal < delta:
        test, outcome, post_hoc = "kruskal", stats.kruskal(*runs), "Dunn, Holm"
    else:
        test, outcome = "anova" if alike else "welch", stats.f_oneway(*runs, equal_var=alike)
        post_hoc = "Tukey HSD" if alike else "Games-Howell"
    within, total = float(residuals @ residuals), float(((whole - whole.mean()) ** 2).sum())
    between, square = total - within, within / (len(whole) - len(runs))
    omega = (between - (len(runs) - 1) * square) / (total + square)
    found |= {
        "shapiro_p": normal, "levene_p": spread, "test": test, "statistic": float(outcome.statistic),
        "p": float(outcome.pvalue), "eta_squared": between / total, "omega_squared": max(omega, 0.0),
        "post_hoc": post_hoc,
    }  # fmt: skip
    every, pairs, paired, ends = list(combinations(range(len(runs)), 2)), [], [], None
    if ranked:  # Tukey's numbers are of normal residuals
        p_values = holm(np.array([dunn(runs, a, b) for a, b in every]))
    else:
        after = stats.tukey_hsd(*runs, equal_var=alike)
        ends, p_values = after.confidence_interval(1 - delta), [after.pvalue[two] for two in every]
    for two, p in zip(every, p_values, strict=True):
        a, b = sorted(two, key=lambda m: means[names[m]], reverse=not less)
        gap, free = means[names[a]] - means[names[b]], len(runs[a]) + len(runs[b]) - 2
        # In pooled standard deviations, corrected for few runs (Hedges, 1981).
        pooled = (sum(runs[m].var() * len(runs[m]) for m in two) / free) ** 0.5
        effect = float(gap / pooled * (1 - 3 / (4 * free - 1))) if pooled else None
        low, high = (
            (None, None) if ends is None else (float(ends.low[a, b]), float(ends.high[a, b]))
        )
        pairs.append({
            "better": names[a], "worse": names[b], "difference": gap, "low": low, "high": high,
            "p": float(p), "hedges_g": effect,
        })  # fmt: skip
        if len({len(one) for one in runs}) == 1:
            paired.append(stats.ttest_rel(runs[a], runs[b]).pvalue)
    for pair, p in zip(pairs, holm(np.nan_to_num(paired, nan=1.0)).tolist(), strict=False):
        pair["paired_p"] = p
    return found | {"pairs": pairs, "groups": letters(order, [p for p in pairs if p["p"] <= delta])}


def dunn(runs: Sequence[Floats], a: int, b: int) -> float:
    """Return the p-value of two groups' mean ranks among all groups (Dunn, Technometrics 6, 1964), ties corrected."""
    from scipy import stats

    whole = np.concatenate(runs)
    n, rank = len(whole), stats.rankdata(whole)
    mean = [one.mean() for one in np.split(rank, np.cumsum([len(one) for one in runs])[:-1])]
    spread = stats.tiecorrect(rank) * n * (n + 1) / 12 * (1 / len(runs[a]) + 1 / len(runs[b]))
    return float(2 * stats.norm.sf(abs(mean[a] - mean[b]) / spread**0.5))


def less_is_better(metric: str) -> bool:
    """Whether a metric of this name is one of which less is better."""
    return _LESS.search(metric) is not None
