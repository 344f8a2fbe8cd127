"""Operations of decision graphs as Python expressions of plain numbers, and the functions that they call."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from math import dist, exp, hypot, inf, isfinite, isinf, log, log1p, nan, sqrt, tanh
from operator import mul
from typing import Any

import numpy as np

from policyopt.runtime.coin import GOLDEN, MULTIPLIERS, key_of

from .graph import Node

_PLAIN = re.compile(r"\w+(\[\w+\])?|\(?-?(\d+(\.\d*)?(e[+-]?\d+)?|inf|nan)\)?")
_MASK = (1 << 64) - 1
COMPARISONS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "eq": "==", "ne": "!="}
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "and", "or": "or"} | COMPARISONS
#: One number from those at the same place.
POINTWISE = {
    *_SIGNS, "maximum", "minimum", "isfinite", "neg", "exp", "log", "log1p", "sqrt", "tanh", "abs", "not", "isinf",
    "logaddexp", "where", "cast",
}  # fmt: skip


def expression(node: Node, args: Sequence[str]) -> str:
    """Return one number of a pointwise operation.

    Parameters
    ----------
    node : Node
    args : sequence of str
        The operands' numbers.

    Returns
    -------
    str
        Python, whose arithmetic is that of doubles.
    """
    op, x = node.op, args[0]
    if op in ("add", "mul") and node.dtype.kind == "b":
        op = "or" if op == "add" else "and"
    if op in _SIGNS:
        return f"({x} {_SIGNS[op]} {args[1]})"
    match op:
        case "neg":
            return f"(-{x})"
        case "not":
            return f"(not {x})"
        case "maximum" | "minimum":
            sign, other = (">=" if op == "maximum" else "<="), args[1]
            if plain(x) and plain(other):
                return f"({x} if {x} {sign} {other} else {other})"
            if not plain(x) and not plain(other):
                return f"{op[:3]}({x}, {other})"
            long, short = (other, x) if plain(x) else (x, other)
            # What is wanted twice gets a name on the way, inside loops too.
            return f"(w if (w := {long}) {sign} {short} else {short})"
        case "where":
            return f"({args[1]} if {x} else {args[2]})"
        case "cast":
            return f"bool({x})" if node.dtype.kind == "b" else f"int({x})"
    return f"{op}({', '.join(args)})"


def plain(text: str) -> bool:
    """Whether an expression is a name or a number.

    Examples
    --------
    >>> plain("v1"), plain("(-2.5e-07)"), plain("x[0]"), plain("(-inf)"), plain("(v1 + 2)")
    (True, True, True, True, False)
    """
    return _PLAIN.fullmatch(text) is not None


def literal(value: Any) -> str:
    """Return a number as it is written.

    Examples
    --------
    >>> literal(np.float32(0.5)), literal(-np.inf), literal(np.bool_(True)), literal(np.int64(-3))
    ('0.5', '(-inf)', 'True', '(-3)')
    """
    text = repr(value.item() if hasattr(value, "item") else value)
    return f"({text})" if text.startswith("-") else text


def logaddexp(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b)).

    Examples
    --------
    >>> logaddexp(0.0, -800.0)
    0.0
    """
    return (a if a >= b else b) + log1p(exp(-abs(a - b)))


def interp(x: float, knots: Sequence[float], values: Sequence[float]) -> float:
    """Return a number of `numpy.interp`.

    Examples
    --------
    >>> interp(0.25, (0.0, 0.5), (1.0, 2.0)), interp(9.0, (0.0, 0.5), (1.0, 2.0))
    (1.5, 2.0)
    """
    if x >= knots[-1]:
        return values[-1]
    if x < knots[0]:
        return values[0]
    i = bisect_right(knots, x) - 1
    return values[i] + (x - knots[i]) * (values[i + 1] - values[i]) / (knots[i + 1] - knots[i])


def far_from_edges(x: float, edges: Sequence[float], near: float) -> bool:
    """Whether no edge is so near that rounding could put a number on its other side.

    Examples
    --------
    >>> far_from_edges(0.4, (0.0, 0.5), 0.01), far_from_edges(0.495, (0.0, 0.5), 0.01)
    (True, False)
    """
    i = bisect_left(edges, x)
    below = x - edges[i - 1] if i else inf
    above = edges[i] - x if i < len(edges) else inf
    return below > near and above > near


def coin_of(key: int) -> Callable[[int], float]:
    """Return `runtime.coin.coin` for one sample, in whole numbers of Python.

    Examples
    --------
    >>> round(coin_of(key_of(0, 0))(0), 4)
    0.2691
    """
    first, second = MULTIPLIERS

    def coin(sample: int) -> float:
        z = ((sample + 1) * GOLDEN + key) & _MASK
        z = ((z ^ (z >> 30)) * first) & _MASK
        z = ((z ^ (z >> 27)) * second) & _MASK
        return ((z ^ (z >> 31)) >> 40) * 2.0**-24

    return coin


#: What generated functions call.
NAMES: dict[str, Any] = {
    "exp": exp, "log": log, "log1p": log1p, "sqrt": sqrt, "tanh": tanh, "isinf": isinf,
    "isfinite": isfinite, "dist": dist, "hypot": hypot, "mul": mul, "inf": inf, "nan": nan,
    "logaddexp": logaddexp, "interp": interp, "bisect_left": bisect_left, "array": np.array,
    "bisect_right": bisect_right, "far_from_edges": far_from_edges, "root": np.sqrt,
}  # fmt: skip

__all__ = [
    "COMPARISONS", "NAMES", "POINTWISE", "coin_of", "expression", "key_of", "literal", "plain",
]  # fmt: skip
