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

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import isnan
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np

from policyopt._answers.crossfit import CrossFitted, answered, crossfit, observe
from policyopt._cache.data import folds_of
from policyopt._engine import run
from policyopt._intervals import effective_rows, mean_interval, standard_error, wilson
from policyopt._limits import NEAR, Limit
from policyopt._methods.fitted import Draft, Expectation, Fitted, expectation, own_costs
from policyopt._methods.levels import MOST_REPLAYED, SPARED, SPENDS, Level, Levels, Spend, aims_of
from policyopt._methods.registry import here_only, own_method
from policyopt._methods.settings import Allowed, Choice, Domain, check_setting
from policyopt._methods.targets import ANOTHER, Target, targets_of
from policyopt._replay import replay, trace
from policyopt._table import Table, subsample
from policyopt._thresholds.budget_search import bisect
from policyopt._thresholds.degenerate_scores import collapse
from policyopt._thresholds.problem import Problem, Solution
from policyopt.runtime._answers import Identity
from policyopt.runtime._arithmetic import coin
from policyopt.runtime._checks import check_seed
from policyopt.runtime._errors import BudgetError, InputError, input_error, message
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._policy import Policy
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._scores import ScoreRule, make_rule, score_table
from policyopt.runtime._typing import Floats, Ints

#: What tuning tries for the setting `answer`.
ANSWERS = Choice(("plain", "combined"))
_ASKS = {"compared": "answers that exits can agree on", "classes": "answers that are classes"}
_FOLDS = 5  # of the cross-fitting of answers, and of cross-validation
#: More: neither the budget nor the accuracy is off by what a user would see.
MOST_ROWS = 5_000
_FEWEST_ROWS = 20
#: Rows below which coefficients are not to be relied on (`benchmarks/promises.py`).
FEW_ROWS = 300
_COINS = 32
_HALVINGS = 8  # of the way between two aims of the grid, to where a floor or limit is met
#: Of quality, what chance may cost: that an exit is of no use at all is never shown by rows.
_NO_LOSS = 0.0002
_SHOWN = 200  # characters of an error
_TOO_FEW = 17  # equal rows that a mean rests on: with fewer, no interval holds what it says
_TAIL = 0.2  # effective rows, of all rows: fewer is a heavy tail


@dataclass(frozen=True)
class Method(ABC):  # noqa: B024 (every hook has a default)
    """Configuration and `fit_path`. A subclass is a frozen dataclass; its fields are its settings.

    Parameters
    ----------
    spend : {"needed", "all"}
        A budget is a limit, of which no more is spent than buys accuracy; or all of it is spent, as in papers.
    """

    #: Name of the method.
    label: ClassVar[str] = ""
    #: Whether coefficients are learned from rows, which takes some hundreds of them.
    learned: ClassVar[bool] = False
    #: Of settings: what each may be, and what tuning may try. Those of base classes hold, too.
    allowed: ClassVar[Mapping[str, Allowed]] = {"spend": SPENDS}
    tuned: ClassVar[Mapping[str, Domain]] = {}
    #: Whether one exit alone is refused: there would be nothing to search or learn.
    decides: ClassVar[bool] = False
    #: What is said of rows that lack something.
    remedy: ClassVar[str] = (
        "which these summaries do not hold. Import full logits, or summaries with that column, or use max_prob."
    )
    #: Whether rows without a label teach it something, too; others see those that have one.
    unlabelled: ClassVar[bool] = False
    #: Whether it is fitted on what a policy logged, too, in which models not called are unknown.
    logs: ClassVar[bool] = False
    #: What it asks of answers: "" nothing, "compared" whether exits give the same one, "classes" which it is.
    asks: ClassVar[str] = ""
    #: What exits return, and scores look at; a name of `policyopt._answers`.
    answer = "plain"
    #: Whether it chooses among other methods, whose levels are its solutions.
    chooses: ClassVar[bool] = False
    #: Whether each budget is trained for: no other budgets are tried, then.
    per_budget: ClassVar[bool] = False
    #: Whether `fit_path` cross-validates: not what has chosen nothing (None: what is `fixed`), or on rows of its own.
    validates: ClassVar[bool | None] = None

    #: See `policyopt._methods.levels`.
    spend: str = field(default="needed", kw_only=True)

    def __post_init__(self) -> None:
        for name, allowed in self.merged("allowed").items():
            check_setting(name, getattr(self, name), allowed)

    def fit_path(self, table: Table, budgets: Any, seed: int = 0) -> list[Fitted]:
        """Return one fitted policy per budget, each replayed and, of few rows, cross-validated.

        Parameters
        ----------
        table : Table
            Rows of the split `fit`, labelled.
        budgets : sequence of float, str or Target
            Mean cost per sample, in the table's unit; or ``"40%"``; or targets. One alone is taken, too.
        seed : int
            Same seed, same policies.

        Returns
        -------
        list of Fitted

        Raises
        ------
        BudgetError
            A budget, floor or limit that no policy can meet.
        """
        targets = targets_of(budgets, table)
        most = [target.most(table) for target in targets]
        check_budgets(table, [budget for budget in most if budget is not None])  # before the work
        found = self.fit_targets(table, targets, seed)
        for one in found:
            if isinstance(one, BudgetError):
                raise one
        return [one for one in found if isinstance(one, Fitted)]

    def fit_targets(
        self, table: Table, targets: Sequence[Target], seed: int = 0
    ) -> list[Fitted | BudgetError]:
        """Return the fitted policy of each target, or why it cannot be met."""
        return validated(Levels(self, table, check_seed(seed)), targets, seed)

    def in_turn(self, what: str) -> Method:
        """Return the method as `what` can take it, which needs exits passed in turn, by thresholds; or refuse it."""
        return self

    def fit_grid(self, table: Table, seed: int) -> list[Fitted | None]:
        """Return what these rows suggest at `aims_of` them, None where one cannot be met."""
        return Levels(self, table, seed).fit_grid()

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Return what these rows suggest, one policy per budget; `fit_path` sees to it that they hold on new rows."""
        return Levels(self, table, seed).fit(budgets)

    @property
    def proposes(self) -> bool:
        """Whether it has a `propose` of its own, and not what `trained` needs."""
        return type(self).propose is not Method.propose

    def trained(self, table: Table, seed: int) -> Spend:
        """Learn from rows once; what comes back solves for budgets, and refuses those that cannot be met."""
        self.check(table)
        draft = self.pose(table, seed)

        def spend(budgets: Sequence[float]) -> Sequence[Draft]:
            # A budget of all rows may be more than those that have a label can cost.
            most = float(draft.problem.mean_costs[-1])
            budgets = [min(budget, most) for budget in budgets]
            for budget in budgets:
                draft.problem.check_budget(budget)
            return self.solve(draft, budgets, seed)

        return spend

    def held_out(self, levels: Levels, seed: int) -> HeldOut | str:
        """Return what rows come to by policies proposed without them, at each aim; or why that cannot be done."""
        return cross_validate(self, levels.table, seed)

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
        answers = crossfit(table, self.answer, folds_of(len(table), _FOLDS, seed, table.group))
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

    def reach(self, table: Table) -> Table:
        """Return the table of the exits that the method may keep."""
        return table

    def ends(self, exits: int) -> Sequence[int]:
        """Return the places but the last, ascending, past which a policy of so many exits may never go."""
        return range(exits - 1)

    @property
    def fixed(self) -> bool:
        """Whether the user gave what others choose: thresholds, a patience, an exit."""
        return False

    @property
    def limits(self) -> bool:
        """Whether a budget is a limit: not where nothing is chosen, or where it is to be spent."""
        return self.spend == "needed" and not self.fixed

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
        return cls.merged("tuned")

    @classmethod
    def merged(cls, name: str) -> dict[str, Any]:
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


@dataclass(frozen=True, eq=False)
class Outcome:
    """What rows pay and are worth under a policy, on average over its coin."""

    paid: Floats  # (N,)
    right: Floats  # (N,); NaN where the label is unknown
    coin: float = 0.0  # variance per row that the coin adds to the cost
    sides: tuple[Floats, ...] = ()  # (N,) each: what rows pay by each side of the coin


def outcome_of(policy: Any, table: Table) -> Outcome:
    """Replay a policy over rows by the code that is deployed, both sides of its coin."""
    found = []
    for weight, one in sides(policy):
        if isinstance(one, RoutingPolicy):
            replayed = replay(one, table)
            found.append((weight, replayed.cost, replayed.quality))
            continue
        seen, right = trace(one, table), np.full(len(table), np.nan)
        worth = table.keep_exits(seen.active_exits).worth(seen.predictions)
        if worth is not None:
            taken = worth[np.arange(len(right)), seen.position].astype(np.float64)
            if seen.abstention is not None:
                taken = seen.abstention.worth(taken, seen.abstained)
            right = np.where(table.valued, taken, np.nan)
        found.append((weight, seen.cost, right))
    mean = expectation(found)
    right = np.sum([weight * right for weight, _, right in found], axis=0)
    return Outcome(mean.paid, right, mean.coin, tuple(cost for _, cost, _ in found))


def sides(policy: Any) -> list[tuple[float, Any]]:
    """Return the policies that a coin chooses from, with their shares."""
    if isinstance(policy, RoutingPolicy):
        shares = (1.0 - policy.share, policy.share) if policy.arms[1:] else (1.0,)
        pairs = zip(shares, policy.arms, strict=True)
        return [(weight, replace(policy, arms=(arm,), share=0.0)) for weight, arm in pairs]
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
    share, (one, other) = policy.mixture.share, outcome.sides
    drawn = [np.where(coin(s, rows) < share, other, one).mean() for s in seeds]
    best = int(np.argmin(np.abs(np.array(drawn) - outcome.paid.mean())))
    return replace(policy, mixture=replace(policy.mixture, seed=seeds[best]))


def seed_of(*parts: int) -> int:
    """Return a seed for a use of its own, e.g. of (seed, restart)."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def cheapest(table: Table) -> float:
    """Return the least mean cost of any policy: of exit 0, or of the cheapest exit alone where skipping saves."""
    return float(table.alone(table.mean_costs).min())


def fit_or_refuse(
    method: Method, table: Table, budgets: Any, seed: int
) -> list[Fitted | BudgetError]:
    """Fit each budget or target that the method can meet; for others return why not."""
    targets = targets_of(budgets, table)
    try:
        return method.fit_targets(table, targets, seed)
    except BudgetError as error:  # whatever is asked for
        return [error] * len(targets)


def fit_where_possible(
    method: Method, table: Table, budgets: Sequence[Any], seed: int, *, validate: bool = True
) -> list[Fitted | None]:
    """Fit each budget that the method can meet, as proposed unless `validate`."""
    if validate:
        found = fit_or_refuse(method, table, budgets, seed)
        return [one if isinstance(one, Fitted) else None for one in found]
    try:
        return list(method.propose(table, budgets, seed))
    except BudgetError:
        if len(budgets) == 1:
            return [None]
        return [fit_where_possible(method, table, [b], seed, validate=False)[0] for b in budgets]


def validated(
    levels: Levels, targets: Sequence[Target], seed: int, validate: bool = True
) -> list[Fitted | BudgetError]:
    """Return policies of levels, their aims corrected by what folds left out cost (see the module), or why not."""
    method, table, found = levels.method, levels.table, levels.validation if validate else None
    validates = not method.fixed if method.validates is None else method.validates
    if validate and not found and validates and _FEWEST_ROWS <= len(table) <= MOST_ROWS:
        held = method.held_out(levels, seed)
        found = levels.validation = folds_from(levels, held) if isinstance(held, HeldOut) else held
    folds = found if isinstance(found, Folds) else None
    why = found if isinstance(found, str) else None
    search = Search(levels, folds)
    low, high = cheapest(table), float(table.mean_costs[-1])
    out: list[Fitted | BudgetError] = []
    for target, found_level in zip(targets, search.levels(targets), strict=True):
        if isinstance(found_level, BudgetError):
            out.append(found_level)
            continue
        aim, level = found_level
        budget = target.most(table)
        one = levels.frozen(level, aim if budget is None else budget)
        said = {**one.policy.provenance, "budget": budget, "target": target.text}
        one = replace(one, budget=budget, policy=replace(one.policy, provenance=said))
        spared = None
        if budget is not None and not target.floored and not target.limits:
            spared = levels.spared(level, aim, budget)
        here = cost = float(one.expected.cost)
        if folds is not None:  # what it costs here, and as much more as the rows left out did
            # The exit's mean, and nothing else: the fit cannot have made it look cheap.
            known = level.alike and (budget is None or here <= budget * (1 + NEAR))
            more = 0.0 if known else float(np.interp(here, folds.costs, folds.off))
            if budget is not None and here >= SPARED * aim:  # what its aim was moved by
                more = 0.0 if known else budget - aim
            cost = float(np.clip(here + more, low, max(here, high)))
        fold = None if folds is None else folds.at(here)
        one = replace(one, quality=search.quality(level)) if fold is not None else one
        out.append(stated(method, one, table, cost, fold, why=why, spared=spared))
    return out


class Search:
    """The levels of a fit that targets ask for."""

    def __init__(self, levels: Levels, folds: Folds | None) -> None:
        self._levels, self._folds, self._table = levels, folds, levels.table
        self._values: dict[Level, float] = {}

    def levels(self, targets: Sequence[Target]) -> list[tuple[float, Level] | BudgetError]:
        """Return what each target aims at, a mean cost as levels claim it, and its level; or why there is none."""
        budgets = [target.most(self._table) for target in targets]
        given = [budget for budget in budgets if budget is not None]
        # What cannot be met is refused in the user's own numbers; without folds, those are the aims.
        looked = [] if self._folds is None else self._levels.tried(given)
        pairs = zip(given, looked, strict=False)
        refused = {b: one for b, one in pairs if isinstance(one, BudgetError)}
        asked = zip(targets, budgets, strict=True)
        found = [refused[b] if b in refused else self._aim(target, b) for target, b in asked]
        plain = [one[1] for one in found if isinstance(one, tuple) and one[0] is self._levels]
        levels = dict(zip(plain, self._levels.tried(plain), strict=True))
        out: list[tuple[float, Level] | BudgetError] = []
        for one in found:
            if isinstance(one, BudgetError):
                out.append(one)
                continue
            of, aim = one
            level = levels[aim] if of is self._levels else of.tried([aim])[0]
            out.append(level if isinstance(level, BudgetError) else (aim, level))
        return out

    def _aim(self, target: Target, budget: float | None) -> tuple[Levels, float] | BudgetError:
        of, most = self._levels, self._levels.aims[-1] if budget is None else self.corrected(budget)
        limits = target.limits
        if limits and of.limited:  # of all that keep them, the best
            of, limits = of.keeping(limits), ()
        try:
            if target.floored:
                of, most = self._least(of, most, target, budget)
            if limits:
                most = self._within(limits, most, target.floored)
        except BudgetError as error:
            return error
        return of, most

    def corrected(self, budget: float) -> float:
        """Return what to aim at so that a budget is kept on new rows; it rises with the budget, as levels do."""
        if self._folds is None:
            return budget
        low, high = cheapest(self._table), float(self._table.mean_costs[-1])
        asked, off = self._folds.aims, self._folds.off
        aims = np.maximum.accumulate(np.maximum(asked - off, low + (asked - low) / 2))
        return min(budget - float(np.interp(budget, asked, asked - aims)), max(budget, high))

    def quality(self, level: Level) -> float:
        """Return what a level is worth on new rows: on these, less what the folds' policies lost on theirs."""
        if self._folds is None or level.alike:
            return level.value
        return level.value + float(np.interp(level.cost, self._folds.costs, self._lost))

    def _kept(self, level: Level) -> float:
        """Return the full model's quality less what a level is expected to lose of it on new rows."""
        # A drop is a loss, and what looks like a gain by chance makes up for none. So what counts is the mean of the
        # loss, 0 where there is none, over how far the difference may be off (a normal): nothing where all rows leave
        # at the last exit, and as good as the difference itself where that lies some errors below 0.
        if level not in self._values:
            full, error = self._levels.full, self._levels.error(level)
            gain, loss = self.quality(level) - full, 0.0
            if error:
                off = NormalDist(gain, error)
                loss = error * error * off.pdf(0.0) - gain * off.cdf(0.0)
            self._values[level] = full + min(gain, 0.0, _NO_LOSS - loss)
        return self._values[level]

    @cached_property
    def _lost(self) -> Floats:
        folds = self._folds
        assert folds is not None
        here = dict(zip(self._levels.aims, self._levels.on_grid(), strict=True))
        worth = [level.value if (level := here[aim]) else np.nan for aim in folds.aims.tolist()]
        known = ~np.isnan(folds.right[0])
        if not known.any():
            return np.full(len(worth), np.nan)
        return folds.right[:, known].mean(axis=1) - np.array(worth)

    def _grid(self, of: Levels, most: float) -> list[tuple[float, Level]]:
        """Return aims up to `most`, ascending, with their levels; `most` is the last of them."""
        pairs = zip(of.aims, of.on_grid(), strict=True)
        found = [(aim, level) for aim, level in pairs if level is not None and aim < most]
        return [*found, (most, of.at([most])[0])]

    def _halved(
        self, of: Levels, low: float, high: float, up: Callable[[Level], bool]
    ) -> tuple[float, float]:
        """Halve the way between two aims; `up`: whether a level lies below the place that is sought."""
        if of.per_budget:
            return low, high
        return bisect(lambda aim: up(of.at([aim])[0]), low, high, _HALVINGS)

    def _least(
        self, of: Levels, most: float, target: Target, budget: float | None
    ) -> tuple[Levels, float]:
        """Return the least aim whose level is worth a floor on new rows, by levels with a price if that is enough."""
        if target.max_drop is None:
            floor, value = float(target.quality or target.accuracy or 0.0), self.quality
        else:
            floor, value = of.full - float(target.max_drop), self._kept
        for of in (of, of.by(value)):  # noqa: B020 (both are made before)
            grid = self._grid(of, most)
            worth = [value(level) for _, level in grid]
            if np.isnan(worth).all():
                _ = self._table.quality  # says what is missing
            met = [i for i, found in enumerate(worth) if found >= floor - NEAR]
            if met:
                break
        else:
            best = int(np.nanargmax(worth))
            unit, cost = self._table.unit, grid[best][1].cost
            another = "" if self._levels.method.name == "auto" else ANOTHER
            said = [] if budget is None else [f"{budget:.6g} {unit}"]
            said += [limit.text for limit in target.limits]
            within = f" within {' and '.join(said)}" if said else ""
            step = f"Ask for less, allow more cost{another}."
            raise target.unmet(self._table, worth[best], cost, step, within)
        first = met[0]
        if first == 0:
            return of, grid[0][0]
        low, high = grid[first - 1][0], grid[first][0]
        return of, self._halved(of, low, high, lambda level: value(level) < floor - NEAR)[1]

    def _within(self, limits: tuple[Limit, ...], most: float, floored: bool) -> float:
        """Return the largest aim up to `most` that keeps limits, of levels that nothing else is to be had of."""
        of = self._levels
        grid = self._grid(of, most)

        def kept(level: Level) -> bool:
            return all(of.kept(level, limit) for limit in limits)

        keeps = [kept(level) for _, level in grid]
        if keeps[-1]:
            return most
        if floored or not any(keeps):
            who = "the floor on quality" if floored else "the cheapest policy"
            tried = [level for _, level in (grid[-1:] if floored else grid)]
            least = [min(of.reached(level, limit) for level in tried) for limit in limits]
            broken = [p for p in zip(limits, least, strict=True) if not p[0].within(p[1])]
            limit, low = broken[0] if broken else (limits[0], least[0])
            allowed = f"{low:.6g} or more: {who} reaches it"
            step = "Raise it, ask for less, or try another method."
            raise BudgetError(message(f"limit {limit.text}", allowed, f"{limit.most:.6g}", step))
        last = max(i for i, ok in enumerate(keeps) if ok)
        return self._halved(of, grid[last][0], grid[last + 1][0], kept)[0]


@dataclass(frozen=True, eq=False)
class Folds:
    """What rows pay and are worth at aims (A,) under policies proposed without them, and how far claims are off."""

    aims: Floats  # (A,), ascending
    costs: Floats  # (A,): what the policies of all rows claim to cost there, ascending
    paid: Floats  # (A, N)
    right: Floats  # (A, N)
    off: Floats  # (A,)

    def at(self, cost: float) -> Outcome:
        """Return the outcome of a policy that claims such a cost, between its neighbours."""
        place = float(np.interp(cost, self.costs, np.arange(len(self.costs))))
        low = min(int(place), len(self.aims) - 1)
        high, part = min(low + 1, len(self.aims) - 1), place - low
        paid, right = ((1 - part) * c[low] + part * c[high] for c in (self.paid, self.right))
        return Outcome(paid, right)


def off_of(
    paid: Floats, claimed: Floats, fold: Ints, whole: Floats, tail: float, group: Ints | None = None
) -> float:
    """Return by how much policies cost more on new rows than they claim, as far as that is not noise."""
    # What a fold pays under the policy of all rows (`whole`), less what the others do, is chance, and sums to 0. By
    # the spread of what is left the mean is shrunk (James & Stein, 1961; never past 0). Not where costs have a heavy
    # `tail` (0 to 1, see `equal_rows`): there a budget met on few rows is missed on average on new ones (a ratio's
    # bias: Cochran, Sampling Techniques, 1977, section 6.8). Shapes (N,).
    count = np.bincount(fold)
    excess = np.bincount(fold, paid - claimed) / count
    here = np.bincount(fold, whole)
    chance = here / count - (here.sum() - here) / (count.sum() - count)
    left = excess - chance
    mean = float((left * count).sum() / count.sum())
    noise = float(left.var(ddof=1)) / len(count)
    shrunk = mean * max(0.0, 1.0 - noise / mean / mean) if mean else 0.0
    # Overspending on the rows at hand, because others seem to be cheaper, stays within their own error.
    error = float(standard_error(whole, group))
    return max(tail * mean + (1.0 - tail) * shrunk, -error)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What rows pay and are worth at A aims by policies proposed without their fold; NaN where one cannot be met."""

    table: Table  # the N rows
    paid: Floats  # (A, N)
    right: Floats  # (A, N)
    claimed: Floats  # (A, N): what the policy said that it costs
    fold: Ints  # (N,)


def cross_validate(method: Method, table: Table, seed: int) -> HeldOut | str:
    """Propose policies without each fold in turn, and replay the fold; or say why that cannot be done."""
    if table.units == 1:
        return "they are one group, which is never divided"
    # By what rows show, not by where they stand: the order of the rows does not matter.
    fold = np.empty(len(table), dtype=np.int64)
    order, group = np.lexsort(table.statistics.confidence.T), table.group
    fold[order] = folds_of(len(table), _FOLDS, seed, None if group is None else group[order])
    columns = np.full((3, len(aims_of(table)), len(table)), np.nan)
    without = _Without(method, table, fold, seed)
    with here_only(own_method(method.name, method)):
        parts = run(without, range(fold.max() + 1), "cross-validating the fit")
        for f, part in enumerate(parts):
            if isinstance(part, str):
                return part
            columns[:, :, fold == f] = part
    paid, right, claimed = columns
    return HeldOut(table, paid, right, claimed, fold)


@dataclass
class _Without:
    """Proposes policies without a fold, and replays it."""

    method: Method
    table: Table
    fold: Ints
    seed: int

    def __call__(self, f: int) -> Floats | str:
        """Return what the fold's rows pay and are worth, and what was claimed, (3, A, n); or why there is nothing."""
        train, rows = (
            self.table.take(np.flatnonzero(at)) for at in (self.fold != f, self.fold == f)
        )
        try:
            path = Levels(self.method, train, self.seed).fit_grid()
        except ValueError as error:
            return str(error)  # ours or a library's: a fold of one class, a singular matrix
        found = np.full((3, len(path), len(rows)), np.nan)
        for i, one in enumerate(path):
            if one is not None:
                outcome = outcome_of(one.policy, rows)
                found[:, i] = outcome.paid, outcome.right, np.full(len(rows), one.expected.cost)
        return found


def folds_from(levels: Levels, held: HeldOut) -> Folds | str:
    """Return what folds say of a table's levels; or why they say nothing."""
    aims, table = np.array(levels.aims), held.table
    whole = levels.fit_grid()
    met = np.array([one is not None for one in whole]) & ~np.isnan(held.paid).any(axis=1)
    met &= np.append(True, np.diff(aims) > 0)  # exits that cost alike put several aims in one place
    if not met.any():
        return "no budget can be met by every fold"
    tail, kin = 1.0 - equal_rows(table), table.group
    off, costs = [], []
    for i, one in enumerate(whole):
        if met[i] and one is not None:
            paid = outcome_of(one.policy, table).paid
            off.append(off_of(held.paid[i], held.claimed[i], held.fold, paid, tail, kin))
            costs.append(one.expected.cost)
    rising = np.maximum.accumulate(costs)
    return Folds(aims[met], rising, held.paid[met], held.right[met], np.array(off))


def stated(
    method: Method,
    one: Fitted,
    table: Table,
    cost: float,
    fold: Outcome | None = None,
    why: str | None = None,
    spared: str | None = None,
) -> Fitted:
    """Replay a policy on the rows of its fit, and say what is expected of it; `why` without a fold."""
    table = subsample(table, MOST_REPLAYED, 0)
    outcome = outcome_of(one.policy, table)
    right, group = outcome.right, table.group
    moved, quality = 0.0, float(np.clip(one.quality, 0.0, 1.0))  # NaN stays NaN
    if fold is not None and len(fold.paid) == len(outcome.paid):
        moved = len(table) * float(standard_error(fold.paid - outcome.paid, table.group)) ** 2
    expected = bounded(Expectation(cost, outcome.paid, outcome.coin, moved), one.policy, table)
    if fold is None and expected.rows != one.expected.rows:  # chosen on rows of its own
        if one.expected.right is not None and one.expected.rows < expected.rows:
            right, group = one.expected.right, one.expected.group
        expected = bounded(one.expected, one.policy, table)
    notes = [*one.policy.provenance.get("notes", []), *remarks(method, table, expected, fold, why)]
    notes += [spared] if spared else []
    provenance = {
        **one.policy.provenance,
        **expected.fields,
        "effective_rows": expected.mean.effective_rows,
        "replayed_cost": float(outcome.paid.mean()),
        "expected_quality": None if isnan(quality) else quality,
        "expected_quality_95": worth_interval(quality, right, group, table.graded),
        **({"notes": notes} if notes else {}),
    }
    policy = fair_coin(one.policy, outcome, int(one.policy.provenance["seed"]))
    policy = replace(policy, provenance=provenance)
    return replace(one, policy=policy, expected=expected, quality=quality)


def worth_interval(
    quality: float, right: Floats, group: Ints | None, graded: bool
) -> list[float] | None:
    """Return the 95 % interval of a quality that is stated, by what rows are worth, (N,); None where not known."""
    there = ~np.isnan(right)
    known, group = right[there], None if group is None else group[there]
    if isnan(quality) or not len(known):
        return None
    if not graded:
        return list(wilson(quality, effective_rows(known, float(known.mean()), group)))
    found = mean_interval(known, center=quality, span=1.0, group=group)
    return [max(found.low, 0.0), min(found.high, 1.0)]


def bounded(expected: Expectation, policy: Policy, table: Table) -> Expectation:
    """Return an expectation within what a row may cost; declined where these rows cannot tell the mean."""
    # Of the exits that the policy keeps; a row not seen may take any of them.
    low, high = float(policy.costs.min()), float(policy.costs.max())
    # Of costs per row no more is known.
    ends = (low, high) if table.costs.ndim == 1 else (0.0, float("inf"))
    equal = equal_rows(table)
    few = equal < _TAIL and table.units * equal < _TOO_FEW  # for so heavy a tail of costs per row
    group = table.group if len(table) == expected.rows else expected.group
    return replace(expected, span=high - low, ends=ends, declined=few, group=group)


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
        out.append(few_rows_note(len(table)))
    out += tail_remarks(expected)
    here = float(expected.paid.mean())
    error = (expected.mean.high - expected.mean.low) / 2
    if abs(here - expected.cost) > error > 0:
        out.append(
            f"on the rows of the fit the policy costs {here:.6g}, on rows left out {expected.cost:.6g} {table.unit}: "
            "the aim was moved by the difference"
        )
    return out


def few_rows_note(rows: int) -> str:
    """Return what is said of learning from few rows."""
    return (
        f"fitted on {rows} rows: below about {FEW_ROWS} a learned policy's cost and accuracy vary widely "
        "from one sample of rows to the next; max_prob needs fewer"
    )


def tail_remarks(expected: Expectation) -> list[str]:
    """Return what is said of costs with a heavy tail."""
    rows, effective = expected.units, expected.mean.effective_rows
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
