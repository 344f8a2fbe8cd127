"""`explain`: everything that is to be told of one policy on the rows of one table."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from policyopt.api import fit
from policyopt.frontier.curve import threshold_fields
from policyopt.report.explain.changes import change_record
from policyopt.report.explain.classes import class_records
from policyopt.report.explain.exits import exit_records
from policyopt.runtime.errors import PolicyOptError
from policyopt.runtime.experts import policy_of
from policyopt.runtime.policy import Policy
from policyopt.table import Table, Tables
from policyopt.trace import Traced, trace

#: The method that a policy is held against where no reference is given.
REFERENCE = "max_prob"


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

    Parameters
    ----------
    policy : Policy, or a fit that holds one
    table : Table
        Labelled or not.
    reference : Policy or fit, optional

    Returns
    -------
    Explanation

    Raises
    ------
    InputError
        A policy was made for other exits, classes, outputs or unit.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> from policyopt.table import Tables
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
    """Fit max_prob at the budget that a policy was fitted for.

    Parameters
    ----------
    policy : Policy
        Its provenance tells the budget, or at least the cost that was expected.
    tables : Tables
        Of a cache with labelled rows in split ``fit``.

    Returns
    -------
    (Policy or None, str)
        None where there is nothing to fit it on, or no such budget; and a note that says which.
    """
    policy = policy_of(policy, single=True)
    budget = policy.provenance.get("budget") or policy.provenance.get("expected_cost")
    if not isinstance(budget, (int, float)):
        return None, "no reference: the policy does not say its budget. Give --reference FILE"
    try:
        fitted = fit(tables.data, float(budget), REFERENCE, tables=tables)
    except PolicyOptError as error:
        return None, f"no reference: {REFERENCE} cannot be fitted. {error} Or give --reference FILE"
    return (
        fitted.policy,
        f"reference: {REFERENCE} fitted at the same budget (--reference FILE for another)",
    )


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
