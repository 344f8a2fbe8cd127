"""Choice among policies per budget by nested cross-validation: `auto`, and `subset` of exits.

Each fold is left out in turn; every candidate is fitted on the other folds, its own inner cross-fitting included,
and replayed on the one left out. A candidate's value on a row is its correctness less the price of what it spends
beyond what it was to cost (or plus that of what it saves), so that none wins by overspending. The least complex
candidate whose mean value is within one standard error (of the paired difference, over rows) of the best is
chosen: the one-standard-error rule of Breiman et al., CART, 1984, section 3.4.3. Of one complexity the means
decide. A candidate whose scores are flat (`policyopt._thresholds.degenerate_scores`) stands behind any other
that is as accurate. By how much the best looks better on the rows that chose it than it is, is measured on
resamples of those rows (`winners_gain`), and taken off the accuracy that is stated.

Which exits to keep, per budget (`subset`): a cascade may jump a model, and so pay only for those worth asking.
Bouchard, Is escalation worth it?, 2026, arXiv:2605.06350: fixed chains of all models fall below the best pair of
two at each budget; FrugalGPT (arXiv:2305.05176, section 3) chooses a list for the same reason.

All subsets are fitted and compared where exits are few. Where they are many: all pairs and single exits, then the
best at each budget enlarged by one exit at a time for as long as that helps some budget. The full set is left only
where a subset is better by more than a standard error (``towards="full"``), or the smallest set within one is
taken (``towards="few"``: fewer models to keep in memory).

Departures from 2605.06350: its pairs are compared on their empirical frontiers with one held-out split; here
every budget has its own choice, by nested folds, and subsets of any size compete.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from policyopt._answers.crossfit import folds_of
from policyopt._costs import budget_list
from policyopt._methods.base import (
    MOST_ROWS,
    Method,
    cheapest,
    check_budgets,
    fit_where_possible,
    subsample,
)
from policyopt._methods.baselines import Always, standalone
from policyopt._methods.fitted import Fitted
from policyopt._methods.frugalgpt import FrugalGPT, subsets
from policyopt._methods.lagrangian import OptimalStopping
from policyopt._methods.registry import make_method
from policyopt._methods.settings import FOLDS, NOT_NEGATIVE, Choice, Number
from policyopt._methods.threshold import Threshold
from policyopt._progress import progress_callback, report
from policyopt._replay import replay
from policyopt._table import Table
from policyopt.runtime._checks import check_seed
from policyopt.runtime._errors import BudgetError, input_error
from policyopt.runtime._typing import Bools, Floats

#: Name, method, complexity: 0 is the simplest.
Candidate = tuple[str, Method, int]
#: What the comparison found: one entry per candidate that can meet the budget.
Report = list[dict[str, Any]]

#: Fewer rows cannot tell policies apart: a difference of 5 points has a standard error of 2.
FEWEST_ROWS = 100
#: More rows are not needed to compare; all of them fit what is chosen.
MOST_COMPARED = 20_000
_RESAMPLES = 100
_REPORTED = 8  # subsets that the provenance tells of, the best first
_FEW = 6  # exits up to here have all their subsets tried: 63 of them


class Chosen(NamedTuple):
    """What is chosen at one budget."""

    #: To fit in turn, the chosen first: it may be affordable on every fold and by a hair not on all rows.
    ways: list[Candidate]
    report: Report = []  # noqa: RUF012 (never changed)
    gain: float = 0.0  # see `winners_gain`


class Choosing(Method):
    """A method that chooses others per budget by their values, and fits the chosen on all rows."""

    def fit_path(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        return self._chosen(table, budget_list(budgets, table.mean_costs), check_seed(seed), True)

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        return self._chosen(table, budgets, seed, False)

    @abstractmethod
    def choices(
        self, table: Table, known: Table, budgets: Sequence[float], seed: int
    ) -> list[Chosen]:
        """Return what is chosen per budget, by the rows that are labelled (`known`, one or more)."""

    def _chosen(
        self, table: Table, budgets: Sequence[float], seed: int, validate: bool
    ) -> list[Fitted]:
        """Fit what is chosen, each choice once for all its budgets, else what it falls back on."""
        self.check(table)
        known = table if not table.valued.any() else table.take(np.flatnonzero(table.valued))
        _ = (known if len(known) else table).quality  # says what is missing
        choices = self.choices(table, known, budgets, seed)

        def fit(way: Candidate, wanted: list[float]) -> list[Fitted | None]:
            rows = table if isinstance(way[1], OptimalStopping) else known
            return fit_where_possible(way[1], rows, wanted, seed, validate=validate)

        found: list[tuple[Candidate, Fitted | None]] = [(one.ways[0], None) for one in choices]
        for first in {one.ways[0][0]: one.ways[0] for one in choices}.values():
            places = [i for i, one in enumerate(choices) if one.ways[0][0] == first[0]]
            for i, one in zip(places, fit(first, [budgets[i] for i in places]), strict=True):
                found[i] = first, one
        for i, choice in enumerate(choices):
            for other in choice.ways[1:]:
                if found[i][1] is None:
                    found[i] = other, fit(other, [budgets[i]])[0]
        signed = []
        for (way, one), choice, budget in zip(found, choices, budgets, strict=True):
            if one is None:
                low, high = cheapest(table), table.mean_costs[-1]
                raise BudgetError(
                    f"No policy of {self.name} costs {budget:.6g} {table.unit} or less on these rows, its own "
                    f"arithmetic included. Exits cost {low:.6g} to {high:.6g} {table.unit}: raise the budget."
                )
            signed.append(self._signed(one, budget, way[0], choice))
        return signed

    def _signed(self, one: Fitted, budget: float, name: str, choice: Chosen) -> Fitted:
        """Return a fit under this method's label, with what was chosen and why in its provenance."""
        inner = one.policy.provenance
        quality = max(one.quality - choice.gain, 0.0)  # NaN stays NaN
        if inner.get("expected_quality") is not None:
            inner = {**inner, "expected_quality": quality}
        provenance = {
            **inner,
            "method": self.name,
            "settings": self.settings(),
            "chosen": self.origin(name, one),
            "compared": choice.report,
            "budget": float(budget),
        }
        policy = replace(one.policy, provenance=provenance)
        return replace(one, method=self.name, policy=policy, quality=quality, budget=budget)

    def origin(self, name: str, one: Fitted) -> dict[str, Any]:
        """Return what a refit needs to know of the fit that was chosen."""
        return {"method": name, "settings": one.policy.provenance["settings"]}


@dataclass(frozen=True, eq=False)
class Comparison:
    """What M candidates are worth at B budgets on N rows that they were not fitted on."""

    values: Floats  # (B, M, N): see the module; -inf where a candidate cannot meet the budget
    quality: Floats  # (B, M, N): worth of the answer
    flat: Bools  # (B, M): whether some fold's fit found scores that differ by rounding only

    def simplest(
        self, budget: int, chosen: int, candidates: Sequence[Candidate], errors: float
    ) -> int:
        """Return the chosen candidate, or in the place of a flat one the least complex that is as accurate."""
        values, correct = self.values[budget], self.quality[budget]
        if not self.flat[budget, chosen]:
            return chosen
        behind = correct[chosen] - correct
        error = behind.std(axis=1) / behind.shape[1] ** 0.5
        equal = behind.mean(axis=1) <= errors * error
        equal &= np.isfinite(values).all(axis=1) & ~self.flat[budget]
        places = np.flatnonzero(equal).tolist()
        if not places:
            return chosen
        return min(places, key=lambda i: (candidates[i][2], -float(values[i].mean())))


def compare(
    table: Table,
    candidates: Sequence[Candidate],
    budgets: Sequence[float],
    folds: int,
    seed: int,
    least: Callable[[Table], float] = lambda table: float(table.mean_costs[0]),
) -> Comparison:
    """Return what candidates are worth on rows they were not fitted on; `least`: lowest budget some rows allow."""
    fold = folds_of(len(table), folds, seed)
    values = np.empty((len(budgets), len(candidates), len(table)))
    correct, flat = np.zeros_like(values), np.zeros(values.shape[:2], dtype=bool)
    count = int(fold.max()) + 1
    for f in range(count):
        report(f, count, "comparing policies")
        held = np.flatnonzero(fold == f)
        train, test = table.take(np.flatnonzero(fold != f)), table.take(held)
        # With costs per sample each fold has a range of its own.
        low, high = least(train), float(train.mean_costs[-1])
        inside = [float(np.clip(b, low, high)) for b in budgets]
        prices = prices_at(train, inside)
        for i, (_, method, _) in enumerate(candidates):
            with progress_callback(None):  # the folds are what is told
                path = fit_where_possible(method, train, inside, seed, validate=False)
            for j, one in enumerate(path):
                if one is None:
                    values[j, i, held] = -np.inf
                    continue
                outcome = replay(one.policy, test)
                flat[j, i] |= bool(one.flat)
                correct[j, i, held] = outcome.quality
                # Lists of exits may spare a part of the budget: that is no merit here.
                target = min(one.expected.cost, inside[j])
                values[j, i, held] = outcome.quality - prices[j] * (outcome.cost - target)
    return Comparison(values, correct, flat)


def one_standard_error(
    values: Floats, candidates: Sequence[Candidate], errors: float
) -> tuple[int, Report]:
    """Return the place of the chosen of M candidates by their values (M, N), and the report."""
    possible = np.asarray(np.isfinite(values).all(axis=1))
    means = np.where(possible, values.mean(axis=1), -np.inf)
    best = int(np.argmax(means))
    behind = values[best] - np.where(possible[:, None], values, 0.0)
    error = behind.std(axis=1) / behind.shape[1] ** 0.5
    near = possible & np.asarray(behind.mean(axis=1) <= errors * error)
    places = np.flatnonzero(near).tolist()
    level = min(candidates[i][2] for i in places)
    chosen = max((i for i in places if candidates[i][2] == level), key=lambda i: means[i])
    report = [
        {
            "method": candidates[i][0],
            "behind_best": float(behind[i].mean()),
            "standard_error": float(error[i]),
        }
        for i in np.flatnonzero(possible).tolist()
    ]
    return chosen, report


def winners_gain(
    values: Floats, candidates: Sequence[Candidate], errors: float, seed: int
) -> float:
    """Return by how much the chosen looks better on the rows that chose it than on others.

    On resamples of the rows, the choice is looked at on those left out (BBC-CV: Tsamardinos, Greasidou &
    Borboudakis, Machine Learning 107, 2018, section 3.3). Shapes: values (M, N).
    """
    rng, n = np.random.default_rng(seed), values.shape[1]
    if n > MOST_ROWS:
        return 0.0
    chosen, _ = one_standard_error(values, candidates, errors)
    gains = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(0, n, n)
        left = np.bincount(drawn, minlength=n) == 0
        other, _ = one_standard_error(values[:, drawn], candidates, errors)
        gains.append((values[chosen, left] - values[other, left]).mean() if left.any() else 0.0)
    return max(float(np.mean(gains)), 0.0)


def prices_at(table: Table, budgets: Sequence[float]) -> list[float]:
    """Return what accuracy a unit of cost buys at each budget, on the curve of max_prob."""
    low, high = (float(c) for c in table.mean_costs[[0, -1]])
    prices = []
    for budget in budgets:
        step, at = 0.1 * (high - low), max(budget, low)
        pair = [max(at - step, low), min(at + step, high)]
        cheap, dear = Threshold("max_prob").propose(table, pair)
        gap = dear.expected.cost - cheap.expected.cost
        # Past the peak of the curve more cost buys nothing; it must not be worth a fee.
        prices.append(max((dear.quality - cheap.quality) / gap, 0.0) if gap > 0 else 0.0)
    return prices


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

    def choices(
        self, table: Table, known: Table, budgets: Sequence[float], seed: int
    ) -> list[Chosen]:
        every = CANDIDATES + (FOR_CASCADES if table.cascade else ()) + _of_the_users_own()
        candidates = [
            row for row in every
            if not row[1].missing_columns(table) and not (row[1].decides and table.exits < 2)
        ]  # fmt: skip
        # Whatever refuses the rows or a budget does so here, by name, before the long work.
        check_budgets(known, budgets)
        if not table.cascade:  # of one, a model alone may cost less than the simplest policy
            candidates[0][1].propose(known, budgets, seed)
        simplest = [candidates[0], *[row for row in candidates[1:] if row in FOR_CASCADES]]
        if len(known) < FEWEST_ROWS or len(candidates) < 2:
            return [Chosen(simplest)] * len(budgets)
        rows = subsample(known, MOST_COMPARED, seed)
        found = compare(rows, candidates, budgets, self.folds, seed)
        choices = []
        for j, values in enumerate(found.values):
            chosen, report = one_standard_error(values, candidates, self.errors)
            gain = winners_gain(values, candidates, self.errors, seed)
            best = candidates[found.simplest(j, chosen, candidates, self.errors)]
            choices.append(Chosen([best, *simplest], report, gain))
        return choices


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

    def origin(self, name: str, one: Fitted) -> dict[str, Any]:
        inner, exits = one.policy.provenance, list(one.policy.active_exits)
        return {**super().origin(name, one), "inner": inner["method"], "exits": exits}

    def required_columns(self) -> frozenset[str]:
        return make_method(self.inner).required_columns()

    def missing_columns(self, table: Table) -> list[str]:
        return make_method(self.inner).missing_columns(table)

    def choices(
        self, table: Table, known: Table, budgets: Sequence[float], seed: int
    ) -> list[Chosen]:
        check_budgets(table, budgets)
        exits = table.exits
        most = min(self.most or exits, exits)
        # Where nothing can be compared or afforded: all exits, else the cheapest by itself.
        own = np.diff(known.mean_costs, prepend=0.0) if table.cascade else known.mean_costs
        kept = [tuple(range(exits))] * (most == exits) + [(int(own.argmin()),)]
        last = self._candidates(kept, table)
        if len(known) < FEWEST_ROWS:
            return [Chosen(last)] * len(budgets)
        rows = subsample(known, MOST_COMPARED, seed)

        def worth(tried: list[tuple[int, ...]]) -> Floats:
            candidates = self._candidates(tried, table)
            return compare(rows, candidates, budgets, self.folds, seed, cheapest).values

        # All subsets where they are few, else single exits, pairs and the whole to begin with.
        tried = subsets(exits, most if exits <= _FEW else min(most, 2))
        if exits > _FEW and most == exits:
            tried.append(tuple(range(exits)))
        values = worth(tried)
        while more := _larger(tried, values, exits, most):
            better = values.mean(axis=2).max(axis=1)
            found = worth(more)
            tried, values = [*tried, *more], np.concatenate([values, found], axis=1)
            if (found.mean(axis=2).max(axis=1) <= better).all():
                break
        candidates = self._candidates(tried, table)
        choices = []
        for own_values in values:
            if not np.isfinite(own_values).all(axis=1).any():
                choices.append(Chosen(last))
                continue
            chosen, report = one_standard_error(own_values, candidates, self.errors)
            report.sort(key=lambda entry: entry["behind_best"])
            gain = winners_gain(own_values, candidates, self.errors, seed)
            choices.append(Chosen([candidates[chosen], *last], report[:_REPORTED], gain))
        return choices

    def _candidates(self, tried: list[tuple[int, ...]], table: Table) -> list[Candidate]:
        inner, full = make_method(self.inner), self.towards == "full"
        names = [", ".join(str(table.active_exits[k]) for k in kept) for kept in tried]
        return [
            (f"{self.inner} on exits {name}", OnExits(kept, inner),
             int(len(kept) < table.exits) if full else len(kept))
            for name, kept in zip(names, tried, strict=True)
        ]  # fmt: skip


def _larger(
    tried: list[tuple[int, ...]], values: Floats, exits: int, most: int
) -> list[tuple[int, ...]]:
    """Return the best subset at each budget enlarged by one exit, those not tried yet, where exits are many."""
    if exits <= _FEW:
        return []
    best = {tried[i] for i in values.mean(axis=2).argmax(axis=1)}
    more = {tuple(sorted({*kept, k})) for kept in best for k in range(exits)}
    return sorted(kept for kept in more - set(tried) if len(kept) <= most)


@dataclass(frozen=True)
class OnExits(Method):
    """A method on some exits (places, ascending) only, which costs no more than what they allow."""

    kept: tuple[int, ...]
    inner: Method

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Fit the inner method; a budget above what these exits can cost is lowered to that."""
        small = table.keep_exits([table.active_exits[k] for k in self.kept])
        most = float(small.mean_costs[-1])
        lowered = [min(float(budget), most) for budget in budgets]
        if small.exits > 1:
            once = sorted(set(lowered))
            path = dict(zip(once, self.inner.propose(small, once, seed), strict=True))
            return [path[budget] for budget in lowered]
        return [standalone(Always(0), table, self.kept[0], budget, seed) for budget in lowered]
