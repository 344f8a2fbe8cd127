"""PF-BERxiT's flexible exiting: Gao et al., Neurocomputing 558 (2023) 126690.

A sample leaves where the distance between adjacent exits' class distributions has been under a
threshold for a set number of exits in a row; both the threshold and that patience move with the
load (abstract). Distances are the Kullback-Leibler divergence (``kl``, with ``bikl`` the best of
their ablation), its reverse (``rekl``) or their sum (``bikl``). The same first author's code of F-PABEE (ICASSP
2023, arXiv:2305.11916), which uses the same names, computes cross-entropies, ``-sum p log q``: these
are ``kd``, ``rekd``, ``bikd``, ``jskd``.

Departures: threshold and patience are found for the budget, thresholds by default one per exit,
where the paper tries values of one threshold; each sample has its own counter; an exit is compared
with the one before it (F-PABEE's code runs the layer after it to compare with, and does not count
its cost). The parallel adapters, the paper's other half, belong to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from policyopt.methods.base import Fitted, fit_where_possible
from policyopt.methods.similarity import SimilarityThreshold
from policyopt.table import Table

#: More patience than this leaves too few exits to choose from.
_MOST_PATIENCE = 6


@dataclass(frozen=True)
class PfBerxit(SimilarityThreshold):
    """Leave where adjacent exits' distributions have been alike for some exits in a row.

    Parameters
    ----------
    score, thresholds, mix, answer, calibrator, measure
        As of `SimilarityThreshold`.
    patience : int, optional
        Default: for each budget the one of 1 to 6 that is most accurate on the rows of the fit.

    Examples
    --------
    >>> PfBerxit().measure, PfBerxit().patience
    ('kl', None)
    """

    score: str = "similarity"
    thresholds: str | tuple[float, ...] = "joint"
    patience: int | None = None

    @property
    def name(self) -> str:
        """Name of the method."""
        return "pf_berxit"

    def labelled(self) -> bool:
        """Choosing a patience looks at what is right."""
        return self.patience is None or super().labelled()

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Choose thresholds, and the patience, for each budget; see `Method.propose`."""
        if self.patience is not None:
            return super().propose(table, budgets, seed)
        most = max(min(table.exits - 2, _MOST_PATIENCE), 1)  # the last exit always stops
        self._check(table)
        _ = table.correct  # says what is missing: quotas alone would do without
        # The least patient is the cheapest: it refuses what none can meet.
        first = replace(self, patience=1).propose(table, budgets, seed)
        others = [
            fit_where_possible(replace(self, patience=p), table, budgets, seed, validate=False)
            for p in range(2, most + 1)
        ]
        # The first of equals: the least patient.
        return [
            max((one for one in same if one is not None), key=lambda fitted: fitted.accuracy)
            for same in zip(first, *others, strict=True)
        ]
