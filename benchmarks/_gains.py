"""Accuracy of learned and simple policies at equal realised cost, over several divisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from _common import table

from policyopt._cache.data import ExitData
from policyopt._frontier import Path, compare_paths, curve, path_of, split_for_seed
from policyopt._intervals import bootstrap_means, interval
from policyopt._methods.registry import make_method
from policyopt._table import Tables
from policyopt.runtime._typing import Floats

BUDGETS = 9
REFERENCE = "max_prob"
FLAGSHIP = "optimal_stopping"
SIMPLE = ("margin", "entropy", "patience", "max_prob:thresholds=joint")
LEARNED = (
    "max_prob:answer=combined", "margin:answer=combined", FLAGSHIP, "optimal_stopping:answer=plain",
    "auto",
)  # fmt: skip
#: EENet trains for minutes per division, so each group runs by itself, on its own number of seeds.
#: The released formulas with the release's learning rate and epochs, and at a rate that converges.
GROUPS = {
    "released": ("eenet_released",),
    "eenet": ("eenet",),
    "converged": ("eenet_released:learning_rate=0.01+max_epochs=200+restarts=3",),
    "ablations": ("eenet:scores=max_prob", "eenet:distribution=geometric"),
}


def gains(name: str, data: ExitData, seeds: int) -> dict[str, Any]:
    """Hold every method but EENet against max_prob with geometric quotas."""
    del name
    tables = Tables(data)
    fit_rows = tables.get("fit")
    plain = [
        m for m in (REFERENCE, *SIMPLE, *LEARNED) if not make_method(m).missing_columns(fit_rows)
    ]
    paths = _paths(data, tables, plain, seeds)
    return {
        "seeds": seeds,
        "pooled": data.pooled,
        "unit": tables.cost.unit,
        "against_max_prob": {
            m: _against(paths, m, REFERENCE, range(seeds)) for m in plain if m != REFERENCE
        },
    }


def eenet_gains(group: str) -> Callable[[str, ExitData, int], dict[str, Any]]:
    """Return what measures one group of EENets, against max_prob and against the flagship."""

    def measure(name: str, data: ExitData, seeds: int) -> dict[str, Any]:
        del name
        methods = GROUPS[group]
        paths = _paths(data, Tables(data), [REFERENCE, FLAGSHIP, *methods], seeds)
        return {
            "eenet_seeds": {m: seeds for m in methods},
            "eenet_against_max_prob": {
                m: _against(paths, m, REFERENCE, range(seeds)) for m in methods
            },
            # At the rival's realised costs: the difference of the other, turned round.
            "flagship_against": {
                m: _turned(_against(paths, m, FLAGSHIP, range(seeds))) for m in methods
            },
        }

    return measure


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return what was found before and now: methods not measured again stay."""
    both = {**old, **new}
    for key in ("eenet_seeds", "eenet_against_max_prob", "flagship_against"):
        if key in old and key in new:
            both[key] = {**old[key], **new[key]}
    return both


def _paths(
    data: ExitData, tables: Tables, methods: list[str], seeds: int
) -> dict[tuple[str, int], Path]:
    """Fit and replay methods on divisions 0..seeds-1 (of a pool), or refits (of named splits)."""
    paths = {}
    frontier = curve(data, methods, BUDGETS, seeds=max(seeds, 2), tables=tables)
    for seed in range(seeds):
        test = split_for_seed(tables, seed, "test", max(seeds, 2))[1]
        for method in methods:
            paths[method, seed] = path_of(frontier, method, seed, test)
    return paths


def _against(
    paths: Mapping[tuple[str, int], Path], ours: str, rival: str, seeds: range
) -> dict[str, Any]:
    """Return the difference per budget and on average, with intervals."""
    return over_seeds([against(paths[ours, seed], paths[rival, seed], seed) for seed in seeds])


def against(ours: Path, rival: Path, seed: int) -> dict[str, Any]:
    """Return what one seed says of two paths: per budget, and averaged, with intervals."""
    points = compare_paths(ours, rival, seed)
    low, high = _average(ours, rival, seed)
    return {
        "difference": [p["difference"] for p in points],
        "low": [p["difference_low"] for p in points],
        "high": [p["difference_high"] for p in points],
        "accuracy": [p["accuracy"] for p in points],
        "realised_cost": [p["realised_cost"] for p in points],
        "average_low": low,
        "average_high": high,
    }


def over_seeds(each: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over seeds of what `against` says of each."""
    d = np.array([one["difference"] for one in each])
    mean = {key: np.mean([one[key] for one in each], axis=0) for key in each[0]}
    return {
        **{key: value.tolist() for key, value in mean.items()},
        "average": float(d.mean()),
        "sd_over_seeds": float(d.mean(axis=1).std(ddof=1)) if len(d) > 1 else 0.0,
        "by_seed": d.mean(axis=1).tolist(),
    }


def _average(ours: Path, rival: Path, seed: int) -> tuple[float, float]:
    """Return the 95 % paired bootstrap interval of the difference averaged over the budgets."""
    inner = slice(1, ours.cost.shape[1])
    columns = np.concatenate(
        [ours.cost[:, inner], ours.quality[:, inner], rival.cost, rival.quality], axis=1
    )
    points = inner.stop - inner.start
    split = np.cumsum([points, points, rival.cost.shape[1]])

    def average(row: Floats) -> float:
        cost, accuracy, other_cost, other_accuracy = np.split(row, split)
        order = np.argsort(other_cost, kind="stable")
        return float((accuracy - np.interp(cost, other_cost[order], other_accuracy[order])).mean())

    replicates = np.array(
        [average(row) for row in bootstrap_means(columns, np.random.default_rng(seed))]
    )
    low, high = interval(replicates)
    return float(low), float(high)


def _turned(found: dict[str, Any]) -> dict[str, Any]:
    """Return the same comparison seen from the rival's side."""
    turned = {k: [-v for v in found[k]] for k in ("difference", "by_seed")}
    return {
        **turned,
        "low": [-v for v in found["high"]],
        "high": [-v for v in found["low"]],
        "average": -found["average"],
        "average_low": -found["average_high"],
        "average_high": -found["average_low"],
        "sd_over_seeds": found["sd_over_seeds"],
    }


def gains_text(name: str, found: dict[str, Any]) -> str:
    """Return the tables of one cache."""
    drawn = "the pool halved anew per seed" if found["pooled"] else (
        "the same test rows for all seeds; seeds after the first refit on 80 % of the fit rows"
    )  # fmt: skip
    out = [f"## {name}\n\n{found['seeds']} seeds: {drawn}.\n"]
    titles = {
        "against_max_prob": "Points over max_prob with geometric quotas, at equal realised cost",
        "eenet_against_max_prob": "The same for EENet",
        "flagship_against": "optimal_stopping over EENet, at EENet's realised costs",
    }
    header = [
        "method", *(f"{10 * (i + 1)}%" for i in range(BUDGETS)), "mean", "95 %", "sd", "seeds",
    ]  # fmt: skip
    for key, title in titles.items():
        if key in found:
            seeds = found.get("eenet_seeds", {})
            rows = [
                (
                    method,
                    *(f"{100 * v:+.2f}" for v in f["difference"]),
                    f"{100 * f['average']:+.2f}",
                    f"[{100 * f['average_low']:+.2f}, {100 * f['average_high']:+.2f}]",
                    f"{100 * f['sd_over_seeds']:.2f}",
                    seeds.get(method, found["seeds"]),
                )
                for method, f in found[key].items()
            ]
            out.append(table(title, header, rows))
    return "\n".join(out)
