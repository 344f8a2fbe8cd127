"""What a method is: configuration with `fit_path`; what it returns: frozen results."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import numpy as np
from scipy.stats import norm

from policyopt.answers.crossfit import CrossFitted, observe
from policyopt.budgets import budget_list
from policyopt.intervals import MeanInterval, mean_interval
from policyopt.methods.space import Domain
from policyopt.overhead import overhead
from policyopt.runtime.answers import AnswerRule, Plain
from policyopt.runtime.checks import check_seed
from policyopt.runtime.decision import Mixture
from policyopt.runtime.errors import BudgetError, input_error
from policyopt.runtime.policy import Policy, first_exit
from policyopt.runtime.scores import ScoreRule, score_table
from policyopt.runtime.typing import Floats
from policyopt.table import Table
from policyopt.thresholds.flat import level
from policyopt.thresholds.problem import Problem, Solution


@dataclass(frozen=True, eq=False)
class Expectation:
    """Mean cost that a policy is expected to realise on unseen rows.

    The thresholds were set so that N rows cost the budget. In the long run the policy's mean cost differs
    from that by the sampling error of these rows (first-order delta method; thresholds are quantiles of them),
    and by what the training of its score would have made of others (`more_variance`).

    Attributes
    ----------
    cost : float
        In the unit of the costs.
    paid : ndarray of shape (N,)
        What each of the rows that chose the thresholds pays, on average over the policy's coin.
    coin : float
        Variance per sample that the coin adds.
    more_variance : float
        Per row, of the trained score: of the difference between what rows pay by the policy, and by policies
        that they took no part in.
    span : float
        Cost of the last exit less that of the first: as far as a row not seen may lie off.
    ends : tuple of float, optional
        Between which the mean lies for certain: of costs per exit the least and the largest, of others 0.
    declined : bool
        Whether costs have so heavy a tail for so few rows that no interval is stated: its ends are NaN.
    """

    cost: float
    paid: Floats
    coin: float = 0.0
    more_variance: float = 0.0
    span: float = 0.0
    ends: tuple[float, float] | None = None
    declined: bool = False

    @property
    def rows(self) -> int:
        """N, the rows the thresholds were chosen on."""
        return len(self.paid)

    @property
    def sd(self) -> float:
        """Standard deviation of the cost per sample, the coin's part included."""
        return float((self.paid.var() + self.coin) ** 0.5)

    @cached_property
    def mean(self) -> MeanInterval:
        """The long-run mean cost with its 95 % interval, and the effective number of rows.

        The coin's variance counts as if these rows had been tossed for: they need not have been, and the
        interval is the wider for it, but so are those of who replays them and compares.
        """
        more, span = self.more_variance + self.coin, self.span
        return mean_interval(self.paid, center=self.cost, more_variance=more, span=span)

    @property
    def stated(self) -> tuple[float, float] | tuple[None, None]:
        """The 95 % interval of the long-run mean cost, None where it is declined."""
        return (None, None) if self.declined else self.interval()

    def interval(self, rows: int | None = None, level: float = 0.95) -> tuple[float, float]:
        """Return the interval of the mean cost of `rows` unseen rows (None: in the long run).

        Examples
        --------
        >>> paid = np.tile([1.0, 3.0], 50)
        >>> low, high = Expectation(2.0, paid).interval()
        >>> round(low, 1), round(high, 1)
        (1.8, 2.2)
        """
        if self.declined:
            return float("nan"), float("nan")
        z = float(norm.ppf(0.5 + level / 2))
        scale = z / float(norm.ppf(0.975))
        new = 0.0 if rows is None else z * self.sd / rows**0.5
        low, high = (scale * (end - self.cost) for end in (self.mean.low, self.mean.high))
        found = self.cost - float(np.hypot(low, new)), self.cost + float(np.hypot(high, new))
        if self.ends is None:
            return found
        return max(found[0], self.ends[0]), min(found[1], self.ends[1])


@dataclass(frozen=True, eq=False)
class Fitted:
    """The result of a fit: a frozen policy and what is known about it.

    Attributes
    ----------
    policy : Policy
        What is deployed.
    method : str
        Label of the method.
    budget : float or None
        Mean cost asked for, in the policy's unit; None where thresholds were given without one.
    expected : Expectation
        The realised cost to expect on unseen rows.
    accuracy : float
        Cross-validated from 20 to 5,000 rows, less what a choice among methods gains by chance (see
        `policyopt.methods.validation` and `choosing`). Of fewer or more, of networks, and where a fold cannot be
        fitted, that of the rows that chose the thresholds. NaN where they have no labels.
    flat : tuple of int
        Exits, in the model's numbers, whose scores differ by rounding only: each decides the same for all
        samples, or by a coin (see `policyopt.thresholds.flat`). The provenance's ``notes`` say so.
    """

    policy: Policy
    method: str
    budget: float | None
    expected: Expectation
    accuracy: float
    flat: tuple[int, ...] = ()

    def save(self, path: Any) -> None:
        """Write the policy's artifact (JSON)."""
        self.policy.save(path)


@dataclass(frozen=True)
class Method(ABC):
    """Configuration and `fit_path`. A subclass is a frozen dataclass; its fields are its settings."""

    #: Whether coefficients are learned from rows, which takes some hundreds of them.
    learned: ClassVar[bool] = False

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
        from policyopt.methods.validation import validated

        given = budget_list(budgets, table.mean_costs)
        return validated(self, table, given, check_seed(seed))

    @abstractmethod
    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Return what these rows suggest, one policy per budget, trained once where the method allows.

        As `fit_path`, which asks for this several times and sees to it that the budget holds on new rows.
        """

    @property
    def validates(self) -> bool:
        """Whether `fit_path` cross-validates: not what has chosen nothing, or on rows of its own."""
        return True

    def needs(self) -> frozenset[str]:
        """Columns that the method reads and that records may lack."""
        return frozenset()

    def labelled(self) -> bool:
        """Whether a fit needs to know which answers are right."""
        return True

    def lacks(self, table: Table) -> list[str]:
        """Return what the method needs and these rows do not hold."""
        return sorted(self.needs() - table.known)

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return, per setting worth tuning, what `policyopt tune` may try."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Return the method's fields, JSON-able."""
        return asdict(self)


def check_exits(table: Table) -> None:
    """Refuse one exit alone, where methods that search or learn have nothing to work on."""
    if table.exits < 2:
        raise input_error(
            "exits", "2 or more: with one there is nothing to decide", table.exits,
            "Import the outputs of all exits.",
        )  # fmt: skip


def cheapest(table: Table) -> float:
    """Return the least mean cost of any policy: of exit 0, or of a cascade's cheapest model alone."""
    costs = table.mean_costs
    return float(np.diff(costs, prepend=0.0).min() if table.cascade else costs[0])


def check_budgets(table: Table, budgets: Sequence[float]) -> None:
    """Refuse budgets outside what any policy on these rows can cost, its own arithmetic left out."""
    ends = np.array([cheapest(table), table.mean_costs[-1]])
    bare = Problem(np.zeros((1, 2)), np.zeros((1, 2)), ends, table.unit)
    for budget in budgets:
        bare.check_budget(budget)


def fit_where_possible(
    method: Method, table: Table, budgets: Sequence[float], seed: int, *, validate: bool = True
) -> list[Fitted | None]:
    """Fit each budget that the method can meet: its own arithmetic may be too much for the lowest.

    Without `validate` the policies are as proposed: for those that are judged on rows of their own.
    """
    try:
        return list((method.fit_path if validate else method.propose)(table, budgets, seed))
    except BudgetError:
        if len(budgets) == 1:
            return [None]
        return [
            fit_where_possible(method, table, [budget], seed, validate=validate)[0]
            for budget in budgets
        ]


def problem_of(
    rule: ScoreRule, table: Table, answers: CrossFitted | None = None, labelled: bool = True
) -> Problem:
    """Score the rows of a table with a rule, and pose the threshold problem.

    `answers` is what the table's statistics stand for (see `policyopt.answers.answered`); its
    arithmetic is part of the costs. Rows of a fit that is not `labelled` may lack labels: what
    leaving is worth is then NaN.
    """
    answers = answers or CrossFitted(Plain())
    known = labelled or table.labelled
    value = table.correct if known else np.full((len(table), table.exits), np.nan)
    spent = overhead(answers.rule, (rule,), table.exits, table.classes, table.rate)
    scores, flat = level(rule, scored(rule, table, answers))
    return Problem(scores, value, table.costs + spent, table.unit, flat)


def scored(rule: ScoreRule, table: Table, answers: CrossFitted) -> Floats:
    """Return the scores (N, K) of a table's rows; whole outputs are read only by rules that need them."""
    if "log_prob" not in rule.needs:
        return score_table(rule, table.statistics.outputs())
    scores = np.empty((len(table), table.exits), order="F")
    for rows, seen in observe(table, answers, full=True):
        scores[rows] = score_table(rule, seen, rows)
    return scores


def conclude(
    method: Method,
    label: str,
    rule: ScoreRule,
    table: Table,
    problem: Problem,
    solution: Solution,
    budget: float,
    seed: int,
    expected: Expectation | None = None,
    answer: AnswerRule | None = None,
) -> Fitted:
    """Freeze a solution into a policy, with its expected cost and its provenance.

    `expected` is given where it is known in closed form; else it is what the solution costs here.
    """
    sets = [(1.0 - solution.share, solution.thresholds)]
    if solution.other is not None:
        sets.append((solution.share, solution.other))
    outcomes = []
    for weight, thresholds in sets:
        exits = first_exit(problem.scores, thresholds)
        outcomes.append((weight, problem.paid(exits), problem.gained(exits)))
    mixture = (
        None
        if solution.other is None
        else Mixture(solution.other, float(solution.share), int(seed))
    )
    if expected is None:
        expected = expectation(outcomes, problem)
    return freeze(
        method, label, rule, solution.thresholds, mixture, table, budget, seed, expected,
        sum(weight * float(gained.mean()) for weight, _, gained in outcomes), answer, problem.flat,
    )  # fmt: skip


def expectation(
    outcomes: Sequence[tuple[float, Floats, Floats]], problem: Problem | None = None
) -> Expectation:
    """Return what a mixture of policies, (share, cost per row, value per row) each, is to cost."""
    paid = np.sum([weight * cost for weight, cost, _ in outcomes], axis=0)
    coin = sum(weight * float(((cost - paid) ** 2).mean()) for weight, cost, _ in outcomes)
    span = 0.0 if problem is None else float(np.ptp(problem.mean_costs))
    return Expectation(float(paid.mean()), paid, coin, 0.0, span)


def freeze(
    method: Method,
    label: str,
    rule: ScoreRule,
    thresholds: Floats,
    mixture: Mixture | None,
    table: Table,
    budget: float,
    seed: int,
    expected: Expectation,
    accuracy: float,
    answer: AnswerRule | None = None,
    flat: Sequence[int] = (),
) -> Fitted:
    """Make the policy, its costs including its own arithmetic, and say where it comes from.

    Flat exits (see `policyopt.thresholds.flat`) are told of in the provenance's ``notes``.
    """
    answer = answer or Plain()
    rules = (rule,) if mixture is None or mixture.rule is None else (rule, mixture.rule)
    own = overhead(answer, rules, table.exits, table.classes, table.rate)
    provenance = {
        "method": label,
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
            "python": platform.python_version(),
        },
    }
    named = tuple(int(table.path[k]) for k in flat)
    if named:
        provenance["notes"] = [flat_note(named)]
    policy = Policy(
        rule,
        thresholds,
        table.mean_costs + own,
        table.unit,
        table.kind,
        table.classes,
        mixture,
        provenance,
        answer,
        own,
        kept=table.kept,
        model_exits=table.model_exits,
    )
    return Fitted(policy, label, budget, expected, accuracy, named)


def flat_note(exits: Sequence[int]) -> str:
    """Return what is said of exits, in the model's numbers, whose scores do not tell samples apart.

    Examples
    --------
    >>> flat_note([0, 2])
    'scores of exits 0, 2 differ by rounding only: no sample is told from another there'
    """
    which = f"exit {exits[0]}" if len(exits) == 1 else f"exits {', '.join(map(str, exits))}"
    return f"scores of {which} differ by rounding only: no sample is told from another there"


def _version() -> str:
    try:
        return version("policyopt")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
