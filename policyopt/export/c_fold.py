"""Sums, extremes, and where the largest is, along an axis, as loops in C."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .c_places import Place
from .c_plan import pairwise
from .c_text import TYPES, Index, flat
from .c_words import kind_of, strip
from .graph import Node

if TYPE_CHECKING:
    from .c_body import Body

#: What is larger than all.
LARGEST = {
    "float32": "INFINITY", "float64": "(double)INFINITY", "int32": "INT32_MAX",
    "int64": "INT64_MAX", "bool": "1",
}  # fmt: skip


def folded(body: Body, node: Node, time: int) -> None:
    """Write a sum, an extreme, or where the largest is, along an axis."""
    x, axis = node.args[0], node.attrs["axis"]
    kind, size = TYPES[x.dtype.name], x.shape[axis]
    lone = node.size == 1
    name = f"v{body.count}"
    body.count += 1
    place = Place(name, lone=True) if lone else body.target(node, time)
    if pairwise(node):
        called = body.helpers.use(f"sum_{kind}")

        def summed(ix: tuple[Index, ...]) -> list[str]:
            start = body.address(x, flat((*ix[:axis], 0, *ix[axis:]), x.shape))
            put = f"const {kind} {name}" if lone else place.at(flat(ix, node.shape))
            return [f"{put} = {called}({start}, {size});"]

        body.loop(node.shape, summed)
    else:
        if lone:
            body.lines.append(f"{kind_of(node.dtype)} {name} = {_start(node)};")

        def inner(ix: tuple[Index, ...]) -> list[str]:
            to = name
            lines = [] if lone else [f"{TYPES[node.dtype.name]} {to} = {_start(node)};"]
            before, body.lines = body.lines, []
            read = lambda m: strip(body.value(x, (*ix[:axis], m if size > 1 else 0, *ix[axis:])))  # noqa: E731
            step = _fold(node, to, read, kind)
            step, body.lines = [*body.lines, *step], before
            lines += [f"for (int m = 0; m < {size}; ++m) {{", *("    " + s for s in step), "}"]
            return lines if lone else [*lines, f"{place.at(flat(ix, node.shape))} = {to};"]

        body.loop(node.shape, inner)
    if lone:
        body.names[id(node)] = name


def _start(node: Node) -> str:
    x = node.args[0].dtype
    if node.op in ("sum", "argmax"):
        return "0.0f" if node.dtype == np.float32 else "0.0" if node.dtype == np.float64 else "0"
    largest = LARGEST[x.name]
    if node.op == "min":
        return largest
    return "0" if x.kind == "b" else f"-{largest}"


def _fold(node: Node, to: str, read: Callable[[str], str], kind: str) -> list[str]:
    if node.op == "sum":
        return [f"{to} += {read('m')};"]
    sign = "<" if node.op == "min" else ">"
    # As numpy: NaN wins, and for argmax the first of them.
    if node.op == "argmax":
        lines = [f"const {kind} x = {read('m')}, most = {read(to)};"]
        nan = " || (x != x && most == most)" if kind in ("float", "double") else ""
        return [*lines, f"if (x > most{nan}) {to} = m;"]
    nan = " || x != x" if node.args[0].dtype.kind == "f" else ""
    return [f"const {kind} x = {read('m')};", f"if (x {sign} {to}{nan}) {to} = x;"]
