"""Speed and memory against the peers' way of doing the same job, all in one run.

python benchmarks/speed.py [--only solve,pass,exp,memory,step,many] [--out benchmarks/results/speed.json]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, machine_line, paired, seconds, synthetic, table, write
from _exits import many
from _passing import exponentials, memory, passing
from _solving import solving

from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import MaxProb

PARTS = ("solve", "pass", "exp", "memory", "step", "many")
EXITS = 5
STEP_CLASSES = (10, 100, 1_000)
_SAMPLES = 400  # stepped through per round
_HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run the chosen parts and write the results."""
    options = _options()
    parts: dict[str, Callable[[], tuple[dict[str, Any], str]]] = {
        "solve": lambda: solving(options.repeats),
        "pass": lambda: passing(options.rows, max(options.repeats // 2, 1)),
        "exp": lambda: exponentials(options.rows // 5, options.repeats),
        "memory": lambda: memory(options.memory_rows),
        "step": lambda: stepping(options.repeats),
        "many": lambda: many(options.many_rows, options.exits, options.seeds),
    }
    start = machine()
    results: dict[str, Any] = {"machine": start}
    texts = []
    for name in PARTS:
        if name in options.only:
            results[name], text = parts[name]()
            texts.append(text)
    end = machine()
    results["load_average_at_end"] = end["load_average"]
    write(options.out, results, "\n".join([*texts, machine_line(start, end), ""]))


def stepping(repeats: int) -> tuple[dict[str, Any], str]:
    """Time the policy's own arithmetic per decision; return its record and its table."""
    found: dict[str, Any] = {}
    for classes in STEP_CLASSES:
        logits, _ = synthetic(_SAMPLES, EXITS, classes)
        policy = Policy(
            MaxProb(), np.full(EXITS - 1, 0.8), np.arange(1.0, EXITS + 1), "ms", "logits", classes
        )  # fmt: skip

        def one_by_one(policy: Policy = policy, logits: Any = logits) -> None:
            for sample in logits:
                state = policy.start()
                for k in range(EXITS):
                    policy.step(k, sample[k], state)

        def starts(policy: Policy = policy) -> None:
            for _ in range(_SAMPLES):
                policy.start()

        def side_by_side(policy: Policy = policy, logits: Any = logits) -> None:
            state = policy.start(np.arange(_SAMPLES))
            for k in range(EXITS):
                policy.step(k, logits[:, k], state)

        timed = paired({"one": one_by_one, "start": starts, "batch": side_by_side}, repeats)
        found[str(classes)] = {
            "step_us": 1e6 * (timed["one"].best - timed["start"].best) / (_SAMPLES * EXITS),
            "step_median_us": 1e6
            * (timed["one"].median - timed["start"].median)
            / (_SAMPLES * EXITS),
            "start_us": 1e6 * timed["start"].best / _SAMPLES,
            "batch_us": 1e6 * timed["batch"].best / (_SAMPLES * EXITS),
        }
    rows = [
        (
            f"{int(classes):,}", seconds(f["step_us"] / 1e6), seconds(f["step_median_us"] / 1e6),
            seconds(f["start_us"] / 1e6), seconds(f["batch_us"] / 1e6),
        )
        for classes, f in found.items()
    ]  # fmt: skip
    header = ("C", "step (best)", "step (median)", "start", f"step, per sample of {_SAMPLES}")
    return found, table("One decision of the numpy runtime (logits, max_prob)", header, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=_HERE / "results" / "speed.json")
    parser.add_argument("--only", type=_parts, default=PARTS, help=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=7, help="rounds; the pass takes half")
    parser.add_argument("--rows", type=int, default=50_000, help="N of the pass; 50,000 is 1 GB")
    parser.add_argument(
        "--memory-rows", type=_numbers, default=(10_000, 50_000, 200_000), metavar="N,N,...",
        help="N of the memory-mapped files; 200,000 is 2 GB of disk",
    )  # fmt: skip
    parser.add_argument("--many-rows", type=int, default=20_000, help="N of many exits")
    parser.add_argument("--exits", type=_numbers, default=(12, 50, 100), metavar="K,K,...")
    parser.add_argument("--seeds", type=int, default=2, help="of many exits' unseen rows")
    return parser.parse_args()


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
