"""Choice among policies per budget by nested cross-validation: what `auto` and `subset` share.

Each fold is left out in turn; every candidate is fitted on the other folds, its own inner
cross-fitting included, and replayed on the one left out. A candidate's value on a row is its
correctness less the price of what it spends beyond what it was to cost (or plus that of what it
saves), so that none wins by overspending; a part of the budget left unspent by plan earns nothing.
The least complex candidate whose mean value is within one standard error (of the paired
difference, over rows) of the best is chosen: the one-standard-error rule of Breiman et al., CART,
1984, section 3.4.3. Candidates of one complexity compete by their means. A candidate whose scores are flat
(`policyopt._thresholds.degenerate_scores`) stands behind any other that is as accurate, within a standard error.

The best of several looks better on the rows that chose it than it is. By how much is measured without further
fits, on resamples of those rows (`winners_gain`), and taken off the accuracy that is stated.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from policyopt._answers.crossfit import folds_of
from policyopt._costs import budget_list
from policyopt._methods.base import Method
from policyopt._methods.fitted import Fitted
from policyopt._methods.threshold import Threshold
from policyopt._methods.validation import MOST_ROWS, fit_where_possible
from policyopt._progress import progress_callback, report
from policyopt._replay import replay
from policyopt._table import Table
from policyopt.runtime._checks import check_seed
from policyopt.runtime._typing import Bools, Floats

_Way = TypeVar("_Way")
#: Name, method, complexity: 0 is the simplest.
Candidate = tuple[str, Method, int]
#: What the comparison found: one entry per candidate that can meet the budget.
Report = list[dict[str, Any]]

#: Fewer rows cannot tell policies apart: a difference of 5 points has a standard error of 2.
FEWEST_ROWS = 100
#: More rows are not needed to compare; all of them fit what is chosen.
MOST_COMPARED = 20_000
_RESAMPLES = 100


class Choosing(Method):
    """A method that chooses others per budget by their values, and fits the chosen on all rows."""

    def fit_path(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Choose per budget, then fit the chosen on all rows; see `Method.fit_path`.

        What is chosen is validated, not the choice, which would take the whole comparison once per fold.
        """
        return self.choose(table, budget_list(budgets, table.mean_costs), check_seed(seed), True)

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Choose per budget, and propose what the chosen does; see `Method.propose`."""
        return self.choose(table, budgets, seed, False)

    @abstractmethod
    def choose(
        self, table: Table, budgets: Sequence[float], seed: int, validate: bool
    ) -> list[Fitted]:
        """Choose per budget, and fit the chosen with or without validation."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """What M candidates are worth at B budgets on N rows that they were not fitted on."""

    values: Floats  # (B, M, N): see the module; -inf where a candidate cannot meet the budget
    correct: Floats  # (B, M, N): 1.0 where the answer is right
    flat: Bools  # (B, M): whether some fold's fit found scores that differ by rounding only

    def plain(
        self, budget: int, chosen: int, candidates: Sequence[Candidate], errors: float
    ) -> int:
        """Return the chosen candidate, or in the place of a flat one another that is as accurate.

        As accurate is what lies behind by at most so many standard `errors` of the paired difference; of several the
        least complex is taken, and then the one of the best mean value.
        """
        values, correct = self.values[budget], self.correct[budget]
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
    """Return what candidates are worth on rows that they were not fitted on.

    `least` says what the lowest budget is that some rows allow.
    """
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
                correct[j, i, held] = outcome.correct
                # Lists of exits may spare a part of the budget: that is no merit here.
                target = min(one.expected.cost, inside[j])
                values[j, i, held] = outcome.correct - prices[j] * (outcome.cost - target)
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

    The rows are drawn anew with replacement, the choice made on those drawn, and looked at on those left out
    (BBC-CV: Tsamardinos, Greasidou & Borboudakis, Machine Learning 107, 2018, section 3.3); what the first
    choice is worth there, more than that, is what the rows did for it.

    Shapes: values (M, N); candidates (name, method, complexity).
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


def fit_chosen(
    ways: Sequence[Sequence[_Way]],
    fit: Callable[[_Way, list[float]], Sequence[Fitted | None]],
    budgets: Sequence[float],
) -> list[tuple[_Way, Fitted | None]]:
    """Fit what was chosen for each budget, each choice once for all its budgets, else what it falls back on.

    `ways` are, per budget, what to try in turn: a choice may be affordable on every fold and by a hair not on
    all rows.
    """
    found: list[tuple[_Way, Fitted | None]] = [(way[0], None) for way in ways]
    for first in dict.fromkeys(way[0] for way in ways):
        places = [i for i, way in enumerate(ways) if way[0] == first]
        for i, one in zip(places, fit(first, [budgets[i] for i in places]), strict=True):
            found[i] = first, one
    for i, way in enumerate(ways):
        for other in way[1:]:
            if found[i][1] is None:
                found[i] = other, fit(other, [budgets[i]])[0]
    return found


def signed(one: Fitted, by: Method, name: str, report: Report, gain: float = 0.0) -> Fitted:
    """Return a fit under the choosing method's label, with what was chosen and why in its provenance.

    `gain` is what the choice owes to these rows (see `winners_gain`).
    """
    inner = one.policy.provenance
    accuracy = max(one.accuracy - gain, 0.0)  # NaN stays NaN
    if inner.get("expected_accuracy") is not None:
        inner = {**inner, "expected_accuracy": accuracy}
    provenance = {
        **inner,
        "method": by.name,
        "settings": by.settings(),
        "chosen": {"method": name, "settings": inner["settings"]},
        "compared": report,
    }
    policy = replace(one.policy, provenance=provenance)
    return replace(one, method=by.name, policy=policy, accuracy=accuracy)


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
        prices.append(max((dear.accuracy - cheap.accuracy) / gap, 0.0) if gap > 0 else 0.0)
    return prices
