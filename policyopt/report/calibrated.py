"""Each calibration fitted on some rows and applied to others, by the code that is deployed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policyopt.answers.confidence import FITS, fit_confidence
from policyopt.answers.likelihood import row_losses
from policyopt.answers.temperature import fit_temperature
from policyopt.answers.vector import fit_vector
from policyopt.runtime.answers import AnswerRule, Plain
from policyopt.runtime.confidence import ConfidenceRule
from policyopt.runtime.errors import input_error
from policyopt.runtime.observe import Observer
from policyopt.runtime.typing import Floats
from policyopt.table import Table

#: They change the class probabilities; the others map the top probability only.
ANSWER_MAPS = ("temperature", "vector")
MAPS = ("none", *ANSWER_MAPS, *FITS)


@dataclass(frozen=True)
class Observed:
    """The answers of a table's rows at every exit.

    Attributes
    ----------
    confidence, correct : ndarray of shape (N, K), float64
    losses : ndarray of shape (N, K), float64, or None
        Negative log-likelihood of the label; None where only records are kept.
    """

    confidence: Floats
    correct: Floats
    losses: Floats | None = None


def observe(table: Table, answer: AnswerRule | None = None) -> Observed:
    """Return confidence, correctness and log-loss of a table's rows under an answer rule.

    Parameters
    ----------
    table : Table
        Labelled rows.
    answer : AnswerRule, optional
        Default: the exits' own.

    Returns
    -------
    Observed

    Raises
    ------
    InputError
        Rows without labels, or records where an answer rule needs all class outputs.
    """
    own, labels = table.correct, table.statistics.labels
    answer = Plain() if answer is None else answer
    if labels is None or table.source is None or not table.source.has("outputs"):
        if not isinstance(answer, Plain):
            raise input_error("answer", "plain where only records are kept", answer.name, "")
        return Observed(table.statistics.confidence, own)
    confidence, correct, losses = (np.empty(own.shape) for _ in range(3))
    observer = Observer(answer, table.kind, table.classes, full=True)
    for rows, outputs in table.chunks():
        state, label = answer.start(len(outputs), table.classes), labels[rows]
        for k in range(table.exits):
            seen, _, state = observer.look(k, outputs[:, k], state, len(outputs))
            confidence[rows, k] = seen.confidence
            correct[rows, k] = seen.prediction == label
            assert seen.log_prob is not None
            losses[rows, k] = row_losses(seen.log_prob, label)
    return Observed(confidence, correct, losses)


def fit_map(name: str, table: Table, observed: Observed) -> AnswerRule | ConfidenceRule | None:
    """Fit a calibration per exit.

    Parameters
    ----------
    name : str
        One of `MAPS`.
    table : Table
        Labelled rows to fit on.
    observed : Observed
        Their answers before calibration.

    Returns
    -------
    AnswerRule, ConfidenceRule, or None for "none"

    Raises
    ------
    InputError
        Unknown name, or records where all class outputs are needed.
    """
    if name not in MAPS:
        raise input_error("calibration", f"one of {', '.join(MAPS)}", name, "")
    if name == "none":
        return None
    if name not in ANSWER_MAPS:
        return fit_confidence(name, observed.confidence, observed.correct)
    labels = table.statistics.labels
    if labels is None:
        raise input_error("labels", "known where class probabilities are calibrated", "none", "")
    fit = {"temperature": fit_temperature, "vector": fit_vector}[name]
    return fit(table.log_prob(), labels)


def apply_map(
    rule: AnswerRule | ConfidenceRule | None, table: Table, observed: Observed
) -> Observed:
    """Return the answers of a table's rows after calibration.

    Parameters
    ----------
    rule : AnswerRule, ConfidenceRule, or None
        From `fit_map`.
    table : Table
    observed : Observed
        Their answers before.

    Returns
    -------
    Observed
        Without ``losses`` after a confidence map: it says nothing of the other classes.
    """
    if rule is None:
        return observed
    if isinstance(rule, AnswerRule):
        return observe(table, rule)
    columns = [rule.curve(k, np.ascontiguousarray(p)) for k, p in enumerate(observed.confidence.T)]
    return Observed(np.stack(columns, axis=1), observed.correct)
