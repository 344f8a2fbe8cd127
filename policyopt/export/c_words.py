"""Operations of decision graphs as C expressions."""

from __future__ import annotations

import numpy as np

from .c_helpers import Helpers
from .c_text import TYPES
from .graph import Node

_BETWEEN = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "ge": ">=", "gt": ">", "le": "<=", "lt": "<",
    "eq": "==", "ne": "!=", "and": "&&", "or": "||",
}  # fmt: skip
_COMPARED = {"ge", "gt", "le", "lt", "eq", "ne"}
_CALLED = {"exp", "log", "log1p", "sqrt", "tanh"}


def kind_of(dtype: np.dtype) -> str:
    """Return the C type of a single value: truth is an int there."""
    return "int" if dtype.kind == "b" else TYPES[dtype.name]


def pointwise(node: Node, args: list[str], helpers: Helpers) -> str:
    """Return an elementwise operation, a choice or a cast of expressions.

    Raises
    ------
    TypeError
        No such operation.
    """
    x, op = node.args[0], node.op
    suffix = "f" if x.dtype == np.float32 else ""
    if op == "where":
        return f"({args[0]} ? {args[1]} : {args[2]})"
    if op == "cast":
        return _cast(node, args[0])
    if op in _COMPARED and x.dtype.kind != "f" and args[0] == args[1]:
        args = [args[0], f"(0 + {args[1]})"]  # of the same with itself compilers warn
    if op in _BETWEEN:
        return f"({args[0]} {_BETWEEN[op]} {args[1]})"
    if op in _CALLED:
        return f"{op}{suffix}({strip(args[0])})"
    match op:
        case "neg":
            return f"(-{args[0]})"
        case "not":
            return f"(!{args[0]})"
        case "abs" if x.dtype.kind == "f":
            return f"fabs{suffix}({strip(args[0])})"
        case "abs" if x.dtype.kind == "b":
            return args[0]
        case "abs":
            return f"{helpers.use(f'abs_{TYPES[x.dtype.name]}')}({strip(args[0])})"
        case "isfinite" | "isinf":
            most = "FLT_MAX" if suffix else "DBL_MAX"
            sign = "<=" if op == "isfinite" else ">"
            return f"(fabs{suffix}({strip(args[0])}) {sign} {most})"
        case "maximum" | "minimum" if x.dtype.kind == "b":
            return f"({args[0]} {'||' if op == 'maximum' else '&&'} {args[1]})"
        case "maximum" | "minimum" | "logaddexp":
            called = helpers.use(f"{op}_{TYPES[x.dtype.name]}")
            return f"{called}({strip(args[0])}, {strip(args[1])})"
    raise TypeError(f"no operation '{op}' in C")


def _cast(node: Node, arg: str) -> str:
    if node.dtype.kind == "b":
        return f"({arg} != 0)"
    return f"({TYPES[node.dtype.name]}){arg}"


def strip(text: str) -> str:
    """Return an expression without parentheses around the whole of it.

    Examples
    --------
    >>> strip("(a + b)"), strip("(a) + (b)"), strip("f(a)")
    ('a + b', '(a) + (b)', 'f(a)')
    """
    if not text.startswith("("):
        return text
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:-1] if at == len(text) - 1 else text
    return text
