"""Methods that train one network for all prices by playing episodes; read at any budget.

A subclass says how its network learns (`train`); this file gathers what episodes are played with,
holds rows out, and finds on them the price whose policy costs the budget. What is left of the budget
goes by one common threshold: 0 and a shift.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from policyopt.answers.crossfit import NAMES, folds_of
from policyopt.cache.optional import need
from policyopt.methods.base import Fitted, Method, check_exits, conclude
from policyopt.methods.episodes import Samples, samples_seen
from policyopt.methods.evidence import Evidence, gather
from policyopt.methods.held_out import reachable
from policyopt.methods.seen import thinned
from policyopt.methods.settings import check_choice, check_number
from policyopt.methods.space import Choice, Domain, Integer, Real
from policyopt.methods.stack import Layers, at_price, one_thread, outputs_at, rule_at
from policyopt.overhead import overhead
from policyopt.progress import report
from policyopt.runtime.policy import first_exit
from policyopt.runtime.typing import Floats, Ints
from policyopt.table import Table
from policyopt.thresholds.flat import level
from policyopt.thresholds.meet import meet_budget
from policyopt.thresholds.problem import Problem

#: Prices played with, in success per cost of the full model: their logarithm is drawn evenly.
PRICES = (0.002, 5.0)
_BISECTIONS = 20
#: How often each row is shown, at most, but for the least updates: more of them cost time and teach
#: nothing (benchmarks/few_rows.py).
EPOCHS, LEAST_UPDATES = 600, 500


@dataclass(frozen=True)
class Played(Method):
    """A network that scores leaving against going on, at any price of cost.

    Parameters
    ----------
    answer, soft, folds
        As of `Priced`.
    hold_out : float
        Share of the rows that does not train, and on which budgets are met.
    hidden : int
        Units of a hidden layer.
    steps : int
        Updates, at most; few rows get fewer, see `updates`.
    batch : int
        Episodes, or transitions, per update.
    learning_rate : float
        Of Adam; it falls to 0.
    """

    answer: str = "combined"
    soft: float = 1.0
    folds: int = 5
    hold_out: float = 0.2
    hidden: int = 32
    steps: int = 4000
    batch: int = 256
    learning_rate: float = 0.002

    #: Name of the method.
    label: ClassVar[str]
    learned = True

    def __post_init__(self) -> None:
        check_choice("answer", self.answer, NAMES)
        check_number("soft", self.soft, most=1)
        check_number("folds", self.folds, above=1, most=100, whole=True)
        check_number("hold_out", self.hold_out, above=0, below=1)
        for name in ("hidden", "steps", "batch"):
            check_number(name, getattr(self, name), above=0, whole=True)
        check_number("learning_rate", self.learning_rate, above=0)

    @abstractmethod
    def train(self, samples: Samples, seed: int) -> Layers:
        """Return a network of one output: by how much leaving is the better."""

    @abstractmethod
    def blank(self, columns: int, exits: int) -> Layers:
        """Return layers of the sizes that `train` will return, all zeros: their cost is known before."""

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {
            "answer": Choice(("combined", "plain")), "hidden": Integer(8, 128, log=True),
            "learning_rate": Real(3e-4, 1e-2, log=True),
        }  # fmt: skip

    def lacks(self, table: Table) -> list[str]:
        """Return what the rows do not hold; and torch, where it is not installed."""
        torch = [] if find_spec("torch") else ["torch (policyopt[torch])"]
        return [*super().lacks(table), *torch]

    @property
    def validates(self) -> bool:
        """Thresholds are chosen on rows that trained nothing."""
        return False

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Train once, and freeze one policy per budget; see `Method.propose`."""
        need("torch", "torch", f"to train '{self.label}'")
        # Matrices of some tens of columns: more threads only wait for each other.
        with threadpool_limits(1, "blas"), one_thread():
            return self._fit_path(table, budgets, seed)

    def _fit_path(self, table: Table, budgets: Sequence[float], seed: int) -> list[Fitted]:
        check_exits(table)
        seen = gather(thinned(table, seed), self.answer, self.soft, self.folds, seed)
        table = seen.table
        exits, size = table.exits, seen.columns[0].shape[1]
        blank = rule_at(at_price(self.blank(size, exits), size, exits, 0.0), seen)
        own = overhead(seen.answer, (blank,), exits, table.classes, table.rate)
        costs = np.asarray(table.costs + own)
        problem = Problem(np.zeros_like(seen.success), seen.success, costs, table.unit)
        for budget in budgets:
            problem.check_budget(budget)
        samples = samples_seen(seen, costs)
        held, rest = divided(len(samples), self.hold_out, seed)
        report(0, 1, f"training {self.label}")
        layers = self.train(samples.take(rest), seed)
        problem = Problem(
            np.zeros((len(held), exits)), seen.success[held],
            costs if costs.ndim == 1 else costs[held], table.unit,
        )  # fmt: skip
        columns = samples.columns[held]
        return [self._read(seen, layers, columns, problem, budget, seed) for budget in budgets]

    def _read(
        self,
        seen: Evidence,
        layers: Layers,
        columns: npt.NDArray[np.float32],
        problem: Problem,
        budget: float,
        seed: int,
    ) -> Fitted:
        """Find the price whose policy costs the budget on the rows held out."""
        aim = reachable(problem, budget)
        exits, size = columns.shape[1:]
        low, high = (float(np.log(p)) for p in (PRICES[0] / 10, PRICES[1]))  # dear to cheap
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            scores = outputs_at(at_price(layers, size, exits, np.exp(middle)), columns)
            taken = first_exit(scores, np.zeros(exits - 1))
            if float(problem.paid(taken).mean()) > aim:
                low = middle
            else:
                high = middle
        fixed = at_price(layers, size, exits, float(np.exp(high)))
        rule = rule_at(fixed, seen)
        scores, flat = level(rule, outputs_at(fixed, columns))
        problem = replace(problem, scores=scores, flat=flat)
        most = float(np.abs(problem.scores).max()) + 1.0
        solution = meet_budget(
            problem, lambda t: np.full(exits - 1, t), -most, most, aim, start=0.0
        )
        return conclude(
            self, self.label, rule, seen.table, problem, solution, budget, seed,
            answer=seen.answer,
        )  # fmt: skip


def updates(steps: int, batch: int, rows: int) -> int:
    """Return how many updates of `batch` rows are worth making with so many rows, at most `steps`.

    Examples
    --------
    >>> (
    ...     updates(4000, 256, 400),
    ...     updates(4000, 256, 20),
    ...     updates(4000, 256, 5000),
    ...     updates(10, 256, 400),
    ... )
    (938, 500, 4000, 10)
    """
    return min(steps, max(LEAST_UPDATES, -(-EPOCHS * rows // batch)))


def divided(rows: int, share: float, seed: int) -> tuple[Ints, Ints]:
    """Return the rows held out and those to train on; of a single row, both have it.

    Examples
    --------
    >>> held, rest = divided(10, 0.2, 0)
    >>> len(held), len(rest), len({*held, *rest})
    (2, 8, 10)
    """
    if rows == 1:
        return np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    parts = folds_of(rows, max(round(1 / share), 2), seed)
    return np.flatnonzero(parts == 0), np.flatnonzero(parts != 0)


def drawn_prices(rng: np.random.Generator, count: int) -> Floats:
    """Return random prices, (count,)."""
    low, high = np.log(PRICES)
    return np.exp(rng.uniform(low, high, count))
