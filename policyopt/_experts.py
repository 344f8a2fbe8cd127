"""Expert branches: one policy per context, the budget kept by all of them together.

Expert branches are those of Pacheco, Oliveira & Couto (GLOBECOM 2021, arXiv:2108.09343), whose code has one
confidence threshold for all, chosen by the user. Here each context has thresholds of its own, fitted by any method,
and one budget holds for all contexts together, so a hard one may spend what an easy one spares.

It is divided by maximising share-weighted accuracy under a share-weighted mean cost: at the optimum all curves have
the same slope (Lagrange; Everett 1963). On concave hulls, segments taken in the order of their slopes are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._api import method_of
from policyopt._cache.data import ExitData, folds_of
from policyopt._costs import Budget, parse_budget
from policyopt._methods.base import (
    Method,
    check_budgets,
    fit_where_possible,
    outcome_of,
)
from policyopt._methods.fitted import Expectation, Fitted, Saved
from policyopt._methods.settings import check_number
from policyopt._progress import working
from policyopt._replay import replay
from policyopt._table import Table, Tables, known_rows, tables_of
from policyopt._thresholds.joint import upper_hull
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._experts import ExpertPolicy
from policyopt.runtime._typing import Floats

#: Contexts of fewer rows have the policy of all rows: thresholds of their own would be noise.
LEAST_ROWS = 30
#: Where the curves are looked at: 0 is exit 0, 1 the last exit. Finer where a policy's own
#: arithmetic decides what is the least it can cost.
_PLACES = np.unique([0.01, 0.03, *np.linspace(0.0, 1.0, 13)])


@dataclass(frozen=True, eq=False)
class Part:
    """What one context got: its share of the rows of the fit, and its policy."""

    context: str
    rows: int
    share: float
    fitted: Fitted  # that of all rows where `pooled`
    cost: float  # expected: cross-fitted, or where `pooled` on its few rows; NaN where it has none
    quality: float  # likewise
    pooled: bool


@dataclass(frozen=True, eq=False)
class FittedExperts(Saved):
    """The result of `fit_experts`."""

    policy: ExpertPolicy
    method: str
    budget: float
    expected: Expectation
    quality: float
    parts: tuple[Part, ...]


@working("fitting")
def fit_experts(
    data: ExitData,
    budget: Budget,
    method: str | Method | None = None,
    *,
    split: str = "fit",
    cost: str | None = None,
    seed: int = 0,
    folds: int = 5,
    tables: Tables | None = None,
    utility: Any = None,
    **settings: Any,
) -> FittedExperts:
    """Fit one policy per context, the budget kept by all of them together.

    Per context, the accuracy at several budgets is cross-fitted (each row is judged by a policy
    that did not see it); the concave hulls of these curves divide the budget; then each context's
    policy is fitted on all its rows at its part. Between two vertices of a hull the policy at that
    budget is used, where the hull would mix the policies at both.

    Parameters
    ----------
    data : ExitData
        Its rows have contexts, and the outputs of their context's expert.
    budget : float or str
        Mean cost per sample over all contexts, at the shares they have in the rows.
    method : str or Method, optional
        As `policyopt.fit`.
    split, cost, seed, tables, utility, settings
        As `policyopt.fit`.
    folds : int
        Of the cross-fitting, 2 or more.

    Returns
    -------
    FittedExperts

    Raises
    ------
    InputError
        Rows without contexts or labels, unknown method or setting.
    BudgetError
        The budget cannot be met.

    Examples
    --------
    >>> import policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels, context = rng.integers(0, 3, 1000), rng.integers(0, 2, 1000)
    >>> signal = np.where(context, 1.0, 3.0)[:, None, None] * np.array([[1.0], [2.0]])
    >>> logits = rng.normal(size=(1000, 2, 3)) + signal * np.eye(3)[labels][:, None]
    >>> data = po.from_arrays(
    ...     logits, labels, costs=[1, 4], unit="ms", context=context, contexts=["clean", "blur"]
    ... )
    >>> fitted = po.fit_experts(data, budget=2.0, method="max_prob")
    >>> clean, blur = (part.cost for part in fitted.parts)
    >>> clean < 2.0 < blur, round(fitted.expected.cost, 1)
    (True, 2.0)
    """
    check_number("folds", folds, above=1, whole=True)
    tables = tables_of(data, cost, tables, utility)
    table = known_rows(tables.get(split))
    if table.context is None:
        step = "Import with a key 'context' (Python: context=), or fit one policy without experts."
        raise input_error("cache", "one whose rows have a context", "one without", step)
    chosen = method_of(method, settings).in_turn("experts")
    limit = parse_budget(budget, table.mean_costs, table.unit)
    check_budgets(table, [limit])
    names = table.contexts
    rows = [np.flatnonzero(table.context == e) for e in range(len(names))]
    shares = np.array([len(mine) for mine in rows]) / len(table)
    many = [e for e, mine in enumerate(rows) if len(mine) >= LEAST_ROWS]
    large = [e for e in many if table.take(rows[e]).units > 1]
    parts: dict[int, Part] = {}

    def add(e: int, fitted: Fitted, cost: float, quality: float, pooled: bool) -> None:
        share = float(shares[e])
        parts[e] = Part(names[e], len(rows[e]), share, fitted, cost, quality, pooled)

    if len(large) < len(names):
        whole = chosen.fit_path(table, [limit], seed)[0]
        for e in set(range(len(names))) - set(large):
            paid, right = nan, nan
            if len(rows[e]):
                outcome = replay(whole.policy, table.take(rows[e]))
                paid, right = float(outcome.cost.mean()), float(outcome.quality.mean())
            add(e, whole, paid, right, pooled=True)
    if large:
        spent = sum(part.share * part.cost for part in parts.values() if part.rows)
        rest = (limit - spent) / shares[large].sum()
        of_each = [table.take(rows[e]) for e in large]
        curves = [_curve(chosen, one, seed, folds) for one in of_each]
        hulls = [hull(*curve) for curve in curves]
        budgets = divide(hulls, shares[large], rest)
        least = float((shares[large] * [cost[0] for cost, _ in hulls]).sum() / shares[large].sum())
        if rest < least:  # none can spare anything: all at the budget, which may be refused
            budgets = np.full(len(large), limit)
        for e, one, curve, part in zip(large, of_each, curves, budgets.tolist(), strict=True):
            fitted = chosen.fit_path(one, [part], seed)[0]
            add(e, fitted, fitted.expected.cost, float(np.interp(part, *curve)), pooled=False)
    return _joined([parts[e] for e in range(len(names))], rows, table, limit, seed, folds)


def _curve(method: Method, table: Table, seed: int, folds: int) -> tuple[Floats, Floats]:
    """Return budgets of a context, and the cross-fitted accuracy at each."""
    places = _PLACES * (table.exits - 1)
    budgets = np.unique(np.interp(places, np.arange(table.exits), table.mean_costs))
    fold = folds_of(len(table), folds, seed, table.group)
    right = np.zeros(len(budgets))
    met = np.ones(len(budgets), dtype=bool)
    for f in range(int(fold.max()) + 1):
        train, held = table.take(np.flatnonzero(fold != f)), table.take(np.flatnonzero(fold == f))
        # Costs per sample have another mean on these rows: a budget may lie outside by a hair.
        allowed = np.clip(budgets, *train.mean_costs[[0, -1]]).tolist()
        path = fit_where_possible(method, train, allowed, seed, validate=False)
        met &= [fitted is not None for fitted in path]
        for i, fitted in enumerate(path):
            if fitted is not None:
                right[i] += replay(fitted.policy, held).quality.sum()
    if not met.any():
        raise InputError(
            "'method' must be one that can meet some budget between the first and the last exit. "
            "Got none that it can. Choose another one."
        )
    return budgets[met], right[met] / len(table)


def hull(cost: npt.ArrayLike, value: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the vertices (Q,) of the upper concave hull of a curve (P,), as far as it rises."""
    points = np.column_stack([np.asarray(cost, float), np.asarray(value, float)])
    points = points[upper_hull(points)]
    xs, ys = points[: int(points[:, 1].argmax()) + 1].T
    return xs, ys


def divide(hulls: Sequence[tuple[Floats, Floats]], shares: npt.ArrayLike, budget: float) -> Floats:
    """Return each context's mean cost (E,) by hulls and shares: in all the budget, or less where more buys nothing."""
    weights = np.asarray(shares, dtype=np.float64)
    weights = weights / weights.sum()
    costs = np.array([cost[0] for cost, _ in hulls])
    left = budget - float((weights * costs).sum())
    segments = [
        (-(rise / run), e, run)
        for e, (cost, value) in enumerate(hulls)
        for run, rise in zip(np.diff(cost).tolist(), np.diff(value).tolist(), strict=True)
    ]
    for _, e, run in sorted(segments):  # ties: the first context first
        if left <= 0:
            break
        part = min(1.0, left / (run * weights[e])) if weights[e] > 0 else 1.0
        costs[e] += part * run
        left -= part * run * weights[e]
    return costs


def _joined(
    parts: Sequence[Part],
    rows: Sequence[npt.NDArray[np.intp]],
    table: Table,
    budget: float,
    seed: int,
    folds: int,
) -> FittedExperts:
    """Join the parts: what they cost together, and where they come from."""
    seen = [part for part in parts if part.rows]
    paid, coin = np.empty(len(table)), 0.0
    for mine, part in zip(rows, parts, strict=True):
        if part.rows:
            outcome = outcome_of(part.fitted.policy, table.take(mine))
            paid[mine] = outcome.paid
            coin += part.share * outcome.coin
    mean = sum(part.share * part.cost for part in seen)
    span = float(np.ptp(table.mean_costs))
    expected = Expectation(mean, paid, coin, span=span, group=table.group)
    first = parts[0].fitted.policy.provenance
    shared = (
        "method", "settings", "cost", "split", "cache", "versions", "graded", "utility", "pool",
    )  # fmt: skip
    division = [
        {
            "context": part.context, "rows": part.rows, "budget": part.fitted.budget,
            "expected_cost": None if isnan(part.cost) else part.cost, "pooled": part.pooled,
        }
        for part in parts
    ]  # fmt: skip
    provenance = {
        **{key: first[key] for key in shared if key in first},
        "seed": int(seed), "folds": int(folds), "budget": float(budget),
        "expected_cost": expected.cost, "expected_cost_95": list(expected.interval()),
        "rows": len(table), "division": division,
    }  # fmt: skip
    policies = tuple(part.fitted.policy for part in parts)
    policy = ExpertPolicy(tuple(part.context for part in parts), policies, provenance)
    quality = float(sum(part.share * part.quality for part in seen))
    return FittedExperts(policy, parts[0].fitted.method, budget, expected, quality, tuple(parts))
