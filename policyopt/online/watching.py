"""The drift watch of a policy, its reference read off the rows of a table."""

from __future__ import annotations

from typing import Any

from policyopt.runtime.checks import check_type
from policyopt.runtime.drift import DriftWatch
from policyopt.runtime.experts import policy_of
from policyopt.table import Table
from policyopt.trace import trace


def watch_policy(
    policy: Any,
    table: Table,
    run_length: int = 100_000,
    *,
    steered: bool = False,
    bins: int = 32,
    seed: int = 0,
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
    bins, seed : int
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
    >>> from policyopt.table import Tables
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 2000)
    >>> logits = rng.normal(size=(2000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> shares = {"fit": 0.25, "calibrate": 0.5, "test": 0.25}
    >>> tables = Tables(po.from_arrays(logits, labels, costs=[1, 4], unit="ms", split=shares))
    >>> policy = po.fit(tables.data, 2.0, "max_prob", tables=tables).policy
    >>> watch = watch_policy(policy, tables.get("calibrate"))
    >>> seen = trace(policy, tables.get("test"))
    >>> watch.update_batch(seen.scores, seen.predictions[:, 0], seen.exit) is None
    True
    """
    policy = policy_of(policy, single=True)
    check_type("table", table, Table, "a Table", "E.g. Tables(data).get('calibrate').")
    seen = trace(policy, table)
    return DriftWatch.fit(
        seen.scores, seen.predictions[:, 0], seen.exit, classes=policy.classes,
        path=policy.path, run_length=run_length, steered=steered, bins=bins, seed=seed,
    )  # fmt: skip
