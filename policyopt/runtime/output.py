"""What one exit says, reduced to the few columns that scores use.

The same code serves the offline pass over a whole cache and the single decision inside an
inference loop, so both see the same numbers. Arithmetic: classes in float32 (logits are
seldom kept wider), everything per row in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .exit_output import ExitOutput, Floats, with_columns, with_log_prob

__all__ = [
    "KINDS", "TOP", "ExitOutput", "check_peaks", "log_of", "reduce_logits", "reduce_probabilities",
    "reduce_record", "with_columns", "with_log_prob",
]  # fmt: skip

#: How many of the largest probabilities are kept.
TOP = 3
KINDS = ("logits", "probabilities", "record")


def reduce_logits(
    logits: npt.NDArray[np.floating],
    top: int = TOP,
    scratch: npt.NDArray[np.float32] | None = None,
    *,
    entropy: bool = True,
    name: str = "",
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
    entropy : bool
        False leaves it out (NaN), for scores that do not look at it.
    name : str
        Of the logits in the error for a row without a finite largest; where it is empty, rows are
        not looked at, and theirs is a `log_sum_exp` that is not finite.

    Returns
    -------
    ExitOutput

    Raises
    ------
    InputError
        NaN, +inf, or no finite logit in a row; only with a `name`.

    Examples
    --------
    >>> out = reduce_logits(np.log([[0.7, 0.2, 0.1]]))
    >>> out.prediction, out.confidence.round(3), out.margin.round(3), out.entropy.round(3)
    (array([0], dtype=int32), array([0.7]), array([0.5]), array([0.802]))
    """
    if not isinstance(logits, np.ndarray):  # a symbol: `policyopt.export` records what is done
        return logits.traced_reduce(top)
    n, classes = logits.shape
    # C-ordered working copies: equal memory layout for one row and for many is what makes a
    # batch and a single step agree to the last bit.
    if scratch is None:
        work, exps = np.array(logits, dtype=np.float32, order="C"), None
    else:
        work, exps = scratch[0, :n], scratch[1, :n]
        np.copyto(work, logits, casting="same_kind")
    # One place per row in the flat memory: a fraction of the price of row and column numbers.
    # A single row, which an inference loop reduces again and again, starts at 0.
    flat = work.reshape(-1)
    starts = None if n == 1 else np.arange(0, n * classes, classes)

    best = work.argmax(axis=1)
    first = best if starts is None else starts + best
    peak = flat[first]
    if name:
        check_peaks(peak, name)
    work -= peak[:, None]
    top_class = np.empty((n, min(top, classes)), dtype=np.int32)
    top_class[:, 0] = best
    found: list[tuple[Any, Any]] = [(first, 0.0)]  # places and differences, rank by rank
    for rank in range(1, top_class.shape[1]):
        flat[found[-1][0]] = -np.inf  # out of the search for the next one
        following = work.argmax(axis=1)
        place = following if starts is None else starts + following
        shift = flat[place]
        found.append((place, shift))
        top_class[:, rank] = following
        if not _all_finite(shift):
            top_class[shift == -np.inf, rank] = -1
    # Put back what the search took out; backwards, since a row with fewer than `top` possible
    # classes meets its first class again as a later rank.
    for place, shift in found[-2::-1]:
        flat[place] = shift

    exps = np.exp(work, out=exps)
    exps.reshape(-1)[first] = 0.0  # the leading 1 stays apart
    rest = np.add.reduce(exps, axis=1).astype(np.float64)
    total, log_total = 1.0 + rest, np.log1p(rest)
    top_prob = np.empty(top_class.shape)
    np.divide(1.0, total, out=top_prob[:, 0])
    for rank, (_, shift) in enumerate(found[1:], 1):
        np.divide(np.exp(shift.astype(np.float64)), total, out=top_prob[:, rank])
    nats = _entropy(work, exps, total, log_total) if entropy else np.full(n, np.nan)
    return ExitOutput(top_class[:, 0], top_prob, top_class, nats, peak + log_total)


def _entropy(
    work: npt.NDArray[np.float32],
    exps: npt.NDArray[np.float32],
    total: Floats,
    log_total: Floats,
) -> Floats:
    """Return the entropy in nats, (n,), from differences to the largest logit; `exps` is written to."""
    with np.errstate(invalid="ignore"):
        spread = np.add.reduce(np.multiply(exps, work, out=exps), axis=1)
    if not _all_finite(spread):  # a class that cannot be: 0 * -inf counts as 0
        spread = np.nansum(exps, axis=1)
    return np.maximum(log_total - spread.astype(np.float64) / total, 0.0)


def check_peaks(peaks: npt.NDArray[np.floating], name: str) -> None:
    """Refuse rows whose largest value, (n,), is not finite: it is NaN, +inf or -inf where a row is bad.

    Parameters
    ----------
    peaks : ndarray of shape (n,)
    name : str
        Of the rows, in the error.

    Raises
    ------
    InputError
        By row.
    """
    if _all_finite(peaks):
        return
    row = int(np.flatnonzero(~np.isfinite(peaks))[0])
    raise InputError(
        f"'{name}' must have a finite largest value in every row. Got {peaks[row]} in row {row}. "
        "Look for NaN or infinity in the model's outputs."
    )


def _all_finite(values: npt.NDArray[np.floating]) -> bool:
    # One row is what an inference loop asks about, again and again: two calls of numpy for one
    # number would be a tenth of its decision.
    return math.isfinite(values[0]) if len(values) == 1 else bool(np.isfinite(values).all())


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
