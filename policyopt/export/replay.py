"""Decision graphs run by numpy, node by node: the meaning of every operation, and a check of traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.coin import coin
from policyopt.runtime.linear import row_product
from policyopt.runtime.output import reduce_logits
from policyopt.runtime.prototypes import distances

from .graph import ELEMENTWISE, ExitGraph, Node


def compute(node: Node, args: Sequence[Any]) -> Any:
    """Return the value of a node, (n, ...), from those of its operands."""
    a = node.attrs
    if node.op in ELEMENTWISE:
        return ELEMENTWISE[node.op](*args)
    match node.op:
        case "const":
            return a["value"]
        case "where":
            return np.where(*args)
        case "cast":
            return args[0].astype(node.dtype)
        case "reshape":
            return args[0].reshape(len(args[0]), *node.shape[1:])
        case "slice":
            return args[0][(slice(None),) * a["axis"] + (slice(a["start"], a["stop"]),)]
        case "concat":
            n = max(len(x) for x in args)
            return np.concatenate([np.broadcast_to(x, (n, *x.shape[1:])) for x in args], a["axis"])
        case "sum" | "max" | "min":
            # Side by side in memory: numpy's order of summation depends on the layout.
            return getattr(np.ascontiguousarray(args[0]), node.op)(axis=a["axis"])
        case "argmax":
            return args[0].argmax(axis=a["axis"])
        case "take":
            return _take(*args, axis=a["axis"])
        case "lookup":
            return a["table"][args[0]]
        case "minimum_at":
            return np.minimum.reduceat(args[0], a["starts"], axis=1)
        case "search":
            return np.searchsorted(a["edges"], args[0], side=a["side"])
        case "interp":
            return np.interp(args[0], a["knots"], a["values"])
        case "linear":
            return row_product(args[0], a["weight"])
        case "distances":
            return distances(args[0], a["points"])
        case "reduce":
            return reduce_logits(args[0], a["top"])
        case "field":
            return getattr(args[0], a["name"])
        case "coin":
            return coin(a["seed"], args[0], a["stream"])
    raise ValueError(f"no operation {node.op}")


def _take(x: npt.NDArray[Any], index: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    n = max(len(x), len(index))
    x, index = np.broadcast_to(x, (n, *x.shape[1:])), np.broadcast_to(index, (n,))
    return x[(np.arange(n), *(slice(None),) * (axis - 1), index)]


def replay(
    graph: ExitGraph, inputs: Mapping[str, Any], states: Sequence[Any]
) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Run the graph of an exit.

    Parameters
    ----------
    graph : ExitGraph
    inputs : mapping of ndarray, (n, ...)
        Those of `graph.inputs`.
    states : sequence of ndarray
        What the exit before left.

    Returns
    -------
    outputs : dict of ndarray
    left : tuple of ndarray
    """
    n = len(next(iter(inputs.values())))
    values: dict[int, Any] = {id(node): inputs[name] for name, node in graph.inputs.items()}
    values |= {id(node): state for node, state in zip(graph.states, states, strict=True)}
    with np.errstate(all="ignore"):
        for node in graph.order():
            if id(node) not in values:
                values[id(node)] = compute(node, [values[id(arg)] for arg in node.args])
    whole = lambda node: np.broadcast_to(values[id(node)], (n, *node.shape[1:]))  # noqa: E731
    outputs = {name: whole(node) for name, node in graph.outputs.items()}
    return outputs, tuple(whole(node) for node in graph.left)
