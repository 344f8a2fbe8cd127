"""How long does `policyopt plan` take on the example cache, command by command of docs/tiers.md?

python benchmarks/plan.py [--rounds 3] [--out benchmarks/results/plan.json]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from _common import machine, machine_line, table, write

_ROOT = Path(__file__).resolve().parent.parent
_PLAN = ["plan", "cache/fashion_mnist", "--tiers", "docs/tiers.toml"]
COMMANDS = (
    "--budget 7",
    "--budget 7 --method none",
    "--accuracy 91% --objective energy",
    "--accuracy 91% --confidence 95%",
    "--budget 9 --limit latency:p95<=20 --limit energy:mean<=8",
)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks/results/plan.json")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    begin = machine()
    times: dict[str, list[tuple[float, float]]] = {command: [] for command in COMMANDS}
    for _ in range(options.rounds):
        for command, found in times.items():
            found.append(timed([*_PLAN, *command.split()]))
            print(command, found[-1], file=sys.stderr)
    body = [
        [f"`{command}`", f"{min(p for p, _ in found):.1f}", f"{min(w for _, w in found):.1f}"]
        for command, found in times.items()
    ]
    head = ["policyopt plan", "processor seconds", "seconds"]
    text = table(f"Best of {options.rounds}, loading and printing included", head, body)
    line = machine_line(begin, machine())
    write(options.out, {"times": times, "machine": begin}, f"{text}\n{line}\n")


def timed(arguments: list[str]) -> tuple[float, float]:
    """Return the processor's and the clock's seconds of a command."""
    before, start = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "policyopt", *arguments], cwd=_ROOT, check=True, capture_output=True
    )
    after, end = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(spent, 2), round(end - start, 2)


if __name__ == "__main__":
    main()
