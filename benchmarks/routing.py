"""What is it worth to choose the next model by what the others have said? Routing beside lists of models.

`mmlu_llama5`, both files as one pool (five Llama models on 1,816 questions, a cost per call): rows of the fit are drawn
anew in each division, the others are test rows. `cifar10_pool19`: 19 classifiers, half of the rows for the fit. What
is compared is the height of each frontier on the test rows at equal realised cost, at nine budgets from 1.2 times the
cheapest to 1.1 times the dearest model (MMLU), and at six from 50 to 1,600 million multiply-adds (the zoo). Runs are
resumed: each is a line of ``results/routing.jsonl``.

    python benchmarks/routing.py            # all, half an hour; lists of the zoo are not searched: that takes hours
    python benchmarks/routing.py --table    # what is there
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import table

import policyopt as po
from policyopt._frontier import path_through, values_at
from policyopt._methods.registry import make_method

SHARED = Path(__file__).parents[2] / "shared" / "data"
OUT = Path(__file__).parent / "results" / "routing.jsonl"
METHODS = ("routing", "subset:inner=optimal_stopping", "subset", "optimal_stopping", "always")
RUNS = [("mmlu_llama5", 285, 20), ("mmlu_llama5", 1000, 20), ("cifar10_pool19", 5000, 5)]
ZOO = [50.0, 100.0, 200.0, 400.0, 800.0, 1600.0]


def mmlu(rows: int, division: int) -> po.ExitData:
    """Return the questions as rows of a fit and test rows; costs in millionths of a dollar."""
    parts = [np.load(SHARED / f"mmlu_llama5_{part}.npz") for part in ("train", "test")]
    whole = {
        n: np.concatenate([p[n] for p in parts], axis=-1)
        for n in ("conf_logprob", "pred", "labels", "cost_usd")
    }
    order = np.random.default_rng(division).permutation(len(whole["labels"]))
    splits = {
        name: {
            "confidence": np.exp(whole["conf_logprob"].T[at]),
            "prediction": whole["pred"].T[at],
            "labels": whole["labels"][at],
            "sample_costs": {"usd": 1e6 * whole["cost_usd"].T[at]},
        }
        for name, at in (("fit", order[:rows]), ("test", order[rows:]))
    }
    return po.from_arrays(
        splits=splits, unit="1e-6 USD", cost_kind="standalone", kind="summary", classes=4
    )


def zoo(division: int) -> po.ExitData:
    """Return the classifiers' logits, divided anew."""
    part = np.load(SHARED / "cifar10_pool19.npz")
    return po.from_arrays(
        part["logits"].swapaxes(0, 1), part["labels"], part["costs"].tolist(), unit="M",
        cost_kind="standalone", seed=division,
    )  # fmt: skip


def run(out: Path, methods: list[str]) -> None:
    """Fit and replay each method on each division that is not there yet."""
    done = {(one["cache"], one["rows"], one["division"], one["method"]) for one in read(out)}
    for cache, rows, divisions in RUNS:
        for division in range(divisions):
            few = [m for m in methods if cache == "mmlu_llama5" or not m.startswith("subset")]
            todo = [m for m in few if (cache, rows, division, m) not in done]
            if not todo:
                continue
            data = mmlu(rows, division) if cache == "mmlu_llama5" else zoo(division)
            tables = po.Tables(data)
            fit, test = tables.get("fit"), tables.get("test")
            alone = fit.standalone_costs.reshape(-1, fit.exits).mean(axis=0)
            budgets = (
                np.geomspace(1.2 * alone.min(), 1.1 * alone.max(), 9).tolist()
                if cache == "mmlu_llama5"
                else ZOO
            )
            for method in todo:
                start = time.process_time()
                # The lowest is where each frontier begins, so that none is valued by what it spends above a budget.
                fits = make_method(method).fit_path(fit, [alone.min() * (1 + 1e-9), *budgets])
                spent = time.process_time() - start
                path = path_through([one.policy for one in fits], test)
                value, _ = values_at(path, np.array(budgets))
                line = {
                    "cache": cache, "rows": rows, "division": division, "method": method,
                    "seconds": round(spent, 2), "budgets": budgets,
                    "cost": [float(c) for c in path.cost.mean(axis=0)],
                    "quality": [float(q) for q in path.quality.mean(axis=0)],
                    "height": [float(h) for h in value.mean(axis=0)],
                    "stated": [float(one.quality) for one in fits[1:]],
                }  # fmt: skip
                with out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(cache, rows, division, method, f"{spent:.1f} s", flush=True)


def read(out: Path) -> list[dict[str, Any]]:
    """Return the lines that are there."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def page(lines: list[dict[str, Any]]) -> str:
    """Return the tables as markdown."""
    text = []
    for cache, rows, _ in RUNS:
        mine = [one for one in lines if (one["cache"], one["rows"]) == (cache, rows)]
        by = {m: {one["division"]: one for one in mine if one["method"] == m} for m in METHODS}
        found = []
        for method, of in by.items():
            both = sorted(of.keys() & by["routing"].keys())
            if not both:
                continue
            heights = np.array([of[d]["height"] for d in both])
            gaps = 100 * (np.array([by["routing"][d]["height"] for d in both]) - heights).mean(
                axis=1
            )
            error = gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else np.nan
            ratio = np.mean(
                [np.divide(of[d]["cost"][2:-1], of[d]["budgets"][:-1]).mean() for d in both]
            )
            off = 100 * np.mean(
                [np.mean(of[d]["stated"]) - np.mean(of[d]["quality"][2:]) for d in both]
            )
            found.append([
                method, str(len(both)), *(f"{100 * h:.2f}" for h in heights.mean(axis=0)),
                "" if method == "routing" else f"{gaps.mean():+.2f} ({error:.2f})", f"{ratio:.3f}", f"{off:+.2f}",
                f"{np.mean([of[d]['seconds'] for d in both]):.1f}",
            ])  # fmt: skip
        if found:
            budgets = [f"{b:.4g}" for b in np.mean([one["budgets"] for one in mine], axis=0)]
            head = [
                "method",
                "divisions",
                *budgets,
                "routing leads by",
                "cost / budget",
                "stated less realised",
                "CPU s",
            ]
            text.append(table(f"{cache}, {rows:,} rows of the fit", head, found))
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print what is there")
    parser.add_argument("--methods", default=",".join(METHODS), help="default %(default)s")
    given = parser.parse_args()
    if not given.table:
        run(OUT, given.methods.split(","))
    head = "\n".join(["# Routing beside lists of models", "", (__doc__ or "").strip(), "", ""])
    text = page(read(OUT))
    OUT.with_suffix(".md").write_text(head + text)
    print(text)


if __name__ == "__main__":
    main()
