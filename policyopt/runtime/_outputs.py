"""What one exit says, reduced to the few columns that scores use: classes in float32, rows in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._errors import InputError, input_error
from ._typing import Floats

#: How many of the largest probabilities are kept of a cache.
TOP = 2
#: Logarithms of probabilities are kept above this where they are compared: one in 10**13.
LOWEST = -30.0
#: Classes that are summed up in float32 at most, then in float64: errors do not grow with C.
_RUN = 1024
#: Up to so many classes, of so many rows, ranks are looked for class by class: numpy pays for each short row.
_FEW, _MANY = 48, 1000


class ExitOutput:
    """The reduced output of one exit for n samples.

    Attributes
    ----------
    prediction : ndarray of shape (n,), int32
        Largest class, the first of equals; -1 where the exit gave no answer.
    confidence : ndarray of shape (n,), float64
        The largest probability.
    margin : ndarray of shape (n,), float64
        Largest less second probability; NaN where a summary keeps one only.
    entropy : ndarray of shape (n,), float64
        In nats; NaN where a summary does not say.
    log_prob : ndarray of shape (n, C), float32, or None
        Logarithms of all class probabilities.
    features : ndarray of shape (n, D), float32, or None
        The model's own feature vector at this exit, of a width that is the exit's own.
    top_prob, top_class : ndarray of shape (n, T), float64 and int32
        The T largest probabilities, largest first, and their classes; NaN and -1 where unknown.
    log_sum_exp : ndarray of shape (n,), float64
        Of the logits; 0 for probabilities, NaN for records.

    A score is shown the first two and what it declares (`ScoreRule.required_columns`; "log_prob" brings `top_class` and
    `log_sum_exp`); it asks for the rest in vain, when it is fitted as when it serves.
    """

    __slots__ = (
        "_entropy", "_features", "_log_prob", "_log_sum_exp", "_top_class", "declared", "prediction",
        "top_prob",
    )  # fmt: skip

    def __init__(
        self,
        prediction: npt.NDArray[np.int32],
        top_prob: Floats,
        top_class: npt.NDArray[np.int32],
        entropy: Floats,
        log_sum_exp: Floats,
        log_prob: npt.NDArray[np.float32] | None = None,
        features: npt.NDArray[np.float32] | None = None,
        declared: frozenset[str] | None = None,
    ) -> None:
        self.prediction, self.top_prob, self._top_class = prediction, top_prob, top_class
        self._entropy, self._log_sum_exp = entropy, log_sum_exp
        self._log_prob, self._features = log_prob, features
        self.declared = declared  # None: all that is there may be read

    def __len__(self) -> int:
        return len(self.prediction)

    @property
    def confidence(self) -> Floats:
        return self.top_prob[:, 0]

    @property
    def margin(self) -> Floats:
        self._ask("margin")
        if self.top_prob.shape[1] < 2:
            return np.full(len(self), np.nan)
        return self.top_prob[:, 0] - self.top_prob[:, 1]

    @property
    def entropy(self) -> Floats:
        return self._ask("entropy", self._entropy)

    @property
    def log_prob(self) -> npt.NDArray[np.float32] | None:
        return self._ask("log_prob", self._log_prob)

    @property
    def log_sum_exp(self) -> Floats:
        return self._ask("log_sum_exp", self._log_sum_exp, "log_prob")

    @property
    def top_class(self) -> npt.NDArray[np.int32]:
        return self._ask("top_class", self._top_class, "log_prob")

    @property
    def features(self) -> npt.NDArray[np.float32] | None:
        return self._ask("features", self._features)

    def _ask(self, column: str, value: Any = None, needs: str = "") -> Any:
        """Return a column; refused where the score that looks at this output does not declare it."""
        declared, needs = self.declared, needs or column
        if declared is None or needs in declared:
            return value
        if needs != "features" and "log_prob" in declared:
            return value
        allowed, got = (
            "declared by the score that reads it",
            f"required_columns = {sorted(declared)}",
        )
        step = f'Add to its class: required_columns = frozenset({{"{needs}"}}).'
        raise input_error(column, allowed, got, step)

    def shown_to(self, needs: frozenset[str], sealed: bool = False) -> ExitOutput:
        """Return what a score of these `required_columns` is shown, wherever it runs; `sealed`: not to write to."""
        full = "log_prob" in needs
        top = 2 if full or "margin" in needs else 1
        shown: list[Any] = [
            self.prediction,
            self.top_prob[:, :top] if self.top_prob.shape[1] > top else self.top_prob,
            self._top_class[:, :top] if full else None,
            self._entropy if full or "entropy" in needs else None,
            self._log_sum_exp if full else None,
            self._log_prob if full else None,
            self._features if "features" in needs else None,
        ]
        if sealed:
            shown = [None if column is None else column.view() for column in shown]
            for column in shown:
                if column is not None:
                    column.flags.writeable = False
        return ExitOutput(*shown, declared=needs)

    def columns(self) -> list[Any]:
        """Return all that is there, in the order of the constructor."""
        return [
            self.prediction, self.top_prob, self._top_class, self._entropy, self._log_sum_exp,
            self._log_prob, self._features,
        ]  # fmt: skip

    def take(self, rows: Any) -> ExitOutput:
        """Return the same columns for some rows (a mask, row numbers or a slice)."""
        picked: list[Any] = [c if c is None else c[rows] for c in self.columns()]
        return ExitOutput(*picked, declared=self.declared)

    @classmethod
    def joined(cls, parts: Sequence[ExitOutput]) -> ExitOutput:
        """Return the rows of several outputs of one exit as one."""
        columns = zip(*(part.columns() for part in parts), strict=True)
        whole: list[Any] = [None if c[0] is None else np.concatenate(c) for c in columns]
        return cls(*whole)


def with_log_prob(output: ExitOutput, logits: npt.NDArray[np.floating]) -> ExitOutput:
    """Return the same columns and the logarithms of all class probabilities, (n, C) float32."""
    log_total = output.log_sum_exp.astype(np.float32)[:, None]
    return with_columns(output, logits.astype(np.float32) - log_total)


def with_columns(output: ExitOutput, log_prob: Any = None, features: Any = None) -> ExitOutput:
    """Return the same columns with `log_prob` (n, C) or `features` (n, D) put in; None leaves what is there."""
    columns = output.columns()
    for at, column in ((5, log_prob), (6, features)):
        columns[at] = columns[at] if column is None else column
    return ExitOutput(*columns)


def log_probabilities(output: ExitOutput) -> Floats:
    """Return the logarithms of all class probabilities, (n, C) float64, contiguous, at least `LOWEST`."""
    assert output.log_prob is not None  # the policy refuses summaries for rules that need it
    return np.maximum(output.log_prob.astype(np.float64, order="C", copy=False), LOWEST)


def reduce_logits(
    logits: npt.NDArray[np.floating],
    top: int = TOP,
    scratch: npt.NDArray[np.float32] | None = None,
    *,
    entropy: bool = True,
    name: str = "",
) -> ExitOutput:
    """Reduce logits to the columns that scores use.

    The sum over the *other* classes is kept apart from the leading 1: so ``1 - confidence`` keeps its
    relative precision where a softmax would round to 1, and saturated exits can be ranked.
    """
    if not isinstance(logits, np.ndarray):  # a symbol: `policyopt._export` records what is done
        return logits.traced_reduce(top)
    n, classes = logits.shape
    # C-ordered working copies: equal memory layout for one row and for many is what makes a
    # batch and a single step agree to the last bit.
    if scratch is None:
        work, exps = np.array(logits, dtype=np.float32, order="C"), None
    else:
        work, exps = scratch[0, :n], scratch[1, :n]
        _widen(logits, work)
    # One place per row in the flat memory: a fraction of the price of row and column numbers.
    # A single row, which an inference loop reduces again and again, starts at 0.
    flat = work.reshape(-1)
    starts = None if n == 1 else np.arange(0, n * classes, classes)

    ranks = _ranks(work, top) if n >= _MANY and classes <= _FEW else None
    best = work.argmax(axis=1) if ranks is None else ranks[0]
    first = best if starts is None else starts + best
    peak = flat[first]
    if name:
        check_peaks(peak, name)
    work -= peak[:, None]
    exps = np.exp(work, out=exps)
    exps.reshape(-1)[first] = 0.0  # the leading 1 stays apart
    rest = np.add.reduce(exps, axis=1).astype(np.float64)
    total, log_total = 1.0 + rest, np.log1p(rest)
    nats = _entropy(work, exps, total, log_total) if entropy else np.full(n, np.nan)

    # The ranks last, since their search writes over the differences.
    shape, place = (n, min(top, classes)), first
    top_class, top_prob = np.empty(shape, dtype=np.int32), np.empty(shape)
    top_class[:, 0] = best
    np.divide(1.0, total, out=top_prob[:, 0])
    for rank in range(1, shape[1]):
        flat[place] = -np.inf  # out of the search for the next one
        following = work.argmax(axis=1) if ranks is None else ranks[rank]
        place = following if starts is None else starts + following
        shift = flat[place]
        top_class[:, rank] = following
        np.divide(np.exp(shift.astype(np.float64)), total, out=top_prob[:, rank])
        if not _all_finite(shift):
            top_class[shift == -np.inf, rank] = -1
    return ExitOutput(top_class[:, 0], top_prob, top_class, nats, peak + log_total)


def _ranks(work: npt.NDArray[np.float32], top: int) -> list[npt.NDArray[np.intp]]:
    """Return the classes of the `top` largest, each (n,), of few classes (n, C): as argmax by rows finds them."""
    n, classes = work.shape
    turned, ranks = np.array(work.T, order="C"), list[npt.NDArray[np.intp]]()
    for rank in range(min(top, classes)):
        peak = turned.max(axis=0)
        others = np.negative((turned != peak).view(np.int8)).view(np.uint8)
        others |= np.arange(classes, dtype=np.uint8)[:, None]  # 255 but for the largest
        best = others.min(axis=0).astype(np.intp)
        odd = np.flatnonzero(best == 255)  # NaN is no one's equal
        best[odd] = turned[:, odd].argmax(axis=0)
        ranks.append(best)
        if not rank:  # differences are ranked, as in `reduce_logits`: what is close may be one
            with np.errstate(invalid="ignore"):
                turned -= peak
        turned.reshape(-1)[best * n + np.arange(n)] = -np.inf
    return ranks


def _widen(logits: npt.NDArray[np.floating], work: npt.NDArray[np.float32]) -> None:
    """Write the logits to `work`, (n, C): float16 by its bits, as exact as numpy's way in half its time."""
    if logits.dtype == np.float16 and logits.size:
        signed = logits.view(np.int16)
        # A full exponent is infinity or NaN: the largest of either sign's bits.
        if signed.max() < 0x7C00 and signed.view(np.uint16).max() < 0xFC00:
            bits = work.view(np.int32)
            np.multiply(signed, 1 << 13, out=bits, dtype=np.int32)
            np.bitwise_and(bits, np.int32(~0x70000000), out=bits)  # one of four copies of the sign
            np.multiply(work, np.float32(2.0**112), out=work)  # 2**(127 - 15), of the exponents
            return
    np.copyto(work, logits, casting="same_kind")


def _entropy(work: Any, exps: Any, total: Floats, log_total: Floats) -> Floats:
    """Return the entropy in nats, (n,), from differences to the largest logit."""
    with np.errstate(invalid="ignore"):
        spread = _dots(exps, work)
    if not _all_finite(spread):  # a class that cannot be: 0 * -inf counts as 0
        rows = ~np.isfinite(spread)
        spread[rows] = _dots(exps[rows], np.maximum(work[rows], np.finfo(np.float32).min))
    return np.maximum(log_total - spread / total, 0.0)


def _dots(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Floats:
    """Return the dot product of each two rows (n, C), (n,): by einsum, whose bits are those of a row alone."""
    n, classes = a.shape
    if classes <= _RUN:
        return np.einsum("ij,ij->i", a, b).astype(np.float64)
    whole = classes - classes % _RUN
    runs = [x[:, :whole].reshape(n, whole // _RUN, _RUN) for x in (a, b)]
    sums = np.einsum("ijk,ijk->ij", *runs).sum(axis=1, dtype=np.float64)
    return sums + _dots(a[:, whole:], b[:, whole:])


def check_peaks(peaks: npt.NDArray[np.floating], name: str) -> None:
    """Refuse rows whose largest value, (n,), is not finite: it is NaN, +inf or -inf where a row is bad."""
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


def reduce_record(
    prediction: npt.ArrayLike,
    confidence: npt.ArrayLike,
    top_prob: npt.ArrayLike | None = None,
    entropy: npt.ArrayLike | None = None,
) -> ExitOutput:
    """Bring a summary (confidence, prediction or -1, perhaps more) into the same columns."""
    confidence = np.atleast_1d(np.asarray(confidence, dtype=np.float64))
    n = len(confidence)
    prediction = np.broadcast_to(np.asarray(prediction).astype(np.int32), n).copy()
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
