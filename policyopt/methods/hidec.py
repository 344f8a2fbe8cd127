"""HiDEC: Ilhan et al., WWW 2023 Companion, 10.1145/3543873.3587370: dual thresholds between tiers.

Exits lie on tiers: device, edge, cloud. On a tier easy samples leave where the score reaches an upper
threshold. At its last exit, before what is left is sent up, hopeless samples leave as well: those whose
score is under a lower threshold, which the next tier is not expected to help.

This is `window` with windows at the boundaries only and plain thresholds elsewhere, all found together.
Departures: of the four pages only the abstract could be read, so both thresholds come from our search on
the Lagrangian of accuracy and cost rather than from their scheduler's latencies (whose place the cost
takes), and the score is the confidence, not a learned one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from policyopt.methods.space import Choice, Domain
from policyopt.methods.window import Window
from policyopt.runtime.errors import input_error
from policyopt.table import Table


@dataclass(frozen=True)
class Hidec(Window):
    """Leave where sure, and at a tier's boundary also where hopeless.

    Parameters
    ----------
    answer : str
        As of `Window`.
    boundary : int or sequence of int, optional
        Last exits of tiers. Default: the exit before the greatest step of cost.

    Examples
    --------
    >>> Hidec(boundary=1)
    Hidec(answer='plain', boundary=1)
    """

    boundary: int | tuple[float, ...] | None = None

    label = "hidec"

    def __post_init__(self) -> None:
        super().__post_init__()
        for k in () if self.boundary is None else np.atleast_1d(np.asarray(self.boundary)):
            if isinstance(self.boundary, bool) or not np.issubdtype(type(k), np.number) or k % 1:
                raise input_error(
                    "boundary", "exit numbers", self.boundary, "E.g. --set boundary=1."
                )

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {"answer": Choice(("plain", "combined"))}

    def closed(self, table: Table) -> Collection[int]:
        """Return the last exits of tiers."""
        if self.boundary is None:
            return {int(np.argmax(np.diff(table.mean_costs)))} if table.exits > 1 else set()
        chosen = {int(k) for k in np.atleast_1d(np.asarray(self.boundary))}
        if not chosen <= set(range(table.exits - 1)):
            raise input_error(
                "boundary", f"in 0..{table.exits - 2}: the last exit ends the last tier",
                self.boundary, "E.g. --set boundary=0.",
            )  # fmt: skip
        return chosen
