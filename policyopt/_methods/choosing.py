"""Choice among policies per budget by nested cross-validation: `auto`, and `subset` of exits.

Each fold is left out in turn; every candidate is fitted on the other folds at the aims of `Levels`, its own inner
cross-fitting included, and replayed on the one left out. A candidate's value on a row is its quality less the price
of what it spends beyond what it was to cost (or plus that of what it saves), so that none wins by overspending.

`auto` looks at the paired differences to the simplest candidate, and shrinks them: a candidate's true differences
are taken to be normal around what such candidates gained elsewhere (`_PRIORS`), with an unknown size, half of it
common to all budgets and half of it smooth along them; given the size, they follow from what was measured and its
noise over rows (covariance between budgets included) as the posterior mean of a normal (Efron & Morris, JASA 68, 1973;
Rasmussen & Williams, 2006, eq. 2.23), and sizes count by their marginal likelihood. So a gain that all budgets show is
believed sooner than one of a single budget, and what noise can explain stays with what is believed beforehand. The
least complex of those believed to be about as good as the best is chosen; a candidate whose scores are flat
(`policyopt._thresholds.degenerate_scores`) stands behind any other that is as good. By how much the chosen looks better
on the rows that chose it than it is, is measured on resamples of those rows, and taken off the quality that is stated.

What is chosen at an aim is fitted on all rows as that method fits by itself (`Levels`). All rows flatter a method the
more, the more it may choose (18 thresholds of 19 models on 500 rows: by 2 to 3 points), so choices at different aims
are not compared by them; but more budget is to be no worse on all rows, too: of the paths through the choices on which
their quality rises, the one is taken that forgoes least of what the chosen are believed to be worth.

`subset` chooses the least complex candidate whose mean value is within one standard error of the best (Breiman et
al., CART, 1984, section 3.4.3).

Which exits to keep, per budget (`subset`): a cascade may jump a model, and so pay only for those worth asking.
Bouchard, Is escalation worth it?, 2026, arXiv:2605.06350: fixed chains of all models fall below the best pair of
two at each budget; FrugalGPT (arXiv:2305.05176, section 3) chooses a list for the same reason.

All subsets are fitted and compared where exits are few. Where they are many: all pairs and single exits, then the
best at each budget enlarged by one exit at a time for as long as that helps some budget. The full set is left only
where a subset is better by more than a standard error (``towards="full"``), or the smallest set within one is
taken (``towards="few"``: fewer models to keep in memory). Where the method on them is `auto`, sets are compared by
``max_prob``, and `auto` chooses on the rows left out what is to run on the set of each budget.

Departures from 2605.06350: its pairs are compared on their empirical frontiers with one held-out split; here
every budget has its own choice, by nested folds, and subsets of any size compete.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from policyopt._cache.data import folds_of
from policyopt._engine import run
from policyopt._intervals import by_group, standard_error
from policyopt._methods.base import (
    FEW_ROWS,
    MOST_ROWS,
    HeldOut,
    Method,
    cheapest,
    check_budgets,
    few_rows_note,
    validated,
)
from policyopt._methods.baselines import Always, alone
from policyopt._methods.fitted import Draft, Fitted
from policyopt._methods.frugalgpt import FrugalGPT, subsets
from policyopt._methods.lagrangian import OptimalStopping
from policyopt._methods.levels import Level, Levels, Spend, aims_of
from policyopt._methods.registry import here_only, make_method, own_among
from policyopt._methods.routing import EVERY, Routing
from policyopt._methods.settings import FOLDS, NOT_NEGATIVE, YES_OR_NO, Choice, Number
from policyopt._methods.targets import ANOTHER, Target
from policyopt._methods.threshold import Threshold
from policyopt._replay import replay
from policyopt._table import Table, known_rows, subsample
from policyopt.runtime._checks import check_seed
from policyopt.runtime._errors import BudgetError, input_error
from policyopt.runtime._typing import Bools, Floats, Ints

#: Name, method, complexity: 0 is the simplest.
Candidate = tuple[str, Method, int]
#: What the comparison found: one entry per candidate that can meet the budget.
Report = list[dict[str, Any]]

#: Fewer rows cannot tell policies apart: a difference of 5 points has a standard error of 2.
FEWEST_ROWS = 100
_FEWEST_GROUPS = 20  # of which an error can be told
#: More rows are not needed to compare; all of them fit what is chosen. Beyond 12 exits fewer, in proportion.
MOST_COMPARED, _MANY, _LEAST_COMPARED = 20_000, 12, 5_000
_RESAMPLES = 100
#: What is believed of a candidate's gain over the first before it is compared, mean and standard deviation of quality.
#: 500 rows tell a gain to half a point, and nearly all gains are smaller; so it matters what such candidates gained
#: elsewhere (`benchmarks/results/learned_gains.md`): static scores differ little, and entropy is the worse one; joint
#: thresholds and combined answers gain some tenths of a point, a learned stop rule more; lists much or nothing.
_PRIORS = {
    "margin": (0.0, 0.0005), "entropy": (-0.001, 0.001), "max_prob:thresholds=joint": (0.001, 0.001),
    "margin:answer=combined": (0.002, 0.002), "optimal_stopping": (0.004, 0.002),
}  # fmt: skip
_OTHERS = (0.0, 0.002)
#: A gain may be so many times further off; twice as far is a quarter as likely (a Cauchy's tail).
_SIZES = 2.0 ** np.arange(-1, 6)
_SMOOTH = 3.0  # aims over which a gain changes
_ALIKE = 0.0005  # of quality: less is not worth a more complex policy
_REPORTED = 8  # subsets that the provenance tells of, the best first
_FEW = 6  # exits up to here have all their subsets tried: 63 of them


class Chosen(NamedTuple):
    """What is chosen at one budget."""

    #: To fit in turn, the chosen first: it may be affordable on every fold and by a hair not on all rows.
    ways: list[Candidate]
    report: Report = []  # noqa: RUF012 (never changed)
    gain: float = 0.0  # by how much it looks better on the rows that chose it
    place: int = -1  # of the chosen among those compared


class Chooser:
    """What was chosen at each aim, and how its budgets are met: each choice is trained once."""

    def __init__(self, method: Choosing, table: Table, seed: int) -> None:
        self.method, self.table, self.seed = method, table, seed
        self.known = known_rows(table)
        _ = self.known.quality  # says what is missing
        self.aims = aims_of(self.known)
        self.choices, self.compared = method.choices(table, self.known, seed)
        self._levels: dict[str, Levels | None] = {}
        routed = self.compared is not None and self.compared.routed is not None
        if method.limits and self.compared is not None and not routed:
            self.choices = self._in_order(self.compared)

    def __call__(self, budgets: Sequence[float]) -> Sequence[Draft]:
        """Solve each budget by what was chosen nearest to it, else by what that falls back on."""
        check_budgets(self.table, budgets)
        places = np.interp(budgets, self.aims, np.arange(len(self.aims)))
        nearest = [self.choices[int(place)] for place in np.rint(places).tolist()]
        return [self._solved(*one) for one in zip(nearest, budgets, strict=True)]

    def _solved(self, choice: Chosen, budget: float) -> Draft:
        for name, way, _ in choice.ways:
            with suppress(BudgetError):
                levels = self.levels(name, way)
                draft = (
                    levels.at([budget])[0].draft if self.method.limits else levels.solved(budget)
                )
                origin = {**self.method.origin(name, way, draft), "compared": choice.report}
                notes = [self.compared.versus] if self.compared and self.compared.versus else []
                if way.learned and len(self.table) < FEW_ROWS:
                    notes.append(few_rows_note(len(self.table)))
                origin |= {"notes": notes} if notes else {}
                return replace(draft, origin=origin)
        low, high, unit = cheapest(self.table), self.table.mean_costs[-1], self.table.unit
        raise BudgetError(
            f"No policy of {self.method.name} costs {budget:.6g} {unit} or less on these rows, its own "
            f"arithmetic included. Exits cost {low:.6g} to {high:.6g} {unit}: raise the budget."
        )

    def levels(self, name: str, way: Method) -> Levels:
        """Return the levels of a candidate on all rows."""
        if name not in self._levels:
            rows = self.table if way.unlabelled else self.known
            try:
                self._levels[name] = Levels(way, rows, self.seed)
            except BudgetError:
                self._levels[name] = None
        levels = self._levels[name]
        if levels is None:
            raise BudgetError(name)
        return levels

    def _in_order(self, compared: Comparison) -> list[Chosen]:
        """Return the choices, others where the chosen of an aim looks worse than that of a lesser one."""
        # More budget is to be no worse on all rows, too. Of all paths along which the rows of the fit rise, among
        # those that are chosen somewhere, taken is the one that forgoes least of what the chosen are believed to be
        # worth.
        choices = self.choices
        ways = {one.place: one.ways[0] for one in choices if one.place >= 0}
        aims = [aim for aim, one in enumerate(choices) if one.place >= 0]
        if len(ways) < 2:
            return choices
        looks, lost = np.full((2, len(aims), len(ways)), np.inf)
        for i, (place, (name, way, _)) in enumerate(ways.items()):
            grid: list[Level | None] = [None] * len(choices)
            with suppress(BudgetError):
                grid = self.levels(name, way).on_grid()
            for j, aim in enumerate(aims):
                chosen, level = choices[aim].place, grid[aim]
                if level is not None and (place == chosen or not compared.flat[aim, place]):
                    gap = float(compared.worth[aim, chosen] - compared.worth[aim, place])
                    looks[j, i], lost[j, i] = level.value, max(gap, 0.0) + 1e-9 * (place != chosen)
        path = rising(looks, lost)
        if path is None:
            return choices
        found, places = list(choices), list(ways)
        for aim, i in zip(aims, path, strict=True):
            others = choices[aim].ways[1:]
            found[aim] = choices[aim]._replace(ways=[ways[places[i]], *others], place=places[i])
        return found


def rising(looks: Floats, lost: Floats) -> list[int] | None:
    """Return the path through A steps, (A, P), along which looks never fall, of least loss in sum; None without one."""
    total, back = lost[0], []
    for before, here, forgone in zip(looks, looks[1:], lost[1:], strict=False):
        rises = np.where(before[:, None] <= here + 1e-12, total[:, None], np.inf)
        back.append(rises.argmin(axis=0))
        total = rises.min(axis=0) + forgone
    if not np.isfinite(total).any():
        return None
    path = [int(total.argmin())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    return path[::-1]


class Choosing(Method):
    """A method that chooses others per budget by their values, and fits the chosen on all rows."""

    unlabelled = True
    chooses = True

    def trained(self, table: Table, seed: int) -> Spend:
        self.check(table)
        return Chooser(self, table, seed)

    @abstractmethod
    def choices(
        self, table: Table, known: Table, seed: int
    ) -> tuple[list[Chosen], Comparison | None]:
        """Return what is chosen at each of `aims_of` the rows with labels (`known`), and what was compared."""

    def held_out(self, levels: Levels, seed: int) -> HeldOut | str:
        """Return what the comparison found of the chosen, whose folds are as good as a validation's."""
        found: Any = levels.spend
        compared, choices = found.compared, found.choices
        if compared is None:
            return super().held_out(levels, seed)
        at = np.arange(len(choices)), [one.place for one in choices]
        none = np.array([one.place < 0 for one in choices])[:, None]
        gain = np.array([one.gain for one in choices])[:, None]
        columns = compared.paid[at], compared.quality[at] - gain, compared.claimed[at]
        paid, right, claimed = (np.where(none, np.nan, column) for column in columns)
        return HeldOut(found.known, paid, right, claimed, compared.fold)

    def origin(self, name: str, way: Method, draft: Draft) -> dict[str, Any]:
        """Return what a refit needs to know of the fit that was chosen."""
        return {"chosen": {"method": name, "settings": way.settings()}}


@dataclass(frozen=True, eq=False)
class Comparison:
    """What M candidates come to at A aims on N rows that they were not fitted on; NaN where they cannot be met."""

    values: Floats  # (A, M, G): see the module, of rows or of their groups; -inf for NaN
    quality: Floats  # (A, M, N)
    paid: Floats  # (A, M, N)
    claimed: Floats  # (A, M, N)
    flat: Bools  # (A, M): whether in some fold's fit no exit's scores differ by more than rounding
    fold: Ints  # (N,)
    worth: Floats  # (A, M): what candidates are believed to be worth; differences count
    group: Ints | None = None  # (N,), see `Table.group`
    routed: Any = None  # where routing is believed to be better: its levels, and a report per aim
    versus: str = ""  # what routing came to against the others, in words

    def joined(self, other: Comparison) -> Comparison:
        """Return the same with more candidates."""
        names = ("values", "quality", "paid", "claimed", "flat", "worth")
        both = {n: np.concatenate([getattr(self, n), getattr(other, n)], axis=1) for n in names}
        return replace(self, **both)

    def simplest(self, aim: int, chosen: int, candidates: Sequence[Candidate]) -> int:
        """Return the chosen candidate, or in the place of a flat one the least complex that is as good."""
        values, quality = self.values[aim], self.quality[aim]
        if not self.flat[aim, chosen]:
            return chosen
        behind = quality[chosen] - quality
        error = standard_error(behind.T, self.group)
        equal = behind.mean(axis=1) <= error
        equal &= np.isfinite(values).all(axis=1) & ~self.flat[aim]
        places = np.flatnonzero(equal).tolist()
        if not places:
            return chosen
        return min(places, key=lambda i: (candidates[i][2], -float(values[i].mean())))


def too_few(table: Table) -> bool:
    """Say whether rows are too few to compare candidates on."""
    return len(table) < FEWEST_ROWS or table.units < _FEWEST_GROUPS


def most_compared(table: Table) -> int:
    """Return how many rows candidates are compared on, at most."""
    return max(MOST_COMPARED * _MANY // max(table.exits, _MANY), _LEAST_COMPARED)


def compare(table: Table, candidates: Sequence[Candidate], folds: int, seed: int) -> Comparison:
    """Return what candidates come to at the aims of a table, on rows they were not fitted on."""
    fold = folds_of(len(table), folds, seed, table.group)
    aims = len(aims_of(table))
    columns = np.full((4, aims, len(candidates), len(table)), np.nan)
    flat = np.zeros(columns.shape[1:3], dtype=bool)
    tasks = [(f, i) for f in range(int(fold.max()) + 1) for i in range(len(candidates))]
    with here_only(own_among({name: method for name, method, _ in candidates})):
        done = run(_Folds(table, candidates, fold, seed), tasks, "comparing policies")
        for (f, i), (of_fold, flat_there) in zip(tasks, done, strict=True):
            columns[:, :, i, fold == f] = of_fold
            flat[:, i] |= flat_there
    values, quality, paid, claimed = columns
    values = np.moveaxis(by_group(np.moveaxis(values, 2, 0), table.group), 0, 2)
    values = np.where(np.isnan(values).any(axis=2, keepdims=True), -np.inf, values)
    return Comparison(values, quality, paid, claimed, flat, fold, values.mean(axis=2), table.group)


@dataclass
class _Folds:
    """Fits a candidate without a fold, and replays that: what parts of a comparison share, and what each does."""

    table: Table
    candidates: Sequence[Candidate]
    fold: Ints
    seed: int
    last: dict[int, Any] = field(default_factory=dict)

    def rows(self, f: int) -> tuple[Table, Table, list[float], list[float]]:
        """Return the rows without a fold, the fold, and the aims of those without and their prices."""
        if (found := self.last.get(f)) is None:
            at = np.flatnonzero(self.fold != f), np.flatnonzero(self.fold == f)
            train, test = map(self.table.take, at)
            # With costs per sample each fold has a range of its own.
            found = train, test, aims_of(train), prices_of(train)
            self.last = {f: found}
        return found

    def __call__(self, task: tuple[int, int]) -> tuple[Floats, Bools]:
        """Return of (fold, candidate) values, quality, paid and claimed, (4, A, n), and where scores are flat, (A,)."""
        train, test, inside, prices = self.rows(task[0])
        path = self.candidates[task[1]][1].fit_grid(train, self.seed)
        found, flat = np.full((4, len(path), len(test)), np.nan), np.zeros(len(path), dtype=bool)
        for j, one in enumerate(path):
            if one is not None:
                outcome, claimed = replay(one.policy, test), one.expected.cost
                flat[j] = len(one.flat) >= max(len(one.policy.costs) - 1, 1)
                # What a policy spares of the budget is no merit here.
                value = outcome.quality - prices[j] * (outcome.cost - min(claimed, inside[j]))
                found[:, j] = value, outcome.quality, outcome.cost, np.full(len(test), claimed)
        return found, flat


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


def shrunken(values: Floats, candidates: Sequence[Candidate]) -> Floats:
    """Return what each of M candidates is expected to be worth beyond the first, (A, M); see the module."""
    # Shapes: values (A, M, N), -inf where a candidate cannot meet an aim.
    return _Shrinkage(values, candidates).of(np.ones(values.shape[2]))[0]


class _Shrinkage:
    """Paired differences to the first candidate, and what is believed of them."""

    def __init__(self, values: Floats, candidates: Sequence[Candidate]) -> None:
        aims, _, n = values.shape
        priors = np.array([_PRIORS.get(name, _OTHERS) for name, _, _ in candidates])
        few = np.array([method.learned for _, method, _ in candidates])
        trust = max(1.0 - FEWEST_ROWS / n, 0.0)
        self._before = priors[:, 0] * np.where(few, trust, 1.0)  # (M,)
        self.possible: Bools = np.asarray(np.isfinite(values).all(axis=2))
        first = np.where(self.possible[:, :1, None], values[:, :1], 0.0)
        #: (M, N, A): rows' differences, 0 where there is nothing to compare.
        both = (self.possible & self.possible[:, :1])[:, :, None]
        self.rows = np.where(both, values - first, 0.0).transpose(1, 2, 0)
        centred = self.rows - self.rows.mean(axis=1, keepdims=True)
        self.noise = centred.transpose(0, 2, 1) @ centred / n**2  # (M, A, A), of the means
        apart = np.abs(np.subtract.outer(np.arange(aims), np.arange(aims)))
        shape = 0.5 + 0.5 * np.exp(-apart / _SMOOTH)
        prior = (_SIZES[:, None] * priors[:, 1])[..., None, None] ** 2 * shape  # (S, M, A, A)
        tiny = 1e-12 * np.eye(aims)
        whole = prior + self.noise + tiny  # (S, M, A, A)
        self._gains = np.linalg.solve(whole, np.broadcast_to(prior, whole.shape))  # transposed
        self._inverse = np.linalg.inv(whole)
        self._logdet = np.linalg.slogdet(whole)[1]  # (S, M)

    def of(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return beliefs (A, M) of rows counted so often, (N,) (impossible: -inf), and the means they rest on."""
        means = np.einsum("n,mna->ma", weights, self.rows, optimize=True) / weights.sum()
        off = means - self._before[:, None]
        fit = np.einsum("ma,smab,mb->sm", off, self._inverse, off, optimize=True)
        likelihood = -0.5 * (fit + self._logdet) - 2.0 * np.log(_SIZES)[:, None]
        share = np.exp(likelihood - likelihood.max(axis=0))
        share /= share.sum(axis=0)
        moved = np.einsum("sm,ma,smab->bm", share, off, self._gains, optimize=True)
        believed = self._before + moved
        believed[:, 0] = 0.0  # the first itself
        return np.where(self.possible, believed, -np.inf), means.T


def gains_by_chance(
    values: Floats, candidates: Sequence[Candidate], chosen: Ints, seed: int
) -> Floats:
    """Return by how much the chosen look better on the rows that chose them than on others, (A,)."""
    # On resamples of the rows, the choice is looked at on those left out (BBC-CV: Tsamardinos, Greasidou &
    # Borboudakis, Machine Learning 107, 2018, section 3.3). Shapes: values (A, M, N); chosen (A,).
    aims, _, n = values.shape
    if n > MOST_ROWS:
        return np.zeros(aims)
    rng, at = np.random.default_rng(seed), np.arange(aims)
    beliefs = _Shrinkage(values, candidates)
    gain = np.zeros(aims)
    for _ in range(_RESAMPLES):
        counts = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        other = _simplest_of(beliefs.of(counts)[0], candidates)
        left = beliefs.of((counts == 0).astype(np.float64))[1]
        gain += (left[at, chosen] - left[at, other]) / _RESAMPLES
    return np.maximum(gain, 0.0)


def winners_gain(
    values: Floats, candidates: Sequence[Candidate], errors: float, seed: int
) -> float:
    """Return the same of one aim, chosen by `one_standard_error`. Shapes: values (M, N)."""
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


def prices_of(table: Table) -> list[float]:
    """Return what quality a unit of cost buys at each aim, on the curve of max_prob."""
    low, high = (float(c) for c in table.mean_costs[[0, -1]])
    step, spend = 0.1 * (high - low), Threshold("max_prob").trained(table, 0)
    prices = []
    for aim in aims_of(table):
        cheap, dear = spend([max(aim - step, low), min(aim + step, high)])
        (c0, v0), (c1, v1) = (
            (d.problem.cost(d.solution.thresholds), d.problem.worth(d.solution))
            for d in (cheap, dear)
            if d.solution is not None
        )
        # Past the peak of the curve more cost buys nothing; it must not be worth a fee.
        prices.append(max((v1 - v0) / (c1 - c0), 0.0) if c1 > c0 else 0.0)
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
#: Where that saves, as in a cascade, exits may also be skipped, which can be worth more than any rule of when to stop.
FOR_CASCADES: tuple[Candidate, ...] = (("always", Always(), 1), ("frugalgpt", FrugalGPT(), 2))
#: Held against what is the best of the others, at all budgets together.
ROUTING: Candidate = ("routing", Routing(), 4)
#: Of more, what routing's own cross-fit says is hardly flattered; folds of it would take long.
_REFITTED = 2000


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
    routes : bool
        Whether `routing` competes where models are paid one by one; without it policies have thresholds.
    """

    folds: int = 5
    routes: bool = True

    label = "auto"
    allowed: ClassVar = {"folds": FOLDS, "routes": YES_OR_NO}

    def in_turn(self, what: str) -> Method:
        return replace(self, routes=False)

    def fit_targets(
        self, table: Table, targets: Sequence[Target], seed: int = 0
    ) -> list[Fitted | BudgetError]:
        """Fit as all methods do; where a cascade's costs are limited, single models and lists are tried for them."""
        # What was chosen knows the budget only: under a limit of a percentile, or of another cost, one model alone
        # may do what no chain does.
        if table.saves and any(target.limits for target in targets):
            return [self._limited(table, target, seed) for target in targets]
        levels: Any = Levels(self, table, check_seed(seed))
        compared = levels.spend.compared
        if compared is None or compared.routed is None:
            return validated(levels, targets, seed)
        return self._routed(compared, table, targets, seed)

    def _routed(
        self, compared: Comparison, table: Table, targets: Sequence[Target], seed: int
    ) -> list[Fitted | BudgetError]:
        """Return the policies of routing, told as chosen."""
        name, way, _ = ROUTING
        assert isinstance(way, Routing)
        levels, reports = compared.routed
        found, aims = way.fit_levels(levels, targets, seed), aims_of(table)
        for i, one in enumerate(found):
            if isinstance(one, Fitted):
                place = int(np.rint(np.interp(one.expected.cost, aims, np.arange(len(aims)))))
                found[i] = self._told(one, name, way, reports[place], compared.versus)
        return found

    def _told(
        self, one: Fitted, name: str, way: Method, compared: Report, versus: str = ""
    ) -> Fitted:
        chosen = {"chosen": {"method": name, "settings": way.settings()}, "compared": compared}
        said = {**one.policy.provenance, **chosen, "method": self.name, "settings": self.settings()}
        said |= {"notes": [versus, *said.get("notes", [])]} if versus else {}
        return replace(one, method=self.name, policy=replace(one.policy, provenance=said))

    def _limited(self, table: Table, target: Target, seed: int) -> Fitted | BudgetError:
        """Return the best of what `auto` and each of `FOR_CASCADES` make of a target."""
        found, refused = [], None
        for name, method, _ in (("", None, 0), *FOR_CASCADES):
            try:
                if method is None:
                    levels = Levels(self.in_turn("limits"), table, check_seed(seed))
                    (own,) = validated(levels, [target], seed)
                    if isinstance(own, BudgetError):
                        raise own
                    found.append(own)
                    continue
                (one,) = method.fit_path(table, [target], seed)
            except BudgetError as error:
                refused = refused or BudgetError(str(error).replace(ANOTHER, ""))
                continue
            found.append(self._told(one, name, method, []))
        if not found:
            assert refused is not None
            return refused
        if target.floored:
            return min(found, key=lambda one: one.expected.cost)
        return max(found, key=lambda one: one.quality)

    def choices(
        self, table: Table, known: Table, seed: int
    ) -> tuple[list[Chosen], Comparison | None]:
        candidates = self.candidates(table)
        simplest = [candidates[0], *[row for row in candidates[1:] if row in FOR_CASCADES]]
        aims = aims_of(known)
        if too_few(known) or len(candidates) < 2:
            return [Chosen(simplest)] * len(aims), None
        rows, levels = subsample(known, most_compared(known), seed), None
        if self._routes(known):
            levels = Routing().levels(known, seed)
            rows = levels.rows.table
        compared = compare(rows, candidates, self.folds, seed)
        choices, found = believed(compared, candidates, simplest, seed)
        if levels is None:
            return choices, found
        few = len(rows) <= _REFITTED
        own = compare(rows, [ROUTING], self.folds, seed) if few else _cross_fitted(levels, compared)
        # It holds the others as cases, so they are to look better than what is chosen of them by more than noise.
        rival = np.array([found.values[j, one.place] - one.gain for j, one in enumerate(choices)])
        gain = own.values[:, 0] - rival
        rows_gain = gain[np.isfinite(gain).all(axis=1)].mean(axis=0)
        mean, error = rows_gain.mean(), rows_gain.std() / len(rows_gain) ** 0.5
        if np.isfinite(mean):
            told = f"{100 * mean:+.2f} ± {100 * error:.2f} points, all budgets together"
            told += "; it is taken unless it is worse by more than that error"
            found = replace(found, versus=f"routing against what is chosen of the others: {told}")
        if not mean > -error:
            return choices, found
        values, every = compared.joined(own).values, [*candidates, ROUTING]
        beliefs = np.column_stack([found.worth, found.worth.max(axis=1) + max(mean, 0.0)])
        reports = [_behind(values[j], beliefs[j], every) for j in range(len(values))]
        return choices, replace(found, routed=(levels, reports))

    def _routes(self, table: Table) -> bool:
        """Say whether routing competes on such rows."""
        return self.routes and not Routing().missing_columns(table)

    def candidates(self, table: Table) -> list[Candidate]:
        """Return the policies that compete on such rows."""
        every = CANDIDATES + (FOR_CASCADES if table.saves else ()) + _of_the_users_own()
        return [
            row for row in every
            # A search of many thresholds takes as long as all others.
            if not (row[0].endswith("=joint") and table.exits > EVERY and self._routes(table))
            and not row[1].missing_columns(table) and not (row[1].decides and table.exits < 2)
        ]  # fmt: skip


def _cross_fitted(levels: Any, other: Comparison) -> Comparison:
    """Return what routing comes to on the rows of a comparison, by what its own folds say."""
    rows = levels.rows.table
    pairs = [levels.held_out(aim) for aim in aims_of(rows)]
    paid, quality = (np.array(column)[:, None] for column in zip(*pairs, strict=True))
    claimed = np.broadcast_to(paid.mean(axis=2, keepdims=True), paid.shape)
    values = quality - np.array(prices_of(rows))[:, None, None] * (paid - claimed)
    values = np.moveaxis(by_group(np.moveaxis(values, 2, 0), rows.group), 0, 2)
    flat = np.zeros(values.shape[:2], dtype=bool)
    worth = values.mean(axis=2)
    return Comparison(values, quality, paid, claimed, flat, other.fold, worth, other.group)


def believed(
    found: Comparison, candidates: Sequence[Candidate], simplest: list[Candidate], seed: int
) -> tuple[list[Chosen], Comparison]:
    """Return the least complex candidate believed to be about as good as the best at each aim, and the beliefs."""
    beliefs = shrunken(found.values, candidates)
    chosen = _simplest_of(beliefs, candidates)
    gains = gains_by_chance(found.values, candidates, chosen, seed)
    choices = []
    for j, best in enumerate(chosen.tolist()):
        place = found.simplest(j, best, candidates)
        report = _behind(found.values[j], beliefs[j], candidates)
        choices.append(Chosen([candidates[place], *simplest], report, float(gains[j]), place))
    return choices, replace(found, worth=beliefs)


def _simplest_of(beliefs: Floats, candidates: Sequence[Candidate]) -> Ints:
    """Return the least complex candidate that is believed to be about as good as the best, (A,); the best of those."""
    complexity = np.array([level for _, _, level in candidates])
    near = beliefs >= beliefs.max(axis=1, keepdims=True) - _ALIKE
    least = np.where(near, complexity, complexity.max() + 1).min(axis=1, keepdims=True)
    return np.where(near & (complexity == least), beliefs, -np.inf).argmax(axis=1)


def _behind(values: Floats, beliefs: Floats, candidates: Sequence[Candidate]) -> Report:
    """Return how far each candidate that can meet an aim stands behind the best, as measured and as believed."""
    possible = np.flatnonzero(np.isfinite(beliefs))
    if not len(possible):
        return []
    best = possible[np.argmax(values[possible].mean(axis=1))]
    behind = values[best] - values[possible]
    errors = behind.std(axis=1) / behind.shape[1] ** 0.5
    believed = beliefs.max() - beliefs[possible]
    return [
        {
            "method": candidates[i][0],
            "behind_best": float(rows.mean()),
            "standard_error": float(error),
            "believed_behind": float(gap),
        }
        for i, rows, error, gap in zip(possible.tolist(), behind, errors, believed, strict=True)
    ]


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
        make_method(self.inner).in_turn("subset")  # what does not exist is refused by name
        super().__post_init__()

    def origin(self, name: str, way: Method, draft: Draft) -> dict[str, Any]:
        inner = way.inner if isinstance(way, OnExits) else way
        chosen = super().origin(name, inner, draft)["chosen"]
        exits = list(draft.table.active_exits)
        return {"chosen": {**chosen, "inner": inner.name, "exits": exits}}

    def required_columns(self) -> frozenset[str]:
        return make_method(self.inner).required_columns()

    def missing_columns(self, table: Table) -> list[str]:
        return make_method(self.inner).missing_columns(table)

    def choices(
        self, table: Table, known: Table, seed: int
    ) -> tuple[list[Chosen], Comparison | None]:
        exits, aims = table.exits, aims_of(known)
        most = min(self.most or exits, exits)
        # Where nothing can be compared or afforded: all exits, else the cheapest by itself.
        own = known.alone(known.mean_costs)
        kept = [tuple(range(exits))] * (most == exits) + [(int(own.argmin()),)]
        last = self._candidates(kept, table)
        if too_few(known):
            return [Chosen(last)] * len(aims), None
        rows = subsample(known, most_compared(known), seed)

        def compared(tried: list[tuple[int, ...]]) -> Comparison:
            return compare(rows, self._candidates(tried, table), self.folds, seed)

        # All subsets where they are few, else single exits, pairs and the whole to begin with.
        tried = subsets(exits, most if exits <= _FEW else min(most, 2))
        if exits > _FEW and most == exits:
            tried.append(tuple(range(exits)))
        found = compared(tried)
        while more := _larger(tried, found.values, exits, most):
            better, larger = found.values.mean(axis=2).max(axis=1), compared(more)
            tried, found = [*tried, *more], found.joined(larger)
            if (larger.values.mean(axis=2).max(axis=1) <= better).all():
                break
        candidates = self._candidates(tried, table)
        choices = []
        for values in found.values:
            if not np.isfinite(values).all(axis=1).any():
                choices.append(Chosen(last))
                continue
            chosen, report = one_standard_error(values, candidates, self.errors)
            report.sort(key=lambda entry: entry["behind_best"])
            gain = winners_gain(values, candidates, self.errors, seed)
            ways = [candidates[chosen], *last]
            choices.append(Chosen(ways, report[:_REPORTED], gain, chosen))
        if not isinstance(auto := make_method(self.inner), Auto):
            return choices, found
        return self._by(auto, choices, tried, rows, seed)

    def _by(
        self, auto: Auto, choices: list[Chosen], tried: list[tuple[int, ...]], rows: Table, seed: int
    ) -> tuple[list[Chosen], Comparison | None]:  # fmt: skip
        """Return the choices of exits with what `auto` chooses on them, compared on the rows left out."""
        joined: Comparison | None = None
        found = dict[tuple[int, ...], list[Chosen]]()
        for kept in dict.fromkeys(tried[one.place] for one in choices if one.place >= 0):
            bare = auto.candidates(rows)[: None if len(kept) > 1 else 1]
            own = [self._on(kept, rows, *one) for one in bare]
            one = compare(rows, own, auto.folds, seed)
            first = 0 if joined is None else joined.worth.shape[1]
            best = believed(one, bare, [], seed)[0]
            found[kept] = [c._replace(ways=[own[c.place]], place=first + c.place) for c in best]
            joined = one if joined is None else joined.joined(one)
        for aim, one in enumerate(choices):
            if one.place >= 0:
                inner = found[tried[one.place]][aim]
                ways = [*inner.ways, *one.ways]
                choices[aim] = inner._replace(gain=inner.gain + one.gain, ways=ways)
        return choices, joined

    def _candidates(self, tried: list[tuple[int, ...]], table: Table) -> list[Candidate]:
        # Sets are compared by the simplest method where the method is itself a choice, see `_by`.
        name = "max_prob" if make_method(self.inner).chooses else self.inner
        inner, full = make_method(name), self.towards == "full"
        return [
            self._on(kept, table, name, inner, int(len(kept) < table.exits) if full else len(kept))
            for kept in tried
        ]

    @staticmethod
    def _on(
        kept: tuple[int, ...], table: Table, name: str, method: Method, complexity: int
    ) -> Candidate:
        numbers = [table.active_exits[k] for k in kept]
        exits = ", ".join(table.names[k] if table.names else str(k) for k in numbers)
        on = f"{name} on {'' if table.names else 'exits '}{exits}"
        return on, OnExits(kept, method), complexity


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

    def reach(self, table: Table) -> Table:
        return table.keep_exits([table.active_exits[k] for k in self.kept])

    def trained(self, table: Table, seed: int) -> Spend:
        """Train the inner method; a budget above what these exits can cost is lowered to that."""
        small = self.reach(table)
        if small.exits == 1:
            return lambda budgets: [alone(table, self.kept[0], budget) for budget in budgets]
        most, spend = float(small.mean_costs[-1]), self.inner.trained(small, seed)
        return lambda budgets: spend([min(float(budget), most) for budget in budgets])
