"""`runtime.output.reduce_logits` as ONNX operators: only the columns that somebody reads."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from .onnx_builder import Builder

_LAST = np.array([1], np.int64)
_LOWEST = np.finfo(np.float32).min


def log1p(b: Builder, x: str) -> str:
    """Kahan's ``log(u) x / (u - 1), u = 1 + x``: what rounding took from u cancels."""
    one = b.const(1.0)
    u = b.op("Add", x, one)
    gain = b.op("Sub", u, one)
    value = b.op("Mul", b.op("Log", u), b.op("Div", x, gain))
    # Where u is 1 it is x; so it is where x is +infinite.
    endless = b.op("IsInf", x, detect_negative=0)
    plain = b.op("Or", b.op("Equal", gain, b.const(0.0)), endless)
    return b.op("Where", plain, x, value)


class Reduced:
    """Columns of an exit's output, each added to the graph when it is first asked for.

    Parameters
    ----------
    b : Builder
    logits : str
        (n, C) float32.
    classes, top : int
    """

    def __init__(self, b: Builder, logits: str, classes: int, top: int) -> None:
        self.b, self.logits, self.classes, self.top = b, logits, classes, top

    def field(self, name: str) -> str:
        """Return the name of a column of `ExitOutput`."""
        columns = ("prediction", "top_prob", "top_class", "entropy", "log_sum_exp")
        assert name in columns, name
        return str(getattr(self, name))

    @cached_property
    def peak(self) -> str:
        """The largest logit, (n, 1)."""
        return self.b.op("ReduceMax", self.logits, self.b.const(_LAST), keepdims=1, label="peak")

    @cached_property
    def shift(self) -> str:
        """Logits less the largest, (n, C)."""
        return self.b.op("Sub", self.logits, self.peak, label="shift")

    @cached_property
    def ranked(self) -> tuple[str, ...]:
        """The largest shifts and their classes, (n, T); of equals the first class first."""
        b = self.b
        top = b.const(np.array([self.top], np.int64))
        return b.several("TopK", ("top_shift", "top_class"), (self.shift, top), axis=1)

    @cached_property
    def best(self) -> str:
        """The first of the largest, (n, 1) int64."""
        return self.b.op("ArgMax", self.logits, axis=1, keepdims=1, label="best")

    @cached_property
    def exps(self) -> str:
        """Exponentials of the other classes' shifts, 0 at the best, (n, C) float32."""
        b = self.b
        others = b.const(np.arange(self.classes, dtype=np.int64)[None])
        others = b.op("Equal", self.best, others)
        work = b.op("Where", others, b.const(np.float32(-np.inf)), self.shift)
        return b.op("Exp", work, label="exps")

    @cached_property
    def rest(self) -> str:
        """Their sum, (n, 1) float64."""
        b = self.b
        whole = b.cast(self.exps, np.float64)
        return b.op("ReduceSum", whole, b.const(_LAST), keepdims=1, label="rest")

    @cached_property
    def total(self) -> str:
        """With the leading 1, (n, 1)."""
        return self.b.op("Add", self.rest, self.b.const(1.0), label="total")

    @cached_property
    def prediction(self) -> str:
        """The first of the largest classes, (n,) int32."""
        b = self.b
        return b.cast(b.op("Squeeze", self.best, b.const(_LAST)), np.int32)

    @cached_property
    def top_prob(self) -> str:
        """(n, T) float64."""
        b = self.b
        largest = b.op("Div", b.const(1.0), self.total, label="confidence")
        if self.top == 1:
            return largest
        mass = b.op("Exp", b.cast(self.ranked[0], np.float64))
        whole = b.op("Div", mass, self.total, label="top_prob")
        b.first[whole] = largest
        return whole

    @cached_property
    def top_class(self) -> str:
        """(n, T) int32; -1 where a class cannot be."""
        b = self.b
        none = b.op("Equal", self.ranked[0], b.const(np.float32(-np.inf)))
        classes = b.cast(self.ranked[1], np.int32)
        whole = b.op("Where", none, b.const(np.int32(-1)), classes)
        b.first[whole] = b.cast(self.best, np.int32)
        return whole

    @cached_property
    def entropy(self) -> str:
        """(n,) float64, in nats."""
        b = self.b
        # A class that cannot be counts 0: 0 times something finite.
        finite = b.op("Max", self.shift, b.const(np.float32(_LOWEST)))
        spread = b.cast(b.op("Mul", self.exps, finite), np.float64)
        spread = b.op("ReduceSum", spread, b.const(_LAST), keepdims=1, label="spread")
        gain = b.op("Sub", log1p(b, self.rest), b.op("Div", spread, self.total))
        return self._row(b.op("Max", gain, b.const(0.0)), "entropy")

    @cached_property
    def log_sum_exp(self) -> str:
        """(n,) float64."""
        b = self.b
        whole = b.op("Add", b.cast(self.peak, np.float64), log1p(b, self.rest))
        return self._row(whole, "log_sum_exp")

    def _row(self, x: str, label: str) -> str:
        return self.b.op("Squeeze", x, self.b.const(_LAST), label=label)
