"""What online policies are given: families of methods (AdaEE's thresholds, or fitted points), LinUCB's vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from policyopt._cache.data import ExitData
from policyopt._costs import Budget, parse_budgets
from policyopt._methods.base import Method, check_exits
from policyopt._methods.exit_batch import hidden_of, subsample_outputs
from policyopt._methods.registry import ROWS, make_method
from policyopt._progress import working
from policyopt._replay import trace
from policyopt._table import Table, Tables
from policyopt._thresholds.budget_search import meet_budget
from policyopt._thresholds.problem import Problem
from policyopt.runtime._checks import check_one_of, check_type, check_whole, to_python
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._online.exit_rules import LinUCB
from policyopt.runtime._policy import Policy, to_dict
from policyopt.runtime._scores.history import INPUTS
from policyopt.runtime._typing import Floats


def threshold_family(
    table: Table, values: Sequence[float], score: str | Method = "max_prob", seed: int = 0
) -> PolicyFamily:
    """Return the family of AdaEE: one threshold for all exits but the last, one level per ascending value."""
    check_type("table", table, Table, "a Table", "E.g. Tables(data).get('fit').")
    levels = np.asarray(list(values), dtype=np.float64)
    if not len(levels) or (np.diff(levels) <= 0).any() or not np.isfinite(levels).all():
        raise input_error("arms", "ascending thresholds", levels.tolist(), "E.g. 0:1:0.2.")
    method = steerable(score)
    numbers = (float(levels[0]),) * (table.exits - 1)
    try:
        given = replace(method, thresholds=numbers)  # type: ignore[call-arg]
    except (InputError, TypeError) as error:  # a score that is learned, or none
        if isinstance(score, str) and ROWS[called(score)].discrete:
            raise _unsteerable(called(score)) from None  # its family is mixed by a coin
        allowed = "a number of points for a method without thresholds of its own"
        got, step = f"thresholds for {called(score)}", "E.g. --arms 11, or --method max_prob."
        raise input_error("arms", allowed, got, step) from error
    policy = given.fit_path(table, [float(table.mean_costs[-1])], seed)[0].policy
    return PolicyFamily.of(policy, np.repeat(levels[:, None], table.exits - 1, axis=1))


def steering_family(
    method: str | Method, table: Table, budgets: int | str | Sequence[Budget], seed: int = 0
) -> PolicyFamily:
    """Return the points of a fitted policy family, from always exit 0 to never early.

    Where all budgets share one score, each level has the thresholds that the method finds for its
    budget; a threshold that would fall from one level to the next is held, so that the levels nest.
    Where the score itself changes with the budget (methods over the price of cost), the policy of
    the middle budget is kept and all its thresholds move together: one knob.

    Parameters
    ----------
    method : str or Method
        A method whose policies draw no coin.
    table : Table
        Rows of the split `fit`.
    budgets : int, str or sequence
        How many budgets, at even positions between the first and the last exit; or the budgets:
        numbers in the cost's unit, shares such as ``"40%"``, or a text of them with commas.
    seed : int

    Returns
    -------
    PolicyFamily
        Of two levels more than budgets: its ends leave at exit 0, and never early.

    Examples
    --------
    >>> import policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> data = po.from_arrays(rng.normal(size=(200, 3, 4)), rng.integers(0, 4, 200), [1, 2, 4])
    >>> family = steering_family("max_prob", po.Tables(data).get("fit"), 3)
    >>> family.nested, family.expected_costs.round(1)
    (True, array([1. , 1.5, 2. , 3. , 4. ]))
    """
    check_type("table", table, Table, "a Table", "E.g. Tables(data).get('fit').")
    # What steers may need any cost in the range, also where it buys nothing on these rows.
    method = replace(steerable(method), spend="all")
    wanted = np.unique(parse_budgets(budgets, table.mean_costs, table.unit))
    fitted = method.fit_path(table, wanted.tolist(), seed)
    policies = [one.policy for one in fitted]
    if any(policy.exits < policy.model_exits for policy in policies):
        raise _unsteerable(fitted[0].method)
    if any(policy.mixture is not None for policy in policies):
        got = f"{fitted[0].method}, many of whose scores are equal here, so that only a coin meets a budget"
        step = "Leave out rows without answers, or take a score that tells more apart: entropy."
        raise input_error("method", "one that meets these budgets without a coin", got, step)
    contents = [to_dict(policy) for policy in policies]
    if len({json.dumps([content["score"], content["answer"]]) for content in contents}) == 1:
        policy, levels = policies[-1], [p.thresholds for p in policies]
    else:
        policy = policies[len(policies) // 2]
        levels = _shifted(policy, table, wanted)
    return PolicyFamily.of(policy, levels, wanted).steered()


@working("fitting")
def fit_linucb(
    data: ExitData,
    inputs: str = "both",
    alpha: float = 0.5,
    *,
    policy: Policy | None = None,
    split: str = "fit",
    tables: Tables | None = None,
) -> LinUCB:
    """Return LinUCB (DEE) that reads the vectors (hidden states) which a cache keeps, for `policyopt.runtime.Online`.

    Parameters
    ----------
    data : ExitData
        A cache with features.
    inputs : {"both", "features", "history"}
        What it looks at: both, the vectors in 32 principal components at most, or confidences and agreement.
    alpha : float
        Weight of exploration.
    policy : Policy, optional
        Whose exits are served; default all of the model's.
    split : str
        Rows that the components are learned from, without labels.
    tables : Tables, optional
        Reuse of passes already made.

    Returns
    -------
    LinUCB

    Raises
    ------
    InputError
        The rows have no features, or only one exit.

    Examples
    --------
    >>> import policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels, outputs = rng.integers(0, 3, 90), rng.normal(size=(90, 2, 3))
    >>> vectors = [rng.normal(size=(90, 4)), rng.normal(size=(90, 8))]
    >>> data = po.from_arrays(outputs, labels, [1, 4], unit="ms", features=vectors)
    >>> po.fit_linucb(data).hidden.shift.shape
    (1, 4)
    """
    check_type("data", data, ExitData, "a cache", "E.g. po.open_cache('cache/fashion_mnist').")
    if check_one_of("inputs", inputs, INPUTS, "E.g. both.") == "history":
        return LinUCB(alpha)
    table = (tables or Tables(data)).get(split)
    table = table if policy is None else table.built_for(policy)
    check_exits(table)
    table = subsample_outputs(table, 0, features=True)
    hidden = hidden_of([table.feature(k) for k in range(table.exits - 1)])
    return LinUCB(alpha, inputs, hidden)


def arms_family(
    arms: Any, method: str | Method, fit: Table | None, first: Table, seed: int
) -> PolicyFamily:  # fmt: skip
    """Return the family of a simulation's bandits; without `fit`, the rows of `first` tell what the score needs."""
    if isinstance(arms, PolicyFamily):
        return arms
    found = _arms(arms)
    if not isinstance(found, int):
        if len(found) < 2:
            step = "E.g. 0:1:0.2. A whole number counts points."
            raise input_error("arms", "at least 2 thresholds", found, step)
        return threshold_family(fit or first, found, method, seed)
    check_whole("arms", found, 1, 1000, "E.g. 11 points, or thresholds 0:1:0.2.")
    if fit is None:
        allowed = "thresholds where the cache has no split 'fit'"
        raise input_error("arms", allowed, found, "E.g. 0:1:0.2.")
    return steering_family(method, fit, found, seed)


def _arms(arms: Any) -> int | list[float]:
    """Return a number of points, or thresholds."""
    allowed = "low:high:step with low below high, thresholds, or a whole number of points"
    wrong = input_error("arms", allowed, arms, "E.g. 0:1:0.2, or 0.5,0.7,0.9, or 11.")
    arms = to_python(arms)
    if type(arms) is int:
        return arms
    try:
        if isinstance(arms, str) and ":" in arms:
            low, high, step = (float(part) for part in arms.split(":"))
            count = round((high - low) / step)
            if count < 1 or not step > 0:
                raise wrong
            check_whole("number of arms", count + 1, 1, 1000, "Take a larger step.")
            return [round(low + i * step, 10) for i in range(count + 1)]
        if isinstance(arms, str):
            return int(arms) if arms.strip().isdigit() else [float(x) for x in arms.split(",")]
        return [float(x) for x in arms]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise error if isinstance(error, InputError) else wrong from error


def steerable(method: str | Method) -> Method:
    """Return a method, or refuse one whose policies draw coins, choose exits, or take no thresholds."""
    made = make_method(method) if isinstance(method, str) else method
    check_type("method", made, Method, "a name or a Method", "E.g. max_prob.")
    if made.name in ROWS and not ROWS[made.name].online:
        raise _unsteerable(made.name)
    return made


def called(method: str | Method) -> str:
    """Return the name of a method, its settings left out."""
    if isinstance(method, str):
        return method.partition(":")[0]
    return str(getattr(method, "score", type(method).__name__))


def _unsteerable(name: str) -> InputError:
    allowed = "one that a number can steer: no coin, no exits left out"
    step = "E.g. max_prob, entropy or optimal_stopping; of routing give a family file as arms."
    return input_error("method", allowed, name, step)


def _shifted(policy: Policy, table: Table, budgets: Floats) -> list[Floats]:
    """Return a policy's thresholds, moved together until each budget is met on the rows."""
    scores, base = trace(policy, table).scores, policy.thresholds
    problem = Problem(scores, np.zeros_like(scores), table.costs + policy.overhead, table.unit)
    span = float(np.ptp(scores)) + float(np.ptp(base)) + 1.0
    return [
        meet_budget(problem, lambda t: base + t, -span, span, float(budget), start=0.0).thresholds
        for budget in budgets
    ]
