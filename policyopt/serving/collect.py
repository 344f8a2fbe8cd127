"""`export_cache`: the outputs of a staged model as a policyopt cache, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np

from policyopt.cache.writer import CacheWriter
from policyopt.costs import Cost
from policyopt.runtime.errors import input_error

from .hidden import mapped, part, size
from .modules import refuse_numpy
from .staged import StagedModel
from .training import warn_of_training

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
        Samples are a pair (inputs, labels) of arrays or tensors, or an iterable of such pairs (a
        DataLoader), or of mappings with a key ``labels`` (or ``label``), which the model is then not
        given (Hugging Face's collators). Rows without a split name go to ``pool``, which the writer
        halves into ``fit`` and ``test``. Labels may be None where they are not known.
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
        As `CacheWriter`; samples that are no pairs; features that are wanted and lacking; a device
        that is not here; an option that the writer does not have.

    Warns
    -----
    TrainingModeWarning
        A module in training mode that holds dropout or batch norm.

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
        raise input_error("batch", "1 or more", batch, "Rows per call of the model.")
    _check_options(options)
    if device is not None:
        _check_device(device)
    if features and model.features is None:
        model.vectors(0, None)  # says what is lacking
    warn_of_training(model)
    splits = source if isinstance(source, Mapping) else {"pool": source}
    rows = dict.fromkeys(splits, 0)
    with CacheWriter(out, costs=costs, **options) as writer, torch.inference_mode():
        for split, samples in splits.items():
            for inputs, labels in _batches(samples, split, batch):
                inputs = inputs if device is None else mapped(inputs, lambda x: _moved(x, device))
                try:
                    outputs, vectors = _run(model, inputs, features)
                except (TypeError, AttributeError) as error:
                    refuse_numpy(model, inputs, error)
                    raise
                _append(writer, split, outputs, labels, vectors if features else None)
                rows[split] += size(inputs)
    return rows


def _run(model: StagedModel, inputs: Any, features: bool) -> tuple[list[Any], list[Any]]:
    """Return the outputs of all exits, and their feature vectors where these are wanted."""
    outputs, vectors, hidden = [], [], inputs
    for k in range(model.exits):
        hidden, logits = model.stage(k, hidden)
        outputs.append(_stored(model.head(k, hidden, logits)))
        if features:
            vectors.append(_stored(model.vectors(k, hidden)))
    return outputs, vectors


def _check_options(options: Mapping[str, Any]) -> None:
    known = [name for name in signature(CacheWriter).parameters if name not in ("path", "costs")]
    for name in options:
        if name not in known:
            raise input_error(
                name, f"left out, or one of {', '.join(known)}", "an unknown option", ""
            )


def _check_device(device: Any) -> None:
    """Refuse a device that torch does not know, or cannot use here."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise input_error(
            "device", "one that torch can use here, e.g. 'cpu'", f"{device} ({reason})"
        ) from error


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
            if isinstance(pair, Mapping):
                yield _apart(pair, f"batch {number} of {split!r}")
                continue
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                got = f"{type(pair).__name__} in batch {number}"
                raise input_error(f"samples of {split!r}", "pairs (inputs, labels)", got, _PAIRS)
            yield pair[0], pair[1]
        return
    if len(samples) != 2:
        raise input_error(
            f"samples of {split!r}", "a pair (inputs, labels)", f"{len(samples)} parts", ""
        )
    inputs, labels = samples
    n = size(inputs)
    if labels is not None and len(labels) != n:
        raise input_error(f"labels of {split!r}", f"one per sample: {n}", len(labels), "")
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
