"""`ExitOutput`: the few columns of one exit's output that scores use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from .typing import Floats

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ExitOutput:
    """The reduced output of one exit for n samples.

    Attributes
    ----------
    prediction : ndarray of shape (n,), int32
        Largest class, the first of equals; -1 where the exit gave no answer.
    top_prob : ndarray of shape (n, T), float64
        The T largest probabilities, largest first; NaN where a record does not say. T is 2 or
        more where a score's `needs` name "margin" (or "log_prob"); else it may be 1.
    top_class : ndarray of shape (n, T), int32
        Their classes; -1 where unknown.
    entropy : ndarray of shape (n,), float64
        In nats; NaN where a record does not say, or no score's `needs` name it (or "log_prob").
    log_sum_exp : ndarray of shape (n,), float64
        Of the logits; 0 for probabilities, NaN for records.
    log_prob : ndarray of shape (n, C), float32, or None
        Logarithms of all class probabilities: only for rules that read them.
    features : ndarray of shape (n, D), float32, or None
        The model's own feature vector at this exit, of a width that is the exit's own: only for
        rules that read it.
    """

    prediction: Ints
    top_prob: Floats
    top_class: Ints
    entropy: Floats
    log_sum_exp: Floats
    log_prob: npt.NDArray[np.float32] | None = None
    features: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.prediction)

    @property
    def confidence(self) -> Floats:
        """The largest probability, (n,)."""
        return self.top_prob[:, 0]

    @property
    def margin(self) -> Floats:
        """Largest less second probability, (n,); NaN where a record keeps one only."""
        if self.top_prob.shape[1] < 2:
            return np.full(len(self), np.nan)
        return self.top_prob[:, 0] - self.top_prob[:, 1]

    def take(self, rows: npt.NDArray[np.intp] | slice) -> ExitOutput:
        """Return the same columns for some rows."""
        columns: list[Any] = [getattr(self, f.name) for f in fields(self)]
        picked: list[Any] = [c if c is None else c[rows] for c in columns]
        return ExitOutput(*picked)


def with_log_prob(output: ExitOutput, logits: npt.NDArray[np.floating]) -> ExitOutput:
    """Return the same columns and the logarithms of all class probabilities, (n, C) float32."""
    return with_columns(
        output, logits.astype(np.float32) - output.log_sum_exp.astype(np.float32)[:, None]
    )


def with_columns(
    output: ExitOutput,
    log_prob: npt.NDArray[np.float32] | None = None,
    features: npt.NDArray[np.float32] | None = None,
) -> ExitOutput:
    """Return the same columns with `log_prob` or `features` put in; None leaves what is there.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_record
    >>> with_columns(reduce_record([3], [0.8]), features=np.ones((1, 2), np.float32)).features
    array([[1., 1.]], dtype=float32)
    """
    # Written out: `dataclasses.replace` takes as long as three sums over classes.
    return ExitOutput(
        output.prediction,
        output.top_prob,
        output.top_class,
        output.entropy,
        output.log_sum_exp,
        output.log_prob if log_prob is None else log_prob,
        output.features if features is None else features,
    )
