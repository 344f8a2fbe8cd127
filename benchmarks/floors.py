"""Does a fit that is asked for a floor on quality keep it on new rows, and at what price?

A draw fits `method` on `n` rows, drawn with replacement from a population whose every row is then replayed: the truth.
Floors lie 50 and 80 % of the way from the first exit's quality to the best that the method reaches. A cell states the
mean over draws of realised quality less the floor, with its standard error; the same of the plug-in, which takes the
least cost whose quality on the rows of the fit meets the floor; and mean realised cost over the mean cost at which the
same draws' own frontiers meet the floor on the population. Draws that are refused are counted, and left out.
Runs are resumed: each draw is a line of ``results/floors.jsonl``.

    python benchmarks/floors.py --draws 200
    python benchmarks/floors.py --table
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, table
from promises import population

from policyopt import BudgetError, Target
from policyopt._methods.base import Method
from policyopt._methods.levels import Levels
from policyopt._methods.registry import make_method
from policyopt._replay import replay
from policyopt._table import Table

OUT = Path(__file__).parent / "results" / "floors.jsonl"
METHODS = {
    "max_prob": "max_prob", "joint": "max_prob:thresholds=joint", "optimal_stopping": "optimal_stopping",
    "auto": "auto",
}  # fmt: skip
ROWS = (300, 1000, 5000)
WAYS = (0.5, 0.8)
PEOPLE = 10_000
AROUND = np.array([0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25])
_reached: dict[str, tuple[float, float]] = {}


def people() -> Table:
    """Return the population: the first rows of that of plain data."""
    return population("plain").take(np.arange(PEOPLE))


def ends(method: str) -> tuple[float, float]:
    """Return the first exit's quality, and the best that a method fitted on all people reaches."""
    if method not in _reached:
        everyone = people()
        levels = Levels(make_method(METHODS["joint" if method == "auto" else method]), everyone, 0)
        best = max(level.value for level in levels.on_grid() if level is not None)
        _reached[method] = float(everyone.quality[:, 0].mean()), best
    return _reached[method]


def draw(method: str, n: int, number: int) -> dict[str, Any]:
    """Fit at a floor on one draw of rows, and look at what it comes to on everyone."""
    everyone, rng = people(), np.random.default_rng([n, number, list(METHODS).index(method)])
    rows = everyone.take(np.sort(rng.integers(0, PEOPLE, n)))
    way = WAYS[number % len(WAYS)]
    low, high = ends(method)
    floor = low + way * (high - low)
    head = {"method": method, "n": n, "draw": number, "way": way, "floor": floor}
    made = make_method(METHODS[method])
    try:
        (fitted,) = made.fit_path(rows, [Target(quality=floor)], number)
    except BudgetError:
        return {**head, "refused": True}
    seen = replay(fitted.policy, everyone)
    found = {**head, "quality": float(seen.quality.mean()), "cost": float(seen.cost.mean())}
    found |= {"stated": fitted.quality}
    if method == "auto":
        return found
    return {**found, **frontier(made, rows, everyone, floor, found["cost"], number)}


def frontier(
    made: Method, rows: Table, everyone: Table, floor: float, cost: float, seed: int
) -> dict[str, Any]:
    """Return where the draw's own levels meet the floor on everyone, and what the plug-in comes to."""
    levels = Levels(made, rows, seed)
    least, most = levels.aims[0], levels.aims[-1]
    aims = np.unique(np.clip(cost * AROUND, least, most)).tolist()
    policies = [
        levels.frozen(level, aim).policy for level, aim in zip(levels.at(aims), aims, strict=True)
    ]
    outcomes = [replay(policy, everyone) for policy in policies]
    costs = np.array([one.cost.mean() for one in outcomes])
    worth = np.maximum.accumulate([one.quality.mean() for one in outcomes])
    meets = float(np.interp(floor, worth, costs)) if worth[0] <= floor <= worth[-1] else None
    low, high = least, most
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (low, middle) if levels.at([middle])[0].value >= floor else (middle, high)
    plug = replay(levels.frozen(levels.at([high])[0], high).policy, everyone)
    return {
        "meets": meets,
        "plug_in": float(plug.quality.mean()),
        "plug_cost": float(plug.cost.mean()),
    }


def lines_of(records: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a line per cell."""
    out = []
    for method in METHODS:
        for n in ROWS:
            cell = [r for r in records if (r["method"], r["n"]) == (method, n)]
            kept = [r for r in cell if "refused" not in r]
            if not kept:
                continue
            over = 100 * np.array([r["quality"] - r["floor"] for r in kept])
            plug = 100 * np.array([r["plug_in"] - r["floor"] for r in kept if "plug_in" in r])
            pairs = [(r["cost"], r["meets"]) for r in kept if r.get("meets") is not None]
            ratio = (
                np.mean([a for a, _ in pairs]) / np.mean([b for _, b in pairs]) if pairs else np.nan
            )
            error = over.std(ddof=1) / len(over) ** 0.5 if len(over) > 1 else np.nan
            out.append((
                method, f"{n:,}", str(len(cell)), str(len(cell) - len(kept)), f"{over.mean():+.2f} ({error:.2f})",
                f"{plug.mean():+.2f}" if len(plug) else "", f"{ratio:.3f}" if pairs else "",
            ))  # fmt: skip
    return out


def text(records: list[dict[str, Any]]) -> str:
    """Return the page."""
    header = (
        "method", "fit rows", "draws", "refused", "quality less floor, points (se)", "plug-in", "cost over frontier's",
    )  # fmt: skip
    body = table("Floors on new rows", header, lines_of(records))
    return f"# Floors\n\n{(__doc__ or '').split('Runs are')[0].strip()}\n\n{body}\n\n{machine()}\n"


def main() -> None:
    """Draw what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--only", default=",".join(METHODS))
    parser.add_argument("--rows", default=",".join(map(str, ROWS)))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    known = given.out.read_text().splitlines() if given.out.exists() else []
    records = [json.loads(line) for line in known]
    if not given.table:
        done = {(r["method"], r["n"], r["draw"]) for r in records}
        tasks = [
            (method, n, number)
            for number in range(given.draws)
            for n in map(int, given.rows.split(","))
            for method in given.only.split(",")
            if (method, n, number) not in done
        ]
        with ProcessPoolExecutor(given.workers) as pool, given.out.open("a") as file:
            for record in pool.map(draw, *zip(*tasks, strict=True), chunksize=1) if tasks else ():
                records.append(record)
                file.write(json.dumps(record) + "\n")
                file.flush()
    page = text(records)
    given.out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
