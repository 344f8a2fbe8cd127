"""The frontier: policies of several methods over a range of budgets, at realised cost, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policyopt.budgets import Budget, parse_budgets
from policyopt.cache.data import ExitData
from policyopt.frontier.bounds import oracle
from policyopt.intervals import bootstrap_means, interval, mean_interval
from policyopt.methods import Fitted, Method, make_method
from policyopt.methods.base import check_budgets, fit_where_possible
from policyopt.methods.registry import ROWS, method_list
from policyopt.replay import Replay, replay
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.experts import ExpertPolicy
from policyopt.runtime.kept import over_model_exits
from policyopt.runtime.policy import Policy
from policyopt.table import Table, Tables

#: With named splits, seeds after the first refit on this share of the fit rows, drawn anew.
REFIT_SHARE = 0.8
#: Fields of a record that a bound does not have.
_UNKNOWN_OF_BOUND = (
    "realised_cost_low", "realised_cost_high", "accuracy_low", "accuracy_high",
    "exit_share", "thresholds", "mixture",
)  # fmt: skip


@dataclass(frozen=True)
class Frontier:
    """What `curve` found.

    Attributes
    ----------
    records : list of dict
        One per method, budget and seed; see `record`.
    fitted : dict
        From (method, seed, budget index) to `Fitted`.
    exits : list of dict
        Always leaving at exit k: its cost and accuracy on the same rows, per seed.
    bound : list of dict
        The hindsight oracle, not deployable: budget, accuracy, seed.
    unit : str
    notes : list of str
        Methods left out, and why.
    tests : dict of int to Table
        The rows replayed on, per seed.
    """

    records: list[dict[str, Any]]
    fitted: dict[tuple[str, int, int], Fitted]
    exits: list[dict[str, Any]]
    bound: list[dict[str, Any]]
    unit: str
    notes: list[str] = field(default_factory=list)
    tests: dict[int, Table] = field(default_factory=dict)


def curve(
    data: ExitData,
    methods: str | Sequence[str] | Mapping[str, Method],
    budgets: int | float | str | Sequence[Budget] = 9,
    *,
    seeds: int = 1,
    cost: str | None = None,
    test: str = "test",
    tables: Tables | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Frontier:
    """Fit methods at several budgets on split `fit` and replay them on the test rows.

    Parameters
    ----------
    data : ExitData
    methods : str, sequence of str, or mapping of label to Method
        Names (``"max_prob"``), specs (``"max_prob:thresholds=joint"``), or ``"all"``.
    budgets : int, float, str or sequence
        See `policyopt.budgets.parse_budgets`.
    seeds : int
        A pool is divided anew for each seed. Named splits stay as they are: seeds after the
        first refit on a random 80 % of the fit rows, so the spread shows the fit's own noise.
    cost : str, optional
        Name of the cost to use.
    test : str
        Split or stream to replay on.
    tables : Tables, optional
        Reuse of passes already made.
    progress : callable, optional
        Called with (what, done, in all).

    Returns
    -------
    Frontier

    Raises
    ------
    InputError
        Unknown method, missing split, or no labels.
    BudgetError
        A budget that cannot be met.
    """
    tables = tables or Tables(data, cost)
    chosen, notes = _choose(methods, tables.get("fit"))
    if seeds < 1:
        raise input_error("seeds", "1 or more", seeds, "E.g. --seeds 5.")
    frontier = Frontier([], {}, [], [], tables.cost.unit, notes)
    total, done = seeds * len(chosen), 0
    for seed in range(seeds):
        fit_rows, test_rows = split_for_seed(tables, seed, test, seeds)
        frontier.tests[seed] = test_rows
        # Per-sample costs have other means in each division: shares and positions move along.
        wanted = parse_budgets(budgets, fit_rows.mean_costs)
        check_budgets(fit_rows, wanted)
        for label, method in chosen.items():
            if progress:
                progress(label, done, total)
            for index, fitted in enumerate(fit_where_possible(method, fit_rows, wanted, seed)):
                if fitted is None:
                    text = f"{label} left out at {wanted[index]:.6g} {frontier.unit}: "
                    notes.append(text + "with its own arithmetic it cannot cost so little")
                    continue
                frontier.fitted[label, seed, index] = fitted
                frontier.records.append(record(label, fitted, test_rows, seed))
            done += 1
        _references(frontier, test_rows, wanted, seed)
    if progress:
        progress("done", total, total)
    return frontier


def over_seeds(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Group the records of a method at one budget, all seeds.

    Budgets that differ by seed (costs per sample) are matched by position; where a seed could not
    meet one of them there are fewer, and equal budgets go together.
    """
    methods: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for record in records:
        methods.setdefault(record["method"], {}).setdefault(record["seed"], []).append(record)
    groups = []
    for seeds in methods.values():
        places: dict[Any, list[dict[str, Any]]] = {}
        alike = len({len(found) for found in seeds.values()}) == 1
        for found in seeds.values():
            for place, record in enumerate(found):
                places.setdefault(place if alike else record["budget"], []).append(record)
        groups += places.values()
    return groups


def split_for_seed(tables: Tables, seed: int, test: str, seeds: int) -> tuple[Table, Table]:
    """Return the fit and test tables of a seed (see `curve`)."""
    if tables.data.pooled:
        # One seed: the division the cache states. Several: divisions 0, 1, ...
        division = None if seeds == 1 else seed
        return tables.get("fit", division), tables.get(test, division)
    fit_rows = tables.get("fit")
    if seed:
        count = max(int(REFIT_SHARE * len(fit_rows)), 1)
        fit_rows = fit_rows.take(
            np.sort(np.random.default_rng(seed).permutation(len(fit_rows))[:count])
        )
    return fit_rows, tables.get(test)


def record(label: str, fitted: Fitted, table: Table, seed: int) -> dict[str, Any]:
    """Replay a fitted policy and describe what happened, in plain types.

    Parameters
    ----------
    label : str
    fitted : Fitted
    table : Table
        Rows that chose nothing.
    seed : int

    Returns
    -------
    dict
        method, budget, realised_cost, realised_cost_low, realised_cost_high, accuracy,
        accuracy_low, accuracy_high, exit_share (K,), thresholds (K-1,) or None, mixture, seed,
        unit, rows, effective_rows, expected_cost, expected_cost_low, expected_cost_high. The realised
        intervals are 95 % over these rows (bootstrap-t of the cost, percentiles of the accuracy); the
        expected one is what the fit stated of the mean cost in the long run.
    """
    outcome = replay(fitted.policy, table)
    low, high = fitted.expected.stated
    return {
        "method": label,
        "budget": fitted.budget,
        "unit": table.unit,
        **summary(outcome, fitted.policy, seed),
        **threshold_fields(fitted.policy),
        "expected_cost": fitted.expected.cost,
        "expected_cost_low": low,
        "expected_cost_high": high,
        "seed": seed,
    }


def summary(outcome: Replay, policy: Policy | ExpertPolicy, seed: int = 0) -> dict[str, Any]:
    """Return realised cost and accuracy of a replay, with 95 % intervals: bootstrap-t, and percentiles."""
    # Where all rows leave at one exit, another row may yet leave at another.
    cost = mean_interval(outcome.cost, span=float(np.ptp(policy.costs)), seed=seed)
    right = outcome.correct[:, None]
    low, high = interval(bootstrap_means(right, np.random.default_rng(seed)))
    return {
        "realised_cost": cost.mean,
        "realised_cost_low": cost.low,
        "realised_cost_high": cost.high,
        "effective_rows": cost.effective_rows,
        "accuracy": float(right.mean()),
        "accuracy_low": float(low[0]),
        "accuracy_high": float(high[0]),
        "exit_share": outcome.exit_share.tolist(),
        "rows": len(outcome.exit),
    }


def threshold_fields(policy: Policy) -> dict[str, Any]:
    """Return a policy's thresholds for a record: None where it mixes two sets (see `mixture`).

    Over all the model's exits: never (1e30) at those that the policy skips.
    """
    mixture = policy.mixture
    sets = [policy.thresholds] if mixture is None else [policy.thresholds, mixture.thresholds]
    whole = [over_model_exits(t, policy.kept, policy.model_exits).tolist() for t in sets]
    if mixture is None:
        return {"thresholds": whole[0], "mixture": None}
    return {"thresholds": None, "mixture": {"thresholds": whole, "share": mixture.share}}


def _choose(
    methods: str | Sequence[str] | Mapping[str, Method], table: Table
) -> tuple[dict[str, Method], list[str]]:
    """Build the methods; under "all", leave out what trains for minutes or lacks its columns."""
    if isinstance(methods, Mapping) and methods:
        return {n: m if isinstance(m, Method) else make_method(m) for n, m in methods.items()}, []
    names = method_list([] if isinstance(methods, Mapping) else methods)
    if names != ["all"]:
        return {spec: make_method(spec) for spec in names}, []
    chosen, notes = {}, []
    for name, row in ROWS.items():
        if row.trains:
            notes.append(f"{name} left out: it trains a network per budget, for minutes; name it")
            continue
        method = make_method(name)
        missing = method.lacks(table)
        if missing:
            notes.append(f"{name} left out: it needs {', '.join(missing)}, which is not there")
        else:
            chosen[name] = method
    if not chosen:
        raise InputError("No method works on these records. Import full logits.")
    return chosen, notes


def _references(frontier: Frontier, table: Table, budgets: Sequence[float], seed: int) -> None:
    accuracy = table.correct.mean(axis=0)
    costs = np.atleast_2d(table.alone).mean(axis=0)
    for k in range(table.exits):
        frontier.exits.append(
            {"exit": k, "cost": float(costs[k]), "accuracy": float(accuracy[k]), "seed": seed}
        )
    for budget, value in zip(budgets, oracle(table, budgets), strict=True):
        frontier.bound.append(
            {
                "method": "oracle",
                "deployable": False,
                "budget": float(budget),
                "unit": table.unit,
                "realised_cost": float(budget),
                "accuracy": float(value),
                **dict.fromkeys(_UNKNOWN_OF_BOUND),
                "seed": seed,
            }
        )
