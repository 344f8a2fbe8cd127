"""Choice among simple and learned policies, per budget, by nested cross-validation (see `choosing`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._methods.choosing import (
    FEWEST_ROWS,
    MOST_COMPARED,
    Candidate,
    Choosing,
    Report,
    compare,
    fit_chosen,
    one_standard_error,
    signed,
    winners_gain,
)
from policyopt._methods.fitted import Fitted
from policyopt._methods.frugalgpt import FrugalGPT
from policyopt._methods.optimal_stopping import OptimalStopping
from policyopt._methods.settings import FOLDS, NOT_NEGATIVE
from policyopt._methods.threshold import Threshold
from policyopt._methods.validation import fit_where_possible, subsample
from policyopt._table import Table

#: From simple to complex: thresholds of one number per budget; K-1 numbers chosen by labels;
#: answers combined; a regression.
CANDIDATES: tuple[Candidate, ...] = (
    ("max_prob", Threshold("max_prob"), 0),
    ("margin", Threshold("margin"), 0),
    ("entropy", Threshold("entropy"), 0),
    ("max_prob:thresholds=joint", Threshold("max_prob", "joint"), 1),
    ("margin:answer=combined", Threshold("margin", answer="combined"), 2),
    ("optimal_stopping", OptimalStopping(), 3),
)
#: A cascade may also jump models, which can be worth more than any rule of when to stop.
FOR_CASCADES: tuple[Candidate, ...] = (("frugalgpt", FrugalGPT(), 2),)


def _of_the_users_own() -> tuple[Candidate, ...]:
    """Return what was registered from outside: static scores stand beside joint thresholds, others last."""
    from policyopt._methods.registry import OWN_FAMILY, ROWS, load_installed

    load_installed()
    own = [row for row in ROWS.values() if row.family == OWN_FAMILY and not row.trains]
    made = [(row.name, row.load()(**row.preset, **row.defaults)) for row in own]
    made = [(name, method) for name, method in made if not isinstance(method, Choosing)]
    return tuple((name, method, 3 if method.learned else 1) for name, method in made)


@dataclass(frozen=True)
class Auto(Choosing):
    """The best of simple and learned policies at each budget, the simpler one where in doubt.

    Where the cache is a cascade (costs given per model), lists of models compete too.

    Parameters
    ----------
    folds : int
        Of the outer cross-validation.
    errors : float
        How many standard errors a simpler policy may stand below the best one.
    """

    folds: int = 5
    errors: float = 1.0

    label = "auto"
    allowed: ClassVar = {"folds": FOLDS, "errors": NOT_NEGATIVE}

    def choose(
        self, table: Table, budgets: Sequence[float], seed: int, validate: bool
    ) -> list[Fitted]:
        """Choose among candidates by name; see `Choosing`."""
        every = CANDIDATES + (FOR_CASCADES if table.cascade else ()) + _of_the_users_own()
        candidates = [row for row in every if not row[1].lacks(table)]
        labels = table.statistics.labels
        known = table if labels is None else table.take(np.flatnonzero(labels >= 0))
        if not len(known):
            _ = table.correct  # says what is missing
        # Whatever refuses the rows or a budget does so here, by name, before the long work.
        candidates[0][1].propose(known, budgets, seed)
        choices: list[tuple[int, Report, float]] = [(0, [], 0.0)] * len(budgets)
        if len(known) >= FEWEST_ROWS and len(candidates) > 1:
            choices = self._choose(known, candidates, budgets, seed)

        def fit(best: int, wanted: list[float]) -> list[Fitted | None]:
            method = candidates[best][1]
            rows = table if isinstance(method, OptimalStopping) else known
            return fit_where_possible(method, rows, wanted, seed, validate=validate)

        # The simplest can meet all budgets: see above.
        found = fit_chosen([(best, 0) for best, _, _ in choices], fit, budgets)
        return [
            signed(one, self, candidates[best][0], report, gain)
            for (best, one), (_, report, gain) in zip(found, choices, strict=True)
            if one is not None
        ]

    def _choose(
        self, table: Table, candidates: list[Candidate], budgets: Sequence[float], seed: int
    ) -> list[tuple[int, Report, float]]:
        """Return, per budget, the chosen candidate, what the comparison found, and the winner's gain."""
        found = compare(
            subsample(table, MOST_COMPARED, seed), candidates, budgets, self.folds, seed
        )
        choices = []
        for j, values in enumerate(found.values):
            chosen, report = one_standard_error(values, candidates, self.errors)
            gain = winners_gain(values, candidates, self.errors, seed)
            choices.append((found.plain(j, chosen, candidates, self.errors), report, gain))
        return choices
