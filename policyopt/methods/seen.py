"""`Seen`: what exits say on some rows and what is known of them; all that a learned score is fitted on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from policyopt.answers.crossfit import CrossFitted, observe
from policyopt.runtime.features import FEATURES, basis
from policyopt.runtime.output import ExitOutput
from policyopt.runtime.scores.advantage import Advantage
from policyopt.runtime.typing import Floats, Ints
from policyopt.table import Table

_Rule = TypeVar("_Rule", bound=Advantage)
#: Numbers of all rows' outputs that are held at once; of more, a random part of the rows is used.
_MOST_NUMBERS = 1 << 27
_MOST_ROWS = 100_000


@dataclass(frozen=True, eq=False)
class Seen:
    """The answers of N rows at all exits, correctness and costs.

    Attributes
    ----------
    outputs : list of K ExitOutput
        With `log_prob` unless only records are kept; with `features` where they are asked for.
    correct : ndarray of shape (N, K), float64
        1.0 where exit k's answer is right.
    labels : ndarray of shape (N,), int32, or None
        None where only correctness is known.
    costs : ndarray of shape (K,) or (N, K)
    classes : int
        C; 0 where records do not say.
    """

    outputs: list[ExitOutput]
    correct: Floats
    labels: npt.NDArray[np.int32] | None
    costs: Floats
    classes: int

    def __len__(self) -> int:
        return len(self.correct)

    @property
    def exits(self) -> int:
        """K."""
        return len(self.outputs)

    @property
    def record(self) -> bool:
        """Whether only predictions and confidences are known."""
        return self.outputs[0].log_prob is None

    def take(self, rows: Ints) -> Seen:
        """Return some of the rows."""
        return replace(
            self,
            outputs=[output.take(rows) for output in self.outputs],
            correct=self.correct[rows],
            labels=None if self.labels is None else self.labels[rows],
            costs=self.costs if self.costs.ndim == 1 else self.costs[rows],
        )


@dataclass(frozen=True, eq=False)
class Columns:
    """History features of some rows as columns of a regression, exit by exit but the last.

    Attributes
    ----------
    features : {"distribution", "record"}
    center, scale : ndarray of shape (K-1, F)
    basis : list of K-1 arrays of shape (N, M)
    """

    features: str
    center: Floats
    scale: Floats
    basis: list[Floats]

    def rule(self, kind: type[_Rule], theta: Floats) -> _Rule:
        """Return the rule of offsets and weights (K-1, M+1) on these columns."""
        return kind(self.features, self.center, self.scale, theta[:, 1:], theta[:, 0])


def columns_of(seen: Seen, common: bool = False) -> Columns:
    """Return the columns of all exits but the last, standardised on these rows.

    With `common` the means and spreads are those of all these exits together, for weights that
    exits share.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_record
    >>> outputs = [reduce_record([0, 1], [0.6, 0.9]), reduce_record([0, 1], [0.8, 0.9])]
    >>> seen = Seen(outputs, np.ones((2, 2)), None, np.array([1.0, 2.0]), 0)
    >>> columns_of(seen).basis[0].shape
    (2, 7)
    """
    name = "record" if seen.record else "distribution"
    history = FEATURES[name]
    state = history.start(len(seen))
    values = np.empty((seen.exits - 1, len(seen), history.width))
    for k, output in enumerate(seen.outputs[:-1]):
        values[k], state = history.step(k, output, state)
    over = (0, 1) if common else (1,)
    center, spread = values.mean(axis=over), values.std(axis=over)
    scale = np.where(spread > 1e-9, spread, 1.0)
    shape = (len(values), history.width)
    center, scale = np.broadcast_to(center, shape), np.broadcast_to(scale, shape)
    columns = [basis(v, center[k], scale[k], name) for k, v in enumerate(values)]
    return Columns(name, center, scale, columns)


def thinned(table: Table, seed: int, features: bool = False) -> Table:
    """Return the table, or a random part of it where its outputs are too many to hold at once.

    With `features` the model's feature vectors count among the outputs.
    """
    each = table.exits * max(table.classes, 1)
    if features:
        each += sum(table.feature(k, slice(0, 1)).shape[1] for k in range(table.exits))
    most = min(_MOST_NUMBERS // each, _MOST_ROWS)
    most = max(most, 1000)
    if len(table) <= most:
        return table
    return table.take(np.sort(np.random.default_rng(seed).permutation(len(table))[:most]))


def see(table: Table, answers: CrossFitted, features: bool = False) -> Seen:
    """Look at all rows of a table through their answers.

    Parameters
    ----------
    table : Table
        Labelled, or records whose correctness is known.
    answers : CrossFitted
        No row is answered by a rule that it helped to fit.
    features : bool
        Whether `ExitOutput.features` is wanted too.

    Returns
    -------
    Seen

    Raises
    ------
    InputError
        Labels are missing, or features that are wanted.
    """
    if features:
        seen = see(table, answers)
        outputs = [replace(o, features=table.feature(k)) for k, o in enumerate(seen.outputs)]
        return replace(seen, outputs=outputs)
    if table.kind == "record":
        outputs = table.statistics.outputs()
        labels = table.statistics.labels
        return Seen(outputs, table.correct, labels, table.costs, table.classes)
    _ = table.correct  # raises where labels are missing
    labels = table.statistics.labels
    assert labels is not None
    parts = list(observe(table, answers, full=True))
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    outputs = [_joined([seen[k] for _, seen in parts], order) for k in range(table.exits)]
    correct = np.stack([o.prediction == labels for o in outputs], axis=1).astype(np.float64)
    return Seen(outputs, correct, labels, table.costs, table.classes)


def _joined(parts: list[ExitOutput], order: Ints) -> ExitOutput:
    """Return the parts of one exit as one, rows in their order."""
    if len(parts) == 1:
        return parts[0]
    columns = {}
    for name in ExitOutput.__dataclass_fields__:
        values = [getattr(part, name) for part in parts]
        columns[name] = None if values[0] is None else np.concatenate(values)[order]
    return ExitOutput(**columns)
