"""What a fit returns: a frozen policy, what it is expected to cost, and where it comes from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from policyopt._costs import overhead
from policyopt._intervals import MeanInterval, mean_interval, standard_error
from policyopt._optional import release
from policyopt._table import Table
from policyopt._thresholds.problem import Problem, Solution
from policyopt.runtime._answers import AnswerRule, Identity
from policyopt.runtime._policy import Mixture, Policy, first_exit
from policyopt.runtime._scores import ScoreRule
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Floats, Ints


@dataclass(frozen=True, eq=False)
class Expectation:
    """Mean cost that a policy is expected to realise on unseen rows.

    It differs from that of the N rows that set the thresholds by their sampling error (first-order delta
    method; thresholds are quantiles of them), and by what the training of its score would have made of others.
    """

    cost: float  # in the unit of the costs
    paid: Floats = field(repr=False)  # (N,): what each row pays, on average over the policy's coin
    coin: float = 0.0  # variance per sample that it adds
    #: Per row, groups counted: of what rows pay by the policy less by policies that they took no part in training.
    more_variance: float = 0.0
    span: float = 0.0  # the last exit's cost less the first's
    ends: tuple[float, float] | None = None  # between which the mean lies for certain
    group: Ints | None = field(default=None, repr=False)  # (N,): codes of what rows belong to
    right: Floats | None = field(default=None, repr=False)  # (N,): what each row's answer is worth
    declined: bool = False  # so heavy a tail for so few rows that the interval's ends are NaN

    @property
    def rows(self) -> int:
        """N, the rows the thresholds were chosen on."""
        return len(self.paid)

    @property
    def units(self) -> int:
        """How many groups the rows are; N where each stands alone."""
        return self.rows if self.group is None else len(np.unique(self.group))

    @property
    def sd(self) -> float:
        """Standard deviation of the cost per sample, the coin's part included; of rows in groups such as these."""
        return float((self.rows * standard_error(self.paid, self.group) ** 2 + self.coin) ** 0.5)

    @cached_property
    def mean(self) -> MeanInterval:
        """The long-run mean cost with its 95 % interval, and the effective number of rows; the coin widens it."""
        more, span = self.more_variance + self.coin, self.span
        return mean_interval(
            self.paid, center=self.cost, more_variance=more, span=span, group=self.group
        )

    @property
    def stated(self) -> tuple[float, float] | tuple[None, None]:
        """The 95 % interval of the long-run mean cost, None where it is declined."""
        return (None, None) if self.declined else self.interval()

    @property
    def fields(self) -> dict[str, Any]:
        """What is stated in a policy's provenance."""
        low, high = self.stated
        ends = None if low is None else [low, high]
        return {"expected_cost": self.cost, "expected_cost_95": ends}

    def interval(self, rows: int | None = None, level: float = 0.95) -> tuple[float, float]:
        """Return the interval of the mean cost of `rows` unseen rows (None: in the long run)."""
        from statistics import NormalDist

        if self.declined:
            return float("nan"), float("nan")
        z = NormalDist().inv_cdf(0.5 + level / 2)
        scale = z / NormalDist().inv_cdf(0.975)
        new = 0.0 if rows is None else z * self.sd / rows**0.5
        low, high = (scale * (end - self.cost) for end in (self.mean.low, self.mean.high))
        found = self.cost - float(np.hypot(low, new)), self.cost + float(np.hypot(high, new))
        if self.ends is None:
            return found
        return max(found[0], self.ends[0]), min(found[1], self.ends[1])


class Saved:
    """What holds a policy."""

    policy: Any

    def save(self, path: Any) -> None:
        """Write the policy's artifact (JSON)."""
        self.policy.save(path)


@dataclass(frozen=True, eq=False, repr=False)
class Fitted(Shown, Saved):
    """The result of a fit: a frozen policy and what is known about it.

    Attributes
    ----------
    policy : Policy, or RoutingPolicy
        What is deployed.
    method : str
        Label of the method.
    budget : float or None
        Mean cost asked for, in the policy's unit; None where thresholds were given without one.
    expected : Expectation
        The realised cost to expect on unseen rows.
    quality : float
        Cross-validated from 20 to 5,000 rows, less what a choice among methods gains by chance (see
        `policyopt._methods.base` and `choosing`). Of fewer or more, of networks, and where a fold cannot be
        fitted, that of the rows that chose the thresholds. NaN where they have no labels.
    flat : tuple of int
        Exits, in the model's numbers, whose scores differ by rounding only: each decides the same for all
        samples, or by a coin (see `policyopt._thresholds.degenerate_scores`). The provenance's ``notes`` say so.
    """

    policy: Any
    method: str
    budget: float | None
    expected: Expectation
    quality: float
    flat: tuple[int, ...] = ()

    def __repr__(self) -> str:
        told = f"expects cost {self.expected.cost:.4g}, quality {self.quality:.4g}"
        return f"Fitted({self.method}, {told}, {self.policy!r})"


@dataclass(frozen=True, eq=False)
class Draft:
    """A fit under way: the rule to deploy, and the threshold problem that it poses on a table's rows."""

    rule: ScoreRule
    table: Table
    problem: Problem
    answer: AnswerRule = field(default_factory=Identity)
    solution: Solution | None = None
    #: The rule of the solution's other thresholds; None: the same.
    other: ScoreRule | None = None
    #: Where they are known in closed form, or of other rows; else of the solution on the problem's rows.
    expected: Expectation | None = None
    quality: float | None = None
    #: What solving needs besides: data of the training.
    data: Any = None
    #: Whether the problem's scores are, to the bit, those that the policy will give the table's rows.
    deployed: bool = False
    #: What its policy's provenance says besides, and the method that it is of where another chose it.
    origin: dict[str, Any] = field(default_factory=dict)


def expectation(
    outcomes: Sequence[tuple[float, Floats, Floats]], problem: Problem | None = None
) -> Expectation:
    """Return what a mixture of policies, (share, cost per row, value per row) each, is to cost."""
    paid = np.sum([weight * cost for weight, cost, _ in outcomes], axis=0)
    coin = sum(weight * float(((cost - paid) ** 2).mean()) for weight, cost, _ in outcomes)
    found = Expectation(float(paid.mean()), paid, coin)
    if problem is None:
        return found
    right = np.sum([weight * value for weight, _, value in outcomes], axis=0)
    return replace(found, span=float(np.ptp(problem.mean_costs)), group=problem.group, right=right)


def flat_note(exits: Sequence[int]) -> str:
    """Return what is said of exits, in the model's numbers, whose scores do not tell samples apart.

    >>> flat_note([0, 2])
    'scores of exits 0, 2 differ by rounding only: no sample is told from another there'
    """
    which = f"exit {exits[0]}" if len(exits) == 1 else f"exits {', '.join(map(str, exits))}"
    return f"scores of {which} differ by rounding only: no sample is told from another there"


def own_costs(table: Table, *rules: ScoreRule, answer: AnswerRule | None = None) -> Floats:
    """Return the cumulative cost of arithmetic, (K,): of rules, and answers (None: plain); known before training."""
    return overhead(answer or Identity(), rules, table.exits, table.classes, table.rate)


def claim_of(draft: Draft) -> tuple[Expectation, float]:
    """Return what a solved draft is to cost, and what it is worth: as it says, or of the problem's rows."""
    problem, solution = draft.problem, draft.solution
    expected, quality = draft.expected, draft.quality
    assert solution is not None
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
    if expected.rows == len(draft.table):
        expected = replace(expected, group=draft.table.group)
    return expected, quality


def build_fitted(method: Any, draft: Draft, budget: float, seed: int) -> Fitted:
    """Freeze a solved draft into a policy, its own arithmetic among its costs, and say where it comes from."""
    table, problem, solution = draft.table, draft.problem, draft.solution
    assert solution is not None
    expected, quality = claim_of(draft)
    mixture = None
    if solution.other is not None:
        mixture = Mixture(solution.other, float(solution.share), int(seed), draft.other)
    rules = (draft.rule,) if draft.other is None else (draft.rule, draft.other)
    own = own_costs(table, *rules, answer=draft.answer)
    flat = tuple(int(table.active_exits[k]) for k in problem.flat)
    provenance = provenance_of(method, table, budget, seed)
    provenance |= draft.origin
    if flat:
        provenance["notes"] = [*provenance.get("notes", []), flat_note(flat)]
    policy = Policy(
        draft.rule, solution.thresholds, table.mean_costs + own, table.unit, table.kind, table.classes,
        mixture, provenance, draft.answer, own, active_exits=table.active_exits,
        model_exits=table.model_exits, error_scale=table.measure.error_scale,
    )  # fmt: skip
    return Fitted(policy, method.name, budget, expected, quality, flat)


def provenance_of(method: Any, table: Table, budget: float | None, seed: int) -> dict[str, Any]:
    """Return where a policy comes from, as its artifact says it."""
    versions = {"policyopt": release(), "numpy": np.__version__, "python": sys.version.split()[0]}
    provenance: dict[str, Any] = {
        "method": method.name,
        "settings": method.settings(),
        "seed": int(seed),
        "budget": None if budget is None else float(budget),
        "cost": table.cost_name,
        "rows": len(table),
        "split": table.split,
        "cache": table.cache,
        "versions": versions,
    }
    if table.names:
        provenance["names"] = list(table.names)
    if table.pool:
        provenance["pool"] = dict(table.pool)
    if (heads := table.stated_heads) is not None:
        provenance["head_costs"] = list(heads)
    if table.graded:
        provenance["graded"] = True
    if table.kind == "summary" and (table.statistics.prediction < 0).all():
        provenance["predictions"] = False  # new rows need none, whatever the score reads
    if table.kind == "summary" and (table.statistics.confidence == 1.0).all():
        provenance["confidences"] = False
    if table.kind == "summary" and table.class_names:  # number answers that are texts
        provenance["class_names"] = list(table.class_names)
    if table.utility is not None:
        provenance["utility"] = table.utility.provenance
    return provenance
