"""What exits gave, numpy or torch, checked by name and reduced to the few columns that scores use.

The same code serves the offline pass over a whole cache and the single decision inside an
inference loop, so both see the same numbers. Arithmetic: classes in float32 (logits are
seldom kept wider), everything per row in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._errors import InputError, input_error
from ._typing import Array, Floats

#: How many of the largest probabilities are kept of a cache.
TOP = 3
KINDS = ("logits", "probabilities", "record")
#: Logarithms of probabilities are kept above this where they are compared: one in 10**13.
LOWEST = -30.0
_COLUMNS = ("prediction", "confidence", "top_prob", "entropy")
#: Fewer rows of logits could look like probabilities by chance; more need not be looked at.
FEWEST, _MOST = 4, 64
_SUM_TOLERANCE = 1e-3  # covers a softmax in float16


class ExitOutput:
    """The reduced output of one exit for n samples.

    Attributes
    ----------
    prediction : ndarray of shape (n,), int32
        Largest class, the first of equals; -1 where the exit gave no answer.
    confidence : ndarray of shape (n,), float64
        The largest probability.
    margin : ndarray of shape (n,), float64
        Largest less second probability; NaN where a record keeps one only.
    entropy : ndarray of shape (n,), float64
        In nats; NaN where a record does not say.
    log_prob : ndarray of shape (n, C), float32, or None
        Logarithms of all class probabilities.
    features : ndarray of shape (n, D), float32, or None
        The model's own feature vector at this exit, of a width that is the exit's own.
    top_prob, top_class : ndarray of shape (n, T), float64 and int32
        The T largest probabilities, largest first, and their classes; NaN and -1 where unknown.
    log_sum_exp : ndarray of shape (n,), float64
        Of the logits; 0 for probabilities, NaN for records.

    A score is shown the first two and what it declares (`ScoreRule.needs`; "log_prob" brings `top_class` and
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
        """The largest probability, (n,)."""
        return self.top_prob[:, 0]

    @property
    def margin(self) -> Floats:
        """Largest less second probability, (n,)."""
        self._ask("margin")
        if self.top_prob.shape[1] < 2:
            return np.full(len(self), np.nan)
        return self.top_prob[:, 0] - self.top_prob[:, 1]

    @property
    def entropy(self) -> Floats:
        """In nats, (n,)."""
        return self._ask("entropy", self._entropy)

    @property
    def log_prob(self) -> npt.NDArray[np.float32] | None:
        """Logarithms of all class probabilities, (n, C)."""
        return self._ask("log_prob", self._log_prob)

    @property
    def log_sum_exp(self) -> Floats:
        """Of the logits, (n,)."""
        return self._ask("log_sum_exp", self._log_sum_exp, "log_prob")

    @property
    def top_class(self) -> npt.NDArray[np.int32]:
        """Classes of the largest probabilities, (n, T)."""
        return self._ask("top_class", self._top_class, "log_prob")

    @property
    def features(self) -> npt.NDArray[np.float32] | None:
        """The model's feature vector, (n, D)."""
        return self._ask("features", self._features)

    def _ask(self, column: str, value: Any = None, needs: str = "") -> Any:
        """Return a column; refused where the score that looks at this output does not declare it."""
        declared, needs = self.declared, needs or column
        if declared is None or needs in declared:
            return value
        if needs != "features" and "log_prob" in declared:
            return value
        raise input_error(
            column, "declared by the score that reads it", f"needs = {sorted(declared)}",
            f'Add to its class: needs = frozenset({{"{needs}"}}).',
        )  # fmt: skip

    def shown_to(self, needs: frozenset[str]) -> ExitOutput:
        """Return the columns that a score of these `needs` is shown, the same in a fit and in serving."""
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
    assert output.log_prob is not None  # the policy refuses records for rules that need it
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

    Only the differences to the largest logit enter, and the sum over the *other* classes is
    kept apart from the leading 1. So ``1 - confidence`` keeps its relative precision where a
    float32 softmax would round to exactly 1, and saturated exits can still be ranked.
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


def _entropy(work: Any, exps: Any, total: Floats, log_total: Floats) -> Floats:
    """Return the entropy in nats, (n,), from differences to the largest logit; `exps` is written to."""
    with np.errstate(invalid="ignore"):
        spread = np.add.reduce(np.multiply(exps, work, out=exps), axis=1)
    if not _all_finite(spread):  # a class that cannot be: 0 * -inf counts as 0
        spread = np.nansum(exps, axis=1)
    return np.maximum(log_total - spread.astype(np.float64) / total, 0.0)


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


def reduce_probabilities(
    probabilities: npt.NDArray[np.floating],
    top: int = TOP,
    scratch: npt.NDArray[np.float32] | None = None,
) -> ExitOutput:
    """Reduce class probabilities; as `reduce_logits` on their logarithms."""
    return reduce_logits(log_of(probabilities), top, scratch)


def reduce_record(
    prediction: npt.ArrayLike,
    confidence: npt.ArrayLike,
    top_prob: npt.ArrayLike | None = None,
    entropy: npt.ArrayLike | None = None,
) -> ExitOutput:
    """Bring a record (prediction and confidence, perhaps more) into the same columns."""
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


def reduce_exit(output: object, kind: str, classes: int, name: str = "output") -> ExitOutput:
    """Check what an exit gave and reduce it.

    Parameters
    ----------
    output : array of shape (n, C), or `ExitOutput`, or mapping
        Logits or probabilities; for records a mapping with ``prediction`` and
        ``confidence`` (and ``top_prob``, ``entropy``).
    kind : {"logits", "probabilities", "record"}
        What the policy was fitted on.
    classes : int
        C; 0 where unknown (records).
    name : str
        Name used in errors.

    Returns
    -------
    ExitOutput

    Raises
    ------
    InputError
        Wrong shape, NaN, +inf, or no finite logit in a row.

    Examples
    --------
    >>> reduce_exit(np.zeros((2, 4)), "logits", 4).confidence
    array([0.25, 0.25])
    """
    if isinstance(output, ExitOutput):
        return output
    if kind == "record":
        if not hasattr(output, "keys"):
            allowed = "a mapping with 'prediction' and 'confidence'"
            step = "The policy was fitted on records; pass records."
            raise input_error(name, allowed, type(output).__name__, step)
        columns = {key: as_array(output[key], f"{key} of {name}") for key in output}  # type: ignore
        _check_record(columns, name)
        return reduce_record(**columns)
    return reduce_logits(read_logits(output, kind, classes, name, finite=False), name=name)


def read_logits(
    output: object, kind: str, classes: int, name: str = "output", *, finite: bool = True
) -> npt.NDArray[np.floating]:
    """Check what an exit gave, and return its logits; of probabilities, their logarithms."""
    array = as_array(output, name)
    if array.dtype.kind not in "fiu":
        raise input_error(name, f"an array of {kind}", f"dtype {array.dtype}", "Pass floats.")
    if array.ndim != 2 or array.shape[1] != classes:
        step = "One row per sample, one column per class."
        raise input_error(name, f"of shape (n, {classes})", f"shape {array.shape}", step)
    if kind == "probabilities":
        _check_probabilities(array, name)
        return log_of(array)
    if finite:
        check_finite(array, name)
    return array


def _check_probabilities(array: npt.NDArray[np.floating], name: str) -> None:
    """Refuse NaN, infinity, negative numbers and rows that do not sum to 1."""
    # The least number first: where it is 0 or more there is no NaN, and none of the infinities
    # whose sum would warn. A row with infinity does not sum to 1.
    if array.min(initial=0.0) >= 0:
        sums = array.sum(axis=1, dtype=np.float64)
        if (np.abs(sums - 1.0) <= 0.02).all():
            return
    check_finite(array, name)
    raise input_error(name, "probabilities that sum to 1", "rows that do not", "Were these logits?")


def looks_like_probabilities(output: object) -> bool:
    """Say whether the first rows, four or more, are all non-negative with sum 1, as no logits are."""
    rows: Any = output[:_MOST] if getattr(output, "ndim", 0) == 2 else None  # type: ignore[index]
    if rows is None or len(rows) < FEWEST or not rows.shape[1]:
        return False
    rows = as_array(rows)
    # The least first: of logits nearly always negative, which ends it. NaN is not 0 or more.
    if rows.dtype.kind != "f" or not rows.min() >= 0:
        return False
    with np.errstate(over="ignore"):  # a sum that is inf is not 1
        return bool((np.abs(rows.sum(axis=1, dtype=np.float64) - 1) <= _SUM_TOLERANCE).all())


def refuse_probabilities(output: object, name: str) -> None:
    """Refuse probabilities where the policy takes logits: their softmax is nearly even, so all would run on."""
    if looks_like_probabilities(output):
        got = "rows that are non-negative and sum to 1: probabilities"
        step = "Give the logits (before softmax), or fit the policy on probabilities."
        raise input_error(name, "logits, which the policy was fitted on", got, step)


def _check_record(columns: dict[str, Any], name: str) -> None:
    """Refuse records that lack a column, hold an unknown one, or a confidence that is none."""
    missing, unknown = set(_COLUMNS[:2]) - columns.keys(), columns.keys() - set(_COLUMNS)
    if missing or unknown:
        allowed = f"prediction and confidence, perhaps {', '.join(_COLUMNS[2:])}"
        got = ", ".join(sorted(columns))
        raise input_error(f"columns of {name}", allowed, got, "Rename or add columns.")
    confidence, prediction = columns["confidence"], columns["prediction"]
    if confidence.shape != prediction.shape or confidence.ndim > 1:
        allowed = "of one shape, one number per sample"
        got = f"shapes {prediction.shape} and {confidence.shape}"
        raise input_error(f"pred and conf of {name}", allowed, got, "Take both from the same rows.")
    if prediction.dtype.kind not in "iu":
        got = f"dtype {prediction.dtype}"
        raise input_error(f"pred of {name}", "whole numbers", got, "Number the classes.")
    if confidence.dtype.kind not in "fiu" or not ((confidence >= 0) & (confidence <= 1)).all():
        got = confidence.ravel()[:5].tolist()
        raise input_error(f"confidence of {name}", "numbers in [0, 1]", got)


def as_array(output: object, name: str = "output") -> Array:
    """Return `output` as an ndarray; torch tensors are detached and brought to the CPU, by their own methods."""
    if hasattr(output, "detach"):
        tensor = output.detach().cpu()  # type: ignore[attr-defined]
        if "bfloat16" in str(tensor.dtype):  # numpy has no such type
            tensor = tensor.float()
        return tensor.numpy()
    try:
        return np.asarray(output)
    except ValueError as error:
        got = "rows of unequal length"
        raise input_error(name, "an array", got, "Pad or fix the rows.") from error


def check_finite(array: npt.NDArray[np.floating], name: str) -> None:
    """Refuse NaN, +inf and rows without a finite value; -inf alone marks a class that cannot be."""
    check_peaks(array.max(axis=1), name)


def read_vectors(
    k: int, features: object, samples: int, scalar: bool = False
) -> npt.NDArray[np.float32]:
    """Check the feature vectors that exit k gave, and return them as (n, D) float32."""
    name = f"features of exit {k}"
    if features is None:
        step = "Pass features= beside the outputs: the vectors that the cache holds for this exit."
        raise input_error(name, "given: the policy's score reads them", "none", step)
    array = as_array(features, name)
    array = array[None] if scalar and array.ndim == 1 else array
    if array.ndim != 2 or len(array) != samples or not array.shape[1]:
        got = f"shape {array.shape}"
        raise input_error(name, f"of shape ({samples}, D)", got, "One row per sample.")
    if array.dtype.kind not in "fiu":
        raise input_error(name, "an array of numbers", f"dtype {array.dtype}", "Pass floats.")
    with np.errstate(over="ignore"):  # a number too large for float32 is found as infinity
        array = array.astype(np.float32, order="C", copy=False)
    if not np.isfinite(array).all():
        raise input_error(name, "finite", "NaN or infinity", "Look for overflow in the model.")
    return array


def read_exits(
    outputs: Any, exits: int, classes: int, path: Sequence[int] | None = None
) -> tuple[int, Callable[[int, slice], object]]:
    """Return the number of samples, and a way to read some of them at one exit."""
    if isinstance(outputs, Mapping):
        raise input_error("outputs", "one entry per exit", "a mapping", "Pass a list of K records.")
    is_array = hasattr(outputs, "ndim")
    if not is_array and not hasattr(outputs, "__len__"):
        raise input_error("outputs", "an array, or one entry per exit", type(outputs).__name__, "")
    count = (outputs.shape[1] if outputs.ndim == 3 else -1) if is_array else len(outputs)
    if count != exits:
        came = f"shape {tuple(outputs.shape)}" if is_array else f"{count} entries"
        allowed = f"of shape (N, {exits}, {classes}), or a sequence of {exits} exits"
        raise input_error("outputs", allowed, came)
    if is_array:
        array = as_array(outputs)
        return len(array), lambda k, part: array[part, k]
    entries = {
        k: o if isinstance(o, (ExitOutput, Mapping)) else as_array(o, f"output of exit {k}")
        for k, o in enumerate(outputs)
        if path is None or k in path
    }
    lengths = {k: _length(entry) for k, entry in entries.items()}
    first, rows = next(iter(lengths.items()))
    for k, length in lengths.items():
        if length != rows:
            raise input_error(f"output of exit {k}", f"{rows} rows, as exit {first} has", length)
    return rows, lambda k, part: _part(entries[k], part)


def _length(entry: Any) -> int:
    if isinstance(entry, Mapping):
        return max((len(np.atleast_1d(as_array(column))) for column in entry.values()), default=0)
    return len(entry) if isinstance(entry, ExitOutput) or entry.ndim else 0


def _part(entry: Any, part: slice) -> Any:
    if isinstance(entry, ExitOutput):
        return entry.take(part)
    if isinstance(entry, Mapping):
        return {key: np.atleast_1d(as_array(column))[part] for key, column in entry.items()}
    return entry[part] if entry.ndim else entry


def read_features(
    features: Any, exits: int, samples: int, path: Sequence[int] | None = None
) -> list[Array]:
    """Return the feature vectors of many samples, one array per exit of the path."""
    several = isinstance(features, (list, tuple))
    if not several or len(features) != exits:
        got = f"{len(features)} entries" if several else f"a {type(features).__name__}"
        allowed = f"a list of {exits} arrays of shape (N, D_k), one per exit"
        step = "Widths may differ by exit, so they do not stand in one array."
        raise input_error("features", allowed, got, step)
    arrays = []
    for k in range(exits) if path is None else path:
        name = f"features of exit {k}"
        arrays.append(array := as_array(features[k], name))
        if array.ndim != 2 or len(array) != samples:
            got = f"shape {array.shape}"
            raise input_error(name, f"of shape ({samples}, D)", got, "As the outputs.")
    return arrays
