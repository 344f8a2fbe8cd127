"""What one exit says, reduced to the few columns that scores use.

The same code serves the offline pass over a whole cache and the single decision inside an
inference loop, so both see the same numbers. Arithmetic: classes in float32 (logits are
seldom kept wider), everything per row in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

#: How many of the largest probabilities are kept.
TOP = 3
KINDS = ("logits", "probabilities", "record")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ExitOutput:
    """The reduced output of one exit for n samples.

    Attributes
    ----------
    prediction : ndarray of shape (n,), int32
        Largest class, the first of equals; -1 where the exit gave no answer.
    top_prob : ndarray of shape (n, T), float64
        The T largest probabilities, largest first; NaN where a record does not say.
    top_class : ndarray of shape (n, T), int32
        Their classes; -1 where unknown.
    entropy : ndarray of shape (n,), float64
        In nats; NaN where a record does not say.
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


def reduce_logits(
    logits: npt.NDArray[np.floating],
    top: int = TOP,
    scratch: npt.NDArray[np.float32] | None = None,
) -> ExitOutput:
    """Reduce logits to the columns that scores use.

    Only the differences to the largest logit enter, and the sum over the *other* classes is
    kept apart from the leading 1. So ``1 - confidence`` keeps its relative precision where a
    float32 softmax would round to exactly 1, and saturated exits can still be ranked.

    Parameters
    ----------
    logits : ndarray of shape (n, C), any float dtype
        -inf marks a class that cannot be; every row needs one finite logit.
    top : int
        How many of the largest probabilities to keep (at most C).
    scratch : ndarray of shape (2, m, C), float32, m >= n, optional
        Working memory, written to; spares a pass over many chunks the page faults of new
        memory, which cost more than the arithmetic.

    Returns
    -------
    ExitOutput

    Examples
    --------
    >>> out = reduce_logits(np.log([[0.7, 0.2, 0.1]]))
    >>> out.prediction, out.confidence.round(3), out.margin.round(3), out.entropy.round(3)
    (array([0], dtype=int32), array([0.7]), array([0.5]), array([0.802]))
    """
    if not isinstance(logits, np.ndarray):  # a symbol: `policyopt.export` records what is done
        return logits.traced_reduce(top)
    n, classes = logits.shape
    if scratch is None:
        scratch = np.empty((2, n, classes), dtype=np.float32)
    # C-ordered working copies: equal memory layout for one row and for many is what makes a
    # batch and a single step agree to the last bit.
    work, exps = scratch[0, :n], scratch[1, :n]
    np.copyto(work, logits, casting="same_kind")
    top = min(top, classes)
    rows = np.arange(n)
    top_class = np.empty((n, top), dtype=np.int32)
    top_shift = np.zeros((n, top), dtype=np.float32)

    best = work.argmax(axis=1)
    top_class[:, 0] = best
    peak = work[rows, best]
    work -= peak[:, None]
    work[rows, best] = -np.inf
    for rank in range(1, top):
        following = work.argmax(axis=1)
        top_class[:, rank] = following
        top_shift[:, rank] = work[rows, following]
        work[rows, following] = -np.inf
    # Put back what the search took out; backwards, since a row with fewer than `top` possible
    # classes meets its first class again as a later rank.
    for rank in range(top - 1, 0, -1):
        work[rows, top_class[:, rank]] = top_shift[:, rank]
    top_class[top_shift == -np.inf] = -1

    np.exp(work, out=exps)  # 0 at the largest class
    rest = exps.sum(axis=1).astype(np.float64)
    work[rows, best] = 0.0
    with np.errstate(invalid="ignore"):
        spread = np.multiply(exps, work, out=exps).sum(axis=1).astype(np.float64)
    if np.isnan(spread).any():  # a class that cannot be: 0 * -inf counts as 0
        spread = np.nansum(exps, axis=1).astype(np.float64)
    total = 1.0 + rest
    return ExitOutput(
        prediction=top_class[:, 0].copy(),
        top_prob=np.exp(top_shift.astype(np.float64)) / total[:, None],
        top_class=top_class,
        entropy=np.maximum(np.log1p(rest) - spread / total, 0.0),
        log_sum_exp=peak.astype(np.float64) + np.log1p(rest),
    )


def reduce_probabilities(
    probabilities: npt.NDArray[np.floating],
    top: int = TOP,
    scratch: npt.NDArray[np.float32] | None = None,
) -> ExitOutput:
    """Reduce class probabilities; as `reduce_logits` on their logarithms.

    Parameters
    ----------
    probabilities : ndarray of shape (n, C)
        Rows that sum to 1 (rounding is divided out).
    top : int
        How many of the largest probabilities to keep.
    scratch : ndarray, optional
        As in `reduce_logits`.

    Returns
    -------
    ExitOutput

    Examples
    --------
    >>> reduce_probabilities(np.array([[0.1, 0.9]])).confidence.round(6)
    array([0.9])
    """
    return reduce_logits(log_of(probabilities), top, scratch)


def reduce_record(
    prediction: npt.ArrayLike,
    confidence: npt.ArrayLike,
    top_prob: npt.ArrayLike | None = None,
    entropy: npt.ArrayLike | None = None,
) -> ExitOutput:
    """Bring a record (prediction and confidence, perhaps more) into the same columns.

    Parameters
    ----------
    prediction : array of shape (n,), int
        -1 where the exit gave no answer.
    confidence : array of shape (n,)
        In [0, 1].
    top_prob : array of shape (n, T), optional
        Largest probabilities, largest first.
    entropy : array of shape (n,), optional
        In nats.

    Returns
    -------
    ExitOutput

    Examples
    --------
    >>> reduce_record([3], [0.8]).confidence
    array([0.8])
    """
    prediction = np.atleast_1d(np.asarray(prediction)).astype(np.int32)
    confidence = np.atleast_1d(np.asarray(confidence, dtype=np.float64))
    n = len(prediction)
    unknown = np.full(n, np.nan)
    if top_prob is None:
        tops = confidence[:, None].copy()
    else:
        tops = np.array(top_prob, dtype=np.float64).reshape(n, -1)
        tops[:, 0] = confidence
    classes = np.full(tops.shape, -1, dtype=np.int32)
    classes[:, 0] = prediction
    entropies = unknown if entropy is None else np.atleast_1d(np.asarray(entropy, np.float64))
    return ExitOutput(prediction, tops, classes, entropies, unknown)


def log_of(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return the logarithms in float32; -inf for 0."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probabilities, dtype=np.float32))


def with_log_prob(output: ExitOutput, logits: npt.NDArray[np.floating]) -> ExitOutput:
    """Return the same columns and the logarithms of all class probabilities, (n, C) float32."""
    log_prob = logits.astype(np.float32) - output.log_sum_exp.astype(np.float32)[:, None]
    return replace(output, log_prob=log_prob)
