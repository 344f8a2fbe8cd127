"""Does a fitted policy keep its budget, and do its stated interval and accuracy hold? A table, cell by cell.

A population of 50,000 rows is made per kind of data; a draw fits on `n` of them, drawn with replacement, so
that the replay over all of them is the truth, not another estimate. Budgets lie 10, 40 and 70 % of the way
from exit 0 to the last one (in the population's costs), one draw after the other, and are spent. Kinds:

- plain: logits of 4 exits, 5 classes, one cost per exit;
- saturated: summaries of a chain of language models, most confidences exactly 1, costs per query;
- heavy: the rows of plain, with costs per sample, log-normal (sigma 1.5).

A cell's lines: realised cost against the budget; how often the stated 95 % interval holds the true mean
cost; its width beside that of the bootstrap-t interval of the mean of the same policy's costs on its fit
rows (`scipy` has none: it is a few lines here, and knows nothing of how the policy was found); stated
accuracy less the true one; how often the fit declined to state an interval (its cost counts all the same).
Runs are resumed: each draw is a line of
``results/promises.jsonl``.

    python benchmarks/promises.py                      # all, some hours of processor time
    python benchmarks/promises.py --draws 20 --only max_prob,joint --rows 100,300
    python benchmarks/promises.py --table              # what is there
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, table

import policyopt as po
from policyopt._methods.base import fit_where_possible
from policyopt._methods.registry import make_method
from policyopt._replay import trace
from policyopt._table import Table, Tables

OUT = Path(__file__).parent / "results" / "promises.jsonl"
METHODS = {
    "max_prob": "max_prob:spend=all",
    "joint": "max_prob:thresholds=joint+spend=all",
    "optimal_stopping": "optimal_stopping:spend=all",
    "fitted_q": "fitted_q:spend=all",
    "berxit": "berxit:spend=all",
    "auto": "auto:spend=all",
}
KINDS = ("plain", "saturated", "heavy")
ROWS = (100, 300, 1000, 5000)
FEWER = ("auto", "berxit")  # a third of the draws: they take longest
POSITIONS = (0.1, 0.4, 0.7)
POPULATION = 50_000
_populations: dict[str, Table] = {}


def population(kind: str) -> Table:
    """Return the rows that all draws of a kind are drawn from."""
    if kind not in _populations:
        rng = np.random.default_rng(7)
        data = saturated(rng) if kind == "saturated" else logits(rng, kind == "heavy")
        _populations[kind] = Tables(data).get("test")
    return _populations[kind]


def logits(rng: np.random.Generator, heavy: bool) -> po.ExitData:
    labels = rng.integers(0, 5, POPULATION)
    difficulty = rng.gamma(2.0, 1.0, POPULATION)
    signal = np.array([1.5, 2.6, 3.8, 5.0])[None, :] / (0.6 + difficulty)[:, None]
    noise = rng.normal(size=(POPULATION, 1, 5)) * 0.6 + rng.normal(size=(POPULATION, 4, 5)) * 0.8
    outputs = (noise + signal[:, :, None] * np.eye(5)[labels][:, None, :]).astype(np.float32)
    costs = np.array([1.0, 2.0, 4.0, 8.0])
    if not heavy:
        return po.from_arrays(outputs, labels, costs, unit="ms", split={"test": 1.0})
    size = rng.lognormal(-(1.5**2) / 2, 1.5, POPULATION)
    return po.from_arrays(
        outputs,
        labels,
        sample_costs={"time": costs * size[:, None]},
        unit="ms",
        split={"test": 1.0},
    )


def saturated(rng: np.random.Generator) -> po.ExitData:
    hard, accuracy = rng.random(POPULATION), np.array([0.90, 0.70, 0.87, 0.95])
    limits = np.quantile(0.6 * hard + 0.4 * rng.random(POPULATION), accuracy)
    right = np.stack([(0.6 * hard + 0.4 * rng.random(POPULATION)) < a for a in limits])
    prediction = np.where(right, 0, rng.integers(1, 21, right.shape))
    spread = np.exp(-rng.exponential(4.0, right.shape))
    confidence = np.where(rng.random(right.shape) < np.where(right, 0.76, 0.45), 1.0, spread)
    price = np.array([0.043, 0.255, 0.255, 0.72])[:, None] * rng.lognormal(0, 0.07, (1, POPULATION))
    return po.from_arrays(
        prediction=prediction.T, confidence=confidence.T, correct=right.T,
        sample_costs={"price": 1e-3 * price.T}, cost_kind="standalone", unit="USD", split={"test": 1.0},
    )  # fmt: skip


def bootstrap_t_width(paid: np.ndarray, rng: np.random.Generator, replicates: int = 500) -> float:
    """Return the width of the 95 % bootstrap-t interval of a mean (Efron & Tibshirani, 1993, 12.5)."""
    n = len(paid)
    drawn = paid[rng.integers(0, n, (replicates, n))]
    error = drawn.std(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (drawn.mean(axis=1) - paid.mean()) / error
    t = t[np.isfinite(t)]
    return float(np.ptp(np.quantile(t, [0.025, 0.975])) * paid.std(ddof=1)) if len(t) else 0.0


def draw(kind: str, method: str, n: int, number: int) -> dict[str, Any]:
    """Fit on one draw of rows, and hold what is stated against the population."""
    people = population(kind)
    seed = [KINDS.index(kind), n, number]
    rng = np.random.default_rng(seed)
    rows = people.take(np.sort(rng.integers(0, POPULATION, n)))
    means = people.mean_costs
    position = POSITIONS[number % len(POSITIONS)]
    budget = float(means[0] + position * (means[-1] - means[0]))
    head = {"kind": kind, "method": method, "n": n, "draw": number, "position": position}
    (fitted,) = fit_where_possible(make_method(METHODS[method]), rows, [budget], number)
    if fitted is None:  # a budget may lie outside what so few rows can cost
        return {**head, "declined": "budget"}
    seen = trace(fitted.policy, people)
    assert seen.quality_taken is not None
    low, high = fitted.expected.stated
    return {
        **head, **({"declined": "tail"} if low is None else {}),
        "budget": budget, "cost": float(seen.cost.mean()), "expected": fitted.expected.cost,
        "low": low, "high": high,
        "t_width": bootstrap_t_width(trace(fitted.policy, rows).cost, rng),
        "stated_accuracy": fitted.quality, "accuracy": float(seen.quality_taken.mean()),
        "took": fitted.policy.provenance.get("chosen", {}).get("method"),
    }  # fmt: skip


def cells(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line per cell: means over draws."""
    grouped = defaultdict(list)
    for record in records:
        grouped[record["kind"], record["method"], record["n"]].append(record)
    out = []
    for (kind, method, n), found in sorted(
        grouped.items(), key=lambda e: (KINDS.index(e[0][0]), list(METHODS).index(e[0][1]), e[0][2])
    ):
        held = [r for r in found if r.get("declined") != "budget"]
        told = [r for r in held if "declined" not in r]
        line: dict[str, Any] = {"kind": kind, "method": method, "n": n, "draws": len(found)}
        line["declined"] = 1 - len(told) / len(found)
        # Where a fit says that it keeps less than asked (nothing more to buy), its own word is the measure.
        aims = np.array([min(r["budget"], r["expected"]) for r in held])
        measures = {
            "off": [r["cost"] / a - 1 for r, a in zip(held, aims, strict=True)],
            "holds": [r["low"] <= r["cost"] <= r["high"] for r in told],
            "optimism": [r["stated_accuracy"] - r["accuracy"] for r in held],
        }
        for name, values in measures.items():
            values = np.asarray(values, dtype=float)
            line[name] = float(values.mean()) if len(values) else float("nan")
            line[f"{name}_error"] = (
                float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
            )
        ratio = [(r["high"] - r["low"]) / r["t_width"] for r in told if r["t_width"] > 0]
        line["width"] = float(np.median(ratio)) if ratio else float("nan")
        for position in POSITIONS:
            for name, rows in (("off", held), ("holds", told)):
                here = [i for i, r in enumerate(rows) if r["position"] == position]
                of = np.asarray(measures[name], dtype=float)[here]
                line[f"{name}_{position}"] = float(of.mean()) if here else None
        out.append(line)
    return out


def text_of(lines: list[dict[str, Any]]) -> str:
    header = ["data, method", "n", "draws", "cost off %", "interval holds %", "width / bootstrap-t",
              "accuracy, points too high", "declined %", "off % at 10, 40, 70 %", "holds % there"]  # fmt: skip
    rows = [
        [f"{c['kind']} {c['method']}", c["n"], c["draws"],
         f"{100 * c['off']:+.1f} ± {200 * c['off_error']:.1f}", f"{100 * c['holds']:.1f}",
         f"{c['width']:.2f}", f"{100 * c['optimism']:+.2f} ± {200 * c['optimism_error']:.2f}",
         f"{100 * c['declined']:.0f}",
         " ".join("-" if c[f"off_{p}"] is None else f"{100 * c[f'off_{p}']:+.1f}" for p in POSITIONS),
         " ".join("-" if c[f"holds_{p}"] is None else f"{100 * c[f'holds_{p}']:.0f}" for p in POSITIONS)]
        for c in lines
    ]  # fmt: skip
    mean = float(np.nanmean([c["holds"] for c in lines]))
    title = "What a fit states, held against 50,000 rows (± two standard errors)"
    return (
        table(title, header, rows) + f"\nInterval holds, mean over the cells: {100 * mean:.1f} %.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What a fit states, held against a population.")
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--only", default=",".join(METHODS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rows", default=",".join(map(str, ROWS)))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="show what is there")
    options = parser.parse_args()
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    done = {(r["kind"], r["method"], r["n"], r["draw"]) for r in records}
    # Draw by draw over all cells, so that a run ended early has something of each.
    tasks = [
        (kind, method, n, d)
        for d in range(options.draws)
        for n in map(int, options.rows.split(","))
        for method in options.only.split(",")
        for kind in options.kinds.split(",")
        if d < (options.draws // 3 if method in FEWER else options.draws)
        and (kind, method, n, d) not in done
    ]
    if not options.table and tasks:
        os.environ["OMP_NUM_THREADS"] = "1"
        with ProcessPoolExecutor(options.workers) as pool, options.out.open("a") as file:
            jobs = [pool.submit(draw, *task) for task in tasks]
            for i, job in enumerate(as_completed(jobs)):
                found = job.result().items()
                records.append(
                    {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in found}
                )
                file.write(json.dumps(records[-1], separators=(",", ":")) + "\n")
                file.flush()
                if i % 200 == 0:
                    print(f"{i} of {len(jobs)}", flush=True)
    text = text_of(cells(records))
    if options.out == OUT:
        OUT.with_suffix(".md").write_text(f"{text}\n{machine()['processor']}\n")
    print(text)


if __name__ == "__main__":
    main()
