"""Choice among simple and learned policies, per budget, by nested cross-validation (see `choosing`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policyopt.methods.base import Fitted, fit_where_possible
from policyopt.methods.choosing import (
    FEWEST_ROWS,
    Candidate,
    Choosing,
    Report,
    compare,
    one_standard_error,
    signed,
    thinned_to_compare,
    winners_gain,
)  # fmt: skip
from policyopt.methods.frugalgpt import FrugalGPT
from policyopt.methods.optimal_stopping import OptimalStopping
from policyopt.methods.settings import check_number
from policyopt.methods.threshold import Threshold
from policyopt.runtime.typing import Floats
from policyopt.table import Table

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

    Examples
    --------
    >>> Auto()
    Auto(folds=5, errors=1.0)
    """

    folds: int = 5
    errors: float = 1.0

    def __post_init__(self) -> None:
        check_number("folds", self.folds, above=1, most=100, whole=True)
        check_number("errors", self.errors)

    def choose(
        self, table: Table, budgets: Sequence[float], seed: int, validate: bool
    ) -> list[Fitted]:
        """Choose among candidates by name; see `Choosing`."""
        every = CANDIDATES + (FOR_CASCADES if table.cascade else ())
        candidates = [row for row in every if not row[1].lacks(table)]
        labels = table.statistics.labels
        known = table if labels is None else table.take(np.flatnonzero(labels >= 0))
        if not len(known):
            _ = table.correct  # says what is missing
        # Whatever refuses the rows or a budget does so here, by name, before the long work.
        candidates[0][1].propose(known, budgets, seed)
        if len(known) < FEWEST_ROWS or len(candidates) == 1:
            choices: list[tuple[int, Report, float]] = [(0, [], 0.0)] * len(budgets)
        else:
            choices = self._choose(known, candidates, budgets, seed)
        fitted: list[Fitted | None] = [None] * len(budgets)
        for best in {
            choice[0] for choice in choices
        }:  # each chosen method once, for all its budgets
            name, method, _ = candidates[best]
            rows = table if isinstance(method, OptimalStopping) else known
            places = [i for i, choice in enumerate(choices) if choice[0] == best]
            wanted = [budgets[i] for i in places]
            path = fit_where_possible(method, rows, wanted, seed, validate=validate)
            for i, one in zip(places, path, strict=True):
                said, by = one, name
                if said is None:  # affordable on every fold and by a hair not on all rows
                    by, simplest, _ = candidates[0]
                    (said,) = fit_where_possible(
                        simplest, known, [budgets[i]], seed, validate=validate
                    )
                assert said is not None  # the simplest can meet all budgets: see above
                fitted[i] = signed(said, self, "auto", by, *choices[i][1:])
        return [one for one in fitted if one is not None]

    def _choose(
        self, table: Table, candidates: list[Candidate], budgets: Sequence[float], seed: int
    ) -> list[tuple[int, Report, float]]:
        """Return, per budget, the chosen candidate, what the comparison found, and the winner's gain."""
        rows = thinned_to_compare(table, seed)
        found = compare(rows, candidates, budgets, self.folds, seed)
        choices = []
        for j, values in enumerate(found.values):
            chosen, report = self._rule(values, candidates)
            gain = winners_gain(values, candidates, self.errors, seed)
            choices.append((found.plain(j, chosen, candidates, self.errors), report, gain))
        return choices

    def _rule(self, values: Floats, candidates: list[Candidate]) -> tuple[int, Report]:
        """One-standard-error rule on values (M, N) of M candidates."""
        return one_standard_error(values, candidates, self.errors)
