"""What a method is: configuration with `fit_path`; what it returns: frozen results."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from policyopt.answers.crossfit import CrossFitted, observe
from policyopt.methods.space import Domain
from policyopt.overhead import overhead
from policyopt.runtime.answers import AnswerRule, Plain
from policyopt.runtime.decision import Mixture
from policyopt.runtime.errors import BudgetError, bad
from policyopt.runtime.policy import Policy, first_exit
from policyopt.runtime.scores import ScoreRule, score_table
from policyopt.table import Table
from policyopt.thresholds.flat import level
from policyopt.thresholds.problem import Problem, Solution

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Expectation:
    """Mean cost that a policy is expected to realise on unseen rows.

    The thresholds were set so that N rows cost the budget. On M other rows like them the mean cost
    differs by the sampling error of both sets: variance ``sd**2 * (1/N + 1/M)`` (first-order delta
    method; thresholds are quantiles of the N rows). ``rows=None`` stands for the long run.

    Attributes
    ----------
    cost, sd : float
        Mean and standard deviation of the cost per sample, in the unit of the costs.
    rows : int
        N, the rows the thresholds were chosen on.
    """

    cost: float
    sd: float
    rows: int

    def interval(self, rows: int | None = None, level: float = 0.95) -> tuple[float, float]:
        """Return the interval of the mean cost of `rows` unseen rows (None: in the long run).

        Examples
        --------
        >>> low, high = Expectation(2.0, 1.0, 100).interval()
        >>> round(low, 3), round(high, 3)
        (1.804, 2.196)
        """
        variance = 1 / self.rows + (0.0 if rows is None else 1 / rows)
        half = float(norm.ppf(0.5 + level / 2)) * self.sd * variance**0.5
        return self.cost - half, self.cost + half


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
        On the rows that chose the thresholds: optimistic, never to be quoted as a result. NaN
        where they have no labels.
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

    @abstractmethod
    def fit_path(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Return one fitted policy per budget, trained once where the method allows.

        Parameters
        ----------
        table : Table
            Rows of the split `fit`, labelled.
        budgets : sequence of float
            Mean cost per sample, in the table's unit.
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
        raise bad(
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
    method: Method, table: Table, budgets: Sequence[float], seed: int
) -> list[Fitted | None]:
    """Fit each budget that the method can meet: its own arithmetic may be too much for the lowest."""
    try:
        return list(method.fit_path(table, budgets, seed))
    except BudgetError:
        if len(budgets) == 1:
            return [None]
        return [fit_where_possible(method, table, [budget], seed)[0] for budget in budgets]


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
        expected = expectation(outcomes)
    return freeze(
        method, label, rule, solution.thresholds, mixture, table, budget, seed, expected,
        sum(weight * float(gained.mean()) for weight, _, gained in outcomes), answer, problem.flat,
    )  # fmt: skip


def expectation(outcomes: Sequence[tuple[float, Floats, Floats]]) -> Expectation:
    """Return what a mixture of policies, (share, cost per row, value per row) each, is to cost."""
    mean = sum(weight * float(paid.mean()) for weight, paid, _ in outcomes)
    square = sum(weight * float((paid**2).mean()) for weight, paid, _ in outcomes)
    return Expectation(mean, max(square - mean**2, 0.0) ** 0.5, len(outcomes[0][1]))


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
    low, high = expected.interval()
    provenance = {
        "method": label,
        "settings": method.settings(),
        "seed": int(seed),
        "budget": float(budget),
        "cost": table.cost_name,
        "expected_cost": expected.cost,
        "expected_cost_95": [low, high],
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
