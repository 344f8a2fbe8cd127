"""A staged model's cache: the outputs of all its exits, and what every exit costs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np

from policyopt._cache.writer import CacheWriter
from policyopt._costs import Cost
from policyopt.runtime._checks import check_whole
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._typing import Floats

from ._latency import LatencyTable, timed
from ._staged import StagedModel, host, mapped, own, part, refuse_numpy, size, warn_of_training

_LABELS = ("labels", "label")
_PAIRS = "Where labels are not known: (inputs, None)."


def export_cache(
    model: StagedModel,
    source: Any,
    out: str | os.PathLike[str],
    *,
    costs: Cost | Sequence[Cost],
    features: bool = False,
    batch: int = 256,
    device: Any = None,
    **options: Any,
) -> dict[str, int]:
    """Run a model over labelled samples and write the outputs of all its exits.

    Parameters
    ----------
    model : StagedModel
    source : mapping of split name to samples, or samples
        Samples are a pair (inputs, labels) of arrays or tensors, or an iterable of such pairs (a DataLoader),
        or of mappings with a key ``labels`` (or ``label``), which the model is not given (Hugging Face's
        collators); labels may be None. Rows without a split name go to ``pool``: half ``fit``, half ``test``.
    out : path
        Directory of the cache.
    costs : Cost or sequence of Cost
        E.g. ``measure(...).costs``.
    features : bool, default False
        Store the exits' feature vectors too (the model was wrapped with `features`).
    batch : int, default 256
        Rows per call of the model where the samples are whole arrays.
    device : torch device, optional
        Where inputs are brought to; default: they stay where they are.
    **options
        Of `policyopt.CacheWriter`: kind, dtype, classes, shares, metadata, overwrite, ...

    Returns
    -------
    dict of str to int
        Rows per split.

    Raises
    ------
    InputError
        As `CacheWriter`; samples that are no pairs; features, a device or an option that is not there.

    Warns
    -----
    TrainingModeWarning
        A module in training mode that holds dropout or batch norm.

    Examples
    --------
    >>> cost = Cost("compute", "MMACs", [1, 2])
    >>> export_cache(model, {"fit": (inputs, labels)}, "cache", costs=cost)  # doctest: +SKIP
    {'fit': 8}
    """
    import torch

    check_whole("batch", batch, step="Rows per call of the model.")
    known = [name for name in signature(CacheWriter).parameters if name not in ("path", "costs")]
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise input_error(unknown, f"left out, or one of {', '.join(known)}", "an unknown option")
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError, ImportError) as error:
            got = f"{device} ({str(error).partition(chr(10))[0]})"
            raise input_error("device", "one that torch can use here, e.g. 'cpu'", got) from error
    if features and model.features is None:
        model.vectors(0, None)  # says what is lacking
    warn_of_training(model)
    splits = source if isinstance(source, Mapping) else {"pool": source}
    rows = dict.fromkeys(splits, 0)
    with CacheWriter(out, costs=costs, **options) as writer, torch.inference_mode():
        for split, samples in splits.items():
            for inputs, labels in _batches(samples, split, batch):
                if device is not None:
                    inputs = mapped(inputs, lambda x: x.to(device) if hasattr(x, "to") else x)
                try:
                    columns = _run(model, inputs, features)
                except (TypeError, AttributeError) as error:
                    refuse_numpy(model, inputs, error)
                writer.append(split, labels=labels, **columns)
                rows[split] += size(inputs)
    return rows


def _run(model: StagedModel, inputs: Any, features: bool) -> dict[str, Any]:
    """Return what the writer takes: the outputs of all exits, of summaries by column, and vectors where wanted."""
    outputs, vectors = [], []
    for k, (hidden, output) in enumerate(model.walk(inputs)):
        outputs.append(host(mapped(output, own)))
        if features:
            vectors.append(host(own(model.vectors(k, hidden))))
    columns: dict[str, Any] = {"outputs": outputs}
    if isinstance(outputs[0], Mapping):
        columns = {name: np.stack([o[name] for o in outputs], axis=1) for name in outputs[0]}
    return {**columns, "features": vectors if features else None}


def _batches(samples: Any, split: str, batch: int) -> Iterator[tuple[Any, Any]]:
    """Yield (inputs, labels) batch by batch, of whole arrays or of what yields batches."""
    if not isinstance(samples, tuple):
        for number, pair in enumerate(samples):
            if isinstance(pair, Mapping):
                yield _apart(pair, f"batch {number} of {split!r}")
            elif isinstance(pair, (tuple, list)) and len(pair) == 2:
                yield pair[0], pair[1]
            else:
                got = f"{type(pair).__name__} in batch {number}"
                raise input_error(f"samples of {split!r}", "pairs (inputs, labels)", got, _PAIRS)
        return
    if len(samples) != 2:
        got = f"{len(samples)} parts"
        raise input_error(f"samples of {split!r}", "a pair (inputs, labels)", got)
    inputs, labels = samples
    n = size(inputs)
    if labels is not None and len(labels) != n:
        raise input_error(f"labels of {split!r}", f"one per sample: {n}", len(labels))
    for low in range(0, n, batch):
        high = min(low + batch, n)
        yield part(inputs, low, high, n), None if labels is None else labels[low:high]


def _apart(batch: Mapping[str, Any], name: str) -> tuple[dict[str, Any], Any]:
    """Return the inputs and the labels of a mapping that holds both."""
    keys = [key for key in _LABELS if key in batch]
    if len(keys) != 1:
        got = f"keys {', '.join(map(str, batch))}"
        raise input_error(name, "a mapping with one key of labels or label", got, _PAIRS)
    return {key: value for key, value in batch.items() if key != keys[0]}, batch[keys[0]]


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
    table : LatencyTable or None
        At `batch` and the batch sizes that were asked for, if any: lower quartiles over the runs.
    """

    compute: Cost
    latency: Cost
    seconds: Floats
    batch: int
    threads: int
    device: str
    table: LatencyTable | None

    @property
    def costs(self) -> tuple[Cost, Cost]:
        """Both, as `export_cache` takes them; the first is the cache's default."""
        return self.compute, self.latency

    def describe(self) -> dict[str, Any]:
        """Return how it was measured, JSON-able, for the cache's metadata."""
        latency = {"latency_batch": self.batch, "latency_runs": len(self.seconds)}
        told = latency | {"threads": self.threads, "device": self.device}
        return told if self.table is None else told | {"latency_table": self.table.describe()}


def measure(
    model: StagedModel, example: Any, *, runs: int = 50, warmup: int = 10, batches: Sequence[int] = ()
) -> Measured:  # fmt: skip
    """Measure what a sample has cost when it leaves at exit k.

    Every run goes through the whole model, at every batch size, and notes when the logits of each exit are on the
    host, as serving needs them there (and a GPU's clock to be honest). So a slow moment meets all exits alike.

    Parameters
    ----------
    model : StagedModel
    example : batch
        As the model takes it; its number of samples is the batch size that is measured.
    runs : int, default 50
    warmup : int, default 10
        Runs before, not counted.
    batches : sequence of int, optional
        More batch sizes for the `table`, of the example's rows over and over, e.g. ``(1, 2, 4, 8, 16, 32, 64)``.

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
    Multiply-adds by `torch.utils.flop_counter`: products of matrices, convolutions and attention (two operations
    each); additions, norms and activations are left out, as usual.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    warn_of_training(model)
    if runs < 1 or warmup < 0:
        raise input_error("runs", "1 or more, after 0 or more of warmup", (runs, warmup))
    n = size(example)
    if n < 1:
        raise input_error("example", "a batch of 1 sample or more", "0 samples")
    with torch.inference_mode():
        try:
            with FlopCounterMode(display=False) as counter:
                operations = [counter.get_total_flops() for _ in model.walk(example)]
        except (TypeError, AttributeError) as error:
            refuse_numpy(model, example, error)
        compute = np.array([count / 2 for count in operations]) / n / 1e6
        sizes = sorted({n, *batches})
        LatencyTable(sizes, *np.zeros((3, len(sizes), model.exits)))  # refuses what is no size
        whole, tries = len(sizes) > 1, range(warmup + runs)
        every = [[timed(model, example, n, b, whole) for b in sizes] for _ in tries]
    if not compute[-1] > 0:
        raise InputError(
            "'model' must compute with torch's matrix products or convolutions to be counted. Got no "
            "multiply-add. State its costs yourself: policyopt.Cost(name, unit, values)."
        )
    parts = np.array(every[warmup:])
    seconds = parts[:, sizes.index(n), :2].sum(axis=1).cumsum(axis=1)
    # What else the machine does only adds, and to long calls of large batches most: the lower quartile.
    columns = np.moveaxis(np.percentile(parts, 25, axis=0), 1, 0)
    table = LatencyTable(sizes, *columns) if whole else None
    latency = np.median(seconds, axis=0) / n * 1e3
    devices: set[str] = set()
    mapped(example, lambda leaf: devices.add(str(getattr(leaf, "device", "cpu"))))
    given = ("compute", "MMACs", compute), ("latency", "ms", latency)
    work, wait = (Cost(n, unit, tuple(v.tolist()), cascade=model.cascade) for n, unit, v in given)
    device = ", ".join(sorted(devices))
    return Measured(work, wait, seconds, n, torch.get_num_threads(), device, table)
