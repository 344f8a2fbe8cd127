"""Accuracy of learned and simple policies at equal realised cost, over several divisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from _common import table

from policyopt.cache.data import ExitData
from policyopt.frontier.compare import Path, compare_paths, path_of
from policyopt.frontier.curve import curve, split_for_seed
from policyopt.frontier.intervals import bootstrap_means, interval
from policyopt.methods import make_method
from policyopt.table import Tables

Floats = npt.NDArray[np.float64]
BUDGETS = 9
REFERENCE = "max_prob"
FLAGSHIP = "optimal_stopping"
SIMPLE = ("margin", "entropy", "patience", "max_prob:thresholds=joint")
LEARNED = (
    "max_prob:answer=combined", "margin:answer=combined", FLAGSHIP, "optimal_stopping:answer=plain",
    "auto",
)  # fmt: skip
#: As released; at the costs that it plans; and trained at a rate at which it converges.
RELEASED = (
    "eenet_released", "eenet_released:meet=false",
    "eenet_released:learning_rate=0.01+max_epochs=200+restarts=3",
)  # fmt: skip
EENET = ("eenet", *RELEASED)
ABLATIONS = ("eenet:scores=max_prob", "eenet:distribution=geometric")
#: Training EENet takes minutes per division: fewer of them, on the cache that the claims are about.
EENET_SEEDS = {"cifar10_cascade5": 5}


def gains(name: str, data: ExitData, seeds: int) -> dict[str, Any]:
    """Hold every method against max_prob with geometric quotas; and the flagship against EENet."""
    tables = Tables(data)
    fit_rows = tables.get("fit")
    plain = [m for m in (REFERENCE, *SIMPLE, *LEARNED) if not make_method(m).lacks(fit_rows)]
    if data.kind == "record":
        plain = [m for m in plain if "answer=" not in m]
    found: dict[str, Any] = {"seeds": seeds, "pooled": data.pooled, "unit": tables.cost.unit}
    paths = _paths(data, tables, plain, seeds)
    found["against_max_prob"] = {
        m: _against(paths, m, REFERENCE, range(seeds)) for m in plain if m != REFERENCE
    }
    count = min(EENET_SEEDS.get(name, 0), seeds)
    if count:
        trained = (*EENET, *ABLATIONS)
        paths.update(_paths(data, tables, list(trained), count, seeds))
        found["eenet_seeds"] = count
        found["eenet_against_max_prob"] = {
            m: _against(paths, m, REFERENCE, range(count)) for m in trained
        }
        # At the rival's realised costs: the difference of the other, turned round.
        found["flagship_against"] = {
            m: _turned(_against(paths, m, FLAGSHIP, range(count))) for m in trained
        }
    return found


def _paths(
    data: ExitData, tables: Tables, methods: list[str], seeds: int, of: int | None = None
) -> dict[tuple[str, int], Path]:
    """Fit and replay methods on divisions 0..seeds-1 (of `of`, which says how they are drawn)."""
    paths = {}
    frontier = curve(data, methods, BUDGETS, seeds=max(seeds, 2), tables=tables)
    for seed in range(seeds):
        test = split_for_seed(tables, seed, "test", of or max(seeds, 2))[1]
        for method in methods:
            paths[method, seed] = path_of(frontier, method, seed, test)
    return paths


def _against(
    paths: Mapping[tuple[str, int], Path], ours: str, rival: str, seeds: range
) -> dict[str, Any]:
    """Return the difference per budget and on average, with intervals."""
    differences, lows, highs = [], [], []
    means = []
    for seed in seeds:
        points = compare_paths(paths[ours, seed], paths[rival, seed], seed)
        differences.append([p["difference"] for p in points])
        lows.append([p["difference_low"] for p in points])
        highs.append([p["difference_high"] for p in points])
        means.append(_average(paths[ours, seed], paths[rival, seed], seed))
    d = np.array(differences)
    ends = np.array(means).mean(axis=0)
    return {
        "difference": d.mean(axis=0).tolist(),
        "low": np.mean(lows, axis=0).tolist(),
        "high": np.mean(highs, axis=0).tolist(),
        "average": float(d.mean()),
        "average_low": float(ends[0]),
        "average_high": float(ends[1]),
        "sd_over_seeds": float(d.mean(axis=1).std(ddof=1)) if len(d) > 1 else 0.0,
        "by_seed": d.mean(axis=1).tolist(),
    }


def _average(ours: Path, rival: Path, seed: int) -> tuple[float, float]:
    """Return the 95 % paired bootstrap interval of the difference averaged over the budgets."""
    inner = slice(1, ours.cost.shape[1] - 1)
    columns = np.concatenate(
        [ours.cost[:, inner], ours.correct[:, inner], rival.cost, rival.correct], axis=1
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
        "against_max_prob": "Points of accuracy over max_prob with geometric quotas, at equal realised cost",
        "eenet_against_max_prob": (
            f"The same for EENet ({found.get('eenet_seeds')} seeds; meet=false: at the planned costs)"
        ),
        "flagship_against": "optimal_stopping over EENet, at EENet's realised costs",
    }
    header = ["method", *(f"{10 * (i + 1)}%" for i in range(BUDGETS)), "mean", "95 %", "sd"]
    for key, title in titles.items():
        if key in found:
            rows = [
                (
                    method,
                    *(f"{100 * v:+.2f}" for v in f["difference"]),
                    f"{100 * f['average']:+.2f}",
                    f"[{100 * f['average_low']:+.2f}, {100 * f['average_high']:+.2f}]",
                    f"{100 * f['sd_over_seeds']:.2f}",
                )
                for method, f in found[key].items()
            ]
            out.append(table(title, header, rows))
    return "\n".join(out)
