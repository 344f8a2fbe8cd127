"""The search itself: trials asked of Optuna, judged by cross-validation, told back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from policyopt.budgets import Budget
from policyopt.cache.data import ExitData
from policyopt.runtime.checks import check_seed
from policyopt.runtime.errors import input_error
from policyopt.table import Table, Tables
from policyopt.tuning.objective import Objective, fold_rows
from policyopt.tuning.result import Tuned, conclude
from policyopt.tuning.search import make_search
from policyopt.tuning.storage import kept_open, make_pruner, open_study, quiet, study_name
from policyopt.tuning.trials import Run, counted, records


def tune(
    data: ExitData,
    method: str,
    settings: Mapping[str, Any] | None = None,
    *,
    objective: str = "area",
    budget: Budget | None = None,
    budgets: int | str | Sequence[Budget] = 5,
    trials: int = 30,
    folds: int = 5,
    timeout: float | None = None,
    storage: str | None = None,
    cost: str | None = None,
    seed: int = 0,
    tables: Tables | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Tuned:
    """Search a method's settings on split `fit`, by cross-validation; test rows are not touched.

    The first trial is the method's default, so the best is never worse than it on these folds.

    Parameters
    ----------
    data : ExitData
    method : str
        A name of the registry, perhaps with settings (``"max_prob:mix=false"``): those are fixed.
    settings : mapping, optional
        More settings that every trial has.
    objective : {"area", "accuracy"}
        Area under the accuracy-cost curve, or accuracy at `budget`; both at equal realised cost
        (see `policyopt.tuning.objective`).
    budget : float or str, optional
        For ``accuracy``.
    budgets : int, str or sequence
        For ``area``: where each frontier is fitted.
    trials : int
        In all: a study found in the storage goes on until it has as many. Several processes may
        work on one storage; then each may add one more.
    folds : int
    timeout : float, optional
        Seconds after which no further trial starts.
    storage : str, optional
        Any storage URL of Optuna; default in memory, lost at the end.
    cost : str, optional
        Name of the cost; default the cache's first.
    seed : int
        Of the folds, the fits and the search: same seed, same trials.
    tables : Tables, optional
        Reuse of passes already made.
    progress : callable, optional
        Called with (trials done, in all, what).

    Returns
    -------
    Tuned

    Raises
    ------
    InputError
        Nothing to tune, another study's storage, no labels, or no trial could be completed.
    BudgetError
        A budget that no policy can meet.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 600)
    >>> logits = rng.normal(size=(600, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> po.tune(data, "always")
    Traceback (most recent call last):
    policyopt.runtime.errors.InputError: 'method' must be one with settings to tune: ...
    """
    started = time.monotonic()
    for name, value in (("trials", trials), ("seconds of timeout", timeout)):
        if value is not None and not value > 0:
            raise input_error(name, "more than 0", value, "E.g. --trials 30.")
    search = make_search(method, settings)
    aim = Objective(objective, budget, budgets)
    seed = check_seed(seed)
    tables = tables or Tables(data, cost)
    table = tables.get("fit")
    _check(table, aim, folds, seed)
    plan = {
        "method": search.method, "objective": objective, "cost": table.cost_name, "rows": len(table),
        "budgets": [float(b) for b in aim.wanted(table.mean_costs)], "budget": budget,
        "folds": folds, "seed": seed, "fixed": dict(search.fixed),
        "space": {name: repr(domain) for name, domain in search.domains.items()},
    }  # fmt: skip
    name = study_name(search.method, objective, table.cache, plan)
    with quiet(), kept_open(storage):
        study = open_study(storage, name, plan, make_pruner())
        run = Run(study, search, table, aim, folds, seed)
        while not run.exhausted():
            done = len(counted(study))
            if progress:
                progress(min(done, trials), trials, run.standing())
            enough = done >= trials and run.default_done()
            late = timeout is not None and done and time.monotonic() - started > timeout
            if enough or late:
                break
            run.trial(trials)
        return conclude(
            records(study), search.method, objective, search.fixed, search.default, name,
            run.exhausted(),
        )  # fmt: skip


def _check(table: Table, aim: Objective, folds: int, seed: int) -> None:
    """Refuse what would make every trial fail, before the first one."""
    fold_rows(len(table), folds, seed)
    _ = table.correct  # needs a label for every row
    aim.check(table)
