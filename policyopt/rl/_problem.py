"""The exit problem of a cache's rows: what an agent sees of them, what it earns and pays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from policyopt._answers.crossfit import NAMES, CrossFitted, observe
from policyopt._cache.data import ExitData
from policyopt._methods.base import check_exits
from policyopt._methods.exit_batch import at_scale, build_stopping_data, put_features
from policyopt._methods.reinforcement import Samples, samples_of
from policyopt._methods.settings import check_choice, check_number
from policyopt._table import Table, Tables
from policyopt.runtime._answers import AnswerRule
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Floats

_FOLDS = 5


@dataclass(frozen=True, eq=False)
class ExitProblem:
    """Rows as episodes are played with them, and how they were made.

    Attributes
    ----------
    samples : Samples
        Basis columns of the history features, success and costs, the latter in shares of the full model.
    table : Table
        The rows.
    answer : AnswerRule
        What exits return.
    features : {"distribution", "summary"}
        Name of the history features.
    center, scale : ndarray of shape (K-1, F)
        Of the features, over the rows of the first problem.
    """

    samples: Samples
    table: Table
    answer: AnswerRule
    features: str
    center: Floats
    scale: Floats

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def exits(self) -> int:
        """K."""
        return self.samples.exits

    @property
    def columns(self) -> int:
        """M, basis columns."""
        return self.samples.columns.shape[2]


def exit_problem(
    data: ExitData | Tables,
    split: str = "fit",
    like: ExitProblem | None = None,
    answer: str = "combined",
    soft: float = 0.0,
    seed: int = 0,
) -> ExitProblem:
    """Pose the exit problem on the rows of a split.

    Parameters
    ----------
    data : ExitData or Tables
    split : str
        Its rows must be labelled.
    like : ExitProblem, optional
        Of the rows to train on: answers and standardisation are taken from it, nothing is fitted.
    answer : str
        What exits return: ``combined``, ``plain``, ``temperature``, ``vector``, ``ztw`` or ``poe``; each
        row is answered by a rule that it did not help to fit.
    soft : float
        Weight of soft success targets against 0/1 correctness (see `optimal_stopping`), in [0, 1].
    seed : int
        Of the folds of the answers.

    Returns
    -------
    ExitProblem

    Examples
    --------
    >>> import policyopt as po
    >>> logits = np.random.default_rng(0).normal(size=(300, 3, 4))
    >>> data = po.from_arrays(logits, np.arange(300) % 4, [1.0, 2.0, 4.0])
    >>> train = exit_problem(data)
    >>> test = exit_problem(data, "test", like=train)
    >>> train.columns, train.samples.costs[0], len(test) > 0
    (28, array([0.25, 0.5 , 1.  ]), True)
    """
    check_choice("answer", answer, NAMES)
    check_number("soft", soft, most=1)
    table = (data if isinstance(data, Tables) else Tables(data)).get(split)
    check_exits(table)
    if like is None:
        name = "plain" if not table.whole or table.plain_only else answer
        seen = build_stopping_data(table, name, soft, _FOLDS, seed)
        samples = samples_of(seen.columns, seen.success, seen.table.costs)
        return ExitProblem(samples, seen.table, seen.answer, seen.features, seen.center, seen.scale)
    for name in ("exits", "classes", "kind"):
        here, there = getattr(table, name), getattr(like.table, name)
        if here != there:
            raise input_error("like", f"made of rows with {name} {here}", there, "Of one model.")
    return replace(like, samples=_looked_at(table, like), table=table)


def _looked_at(table: Table, like: ExitProblem) -> Samples:
    """Return rows as another problem's answers and features show them."""
    right = table.quality.copy()  # says what is missing
    values = np.empty((table.exits - 1, len(table), like.center.shape[1]))
    if not table.whole:
        put_features(np.arange(len(table)), table.statistics.outputs(), like.features, values)
    else:
        said = np.empty(right.shape, dtype=np.int32)
        for rows, seen in observe(table, CrossFitted(like.answer), full=True):
            put_features(rows, seen, like.features, values)
            said[rows] = np.stack([o.prediction for o in seen], axis=1)
        worth = table.worth(said)
        if worth is None:
            step = "Make the first problem with answer=plain."
            allowed = "of plain answers where quality is graded"
            raise input_error("like", allowed, like.answer.name, step)
        right = worth.astype(np.float64)
    columns = at_scale(values, like.features, like.center, like.scale)
    full = float(like.table.mean_costs[-1])
    share = np.broadcast_to(table.costs / (full if full > 0 else 1.0), right.shape)
    return replace(samples_of(columns, right, table.costs), costs=np.ascontiguousarray(share))
