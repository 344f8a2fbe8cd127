"""A plan with its policy: the best few plans of a search fitted by a method, the best of them taken.

The search looks at one score and chooses on the rows it looks at. So the thresholds of its best plans are
searched again in two folds, each replayed on the rows of the other; on the plan that is best there the
method asked for competes with them in the same way, and the better is fitted on all rows. Thresholds are
fitted on the leaving costs of the plan. All of this keeps a goal in the mean; see `certify` for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policyopt.methods import Fitted, Method
from policyopt.runtime.checks import check_seed
from policyopt.table import Table
from policyopt.tiers.compare import Candidate, Outcome, best_of, compare, fits, own, settled
from policyopt.tiers.describe import Tiers
from policyopt.tiers.goal import Goal
from policyopt.tiers.plans import Plan, plan_table
from policyopt.tiers.search import Searched, search

_FEWEST = 20  # rows that can be divided in two


@dataclass(frozen=True)
class Certificate:
    """What holds with a confidence, on rows that chose and fitted nothing.

    Attributes
    ----------
    confidence : float
        That all the bounds hold together.
    rows, fitted_rows : int
        That they are of, and that chose and fitted the plan.
    accuracy, accuracy_low : float
        On those rows, and its lower bound.
    cost : float
    cost_high : float or None
        The goal's objective on those rows, and its upper bound; None where none is promised.
    """

    confidence: float
    rows: int
    fitted_rows: int
    accuracy: float
    accuracy_low: float
    cost: float
    cost_high: float | None


@dataclass(frozen=True)
class Planned:
    """A plan, its policy, and how both were found.

    Attributes
    ----------
    plan : Plan
    fitted : Fitted
        The whole policy: on the plan's kept exits, its cost the goal's objective.
    searched : Searched
    compared : list of dict
        Plans and methods compared, their accuracy and cost on rows that did not fit them.
    met : bool
        Whether the goal was met on those rows.
    held_out : Outcome, optional
        The chosen one's outcome there; None of fewer than 20 rows.
    by : Method, optional
        What fitted the policy; None: the search's own thresholds.
    certificate : Certificate, optional
        Where a confidence was asked for.
    """

    plan: Plan
    fitted: Fitted
    searched: Searched
    compared: list[dict[str, Any]]
    met: bool
    held_out: Outcome | None = None
    by: Method | None = None
    certificate: Certificate | None = None


def make_plan(
    tiers: Tiers,
    table: Table,
    goal: Goal,
    method: Method | None = None,
    *,
    shortlist: int = 3,
    seed: int = 0,
) -> Planned:
    """Choose cuts, kept exits and thresholds on labelled rows.

    Parameters
    ----------
    tiers : Tiers
    table : Table
        Of split `fit`, all exits, with the cache's own cost.
    goal : Goal
    method : Method, optional
        What fits policies besides the search's own thresholds on the largest probability.
    shortlist : int
        How many of the search's plans are fitted and compared.
    seed : int

    Returns
    -------
    Planned

    Raises
    ------
    BudgetError
        No plan meets the goal.

    Examples
    --------
    >>> import policyopt as po
    >>> from policyopt.table import Tables
    >>> from policyopt.tiers.describe import Link, Tier
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 400)
    >>> logits = rng.normal(size=(400, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> table = Tables(po.from_arrays(logits, labels, costs=[1, 4], unit="MMACs")).get("fit")
    >>> tiers = Tiers((Tier("device", 1.0), Tier("cloud", 0.1)), (Link(8.0),), 500, (2000,))
    >>> make_plan(tiers, table, Goal("latency", budget=0.95)).plan.tier
    (1, 1)
    """
    check_seed(seed)
    table = known_rows(table)
    searched = search(tiers, table, goal, seed=seed)
    # Plans by the search's own thresholds first, then the method on the best: learning takes long.
    candidates: list[Candidate] = [(f, None) for f in searched.found[:shortlist]]
    outcomes: list[Outcome] = []
    if len(table) >= _FEWEST:
        outcomes = compare(tiers, table, goal, candidates, 0, seed)
        chosen = best_of(goal, outcomes)
        if method is not None:
            candidates.append((candidates[chosen.candidate if chosen else 0][0], method))
            outcomes += compare(tiers, table, goal, candidates, len(candidates) - 1, seed)
    chosen = best_of(goal, outcomes)
    first, by = candidates[chosen.candidate if chosen else 0]
    step = chosen.step if chosen else 0
    fitted = fits(tiers, table, goal, first, by, seed, slice(step, step + 1))[0]
    if fitted is None:  # possible on both halves and by a hair not on all rows
        by, fitted = None, own(plan_table(tiers, first.plan, goal.objective, table), first, seed)
    plan, fitted = settled(tiers, table, goal, first.plan, fitted, by, seed)
    return Planned(
        plan, fitted, searched, _compared(tiers, goal, candidates, outcomes),
        bool(chosen and chosen.met), chosen, by,
    )  # fmt: skip


def known_rows(table: Table) -> Table:
    """Return the rows whose labels are known."""
    labels = table.statistics.labels
    if labels is None or (labels >= 0).all():
        return table
    return table.take(np.flatnonzero(labels >= 0))


def _compared(
    tiers: Tiers, goal: Goal, candidates: Sequence[Candidate], outcomes: Sequence[Outcome]
) -> list[dict[str, Any]]:
    """Return each candidate's best outcome that met the goal, or its best."""
    key, names = goal.ranks(), [tier.name for tier in tiers.tiers]
    records = []
    for i, (found, by) in enumerate(candidates):
        seen = [o for o in outcomes if o.candidate == i]
        seen = [o for o in seen if o.met] or seen
        if seen:
            best = max(seen, key=lambda o: key(o.accuracy, o.cost))
            records.append({
                "plan": found.plan.text(names), "method": "search" if by is None else "method",
                "accuracy": best.accuracy, "cost": best.cost, "met": best.met,
            })  # fmt: skip
    return records
