"""Operations of decision graphs as ONNX operators, opset 18, so that they say what numpy says.

Double precision where the graphs have it. Departures from a word-for-word translation, each for accuracy:
sums of float32 are added in float64 (ONNX leaves the order open), logarithms and hyperbolic tangents of
float32 are taken in float64 and rounded, and ``log1p``, which ONNX lacks, is Kahan's
``x log(u) / (u - 1), u = 1 + x`` (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 1.14.1),
which keeps x to the last bits however small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import onnx_tables
from .graph import Node
from .onnx_builder import Builder
from .onnx_reduce import Reduced, log1p

_DIRECT = {
    "neg": "Neg", "exp": "Exp", "sqrt": "Sqrt", "abs": "Abs", "not": "Not", "isinf": "IsInf",
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min",
    "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less", "eq": "Equal",
    "and": "And", "or": "Or",
}  # fmt: skip
# ONNX orders no bools.
_ORDERS = {"maximum", "minimum", "ge", "gt", "le", "lt"}
_WIDE = {"log", "log1p", "tanh", "logaddexp"}
_F64 = np.dtype(np.float64)
Emit = Callable[[Builder, Node, list[Any]], Any]


def emit(b: Builder, node: Node, args: list[Any]) -> Any:
    """Add a node's operators; return the name of its value (of a ``reduce`` its parts)."""
    return _OPERATIONS.get(node.op, _elementwise)(b, node, args)


def _elementwise(b: Builder, node: Node, args: list[str]) -> str:
    op, kind = node.op, node.args[0].dtype
    if op in _WIDE and kind != _F64:
        whole = _transcendental(b, op, [b.cast(x, _F64) for x in args])
        return b.cast(whole, node.dtype)
    if op in _WIDE:
        return _transcendental(b, op, args)
    if op in _ORDERS and kind.kind == "b":
        whole = b.op(_DIRECT[op], *(b.cast(x, np.int32) for x in args))
        return b.cast(whole, node.dtype) if op in ("maximum", "minimum") else whole
    if op == "ne":
        return b.op("Not", b.op("Equal", *args))
    if op == "isfinite":  # infinity less itself is no number
        return b.op("Equal", b.op("Sub", args[0], args[0]), b.const(np.zeros((), kind)))
    return b.op(_DIRECT[op], *args)


def _transcendental(b: Builder, op: str, args: list[str]) -> str:
    if op == "log1p":
        return log1p(b, args[0])
    if op == "logaddexp":
        gap = b.op("Abs", b.op("Sub", *args))
        # Of two equal infinities the gap is no number, and numpy's answer that of a gap of 0.
        gap = b.op("Where", b.op("Equal", *args), b.const(0.0), gap)
        return b.op("Add", b.op("Max", *args), log1p(b, b.op("Exp", b.op("Neg", gap))))
    return b.op({"log": "Log", "tanh": "Tanh"}[op], args[0])


def _where(b: Builder, node: Node, args: list[str]) -> str:
    if node.dtype.kind != "b":
        return b.op("Where", *args)
    condition, x, y = args  # onnxruntime chooses among no bools
    return b.op("Or", b.op("And", condition, x), b.op("And", b.op("Not", condition), y))


def _reshape(b: Builder, node: Node, args: list[str]) -> str:
    kept = b.kept.get(args[0])
    if kept is not None and kept[0] == node.shape:
        return kept[1]
    # 0: as many samples as there are.
    return b.op("Reshape", args[0], b.const(np.array([0, *node.shape[1:]], np.int64)))


def _slice(b: Builder, node: Node, args: list[str]) -> str:
    return b.slice(args[0], node.attrs["axis"], node.attrs["start"], node.attrs["stop"])


def _concat(b: Builder, node: Node, args: list[str]) -> str:
    parts = [b.whole(x, a) for x, a in zip(args, node.args, strict=True)]
    return b.op("Concat", *parts, axis=node.attrs["axis"])


def _reduction(b: Builder, node: Node, args: list[str]) -> str:
    kind, axis = node.args[0].dtype, b.const(np.array([node.attrs["axis"]], np.int64))
    name = {"sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}[node.op]
    loop: Any = np.int32 if kind.kind == "b" else kind
    loop = _F64 if node.op == "sum" and kind.kind == "f" else loop
    x = args[0] if loop == kind else b.cast(args[0], loop)
    # The axis stays with length 1 for those who ask for it again.
    kept = b.cast(b.op(name, x, axis, keepdims=1), node.dtype, loop)
    whole = b.op("Squeeze", kept, axis)
    shape = list(node.args[0].shape)
    shape[node.attrs["axis"]] = 1
    b.kept[whole] = (tuple(shape), kept)
    return whole


def _argmax(b: Builder, node: Node, args: list[str]) -> str:
    x = b.cast(args[0], np.int32) if node.args[0].dtype == bool else args[0]
    return b.op("ArgMax", x, axis=node.attrs["axis"], keepdims=0, select_last_index=0)


_OPERATIONS: dict[str, Emit] = {
    "const": lambda b, node, args: b.const(node.attrs["value"]),
    "where": _where,
    "cast": lambda b, node, args: b.cast(args[0], node.dtype),
    "reshape": _reshape,
    "slice": _slice,
    "concat": _concat,
    "sum": _reduction,
    "max": _reduction,
    "min": _reduction,
    "argmax": _argmax,
    "take": onnx_tables.take,
    "lookup": onnx_tables.lookup,
    "minimum_at": onnx_tables.minimum_at,
    "search": onnx_tables.search,
    "interp": onnx_tables.interp,
    "linear": onnx_tables.linear,
    "distances": onnx_tables.distances,
    "reduce": lambda b, node, args: Reduced(b, args[0], node.args[0].shape[1], node.attrs["top"]),
    "field": lambda b, node, args: args[0].field(node.attrs["name"]),
    "coin": onnx_tables.coin,
}
