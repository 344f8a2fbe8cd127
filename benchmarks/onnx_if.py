"""What a decision costs in onnxruntime, and one graph with `If` against one graph per exit.

    python benchmarks/onnx_if.py

Results: benchmarks/results/onnx_if.json and .md, and the tables of docs/onnx.md. About 3 minutes. One thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, machine_line, paired, seconds, synthetic, table, write
from _onnx_stages import CLASSES, STAGES, WIDTH, nested, session, stage, whole

import policyopt as po
from policyopt._export.onnx_graphs import onnx_models
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._files import write_file
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import MaxProb

_METHODS = ("max_prob", "entropy", "optimal_stopping")
_BATCHES = (1, 256)
_SHARES = (0.4, 0.25, 0.15, 0.1, 0.1)  # of the samples, leaving at each exit


def decisions(rounds: int) -> tuple[list[dict[str, Any]], str]:
    """Cost of one decision, the mean of five exits in a row: ONNX graphs beside numpy's steps."""
    found, rows = [], []
    for classes in (10, 100):
        logits, labels = synthetic(2_000, 5, classes)
        data = po.from_arrays(logits, labels, [1.0, 2.0, 3.0, 4.0, 5.0], unit="ms")
        for method in _METHODS:
            policy = po.fit(data, "50%", method).policy
            graphs = trace_policy(policy)
            made = {
                "graph": [session(m) for m in onnx_models(policy, graphs, probabilities=False)],
                "with probabilities": [session(m) for m in onnx_models(policy, graphs)],
            }
            for batch in _BATCHES:
                x = np.ascontiguousarray(logits[:batch].swapaxes(0, 1))
                contestants = {name: _onnx_path(s, x) for name, s in made.items()}
                contestants["numpy step"] = _numpy_path(policy, x)
                calls = dict.fromkeys(contestants, 4)
                timed = paired(contestants, rounds, calls)
                entry = {f"{name}, five exits": t.record() for name, t in timed.items()}
                found.append({"method": method, "classes": classes, "batch": batch, **entry})
                cells = [seconds(timed[name].best / len(x)) for name in contestants]
                rows.append([f"{method}, C={classes}, batch {batch}", *cells])
    header = ["", "onnxruntime", "with probabilities", "numpy step"]
    return found, table(
        "One decision of a whole batch, mean of five exits, best round", header, rows
    )


def _onnx_path(sessions: list[Any], x: Any) -> Any:
    """All exits' graphs, each fed with what the one before left."""
    takes = [[put.name for put in one.get_inputs()] for one in sessions]
    gives = [[put.name for put in one.get_outputs()] for one in sessions]

    def run() -> None:
        known: dict[str, Any] = {}
        for one, taken, given, logits in zip(sessions, takes, gives, x, strict=True):
            states = [known[name] for name in known if name.startswith("left_")]
            names = [name for name in taken if name != "logits"]
            feeds = {"logits": logits, **dict(zip(names, states, strict=True))}
            known = dict(zip(given, one.run(None, feeds), strict=True))

    return run


def _numpy_path(policy: Policy, x: Any) -> Any:
    single = x.shape[1] == 1
    numbers: Any = 0 if single else np.arange(x.shape[1])
    outputs = [row[0] if single else row for row in x]

    def run() -> None:
        state = policy.start(numbers)
        for k, output in enumerate(outputs):
            policy.step(k, output, state)

    return run


def serving(rounds: int) -> tuple[dict[str, Any], str]:
    """Time the network alone, one graph with nested `If`, and one graph per exit with regrouping."""
    stages = [session(stage(k)) for k in range(STAGES)]
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(2_048, WIDTH)).astype(np.float32)
    policy = _policy(stages, sample)
    models = onnx_models(policy, trace_policy(policy), probabilities=False)
    one, plain, exits = session(nested(models)), session(whole()), [session(m) for m in models]
    fresh = rng.normal(size=(2_048, WIDTH)).astype(np.float32)
    taken, wanted = _exits(policy, stages, fresh)
    share = np.bincount(taken, minlength=STAGES) / len(taken)
    found: dict[str, Any] = {"share": share.tolist(), "batches": []}
    rows = []
    for batch in _BATCHES:
        parts = [fresh[low : low + batch] for low in range(0, 512 if batch > 1 else 48, batch)]
        count = sum(map(len, parts))
        runs: list[Any] = [_regrouped(stages, exits), lambda x: one.run(None, {"x": x})[0]]
        for run in runs:
            answers = np.concatenate([run(x) for x in parts])
            assert (answers == wanted[:count]).all()
        contestants: dict[str, Any] = {
            "network without exits": lambda x: plain.run(None, {"x": x}),
            "one graph, nested If": lambda x: one.run(None, {"x": x}),
            "a graph per exit, regrouped": _regrouped(stages, exits),
        }
        timed = _by_batch(contestants, stages, parts, rounds)
        reach = np.append(
            1.0, 1 - np.cumsum(np.bincount(taken[:count], minlength=STAGES) / count)[:-1]
        )
        ideal = float(reach @ [timed[f"stage {k}"] for k in range(STAGES)])
        base = timed["network without exits"]
        deepest = [int(taken[low : low + batch].max()) for low in range(0, count, batch)]
        found["batches"].append({
            "batch": batch, "per_sample_s": timed, "ideal_s": ideal,
            "batches_that_stop_early": float(np.mean(np.array(deepest) < STAGES - 1)),
        })  # fmt: skip
        rows += [
            [f"batch {batch}: {name}", seconds(timed[name]), f"{timed[name] / base:.2f}"]
            for name in list(contestants)[:3]
        ]
        rows.append([f"batch {batch}: ideal, share x stage", seconds(ideal), f"{ideal / base:.2f}"])
    header = ["", "per sample", "of the network"]
    title = "Shares leaving per exit: " + ", ".join(f"{s:.0%}" for s in share)
    return found, table(title, header, rows)


def _policy(stages: list[Any], x: Any) -> Policy:
    """Thresholds on the largest probability that give the wanted shares."""
    thresholds, here = [], x
    for k in range(STAGES - 1):
        here, logits = stages[k].run(None, {"x": here})
        scores = np.exp(logits - logits.max(1, keepdims=True))
        scores = 1 / scores.sum(1)
        leaving = _SHARES[k] / sum(_SHARES[k:])
        thresholds.append(float(np.quantile(scores, 1 - leaving)))
        here = here[scores < thresholds[-1]]
    costs = np.arange(1, STAGES + 1, dtype=np.float64)
    return Policy(MaxProb(), np.array(thresholds), costs, "stages", "logits", CLASSES)


def _exits(policy: Policy, stages: list[Any], x: Any) -> tuple[Any, Any]:
    logits, here = [], x
    for one in stages:
        here, out = one.run(None, {"x": here})
        logits.append(out)
    said = policy.decide(np.stack(logits, axis=1))
    rows = np.arange(len(x))
    return said.exit, policy.trace(np.stack(logits, axis=1)).predictions[rows, said.exit]


def _regrouped(stages: list[Any], exits: list[Any]) -> Any:
    def serve(x: Any) -> Any:
        answers, rows = np.empty(len(x), np.int32), np.arange(len(x))
        for one, decide in zip(stages, exits, strict=True):
            x, logits = one.run(None, {"x": x})
            leave, answer = decide.run(["exit", "prediction"], {"logits": logits})
            answers[rows[leave]] = answer[leave]
            rows, x = rows[~leave], x[~leave]
            if not len(rows):
                break
        return answers

    return serve


def _by_batch(
    contestants: dict[str, Any], stages: list[Any], parts: list[Any], rounds: int
) -> dict[str, float]:
    """Seconds per sample: batch by batch the best of the rounds, which are in turn.

    Single batches are short enough to be met in a quiet moment of a busy machine. The stages run one after
    the other, as they do in the network: their weights are not left in the processor's cache.
    """
    names = [*contestants, *(f"stage {k}" for k in range(len(stages)))]
    best = {name: np.full(len(parts), np.inf) for name in names}
    for _ in range(rounds):
        for at, part in enumerate(parts):
            for name, run in contestants.items():
                start = time.perf_counter()
                run(part)
                best[name][at] = min(best[name][at], time.perf_counter() - start)
            x = part
            for k, one in enumerate(stages):
                start = time.perf_counter()
                x, _ = one.run(None, {"x": x})
                name = f"stage {k}"
                best[name][at] = min(best[name][at], time.perf_counter() - start)
    return {name: float(b.sum()) / sum(map(len, parts)) for name, b in best.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    default = Path(__file__).parent / "results" / "onnx_if.json"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    start = machine()
    found, text = decisions(options.rounds)
    served, more = serving(options.rounds)
    end = machine()
    results = {"machine": [start, end], "decisions": found, "serving": served}
    foot = machine_line(start, end)
    write(options.out, results, f"{text}\n{more}\n{foot}\n")
    if options.out == default:
        page = Path(__file__).parents[1] / "docs" / "onnx.md"
        write_file(
            page, _filled(page.read_text(), decisions=f"{text}\n{foot}", serving=f"{more}\n{foot}")
        )


def _filled(page: str, **tables: str) -> str:
    """Put tables between their marks."""
    for name, text in tables.items():
        before, _, rest = page.partition(f"<!-- {name} -->")
        _, end, after = rest.partition("<!-- end -->")
        page = f"{before}<!-- {name} -->\n{text}\n{end}{after}"
    return page


if __name__ == "__main__":
    main()
