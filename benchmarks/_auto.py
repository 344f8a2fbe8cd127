"""Does `auto` ever do worse than the best single simple rule, and by how much, with few fit rows?"""

from __future__ import annotations

from typing import Any

import numpy as np
from _common import table

from policyopt._cache.data import ExitData
from policyopt._costs import parse_budgets
from policyopt._frontier import Path, compare_paths
from policyopt._methods.registry import make_method
from policyopt._replay import replay
from policyopt._table import Table, Tables

ROWS = (500, 1000, 5000)
SIMPLE = ("max_prob", "margin", "entropy")
OTHERS = ("auto", "optimal_stopping")
BUDGETS = 9


def auto(name: str, data: ExitData, seeds: int) -> dict[str, Any]:
    """Fit on 500, 1,000 and 5,000 rows drawn anew per seed; hold all against max_prob."""
    del name
    tables = Tables(data)
    found: dict[str, Any] = {"seeds": seeds, "rows": {}}
    most = len(tables.get("fit"))
    for count in sorted({min(rows, most) for rows in ROWS}):
        simple = [m for m in SIMPLE if not make_method(m).missing_columns(tables.get("fit"))]
        gains: dict[str, list[list[float]]] = {m: [] for m in (*simple, *OTHERS)}
        chosen: list[list[str]] = []
        for seed in range(seeds):
            division = seed if data.pooled else None
            fit_rows, test = tables.get("fit", division), tables.get("test", division)
            draw = np.random.default_rng(seed).permutation(len(fit_rows))[:count]
            fit_rows = fit_rows.take(np.sort(draw))
            budgets = parse_budgets(BUDGETS, fit_rows.mean_costs)
            paths = {}
            for method in gains:
                fitted = make_method(method).fit_path(fit_rows, budgets, seed)
                paths[method] = _path([f.policy for f in fitted], test)
                if method == "auto":
                    chosen.append([f.policy.provenance["chosen"]["method"] for f in fitted])
            for method in gains:
                points = compare_paths(paths[method], paths["max_prob"], seed)
                gains[method].append([p["difference"] for p in points])
        found["rows"][str(count)] = _judge(gains, simple, chosen)
    return found


def _judge(
    gains: dict[str, list[list[float]]], simple: list[str], chosen: list[list[str]]
) -> dict[str, Any]:
    """Return, per budget, how far auto stands above the simple rule that is best on the test rows."""
    mean = {m: np.mean(g, axis=0) for m, g in gains.items()}
    best = [max(simple, key=lambda m: mean[m][b]) for b in range(BUDGETS)]
    out: dict[str, Any] = {"best_simple": best, "gain_over_max_prob": {}, "over_best": {}}
    for method in gains:
        out["gain_over_max_prob"][method] = mean[method].tolist()
    for method in OTHERS:
        # Paired over the seeds. On one set of test rows (named splits) this leaves out their noise.
        margin = np.array(
            [
                [gains[method][s][b] - gains[best[b]][s][b] for b in range(BUDGETS)]
                for s in range(len(chosen))
            ]
        )
        out["over_best"][method] = {
            "mean": margin.mean(axis=0).tolist(),
            "standard_error": (margin.std(axis=0, ddof=1) / len(margin) ** 0.5).tolist(),
        }
    names = sorted({m for row in chosen for m in row})
    out["chosen"] = {m: [sum(r[b] == m for r in chosen) for b in range(BUDGETS)] for m in names}
    return out


def _path(policies: list[Any], test: Table) -> Path:
    """Replay policies and add the two ends that any method has."""
    outcomes = [replay(policy, test) for policy in policies]
    costs = np.broadcast_to(test.costs, (len(test), test.exits))
    return Path(
        np.stack([costs[:, 0], *(o.cost for o in outcomes), costs[:, -1]], axis=1),
        np.stack([test.quality[:, 0], *(o.quality for o in outcomes), test.quality[:, -1]], axis=1),
    )


def auto_text(name: str, found: dict[str, Any]) -> str:
    """Return the tables of one cache."""
    out = [f"## {name}\n\nMean of {found['seeds']} draws of the fit rows.\n"]
    header = ["", *(f"{10 * (i + 1)}%" for i in range(BUDGETS)), "mean"]
    for rows, judged in found["rows"].items():
        lines = []
        for method in OTHERS:
            over = judged["over_best"][method]
            pairs = zip(over["mean"], over["standard_error"], strict=True)
            lines.append(
                (
                    f"{method} less best simple",
                    *(f"{100 * m:+.2f} ({100 * e:.2f})" for m, e in pairs),
                    f"{100 * np.mean(over['mean']):+.2f}",
                )
            )
        lines.append(("best simple", *judged["best_simple"], ""))
        lines += [
            (f"auto chose {m}", *map(str, counts), "") for m, counts in judged["chosen"].items()
        ]
        title = f"{int(rows):,} fit rows: points at equal realised cost (standard error)"
        out.append(table(title, header, lines))
    return "\n".join(out)
