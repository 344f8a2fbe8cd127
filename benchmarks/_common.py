"""What the benchmarks share: paired timing, synthetic logits, the machine, tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime._files import write_file

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
_BLOCK = 2_000  # rows made at a time


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one entry per round."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def record(self) -> dict[str, Any]:
        return {"best_s": self.best, "median_s": self.median, "rounds": len(self.seconds)}


def paired(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    calls: Mapping[str, int] | None = None,
) -> dict[str, Timing]:
    """Time contestants in turn (A B A B ...), so that a busy moment meets them all.

    A round's time of a contestant is the mean over its `calls` (default 1) in a row. Each is
    called once before, untimed, if it is called more than once per round.
    """
    counts = {name: (calls or {}).get(name, 1) for name in contestants}
    for name, run in contestants.items():
        if counts[name] > 1:
            run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                run()
            times[name].append((time.perf_counter() - start) / counts[name])
    return {name: Timing(tuple(values)) for name, values in times.items()}


def synthetic(rows: int, exits: int, classes: int, seed: int = 0) -> tuple[Logits, Labels]:
    """Make logits (N, K, C) of exits that grow better, and labels (N,).

    The shift that makes a class win grows with the exit and falls with a sample's hardness; it
    is scaled to the largest of C normal numbers, so accuracies are alike for any C.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    hardness = rng.normal(size=rows)
    logits = np.empty((rows, exits, classes), dtype=np.float32)
    height = np.sqrt(2 * np.log(classes))
    for low in range(0, rows, _BLOCK):
        block = logits[low : low + _BLOCK]
        rng.standard_normal(out=block, dtype=np.float32)
        here = np.arange(len(block))
        for k in range(exits):
            shift = height - 0.6 + 0.8 * k - 1.2 * hardness[low : low + _BLOCK]
            block[here, k, labels[low : low + _BLOCK]] += shift.astype(np.float32)
        block *= np.float32(1.5)
    return logits, labels


def machine() -> dict[str, Any]:
    """Describe the machine and the versions at work."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {"python": platform.python_version()}
    for package in ("policyopt", "numpy", "scipy", "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "processor": models[0] if models else platform.processor(),
        "processors": os.cpu_count(),
        "load_average": [round(v, 2) for v in os.getloadavg()],
        "versions": versions,
    }


def machine_line(at_start: Mapping[str, Any], at_end: Mapping[str, Any]) -> str:
    """Return the machine in one line."""
    versions = ", ".join(f"{name} {v}" for name, v in at_start["versions"].items())
    return (
        f"{at_start['processor']}, {at_start['processors']} processors; {versions}; "
        f"load average {at_start['load_average'][0]} at the start, "
        f"{at_end['load_average'][0]} at the end."
    )


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a markdown table under a heading; columns after the first are aligned right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *others = (c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in
                          enumerate(zip(row, widths, strict=True)))  # fmt: skip
        return f"| {' | '.join([first, *others])} |"

    rule = f"| {'-' * widths[0]} | " + " | ".join("-" * (w - 1) + ":" for w in widths[1:]) + " |"
    return "\n".join([f"### {title}", "", line(cells[0]), rule, *map(line, cells[1:]), ""])


def write(out: Path, results: Mapping[str, Any], text: str) -> None:
    """Write a JSON file and the tables beside it as markdown; print the tables."""
    write_file(out, json.dumps(results, indent=1) + "\n")
    write_file(out.with_suffix(".md"), text)
    print(text)


def seconds(value: float) -> str:
    """Return a duration in its natural unit.

    >>> seconds(0.0123), seconds(2.5e-5), seconds(3.0)
    ('12.3 ms', '25.0 us', '3.00 s')
    """
    if value < 1e-3:
        return f"{value * 1e6:.1f} us"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


def times(value: float) -> str:
    """Return a ratio.

    >>> times(3.14159), times(1234.5)
    ('3.1 x', '1,234 x')
    """
    return f"{value:,.0f} x" if value >= 20 else f"{value:.1f} x"
