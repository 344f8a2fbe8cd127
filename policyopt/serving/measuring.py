"""What every exit costs: latency and multiply-adds of a staged model, for a cache's costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.costs import Cost
from policyopt.runtime.errors import InputError, input_error

from .hidden import mapped, size
from .modules import refuse_numpy
from .staged import StagedModel
from .training import warn_of_training


@dataclass(frozen=True)
class Measured:
    """Costs per exit, cumulative, and how they were measured.

    Attributes
    ----------
    compute : Cost
        Million multiply-adds per sample (MMACs), stages and every head passed.
    latency : Cost
        Milliseconds per sample of a batch that leaves together at exit k: median over the runs.
    seconds : ndarray of shape (runs, K)
        Of the whole batch, per run.
    batch, threads : int
    device : str
    """

    compute: Cost
    latency: Cost
    seconds: npt.NDArray[np.float64]
    batch: int
    threads: int
    device: str

    @property
    def costs(self) -> tuple[Cost, Cost]:
        """Both, as `export_cache` takes them; the first is the cache's default."""
        return self.compute, self.latency

    def describe(self) -> dict[str, Any]:
        """Return how it was measured, JSON-able, for the cache's metadata."""
        return {
            "latency_batch": self.batch, "latency_runs": len(self.seconds),
            "threads": self.threads, "device": self.device,
        }  # fmt: skip


def measure(model: StagedModel, example: Any, *, runs: int = 50, warmup: int = 10) -> Measured:
    """Measure what a sample has cost when it leaves at exit k.

    Every run goes through the whole model and notes the time when the logits of each exit are on the
    host, as serving needs them there (which is also what makes a GPU's clock honest). So a slow moment
    of the machine meets all exits alike.

    Parameters
    ----------
    model : StagedModel
    example : batch
        As the model takes it; its number of samples is the batch size that is measured.
    runs : int, default 50
    warmup : int, default 10
        Runs before, not counted.

    Returns
    -------
    Measured

    Raises
    ------
    InputError
        No runs, or a model without a multiply-add that torch's counter knows.

    Warns
    -----
    TrainingModeWarning
        A module in training mode that holds dropout or batch norm.

    Notes
    -----
    Multiply-adds by `torch.utils.flop_counter`, which counts products of matrices, convolutions and
    attention (two operations each); additions, norms and activations are left out, as usual.
    """
    import torch

    warn_of_training(model)
    if runs < 1 or warmup < 0:
        raise input_error("runs", "1 or more, after 0 or more of warmup", (runs, warmup), "")
    n = size(example)
    if n < 1:
        raise input_error("example", "a batch of 1 sample or more", "0 samples", "")
    with torch.inference_mode():
        try:
            compute = np.array(_multiply_adds(model, example)) / n / 1e6
        except (TypeError, AttributeError) as error:
            refuse_numpy(model, example, error)
            raise
        seconds = np.empty((warmup + runs, model.exits))
        for row in seconds:
            _timed(model, example, row)
    if not compute[-1] > 0:
        raise InputError(
            "'model' must compute with torch's matrix products or convolutions to be counted. Got no "
            "multiply-add. State its costs yourself: policyopt.Cost(name, unit, values)."
        )
    seconds = seconds[warmup:]
    latency = np.median(seconds, axis=0) / n * 1e3
    devices: set[str] = set()
    mapped(example, lambda leaf: devices.add(str(getattr(leaf, "device", "cpu"))))
    return Measured(
        Cost("compute", "MMACs", tuple(compute.tolist()), cascade=model.cascade),
        Cost("latency", "ms", tuple(latency.tolist()), cascade=model.cascade),
        seconds, n, torch.get_num_threads(), ", ".join(sorted(devices)),
    )  # fmt: skip


def _multiply_adds(model: StagedModel, example: Any) -> list[float]:
    """Count the multiply-adds up to every exit, for the whole batch."""
    from torch.utils.flop_counter import FlopCounterMode

    found, hidden = [], example
    with FlopCounterMode(display=False) as counter:
        for k in range(model.exits):
            hidden, logits = model.stage(k, hidden)
            model.head(k, hidden, logits)
            found.append(counter.get_total_flops() / 2)
    return found


def _timed(model: StagedModel, example: Any, row: npt.NDArray[np.float64]) -> None:
    """Fill in the seconds until each exit's logits are on the host."""
    hidden = example
    start = time.perf_counter()
    for k in range(model.exits):
        hidden, logits = model.stage(k, hidden)
        output = model.head(k, hidden, logits)
        for column in output.values() if isinstance(output, Mapping) else (output,):
            if hasattr(column, "cpu"):
                column.cpu()
        row[k] = time.perf_counter() - start
