"""Costs: units, cumulative and standalone, per exit and per sample.

Inside policyopt a cost is always **cumulative**: ``c[k]`` is what a sample that leaves at
exit k has paid in all. Standalone costs (each model of a cascade alone) are summed once,
on the way in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policyopt.runtime.checks import MAX_COST, MAX_NAME, check_text
from policyopt.runtime.errors import InputError, input_error

KINDS = ("cumulative", "standalone")
#: Of the last exit; the inverse of its square is a number too.
MIN_COST = 1e-100
MAX_BUDGETS = 10_000


@dataclass(frozen=True)
class Cost:
    """Cost per exit, or the name and unit of a cost that is given per sample.

    Parameters
    ----------
    name : str
        What the user calls it, e.g. ``"compute"`` or ``"latency"``.
    unit : str
        Unit of every number, e.g. ``"ms"``, ``"MMACs"``, ``"USD"``.
    values : sequence of K floats or None
        Cost per exit in `unit`; None when the cost is given per sample with the rows.
    kind : {"cumulative", "standalone"}, default "cumulative"
        Whether a value holds all that was paid up to that exit, or that exit alone.
    cascade : bool, default False
        Whether an exit that is skipped costs nothing: each cost is known alone, as those of the
        models of a cascade are. True wherever costs were given as standalone.

    Raises
    ------
    InputError
        A value is negative or not finite, or cumulative values decrease.

    Examples
    --------
    >>> cost = Cost("compute", "MFLOPs", [1, 2, 4], kind="standalone")
    >>> cost.values, cost.cascade
    ((1.0, 3.0, 7.0), True)
    """

    name: str
    unit: str
    values: tuple[float, ...] | None
    kind: str = "cumulative"
    cascade: bool = False

    def __post_init__(self) -> None:
        check_text("cost name", self.name, MAX_NAME, "Name it, e.g. compute.")
        check_text("cost unit", self.unit, step="E.g. ms, MMACs, USD.")
        if self.kind not in KINDS:
            raise input_error("cost kind", f"one of {', '.join(KINDS)}", self.kind, "Choose one.")
        if self.values is not None:
            try:
                row = np.asarray(self.values, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise input_error(
                    self.name, "one number per exit", self.values, "E.g. 1,2,4."
                ) from error
            if row.ndim != 1 or not row.size:
                raise input_error(self.name, "of shape (K,)", f"shape {row.shape}", "One per exit.")
            values = cumulative(row[None, :], self.kind, self.name)
            if values[0, -1] < MIN_COST:
                allowed = f"more than 0 at the last exit ({MIN_COST:g} at least)"
                got = f"{values[0, -1]:g}"
                raise input_error(
                    self.name, allowed, got, "A budget needs a cost; choose another unit."
                )
            object.__setattr__(self, "values", tuple(float(v) for v in values[0]))
        if not isinstance(self.cascade, bool):
            raise input_error(
                "cascade", "True or False", self.cascade, "Whether skipped exits are free."
            )
        object.__setattr__(self, "cascade", self.cascade or self.kind == "standalone")
        # From here on the values are cumulative, whatever they were given as.
        object.__setattr__(self, "kind", "cumulative")

    @property
    def per_sample(self) -> bool:
        """Whether each sample has costs of its own."""
        return self.values is None


def cumulative(
    costs: npt.NDArray[np.float64], kind: str, name: str = "costs", first_row: int = 0
) -> npt.NDArray[np.float64]:
    """Return costs as cumulative, checked.

    Parameters
    ----------
    costs : ndarray of shape (N, K)
        One row per sample (one row in all where the cost is per exit).
    kind : {"cumulative", "standalone"}
        How `costs` is given.
    name : str
        Name used in errors.
    first_row : int, default 0
        Number of the first row, used in errors.

    Returns
    -------
    ndarray of shape (N, K), float64

    Raises
    ------
    InputError
        Not finite, negative, above `MAX_COST`, or decreasing from one exit to the next.

    Examples
    --------
    >>> cumulative(np.array([[1.0, 2.0, 4.0]]), "standalone")
    array([[1., 3., 7.]])
    """
    if kind not in KINDS:
        raise input_error("cost kind", f"one of {', '.join(KINDS)}", kind, "Choose one.")
    costs = np.asarray(costs, dtype=np.float64)
    if costs.ndim != 2 or costs.shape[1] == 0:
        shape = f"shape {costs.shape}"
        raise input_error(name, "of shape (K,) or (N, K)", shape, "Give one cost per exit.")

    def place(row: int, exit_: int) -> str:
        return f"exit {exit_}" + (f" of row {first_row + row}" if len(costs) > 1 else "")

    if not np.isfinite(costs).all():
        row, exit_ = np.argwhere(~np.isfinite(costs))[0]
        got = f"{costs[row, exit_]} at {place(row, exit_)}"
        raise input_error(name, "finite", got, "Mend or drop that cost.")
    if (costs < 0).any():
        row, exit_ = np.argwhere(costs < 0)[0]
        got = f"{costs[row, exit_]:g} at {place(row, exit_)}"
        raise input_error(name, "0 or more", got, "Mend that cost, or leave it out.")
    with np.errstate(over="ignore"):  # too much all the same
        whole = np.cumsum(costs, axis=1) if kind == "standalone" else costs
    if (whole > MAX_COST).any():
        row, exit_ = np.argwhere(whole > MAX_COST)[0]
        got = f"{whole[row, exit_]:g} at {place(row, exit_)}"
        raise input_error(name, f"at most {MAX_COST:g}", got, "Mend it, or choose a larger unit.")
    if kind == "standalone":
        return whole
    falls = np.argwhere(np.diff(costs, axis=1) < 0)
    if falls.size:
        row, exit_ = falls[0]
        raise InputError(
            f"'{name}' must not decrease from exit to exit when cumulative. "
            f"Got {costs[row, exit_]:g} at {place(row, exit_)} and then "
            f"{costs[row, exit_ + 1]:g} at exit {exit_ + 1}. If each is the cost of that "
            "exit alone, say --cost-kind standalone (Python: kind='standalone', or "
            "cost_kind='standalone')."
        )
    return costs


def kept_costs(
    costs: npt.NDArray[np.float64], kept: Sequence[int], cascade: bool
) -> npt.NDArray[np.float64]:
    """Return cumulative costs where only some exits are run.

    Parameters
    ----------
    costs : ndarray of shape (K,) or (N, K)
        Cumulative, all exits run.
    kept : sequence of int
        Exits that are run, ascending.
    cascade : bool
        Whether a skipped exit's own cost is saved. Else it is paid all the same: where its head
        ends and the backbone goes on is not known.

    Returns
    -------
    ndarray of shape (len(kept),) or (N, len(kept))

    Examples
    --------
    >>> kept_costs(np.array([1.0, 3.0, 7.0]), [0, 2], cascade=True)
    array([1., 5.])
    >>> kept_costs(np.array([1.0, 3.0, 7.0]), [0, 2], cascade=False)
    array([1., 7.])
    """
    at = list(kept)
    if not cascade:
        return costs[..., at]
    alone = np.diff(costs, axis=-1, prepend=0.0)
    return np.cumsum(alone[..., at], axis=-1)


def positions(costs: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """Return `count` budgets at even positions between exit 0 and exit K-1.

    Position p in (0, 1) stands p of the way from exit 0 to exit K-1 *by exit index*, the cost
    interpolated between neighbouring exits, since costs are often geometric.

    Parameters
    ----------
    costs : ndarray of shape (K,)
        Mean cumulative cost per exit.
    count : int
        Number of budgets; position i of n is ``i / (n + 1)``.

    Returns
    -------
    ndarray of shape (count,)

    Examples
    --------
    >>> positions(np.array([1.0, 2.0, 6.0]), 3)
    array([1.5, 2. , 4. ])
    """
    if not 1 <= count <= MAX_BUDGETS:
        raise input_error(
            "budgets",
            f"a positive number of budgets, at most {MAX_BUDGETS}",
            count,
            "E.g. --budgets 9.",
        )
    share = np.arange(1, count + 1) / (count + 1)
    return np.interp(share * (len(costs) - 1), np.arange(len(costs)), costs)
