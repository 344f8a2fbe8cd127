"""What each exit is worth by itself, had all rows left there: quality, loss, calibration, overthinking, overfitting.

Sources: overthinking: Kaya et al., Shallow-deep networks, ICML 2019 (destructive: right answers that later exits
lose); intervals of differences from those of their terms: Zou & Donner, Statistics in Medicine 27, 2008.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from policyopt._cache.data import ExitData
from policyopt._intervals import mean_interval, quality_fields, with_interval
from policyopt._report.calibration import Observed, calibration_error, observe
from policyopt._study.streams import TRAIN
from policyopt._table import Table, Tables, known_rows
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._shown import Shown

#: What the metadata may record where no rows of the training are there, and what it is beside.
_TOLD = {"accuracy": "train_accuracy", "loss": "train_loss"}
_ENDS = ("", "_low", "_high")
_NEVER = 99.0  # nats: log probabilities of 0 are read as -100


@dataclass(frozen=True, repr=False)
class ExitMetrics(Shown):
    """What `exit_metrics` found."""

    split: str
    exits: list[dict[str, Any]]  # one record per exit
    training: dict[str, Any]  # what the metadata record of the training as a whole
    notes: list[str]


def exit_metrics(
    data: ExitData, split: str = "test", *,
    cost: str | None = None, utility: Any = None, tables: Tables | None = None,
) -> ExitMetrics:  # fmt: skip
    """Measure each exit by itself, had all rows left there.

    Of the training a cache may hold rows (a split ``train``), and in its metadata ``per_exit``, lists of K finite
    numbers by name (parameters, multiply_adds, train_accuracy in [0, 1], train_loss, best_epoch, ...), and
    ``training``, numbers, texts or lists of these by name (seconds, peak_memory_bytes, energy_joules, strategy, ...).

    Parameters
    ----------
    data : ExitData
    split : str
        Split or stream to look at.
    cost, utility, tables
        As `curve` takes them.

    Returns
    -------
    ExitMetrics
        ``exits``: a record per exit; what cannot be known is None.

        - ``cost``; ``accuracy``, ``quality`` and ``loss`` (of the label's probability, in nats), with 95 % intervals;
        - ``ece`` (interval), ``brier``: of the largest probability, as ``policyopt calibration`` tells them;
        - ``agreement``: share of the rows with the last exit's answer; ``overthinking``: share that are answered better
          here than there;
        - ``accuracy_gap``, ``loss_gap`` (intervals): by how much rows that trained the model fare better, over 0 is
          overfitting; ``gap_from``: whether rows or the metadata tell of these;
        - ``recorded``: of ``per_exit``, this exit's numbers.

        ``training``: as the metadata have it; ``notes``: what was left out, and why.

    Raises
    ------
    InputError
        The split is missing, or has no row with a label.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> logits = np.array([[[2.0, 0], [0, 1]], [[0, 2], [0, 3]]])
    >>> told = {"per_exit": {"parameters": [120, 480]}, "training": {"seconds": 12.5}}
    >>> data = po.from_arrays(logits, [0, 1], [1, 4], split={"test": 1.0}, metadata=told)
    >>> first, last = po.exit_metrics(data).exits
    >>> first["accuracy"], first["agreement"], first["overthinking"], first["recorded"]
    (1.0, 0.5, 0.5, {'parameters': 120})
    """
    tables, notes = tables or Tables(data, cost, utility=utility), list[str]()
    table = known_rows(tables.get(split), notes)
    seen, (per_exit, training) = _observed(table), _recorded(data, notes)
    found, trained = _worths(table, seen), list[dict[str, Any]]()
    if TRAIN not in data.split_names:
        told = {field: per_exit[name] for field, name in _TOLD.items() if name in per_exit}
        each = [{f: values[k] for f, values in told.items()} for k in range(data.exits)]
        trained = [{f + end: value for f, value in one.items() for end in _ENDS} for one in each]
    elif split != TRAIN:
        rows = known_rows(tables.get(TRAIN), notes)
        trained = _worths(rows, _observed(rows))
    for k, one in enumerate(found):
        then = trained[k] if trained else {}
        one |= _beside(table, seen, k)
        one |= with_interval("accuracy_gap", *_less("accuracy", then, one))
        one |= with_interval("loss_gap", *_less("loss", one, then))
        one["gap_from"] = ("rows" if "rows" in then else "metadata") if then else None
        one["recorded"] = {name: values[k] for name, values in per_exit.items()}
        one |= {"name": data.names[k]} if data.names else {}
    if seen and seen.losses is not None and not (seen.losses < _NEVER).all():
        notes.append("a label has no probability at all at an exit: its loss is infinite, left out")
    return ExitMetrics(split, found, training, notes)


def _recorded(data: ExitData, notes: list[str]) -> list[dict[str, Any]]:
    """Return what the metadata record by exit, and of the training; what is not as it must be is noted, left out."""
    found, exits = [], data.exits
    allowed_in = {"per_exit": f"a list of {exits} numbers (of accuracies: shares)"}
    for key, allowed in {**allowed_in, "training": "a number or a text"}.items():
        given, kept = data.metadata.get(key, {}), dict[str, Any]()
        for name, value in (given if isinstance(given, dict) else {"all": None}).items():
            each: list[Any] = value if isinstance(value, list) else [value]
            kinds = (int, float) if key == "per_exit" else (int, float, str)
            good = all(type(v) in kinds for v in each)
            if good and key == "per_exit":
                shares = name.endswith("accuracy")
                good = len(each) == exits and all(0 <= v <= 1 for v in each if shares)
            if good:
                kept[name] = value
            elif key == "per_exit" or not isinstance(value, (dict, list)):  # no numbers, no fault
                notes.append(f"metadata {key}: {name} left out, it is not {allowed}")
        found.append(kept)
    return found


def _observed(table: Table) -> Observed | None:
    """Return what exits say of a table's rows; None where nobody knows which answers are right."""
    labels, correct = table.statistics.labels, table.statistics.correct
    some, mixed = labels is not None and (labels < 0).any(), getattr(table.utility, "mixed", False)
    return None if correct is None or some or mixed else observe(table)


def _worths(table: Table, seen: Observed | None) -> list[dict[str, Any]]:
    """Return exit by exit its cost, quality and loss."""
    quality, correct, group = table.quality, table.statistics.correct, table.group
    records = []
    for k, cost in enumerate(table.mean_costs.tolist()):
        own, loss = None if correct is None else correct[:, k], [None] * 3
        if seen and seen.losses is not None and (seen.losses[:, k] < _NEVER).all():
            loss = list(mean_interval(seen.losses[:, k], group=group)[:3])
        worth = quality_fields(quality[:, k], own, table.graded, group=group)
        head = {"exit": k, "cost": cost, "unit": table.unit, "rows": len(table)}
        records.append({**head, **worth, **with_interval("loss", *loss)})
    return records


def _beside(table: Table, seen: Observed | None, k: int) -> dict[str, Any]:
    """Return calibration at exit k, agreement and overthinking beside the last."""
    said, quality = table.statistics.prediction, table.quality
    alike = KINDS[table.kind].answers_class and not getattr(table.utility, "mixed", False)
    one = {**with_interval("ece", None, None, None), "brier": None, "agreement": None}
    if seen is not None and np.isfinite(seen.confidence[:, k]).all():
        p, right = seen.confidence[:, k], seen.correct[:, k]
        error = calibration_error(p, right, kin=table.group)
        one |= {f"ece{end}": error[f"ece{end}"] for end in _ENDS}
        one["brier"] = float(((p - right) ** 2).mean())
    if alike and (said >= 0).any():
        one["agreement"] = float(((said[:, k] == said[:, -1]) & (said[:, k] >= 0)).mean())
    return {**one, "overthinking": float((quality[:, k] > quality[:, -1]).mean())}


def _less(name: str, more: Any, less: Any) -> list[Any]:
    """Return the difference of a field of two records, and its interval: they share no row."""
    if any(one.get(name) is None for one in (more, less)):
        return [None] * 3
    (a, *a_ends), (b, *b_ends) = ([one[name + end] for end in _ENDS] for one in (more, less))
    down, up = math.hypot(a - a_ends[0], b_ends[1] - b), math.hypot(a_ends[1] - a, b - b_ends[0])
    return [a - b, a - b - down, a - b + up]
