"""Statistics over training runs: does the way a model is trained matter, and which ways differ.

The tests of Rahmath P, Chaurasia & Bansal, Strategies at a glance, Neural Networks 2025, section 5.6, by scipy. They
are of independent runs: rows of one trained model are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import combinations
from typing import Any

import numpy as np

from policyopt._certificates.testing import holm
from policyopt.runtime._checks import check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Floats

#: Spread that is rounding, as a share of the values.
_ROUNDING = 1e-12
#: What fields of a metric are called of which less is better.
_LESS = (
    "loss",
    "seconds",
    "bytes",
    "joules",
    "error",
    "gap",
    "epoch",
    "overthinking",
    "brier",
    "cost",
)


def compare_runs(
    values: Mapping[str, Sequence[float]], level: float = 0.95, *, less: bool = False
) -> dict[str, Any]:
    """Test whether models differ in a metric, by several training runs of each.

    Parameters
    ----------
    values : mapping of str to R numbers
        By model, the metric of each of its runs; two or more runs of each.
    level : float
        Confidence.
    less : bool
        Whether less is better, as of a loss.

    Returns
    -------
    dict
        ``shapiro_p`` of the pooled residuals (a model's few runs show no shape) and ``levene_p`` of the spreads (of
        medians); ``test``: anova, welch where spreads differ, kruskal where residuals are not normal, its
        ``statistic`` and ``p``; ``eta_squared``, ``omega_squared``; ``post_hoc``: Tukey's HSD, or Games & Howell's
        where spreads differ; ``pairs``: ``better`` by ``difference`` in absolute terms, with simultaneous interval,
        ``p``, Hedges' ``g``, and ``paired_p`` of Holm where runs are matched by number; ``groups``: by model, letters
        of the groups that are not parted; ``rank`` by mean.

    Raises
    ------
    InputError
        Fewer than two models, or a model with one run.

    Examples
    --------
    >>> found = compare_runs({"joint": [0.91, 0.92, 0.91], "separate": [0.84, 0.86, 0.85]})
    >>> found["test"], found["groups"], found["p"] < 0.01
    ('anova', {'joint': 'a', 'separate': 'b'}, True)
    """
    from scipy import stats

    check_whole("models", len(values), 2, step="ANOVA compares two or more.")
    samples = {name: np.asarray(runs, dtype=np.float64) for name, runs in values.items()}
    single = [name for name, runs in samples.items() if len(runs) < 2]
    if single:
        got = f"1 of {single[0]}"
        step = (
            "Train it again with other seeds: rows of one trained model say nothing about training."
        )
        raise input_error("runs", "two or more of each model", got, step)
    names, groups = list(samples), list(samples.values())
    residuals = np.concatenate([runs - runs.mean() for runs in groups])
    whole = np.concatenate(groups)
    within, between = float(residuals @ residuals), float(((whole - whole.mean()) ** 2).sum())
    between -= within
    same = np.abs(residuals).max() <= _ROUNDING * max(np.abs(whole).max(), 1e-300)
    found: dict[str, Any] = {
        "runs": {name: len(runs) for name, runs in samples.items()},
        "means": {name: float(runs.mean()) for name, runs in samples.items()},
        "sds": {name: float(runs.std(ddof=1)) for name, runs in samples.items()},
    }
    order = sorted(names, key=lambda name: found["means"][name], reverse=not less)
    found["rank"] = {name: 1 + order.index(name) for name in names}
    if same:  # such as a count of parameters: no test is needed, or has a meaning
        return found | {"test": None, "pairs": [], "groups": {}, "post_hoc": None}
    normal = float(stats.shapiro(residuals).pvalue) if len(residuals) > 3 else None
    # Two runs lie alike about their median, whatever they are; runs that are all equal have no weight to give.
    tried = min(map(len, groups)) > 2 and all(np.ptp(runs) > 0 for runs in groups)
    spread = float(stats.levene(*groups, center="median").pvalue) if tried else None
    alike, shaped = (
        spread is None or not spread < 1 - level,
        normal is None or normal >= 1 - level,
    )
    if not shaped:
        test, outcome = "kruskal", stats.kruskal(*groups)
    else:
        test, outcome = "anova" if alike else "welch", stats.f_oneway(*groups, equal_var=alike)
    count, free = len(names), len(whole) - len(names)
    mean_square = within / free
    found |= {
        "shapiro_p": normal, "levene_p": spread, "test": test, "statistic": float(outcome.statistic),
        "p": float(outcome.pvalue), "eta_squared": between / (between + within),
        "omega_squared": max((between - (count - 1) * mean_square) / (between + within + mean_square), 0.0),
        "post_hoc": "Tukey HSD" if alike else "Games-Howell",
    }  # fmt: skip
    after = stats.tukey_hsd(*groups, equal_var=alike)
    low, high = after.confidence_interval(level)
    pairs = []
    for a, b in combinations(range(count), 2):
        first, second = (b, a) if after.statistic[a, b] * (-1 if less else 1) < 0 else (a, b)
        pairs.append({
            "better": names[first], "worse": names[second],
            "difference": float(after.statistic[first, second]), "low": float(low[first, second]),
            "high": float(high[first, second]), "p": float(after.pvalue[first, second]),
            "hedges_g": _hedges(groups[first], groups[second]),
        })  # fmt: skip
    if len({len(runs) for runs in groups}) == 1:
        raw = np.array([
            stats.ttest_rel(samples[pair["better"]], samples[pair["worse"]]).pvalue for pair in pairs
        ])  # fmt: skip
        for pair, p in zip(pairs, holm(np.nan_to_num(raw, nan=1.0)).tolist(), strict=True):
            pair["paired_p"] = p
    parted = {
        frozenset((pair["better"], pair["worse"])) for pair in pairs if pair["p"] <= 1 - level
    }
    return found | {"pairs": pairs, "groups": letters(order, parted)}


def _hedges(first: Floats, second: Floats) -> float | None:
    """Return the difference in pooled standard deviations, corrected for few runs (Hedges, 1981)."""
    free = len(first) + len(second) - 2
    spread = (
        (first.var(ddof=1) * (len(first) - 1) + second.var(ddof=1) * (len(second) - 1)) / free
    ) ** 0.5
    return (
        float((first.mean() - second.mean()) / spread * (1 - 3 / (4 * free - 1)))
        if spread
        else None
    )


def letters(order: Sequence[str], parted: Set[frozenset[str]]) -> dict[str, str]:
    """Return by name, of names in order of rank, the letters of the groups within which no pair is parted."""
    ends = list[tuple[int, int]]()
    for first in range(len(order)):
        last = first
        while last + 1 < len(order) and not any(
            frozenset((name, order[last + 1])) in parted for name in order[first : last + 1]
        ):
            last += 1
        if not ends or last > ends[-1][1]:
            ends.append((first, last))
    return {
        name: "".join(_letter(g) for g, (first, last) in enumerate(ends) if first <= i <= last)
        for i, name in enumerate(order)
    }


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"[{number}]"


def less_is_better(metric: str) -> bool:
    """Whether a metric of this name is one of which less is better."""
    return any(word in metric for word in _LESS)
