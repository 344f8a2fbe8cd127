"""`export_cache`: the outputs of a staged model as a policyopt cache, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from policyopt.cache.writer import CacheWriter
from policyopt.costs import Cost
from policyopt.runtime.errors import bad

from .hidden import mapped, part, size
from .staged import StagedModel


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
        Samples are a pair (inputs, labels) of arrays or tensors, or an iterable of such pairs (a
        DataLoader). Rows without a split name go to ``pool``, which the writer halves into ``fit``
        and ``test``. Labels may be None where they are not known.
    out : path
        Directory of the cache.
    costs : Cost or sequence of Cost
        E.g. ``measure(...).costs``.
    features : bool, default False
        Whether to store the exits' feature vectors too (the model was wrapped with `features`).
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
        As `CacheWriter`; samples that are no pairs; features that are wanted and lacking.

    Examples
    --------
    >>> import tempfile  # doctest: +SKIP
    >>> model = StagedModel(
    ...     [lambda x: x, lambda x: x], [lambda h: h, lambda h: 2 * h]
    ... )  # doctest: +SKIP
    >>> inputs, labels = torch.randn(8, 3), torch.arange(8) % 3  # doctest: +SKIP
    >>> cost = Cost("compute", "MMACs", [1, 2])  # doctest: +SKIP
    >>> export_cache(
    ...     model, {"fit": (inputs, labels)}, tempfile.mkdtemp(), costs=cost
    ... )  # doctest: +SKIP
    {'fit': 8}
    """
    import torch

    if batch < 1:
        raise bad("batch", "1 or more", batch, "Rows per call of the model.")
    if features and model.features is None:
        model.vectors(0, None)  # says what is lacking
    splits = source if isinstance(source, Mapping) else {"pool": source}
    rows = dict.fromkeys(splits, 0)
    with CacheWriter(out, costs=costs, **options) as writer, torch.inference_mode():
        for split, samples in splits.items():
            for inputs, labels in _batches(samples, split, batch):
                inputs = inputs if device is None else mapped(inputs, lambda x: _moved(x, device))
                outputs, vectors, hidden = [], [], inputs
                for k in range(model.exits):
                    hidden, logits = model.stage(k, hidden)
                    outputs.append(_stored(model.head(k, hidden, logits)))
                    if features:
                        vectors.append(_stored(model.vectors(k, hidden)))
                _append(writer, split, outputs, labels, vectors if features else None)
                rows[split] += size(inputs)
    return rows


def _append(writer: CacheWriter, split: str, outputs: list[Any], labels: Any, vectors: Any) -> None:
    """Append a batch: logits or probabilities of every exit, or records."""
    if not isinstance(outputs[0], Mapping):
        writer.append(split, outputs, labels, features=vectors)
        return
    columns: dict[str, Any] = {
        name: np.stack([o[name] for o in outputs], axis=1) for name in outputs[0]
    }
    writer.append(split, None, labels, features=vectors, **columns)


def _batches(samples: Any, split: str, batch: int) -> Iterator[tuple[Any, Any]]:
    """Yield (inputs, labels) batch by batch, of whole arrays or of what yields batches."""
    if not isinstance(samples, tuple):
        for number, pair in enumerate(samples):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                got = f"{type(pair).__name__} in batch {number}"
                raise bad(f"samples of {split!r}", "pairs (inputs, labels)", got, "")
            yield pair[0], pair[1]
        return
    if len(samples) != 2:
        raise bad(f"samples of {split!r}", "a pair (inputs, labels)", f"{len(samples)} parts", "")
    inputs, labels = samples
    n = size(inputs)
    if labels is not None and len(labels) != n:
        raise bad(f"labels of {split!r}", f"one per sample: {n}", len(labels), "")
    for low in range(0, n, batch):
        high = min(low + batch, n)
        yield part(inputs, low, high, n), None if labels is None else labels[low:high]


def _stored(output: Any) -> Any:
    """Return an output on the host; wide floats as float32, the width of every decision."""
    if isinstance(output, Mapping):
        return {name: _stored(column) for name, column in output.items()}
    if hasattr(output, "detach"):
        output = output.detach()
        return (output.float() if output.is_floating_point() else output).cpu().numpy()
    return np.asarray(output)


def _moved(leaf: Any, device: Any) -> Any:
    return leaf.to(device) if hasattr(leaf, "to") else leaf
