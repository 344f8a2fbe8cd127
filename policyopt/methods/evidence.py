"""What a learned stop rule is fitted on: features, doubt and success of every row, cross-fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policyopt.answers.crossfit import CrossFitted, crossfit, folds_of, observe
from policyopt.methods.true_class import true_class
from policyopt.runtime.answers import AnswerRule, Plain
from policyopt.runtime.features import FEATURES, basis
from policyopt.runtime.output import ExitOutput
from policyopt.runtime.typing import Floats, Ints
from policyopt.table import Table


@dataclass(frozen=True, eq=False)
class Evidence:
    """Rows as a learned stop rule sees them.

    Attributes
    ----------
    table : Table
        The rows used.
    answer : AnswerRule
        Fitted on all rows.
    features : str
        Name of the history features.
    center, scale : ndarray of shape (K-1, F)
        Of the features, over the rows.
    columns : list of K-1 arrays (N, M)
        Basis columns.
    deployed : list of K-1 arrays (N, M)
        The same as `answer` itself shows the rows: what a policy will see of them.
    doubt : ndarray of shape (N, K-1)
        ``1 - p_max`` of the answer.
    success : ndarray of shape (N, K)
        Expected correctness of each exit's answer.
    fold : ndarray of shape (N,), int64
        Of the stop rule.
    true_class : ndarray of shape (N, K)
        Probability that each exit's answer gives to the label; NaN without one, and of records.
    """

    table: Table
    answer: AnswerRule
    features: str
    center: Floats
    scale: Floats
    columns: list[Floats]
    deployed: list[Floats]
    doubt: Floats
    success: Floats
    fold: Ints
    true_class: Floats


def gather(
    table: Table, answer: str, soft: float, folds: int, seed: int, groups: int = 50
) -> Evidence:
    """Observe all rows, each through answers that it did not help to fit.

    Parameters
    ----------
    table : Table
        Unlabelled rows (label -1) count as far as soft targets reach; records need labels.
    answer : str
        Name of the answer rule.
    soft : float
        Weight of the soft targets, in [0, 1].
    folds : int
    seed : int
    groups : int
        Folds of the stop rule: may be finer than those of the answers.

    Returns
    -------
    Evidence

    Raises
    ------
    InputError
        No labels, or records where whole outputs are needed.
    """
    labels = table.statistics.labels
    record = table.kind == "record"
    known = np.zeros(len(table), bool) if labels is None else labels >= 0
    if record and labels is None and table.statistics.correct is not None:
        known[:] = True
    if not known.any():
        _ = table.correct  # says what is missing
    if record or soft == 0:
        table = table.take(np.flatnonzero(known)) if not known.all() else table
        labels = table.statistics.labels
    fold = folds_of(len(table), folds, seed)
    features = "record" if record else "distribution"
    if record:
        answers = CrossFitted(Plain())
        stream = [(np.arange(len(table)), table.statistics.outputs())]
    else:
        answers = crossfit(table, answer, fold)
        stream = observe(table, answers, full=True)
    exits, width = table.exits, FEATURES[features].width
    values = np.empty((exits - 1, len(table), width))
    doubt = np.empty((len(table), exits - 1))
    predicted = np.empty((len(table), exits), dtype=np.int32)
    given = np.empty((len(table), exits))
    trust = np.empty((len(table), exits)) if answer == "combined" and not record else None
    for rows, seen in stream:
        _features(rows, seen, features, values)
        for k, output in enumerate(seen):
            predicted[rows, k] = output.prediction
            if k < len(values):
                doubt[rows, k] = 1.0 - output.confidence
            given[rows, k] = true_class(output, None if labels is None else labels[rows])
        if trust is not None:
            trust[rows] = _trusted(seen[-1], predicted[rows])
    if isinstance(answers.rule, Plain):  # nothing combined: the teacher is another
        trust = None
    # Where combining was tried in vain: the last exit alone, calibrated.
    teachers = ("temperature",) if answer == "combined" else ("combined", "temperature")
    center = values.mean(axis=1)
    scale = values.std(axis=1)
    scale = np.where(scale > 1e-9, scale, 1.0)
    columns = [basis(values[k], center[k], scale[k], features) for k in range(exits - 1)]
    deployed = columns
    if not isinstance(answers.rule, Plain):
        seen_by = CrossFitted(answers.rule)
        for rows, seen in observe(table, seen_by, full=True):
            _features(rows, seen, features, values)
        deployed = [basis(values[k], center[k], scale[k], features) for k in range(exits - 1)]
    success = _success(table, soft, predicted, fold, trust, teachers)
    parts = folds_of(len(table), groups, seed)
    return Evidence(
        table,
        answers.rule,
        features,
        center,
        scale,
        columns,
        deployed,
        doubt,
        success,
        parts,
        given,
    )


def _features(rows: Ints, seen: list[ExitOutput], features: str, values: Floats) -> None:
    """Run the deployed feature code over some rows."""
    history = FEATURES[features]
    state = history.start(len(rows))
    for k, output in enumerate(seen[: len(values)]):
        values[k, rows], state = history.step(k, output, state)


def _success(
    table: Table,
    soft: float,
    predicted: npt.NDArray[np.int32],
    fold: Ints,
    trust: Floats | None,
    teachers: tuple[str, ...],
) -> Floats:
    """Return the expected correctness of each exit's answer, (N, K).

    `trust` is what the ensemble of all exits gives to the answers, where it is known already; else
    the first of `teachers` that has something to say gives it, on a pass of its own.
    """
    stats = table.statistics
    if table.kind == "record":
        return table.correct
    assert stats.labels is not None
    known = stats.labels >= 0
    right = (predicted == stats.labels[:, None]).astype(np.float64)
    if soft == 0:
        return right
    if trust is None:
        teacher = _teacher(table, fold, teachers)
        if isinstance(teacher.rule, Plain) and known.all():
            return right  # too few labels to calibrate anything
        trust = np.empty(predicted.shape)
        for rows, seen in observe(table, teacher, full=True):
            trust[rows] = _trusted(seen[-1], predicted[rows])
    return np.where(known[:, None], soft * trust + (1 - soft) * right, trust)


def _teacher(table: Table, fold: Ints, names: tuple[str, ...]) -> CrossFitted:
    """Return the first of the answers that can be fitted; plain ones where none can."""
    for name in names:
        teacher = crossfit(table, name, fold)
        if not isinstance(teacher.rule, Plain):
            return teacher
    return CrossFitted(Plain())


def _trusted(last: ExitOutput, predicted: npt.NDArray[np.int32]) -> Floats:
    """Return the probability that the last exit's answer gives to each exit's prediction, (n, K)."""
    assert last.log_prob is not None
    picked = np.take_along_axis(last.log_prob, predicted.astype(np.int64), axis=1)
    return np.exp(picked.astype(np.float64))
