"""The cheapest certified cost on real caches, and how often the rest of the rows contradicts it. Resumable.

All rows of a cache are divided anew: three tenths fit a family of 30 levels, three tenths are the calibration, on the
rest the certified level is replayed. Claims: a drop of at most 0.5, 1 and 2 points behind the full model, at 90 and
95 %. A family is fitted once per division, and certified for all six. Where nothing is certified the full model runs,
at cost 1.

- *ours*: `po.certify` with its defaults of a family by that method;
- *one shared threshold*: max_prob with one threshold for all exits, from the full model on over 100 quantiles of the
  confidences of the rows of the fit, under the same certificate (the same p-values, fixed sequence);
- *RC-EENN, LTT* and *WSR*: on the same levels, the procedures of arXiv:2405.20915, corrected: Hoeffding-Bentkus of
  losses cut at 0 (so a drop is claimed, but a harm is tested), and the betting bound of signed losses; the last level
  that passed is deployed. Their own grid of equal steps finds little where confidences lie near 1;
- *as published*: LTT on the grid of equal steps (0.01), deploying the first level that fails, as the released code
  does;
- *looks kept*: the cheapest level of the quantiles whose mean drop on the calibration rows is under the claim; not
  tested.

A violation is a drop on the rest that is over the claim. The rest is a sample too: of a policy right at the border
every second one is over it. *Refuted*: over it by more than 1.645 standard errors of the rest, which befalls 5 % of
those at the border. Divisions share their rows, so intervals over them tell of the division and not of other data.

Each (cache, division, method) is a line of ``results/certify_real.jsonl``.

    python benchmarks/certify_real.py [--divisions 200]
    python benchmarks/certify_real.py --methods auto --divisions 10
    python benchmarks/certify_real.py --table
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from _caches import ROOT, caches
from _common import machine, table
from auto import together
from matplotlib.figure import Figure
from numpy.typing import NDArray

import policyopt as po
from policyopt._bounds import P_VALUES, default_of, hoeffding_bentkus
from policyopt._cache.data import ExitData
from policyopt._certificates.risks import taken
from policyopt._report.figures import save_figure
from policyopt._table import Table, Tables
from policyopt._testing import fallback
from policyopt.runtime._errors import BudgetError

OUT = ROOT / "benchmarks" / "results" / "certify_real.jsonl"
CACHES = ("cifar10_cascade5", "fashion_mnist", "mmlu_llama5")
TITLES = {
    "cifar10_cascade5": "CIFAR-10, cascade of 5 models", "fashion_mnist": "Fashion-MNIST, 5 exits",
    "mmlu_llama5": "MMLU, 5 Llama models",
}  # fmt: skip
SHARES = {"fit": 0.3, "calibrate": 0.3, "test": 0.4}
CLAIMS = tuple((most, confidence) for most in (0.005, 0.01, 0.02) for confidence in (0.9, 0.95))
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours, max_prob, joint": ("max_prob", {"thresholds": "joint"}),
    "ours, optimal_stopping": ("optimal_stopping", {}),
    "ours, auto": ("auto", {}),
}
RIVAL = "one shared threshold"
THEIRS = (RIVAL, "RC-EENN, LTT", "RC-EENN, WSR", "as published", "looks kept")
#: Okabe & Ito, as the project's other pictures.
DRAWN = {
    "ours, optimal_stopping": ("#0072B2", "o"), "ours, auto": ("#000000", "X"),
    "one shared threshold": ("#D55E00", "s"), "RC-EENN, WSR": ("#009E73", "D"), "RC-EENN, LTT": ("#CC79A7", "^"),
}  # fmt: skip
Floats = NDArray[np.float64]


def realised(cost: Floats, drop: Floats, full: float) -> list[float]:
    """Return the cost as a share of the full model's, the drop, and its standard error, on the rest of the rows."""
    error = drop.std(ddof=1) / len(drop) ** 0.5
    return [float(f"{v:.5g}") for v in (cost.mean() / full, drop.mean(), error)]


def ours(data: ExitData, method: str, settings: dict[str, Any]) -> list[Any]:
    """Return what the certified policy of each claim comes to on the rest, None where none is."""
    tables = Tables(data)
    family = po.fit_family(data, 30, method, spend="all", tables=tables, **settings)
    rest, found = tables.get("test"), list[Any]()
    known: dict[Any, Any] = {}

    def once(policy: Any, table: Table) -> Any:  # the six claims are of the same replays
        key = id(policy), table.split
        if key not in known:
            known[key] = taken(policy, table)
        return known[key]

    for most, confidence in CLAIMS:
        try:
            claim = f"drop<={100 * most:g}%"
            with mock.patch("policyopt._certificates.certify.taken", once):
                certified = po.certify(data, claim, confidence, method=family, tables=tables)
        except BudgetError:
            found.append(None)
            continue
        seen = taken(certified.policy, rest)
        assert seen.quality is not None and seen.full_quality is not None
        drop = np.nan_to_num(seen.full_quality - seen.quality)
        found.append(realised(seen.cost, drop, float(rest.mean_costs[-1])))
    return found


def on_grid(rows: Table, thresholds: Floats) -> tuple[Floats, Floats]:
    """Return drops and costs of shared thresholds, (L, N)."""
    sure, right = rows.statistics.top_prob[:, :, 0], rows.statistics.quality
    assert right is not None
    exits = sure > thresholds[:, None, None]
    exits[:, :, -1] = True
    at, exit_taken = np.arange(len(right)), exits.argmax(axis=2)
    costs = np.broadcast_to(rows.costs, right.shape)
    drops = right[:, -1].astype(np.float64) - right[at, exit_taken]
    return drops, costs[at, exit_taken]


def wsr_shown(losses: Floats, most: float, delta: float) -> NDArray[np.bool_]:
    """Return of which levels RC-EENN's betting bound is under `most`: what was bet against that is over 1 / delta."""
    n = losses.shape[1]
    count = np.arange(1, n + 1)
    mean = (np.cumsum(losses, axis=1) + 0.5) / (1 + count)
    variance = (np.cumsum((losses - mean) ** 2, axis=1) + 0.25) / (1 + count)
    variance = np.concatenate([np.full((len(losses), 1), 0.25), variance[:, :-1]], axis=1)
    stake = np.minimum(np.sqrt(2 * np.log(1 / delta) / n / variance), 1.0)
    won = np.cumsum(np.log(1 - stake * (losses - most)), axis=1)
    return np.asarray(won.max(axis=1) > np.log(1 / delta))


def passed(drops: Floats, most: float, delta: float) -> int:
    """Return how many levels the default certificate shows, one after the other."""
    test = P_VALUES[default_of("ternary", drops.shape[1], most, delta)]
    for low in range(0, len(drops), 20):  # far beyond the last nobody looks
        p = test(drops[low : low + 20], most, low=-1.0, high=1.0, delta=delta)
        if (p > delta).any():
            return low + int((p > delta).argmax())
    return len(drops)


def theirs(data: ExitData) -> dict[str, list[Any]]:
    """Return the same of procedures on grids of one shared threshold; the first level is the full model."""
    tables = Tables(data)
    steps = np.linspace(1, 0, 101)
    sure = tables.get("fit").statistics.top_prob[:, :-1, 0]
    quantiles = np.concatenate([[1.0], np.quantile(sure, np.linspace(1, 0, 100))])
    calibration, rest = tables.get("calibrate"), tables.get("test")
    full, found = float(rest.mean_costs[-1]), dict[str, list[Any]]()
    for grid in (steps, quantiles):
        # Bets are only fair in an order that says nothing: rows of a file may be sorted by subject.
        drops = on_grid(calibration, grid)[0][
            :, np.random.default_rng(0).permutation(len(calibration))
        ]
        rest_drops, rest_costs = on_grid(rest, grid)
        for most, confidence in CLAIMS:
            delta = 1 - confidence
            p = hoeffding_bentkus(np.maximum(drops, 0.0), most, low=0.0, high=1.0)
            ltt = int(fallback(p, delta).sum())  # levels that pass before the first that fails
            wsr = int(np.logical_and.accumulate(wsr_shown(drops, most, delta)).sum())
            shared = passed(drops, most, delta) if grid is quantiles else 0
            looks = np.flatnonzero(drops.mean(axis=1) < most)
            levels = {
                RIVAL: shared - 1, "RC-EENN, LTT": ltt - 1, "RC-EENN, WSR": wsr - 1, "looks kept": int(looks[-1]),
            } if grid is quantiles else {"as published": min(ltt, len(grid) - 1)}  # fmt: skip
            for label, j in levels.items():
                what = realised(rest_costs[j], rest_drops[j], full) if j >= 0 else None
                found.setdefault(label, []).append(what)
    return found


def ratios(found: list[Any]) -> Floats:
    """Return costs as shares of the full model's, drops and errors, of D divisions, (D, 3)."""
    return np.array([one or [1.0, 0.0, 0.0] for one in found]).reshape(-1, 3)


def halfwidth(values: Floats) -> float:
    """Return half of the 95 % interval of a mean over divisions."""
    return (
        1.96 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    )


def text(records: list[dict[str, Any]]) -> str:
    """Return the page."""
    by: dict[tuple[str, str], dict[int, list[Any]]] = {}
    for one in records:
        by.setdefault((one["cache"], one["method"]), {})[one["division"]] = one["found"]
    labels = [one for one in (*METHODS, *THEIRS) if any(key[1] == one for key in by)]
    costs, less, wrong, drops = [], [], [], []
    for cache in CACHES:
        for i, (most, confidence) in enumerate(CLAIMS):
            row = (cache, f"{100 * most:g}", f"{100 * confidence:g}")
            cells: list[tuple[str, ...]] = []
            for label in labels:
                divisions, rival = by.get((cache, label), {}), by.get((cache, RIVAL), {})
                if not divisions:
                    cells.append(("",) * 4)
                    continue
                cost, drop, error = ratios([found[i] for found in divisions.values()]).T
                refused = np.mean([found[i] is None for found in divisions.values()])
                both = [d for d in divisions if d in rival]
                gap = ratios([divisions[d][i] for d in both]) - ratios([rival[d][i] for d in both])
                over, refuted = drop > most, drop - 1.645 * error > most
                none = f" [{100 * refused:.0f}]" if refused else ""
                cells.append((
                    f"{100 * cost.mean():.1f} ({100 * halfwidth(cost):.1f}){none}",
                    f"{100 * gap[:, 0].mean():+.1f} ({100 * halfwidth(gap[:, 0]):.1f})",
                    f"{100 * over.mean():.0f} ({100 * refuted.mean():.0f})",
                    f"{100 * drop.mean():+.2f} ({100 * error.mean():.2f})",
                ))  # fmt: skip
            for lines, each in zip(
                (costs, less, wrong, drops), zip(*cells, strict=True), strict=True
            ):
                lines.append((*row, *each))
    head = ("cache", "drop, points", "confidence", *labels)
    seconds = []
    for label in (one for one in labels if one in METHODS):
        each = [
            [r["seconds"] for r in records if (r["cache"], r["method"]) == (cache, label)]
            for cache in CACHES
        ]
        told = (f"{np.median(one):.1f}, {len(one)}" if one else "" for one in each)
        seconds.append((label, *told))
    parts = (
        table("Cost, % of the full model's: mean (half of the 95 % interval) [refused, %]", head, costs),
        table(f"Cost less that of '{RIVAL}' on the same divisions, % of the full model's", head, less),
        table("Violations on the rest, % of divisions (refuted)", head, wrong),
        table("Drop on the rest, points: mean (standard error of the rest, mean)", head, drops),
        table("Seconds per division, median, and divisions: 30 levels, six certificates", ("what", *CACHES), seconds),
    )  # fmt: skip
    intro, body = (__doc__ or "").split("Each (cache")[0].strip(), "\n\n".join(parts)
    return f"# Certified costs on real caches\n\n{intro}\n\n{body}\n\n{machine()}\n"


def draw(records: list[dict[str, Any]], confidence: float = 0.95) -> None:
    """Draw docs/certified.png: costs by what is claimed, one panel per cache."""
    figure = Figure(figsize=(3.3 * len(CACHES), 3.4), layout="constrained")
    panels = figure.subplots(1, len(CACHES))
    at = [i for i, claim in enumerate(CLAIMS) if claim[1] == confidence]
    for axes, cache in zip(panels, CACHES, strict=True):
        for (label, (colour, marker)), line in zip(
            DRAWN.items(), ("-", "-", "--", "-.", ":"), strict=True
        ):
            found = [r["found"] for r in records if (r["cache"], r["method"]) == (cache, label)]
            if found:
                costs = [100 * ratios([one[i] for one in found])[:, 0] for i in at]
                axes.errorbar(
                    [100 * CLAIMS[i][0] for i in at], [c.mean() for c in costs], [halfwidth(c) for c in costs],
                    color=colour, marker=marker, ms=4.5, lw=1.5, ls=line, capsize=2, label=label,
                )  # fmt: skip
        axes.set_title(TITLES.get(cache, cache), fontsize=10)
        axes.set_xlabel("certified: a drop of at most [points]")
        axes.set_xticks([100 * CLAIMS[i][0] for i in at])
        axes.set_ylim(bottom=0)
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"cost, % of the full model's, \n{100 * confidence:g} % confidence")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    save_figure(figure, ROOT / "docs" / "certified.png", dpi=110)


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--caches", default=",".join(CACHES))
    parser.add_argument("--methods", default="optimal_stopping", help="of ours; separated by ;")
    parser.add_argument("--divisions", type=int, default=200)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    known = given.out.read_text().splitlines() if given.out.exists() else []
    records = [json.loads(line) for line in known]
    done = {(r["cache"], r["division"], r["method"]) for r in records}
    methods = [m if m in METHODS else f"ours, {m}" for m in given.methods.split(";") if m]
    with tempfile.TemporaryDirectory() as place:
        named = caches(Path(place), given.caches.split(","))
        pools = {} if given.table else {name: together(data) for name, data in named}
        for seed in range(0 if given.table else given.divisions):
            for name, pool in pools.items():
                data = replace(pool, shares=SHARES, split_seed=seed)
                for label in (*methods, "RC-EENN"):
                    if (name, seed, THEIRS[0] if label == "RC-EENN" else label) in done:
                        continue
                    start = time.perf_counter()
                    found = (
                        theirs(data)
                        if label == "RC-EENN"
                        else {label: ours(data, METHODS[label][0], METHODS[label][1])}
                    )
                    spent = round(time.perf_counter() - start, 2)
                    with given.out.open("a") as file:
                        for method, what in found.items():
                            records.append(
                                {"cache": name, "division": seed, "method": method, "seconds": spent, "found": what}
                            )  # fmt: skip
                            file.write(json.dumps(records[-1]) + "\n")
            if seed % 10 == 9:
                print(f"{seed + 1} divisions", file=sys.stderr, flush=True)
    page = text(records)
    given.out.with_suffix(".md").write_text(page)
    print(page)
    if given.out == OUT:
        draw(records)


if __name__ == "__main__":
    main()
