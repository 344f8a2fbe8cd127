"""Which exits to keep, per budget: a cascade may jump a model, and so pay only for those worth asking.

Bouchard, Is escalation worth it?, 2026, arXiv:2605.06350: fixed chains of all models fall below the best
pair of two at each budget, so subsets should be tried, and longer ones have to earn their place on rows
that did not choose them; FrugalGPT (arXiv:2305.05176, section 3) chooses a list for the same reason.

An inner method is fitted on each subset of exits and compared with the others by cross-validation
(`choosing`), all subsets where exits are few. Where they are many: all pairs and single exits, then the
best at each budget enlarged by one exit at a time for as long as that helps some budget. The full set
is left only where a subset is better by more than a standard error (``towards="full"``), or the
smallest set within one is taken (``towards="few"``: fewer models to keep in memory).

Departures from 2605.06350: its pairs are compared on their empirical frontiers with one held-out split;
here every budget has its own choice, by nested folds, and subsets of any size compete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

import numpy as np

from policyopt._methods.base import Method, check_budgets
from policyopt._methods.baselines import Always, standalone
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
from policyopt._methods.registry import make_method
from policyopt._methods.settings import FOLDS, NOT_NEGATIVE, Choice, Number
from policyopt._methods.validation import cheapest, fit_where_possible, subsample
from policyopt._table import Table
from policyopt.runtime._errors import BudgetError, input_error
from policyopt.runtime._typing import Floats

_REPORTED = 8  # subsets that the provenance tells of, the best first
_FEW = 6  # exits up to here have all their subsets tried: 63 of them


@dataclass(frozen=True)
class Subset(Choosing):
    """The exits worth keeping at each budget, and a method on them.

    Parameters
    ----------
    inner : str
        Spec of the inner method, e.g. ``max_prob:thresholds=joint``.
    most : int, optional
        Largest number of exits kept; default all.
    towards : {"full", "few"}
        What is taken in doubt: all exits, or as few as may be.
    folds : int
        Of the cross-validation.
    errors : float
        How many standard errors that may stand below the best subset.
    """

    inner: str = "max_prob"
    most: int | None = None
    towards: str = "full"
    folds: int = 5
    errors: float = 1.0

    label = "subset"
    allowed: ClassVar = {
        "most": Number(above=0, whole=True, optional=True),
        "towards": ("full", "few"),
        "folds": FOLDS,
        "errors": NOT_NEGATIVE,
    }
    tuned: ClassVar = {
        "inner": Choice(("max_prob", "max_prob:thresholds=joint", "optimal_stopping")),
        "towards": Choice(("full", "few")),
    }
    decides = True

    def __post_init__(self) -> None:
        if not isinstance(self.inner, str) or self.inner.partition(":")[0] == "subset":
            step = "E.g. inner=max_prob."
            raise input_error("inner", "the name of another method", self.inner, step)
        make_method(self.inner)  # refuses what does not exist, by name
        super().__post_init__()

    def needs(self) -> frozenset[str]:
        """Return what the inner method needs."""
        return make_method(self.inner).needs()

    def lacks(self, table: Table) -> list[str]:
        """Return what the inner method lacks."""
        return make_method(self.inner).lacks(table)

    def choose(
        self, table: Table, budgets: Sequence[float], seed: int, validate: bool
    ) -> list[Fitted]:
        """Choose among subsets of exits; see `Choosing`."""
        self.check(table)
        check_budgets(table, budgets)
        labels = table.statistics.labels
        known = table if labels is None else table.take(np.flatnonzero(labels >= 0))
        _ = (known if len(known) else table).correct  # says what is missing
        choices = self._choose(known, budgets, seed)

        def fit(kept: tuple[int, ...], wanted: list[float]) -> list[Fitted | None]:
            method = OnExits(kept, make_method(self.inner))
            return fit_where_possible(method, known, wanted, seed, validate=validate)

        found = fit_chosen([ways for ways, _, _ in choices], fit, budgets)
        return [
            self._signed(one, budget, table, report, gain)
            for (_, one), budget, (_, report, gain) in zip(found, budgets, choices, strict=True)
        ]

    def _choose(
        self, table: Table, budgets: Sequence[float], seed: int
    ) -> list[tuple[list[tuple[int, ...]], Report, float]]:
        """Return, per budget, the subsets to try in turn, the chosen first, the comparison, and the gain."""
        exits = table.exits
        most = min(self.most or exits, exits)
        # Where nothing can be compared or afforded: all exits, else the cheapest by itself.
        own = np.diff(table.mean_costs, prepend=0.0) if table.cascade else table.mean_costs
        last = [tuple(range(exits))] * (most == exits) + [(int(own.argmin()),)]
        if len(table) < FEWEST_ROWS:
            return [(last, [], 0.0)] * len(budgets)
        rows = subsample(table, MOST_COMPARED, seed)
        tried = list(first_subsets(exits, most))
        values = self._values(rows, tried, budgets, seed)
        while True:
            more = self._larger(tried, values, exits, most)
            if not more:
                break
            better = values.mean(axis=2).max(axis=1)
            found = self._values(rows, more, budgets, seed)
            tried, values = [*tried, *more], np.concatenate([values, found], axis=1)
            if (found.mean(axis=2).max(axis=1) <= better).all():
                break
        candidates = self._candidates(tried, exits)
        choices = []
        for j in range(len(budgets)):
            if not np.isfinite(values[j]).all(axis=1).any():
                choices.append((last, [], 0.0))
                continue
            chosen, report = one_standard_error(values[j], candidates, self.errors)
            report.sort(key=lambda entry: entry["behind_best"])
            gain = winners_gain(values[j], candidates, self.errors, seed)
            choices.append(([tried[chosen], *last], report[:_REPORTED], gain))
        return choices

    def _larger(
        self, tried: list[tuple[int, ...]], values: Floats, exits: int, most: int
    ) -> list[tuple[int, ...]]:
        """Return the best subset at each budget enlarged by one exit, those not tried yet."""
        if exits <= _FEW:
            return []
        best = {tried[i] for i in values.mean(axis=2).argmax(axis=1)}
        more = {tuple(sorted({*kept, k})) for kept in best for k in range(exits)}
        return sorted(kept for kept in more - set(tried) if len(kept) <= most)

    def _values(
        self, table: Table, tried: list[tuple[int, ...]], budgets: Sequence[float], seed: int
    ) -> Floats:
        candidates = self._candidates(tried, table.exits)
        return compare(table, candidates, budgets, self.folds, seed, cheapest).values

    def _candidates(self, tried: list[tuple[int, ...]], exits: int) -> list[Candidate]:
        inner = make_method(self.inner)
        full = self.towards == "full"
        return [
            (f"{self.inner} on exits {', '.join(map(str, kept))}", OnExits(kept, inner),
             int(len(kept) < exits) if full else len(kept))
            for kept in tried
        ]  # fmt: skip

    def _signed(
        self, one: Fitted | None, budget: float, table: Table, report: Report, gain: float
    ) -> Fitted:
        """Return the fit under this method's name and at the budget asked for."""
        if one is None:
            raise BudgetError(
                f"No subset of the exits costs {budget:.6g} {table.unit} or less on these rows, the "
                "policy's own arithmetic included. Raise the budget."
            )
        name = f"{self.inner} on exits {', '.join(map(str, one.policy.path))}"
        found = signed(one, self, name, report, gain)
        provenance = {**found.policy.provenance, "budget": float(budget)}
        return replace(found, budget=budget, policy=replace(found.policy, provenance=provenance))


def subsets(exits: int, most: int) -> list[tuple[int, ...]]:
    """Return all subsets of up to `most` exits, smallest first."""
    return [kept for size in range(1, most + 1) for kept in combinations(range(exits), size)]


def first_subsets(exits: int, most: int) -> list[tuple[int, ...]]:
    """Return the subsets to begin with: all where they are few, else single exits, pairs and the whole."""
    if exits <= _FEW:
        return subsets(exits, most)
    whole = [tuple(range(exits))] if most == exits else []
    return [*subsets(exits, min(most, 2)), *whole]


@dataclass(frozen=True)
class OnExits(Method):
    """A method on some exits (places, ascending) only, which costs no more than what they allow."""

    kept: tuple[int, ...]
    inner: Method

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Fit the inner method; a budget above what these exits can cost is lowered to that."""
        small = table.keep_exits([table.path[k] for k in self.kept])
        most = float(small.mean_costs[-1])
        lowered = [min(float(budget), most) for budget in budgets]
        if small.exits > 1:
            once = sorted(set(lowered))
            path = dict(zip(once, self.inner.propose(small, once, seed), strict=True))
            return [path[budget] for budget in lowered]
        return [standalone(Always(0), table, self.kept[0], budget, seed) for budget in lowered]
