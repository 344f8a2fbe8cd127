"""What is reported beside quality: balanced accuracy and macro-F1 of answers, with bootstrap intervals over rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from policyopt._intervals import REPLICATES, interval, with_interval
from policyopt.runtime._checks import check_one_of, check_seed
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Array, Floats, Ints

METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
_BLOCK = 1 << 22  # resampled counts held at a time


def metric_fields(
    name: str, labels: Array | None, prediction: Array, seed: int = 0, group: Ints | None = None
) -> dict[str, Any]:
    """Return a metric of answers (N,) with its 95 % interval as fields; rows need labels, answers classes."""
    check_one_of("metric", name, METRICS, "E.g. balanced_accuracy.")
    if labels is None or not len(labels) or (labels < 0).any() or (prediction < 0).all():
        lacks = "answers" if labels is not None and not (labels < 0).any() else "labels"
        step = "Import labels and the classes that are answered, or leave --metric out."
        got = f"rows without {lacks}"
        raise input_error("metric", "of rows with labels and answers", got, step)
    both = np.stack([labels, prediction])
    pairs, at, counts = np.unique(both, axis=1, return_inverse=True, return_counts=True)
    label, answer = pairs.astype(np.int64)
    value = _measure(name, counts[None], label, answer)[0]
    rng, drawn = np.random.default_rng(check_seed(seed)), []
    units, sizes = None, counts  # what is drawn where not single rows, and how many there are of it
    if group is not None:
        _, of = np.unique(group, return_inverse=True)
        units = np.zeros((int(of.max()) + 1, len(counts)), dtype=np.int64)
        np.add.at(units, (of, at.reshape(-1)), 1)
        sizes = np.ones(len(units), dtype=np.int64)
    share = sizes / sizes.sum()
    step = max(_BLOCK // len(sizes), 1)
    for low in range(0, REPLICATES, step):
        size = min(step, REPLICATES - low)
        weights = rng.multinomial(int(sizes.sum()), share, size=size)
        weights = weights if units is None else weights @ units
        drawn.append(_measure(name, weights, label, answer))
    low, high = interval(np.concatenate(drawn))
    return with_interval(name, float(value), float(low), float(high))


def _measure(name: str, counts: Array, label: Ints, answer: Ints) -> Floats:
    """Return the metric of R samples, (R,): how often each pair of label and answer comes, (R, P)."""
    right = np.where(label == answer, counts, 0)
    if name == "accuracy":
        return right.sum(axis=1) / counts.sum(axis=1)
    classes = np.unique(np.concatenate([label, answer[answer >= 0]]))
    columns = (right, label), (counts, label), (counts, answer)
    hit, there, said = (_by_class(values, of, classes) for values, of in columns)
    if name == "balanced_accuracy":  # of the classes that are there
        recall = np.where(there > 0, hit / np.maximum(there, 1), 0.0)
        return recall.sum(axis=1) / (there > 0).sum(axis=1)
    known = (there + said) > 0
    f1 = np.where(known, 2 * hit / np.maximum(there + said, 1), 0.0)
    return f1.sum(axis=1) / known.sum(axis=1)


def _by_class(values: Array, of: Ints, classes: Ints) -> Array:
    """Return sums of columns (R, P) by the class of each, (R, Q)."""
    order = np.argsort(of, kind="stable")
    order = order[of[order] >= 0]
    named, first = np.unique(of[order], return_index=True)
    out = np.zeros((len(values), len(classes)))
    if len(order):
        out[:, np.searchsorted(classes, named)] = np.add.reduceat(values[:, order], first, axis=1)
    return out
