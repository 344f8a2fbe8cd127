"""What learned scores and stop rules are fitted on: what exits say on some rows, and what is known of them.

`ExitBatch`: answers, correctness and costs of rows, for a score; `StoppingData`: features, doubt and expected
success of rows, cross-fitted, for a rule of when to stop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from policyopt._answers.crossfit import CrossFitted, crossfit, observe
from policyopt._cache.data import folds_of
from policyopt._methods.regression import principal
from policyopt._table import Table, subsample
from policyopt._utility import Utility
from policyopt.runtime._answers import AnswerRule, Identity
from policyopt.runtime._errors import input_error
from policyopt.runtime._outputs import ExitOutput, with_columns
from policyopt.runtime._scores import Advantage
from policyopt.runtime._scores.history import FEATURES, Hidden, basis
from policyopt.runtime._typing import Floats, Ints

_Rule = TypeVar("_Rule", bound=Advantage)
Labels = npt.NDArray[np.int32]
#: Numbers of all rows' outputs that are held at once; of more, a random part of the rows is used.
MOST_NUMBERS = 1 << 27
MOST_ROWS = 100_000


@dataclass(frozen=True, eq=False)
class ExitBatch:
    """The answers of N rows at all exits, their worth and costs."""

    outputs: list[ExitOutput]  # K; `log_prob` unless summaries, `features` where asked for
    quality: Floats  # (N, K): worth of exit k's answer, in [0, 1]; 1.0 where it is right
    labels: Labels | None  # (N,); None where only correctness is known
    costs: Floats  # (K,) or (N, K)
    classes: int  # C; 0 where summaries do not say
    record: bool = False  # whether only predictions and confidences are known
    graded: bool = False  # whether answers are worth more than right or wrong tells

    def __len__(self) -> int:
        return len(self.quality)

    @property
    def exits(self) -> int:
        """K."""
        return len(self.outputs)

    def shown_to(self, needs: frozenset[str]) -> ExitBatch:
        """Return what a score of these `required_columns` is shown, when it is fitted as when it serves."""
        return replace(self, outputs=[output.shown_to(needs) for output in self.outputs])

    def take(self, rows: Ints) -> ExitBatch:
        """Return some of the rows."""
        some = [output.take(rows) for output in self.outputs]
        labels = None if self.labels is None else self.labels[rows]
        costs = self.costs if self.costs.ndim == 1 else self.costs[rows]
        return replace(self, outputs=some, quality=self.quality[rows], labels=labels, costs=costs)


@dataclass(frozen=True, eq=False)
class Columns:
    """History features of some rows as columns of a regression, exit by exit but the last."""

    features: str  # "distribution" or "summary"
    center: Floats  # (K-1, F)
    scale: Floats  # (K-1, F)
    basis: list[Floats]  # K-1 x (N, M)
    hidden: Hidden | None = None
    left_out: int = 0  # of the history's columns, which then have no weight

    def rule(self, kind: type[_Rule], theta: Floats) -> _Rule:
        """Return the rule of offsets and weights (K-1, M+1) on these columns."""
        weights = np.concatenate([np.zeros((len(theta), self.left_out)), theta[:, 1:]], axis=1)
        more = () if self.hidden is None else (self.hidden.projection, self.hidden.shift)
        return kind(self.features, self.center, self.scale, weights, theta[:, 0], *more)


_DIRECTIONS = 32  # of the vectors, at most: their principal components


def hidden_of(vectors: list[Any], common: bool = False) -> Hidden:
    """Return the principal directions of vectors K-1 x (N, D_k), with `common` of all exits together."""
    widths = [rows.shape[1] for rows in vectors]
    if common and len(set(widths)) > 1:
        step = "Add --set shared=false."
        raise input_error("features", "of one width, for one module of all exits", widths, step)
    keep = min(_DIRECTIONS, *widths)
    found, shifts = [], []
    for rows in [np.concatenate(vectors)] if common else vectors:
        rows = rows.astype(np.float64)
        directions = principal(rows, keep, 0)
        spread = (rows @ directions.T).std(axis=0) if len(rows) else np.ones(keep)
        found.append(directions / np.where(spread > 1e-9, spread, 1.0)[:, None])
        shifts.append(found[-1] @ rows.mean(axis=0) if len(rows) else np.zeros(keep))
    times = len(vectors) if common else 1
    return Hidden(found * times, np.array(shifts * times))


def columns_of(batch: ExitBatch, common: bool = False, inputs: str = "history") -> Columns:
    """Return the columns of all exits but the last, standardised, with `common` over all exits together."""
    name = "summary" if batch.record else "distribution"
    values = np.empty((batch.exits - 1, len(batch), FEATURES[name].width))
    put_features(np.arange(len(batch)), batch.outputs, name, values)
    columns = _standardised(values, name, (0, 1) if common else (1,))
    if inputs == "history":
        return columns
    vectors = [output.features for output in batch.outputs[:-1]]
    found = hidden_of(vectors, common)
    own, left_out = found.columns(vectors), columns.basis[0].shape[1]
    if inputs == "both":
        own, left_out = joined_columns(columns.basis, own), 0
    return replace(columns, basis=own, hidden=found, left_out=left_out)


def joined_columns(one: list[Floats], other: list[Floats]) -> list[Floats]:
    """Return the columns of two bases side by side, exit by exit."""
    return [np.concatenate(pair, axis=1) for pair in zip(one, other, strict=True)]


def _standardised(values: Floats, name: str, over: tuple[int, ...] = (1,)) -> Columns:
    """Return features (K-1, N, F) as columns, their means and spreads taken over some axes."""
    center, spread = values.mean(axis=over), values.std(axis=over)
    scale = np.where(spread > 1e-9, spread, 1.0)
    shape = (len(values), values.shape[2])
    center, scale = np.broadcast_to(center, shape), np.broadcast_to(scale, shape)
    return Columns(name, center, scale, at_scale(values, name, center, scale))


def at_scale(values: Floats, name: str, center: Floats, scale: Floats) -> list[Floats]:
    """Return features (K-1, N, F) as columns of given means and spreads, K-1 x (N, M)."""
    return [basis(v, center[k], scale[k], name) for k, v in enumerate(values)]


def put_features(rows: Ints, outputs: list[ExitOutput], name: str, values: Floats) -> None:
    """Run the deployed feature code over some rows, into values (K-1, N, F)."""
    history = FEATURES[name]
    state = history.start(len(rows))
    for k, output in enumerate(outputs[: len(values)]):
        values[k, rows], state = history.step(k, output, state)


def subsample_outputs(table: Table, seed: int, features: bool = False) -> Table:
    """Return the table, or a random part of it where its outputs (and `features`) are too many to hold."""
    each = table.exits * max(table.classes, 1)
    if features:
        each += sum(table.feature(k, slice(0, 1)).shape[1] for k in range(table.exits))
    return subsample(table, max(min(MOST_NUMBERS // each, MOST_ROWS), 1000), seed)


def outputs_of(table: Table) -> list[ExitOutput]:
    """Return all exits' columns with the logarithms of all class probabilities."""
    log_prob = table.log_prob()
    outputs = enumerate(table.statistics.outputs())
    return [with_columns(output, log_prob=log_prob[:, k]) for k, output in outputs]


def build_batch(table: Table, answers: CrossFitted, features: bool = False) -> ExitBatch:
    """Look at all rows of a table through their answers."""
    correct, labels, record = table.quality, table.statistics.labels, not table.whole
    outputs = table.statistics.outputs()
    if not record:
        parts = list(observe(table, answers, full=True))
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        seen = zip(*(outputs for _, outputs in parts), strict=True)
        outputs = [ExitOutput.joined(list(each)).take(order) for each in seen]
        worth = table.worth(np.stack([o.prediction for o in outputs], axis=1))
        assert worth is not None  # `crossfit` answers plainly where it is not known
        correct = worth.astype(np.float64)
    if features:
        outputs = [with_columns(o, features=table.feature(k)) for k, o in enumerate(outputs)]
    return ExitBatch(outputs, correct, labels, table.costs, table.classes, record, table.graded)


@dataclass(frozen=True, eq=False)
class StoppingData:
    """Rows as a learned stop rule sees them."""

    table: Table  # the rows used
    answer: AnswerRule  # fitted on all rows
    features: str  # name of the history features
    center: Floats  # (K-1, F), over the rows
    scale: Floats  # (K-1, F)
    columns: list[Floats]  # K-1 x (N, M), each row through answers that it did not help to fit
    deployed: list[Floats]  # the same as `answer` itself shows the rows: what a policy will see
    doubt: Floats  # (N, K-1): 1 - p_max of the answer
    success: Floats  # (N, K): expected worth of each exit's answer
    fold: Ints  # (N,), of the stop rule
    true_class: Floats  # (N, K): probability of the label; NaN without one, and of summaries
    hidden: Hidden | None = None  # of the model's own vectors, where they are among the columns


def build_stopping_data(
    table: Table,
    answer: str,
    soft: float,
    folds: int,
    seed: int,
    groups: int = 50,
    vectors: bool = False,
) -> StoppingData:
    """Observe rows through answers they did not help to fit; `soft` weighs soft targets, `groups` are of the rule."""
    # With `vectors` the model's own are among the columns.
    record, known = not table.whole, table.valued
    if not known.any():
        _ = table.quality  # says what is missing
    if (record or soft == 0) and not known.all():
        table = table.take(np.flatnonzero(known))
    labels = table.statistics.labels
    fold = folds_of(len(table), folds, seed, table.group)
    features = "summary" if record else "distribution"
    answers = CrossFitted(Identity())
    stream = [(np.arange(len(table)), table.statistics.outputs())]
    if not record:
        answers = crossfit(table, answer, fold)
        stream = observe(table, answers, full=True)
    shape = (len(table), table.exits)
    values = np.empty((table.exits - 1, len(table), FEATURES[features].width))
    doubt = np.empty((len(table), table.exits - 1))
    predicted, given = np.empty(shape, dtype=np.int32), np.empty(shape)
    trust = np.empty(shape) if answer == "combined" and not record else None
    for rows, seen in stream:
        put_features(rows, seen, features, values)
        for k, output in enumerate(seen):
            predicted[rows, k] = output.prediction
            if k < len(values):
                doubt[rows, k] = 1.0 - output.confidence
            given[rows, k] = true_class(output, None if labels is None else labels[rows])
        if trust is not None:
            trust[rows] = _trusted(seen[-1], predicted[rows], table.utility)
    plain = isinstance(answers.rule, Identity)
    if plain:  # nothing combined: the teacher is another
        trust = None
    # Where combining was tried in vain: the last exit alone, calibrated.
    teachers = ("temperature",) if answer == "combined" else ("combined", "temperature")
    columns = _standardised(values, features)
    deployed = columns.basis
    if not plain:
        for rows, seen in observe(table, CrossFitted(answers.rule), full=True):
            put_features(rows, seen, features, values)
        deployed = at_scale(values, features, columns.center, columns.scale)
    found = None
    if vectors:
        rows = [table.feature(k) for k in range(table.exits - 1)]
        found = hidden_of(rows)
        own = found.columns(rows)
        columns = replace(columns, basis=joined_columns(columns.basis, own))
        deployed = joined_columns(deployed, own)
    success = _success(table, soft, predicted, fold, trust, teachers)
    parts = folds_of(len(table), groups, seed, table.group)
    return StoppingData(
        table, answers.rule, features, columns.center, columns.scale, columns.basis, deployed, doubt,
        success, parts, given, found
    )  # fmt: skip


def true_class(output: ExitOutput, labels: Labels | None) -> Floats:
    """Return the probability that one exit's answers give to the labels, (n,); NaN where not known."""
    if output.log_prob is None or labels is None:
        return np.full(len(output), np.nan)
    known = labels >= 0
    picked = output.log_prob[np.arange(len(labels)), np.where(known, labels, 0)]
    return np.where(known, np.exp(picked.astype(np.float64)), np.nan)


def _success(
    table: Table,
    soft: float,
    predicted: Labels,
    fold: Ints,
    trust: Floats | None,
    teachers: tuple[str, ...],
) -> Floats:
    """Return the expected worth of each exit's answer, (N, K), by `trust` or the first teacher that knows."""
    # Soft targets take a teacher's class probabilities at their word: they assume that it is calibrated. A graded
    # quality has no classes, and stays as it is given.
    if not table.whole or table.plain_only:
        return table.quality
    known, right = table.valued, table.worth(predicted)
    assert right is not None
    right = right.astype(np.float64)
    if soft == 0:
        return right
    if trust is None:
        teacher = _teacher(table, fold, teachers)
        if isinstance(teacher.rule, Identity) and known.all():
            return right  # too few labels to calibrate anything
        trust = np.empty(predicted.shape)
        for rows, seen in observe(table, teacher, full=True):
            trust[rows] = _trusted(seen[-1], predicted[rows], table.utility)
    return np.where(known[:, None], soft * trust + (1 - soft) * right, trust)


def _teacher(table: Table, fold: Ints, names: tuple[str, ...]) -> CrossFitted:
    """Return the first of the answers that can be fitted; plain ones where none can."""
    for name in names:
        teacher = crossfit(table, name, fold)
        if not isinstance(teacher.rule, Identity):
            return teacher
    return CrossFitted(Identity())


def _trusted(last: ExitOutput, predicted: Labels, utility: Utility | None) -> Floats:
    """Return what each exit's prediction is worth by the last exit's word, (n, K): its probability, or utility."""
    assert last.log_prob is not None
    if utility is not None:
        return utility.expected(np.exp(last.log_prob.astype(np.float64)), predicted)
    picked = np.take_along_axis(last.log_prob, predicted.astype(np.int64), axis=1)
    return np.exp(picked.astype(np.float64))
