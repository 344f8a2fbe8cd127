"""Serving a torch model: is the saving real, and what does the policy itself cost?"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from _caches import ROOT
from _common import machine, machine_line, table, write
from _load import arriving, in_turn, queued, simulated

import policyopt as po
from policyopt._export.c_compiler import NoCompiler, compiler
from policyopt.serving import ContinuousBatcher, StagedModel, export_cache, measure, serve

sys.path.insert(0, str(ROOT))
from examples.fashion_mnist.data import DEFAULT_FOLDER, load_splits
from examples.fashion_mnist.train import Recipe, to_input
from examples.serve_torch.clock import _to_exits, clocked, race, typical
from examples.serve_torch.model import network, staged

#: (budget, samples per call, rounds)
RACES = (("40%", 1, 800), ("40%", 16, 100), ("20%", 256, 30), ("40%", 256, 40), ("60%", 256, 30))
#: Of `loads`: shares of the full model's capacity, batch sizes of the table and of the queues, paired rounds.
LOADS, BATCHES, QUEUES, TURNS = (
    (0.5, 0.8, 0.95, 1.2, 1.5),
    (1, 2, 4, 8, 16, 32, 64, 128),
    (64, 128),
    5,
)
HOW = ("reckoned", "measured")
METHODS = (
    "max_prob", "margin", "entropy", "patience", "vote", "failure_prediction", "eenet", "act",
    "e2cm", "optimal_stopping",
)  # fmt: skip


def saving(model: StagedModel, data: Any, inputs: torch.Tensor) -> list[dict[str, Any]]:
    """Full model, served and ideal at several budgets and batch sizes."""
    found = []
    for budget, batch, rounds in RACES:
        server = serve(model, po.fit(data, budget, method="max_prob").policy)
        result = race(model, server, inputs, batch, rounds)
        found.append({"budget": budget, **asdict(result), "ratio": result.ratio})
        print(f"saving: {budget}, batch {batch}", file=sys.stderr)
    return found


def overhead(
    model: StagedModel, data: Any, inputs: torch.Tensor, rounds: int
) -> list[dict[str, Any]]:
    """Served less the same stages and heads to the same exit, sample by sample."""

    def plain(image: torch.Tensor, k: int) -> int:
        with torch.inference_mode():
            hidden = logits = image
            for i in range(k + 1):
                hidden, given = model.stage(i, hidden)
                logits = model.head(i, hidden, given)
            return int(logits.argmax())

    def full(image: torch.Tensor) -> int:
        with torch.inference_mode():
            return int(model.last(image).argmax())

    found = []
    ways = [False, *([True] if _compiler() else [])]
    for spec, native in itertools.product(METHODS, ways):
        server = serve(model, _policy(data, spec), native=native)
        times, exits = np.empty((3, rounds, 3)), np.empty(rounds, dtype=np.int64)
        for number in range(-20, rounds):
            image = inputs[number % len(inputs)][None]
            exits[number] = k = int(server(image).exit[0])
            runs = [
                lambda x=image, s=server: s(x),
                lambda x=image, k=k: plain(x, k),
                lambda x=image: full(x),
            ]
            for turn in np.random.default_rng(number + 20).permutation(3):
                times[turn, number] = clocked(runs[turn])[0]
        shares = np.bincount(exits, minlength=model.exits) / rounds
        # Differences within a round, so that a change of the machine's speed cancels.
        gap = np.column_stack([(times[0] - times[1])[:, :2], times[0, :, 2] + times[1, :, 2]])
        gaps = [shares[k] * typical(gap[exits == k]) for k in np.flatnonzero(shares)]
        whole, extra = typical(times[2]), np.sum(gaps, axis=0)
        found.append({
            "method": spec.partition(":")[0], "by": "machine code" if native else "`Policy.step`",
            "decisions": float(shares @ np.arange(1, model.exits + 1)), "rounds": rounds,
            "full_s": whole.tolist(), "extra_s": extra.tolist(), "share": (extra / whole).tolist(),
            "alone": float((times[..., 2] == 0).mean()),
        })  # fmt: skip
        print(f"overhead: {spec}, native={native}", file=sys.stderr)
    return found


def loads(model: StagedModel, data: Any, inputs: torch.Tensor, rounds: int) -> dict[str, Any]:
    """Requests of 16 samples at loads of the full model's capacity: reckoned from the table, and measured."""
    policy, size = _policy(data, "max_prob"), 16
    exits, last = po.evaluate(policy, data).exit, model.exits - 1
    with mock.patch("time.perf_counter", time.thread_time):  # the clock of all that follows
        table = measure(model, inputs[:size], runs=40, batches=BATCHES).table
        assert table is not None  # of batch sizes that were asked for
    server, batches = serve(model, policy), [*inputs.split(size)][: len(inputs) // size]
    planned = serve(model, policy, latency=table)
    shares = np.bincount(exits, minlength=model.exits) / len(exits)

    def seconds(run: Any, start: int = 0) -> list[float]:
        return [clocked(lambda x=x: run(x))[0][1] for x in batches[start : start + rounds]]

    def full(x: torch.Tensor) -> Any:
        with torch.inference_mode():
            return model.last(x).numpy()

    def ideal(x: torch.Tensor) -> float:
        with torch.inference_mode():
            return float(_to_exits(model, x)[:, 1] @ shares)

    def queues(arrivals: Any, most: int = 64, delay: float = 0.01) -> Any:
        batcher = ContinuousBatcher(server, max_batch_size=most, max_queue_delay=delay)
        return queued(batcher, batches, arrivals)[0]

    # A round of each in turn; all of a round's requests are there from its start.
    paired, at_once = [], np.zeros(rounds)
    for turn in range(TURNS):
        low = turn * rounds % max(len(batches) - rounds, 1)
        row = {
            "full model": np.median(seconds(full, low)),
            "one request after another": np.median(seconds(server, low)),
            "regrouped where it pays": np.median(seconds(planned, low)),
            "ideal": np.median([ideal(x) for x in batches[low : low + rounds]]),
        }
        row |= {
            f"queues, {most} at most": size / queues(at_once, most).throughput for most in QUEUES
        }
        paired.append({name: float(value) / size * 1e3 for name, value in row.items()})
        print(f"loads: round {turn}", file=sys.stderr)
    own, whole = np.array(seconds(server)), np.array(seconds(full))
    capacity = size / np.median(whole)
    path = policy.active_exits
    one_by_one = {
        "path": path,
        "request_size": size,
        "max_batch_size": size,
        "max_queue_delay": 0.0,
    }
    # What the table lacks: all at once, one after another, by both clocks.
    lacking = simulated(table, exits, at_once, **one_by_one)
    runs = sum(len(np.unique(e)) and e.max() + 1 for e in np.resize(exits, (rounds, size)))
    overhead = max(own.sum() - rounds * size / lacking.throughput, 0.0) / runs
    cells = []
    for load in LOADS:
        arrivals = arriving(load * capacity, size, rounds)
        more = {"overhead": overhead, "request_size": size}
        found = {
            "full model": (
                simulated(table, [last], arrivals, **{**one_by_one, "path": [last]}),
                in_turn(arrivals, np.resize(whole, rounds), size),
            ),
            "one request after another": (
                simulated(table, exits, arrivals, overhead=overhead, **one_by_one),
                in_turn(arrivals, np.resize(own, rounds), size),
            ),
            "queues": (simulated(table, exits, arrivals, path=path, **more), queues(arrivals)),
        }
        for name, both in found.items():
            cell = {"load": load, "server": name}
            for how, one in zip(("reckoned", "measured"), both, strict=True):
                middle, late = np.percentile(one.latency, [50, 99]) * 1e3
                cell[how] = [one.throughput, float(middle), float(late), one.busy]
            cells.append(cell)
        print(f"loads: {load:.0%}", file=sys.stderr)
    return {"paired": paired, "capacity": float(capacity), "overhead_s": float(overhead), "cells": cells,
            "requests": rounds, "table": table.describe()}  # fmt: skip


def loads_text(results: dict[str, Any]) -> str:
    """Return the tables of `loads`."""
    found, rows = results["loads"], []
    for name in found["paired"][0]:
        each = np.array([row[name] for row in found["paired"]])
        ratios = [each / [row[of] for row in found["paired"]] for of in ("ideal", "full model")]
        told = [f"{np.median(r):.2f} ({r.min():.2f} to {r.max():.2f})" for r in ratios]
        rows.append([name, f"{np.median(each):.3f}", *told])
    title = "Milliseconds of processor time per sample, requests of 16, budget 40 %: median (range) of paired rounds"
    header = ["server", "ms", "of the ideal", "of the full model"]
    parts = ["# Serving under load", "", table(title, header, rows)]
    rows = [
        [
            f"{cell['load']:.0%}", cell["server"], *(f"{cell[how][0]:,.0f}" for how in HOW),
            *(f"{cell[how][i]:.1f}" for i in (1, 2) for how in HOW), *(f"{cell[how][3]:.0%}" for how in HOW),
        ]
        for cell in found["cells"]
    ]  # fmt: skip
    columns = ("samples/s", "median ms", "99 % ms", "busy")
    header = ["load", "server", *(f"{what}, {how}" for what in columns for how in HOW)]
    title = f"Requests of 16 at random, loads of the full model's {found['capacity']:,.0f} samples a second"
    parts += [
        table(title, header, rows),
        f"{found['requests']:,} requests a cell, on a clock that runs only while the thread does. Reckoned: from "
        f"the table of latencies and {found['overhead_s'] * 1e6:.0f} us per exit and batch, which is fitted to one "
        "request after another. Queues: batches of 64 at most, survivors wait 10 ms at most.",
        machine_line(results["machine"]["start"], results["machine"]["end"]),
        "",
    ]
    return "\n".join(parts)


@functools.cache
def _policy(data: Any, spec: str) -> Any:
    return po.fit(data, "40%", method=spec).policy


def _compiler() -> bool:
    try:
        return bool(compiler())
    except NoCompiler:
        print("no C compiler: machine code is not measured", file=sys.stderr)
        return False


def text(results: dict[str, Any]) -> str:
    """Return the tables."""
    parts = ["# Serving a torch model", ""]
    for clock, name in enumerate(("wall-clock", "processor time")):
        rows = [
            [
                r["budget"], r["batch"], f"{r['full'][clock]:.3f}", f"{r['served'][clock]:.3f}",
                f"{r['ideal'][clock]:.3f}", f"{r['ratio'][clock]:.2f}",
                f"{r['full'][clock] / r['served'][clock]:.2f} x", f"{r['alone']:.0%}",
            ]
            for r in results["saving"]
        ]  # fmt: skip
        header = [
            "budget",
            "batch",
            "full model",
            "served",
            "ideal",
            "served / ideal",
            "faster",
            "alone",
        ]
        parts.append(table(f"Milliseconds per sample, {name}", header, rows))
    rows = [
        [
            r["method"], r["by"], f"{r['decisions']:.2f}",
            *(f"{r['extra_s'][c] * 1e6:.0f} us" for c in (0, 1)), f"{r['full_s'][0] * 1e6:.0f} us",
            *(f"{r['share'][c]:.1%}" for c in (0, 1)), f"{r['alone']:.0%}",
        ]
        for r in results["overhead"]
    ]  # fmt: skip
    header = [
        "method", "decided by", "exits per request", "extra, wall", "extra, processor", "full model",
        "share, wall", "share, processor", "alone",
    ]  # fmt: skip
    parts += [
        table("The policy's own cost per request, batch 1, budget 40 %", header, rows),
        machine_line(results["machine"]["start"], results["machine"]["end"]),
        f"One core. Accuracy and exits of the served test images are those of the replay: "
        f"{results['apart']} of {results['rows']:,} differ.",
        "",
    ]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--weights", type=Path, help="weights.pt of examples.serve_torch; else trains"
    )
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--rounds", type=int, default=1500, help="requests per method at batch 1")
    parser.add_argument("--only", choices=("calls", "loads"), help="a part; default both")
    parser.add_argument("--requests", type=int, default=400, help="of each load and paired round")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/serving.json")
    given = parser.parse_args()
    splits = load_splits(given.data)
    model = staged(network(given.weights, splits["train"], Recipe.epochs))
    torch.set_num_threads(1)
    start = machine()
    inputs = to_input(splits["test"].images)
    with tempfile.TemporaryDirectory() as place:
        rows = {
            name: (to_input(splits[name].images), splits[name].labels) for name in ("fit", "test")
        }
        costs = measure(model, inputs[:1], runs=300).costs
        export_cache(model, rows, Path(place) / "cache", costs=costs, classes=10)
        data = po.open_cache(Path(place) / "cache")
        policy = po.fit(data, "40%", method="max_prob").policy
        if given.only != "loads":
            served = np.concatenate([serve(model, policy)(x).exit for x in inputs.split(256)])
            results: dict[str, Any] = {
                "rows": len(served), "apart": int((served != po.evaluate(policy, data).exit).sum()),
                "overhead": overhead(model, data, inputs, given.rounds), "saving": saving(model, data, inputs),
                "machine": {"start": start, "end": machine()},
            }  # fmt: skip
            write(given.out, results, text(results))
        if given.only != "calls":
            results = {"loads": loads(model, data, inputs, given.requests)}
            results["machine"] = {"start": start, "end": machine()}
            out = given.out.with_name(f"{given.out.stem}_load.json")
            write(out, results, loads_text(results))


if __name__ == "__main__":
    main()
