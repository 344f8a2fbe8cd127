"""Everything that is to be told of one policy on the rows of one table, as data.

By exit: who leaves, how right they are, what staying did to the others. How well the score tells right
answers from wrong ones (EENet, Figure 3). By class. And which rows the policy treats otherwise than a
reference policy, and whether that helped.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from policyopt._api import fit
from policyopt._frontier import mcnemar, threshold_fields
from policyopt._replay import Traced, trace
from policyopt._report.calibration import auroc
from policyopt._table import Table, Tables
from policyopt.runtime._errors import PolicyOptError
from policyopt.runtime._experts import policy_of
from policyopt.runtime._policy import Policy
from policyopt.runtime._typing import Array, Bools, Floats, Ints

#: The method that a policy is held against where no reference is given.
REFERENCE = "max_prob"
#: Levels of the quantiles that are told, and bins of the histograms.
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 40


@dataclass(frozen=True)
class Explanation:
    """What a policy did with N rows, exit by exit.

    Attributes
    ----------
    record : dict
        JSON-able: ``policy``, ``reference`` or None, ``split, rows, unit, realised_cost, accuracy``,
        ``exits`` (see `exit_records`), ``classes`` (`class_records`), ``changes``
        (`change_record`), ``notes``. What needs labels is None without them.
    found : Traced
    reference : Traced or None
    """

    record: dict[str, Any]
    found: Traced
    reference: Traced | None

    def rows_csv(self) -> str:
        """Return one line per row: where it left, what was answered, also by the reference."""
        columns: dict[str, Any] = {"row": range(len(self.found.exit))}
        if self.found.labels is not None:
            columns["label"] = self.found.labels.tolist()
        for prefix, found in (("", self.found), ("reference_", self.reference)):
            if found is None:
                continue
            columns[f"{prefix}exit"] = found.exit.tolist()
            columns[f"{prefix}prediction"] = found.taken.tolist()
            columns[f"{prefix}cost"] = found.cost.tolist()
            if found.correct_taken is not None:
                columns[f"{prefix}correct"] = found.correct_taken.astype(int).tolist()
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return buffer.getvalue()


def explain(policy: Any, table: Table, reference: Any = None) -> Explanation:
    """Explain what a policy does with the rows of a table, beside a reference policy if given.

    Policies, or fits that hold one; rows labelled or not.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> from policyopt._table import Tables
    >>> probs = np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.6, 0.4], [0.1, 0.9]]])
    >>> data = po.from_arrays(probs, [0, 1], costs=[1, 4], unit="ms", split={"test": 1.0})
    >>> policy = po.fit(data, split="test", method="max_prob", thresholds=[0.8]).policy
    >>> record = explain(policy, Tables(data).get("test")).record
    >>> [(e["share_left"], e["accuracy_left"], e["accuracy_stayed"]) for e in record["exits"]]
    [(0.5, 1.0, 0.0), (0.5, 1.0, None)]
    """
    policy = policy_of(policy, single=True)
    if reference is not None:
        reference = policy_of(reference, single=True, argument="reference")
    found = trace(policy, table)
    other = None if reference is None else trace(reference, table)
    right = found.correct_taken
    record = {
        "policy": _describe(policy),
        "reference": None if reference is None else _describe(reference),
        "split": table.split,
        "rows": len(table),
        "unit": table.unit,
        "realised_cost": float(found.cost.mean()),
        "accuracy": None if right is None else float(right.mean()),
        "exits": exit_records(found, policy),
        "classes": class_records(found),
        "changes": None if other is None else change_record(found, other),
        "notes": _notes(found, table),
    }
    return Explanation(record, found, other)


def default_reference(policy: Any, tables: Tables) -> tuple[Policy | None, str]:
    """Fit max_prob at the budget that a policy was fitted for, on split ``fit``; and say so.

    Its provenance tells the budget, or at least the cost that was expected. None where there is
    nothing to fit it on, or no such budget; the note says which.
    """
    policy = policy_of(policy, single=True)
    budget = policy.provenance.get("budget") or policy.provenance.get("expected_cost")
    if not isinstance(budget, (int, float)):
        return None, "no reference: the policy does not say its budget. Give --reference FILE"
    try:
        fitted = fit(tables.data, float(budget), REFERENCE, tables=tables)
    except PolicyOptError as error:
        return None, f"no reference: {REFERENCE} cannot be fitted. {error} Or give --reference FILE"
    told = f"reference: {REFERENCE} fitted at the same budget (--reference FILE for another)"
    return fitted.policy, told


def _describe(policy: Policy) -> dict[str, Any]:
    told = policy.provenance
    return {
        **{name: told.get(name) for name in ("method", "settings", "budget", "expected_cost")},
        "score": policy.rule.name,
        "answer": policy.answer.name,
        **threshold_fields(policy),
    }


def _notes(found: Traced, table: Table) -> list[str]:
    if found.correct is None:
        some = table.statistics.correct is not None
        why = "some rows have no label" if some else "the rows have no labels"
        return [f"{why}: nothing is said of accuracy, nor by class"]
    if found.labels is None:
        return ["the records tell what is right but not the class: nothing is said by class"]
    return []


# --- by exit ---------------------------------------------------------------------------------


def threshold_sets(policy: Policy) -> list[Floats]:
    """Return the thresholds of a policy, (K-1,) each: one set, or two where it mixes."""
    sets = [policy.thresholds]
    return sets if policy.mixture is None else [*sets, policy.mixture.thresholds]


def exit_records(found: Traced, policy: Policy) -> list[dict[str, Any]]:
    """Describe each of the K exits of a policy that was run over N rows.

    ``exit`` (the model's number of it); ``rows_reached, share_reached, rows_left, share_left``;
    ``cost`` (mean over all rows, had they left here), ``cost_left`` (of those who do), ``cost_share``
    (of all that is spent); ``thresholds`` (one, two for a mixture, none at the last exit); ``score``
    (see `score_record`). Where correctness is known, else None: ``accuracy`` (all rows, had they left
    here), ``accuracy_left``, ``accuracy_stayed`` (those who go on, had they left), ``overthought`` (go
    on, right here, wrong where they leave), ``rescued`` (wrong here, right where they leave), ``auroc``
    (of the score, rows that reach the exit), ``auroc_all`` (all rows).
    """
    sets, n, spent = threshold_sets(policy), len(found.exit), float(found.cost.sum())
    records = []
    for k in range(found.exits):
        left, reached = found.position == k, found.position >= k
        right = None if found.correct is None else found.correct[:, k]
        records.append(
            {
                "exit": found.path[k],
                "rows_reached": int(reached.sum()),
                "share_reached": float(reached.sum() / n),
                "rows_left": int(left.sum()),
                "share_left": float(left.sum() / n),
                "cost": float(found.exit_costs[k]),
                "cost_left": _mean_of(found.cost, left),
                "cost_share": float(found.cost[left].sum() / spent) if spent else None,
                "thresholds": [float(t[k]) for t in sets] if k < found.exits - 1 else [],
                **_answers(found, k),
                "score": score_record(found.scores[:, k], right, reached),
            }
        )
    return records


def _answers(found: Traced, k: int) -> dict[str, Any]:
    names = (
        "accuracy", "accuracy_left", "accuracy_stayed", "overthought", "rescued", "auroc",
        "auroc_all",
    )  # fmt: skip
    right, final = found.correct, found.correct_taken
    if right is None or final is None:
        return dict.fromkeys(names)
    here, scores = right[:, k], found.scores[:, k]
    reached, stayed = found.position >= k, found.position > k
    values = (
        float(here.mean()),
        _mean_of(here, found.position == k),
        _mean_of(here, stayed),
        int((stayed & here & ~final).sum()),
        int((stayed & ~here & final).sum()),
        auroc(scores[reached], here[reached]),
        auroc(scores, here),
    )
    return dict(zip(names, values, strict=True))


def _mean_of(values: Array, rows: Bools) -> float | None:
    """Return the mean of some rows; None where there are none."""
    return float(values[rows].mean()) if rows.any() else None


def score_record(scores: Floats, right: Bools | None, reached: Bools) -> dict[str, Any]:
    """Describe the scores of N rows at one exit, of those that reach it and of those gone before.

    ``edges`` (bins + 1), ``levels``, and for ``reached`` and ``gone`` a mapping of ``right`` and
    ``wrong`` (``all`` where `right` is None) to their rows, mean, quantiles (at `levels`) and counts
    per bin.
    """
    edges = np.histogram_bin_edges(scores, BINS)
    groups = (
        {"all": np.ones(len(scores), bool)} if right is None else {"right": right, "wrong": ~right}
    )
    return {
        "edges": edges.tolist(),
        "levels": list(LEVELS),
        **{
            name: {key: _scores_of(scores[rows & group], edges) for key, group in groups.items()}
            for name, rows in (("reached", reached), ("gone", ~reached))
        },
    }


def _scores_of(scores: Floats, edges: Floats) -> dict[str, Any]:
    some = len(scores) > 0
    return {
        "rows": len(scores),
        "mean": float(scores.mean()) if some else None,
        "quantiles": np.quantile(scores, LEVELS).tolist() if some else None,
        "counts": np.histogram(scores, edges)[0].tolist(),
    }


# --- by class --------------------------------------------------------------------------------


def class_records(found: Traced) -> list[dict[str, Any]] | None:
    """Describe every class that has rows; None without labels.

    ``class, rows, accuracy, cost`` (mean paid), ``exit_share`` (K,), ``accuracy_exits`` (K,: had all
    of the class left there); K exits that the policy runs.
    """
    if found.labels is None or found.correct is None or found.correct_taken is None:
        return None
    names, place = np.unique(found.labels, return_inverse=True)
    exits = [_class_means(place, found.position == k) for k in range(found.exits)]
    right = [_class_means(place, found.correct[:, k]) for k in range(found.exits)]
    return _records(
        {
            "class": names,
            "rows": np.bincount(place),
            "accuracy": _class_means(place, found.correct_taken),
            "cost": _class_means(place, found.cost),
            "exit_share": np.stack(exits, axis=1),
            "accuracy_exits": np.stack(right, axis=1),
        }
    )


def _class_means(place: Ints, values: Array) -> Floats:
    """Return the mean of `values` (n,) for each class; `place` (n,) numbers them from 0."""
    return np.bincount(place, weights=values) / np.bincount(place)


def _records(columns: dict[str, Array]) -> list[dict[str, Any]]:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, values, strict=True)) for values in rows]


# --- beside a reference ----------------------------------------------------------------------


def change_record(found: Traced, reference: Traced) -> dict[str, Any]:
    """Compare two policies that were run over the same N rows of a model of K exits.

    ``transitions`` (K, K): rows that leave at exit i of the reference (first axis) and at exit j now.
    ``earlier, same_exit, later`` and ``other_answer``: rows; ``cost, reference_cost``: means. Where
    correctness is known, else None: ``accuracy, reference_accuracy``; rows ``better`` (wrong before,
    right now), ``worse``, ``both_right, both_wrong``; ``better_at, worse_at`` (K, K), as
    `transitions`; ``rows_better, rows_worse``: row numbers; ``mcnemar_p``; ``classes`` (needs labels):
    ``class, rows, accuracy, reference_accuracy, cost, reference_cost`` each.
    """
    sizes = [(len(one.exit), one.model_exits) for one in (found, reference)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"rows and exits differ: {sizes[0]} and {sizes[1]}")
    return {
        "transitions": _pairs(found, reference, np.ones(len(found.exit), bool)),
        "earlier": int((found.exit < reference.exit).sum()),
        "same_exit": int((found.exit == reference.exit).sum()),
        "later": int((found.exit > reference.exit).sum()),
        "other_answer": int((found.taken != reference.taken).sum()),
        "cost": float(found.cost.mean()),
        "reference_cost": float(reference.cost.mean()),
        **_correctness(found, reference),
        "classes": _changes_by_class(found, reference),
    }


def _correctness(found: Traced, reference: Traced) -> dict[str, Any]:
    names = (
        "accuracy", "reference_accuracy", "better", "worse", "both_right", "both_wrong",
        "better_at", "worse_at", "rows_better", "rows_worse", "mcnemar_p",
    )  # fmt: skip
    now, before = found.correct_taken, reference.correct_taken
    if now is None or before is None:
        return dict.fromkeys(names)
    better, worse = now & ~before, before & ~now
    ups, downs = int(better.sum()), int(worse.sum())
    values = (
        float(now.mean()), float(before.mean()), ups, downs,
        int((now & before).sum()), int((~now & ~before).sum()),
        _pairs(found, reference, better), _pairs(found, reference, worse),
        np.flatnonzero(better).tolist(), np.flatnonzero(worse).tolist(),
        mcnemar(ups, downs),
    )  # fmt: skip
    return dict(zip(names, values, strict=True))


def _pairs(found: Traced, reference: Traced, rows: Bools) -> list[list[int]]:
    """Count some rows by (exit of the reference, exit now)."""
    exits = found.model_exits
    pair = reference.exit[rows] * exits + found.exit[rows]
    return np.bincount(pair, minlength=exits**2).reshape(exits, exits).tolist()


def _changes_by_class(found: Traced, reference: Traced) -> list[dict[str, Any]] | None:
    now, before = found.correct_taken, reference.correct_taken
    if found.labels is None or now is None or before is None:
        return None
    names, place = np.unique(found.labels, return_inverse=True)
    return _records(
        {
            "class": names,
            "rows": np.bincount(place),
            "accuracy": _class_means(place, now),
            "reference_accuracy": _class_means(place, before),
            "cost": _class_means(place, found.cost),
            "reference_cost": _class_means(place, reference.cost),
        }
    )
