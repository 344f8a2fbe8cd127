"""Peak memory of the statistics pass over a memory-mapped input, in a process of its own.

Run as a script it prints one JSON object: ``python benchmarks/_memory.py FILE.npy``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.data import Rows
from policyopt._table import exit_statistics

MIB = 1 << 20
_FIELDS = ("RssAnon", "RssShmem", "RssFile")
_PERIOD = 0.002  # seconds between two looks
_BLOCK = 10_000  # rows written at a time


def main() -> None:
    """Measure one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    print(json.dumps(measure_here(parser.parse_args().file)))


def measure_here(file: Path) -> dict[str, Any]:
    """Pass over a mapped (N, K, C) file, watching this process.

    RssAnon is memory that only the process fills; RssFile are pages of mapped files, the input
    among them, which the system may drop at any time; RssShmem would be a table spilled to a
    ``/tmp`` that lives in memory.
    """
    logits = np.load(file, mmap_mode="r")
    labels = np.zeros(len(logits), dtype=np.int64)
    before = _status()
    peak = dict(before)
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            now = _status()
            for name, value in now.items():
                peak[name] = max(peak[name], value)
            time.sleep(_PERIOD)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    table = exit_statistics(Rows(({"outputs": logits, "labels": labels},)), "logits")
    took = time.perf_counter() - start
    done.set()
    watcher.join()
    own = peak["RssAnon"] + peak["RssShmem"]
    return {
        "rows": len(logits),
        "exits": logits.shape[1],
        "classes": logits.shape[2],
        "input_mib": logits.nbytes / MIB,
        "seconds": took,
        "added_mib": (own - before["RssAnon"] - before["RssShmem"]) / MIB,
        "process_mib": own / MIB,
        "table_mib": sum(
            a.nbytes for a in (table.top_prob, table.top_class, table.entropy, table.log_sum_exp)
        )
        / MIB,
        "table_in_file": isinstance(table.entropy, np.memmap),
        "mapped_mib": peak["RssFile"] / MIB,
        "maxrss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure(rows: int, exits: int, classes: int, folder: Path | None = None) -> dict[str, Any]:
    """Write float16 logits of N rows to a temporary file and measure them in a fresh process."""
    block = np.random.default_rng(0).standard_normal((_BLOCK, exits, classes), dtype=np.float32)
    block = block.astype(np.float16)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = Path(place) / "logits.npy"
        mapped = np.lib.format.open_memmap(
            file, mode="w+", dtype=np.float16, shape=(rows, exits, classes)
        )
        for low in range(0, rows, _BLOCK):
            part = mapped[low : low + _BLOCK]
            part[:] = block[: len(part)]
        mapped.flush()
        del mapped
        command = [sys.executable, __file__, str(file)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)


def _status() -> dict[str, int]:
    """Return this process's resident memory by kind, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split() for line in lines)
    sizes = {p[0].rstrip(":"): int(p[1]) * 1024 for p in pairs if p[0].rstrip(":") in _FIELDS}
    return {name: sizes.get(name, 0) for name in _FIELDS}


if __name__ == "__main__":
    main()
