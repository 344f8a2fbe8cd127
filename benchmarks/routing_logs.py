"""What is learnt from a service that explores: routing fitted on its log, beside all models run on the same requests.

`made`: a simulated service of 20,000 distinct requests. Five models, a cheap one whose answers tell the topic, two that
know one topic each, a middling and a dear one that know both; answers are logits of eight classes. Its first policy was
fitted on 60 requests on which all models were run, and explores about one request in ten. What the log gives back is
the share of the gain that all models' outputs of the same requests give, over the best fixed choice (one model, or two
mixed by a coin: `always`), all at equal realised cost, on 20,000 other requests. `mmlu_llama5`: five Llama models,
1,000 of the questions served, once or twenty times over (a question is then a group), and tested on the 816 others; the
first policy is of 60 of the questions. Each run is a line of ``results/routing_logs.jsonl``, and is resumed.

    python benchmarks/routing_logs.py            # all, a quarter of an hour
    python benchmarks/routing_logs.py --table    # what is there
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import table
from routing import mmlu

import policyopt as po
from policyopt._cache.writer import CacheWriter
from policyopt._frontier import path_through, values_at
from policyopt._methods.registry import make_method
from policyopt._replay import replay
from policyopt._table import Table
from policyopt.runtime._outputs import with_columns

OUT = Path(__file__).parent / "results" / "routing_logs.jsonl"
COSTS = [1.0, 3.0, 3.0, 4.0, 12.0]
SKILL = np.array([[1.4, 1.4], [3.0, 0.7], [0.7, 3.0], [2.0, 2.0], [3.0, 3.0]])  # by topic
FIRST = 60  # rows of the first policy
#: Cache, times that each request is served, share that explores, divisions, budgets.
RUNS = [
    ("made", 1, 0.1, 3, [2.0, 3.0, 4.5, 6.0]),
    ("made", 1, 0.0, 1, [3.0]),
    ("mmlu_llama5", 1, 0.1, 3, [100.0, 200.0, 400.0]),
    ("mmlu_llama5", 20, 0.1, 3, [100.0, 200.0, 400.0]),
]


def made(division: int) -> po.ExitData:
    """Return rows of the service, other rows, and those of the first policy."""
    rng, splits = np.random.default_rng(division), {}
    for name, n in (("fit", 20_000), ("test", 20_000), ("first", FIRST)):
        labels = rng.integers(0, 8, n)
        topic = (labels >= 4).astype(int)
        signal = np.maximum(SKILL[:, topic].T + 0.5 * rng.normal(size=(n, 1)), 0.1)
        logits = rng.normal(size=(n, 5, 8)) + signal[:, :, None] * np.eye(8)[labels][:, None]
        logits[:, 0] += np.arange(8) // 4 == topic[:, None]
        splits[name] = {"outputs": logits, "labels": labels}
    return po.from_arrays(
        splits=splits, costs=COSTS, unit="ct", cost_kind="standalone", kind="logits"
    )


def served(policy: Any, rows: Table, times: int, out: str) -> po.ExitData:
    """Return the censored cache of a service of all rows, so many times over."""
    n, k = len(rows) * times, rows.exits
    rows = rows.take(np.tile(np.arange(len(rows)), times))
    seen = dict(enumerate(rows.statistics.outputs()))
    if rows.whole:
        every = rows.log_prob()
        seen = {m: with_columns(output, every[:, m]) for m, output in seen.items()}
    alone = np.broadcast_to(rows.standalone_costs, (n, k))
    found = policy.follow(seen, np.arange(n), alone)
    arrays: dict[str, Any] = {
        "labels": rows.statistics.labels, "called": found.turn, "propensity": found.propensity,
        "group": np.tile(np.arange(n // times), times),
    }  # fmt: skip
    if rows.whole:
        outputs = np.stack([rows.outputs(m, np.arange(n)) for m in range(k)], axis=1)
        arrays["outputs"] = np.where(found.called[:, :, None], outputs, 0.0)
    else:
        arrays["confidence"] = np.where(found.called, rows.statistics.confidence, 0.0)
        arrays["prediction"] = np.where(found.called, rows.statistics.prediction, -1)
    usual = np.where(found.called, alone, alone.mean(axis=0))
    cost = po.Cost("usd", rows.unit, None, "standalone", cascade=True)
    if rows.costs.ndim == 1:
        cost = po.Cost("cost", rows.unit, tuple(rows.standalone_costs), "standalone")
    else:
        arrays["cost:usd"] = usual.cumsum(axis=1)
    with CacheWriter(
        out, costs=cost, kind=rows.kind, classes=rows.classes, shares={"fit": 1.0}, overwrite=True
    ) as writer:
        writer.add("pool", arrays)
    return po.open_cache(out)


def height(fits: list[Any], test: Table, budget: float) -> float:
    """Return the quality on test rows of fits at some budgets, at a realised cost of one."""
    value, _ = values_at(path_through([one.policy for one in fits], test), np.array([budget]))
    return float(value.mean())


def run(out: Path) -> None:
    """Run what is not there yet."""
    keys = ("cache", "times", "explore", "division", "budget")
    done = {tuple(one[key] for key in keys) for one in read(out)}
    for cache, times, explore, divisions, budgets in RUNS:
        for division in range(divisions):
            todo = [b for b in budgets if (cache, times, explore, division, b) not in done]
            if not todo:
                continue
            data = made(division) if cache == "made" else mmlu(1000, division)
            tables = po.Tables(data)
            fit, test = tables.get("fit"), tables.get("test")
            alone = sorted(
                1.0001 * np.atleast_2d(fit.standalone_costs).mean(axis=0)
            )  # any one model
            first = tables.get("first") if cache == "made" else fit.take(np.arange(FIRST))
            for budget in todo:
                near = [0.7 * budget, 0.85 * budget, budget, 1.2 * budget, 1.5 * budget]
                begun = make_method("routing", {"explore": explore}).fit_path(first, [budget])[0]
                plain = begun.policy.exploring(0.0)
                cost = [replay(p, test).cost.mean() for p in (plain, begun.policy)]
                line = {
                    "cache": cache, "times": times, "explore": explore, "division": division, "budget": budget,
                    "cost": float(cost[0]), "cost_exploring": float(cost[1]),
                    "first": height(make_method("routing").fit_path(first, near), test, budget),
                    "whole": height(make_method("routing").fit_path(fit, near), test, budget),
                    "fixed": height(make_method("always").fit_path(fit, alone), test, budget),
                }  # fmt: skip
                with tempfile.TemporaryDirectory() as folder:
                    log = po.Tables(served(begun.policy, fit, times, f"{folder}/log"))
                    rows = log.get("fit", censored=True)
                    try:
                        found = make_method("routing").fit_path(rows, near)
                    except po.InputError as error:
                        line |= {"refused": str(error)}
                    else:
                        at, known = found[2], found[2].policy.provenance
                        real = replay(at.policy, test)
                        line |= {
                            "log": height(found, test, budget), "stated": known["expected_quality_95"],
                            "real": float(real.quality.mean()), "stated_cost": known["expected_cost_95"],
                            "real_cost": float(real.cost.mean()),
                        }  # fmt: skip
                with out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(line, flush=True)


def read(out: Path) -> list[dict[str, Any]]:
    """Return the lines that are there."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def page(lines: list[dict[str, Any]]) -> str:
    """Return the tables as markdown."""
    text = []
    for cache, times, explore, _, budgets in RUNS:
        mine = [
            o for o in lines if (o["cache"], o["times"], o["explore"]) == (cache, times, explore)
        ]
        rows = []
        for budget in budgets:
            here = [one for one in mine if one["budget"] == budget and "log" in one]
            if not here:
                continue

            def mean(name: str, here: list[dict[str, Any]] = here) -> float:
                return float(np.mean([one[name] for one in here]))

            gain = (mean("log") - mean("fixed")) / (mean("whole") - mean("fixed"))
            kept = sum(one["stated"][0] <= one["real"] <= one["stated"][1] for one in here)
            paid = sum(
                one["stated_cost"][0] <= one["real_cost"] <= one["stated_cost"][1] for one in here
            )
            back = f"{100 * gain:.0f} %" if mean("whole") - mean("fixed") > 0.01 else "-"
            more = f"{100 * (mean('cost_exploring') / mean('cost') - 1):+.0f} %"
            rows.append([
                f"{budget:g}", str(len(here)), *(f"{100 * mean(n):.2f}" for n in ("fixed", "first", "log", "whole")),
                back, more, f"{kept} of {len(here)}", f"{paid} of {len(here)}",
            ])  # fmt: skip
        name = f"{cache}, requests served {times} times, {100 * explore:g} % explore"
        head = [
            "budget", "divisions", "fixed choice", "first policy", "from the log", "from all outputs",
            "gain given back", "cost of exploring", "quality within its interval", "cost within its",
        ]  # fmt: skip
        if rows:
            text.append(table(name, head, rows))
        refused = [one for one in mine if "refused" in one]
        text += [f"{name}, budget {o['budget']:g}: refused. {o['refused']}\n" for o in refused]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print what is there")
    if not parser.parse_args().table:
        run(OUT)
    head = "\n".join(["# Routing from logs", "", (__doc__ or "").strip(), "", ""])
    text = page(read(OUT))
    OUT.with_suffix(".md").write_text(head + text)
    print(text)


if __name__ == "__main__":
    main()
