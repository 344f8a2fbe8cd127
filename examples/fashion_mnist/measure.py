"""Costs of every exit: multiply-adds and latency, both cumulative."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from .data import Bytes
from .model import MultiExitNet
from .train import to_input

WARMUP_RUNS = 50


@torch.inference_mode()
def multiply_adds(model: MultiExitNet) -> list[float]:
    """Count the million multiply-adds (MMACs) a sample has used when it leaves at exit k.

    The stem and every head passed on the way count too: a sample that leaves at exit k has
    also run the heads 0..k-1.
    """
    with FlopCounterMode(display=False) as counter:
        # The counter reports two operations, a product and a sum, per multiply-add.
        return [
            counter.get_total_flops() / 2 / 1e6 for _ in model.stages(torch.zeros(1, 1, 28, 28))
        ]


@torch.inference_mode()
def latency(model: MultiExitNet, images: Bytes, runs: int) -> list[float]:
    """Measure the milliseconds until the logits of exit k are there.

    One image at a time on a single thread. Every run notes the time at each exit on its way
    through the network, so that a slow moment of the machine hits all exits alike.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = np.empty((WARMUP_RUNS + runs, model.exits))
        for run, row in enumerate(seconds):
            image = to_input(images[run % len(images)][None])
            start = time.perf_counter()
            for index, _ in enumerate(model.stages(image)):
                row[index] = time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)
    medians = np.median(seconds[WARMUP_RUNS:], axis=0) * 1e3
    if not np.all(np.diff(medians, prepend=0.0) > 0):
        raise RuntimeError(f"latency does not increase from exit to exit: {medians} ms")
    return medians.tolist()


def cpu_name() -> str:
    """Return the processor's model name, or its architecture where no name is given."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
