"""What a method is: configuration, and the one way in which all of them fit.

A fit goes through hooks that a method overrides as far as it differs: `check` refuses rows by name, `pose` learns
and scores and poses the threshold problem, `solve` meets each budget; what comes out is frozen, replayed and
cross-validated. Most methods need only `rule` and `solve_problem`.

Thresholds are chosen so that the rows at hand cost the budget. New rows cost something else, and not only by
chance: a trained score knows its own rows, a mean of skewed costs is low more often than high and the policy
spends what it seems to save, and a search of thresholds takes what looks best. All of that is of the order of
1/N, and five folds measure it: each is replayed through a policy proposed without it. By what these rows cost
more than the proposal had stated, the aim of the fit on all rows is lowered (or raised), as far as that is not
noise. Their costs and answers also give the accuracy that is stated, and how far the training of a score moves
single rows, which widens the interval. Above 5,000 rows only the replay is left.
"""

from __future__ import annotations

import sys
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import isnan
from typing import Any, ClassVar

import numpy as np

from policyopt._answers.crossfit import CrossFitted, answered, crossfit, folds_of, observe
from policyopt._costs import budget_list, overhead
from policyopt._methods.fitted import Draft, Expectation, Fitted, expectation, flat_note
from policyopt._methods.settings import Allowed, Choice, Domain, check_setting
from policyopt._progress import progress_callback, report
from policyopt._replay import trace
from policyopt._table import Table
from policyopt._thresholds.degenerate_scores import collapse
from policyopt._thresholds.problem import Problem, Solution
from policyopt.runtime._answers import AnswerRule, Identity
from policyopt.runtime._arithmetic import coin
from policyopt.runtime._checks import check_seed
from policyopt.runtime._errors import BudgetError, InputError, input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._policy import Mixture, Policy, first_exit
from policyopt.runtime._scores import ScoreRule, make_rule, score_table
from policyopt.runtime._typing import Floats, Ints

#: What tuning tries for the setting `answer`.
ANSWERS = Choice(("plain", "combined"))
_ASKS = {"compared": "answers that exits can agree on", "classes": "answers that are classes"}
_FOLDS = 5  # of the cross-fitting of answers, and of cross-validation
#: More: neither the budget nor the accuracy is off by what a user would see.
MOST_ROWS = 5_000
_FEWEST_ROWS = 20
_MOST_REPLAYED = 100_000  # as many as fits look at
_NOTABLE = 0.003  # of the budget: smaller corrections are not worth a second fit
#: Rows below which coefficients are not to be relied on (`benchmarks/promises.py`).
FEW_ROWS = 300
_COINS = 32
_SHOWN = 200  # characters of an error
_TOO_FEW = 17  # equal rows that a mean rests on: with fewer, no interval holds what it says
_TAIL = 0.2  # effective rows, of all rows: fewer is a heavy tail


@dataclass(frozen=True)
class Method(ABC):  # noqa: B024 (every hook has a default)
    """Configuration and `fit_path`. A subclass is a frozen dataclass; its fields are its settings."""

    #: Name of the method.
    label: ClassVar[str] = ""
    #: Whether coefficients are learned from rows, which takes some hundreds of them.
    learned: ClassVar[bool] = False
    #: Of settings: what each may be, and what tuning may try. Those of base classes hold, too.
    allowed: ClassVar[Mapping[str, Allowed]] = {}
    tuned: ClassVar[Mapping[str, Domain]] = {}
    #: Whether one exit alone is refused: there would be nothing to search or learn.
    decides: ClassVar[bool] = False
    #: What is said of rows that lack something.
    remedy: ClassVar[str] = (
        "which these summaries do not hold. Import full logits, or summaries with that column, or use max_prob."
    )
    #: What it asks of answers: "" nothing, "compared" whether exits give the same one, "classes" which it is.
    asks: ClassVar[str] = ""
    #: What exits return, and scores look at; a name of `policyopt._answers`.
    answer = "plain"

    def __post_init__(self) -> None:
        for name, allowed in self._merged("allowed").items():
            check_setting(name, getattr(self, name), allowed)

    def fit_path(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Return one fitted policy per budget, each replayed and, of few rows, cross-validated.

        Parameters
        ----------
        table : Table
            Rows of the split `fit`, labelled.
        budgets : sequence of float
            Mean cost per sample, in the table's unit; or ``"40%"``. One alone is taken, too.
        seed : int
            Same seed, same policies.

        Returns
        -------
        list of Fitted

        Raises
        ------
        BudgetError
            A budget that no policy can meet.
        """
        return validated(self, table, budget_list(budgets, table.mean_costs), check_seed(seed))

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Return what these rows suggest, one policy per budget; `fit_path` sees to it that they hold on new rows."""
        self.check(table)
        draft = self.pose(table, seed)
        for budget in budgets:
            draft.problem.check_budget(budget)
        solved = zip(self.solve(draft, budgets, seed), budgets, strict=True)
        return [build_fitted(self, one, budget, seed) for one, budget in solved]

    def check(self, table: Table) -> None:
        """Refuse rows that lack what the method needs, by name."""
        missing = self.missing_columns(table)
        if missing:
            remedy = self.remedy
            if not table.whole and not KINDS[table.kind].record:
                remedy = f"which outputs of kind {table.kind} do not say. Use max_prob, or auto."
            raise InputError(f"Method '{self.name}' needs {', '.join(missing)}, {remedy}")
        if self.decides:
            check_exits(table)

    def pose(self, table: Table, seed: int) -> Draft:
        """Return the rule and the threshold problem: here of a rule with nothing to learn but the answers."""
        answers = crossfit(table, self.answer, folds_of(len(table), _FOLDS, seed))
        table = answered(table, answers)
        rule = self.rule(table, seed)
        problem = problem_of(rule, table, answers, self.requires_labels())
        return Draft(rule, table, problem, answers.rule)

    def rule(self, table: Table, seed: int) -> ScoreRule:
        """Return the score rule for answered rows."""
        return make_rule("max_prob", {})

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        """Return the draft with its solution for each budget, which have been checked."""
        found = self.solve_problem(draft.problem, budgets)
        return [replace(draft, solution=solution) for solution in found]

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        """Return thresholds for each budget."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.label

    @property
    def validates(self) -> bool:
        """Whether `fit_path` cross-validates: not what has chosen nothing, or on rows of its own."""
        return True

    def required_columns(self) -> frozenset[str]:
        """Columns that the method reads and that summaries may lack."""
        return frozenset()

    def requires_labels(self) -> bool:
        """Whether a fit needs to know which answers are right."""
        return True

    def missing_columns(self, table: Table) -> list[str]:
        """Return what the method needs and these rows do not hold."""
        kind = KINDS[table.kind]
        told = {"compared": not kind.scaled, "classes": kind.answers_class}.get(self.asks, True)
        lacking = [] if told else [_ASKS[self.asks]]
        return [*lacking, *sorted(self.required_columns() - table.known)]

    def settings(self) -> dict[str, Any]:
        """Return the method's fields, JSON-able."""
        return asdict(self)

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return, per setting worth tuning, what `policyopt tune` may try."""
        return cls._merged("tuned")

    @classmethod
    def _merged(cls, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for one in reversed(cls.__mro__):
            found |= vars(one).get(name, {})
        return found


def check_exits(table: Table) -> None:
    """Refuse one exit alone, where methods that search or learn have nothing to work on."""
    if table.exits < 2:
        allowed = "2 or more: with one there is nothing to decide"
        raise input_error("exits", allowed, table.exits, "Import the outputs of all exits.")


def check_budgets(table: Table, budgets: Sequence[float]) -> None:
    """Refuse budgets outside what any policy on these rows can cost, its own arithmetic left out."""
    for budget in budgets:
        range_of(table).check_budget(budget)


def range_of(table: Table) -> Problem:
    """Return a problem without rows to speak of, of the costs between which any policy on these rows lies."""
    ends = np.array([cheapest(table), table.mean_costs[-1]])
    return Problem(np.zeros((1, 2)), np.zeros((1, 2)), ends, table.unit)


def problem_of(
    rule: ScoreRule, table: Table, answers: CrossFitted | None = None, labelled: bool = True
) -> Problem:
    """Score a table's rows, whose statistics stand for `answers`, and pose the problem; worth is NaN without labels."""
    answers = answers or CrossFitted(Identity())
    known = labelled or table.labelled
    value = table.quality if known else np.full((len(table), table.exits), np.nan)
    costs = table.costs + own_costs(table, rule, answer=answers.rule)
    scores, flat = collapse(rule, _scored(rule, table, answers))
    return Problem(scores, value, costs, table.unit, flat)


def _scored(rule: ScoreRule, table: Table, answers: CrossFitted) -> Floats:
    """Return the scores (N, K) of a table's rows; whole outputs are read only by rules that need them."""
    if "log_prob" not in rule.required_columns:
        return score_table(rule, table.statistics.outputs())
    scores = np.empty((len(table), table.exits), order="F")
    for rows, seen in observe(table, answers, full=True):
        scores[rows] = score_table(rule, seen, rows)
    return scores


def own_costs(table: Table, *rules: ScoreRule, answer: AnswerRule | None = None) -> Floats:
    """Return the cumulative cost of arithmetic, (K,): of rules, and answers (None: plain); known before training."""
    return overhead(answer or Identity(), rules, table.exits, table.classes, table.rate)


def build_fitted(method: Method, draft: Draft, budget: float, seed: int) -> Fitted:
    """Freeze a solved draft into a policy, its own arithmetic among its costs, and say where it comes from."""
    table, problem, solution = draft.table, draft.problem, draft.solution
    assert solution is not None
    expected, quality = draft.expected, draft.quality
    if expected is None or quality is None:
        sets = [(1.0 - solution.share, solution.thresholds)]
        if solution.other is not None:
            sets.append((solution.share, solution.other))
        outcomes = []
        for weight, thresholds in sets:
            exits = first_exit(problem.scores, thresholds)
            outcomes.append((weight, problem.cost_at(exits), problem.gained(exits)))
        expected = expected or expectation(outcomes, problem)
        quality = sum(weight * float(gained.mean()) for weight, _, gained in outcomes)
    mixture = None
    if solution.other is not None:
        mixture = Mixture(solution.other, float(solution.share), int(seed), draft.other)
    rules = (draft.rule,) if draft.other is None else (draft.rule, draft.other)
    own = own_costs(table, *rules, answer=draft.answer)
    flat = tuple(int(table.active_exits[k]) for k in problem.flat)
    provenance: dict[str, Any] = {
        "method": method.name,
        "settings": method.settings(),
        "seed": int(seed),
        "budget": float(budget),
        "cost": table.cost_name,
        "rows": len(table),
        "split": table.split,
        "cache": table.cache,
        "versions": {
            "policyopt": _version(),
            "numpy": np.__version__,
            "python": sys.version.split()[0],
        },
    }
    if table.graded:
        provenance["graded"] = True
    if table.utility is not None:
        provenance["utility"] = table.utility.provenance
    if flat:
        provenance["notes"] = [flat_note(flat)]
    policy = Policy(
        draft.rule,
        solution.thresholds,
        table.mean_costs + own,
        table.unit,
        table.kind,
        table.classes,
        mixture,
        provenance,
        draft.answer,
        own,
        active_exits=table.active_exits,
        model_exits=table.model_exits,
        error_scale=table.measure.error_scale,
    )
    return Fitted(policy, method.name, budget, expected, quality, flat)


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # as long to load as all of this

    try:
        return version("policyopt")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What rows pay and are worth under a policy, on average over its coin."""

    paid: Floats  # (N,)
    right: Floats  # (N,); NaN where the label is unknown
    coin: float = 0.0  # variance per row that the coin adds to the cost
    sides: tuple[Floats, ...] = ()  # (N,) each: what rows pay by each side of the coin


def outcome_of(policy: Policy, table: Table) -> Outcome:
    """Replay a policy over rows by the code that is deployed, both sides of its coin."""
    found = []
    for weight, one in sides(policy):
        seen, right = trace(one, table), np.full(len(table), np.nan)
        worth = table.keep_exits(seen.active_exits).worth(seen.predictions)
        if worth is not None:
            taken = worth[np.arange(len(right)), seen.position].astype(np.float64)
            right = np.where(table.valued, taken, np.nan)
        found.append((weight, seen.cost, right))
    mean = expectation(found)
    right = np.sum([weight * right for weight, _, right in found], axis=0)
    return Outcome(mean.paid, right, mean.coin, tuple(cost for _, cost, _ in found))


def sides(policy: Policy) -> list[tuple[float, Policy]]:
    """Return the policies that a coin chooses from, with their shares."""
    mixture = policy.mixture
    if mixture is None:
        return [(1.0, policy)]
    rule = mixture.rule or policy.rule
    other = replace(policy, rule=rule, thresholds=mixture.thresholds, mixture=None)
    return [(1.0 - mixture.share, replace(policy, mixture=None)), (mixture.share, other)]


def fair_coin(policy: Policy, outcome: Outcome, seed: int) -> Policy:
    """Return a policy whose coin, of a few, comes nearest to its expectation on the rows, numbered 0 to N-1."""
    if policy.mixture is None:
        return policy
    rows = np.arange(len(outcome.paid))
    seeds = [seed, *(seed_of(seed, j) for j in range(1, _COINS))]
    drawn = [
        np.where(coin(s, rows) < policy.mixture.share, outcome.sides[1], outcome.sides[0]).mean()
        for s in seeds
    ]
    best = int(np.argmin(np.abs(np.array(drawn) - outcome.paid.mean())))
    return replace(policy, mixture=replace(policy.mixture, seed=seeds[best]))


def seed_of(*parts: int) -> int:
    """Return a seed for a use of its own, e.g. of (seed, restart)."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def cheapest(table: Table) -> float:
    """Return the least mean cost of any policy: of exit 0, or of a cascade's cheapest model alone."""
    costs = table.mean_costs
    return float(np.diff(costs, prepend=0.0).min() if table.cascade else costs[0])


def subsample(table: Table, most: int, seed: int) -> Table:
    """Return the table, or a random part of its rows, in order, where there are more than `most`."""
    if len(table) <= most:
        return table
    return table.take(np.sort(np.random.default_rng(seed).permutation(len(table))[:most]))


def fit_where_possible(
    method: Method, table: Table, budgets: Sequence[float], seed: int, *, validate: bool = True
) -> list[Fitted | None]:
    """Fit each budget that the method can meet, as proposed unless `validate`."""
    try:
        return list((method.fit_path if validate else method.propose)(table, budgets, seed))
    except BudgetError:
        if len(budgets) == 1:
            return [None]
        return [
            fit_where_possible(method, table, [budget], seed, validate=validate)[0]
            for budget in budgets
        ]


def validated(method: Method, table: Table, budgets: Sequence[float], seed: int) -> list[Fitted]:
    """Return a method's policies, their aims corrected by what folds left out cost; see the module."""
    found = method.propose(table, budgets, seed)
    folds = None
    if method.validates and _FEWEST_ROWS <= len(table) <= MOST_ROWS:
        folds = cross_validate(method, table, budgets, seed)
    if not isinstance(folds, Folds):
        return [stated(method, one, table, one.expected.cost, why=folds) for one in found]
    tail = 1.0 - equal_rows(table)
    outcomes: list[Outcome | None] = [outcome_of(one.policy, table) for one in found]
    off = np.array([folds.off(i, one, tail) for i, one in enumerate(outcomes) if one])
    low, high = cheapest(table), float(table.mean_costs[-1])
    asked = np.array([float(one.expected.cost) for one in found])
    most = np.maximum(asked, high)  # the policy's own arithmetic may cost more than the last exit
    aims = np.clip(asked - off, low + (asked - low) / 2, most)
    moved = np.flatnonzero(np.abs(aims - asked) > _NOTABLE * asked)
    again = []
    if len(moved):
        wanted = [float(aims[i]) for i in moved]
        again = fit_where_possible(method, table, wanted, seed, validate=False)
    for i, one in zip(moved.tolist(), again, strict=True):
        if one is not None:
            # The folds' policies had that much more to spend: what it bought, the corrected one does without.
            folds.right[i] -= found[i].quality - one.quality if not isnan(one.quality) else 0.0
            found[i], outcomes[i] = one, None
    out = []
    for i, (one, budget) in enumerate(zip(found, budgets, strict=True)):
        fold = Outcome(folds.paid[i], folds.right[i])
        # What it costs here, and as much more as the rows left out did; what was not worth a fit is noise.
        more = off[i] if i in moved else 0.0
        cost = float(np.clip(one.expected.cost + more, low, most[i]))
        policy = replace(one.policy, provenance={**one.policy.provenance, "budget": float(budget)})
        one = replace(one, budget=budget, policy=policy)
        out.append(stated(method, one, table, cost, fold, outcomes[i]))
    return out


@dataclass(frozen=True, eq=False)
class Folds:
    """What rows pay and are worth under policies proposed without them, (B, N), and what was claimed of it."""

    paid: Floats
    right: Floats
    claimed: Floats
    fold: Ints

    def off(self, budget: int, whole: Outcome, tail: float) -> float:
        """Return by how much policies cost more on new rows than they claim, as far as that is not noise.

        What a fold pays under the policy of all rows (`whole`), less what the others do, is chance, and sums to 0. By
        the spread of what is left the mean is shrunk (James & Stein, 1961; never past 0). Not where costs have a heavy
        `tail` (0 to 1, see `equal_rows`): there a budget met on few rows is missed on average on new ones (a ratio's
        bias: Cochran, Sampling Techniques, 1977, section 6.8).
        """
        count = np.bincount(self.fold)
        excess = np.bincount(self.fold, self.paid[budget] - self.claimed[budget]) / count
        here = np.bincount(self.fold, whole.paid)
        chance = here / count - (here.sum() - here) / (count.sum() - count)
        left = excess - chance
        mean = float((left * count).sum() / count.sum())
        noise = float(left.var(ddof=1)) / len(count)
        shrunk = mean * max(0.0, 1.0 - noise / mean**2) if mean else 0.0
        # Overspending on the rows at hand, because others seem to be cheaper, stays within their own error.
        error = float(whole.paid.std()) / len(whole.paid) ** 0.5
        return max(tail * mean + (1.0 - tail) * shrunk, -error)


def cross_validate(
    method: Method, table: Table, budgets: Sequence[float], seed: int
) -> Folds | str:
    """Propose policies without each fold in turn, and replay the fold; or say why that cannot be done."""
    # By what rows show, not by where they stand: the order of the rows does not matter.
    fold = np.empty(len(table), dtype=np.int64)
    fold[np.lexsort(table.statistics.confidence.T)] = folds_of(len(table), _FOLDS, seed)
    shape = (len(budgets), len(table))
    found = Folds(np.empty(shape), np.empty(shape), np.empty(shape), fold)
    for f in range(_FOLDS):
        report(f, _FOLDS, "cross-validating the fit")
        held, train = np.flatnonzero(fold == f), table.take(np.flatnonzero(fold != f))
        inside = list(budgets)
        if table.costs.ndim == 2:  # each fold has a range of its own
            low, high = cheapest(train), float(train.mean_costs[-1])
            inside = [float(np.clip(budget, low, max(high, low))) for budget in budgets]
        try:
            with progress_callback(None):  # the folds are what is told
                path = fit_where_possible(method, train, inside, seed, validate=False)
        except ValueError as error:
            return str(error)  # ours or a library's: a fold of one class, a singular matrix
        for i, one in enumerate(path):
            if one is None:
                return f"a fold cannot meet the budget {inside[i]:.6g}"
            outcome = outcome_of(one.policy, table.take(held))
            found.paid[i, held], found.right[i, held] = outcome.paid, outcome.right
            found.claimed[i, held] = one.expected.cost
    return found


def stated(
    method: Method,
    one: Fitted,
    table: Table,
    cost: float,
    fold: Outcome | None = None,
    outcome: Outcome | None = None,
    why: str | None = None,
) -> Fitted:
    """Replay a policy on the rows of its fit (`outcome`), and say what is expected of it; `why` without a fold."""
    table = subsample(table, _MOST_REPLAYED, 0)
    outcome = outcome or outcome_of(one.policy, table)
    moved, quality = 0.0, one.quality
    if fold is not None:
        moved = float((fold.paid - outcome.paid).var())
        known = ~np.isnan(fold.right)
        quality = float(fold.right[known].mean().clip(0, 1)) if known.any() else float("nan")
    expected = bounded(Expectation(cost, outcome.paid, outcome.coin, moved), one.policy, table)
    if fold is None and expected.rows != one.expected.rows:  # chosen on rows of its own
        expected = bounded(one.expected, one.policy, table)
    notes = [*one.policy.provenance.get("notes", []), *remarks(method, table, expected, fold, why)]
    provenance = {
        **one.policy.provenance,
        **expected.fields,
        "effective_rows": expected.mean.effective_rows,
        "replayed_cost": float(outcome.paid.mean()),
        "expected_quality": None if isnan(quality) else quality,
        **({"notes": notes} if notes else {}),
    }
    policy = fair_coin(one.policy, outcome, int(one.policy.provenance["seed"]))
    policy = replace(policy, provenance=provenance)
    return replace(one, policy=policy, expected=expected, quality=quality)


def bounded(expected: Expectation, policy: Policy, table: Table) -> Expectation:
    """Return an expectation within what a row may cost; declined where these rows cannot tell the mean."""
    # Of the exits that the policy keeps; a row not seen may take any of them.
    low, high = float(policy.costs.min()), float(policy.costs.max())
    # Of costs per row no more is known.
    ends = (low, high) if table.costs.ndim == 1 else (0.0, float("inf"))
    equal = equal_rows(table)
    few = equal < _TAIL and len(table) * equal < _TOO_FEW  # for so heavy a tail of costs per row
    return replace(expected, span=high - low, ends=ends, declined=few)


def equal_rows(table: Table) -> float:
    """Return how many equal rows tell as much of the mean cost as one: 1, of log-normals ``exp(-variance of logs)``."""
    if table.costs.ndim == 1:
        return 1.0
    last = table.costs[:, -1]
    return float(np.exp(-np.log(last[last > 0]).var())) if (last > 0).any() else 1.0


def remarks(
    method: Method,
    table: Table,
    expected: Expectation,
    fold: Outcome | None,
    why: str | None = None,
) -> list[str]:
    """Return what a user should know of a fit's rows."""
    out = []
    if why:
        out.append(
            f"not cross-validated, for it cannot be fitted without a fifth of the rows ({why[:_SHOWN]}): the cost "
            "and accuracy stated are those of the rows of the fit"
        )
    if method.learned and len(table) < FEW_ROWS:
        out.append(
            f"fitted on {len(table)} rows: below about {FEW_ROWS} a learned policy's cost and accuracy vary widely "
            "from one sample of rows to the next; max_prob needs fewer"
        )
    out += tail_remarks(expected)
    here = float(expected.paid.mean())
    error = (expected.mean.high - expected.mean.low) / 2
    if abs(here - expected.cost) > error > 0:
        out.append(
            f"on the rows of the fit the policy costs {here:.6g}, on rows left out {expected.cost:.6g} {table.unit}: "
            "the aim was moved by the difference"
        )
    return out


def tail_remarks(expected: Expectation) -> list[str]:
    """Return what is said of costs with a heavy tail."""
    rows, effective = expected.rows, expected.mean.effective_rows
    out = []
    if expected.declined:
        out.append(
            f"costs have too heavy a tail for {rows} rows: their mean may be far off, so no interval is stated, and "
            "the budget may be missed; fit on more rows"
        )
    elif effective < _TAIL * rows:
        out.append(
            f"costs have a heavy tail: their mean rests on about {effective:.0f} of {rows} rows, and its interval "
            "is as wide as that makes it"
        )
    return out
