"""Drift beside a deployed policy: a watch made from a table, and a fit anew without labels.

`refit` keeps the budget on recent traffic again. Answers and their calibration stay those of the labelled rows; the
budget is met on the recent ones, which needs no label. In between lies what a method learns:

- methods that read no labels (quotas, patience) are fitted on the recent rows;
- methods with a price of cost (`policyopt._methods.lagrangian`) learn from both: recent rows have soft targets, the
  probability that the calibrated answer of all exits gives to each exit's answer (as in Lee 2013);
- of all others, fitted on the labelled rows over budgets, that policy is taken that costs the budget on the recent.

Whether the answers are still right no refit can know: under heavy drift soft targets are too sure of
themselves. Recent rows need the outputs of *all* exits: draw them at random, and run those to the last exit.
Requests that went there by themselves are the hard ones, and thresholds set on them miss the budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from policyopt._cache.data import GROUP, Block, Rows
from policyopt._costs import Budget, parse_budget
from policyopt._methods.base import (
    Method,
    bounded,
    cheapest,
    fit_where_possible,
    tail_remarks,
)
from policyopt._methods.fitted import Expectation, Fitted
from policyopt._methods.lagrangian import LagrangianMethod
from policyopt._methods.registry import ROWS, make_method
from policyopt._progress import working
from policyopt._replay import trace
from policyopt._table import ExitStatistics, Table
from policyopt.runtime._checks import check_seed, check_type
from policyopt.runtime._drift import DriftWatch
from policyopt.runtime._errors import BudgetError, input_error, message
from policyopt.runtime._policy import Policy
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._several import policy_of
from policyopt.runtime._typing import Floats, Ints

Tried = tuple[float, float, Fitted]  # cost on the recent rows, budget on the rows learned from
_GRID = 17  # policies tried in each round
_ROUNDS = 3


def watch(
    policy: Any,
    table: Table,
    run_length: int = 100_000,
    *,
    steered: bool = False,
    bins: int = 32,
    seed: int = 0,
    block: int = 1,
) -> DriftWatch:
    """Return a watch for what `policy` will see, if it is like the rows of `table`.

    Parameters
    ----------
    policy : Policy, or a fit that holds one
    table : Table
        Rows that trained nothing of the policy: split ``calibrate``. Labels are not looked at.
    run_length : int
        Requests to a false alarm, in the mean at least.
    steered : bool
        Thresholds will be moved while serving: watch the first exit only.
    bins, seed, block : int
        See `DriftWatch.fit`.

    Returns
    -------
    DriftWatch

    Raises
    ------
    InputError
        The policy was made for another model.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 2000)
    >>> logits = rng.normal(size=(2000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> shares = {"fit": 0.25, "calibrate": 0.5, "test": 0.25}
    >>> tables = po.Tables(po.from_arrays(logits, labels, costs=[1, 4], unit="ms", split=shares))
    >>> policy = po.fit(tables.data, 2.0, "max_prob", tables=tables).policy
    >>> watch = watch(policy, tables.get("calibrate"))
    >>> seen = trace(policy, tables.get("test"))
    >>> watch.update_batch(seen.scores, seen.predictions[:, 0], seen.exit) is None
    True
    """
    policy = policy_of(policy, single=True)
    check_type("table", table, Table, "a Table", "E.g. Tables(data).get('calibrate').")
    if table.group is not None:  # rows of one are no independent draws: a random one stands for it
        order = np.random.default_rng(seed).permutation(len(table))
        table = table.take(np.sort(order[np.unique(table.group[order], return_index=True)[1]]))
    seen = trace(policy, table)
    classes = policy.classes if policy.observer.kind.answers_class else 0
    return DriftWatch.fit(
        seen.scores, seen.predictions[:, 0], seen.exit, classes=classes,
        active_exits=policy.active_exits, run_length=run_length, steered=steered, bins=bins, seed=seed,
        block=block,
    )  # fmt: skip


@working("fitting")
def refit(
    method: Fitted | Policy | Method | str,
    labelled: Table,
    recent: Table,
    budget: Budget | None = None,
    seed: int = 0,
) -> Fitted:
    """Fit a policy that keeps the budget on recent rows, from labelled rows and those.

    Parameters
    ----------
    method : Fitted, Policy, Method or str
        What was fitted before, or what is to be fitted now.
    labelled : Table
        Rows of the split ``fit``.
    recent : Table
        Recent traffic, all exits' outputs kept. Labels, if there are any, are not looked at.
    budget : float or str, optional
        Default: that of the policy fitted before, in the unit.
    seed : int

    Returns
    -------
    Fitted
        `expected` is of the recent rows; `accuracy` is NaN, since nothing tells it.

    Raises
    ------
    InputError
        No budget, no recent rows, or rows of another model than the labelled ones.
    BudgetError
        No policy of the method costs so little, or so much, on the recent rows.

    Examples
    --------
    >>> import policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> sure = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> parts = {"fit": {"outputs": sure, "labels": labels}, "recent": {"outputs": sure * 0.7}}
    >>> tables = po.Tables(po.from_arrays(splits=parts, costs=[1, 4], unit="ms"))
    >>> before = po.fit(tables.data, 2.0, "max_prob", tables=tables)
    >>> after = refit(before, tables.get("fit"), tables.get("recent"))
    >>> round(after.expected.cost, 2)
    2.0
    >>> bool((after.policy.thresholds < before.policy.thresholds).all())
    True
    """
    check_seed(seed)
    for name, table in (("labelled", labelled), ("recent", recent)):
        check_type(name, table, Table, "a Table", "E.g. Tables(data).get('fit').")
    before: Policy | None = None
    if isinstance(method, (Fitted, Policy, RoutingPolicy)):
        before = policy = policy_of(method)
        if policy.abstention is not None:
            step = "Fit it anew, with --abstain, on labelled rows: these tell whom to decline."
            raise input_error("method", "a fit that declines nobody", "one that may abstain", step)
        method = method_of(policy)
        budget = policy.provenance.get("budget") if budget is None else budget
        labelled, recent = labelled.priced_for(policy), recent.priced_for(policy)
        if "inner" in policy.provenance.get("chosen", {}):  # of a subset
            kept = policy.active_exits
            labelled, recent = labelled.keep_exits(kept), recent.keep_exits(kept)
    elif isinstance(method, str):
        method = make_method(method)
    check_type("method", method, Method, "a Fitted, a Policy, a Method or a name", "E.g. max_prob.")
    method = method.in_turn("refit")
    if budget is None:
        raise input_error("budget", "given", "none", "E.g. budget='40%'.")
    if not len(recent):
        raise input_error("recent", "of one row or more", "none", "Keep requests run to the end.")
    check_alike(labelled, recent)
    recent = unlabelled(recent)
    limit = parse_budget(budget, recent.mean_costs, recent.unit)
    if method.requires_labels():
        soft = isinstance(method, LagrangianMethod) and method.soft > 0 and recent.whole
        soft &= not labelled.plain_only  # which no teacher knows
        table = joined(labelled, recent) if soft else labelled
        fitted = _aimed(method, table, recent, limit, seed)
    else:
        fitted = method.propose(recent, [limit], seed)[0]
    return _said(fitted, method, recent, labelled, limit, before)


def method_of(fitted: Fitted | Policy) -> Method:
    """Return the method that a policy was fitted by, its settings included."""
    known = policy_of(fitted).provenance
    chosen = known.get("chosen", known)
    stated = isinstance(chosen, dict) and chosen.get("inner", chosen.get("method"))
    if not isinstance(stated, str) or not isinstance(chosen.get("settings"), dict):
        step = "Name a method instead."
        raise input_error("policy", "one that says which method fitted it", "one without", step)
    # A name may state settings of its own, which are among all settings beside it.
    name, settings = stated.partition(":")[0], chosen["settings"]
    # Of a class that serves several methods, provenance also states what makes it this one.
    own = ROWS[name].settings() if name in ROWS else settings
    return make_method(name, {key: value for key, value in settings.items() if key in own})


def _aimed(method: Method, table: Table, recent: Table, limit: float, seed: int) -> Fitted:
    """Return the dearest policy found, over budgets on `table`, that costs at most `limit` on `recent`."""
    low, high = cheapest(table), float(table.mean_costs[-1])
    found: list[Tried] = []
    for _ in range(_ROUNDS):
        tried = np.linspace(low, high, _GRID).tolist()
        policies = fit_where_possible(method, table, tried, seed, validate=False)
        pairs = [(p, b) for p, b in zip(policies, tried, strict=True) if p is not None]
        found += [(float(trace(p.policy, recent).cost.mean()), b, p) for p, b in pairs]
        within = [f for f in found if f[0] <= limit]
        over = [f for f in found if f[0] > limit]
        if not within or not over:
            break
        # Costs need not rise with the budget row by row: the bracket is by budget around the best.
        middle = _dearest(within)[1]
        nearest = over[int(np.argmin([abs(f[1] - middle) for f in over]))][1]
        low, high = min(middle, nearest), max(middle, nearest)
    within = [f for f in found if f[0] <= limit]
    if not within:
        costs = sorted(f[0] for f in found)
        least = f"{costs[0]:.4g} {recent.unit} or more" if costs else "met by the method"
        allowed, step = f"{least} on the recent rows", "Raise it, or take max_prob."
        raise BudgetError(message("budget", allowed, limit, step))
    return _dearest(within)[2]


def _dearest(found: list[Tried]) -> Tried:
    return max(found, key=lambda f: (f[0], -f[1]))


def _said(
    fitted: Fitted, method: Method, recent: Table, labelled: Table, limit: float, before: Policy | None
) -> Fitted:  # fmt: skip
    """Return the policy with costs, expectation and provenance of the recent rows."""
    paid, policy = trace(fitted.policy, recent).cost, fitted.policy
    # Of all exits that the table has, the policy may run some.
    mean = recent.built_for(policy).mean_costs
    policy = replace(policy, costs=mean + policy.overhead)
    expected = bounded(Expectation(float(paid.mean()), paid), policy, recent)
    notes = [*policy.provenance.get("notes", []), *tail_remarks(expected)]
    if before is not None and before.calibrator is not None:
        if before.answer == policy.answer and before.active_exits == policy.active_exits:
            policy = replace(policy, calibrator=before.calibrator)
        else:
            notes.append("no calibrator, for answers were fitted anew: fit it on labelled rows")
    provenance = {
        **policy.provenance,
        "budget": limit,
        **expected.fields,
        **({"notes": notes} if notes else {}),
        "refit": {
            "rows": len(recent), "split": recent.split, "cache": recent.cache,
            **({"pool": dict(recent.pool)} if recent.pool else {}),
            "labelled_rows": len(labelled) if method.requires_labels() else 0,
        },
    }  # fmt: skip
    policy = replace(policy, provenance=provenance)
    return Fitted(policy, fitted.method, limit, expected, float("nan"), fitted.flat)


def unlabelled(table: Table) -> Table:
    """Return the rows as if nobody knew what is right."""
    stats = table.statistics
    labels = np.full(len(table), -1, dtype=np.int32)
    return replace(table, statistics=stats.replace(labels=labels, quality=None, correct=None))


def check_alike(labelled: Table, recent: Table) -> None:
    """Refuse tables of two models, or of costs in two units."""
    step = "Take both from one model, with the same cost."
    for name in ("kind", "classes", "active_exits", "unit", "model_exits"):
        wanted, got = getattr(labelled, name), getattr(recent, name)
        if wanted != got:
            allowed = f"as of the labelled rows: {wanted}"
            raise input_error(f"{name} of the recent rows", allowed, got, step)


def joined(first: Table, second: Table) -> Table:
    """Return the rows of two alike tables, in order, as of the first's split and cache."""
    both = first.statistics, second.statistics
    labels = np.concatenate(
        [np.full(len(s), -1, dtype=np.int32) if s.labels is None else s.labels for s in both]
    )
    right = np.concatenate(
        [np.zeros((len(s), first.exits), bool) if s.quality is None else s.quality for s in both]
    )
    names = ("top_prob", "top_class", "entropy", "log_sum_exp")
    arrays = {name: np.concatenate([getattr(s, name) for s in both]) for name in names}
    costs: Floats = first.costs
    if first.costs.ndim + second.costs.ndim > 2 or not np.array_equal(first.costs, second.costs):
        per_row = [np.broadcast_to(t.costs, (len(t), t.exits)) for t in (first, second)]
        costs = np.concatenate(per_row)
    source, places = None, None
    if first.source is not None and second.source is not None:
        blocks = (*first.source.blocks, *second.source.blocks)
        source = Rows(blocks)
        if any(GROUP in block for block in blocks) and not source.has(GROUP):
            source = Rows(tuple(_alone(blocks)))
        places = np.concatenate([_places(first), len(first.source) + _places(second)])
    return replace(
        first, statistics=ExitStatistics(**arrays, quality=right, labels=labels), costs=costs,
        source=source, places=places,
    )  # fmt: skip


def _alone(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield the blocks with groups: rows without have one each."""
    code = np.iinfo(np.int64).min
    for block in blocks:
        count = len(next(iter(block.values())))
        yield block if GROUP in block else {**block, GROUP: np.arange(code, code + count)}
        code += count


def _places(table: Table) -> Ints:
    return np.arange(len(table)) if table.places is None else table.places
