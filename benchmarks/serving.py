"""Serving a torch model: is the saving real, and what does the policy itself cost?"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _caches import ROOT
from _common import machine, machine_line, table, write

import policyopt as po
from policyopt._export.c_compiler import NoCompiler, compiler
from policyopt.serving import StagedModel, export_cache, measure, serve

sys.path.insert(0, str(ROOT))
from examples.fashion_mnist.data import DEFAULT_FOLDER, load_splits
from examples.fashion_mnist.train import Recipe, to_input
from examples.serve_torch.clock import clocked, race, typical
from examples.serve_torch.model import network, staged

#: (budget, samples per call, rounds)
RACES = (("40%", 1, 800), ("40%", 16, 100), ("20%", 256, 30), ("40%", 256, 40), ("60%", 256, 30))
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
        served = np.concatenate([serve(model, policy)(x).exit for x in inputs.split(256)])
        results: dict[str, Any] = {
            "rows": len(served), "apart": int((served != po.evaluate(policy, data).exit).sum()),
            "overhead": overhead(model, data, inputs, given.rounds), "saving": saving(model, data, inputs),
        }  # fmt: skip
    results["machine"] = {"start": start, "end": machine()}
    write(given.out, results, text(results))


if __name__ == "__main__":
    main()
