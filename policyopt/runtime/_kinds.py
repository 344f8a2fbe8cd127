"""Kinds of outputs, one class each: how what an exit gives is read into the columns that scores use.

A score sees `ExitOutput`, whatever the model says. A kind that says a probability of every class (`Kind.whole`)
becomes logits; the others reduce their numbers themselves. Arrays may be symbols of `policyopt._export`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ._arithmetic import coin
from ._errors import input_error
from ._outputs import ExitOutput, check_peaks
from ._typing import Array

#: Rows (...) of numbers (..., W) that are none of a kind, what is allowed, and the next step.
Fault = tuple[Any, str, str]
#: Labels up to here have a bit each in the number of a set.
_BITS = 31
#: Numbers in [0, 1] that no logits are by chance.
_TELLING = 32
_MENDED = "Look for overflow (float16?) where they were made, mend that row or leave it out."


class Kind:
    """How one kind is read; this one: class logits, (n, C)."""

    name: str = "logits"
    #: Whether it says a probability of every class: scores may read all of them, answers combine them.
    whole: bool = True
    #: Whether an answer is a class number; else what `answer` returns.
    answers_class = True
    #: Whether it comes as columns by name, and not as one array.
    record: bool = False
    #: Whether one number per row may come without an axis of its own.
    single: bool = False
    #: Whether it is told by the exit before, too: then skipped exits change what is read.
    stateful: bool = False
    #: Whether it needs the error at which an answer is worth little.
    scaled: bool = False
    #: The kind of the same model's outputs after its sigmoid.
    after_sigmoid: str = ""
    #: What a row's truth is kept as where it is no class number.
    targets: str = ""
    #: Fewest classes, and what they are called.
    least = 2
    counted = "classes"

    def width(self, classes: int) -> int:
        """Return how many numbers an exit gives per row."""
        return classes

    def classes(self, width: int) -> int:
        """Return C, of outputs of a width."""
        return width

    def faults(self, values: Array) -> Iterator[Fault]:
        """Yield what is wrong with numbers (..., W)."""
        yield from ()

    def check(self, values: Array, name: str) -> None:
        """Refuse numbers (n, W) that are none of the kind."""
        if self.name == "logits":  # their largest is looked at when they are reduced
            return
        for off, allowed, step in self.faults(values):
            if off.any():
                row = int(off.argmax())
                shown = f"{values[row][:6].tolist()} in row {row}"
                raise input_error(name, allowed, shown, step)

    def logits(self, values: Any) -> Any:
        """Return the logits of all classes, (n, C)."""
        return values

    def start(self, samples: int, classes: int) -> tuple[Any, ...]:
        """Return the state before exit 0, of kinds that are not whole."""
        return ()

    def reduce(
        self, k: int, values: Any, state: tuple[Any, ...], scale: float
    ) -> tuple[ExitOutput, tuple[Any, ...]]:
        """Return the columns that scores use and the new state, of kinds that are not whole."""
        raise NotImplementedError

    def answer(self, values: Array) -> Array | None:
        """Return what a user sees of an answer, (n, ...), where it is no class number."""
        return None

    def example(self, logits: Array, scale: float) -> Array:
        """Return outputs (n, W) of the kind, made of logits (n, C), C 2 or more; the first are finite."""
        return logits


class _Probabilities(Kind):
    name = "probabilities"

    def check(self, values: Array, name: str) -> None:
        # The least number first: where it is 0 or more there is no NaN, and none of the infinities
        # whose sum would warn. A row with infinity does not sum to 1.
        if values.min(initial=0.0) >= 0:
            sums = values.sum(axis=1, dtype=np.float64)
            if (np.abs(sums - 1.0) <= 0.02).all():
                return
        check_peaks(values.max(axis=1), name)
        step = "Were these logits?"
        raise input_error(name, "probabilities that sum to 1", "rows that do not", step)

    def logits(self, values: Any) -> Any:
        return _log(values)

    def example(self, logits: Array, scale: float) -> Array:
        mass = np.exp(logits - logits.max(axis=1, keepdims=True))
        return mass / mass.sum(axis=1, keepdims=True)


class _Logit(Kind):
    """One logit z per row, of class 1 against class 0: the logits (0, z)."""

    name = "logit"
    single = True
    after_sigmoid = "probability"

    def width(self, classes: int) -> int:
        return 1

    def classes(self, width: int) -> int:
        return 2 if width == 1 else 0

    def faults(self, values: Array) -> Iterator[Fault]:
        yield ~(values[..., 0] < np.inf), "numbers below +inf (one logit per row)", _MENDED

    def logits(self, values: Any) -> Any:
        return np.concatenate([np.zeros_like(values), values], axis=1)

    def example(self, logits: Array, scale: float) -> Array:
        return logits[:, 1:2] - logits[:, :1]


class _Probability(_Logit):
    """One probability of class 1 per row, after a sigmoid."""

    name = "probability"
    after_sigmoid = ""

    def faults(self, values: Array) -> Iterator[Fault]:
        yield from _shares(values, "logit")

    def logits(self, values: Any) -> Any:
        return _log(np.concatenate([1 - values, values], axis=1))

    def example(self, logits: Array, scale: float) -> Array:
        return 1 / (1 + np.exp(logits[:, :1] - logits[:, 1:2]))


class _MultiLabel(Kind):
    """Logits of C labels, each by itself: an answer is the set of labels with a probability of 1/2 or more.

    Of independent labels a set has a probability, so the columns keep their meaning: the largest probability
    and the second are of sets, and the entropy is that of the sets, the sum of the labels' own.
    """

    name = "multilabel"
    whole = answers_class = False
    after_sigmoid = "multilabel_probabilities"
    targets = "int8"
    least = 1
    counted = "labels"

    def faults(self, values: Array) -> Iterator[Fault]:
        yield ~(values < np.inf).all(axis=-1), "numbers below +inf (a logit per label)", _MENDED

    def odds(self, values: Any) -> Any:
        """Return the odds of each label's less likely side, (n, C) float64, in [0, 1]."""
        return np.exp(-np.abs(values.astype(np.float64, order="C")))

    def holds(self, values: Any) -> Any:
        """Return which labels the set has, (n, C)."""
        return values >= 0

    def reduce(
        self, k: int, values: Any, state: tuple[Any, ...], scale: float
    ) -> tuple[ExitOutput, tuple[Any, ...]]:
        odds = self.odds(values)
        doubt = np.log1p(odds)  # minus the logarithm of the likely side's probability
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.where(odds > 0, odds / (1.0 + odds) * np.log(odds), 0.0)
        best = np.exp(-doubt.sum(axis=1))
        # The second set differs in the label that is least sure.
        second = best * odds.max(axis=1)
        nats = (doubt - spread).sum(axis=1)
        weights = set_weights(values.shape[1])
        number = np.where(self.holds(values), weights[None], 0).sum(axis=1).astype(np.int32)
        return _reduced(number, np.stack([best, second], axis=1), nats), state

    def answer(self, values: Array) -> Array:
        return self.holds(values).astype(np.int8)


class _MultiLabelProbabilities(_MultiLabel):
    name = "multilabel_probabilities"
    after_sigmoid = ""

    def faults(self, values: Array) -> Iterator[Fault]:
        yield from _shares(values, "multilabel")

    def odds(self, values: Any) -> Any:
        given = values.astype(np.float64, order="C")
        rare = np.minimum(given, 1.0 - given)
        return rare / (1.0 - rare)

    def holds(self, values: Any) -> Any:
        return values >= 0.5

    def example(self, logits: Array, scale: float) -> Array:
        return 1 / (1 + np.exp(-logits))


class _Regression(Kind):
    """Values (n, D); how sure an exit is, is told by how little it changed the exit before.

    The confidence is ``exp(-change / scale)``, the change a mean over the D values: what the answer before would
    be worth if this one were the truth. At the first exit, which nothing came before, it is 0.
    """

    name = "regression"
    whole = answers_class = False
    single = True
    stateful = True
    scaled = True
    targets = "float64"
    least = 1
    counted = "values"

    def faults(self, values: Array) -> Iterator[Fault]:
        yield ~np.isfinite(values).all(axis=-1), "finite numbers", _MENDED

    def start(self, samples: int, classes: int) -> tuple[Any, ...]:
        return (np.zeros((samples, classes), dtype=np.float32),)

    def reduce(
        self, k: int, values: Any, state: tuple[Any, ...], scale: float
    ) -> tuple[ExitOutput, tuple[Any, ...]]:
        here = values.astype(np.float64, order="C")
        change = np.abs(here - state[0].astype(np.float64, order="C")).sum(axis=1)
        sure = np.exp(-(change / (values.shape[1] * scale)))
        if k == 0:
            sure = np.zeros_like(sure)
        return _valued(sure), (values.astype(np.float32, order="C"),)

    def answer(self, values: Array) -> Array:
        return values[:, 0] if values.shape[1] == 1 else values

    def example(self, logits: Array, scale: float) -> Array:
        return np.where(np.isfinite(logits), logits, 0.0) * scale


class _RegressionVariances(_Regression):
    """Values, then their variances, (n, 2 D): how sure an exit is, it says itself.

    The confidence is ``exp(-deviation / scale)``, the deviation the mean absolute one of normal errors of those
    variances: ``sqrt(2 / pi)`` standard deviations, on average over the D values.
    """

    name = "regression_variances"
    single = False
    stateful = False

    def width(self, classes: int) -> int:
        return 2 * classes

    def classes(self, width: int) -> int:
        return width // 2 if width % 2 == 0 else 0

    def faults(self, values: Array) -> Iterator[Fault]:
        yield from super().faults(values)
        off = (values[..., values.shape[-1] // 2 :] < 0).any(axis=-1)
        yield off, "values, then their variances, which are 0 or more", "Give variances, no logs."

    def start(self, samples: int, classes: int) -> tuple[Any, ...]:
        return ()

    def reduce(
        self, k: int, values: Any, state: tuple[Any, ...], scale: float
    ) -> tuple[ExitOutput, tuple[Any, ...]]:
        size = values.shape[1] // 2
        deviation = np.sqrt(values[:, size:].astype(np.float64, order="C")).sum(axis=1)
        return _valued(np.exp(-(deviation * (math.sqrt(2 / math.pi) / (size * scale))))), state

    def answer(self, values: Array) -> Array:
        return super().answer(values[:, : values.shape[1] // 2])

    def example(self, logits: Array, scale: float) -> Array:
        values = super().example(logits, scale)
        return np.concatenate([values, values * values / 4], axis=1)


class _Summary(Kind):
    """Prediction and confidence, perhaps more: columns by name (`policyopt.runtime._reading`)."""

    name = "summary"
    whole = False
    record = True
    least = 0


KINDS: dict[str, Kind] = {
    kind.name: kind()
    for kind in (
        Kind, _Probabilities, _Logit, _Probability, _MultiLabel, _MultiLabelProbabilities,
        _Regression, _RegressionVariances, _Summary,
    )
}  # fmt: skip


def set_weights(labels: int) -> Array:
    """Return what each label of a set adds to its number, (C,): a bit each; of more than 31 drawn numbers.

    Sets are compared by their numbers. Of more labels two sets may have one, rarely: once in 2**31 / C.
    """
    if labels <= _BITS:
        return np.left_shift(np.int64(1), np.arange(labels, dtype=np.int64))
    most = (2**_BITS - 1) // labels
    drawn = coin(labels, np.arange(labels), 0) + coin(labels, np.arange(labels), 1) * 2.0**-24
    return 1 + (drawn * most).astype(np.int64)


def looks_after_sigmoid(values: Array) -> bool:
    """Say whether numbers are all in [0, 1], too many for logits to be so by chance."""
    if values.size < _TELLING:
        return False
    for some in (values[:1024], values):  # logits show it at once
        least, most = some.min(), some.max()
        if not (least >= 0 and most <= 1):
            return False
    return bool(least < most)


def _reduced(prediction: Any, tops: Any, entropy: Any) -> ExitOutput:
    unknown, none = np.zeros_like(entropy) + np.nan, np.zeros_like(prediction) - 1
    ranks = np.stack([prediction, none], axis=1)
    return ExitOutput(prediction, tops, ranks[:, : tops.shape[1]], entropy, unknown)


def _valued(confidence: Any) -> ExitOutput:
    """Return the columns of values: one answer, which all exits give, known the better the surer."""
    none = np.zeros_like(confidence, dtype=np.int32)
    return _reduced(none, confidence[:, None], np.zeros_like(confidence) + np.nan)


def _shares(values: Array, before: str) -> Iterator[Fault]:
    off = ~((values >= 0) & (values <= 1)).all(axis=-1)
    step = f"If these are logits, say kind='{before}' (--kind {before})."
    yield off, "in [0, 1] (probabilities after a sigmoid)", step


def _log(values: Any) -> Any:
    if not isinstance(values, np.ndarray):
        return np.log(values)
    with np.errstate(divide="ignore"):  # -inf for 0
        return np.log(values.astype(np.float32))
