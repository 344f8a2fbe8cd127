"""What one policy does on the rows of one table: by exit, by class, beside a reference, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policyopt._api import cost_for, fit, utility_for
from policyopt._cache.data import ExitData
from policyopt._frontier import mcnemar, threshold_fields, threshold_sets
from policyopt._intervals import mean_interval, with_interval
from policyopt._progress import working
from policyopt._replay import Traced, trace
from policyopt._report.calibration import auroc
from policyopt._report.routes import Routes, explain_routing, records_of, stated
from policyopt._table import Table, Tables, known_rows
from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import PolicyOptError
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._policy import Policy
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._several import policy_of
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Array, Bools, Floats

#: The method that a policy is held against where no reference is given.
REFERENCE = "max_prob"
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the quantiles that are told
BINS = 40  # of the histograms


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Shown):
    """What a policy did with N rows, beside a reference if given.

    Attributes
    ----------
    record : dict
        JSON-able; None where labels lack: ``exits``, ``classes``, ``changes`` against the reference, ``notes``.
    policy : Policy
    found, reference
        What it, and the reference, did row by row; `rows` tells it as records.
    """

    record: dict[str, Any]
    policy: Policy
    found: Traced
    reference: Traced | None

    def rows(self) -> list[dict[str, Any]]:
        """Return a record per row: where it left, what was answered, also by the reference."""
        columns: dict[str, Any] = {"row": range(len(self.found.exit)), "label": self.found.labels}
        named = self.policy.observer.kind.answers_class  # of others only a number to compare by
        for prefix, found in (("", self.found), ("reference_", self.reference)):
            if found is not None:
                worth = None if found.quality_taken is None else found.quality_taken.astype(float)
                told = {"exit": found.exit, "prediction": found.taken if named else None}
                told |= {"cost": found.cost, "quality": worth}
                columns |= {prefix + name: column for name, column in told.items()}
        return records_of(columns)


@working("explaining")
def explain(
    policy: Any,
    data: ExitData,
    split: str = "test",
    *,
    reference: Any = REFERENCE,
    cost: str | None = None,
    utility: Any = None,
    tables: Tables | None = None,
) -> Explanation | Routes:
    """Explain what a policy does with rows: at each exit, to each class, and beside a reference policy.

    Parameters
    ----------
    policy : Policy, RoutingPolicy, or what `fit` returned
    data : ExitData
    split : str
        Split or stream to look at.
    reference : policy, "max_prob" or None
        What it is held against; default max_prob fitted at the same budget. Routing has none.
    cost, utility
        As `evaluate` takes them.
    tables : Tables, optional
        Reuse of passes already made.

    Returns
    -------
    Explanation
        Of routing `Routes`: which model is asked after which.

    Raises
    ------
    InputError
        The policy was made for another model, or is several.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> found = po.explain(po.fit(data, 2.0, "entropy"), data)
    >>> [round(one["share_left"], 2) for one in found.record["exits"]]
    [0.69, 0.31]
    """
    policy = policy_of(policy, single=True, routes=True)
    worth, told = utility_for(policy, data, utility)
    tables = tables or Tables(data, cost_for(policy, data, cost), utility=worth)
    if isinstance(policy, RoutingPolicy):
        routes = explain_routing(policy, tables.get(split))
        routes.record["notes"] += filter(None, [told])
        return routes
    table, remark = tables.get(split), ""
    if isinstance(reference, str):
        check_one_of("reference", reference, (REFERENCE,), "Or give a policy, or None.")
        reference, remark = default_reference(policy, tables)
    found = explain_rows(policy, table, reference, data.names)
    notes, changes = found.record["notes"], found.record["changes"]
    notes += filter(None, [told, remark])
    if changes and changes["same_exit"] == found.record["rows"]:
        notes.append("every row leaves where the reference lets it: --reference FILE for another")
    return found


def explain_rows(
    policy: Any, table: Table, reference: Any = None, names: Sequence[str] = ()
) -> Explanation:
    """Explain what a policy does with the rows of a table, labelled or not, beside a reference if given."""
    # `names`: of the model's exits, where they have some.
    policy = policy_of(policy, single=True)
    if reference is not None:
        reference = policy_of(reference, single=True, argument="reference")
    notes = list[str]()
    table = known_rows(table, notes)
    found = trace(policy, table)
    other = None if reference is None else trace(reference, table)
    record = {
        "policy": _describe(policy), "reference": None if reference is None else _describe(reference),
        "split": table.split, "rows": len(table), "unit": table.unit,
        "realised_cost": float(found.cost.mean()),
        **_both({"quality": None if found.quality_taken is None else float(found.quality_taken.mean())}, found),
        "exits": exit_records(found, policy), "classes": class_records(found),
        "changes": None if other is None else change_record(found, other),
        "notes": [*notes, *_notes(found, table)],
    }  # fmt: skip
    named = [{"name": name} for name in names] or [dict[str, str]()] * policy.model_exits
    for one in record["exits"]:
        one |= named[one["exit"]]
    if other is not None:  # whose transitions are over all the model's exits
        record["changes"]["exits"] = [{"exit": k, **one} for k, one in enumerate(named)]
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
    told = f"reference: {REFERENCE} fitted at the same budget or cost; --reference FILE for another"
    return fitted.policy, told


def _describe(policy: Policy) -> dict[str, Any]:
    told = {"score": policy.rule.name, "answer": policy.answer.name}
    return stated(policy) | told | threshold_fields(policy)


def _notes(found: Traced, table: Table) -> list[str]:
    if found.quality is None:
        some = table.statistics.quality_dtype is not None
        why = "some rows have no label" if some else "the rows have no labels"
        if table.quality_given and some:
            why = "the quality known is of the exits' own answers, and the policy's are others"
        return [f"{why}: nothing is said of accuracy, nor by class"]
    kind = KINDS[table.kind]
    if not kind.answers_class:
        return [f"{kind.name} has no classes: nothing is said by class"]
    if found.labels is None:
        why = "the records tell what answers are worth but not the class"
        return [f"{why}: nothing is said by class"]
    return []


def _both(fields: dict[str, Any], found: Traced) -> dict[str, Any]:
    """Return fields of qualities, and those of the same name with accuracy for it: None where quality is graded."""
    names = {name: name.replace("quality", "accuracy") for name in fields if "quality" in name}
    return {**{names[name]: None if found.graded else fields[name] for name in names}, **fields}


def exit_records(found: Traced, policy: Policy) -> list[dict[str, Any]]:
    """Describe each of the K exits of a policy that was run over N rows."""
    # ``cost``, ``quality``: of all rows, had they left here; ``quality_stayed``: of those who go on, had they left;
    # ``overthought``: better here than where they leave; ``rescued``: the reverse; ``auroc``: of rows that come.
    sets, n, spent = threshold_sets(policy), len(found.exit), float(found.cost.sum())
    known = found.quality is not None
    correct = np.zeros((n, found.exits), bool) if found.quality is None else found.quality
    final = correct[np.arange(n), found.position]
    records = []
    for k in range(found.exits):
        left, reached, stayed = found.position == k, found.position >= k, found.position > k
        right, scores = correct[:, k], found.scores[:, k]
        qualities = {"quality": float(right.mean()), "quality_left": _mean_of(right, left)}
        qualities["quality_stayed"] = _mean_of(right, stayed)
        answers = {
            **_both(qualities, found),
            "overthought": int((stayed & (right > final)).sum()),
            "rescued": int((stayed & (right < final)).sum()),
            "auroc": auroc(scores[reached], right[reached]), "auroc_all": auroc(scores, right),
        }  # fmt: skip
        records.append({
            "exit": found.active_exits[k], "rows_reached": int(reached.sum()),
            "share_reached": float(reached.sum() / n), "rows_left": int(left.sum()),
            "share_left": float(left.sum() / n), "cost": float(found.exit_costs[k]),
            "cost_left": _mean_of(found.cost, left),
            "cost_share": float(found.cost[left].sum() / spent) if spent else None,
            "thresholds": [float(t[k]) for t in sets] if k < found.exits - 1 else [],
            **(answers if known else dict.fromkeys(answers)),
            "score": score_record(scores, None if found.correct is None else found.correct[:, k], reached),
        })  # fmt: skip
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
            "rows": len(found), "mean": float(found.mean()) if some else None,
            "quantiles": np.quantile(found, LEVELS).tolist() if some else None,
            "counts": np.histogram(found, edges)[0].tolist(),
        }  # fmt: skip

    record: dict[str, Any] = {"edges": edges.tolist(), "levels": list(LEVELS)}
    for name, rows in (("reached", reached), ("gone", ~reached)):
        record[name] = {key: described(rows & group) for key, group in groups.items()}
    return record


def class_records(found: Traced) -> list[dict[str, Any]] | None:
    """Describe every class that has rows; ``quality_exits`` (K,): had all of the class left there."""
    leaves = found.position[:, None] == np.arange(found.exits)
    columns = {"quality": found.quality_taken, "cost": found.cost, "exit_share": leaves}
    return _by_class(found, {**columns, "quality_exits": found.quality})


def _by_class(found: Traced, columns: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the means of columns, (N,) or (N, K), by class; None where a class or column is not known."""
    if found.labels is None or any(column is None for column in columns.values()):
        return None
    names, place, rows = np.unique(found.labels, return_inverse=True, return_counts=True)

    def means(column: Array) -> Floats:
        return np.apply_along_axis(lambda values: np.bincount(place, values) / rows, 0, column)

    means_of = {name: means(column) for name, column in columns.items()}
    records = records_of({"class": names, "rows": rows, **means_of})
    return [_both(record, found) for record in records]


def change_record(found: Traced, reference: Traced) -> dict[str, Any]:
    """Compare two policies over the same N rows; ``transitions`` (K, K): rows by the reference's exit and exit now."""
    exits = found.model_exits
    pair = reference.exit * exits + found.exit

    def moved(rows: Bools) -> list[list[int]]:
        return np.bincount(pair[rows], minlength=exits**2).reshape(exits, exits).tolist()

    now, before = found.quality_taken, reference.quality_taken
    known = now is not None and before is not None
    if now is None or before is None:
        now = before = np.zeros(len(pair), bool)
    better, worse, graded = now > before, now < before, found.graded
    ups, downs = int(better.sum()), int(worse.sum())
    gain = mean_interval(now.astype(float) - before.astype(float), span=1.0, group=found.group)
    correctness = {
        **_both({"quality": float(now.mean()), "reference_quality": float(before.mean())}, found),
        **with_interval("difference", gain.mean, gain.low, gain.high), "better": ups, "worse": downs,
        "both_right": None if graded else int(((now == 1) & (before == 1)).sum()),
        "both_wrong": None if graded else int(((now == 0) & (before == 0)).sum()), "better_at": moved(better),
        "worse_at": moved(worse), "rows_better": np.flatnonzero(better).tolist(),
        "rows_worse": np.flatnonzero(worse).tolist(),
        "mcnemar_p": None if graded else mcnemar(better, worse, found.group),
    }  # fmt: skip
    columns = {"quality": found.quality_taken, "reference_quality": reference.quality_taken}
    columns |= {"cost": found.cost, "reference_cost": reference.cost}
    return {
        "transitions": moved(np.ones(len(pair), bool)),
        "earlier": int((found.exit < reference.exit).sum()),
        "same_exit": int((found.exit == reference.exit).sum()),
        "later": int((found.exit > reference.exit).sum()),
        "other_answer": int((found.taken != reference.taken).sum()), "cost": float(found.cost.mean()),
        "reference_cost": float(reference.cost.mean()),
        **(correctness if known else dict.fromkeys(correctness)), "classes": _by_class(found, columns),
    }  # fmt: skip
