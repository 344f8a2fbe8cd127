"""The statistics pass against plain numpy/scipy and against memory bandwidth; its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from _common import paired, seconds, synthetic, table, times
from _memory import measure
from _plain import differences, plain_by_exit, plain_whole

from policyopt._cache.data import Rows
from policyopt._table import exit_statistics

EXITS, CLASSES = 5, 1_000
TARGET, MEMORY_TARGET, EXP_TARGET = 4.0, 300.0, 0.7
#: C of the pass beside `numpy.exp`, and the bytes of float32 that one exponential fills: they stay in a core's cache.
BESIDE, BUFFER = (10, 100, CLASSES), 1 << 19
#: Few classes make many rows of a small file: one table just kept in memory, one in a file.
LONG = ((500_000, 10), (4_000_000, 10))
OURS, SUM, EXP, TORCH = "policyopt", "numpy.sum", "numpy.exp", "torch"


def passing(rows: int, repeats: int) -> tuple[dict[str, Any], str]:
    """Time the pass over float32 and float16 logits; return its record and its table."""
    logits, labels = synthetic(rows, EXITS, CLASSES)
    table_of = exit_statistics(Rows(({"outputs": logits, "labels": labels},)), "logits")
    agreement = differences(table_of, plain_by_exit(logits, labels))
    del table_of
    jobs = {"float32": _job(logits, labels, repeats)}
    logits = logits.astype(np.float16)
    jobs["float16"] = _job(logits, labels, repeats)
    record = {
        "rows": rows, "exits": EXITS, "classes": CLASSES, "target": TARGET,
        "largest_differences": agreement, "jobs": jobs,
    }  # fmt: skip
    return record, _text(record)


def exponentials(rows: int, repeats: int) -> tuple[dict[str, Any], str]:
    """Time the pass beside `numpy.exp` of the same logits at equal threads; return its record and its table."""
    record: dict[str, Any] = {
        "exits": EXITS,
        "numbers": rows * EXITS * CLASSES,
        "target": EXP_TARGET,
    }
    lines = []
    for classes in BESIDE:
        logits, _ = synthetic(rows * CLASSES // classes, EXITS, classes)
        for dtype in (np.float32, np.float16):
            given = logits.astype(dtype, copy=False)
            split = Rows(({"outputs": given},))
            for threads in (1, 2):
                timed = paired(
                    {
                        OURS: partial(exit_statistics, split, "logits", threads=threads),
                        EXP: partial(_exponentials, given.reshape(-1), threads),
                        TORCH: partial(_by_torch, given.reshape(-1, classes), threads),
                    },
                    repeats,
                )  # fmt: skip
                share = median(
                    theirs / ours
                    for ours, theirs in zip(timed[OURS].seconds, timed[EXP].seconds, strict=True)
                )
                rates = [given.size / timed[name].best / 1e9 for name in (OURS, EXP, TORCH)]
                key = f"{given.dtype}, C = {classes:,}"
                record[f"{key}, threads = {threads}"] = {
                    "share": share, **{name: timing.record() for name, timing in timed.items()},
                }  # fmt: skip
                lines.append((key, threads, *(f"{rate:.2f}" for rate in rates), f"{share:.2f}"))
    title = f"Statistics pass beside numpy.exp into a buffer of {BUFFER >> 10} KiB, K = {EXITS}"
    header = (
        "input",
        "threads",
        "ours, 10^9 numbers/s",
        "numpy.exp",
        "torch",
        "share of numpy.exp",
    )
    text = (
        f"{table(title, header, lines)}\nTarget: a share of {EXP_TARGET}. *torch*: largest and its place, second, sums "
        "and entropy by torch's kernels, block by block; its exponential has other bits than the runtime's.\n"
    )
    return record, text


def _by_torch(rows: npt.NDArray[np.floating], threads: int) -> None:
    """Reduce rows (n, C) to what the pass keeps, by torch's kernels."""
    import torch

    torch.set_num_threads(1)
    size, found = max(BUFFER // 4 // rows.shape[1], 1), np.empty((len(rows), 5))

    def work(first: int) -> None:
        with torch.inference_mode():
            for low in range(first * size, len(rows), threads * size):
                z = torch.from_numpy(rows[low : low + size]).float()
                z, best = torch.sub(z, (peak := z.amax(1, keepdim=True))), z.argmax(1, keepdim=True)
                share = z.exp()
                rest, spread = share.sum(1), torch.linalg.vecdot(share, z)
                second = z.scatter_(1, best, -torch.inf).amax(1)
                columns = (peak[:, 0], best[:, 0], rest, spread, second)
                found[low : low + size] = torch.stack([c.double() for c in columns], 1).numpy()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


def _exponentials(numbers: npt.NDArray[np.floating], threads: int) -> None:
    """Take float32 exponentials of all numbers, a buffer's worth at a time."""
    size = BUFFER // 4

    def work(first: int) -> None:
        buffer = np.empty(size, dtype=np.float32)
        with np.errstate(over="ignore"):
            for low in range(first * size, len(numbers), threads * size):
                part = numbers[low : low + size]
                np.exp(part, out=buffer[: len(part)], dtype=np.float32)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


def memory(rows: Sequence[int]) -> tuple[dict[str, Any], str]:
    """Measure peak memory; return its record and its table."""
    cases = [(n, CLASSES) for n in rows] + list(LONG)
    found = [measure(n, EXITS, classes) for n, classes in cases]
    title = f"Memory of the pass over a mapped float16 file, K = {EXITS}"
    header = ("N", "C", "input MiB", "added MiB", "process MiB", "table MiB", "table", "time")
    lines = [
        (
            f"{f['rows']:,}", f["classes"], f"{f['input_mib']:,.0f}", f"{f['added_mib']:.0f}",
            f"{f['process_mib']:.0f}", f"{f['table_mib']:.0f}",
            "in a file" if f["table_in_file"] else "in memory", seconds(f["seconds"]),
        )
        for f in found
    ]  # fmt: skip
    text = (
        f"{table(title, header, lines)}\n"
        f"Target: under {MEMORY_TARGET:.0f} MB over the input. *Added*: peak of the memory that only the "
        "process fills (RssAnon + RssShmem), less what it held before the pass; *process*: the "
        "same with Python and the imports. Pages of mapped files, which the system may drop, are not counted.\n"
    )
    return {"target_mb": MEMORY_TARGET, "cases": found}, text


def _job(
    logits: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], repeats: int
) -> dict[str, dict[str, Any]]:
    rows = Rows(({"outputs": logits, "labels": labels},))
    same_bytes = logits.view(np.float32)
    contestants: dict[str, Callable[[], object]] = {
        OURS: lambda: exit_statistics(rows, "logits"),
        "policyopt, 1 thread": lambda: exit_statistics(rows, "logits", threads=1),
        SUM: lambda: same_bytes.sum(),
        "plain, exit by exit": lambda: plain_by_exit(logits, labels),
    }
    # All exits at once take about five times the input more; not tried where memory is short.
    if logits.dtype == np.float32 and _available() > 8 * logits.nbytes:
        contestants["plain, whole array"] = lambda: plain_whole(logits, labels)
    timings = paired(contestants, repeats)
    ours, bandwidth = timings[OURS], timings[SUM]
    return {
        name: {
            **timing.record(),
            "gigabytes_per_s": logits.nbytes / timing.best / 1e9,
            "ratio_best": timing.best / ours.best,
            "ratio_median": timing.median / ours.median,
            "sums_best": timing.best / bandwidth.best,
        }
        for name, timing in timings.items()
    }


def _text(record: dict[str, Any]) -> str:
    rows = [
        (
            f"{dtype}: {name}", seconds(entry["best_s"]), seconds(entry["median_s"]),
            f"{entry['gigabytes_per_s']:.2f}", times(entry["ratio_best"]),
            times(entry["ratio_median"]), times(entry["sums_best"]),
        )
        for dtype, entries in record["jobs"].items()
        for name, entry in entries.items()
    ]  # fmt: skip
    title = f"Statistics pass, N = {record['rows']:,}, K = {EXITS}, C = {CLASSES:,}"
    header = (
        "input: way", "best", "median", "GB/s", "of ours (best)", "of ours (median)", "of numpy.sum",
    )  # fmt: skip
    worst = ", ".join(f"{k} {v:.1e}" for k, v in record["largest_differences"].items())
    return (
        f"{table(title, header, rows)}\n"
        f"Target: plain takes at least {TARGET:.0f} x as long. Largest differences to plain: {worst}.\n"
    )


def _available() -> int:
    """Return the bytes of memory that new arrays can have."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
