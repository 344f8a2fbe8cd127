"""The Python API in one line each: fit, evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from policyopt._answers.calibrators import FITS, fit_confidence
from policyopt._answers.crossfit import answered, crossfit, folds_of
from policyopt._cache.data import ExitData
from policyopt._costs import Budget, parse_budget
from policyopt._methods.base import Method
from policyopt._methods.fitted import Fitted
from policyopt._methods.registry import make_method
from policyopt._replay import Replay, replay
from policyopt._table import Table, Tables
from policyopt._utility import Utility, told_utility, utility_of
from policyopt.runtime._calibrators import Calibrator
from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import input_error
from policyopt.runtime._experts import ExpertPolicy, policy_of
from policyopt.runtime._policy import Policy

DEFAULT_METHOD = "auto"
#: Settings that make a policy without a budget, where the user gives them.
_FIXED = ("thresholds", "patience", "exit", "delta")


def fit(
    data: ExitData,
    budget: Budget | None = None,
    method: str | Method | None = None,
    *,
    split: str = "fit",
    cost: str | None = None,
    seed: int = 0,
    calibrator: str | None = None,
    tables: Tables | None = None,
    utility: Any = None,
    **settings: Any,
) -> Fitted:
    """Fit one policy under a budget.

    Parameters
    ----------
    data : ExitData
        From `open_cache` or `from_arrays`.
    budget : float or str, optional
        Mean cost per sample: ``2.5`` in the cost's unit, or ``"40%"`` of the full model. Only
        thresholds that the user gives need none.
    method : str or Method, optional
        E.g. ``"margin:thresholds=joint"``. Default: ``auto``, the best at that budget.
    split : str
        Rows to fit on.
    cost : str, optional
        Name of the cost; default the cache's first.
    seed : int
        Same seed, same policy.
    calibrator : {"platt", "beta", "isotonic", "histogram"}, optional
        Fit a map from the answer's largest probability to the probability that it is right, which
        the policy then shows with every decision (`Decision.confidence`).
    tables : Tables, optional
        Reuse of passes already made.
    utility : array of shape (C,), (C, C) or (K, C, C), mapping, or str, optional
        What answers are worth: weights per class, a matrix by label and prediction, label maps of exits, or a file
        of one. Quality is then this worth instead of right or wrong.
    **settings
        Of the method, e.g. ``thresholds="joint"``.

    Returns
    -------
    Fitted

    Raises
    ------
    InputError
        Unknown method or setting, no labels, or no budget where one is needed.
    BudgetError
        The budget cannot be met.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> fitted = po.fit(data, budget=2.0, method="max_prob")
    >>> round(fitted.expected.cost, 2)
    2.0
    """
    if calibrator is not None:
        check_one_of("calibrator", calibrator, FITS, "E.g. beta.")
    table = tables_of(data, cost, tables, utility).get(split)
    chosen = method_of(method, settings)
    if budget is not None:
        limit = parse_budget(budget, table.mean_costs)
    else:  # the most that any policy costs allows whatever thresholds, patience or exit are given
        limit = float(table.mean_costs[-1])
        given = [value for name, value in chosen.settings().items() if name in _FIXED]
        if all(value is None or isinstance(value, str) for value in given):
            step = "E.g. --budget 40% (Python: budget='40%')."
            raise input_error("budget", "given", "none", step)
    fitted = chosen.fit_path(table, [limit], seed)[0]
    if budget is None:  # nothing was asked for: the artifact must not claim a budget
        provenance = {**fitted.policy.provenance, "budget": None}
        fitted = replace(fitted, policy=replace(fitted.policy, provenance=provenance), budget=None)
    if calibrator is not None:
        rule = _calibrate(calibrator, fitted, table, seed)
        fitted = replace(fitted, policy=replace(fitted.policy, calibrator=rule))
    return fitted


def method_of(method: str | Method | None, settings: Mapping[str, Any]) -> Method:
    """Return the method that `fit` is asked for, the default where none is named."""
    if method is None:
        unknown = settings.keys() - make_method(DEFAULT_METHOD).settings().keys()
        if unknown:
            got = f"{', '.join(sorted(unknown))} without a method"
            step = "Without one it is auto, which has folds and errors; e.g. --method max_prob."
            raise input_error("settings", "of the method", got, step)
        return make_method(DEFAULT_METHOD, settings)
    if not isinstance(method, Method):
        return make_method(method, settings)
    if settings:
        allowed = "part of the method given"
        raise input_error("settings", allowed, sorted(settings), "Set them on the method.")
    return method


def _calibrate(name: str, fitted: Fitted, table: Table, seed: int) -> Calibrator:
    """Fit a confidence map on answers of rows that did not train those answers."""
    labels = table.statistics.labels
    if labels is not None and (labels >= 0).any():  # without any, `correct` says what is missing
        table = table.take(np.flatnonzero(labels >= 0))
    table = table.keep_exits(fitted.policy.active_exits)
    provenance = fitted.policy.provenance
    settings = provenance.get("chosen", provenance)["settings"]
    answer = settings.get("answer", "plain") if table.whole else "plain"
    seen = answered(table, crossfit(table, answer, folds_of(len(table), 5, seed)))
    return fit_confidence(name, seen.statistics.confidence, seen.quality)


def tables_of(data: ExitData, cost: str | None, tables: Tables | None, utility: Any) -> Tables:
    """Return the tables given, which have a utility of their own, or new ones."""
    if tables is not None and utility is not None:
        step = "Tables(data, cost, utility=...)."
        raise input_error("utility", "part of the tables that are given", "also one apart", step)
    return tables or Tables(data, cost, utility=utility)


def evaluate(
    policy: Any,
    data: ExitData,
    split: str = "test",
    *,
    cost: str | None = None,
    utility: Any = None,
) -> Replay:
    """Replay a policy on a split of a cache.

    Parameters
    ----------
    policy : Policy, ExpertPolicy, or what `fit` or `fit_experts` returned
    data : ExitData
    split : str
    cost : str, optional
        Name of the cost; default the one the policy was fitted on, else the cache's first.
    utility : as in `fit`, optional
        Default the policy's own; ``"none"`` for right or wrong.

    Returns
    -------
    Replay

    Raises
    ------
    InputError
        The policy was made for another model, or the split is missing or unlabelled.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> probs = np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.6, 0.4], [0.1, 0.9]]])
    >>> data = po.from_arrays(probs, [0, 1], costs=[1, 4], unit="ms", split={"test": 1.0})
    >>> fitted = po.fit(data, split="test", method="max_prob", thresholds=[0.8])
    >>> po.evaluate(fitted, data).cost
    array([1., 4.])
    """
    found = policy_of(policy)
    worth, _ = utility_for(found, data, utility)
    return replay(found, Tables(data, cost_for(found, data, cost), utility=worth).get(split))


def cost_for(policy: Policy | ExpertPolicy, data: ExitData, cost: str | None = None) -> str | None:
    """Return the cost to replay a policy with: `cost`, else the one it was fitted on if it is there."""
    fitted_on = policy.provenance.get("cost")
    known = any(c.name == fitted_on for c in data.costs)
    if cost is None and not known and str(fitted_on).startswith("plan "):
        allowed = "named: the policy's is of a plan's tiers and links, which no cache holds"
        step = "`policyopt plan` says what the plan costs; --cost NAME takes a cost of the cache."
        raise input_error("cost", allowed, fitted_on, step)
    return str(fitted_on) if cost is None and known else cost


def utility_for(
    policy: Policy | ExpertPolicy, data: ExitData, utility: Any = None
) -> tuple[Utility | None, str]:
    """Return the utility to value a policy's answers by, and a remark: `utility`, else the one it was fitted with."""
    stated, digest = told_utility(policy.provenance)
    if isinstance(utility, str) and utility == "none":
        return None, "the policy was fitted with a utility, which is left out" if digest else ""
    if utility is not None:
        found = utility_of(utility, data.exits, data.classes)
        other = "the policy was fitted with another utility" if digest else ""
        other = other or "the policy was fitted without a utility"
        return found, "" if found.digest == digest else other
    if not digest:
        return None, ""
    if data.graded:
        return (
            None,
            "the policy was fitted with a utility; the quality of this cache is graded, and holds",
        )
    if not isinstance(stated, (list, dict)):  # a text would be a path
        allowed = "given: the policy was fitted with one that is too long for its file"
        raise input_error("utility", allowed, "none", "--utility FILE, or --utility none.")
    return utility_of(stated, data.exits, data.classes), "valued by the policy's utility"
