"""Everything that is to be told of one policy on the rows of one table, as data.

By exit: who leaves, how right they are, what staying did to the others. How well the score tells right
answers from wrong ones (EENet, Figure 3). By class. And which rows the policy treats otherwise than a
reference policy, and whether that helped. What needs labels or correctness is None without them.
"""

from __future__ import annotations

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
from policyopt.runtime._typing import Array, Bools, Floats

#: The method that a policy is held against where no reference is given.
REFERENCE = "max_prob"
#: Levels of the quantiles that are told, and bins of the histograms.
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 40


@dataclass(frozen=True)
class Explanation:
    """What a policy did with N rows, exit by exit, perhaps beside a reference; `record` is JSON-able."""

    record: dict[str, Any]
    policy: Policy
    found: Traced
    reference: Traced | None

    def rows(self) -> list[dict[str, Any]]:
        """Return a record per row: where it left, what was answered, also by the reference."""
        columns: dict[str, Any] = {"row": np.arange(len(self.found.exit))}
        if self.found.labels is not None:
            columns["label"] = self.found.labels
        for prefix, found in (("", self.found), ("reference_", self.reference)):
            if found is None:
                continue
            columns[f"{prefix}exit"] = found.exit
            columns[f"{prefix}prediction"] = found.taken
            columns[f"{prefix}cost"] = found.cost
            if found.correct_taken is not None:
                columns[f"{prefix}correct"] = found.correct_taken.astype(int)
        return _records(columns)


def explain(policy: Any, table: Table, reference: Any = None) -> Explanation:
    """Explain what a policy does with the rows of a table, labelled or not, beside a reference if given."""
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
    return Explanation(record, policy, found, other)


def default_reference(policy: Any, tables: Tables) -> tuple[Policy | None, str]:
    """Fit max_prob at a policy's budget, or at its expected cost, and say so; or None and why not."""
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

    ``exit`` is the model's number of it; ``cost`` and ``accuracy`` are of all rows, had they left here,
    ``accuracy_stayed`` of those who go on, had they left; ``overthought`` go on, right here, wrong where
    they leave, ``rescued`` the reverse; ``auroc`` is of rows that reach the exit, ``auroc_all`` of all.
    """
    sets, n, spent = threshold_sets(policy), len(found.exit), float(found.cost.sum())
    known = found.correct is not None
    correct = np.zeros((n, found.exits), bool) if found.correct is None else found.correct
    final = correct[np.arange(n), found.position]
    records = []
    for k in range(found.exits):
        left, reached, stayed = found.position == k, found.position >= k, found.position > k
        right, scores = correct[:, k], found.scores[:, k]
        answers = {
            "accuracy": float(right.mean()),
            "accuracy_left": _mean_of(right, left),
            "accuracy_stayed": _mean_of(right, stayed),
            "overthought": int((stayed & right & ~final).sum()),
            "rescued": int((stayed & ~right & final).sum()),
            "auroc": auroc(scores[reached], right[reached]),
            "auroc_all": auroc(scores, right),
        }
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
                **(answers if known else dict.fromkeys(answers)),
                "score": score_record(scores, right if known else None, reached),
            }
        )
    return records


def _mean_of(values: Array, rows: Bools) -> float | None:
    """Return the mean of some rows; None where there are none."""
    return float(values[rows].mean()) if rows.any() else None


def score_record(scores: Floats, right: Bools | None, reached: Bools) -> dict[str, Any]:
    """Describe the scores of N rows at one exit: right and wrong ones that reach it or are gone before."""
    edges = np.histogram_bin_edges(scores, BINS)
    everyone = np.ones(len(scores), bool)
    groups = {"all": everyone} if right is None else {"right": right, "wrong": ~right}

    def described(rows: Bools) -> dict[str, Any]:
        some, found = rows.any(), scores[rows]
        return {
            "rows": len(found),
            "mean": float(found.mean()) if some else None,
            "quantiles": np.quantile(found, LEVELS).tolist() if some else None,
            "counts": np.histogram(found, edges)[0].tolist(),
        }

    record: dict[str, Any] = {"edges": edges.tolist(), "levels": list(LEVELS)}
    for name, rows in (("reached", reached), ("gone", ~reached)):
        record[name] = {key: described(rows & group) for key, group in groups.items()}
    return record


# --- by class --------------------------------------------------------------------------------


def class_records(found: Traced) -> list[dict[str, Any]] | None:
    """Describe every class that has rows; ``accuracy_exits`` (K,): had all of the class left there."""
    columns = {
        "accuracy": found.correct_taken,
        "cost": found.cost,
        "exit_share": found.position[:, None] == np.arange(found.exits),
        "accuracy_exits": found.correct,
    }
    return _by_class(found, columns)


def _by_class(found: Traced, columns: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the means of columns, (N,) or (N, K), by class; None where a class or column is not known."""
    if found.labels is None or any(column is None for column in columns.values()):
        return None
    names, place, rows = np.unique(found.labels, return_inverse=True, return_counts=True)

    def means(column: Array) -> Floats:
        return np.apply_along_axis(lambda values: np.bincount(place, values) / rows, 0, column)

    means_of = {name: means(column) for name, column in columns.items()}
    return _records({"class": names, "rows": rows, **means_of})


def _records(columns: dict[str, Array]) -> list[dict[str, Any]]:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, values, strict=True)) for values in rows]


# --- beside a reference ----------------------------------------------------------------------


def change_record(found: Traced, reference: Traced) -> dict[str, Any]:
    """Compare two policies that were run over the same N rows of a model of K exits.

    ``transitions`` (K, K) counts rows by exit of the reference (first axis) and exit now, ``better_at``
    and ``worse_at`` those of them that became right and wrong; ``rows_better, rows_worse`` number them.
    """
    exits = found.model_exits
    pair = reference.exit * exits + found.exit

    def moved(rows: Bools) -> list[list[int]]:
        return np.bincount(pair[rows], minlength=exits**2).reshape(exits, exits).tolist()

    now, before = found.correct_taken, reference.correct_taken
    known = now is not None and before is not None
    if now is None or before is None:
        now = before = np.zeros(len(pair), bool)
    better, worse = now & ~before, before & ~now
    ups, downs = int(better.sum()), int(worse.sum())
    correctness = {
        "accuracy": float(now.mean()),
        "reference_accuracy": float(before.mean()),
        "better": ups,
        "worse": downs,
        "both_right": int((now & before).sum()),
        "both_wrong": int((~now & ~before).sum()),
        "better_at": moved(better),
        "worse_at": moved(worse),
        "rows_better": np.flatnonzero(better).tolist(),
        "rows_worse": np.flatnonzero(worse).tolist(),
        "mcnemar_p": mcnemar(ups, downs),
    }
    columns = {
        "accuracy": found.correct_taken,
        "reference_accuracy": reference.correct_taken,
        "cost": found.cost,
        "reference_cost": reference.cost,
    }
    return {
        "transitions": moved(np.ones(len(pair), bool)),
        "earlier": int((found.exit < reference.exit).sum()),
        "same_exit": int((found.exit == reference.exit).sum()),
        "later": int((found.exit > reference.exit).sum()),
        "other_answer": int((found.taken != reference.taken).sum()),
        "cost": float(found.cost.mean()),
        "reference_cost": float(reference.cost.mean()),
        **(correctness if known else dict.fromkeys(correctness)),
        "classes": _by_class(found, columns),
    }
