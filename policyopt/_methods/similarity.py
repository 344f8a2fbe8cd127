"""Thresholds on how alike adjacent exits' class distributions are: PF-BERxiT and LeCo.

PF-BERxiT: Gao et al., Neurocomputing 558 (2023) 126690. A sample leaves where the distance between adjacent
exits' class distributions has been under a threshold for a set number of exits in a row; both the threshold and
that patience move with the load (abstract). Distances are the Kullback-Leibler divergence (``kl``, with ``bikl``
the best of their ablation), its reverse (``rekl``) or their sum (``bikl``). The same first author's code of
F-PABEE (ICASSP 2023, arXiv:2305.11916), which uses the same names, computes cross-entropies, ``-sum p log q``:
these are ``kd``, ``rekd``, ``bikd``, ``jskd``.

LeCo's comparison-based exiting (COBEE): Zhang et al., ACL 2023 student research workshop, section 3. An exit
compares its class distribution with that of the exit before it, and the sample leaves where the two differ by
less than a threshold: agreement as in PABEE, but soft, so that the threshold, and not only a whole number of
exits, sets the speed.

Departures: threshold and patience are found for the budget, thresholds by default one per exit, where the papers
try values of one threshold; each sample has its own counter; an exit is compared with the one before it
(F-PABEE's code runs the layer after it to compare with, and does not count its cost). The text of LeCo beyond
its abstract was not at hand: measure and patience are settings, by default the Jensen-Shannon divergence of two
adjacent exits. The other halves of the papers, parallel adapters and learned exits, belong to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from policyopt._methods.fitted import Fitted
from policyopt._methods.settings import Choice, Integer, Number
from policyopt._methods.threshold import Threshold
from policyopt._methods.validation import fit_where_possible
from policyopt._table import Table
from policyopt.runtime._scores import ScoreRule, Similarity
from policyopt.runtime._scores.consistency import MEASURES

#: More patience than this leaves too few exits to choose from.
_MOST_PATIENCE = 6


@dataclass(frozen=True)
class SimilarityThreshold(Threshold):
    """Leave where the last `patience` distances between adjacent exits are all small.

    Parameters
    ----------
    score, thresholds, mix, answer, shared_map
        As of `Threshold`.
    measure : str
        ``kl`` (from the earlier exit to the later), ``rekl`` (the other way), ``bikl`` (their sum),
        ``js``; or ``kd``, ``rekd``, ``bikd``, ``jskd``: the same with cross-entropies.
    patience : int
        How many distances in a row, 1 or more.
    """

    score: str = "similarity"
    thresholds: str | tuple[float, ...] = "joint"
    measure: str = "kl"
    patience: int | None = 1

    allowed: ClassVar = {
        "measure": tuple(MEASURES),
        "patience": Number(above=0, whole=True, most=1000, optional=True),
    }
    tuned: ClassVar = {"measure": Choice(tuple(MEASURES)), "patience": Integer(1, 3)}

    def rule(self, table: Table, seed: int) -> ScoreRule:
        """Return the score rule."""
        return Similarity(self.measure, self.patience or 1)


@dataclass(frozen=True)
class LeCo(SimilarityThreshold):
    """Leave where adjacent exits' distributions hardly differ.

    Parameters as of `SimilarityThreshold`. Nothing can be compared at exit 0: budgets below what
    exit 1 costs are met by mixing.
    """

    measure: str = "js"

    label = "leco"


@dataclass(frozen=True)
class PFBERxiT(SimilarityThreshold):
    """Leave where adjacent exits' distributions have been alike for some exits in a row.

    Parameters
    ----------
    score, thresholds, mix, answer, shared_map, measure
        As of `SimilarityThreshold`.
    patience : int, optional
        Default: for each budget the one of 1 to 6 that is most accurate on the rows of the fit.
    """

    patience: int | None = None

    label = "pf_berxit"

    def labelled(self) -> bool:
        """Choosing a patience looks at what is right."""
        return self.patience is None or super().labelled()

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Choose thresholds, and the patience, for each budget; see `Method.propose`."""
        if self.patience is not None:
            return super().propose(table, budgets, seed)
        most = max(min(table.exits - 2, _MOST_PATIENCE), 1)  # the last exit always stops
        self.check(table)
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
