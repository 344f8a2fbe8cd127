"""Operations of decision graphs that look something up, as ONNX operators: tables, curves, points, the coin."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.coin import GOLDEN, MULTIPLIERS, key_of

from .graph import Node
from .onnx_builder import Builder

_BLOCK = 4096  # numbers per sample held at a time
_F64 = np.dtype(np.float64)


def take(b: Builder, node: Node, args: list[str]) -> str:
    """One number per sample along an axis."""
    x, index = node.args
    axis = node.attrs["axis"]
    if index.op == "const":
        return b.op("Gather", args[0], b.const(np.int64(index.attrs["value"][0])), axis=axis)
    if x.op == "const" and axis == 1:
        return b.op("Gather", b.const(x.attrs["value"][0]), args[1], axis=0)
    name = b.whole(args[0], x)
    if axis > 1:
        others = [a for a in range(1, len(x.shape)) if a != axis]
        name = b.op("Transpose", name, perm=[0, axis, *others])
    each = b.unsqueeze(b.cast(args[1], np.int64, index.dtype), 1)
    return b.op("GatherND", name, each, batch_dims=1)


def lookup(b: Builder, node: Node, args: list[str]) -> str:
    """Rows of a table."""
    index = b.cast(args[0], np.int64, node.args[0].dtype)
    return b.op("Gather", b.const(node.attrs["table"]), index, axis=0)


def minimum_at(b: Builder, node: Node, args: list[str]) -> str:
    """Minimum of each run of columns."""
    starts, columns = np.asarray(node.attrs["starts"]), node.args[0].shape[1]
    stops = np.append(starts[1:], columns)
    longest = int((stops - starts).max())
    # Runs as rows of a table, the short ones filled with their first column.
    which = starts[:, None] + np.arange(longest)
    which = np.where(which < stops[:, None], which, starts[:, None]).astype(np.int64)
    if longest == 1:
        same = np.array_equal(which[:, 0], np.arange(columns))
        return args[0] if same else b.op("Gather", args[0], b.const(which[:, 0]), axis=1)
    runs = b.op("Gather", args[0], b.const(which), axis=1)
    return b.op("ReduceMin", runs, b.const(np.array([2], np.int64)), keepdims=0)


def _below(b: Builder, x: str, x_node: Node, edges: npt.NDArray[Any], side: str) -> str:
    """How many edges lie under x, int64: `numpy.searchsorted`, what is no number lying over all."""
    loop = np.result_type(edges.dtype, x_node.dtype)
    each = b.unsqueeze(b.cast(x, loop, x_node.dtype), len(x_node.shape))
    over = b.op(
        "GreaterOrEqual" if side == "left" else "Greater", b.const(edges.astype(loop)), each
    )
    under = b.cast(b.op("Not", over), np.int64)
    return b.op("ReduceSum", under, b.const(np.array([len(x_node.shape)], np.int64)), keepdims=0)


def search(b: Builder, node: Node, args: list[str]) -> str:
    """`numpy.searchsorted`."""
    return _below(b, args[0], node.args[0], np.asarray(node.attrs["edges"]), node.attrs["side"])


def interp(b: Builder, node: Node, args: list[str]) -> str:
    """`numpy.interp`: what is no number goes through."""
    knots, values = (np.asarray(node.attrs[x], np.float64) for x in ("knots", "values"))
    with np.errstate(all="ignore"):
        slopes = np.append(np.diff(values) / np.diff(knots), 0.0)
    slopes[~np.isfinite(slopes)] = 0.0  # between equal knots lies nothing
    x = b.cast(args[0], _F64, node.args[0].dtype)
    x = b.op("Min", b.op("Max", x, b.const(knots[0])), b.const(knots[-1]))
    wide = Node(node.args[0].op, (), node.args[0].shape, _F64)
    at = b.op("Sub", _below(b, x, wide, knots, "right"), b.const(np.int64(1)))
    knot, value, slope = (b.op("Gather", b.const(t), at, axis=0) for t in (knots, values, slopes))
    return b.op("Add", b.op("Mul", slope, b.op("Sub", x, knot)), value)


def linear(b: Builder, node: Node, args: list[str]) -> str:
    """Multiply with the transpose of the weights."""
    weight = np.ascontiguousarray(np.asarray(node.attrs["weight"], np.float64).T)
    return b.op("MatMul", b.whole(args[0], node.args[0]), b.const(weight))


def distances(b: Builder, node: Node, args: list[str]) -> str:
    """To points, coordinate by coordinate."""
    points = np.asarray(node.attrs["points"], np.float64)
    each = b.unsqueeze(b.cast(args[0], _F64, node.args[0].dtype), 1)
    step, found = max(_BLOCK // points.shape[1], 1), []
    for low in range(0, len(points), step):
        # Differences, not |x|^2 - 2 x p + |p|^2: what lies on a point is at 0.
        gap = b.op("Sub", each, b.const(points[None, low : low + step]))
        square = b.op("Mul", gap, gap)
        found.append(b.op("ReduceSum", square, b.const(np.array([2], np.int64)), keepdims=0))
    return b.op("Sqrt", found[0] if len(found) == 1 else b.op("Concat", *found, axis=1))


def coin(b: Builder, node: Node, args: list[str]) -> str:
    """`runtime.coin`: unsigned whole numbers of 64 bits, which wrap."""
    word = lambda value: b.const(np.uint64(value))  # noqa: E731
    shift = lambda x, by: b.op("BitShift", x, word(by), direction="RIGHT")  # noqa: E731
    z = b.op("Add", b.cast(args[0], np.uint64), word(1))
    z = b.op(
        "Add", b.op("Mul", z, word(GOLDEN)), word(key_of(node.attrs["seed"], node.attrs["stream"]))
    )
    for by, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        z = b.op("Mul", b.op("BitwiseXor", z, shift(z, by)), word(multiplier))
    z = shift(b.op("BitwiseXor", z, shift(z, 31)), 40)
    return b.op("Mul", b.cast(z, _F64), b.const(2.0**-24))
