"""How near policies come to their budget, and what the solvers are worth at equal realised cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from _common import table

from policyopt._cache.data import ExitData
from policyopt._frontier import (
    Frontier,
    Path,
    area_between,
    compare_paths,
    curve,
    path_of,
    split_for_seed,
)
from policyopt._table import Tables
from policyopt.runtime._typing import Floats

SCORES = ("max_prob", "entropy", "margin")
REFERENCE = "geometric"
SOLVERS = (REFERENCE, "shared", "joint")
BUDGETS = 9


def spec(score: str, solver: str) -> str:
    """Return a method as the command line writes it."""
    return f"{score}:thresholds={solver}"


def keeping(data: ExitData, seeds: int) -> dict[str, Any]:
    """Fit and replay every score with every solver, at nine budgets, over several seeds."""
    tables = Tables(data)
    specs = [spec(score, solver) for score in SCORES for solver in SOLVERS]
    frontier = curve(data, specs, BUDGETS, seeds=seeds, tables=tables)
    fit_rows, test_rows = split_for_seed(tables, 0, "test", seeds)
    paths = {
        (name, seed): path_of(frontier, name, seed, split_for_seed(tables, seed, "test", seeds)[1])
        for name in specs
        for seed in range(seeds)
    }
    return {
        "fit_rows": len(fit_rows),
        "test_rows": len(test_rows),
        "pooled": data.pooled,
        "seeds": seeds,
        "unit": tables.cost.unit,
        "budgets": [r["budget"] for r in frontier.records[:BUDGETS]],
        "share_of_full": [r["budget"] / test_rows.mean_costs[-1] for r in frontier.records[:BUDGETS]],
        "kept": {name: _kept(frontier, name, seeds) for name in specs},
        "gained": {
            spec(score, solver): _gained(paths, spec(score, solver), spec(score, REFERENCE), seeds)
            for score in SCORES
            for solver in SOLVERS
            if solver != REFERENCE
        },
    }  # fmt: skip


def _kept(frontier: Frontier, name: str, seeds: int) -> dict[str, Any]:
    """Return realised cost over budget, less 1, in several summaries."""
    records = [r for r in frontier.records if r["method"] == name]
    fitted = [f for (label, _, _), f in frontier.fitted.items() if label == name]

    def by_seed(values: Sequence[float]) -> Floats:  # records come seed by seed
        return np.array(values, dtype=np.float64).reshape(seeds, BUDGETS)

    off = by_seed([r["realised_cost"] / r["budget"] - 1 for r in records])
    inside = [
        r["expected_cost_low"] <= r["realised_cost"] <= r["expected_cost_high"] for r in records
    ]
    pairs = list(zip(fitted, records, strict=True))
    test_noise = by_seed([f.expected.sd / r["rows"] ** 0.5 / f.budget for f, r in pairs])
    both_noise = by_seed(
        [f.expected.sd * (1 / r["rows"] + 1 / f.expected.rows) ** 0.5 / f.budget for f, r in pairs]
    )
    mean = off.mean(axis=0)
    return {
        "mean_off": mean.tolist(),
        "sd_off": off.std(axis=0, ddof=1 if seeds > 1 else 0).tolist(),
        "mean_off_average": float(np.abs(mean).mean()),
        "mean_off_largest": float(np.abs(mean).max()),
        "single_off_average": float(np.abs(off).mean()),
        "single_off_largest": float(np.abs(off).max()),
        "coverage": float(np.mean(inside)),
        "test_noise": test_noise.mean(axis=0).tolist(),
        "fit_and_test_noise": both_noise.mean(axis=0).tolist(),
    }


def _gained(
    paths: dict[tuple[str, int], Path], name: str, rival: str, seeds: int
) -> dict[str, Any]:
    """Return the accuracy gained over the rival at equal realised cost, per budget and on average."""
    points = [compare_paths(paths[name, s], paths[rival, s], s) for s in range(seeds)]
    areas = [area_between(paths[name, s], paths[rival, s], s) for s in range(seeds)]
    gains = np.array([[p["difference"] for p in one] for one in points])
    area = np.array([a["area"] for a in areas])
    ddof = 1 if seeds > 1 else 0
    return {
        "difference": gains.mean(axis=0).tolist(),
        "difference_sd": gains.std(axis=0, ddof=ddof).tolist(),
        "area": float(area.mean()),
        "area_sd": float(area.std(ddof=ddof)),
        "area_low": float(np.mean([a["area_low"] for a in areas])),
        "area_high": float(np.mean([a["area_high"] for a in areas])),
    }


def text(name: str, found: dict[str, Any]) -> str:
    """Return the tables of one cache."""
    budgets = [f"{100 * share:.0f}%" for share in found["share_of_full"]]
    kept, gained = found["kept"], found["gained"]
    off = [
        (method, *(f"{100 * v:+.2f}" for v in k["mean_off"])) for method, k in kept.items()
    ]  # fmt: skip
    summary = [
        (
            method,
            *(
                f"{100 * k[column]:.2f}"
                for column in (
                    "mean_off_average", "mean_off_largest", "single_off_average", "single_off_largest",
                )
            ),
            f"{100 * np.mean(k['test_noise']):.2f}", f"{100 * np.mean(k['fit_and_test_noise']):.2f}",
            f"{100 * k['coverage']:.0f}",
        )
        for method, k in kept.items()
    ]  # fmt: skip
    differences = [
        (method, *(f"{100 * v:+.2f}" for v in g["difference"])) for method, g in gained.items()
    ]
    areas = [
        (
            method, f"{100 * g['area']:+.3f}", f"{100 * g['area_sd']:.3f}",
            f"[{100 * g['area_low']:+.3f}, {100 * g['area_high']:+.3f}]",
        )
        for method, g in gained.items()
    ]  # fmt: skip
    drawn = (
        "the pool divided anew per seed"
        if found["pooled"]
        else "the same test rows for all seeds; seeds after the first refit on 80 % of the fit rows"
    )
    head = (
        f"## {name}\n\n{found['fit_rows']:,} rows to fit, {found['test_rows']:,} to test; "
        f"{found['seeds']} seeds: {drawn}. Budgets in % of the full model's cost.\n"
    )
    return "\n".join(
        [
            head,
            table("Realised cost over budget, less 1, mean over seeds, %", ("method", *budgets), off),
            table(
                "The same in short, %",
                (
                    "method", "mean over seeds: average", "largest", "single seeds: average", "largest",
                    "sd of the test rows", "sd of fit + test rows", "95 % interval covers",
                ),
                summary,
            ),
            table(
                f"Accuracy gained over {REFERENCE} at equal realised cost, mean over seeds, points",
                ("method", *budgets), differences,
            ),
            table(
                "The same over the whole curve (area between the curves / range of cost), points",
                ("method", "mean", "sd over seeds", "95 % (paired bootstrap of rows, one seed)"), areas,
            ),
        ]
    )  # fmt: skip
