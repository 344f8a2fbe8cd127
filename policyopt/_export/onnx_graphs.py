"""Decision graphs as ONNX models, opset 18 (onnxruntime 1.14 on), that say what numpy says; folders of them.

Every sample is a row of its own, the batch axis is ``n``; `docs/onnx.md` chains the graphs with a model's stages.

Departures from a word-for-word translation, each for accuracy: sums of float32 are added in float64 (ONNX leaves
the order open), logarithms and hyperbolic tangents of float32 are taken in float64 and rounded, and ``log1p``,
which ONNX lacks, is Kahan's ``x log(u) / (u - 1), u = 1 + x`` (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 1.14.1), which keeps x to the last bits however small.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._thresholds.degenerate_scores import ULPS
from policyopt.runtime._arithmetic import GOLDEN, MULTIPLIERS, key_of
from policyopt.runtime._certificate import comment
from policyopt.runtime._errors import input_error
from policyopt.runtime._experts import any_to_dict
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._files import write_file
from policyopt.runtime._policy import Policy, read_json
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._strict_json import read_plain
from policyopt.runtime._typing import Array

from .golden import Golden, Ran, by_name, few_at_a_time, rows_of
from .graph import ExitGraph, Node
from .routes import RouteGraphs, run_graphs
from .symbolic import trace_policy

FORMAT, VERSION = "policyopt-onnx", 1
ROUTES = "policyopt-onnx-routing"  # of graphs of a routing policy
OPSET, IR = 18, 8
MANIFEST = "manifest.json"
_MOST = 1 << 30  # bytes of one graph: a protobuf holds no more than twice that
_COIN = (
    "z = (sample + 1) * 0x9E3779B97F4A7C15 + key; z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9; "
    "z = (z ^ z >> 27) * 0x94D049BB133111EB; u = (z ^ z >> 31) >> 40, times 2**-24; whole numbers of 64 bits "
    "without sign. The graphs compute it: they take the sample's number as the input 'sample'"
)
#: Before the names of inputs that an output has too.
GIVEN = "given_"
_GIVEN = {"probabilities", "prediction", "confidence", "second", "entropy"}
_BLOCK = 4096  # distances per sample held at a time
_F64 = np.dtype(np.float64)
_DIRECT = {
    "neg": "Neg", "exp": "Exp", "sqrt": "Sqrt", "abs": "Abs", "not": "Not", "isinf": "IsInf",
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "maximum": "Max", "minimum": "Min",
    "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "lt": "Less", "eq": "Equal",
    "and": "And", "or": "Or", "sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin",
    "log": "Log", "tanh": "Tanh", "pow": "Pow",
}  # fmt: skip
_ORDERS = ("maximum", "minimum", "ge", "gt", "le", "lt")  # ONNX orders no bools
_WIDE = ("log", "log1p", "tanh", "logaddexp")


def onnx_models(
    policy: Policy | PolicyFamily, graphs: list[ExitGraph], probabilities: bool = True
) -> list[Any]:
    """Return the decision graphs of a policy as K checked ONNX models; `probabilities`: the answer's, too."""
    try:
        import onnx
    except ImportError as error:
        step = "pip install 'policyopt[onnx]'"
        raise input_error("onnx", "installed", "no such package", step) from error
    told = {"policy_sha256": any_to_dict(policy)["sha256"]}
    told |= {"certificate": said} if (said := comment(policy)) else {}
    found = []
    for graph in passed_on(graphs, probabilities):
        model = onnx_model(graph, {**told, "exit": str(graph.exit)})
        onnx.checker.check_model(model, full_check=True)
        found.append(model)
    return found


def passed_on(graphs: list[ExitGraph], probabilities: bool = True) -> list[ExitGraph]:
    """Return the graphs without states that no later exit looks at."""
    found: list[ExitGraph] = []
    wanted: tuple[int, ...] = ()  # of what the exit leaves, what the next one takes
    for graph in reversed(graphs):
        outputs = {n: x for n, x in graph.outputs.items() if probabilities or n != "probabilities"}
        live = replace(graph, outputs=outputs, left=tuple(graph.left[i] for i in wanted))
        used = {id(node) for node in live.order()}
        wanted = tuple(i for i, node in enumerate(graph.states) if id(node) in used)
        inputs = {name: node for name, node in graph.inputs.items() if id(node) in used}
        states = tuple(graph.states[i] for i in wanted)
        found.append(replace(live, inputs=inputs, states=states))
    return found[::-1]


def puts(graph: ExitGraph) -> tuple[dict[str, Node], dict[str, Node]]:
    """Return inputs and outputs of an ONNX graph by name; inputs that bear an output's name are ``given_...``."""
    given = {f"{GIVEN}{n}" if n in _GIVEN else n: node for n, node in graph.inputs.items()}
    given |= {node.attrs["name"]: node for node in graph.states}
    return given, {**graph.outputs, **{f"left_{i}": node for i, node in enumerate(graph.left)}}


def onnx_model(graph: ExitGraph, properties: dict[str, str]) -> Any:
    """Return one graph as an ONNX model, with properties that it carries."""
    from onnx import helper

    def info(name: str, node: Node) -> Any:
        kind, shape = helper.np_dtype_to_tensor_dtype(node.dtype), map(int, node.shape[1:])
        return helper.make_tensor_value_info(name, kind, ["n", *shape])

    given, outputs = puts(graph)
    b = _Builder(next(iter(given)))
    values: dict[int, Any] = {id(node): name for name, node in given.items()}
    for node in graph.order():
        if id(node) not in values:
            emit = _OPERATIONS.get(node.op, _elementwise)
            values[id(node)] = emit(b, node, [values[id(arg)] for arg in node.args])
    b.finish([(name, b.whole(values[id(node)], node)) for name, node in outputs.items()])
    takes, gives = ([info(*put) for put in each.items()] for each in (given, outputs))
    whole = helper.make_graph(b.nodes, f"exit_{graph.exit}", takes, gives, initializer=b.constants)
    model = helper.make_model(
        whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR,
        producer_name="policyopt", producer_version=str(VERSION),
    )  # fmt: skip
    helper.set_model_props(model, {**properties, "format": FORMAT, "version": str(VERSION)})
    return model


class _Builder:
    """Operators and constants of one graph, equal ones once; `anchor`: an input whose first axis is the samples'."""

    def __init__(self, anchor: str) -> None:
        self.anchor = anchor
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        #: By the name of an (n, T) value that of its first column (n, 1), where that is cheaper.
        self.first: dict[str, str] = {}
        #: By the name of a reduced value its shape with the axis left at length 1, and that value.
        self.kept: dict[str, tuple[tuple[int, ...], str]] = {}
        self._known: dict[Any, Any] = {}

    def op(self, kind: str, *inputs: str, label: str = "", **attributes: Any) -> Any:
        """Add an operator; return its output's name, or the names of several where the label has so many words."""
        from onnx import helper

        labels = (label or kind.lower()).split()
        key = (kind, inputs, len(labels), repr(sorted(attributes.items())))
        if key not in self._known:
            number = len(self.nodes)
            names = tuple(f"{label}_{number}" for label in labels)
            node = helper.make_node(kind, inputs, names, f"{kind}_{number}", **attributes)
            self.nodes.append(node)
            self._known[key] = names[0] if len(names) == 1 else names
        return self._known[key]

    def const(self, value: npt.ArrayLike) -> str:
        from onnx import numpy_helper

        array = np.array(value, order="C")
        key = ("const", array.shape, array.dtype.str, array.tobytes())
        if key not in self._known:
            name = f"const_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, name))
            self._known[key] = name
        return self._known[key]

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def cast(self, x: str, dtype: Any, given: Any = None) -> str:
        """Cast, unless `given` says that it is of that dtype."""
        from onnx import helper

        if given is not None and np.dtype(given) == np.dtype(dtype):
            return x
        return self.op("Cast", x, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))

    def slice(self, x: str, axis: int, start: int, stop: int) -> str:
        if (axis, start, stop) == (1, 0, 1) and x in self.first:
            return self.first[x]
        return self.op("Slice", x, self.ints(start), self.ints(stop), self.ints(axis))

    def unsqueeze(self, x: str, axis: int) -> str:
        return self.op("Unsqueeze", x, self.ints(axis))

    def whole(self, x: str, node: Node) -> str:
        """Repeat a constant of one row for all samples; other values are returned as they are."""
        if node.op != "const":
            return x
        shape = self.op("Shape", self.anchor, start=0, end=1, label="samples")
        if len(node.shape) > 1:
            shape = self.op("Concat", shape, self.ints(*node.shape[1:]), axis=0)
        return self.op("Expand", x, shape)

    def finish(self, named: Sequence[tuple[str, str]]) -> None:
        """Name the outputs by pairs of (output, value), and drop what none of them needs."""
        from onnx import helper

        made = {name: node for node in self.nodes for name in node.output}
        taken: dict[str, str] = {}
        for output, value in named:
            if value in made and value not in taken:
                taken[value] = output
            else:  # an input as it came, or a value that has a name already
                self.nodes.append(helper.make_node("Identity", [value], [output], f"to_{output}"))
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [taken.get(name, name) for name in names]
        needed = {output for output, _ in named}
        kept: list[Any] = []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= set(node.input)
        self.nodes = kept[::-1]
        self.constants = [c for c in self.constants if c.name in needed]


def log1p(b: _Builder, x: str) -> str:
    """Kahan's ``log(u) x / (u - 1), u = 1 + x``: what rounding took from u cancels."""
    one = b.const(1.0)
    u = b.op("Add", x, one)
    gain = b.op("Sub", u, one)
    value = b.op("Mul", b.op("Log", u), b.op("Div", x, gain))
    # Where u is 1 it is x; so it is where x is +infinite.
    endless = b.op("IsInf", x, detect_negative=0)
    plain = b.op("Or", b.op("Equal", gain, b.const(0.0)), endless)
    return b.op("Where", plain, x, value)


def _elementwise(b: _Builder, node: Node, args: list[str]) -> str:
    op, kind = node.op, node.args[0].dtype
    if op in _WIDE:
        wide = [b.cast(x, _F64, kind) for x in args]
        if op == "logaddexp":
            gap = b.op("Abs", b.op("Sub", *wide))
            # Of two equal infinities the gap is no number, and numpy's answer that of a gap of 0.
            gap = b.op("Where", b.op("Equal", *wide), b.const(0.0), gap)
            whole = b.op("Add", b.op("Max", *wide), log1p(b, b.op("Exp", b.op("Neg", gap))))
        else:
            whole = log1p(b, *wide) if op == "log1p" else b.op(_DIRECT[op], *wide)
        return b.cast(whole, node.dtype, _F64)
    if op in _ORDERS and kind.kind == "b":
        whole = b.op(_DIRECT[op], *(b.cast(x, np.int32) for x in args))
        return b.cast(whole, node.dtype) if op in ("maximum", "minimum") else whole
    if op == "ne":
        return b.op("Not", b.op("Equal", *args))
    if op == "isfinite":  # infinity less itself is no number
        return b.op("Equal", b.op("Sub", args[0], args[0]), b.const(np.zeros((), kind)))
    return b.op(_DIRECT[op], *args)


def _where(b: _Builder, node: Node, args: list[str]) -> str:
    if node.dtype.kind != "b":
        return b.op("Where", *args)
    condition, x, y = args  # onnxruntime chooses among no bools
    return b.op("Or", b.op("And", condition, x), b.op("And", b.op("Not", condition), y))


def _reshape(b: _Builder, node: Node, args: list[str]) -> str:
    shape, kept = b.kept.get(args[0], ((), ""))
    # 0: as many samples as there are.
    return kept if shape == node.shape else b.op("Reshape", args[0], b.ints(0, *node.shape[1:]))


def _concat(b: _Builder, node: Node, args: list[str]) -> str:
    parts = [b.whole(x, a) for x, a in zip(args, node.args, strict=True)]
    return b.op("Concat", *parts, axis=node.attrs["axis"])


def _reduction(b: _Builder, node: Node, args: list[str]) -> str:
    kind, at = node.args[0].dtype, node.attrs["axis"]
    loop: Any = np.int32 if kind.kind == "b" else kind
    loop = _F64 if node.op == "sum" and kind.kind == "f" else loop
    # The axis stays with length 1 for those who ask for it again.
    kept = b.op(_DIRECT[node.op], b.cast(args[0], loop, kind), b.ints(at), keepdims=1)
    kept = b.cast(kept, node.dtype, loop)
    whole = b.op("Squeeze", kept, b.ints(at))
    shape = node.args[0].shape
    b.kept[whole] = ((*shape[:at], 1, *shape[at + 1 :]), kept)
    return whole


def _argmax(b: _Builder, node: Node, args: list[str]) -> str:
    x = b.cast(args[0], np.int32) if node.args[0].dtype == bool else args[0]
    return b.op("ArgMax", x, axis=node.attrs["axis"], keepdims=0, select_last_index=0)


def _take(b: _Builder, node: Node, args: list[str]) -> str:
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


def _lookup(b: _Builder, node: Node, args: list[str]) -> str:
    index = b.cast(args[0], np.int64, node.args[0].dtype)
    return b.op("Gather", b.const(node.attrs["table"]), index, axis=0)


def _minimum_at(b: _Builder, node: Node, args: list[str]) -> str:
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
    return b.op("ReduceMin", runs, b.ints(2), keepdims=0)


def _below(b: _Builder, x: str, kind: Any, axes: int, edges: Array, side: str) -> str:
    """How many edges lie under x, int64: `numpy.searchsorted`, what is no number lying over all."""
    loop = np.result_type(edges.dtype, kind)
    each = b.unsqueeze(b.cast(x, loop, kind), axes)
    over = "GreaterOrEqual" if side == "left" else "Greater"
    under = b.cast(b.op("Not", b.op(over, b.const(edges.astype(loop)), each)), np.int64)
    return b.op("ReduceSum", under, b.ints(axes), keepdims=0)


def _search(b: _Builder, node: Node, args: list[str]) -> str:
    (x,), a = node.args, node.attrs
    return _below(b, args[0], x.dtype, len(x.shape), np.asarray(a["edges"]), a["side"])


def _interp(b: _Builder, node: Node, args: list[str]) -> str:
    """`numpy.interp`: what is no number goes through."""
    knots, values = (np.asarray(node.attrs[x], np.float64) for x in ("knots", "values"))
    with np.errstate(all="ignore"):
        slopes = np.append(np.diff(values) / np.diff(knots), 0.0)
    slopes[~np.isfinite(slopes)] = 0.0  # between equal knots lies nothing
    x = b.cast(args[0], _F64, node.args[0].dtype)
    x = b.op("Min", b.op("Max", x, b.const(knots[0])), b.const(knots[-1]))
    at = _below(b, x, _F64, len(node.args[0].shape), knots, "right")
    at = b.op("Sub", at, b.const(np.int64(1)))
    knot, value, slope = (b.op("Gather", b.const(t), at, axis=0) for t in (knots, values, slopes))
    return b.op("Add", b.op("Mul", slope, b.op("Sub", x, knot)), value)


def _linear(b: _Builder, node: Node, args: list[str]) -> str:
    weight = np.ascontiguousarray(np.asarray(node.attrs["weight"], np.float64).T)
    return b.op("MatMul", b.whole(args[0], node.args[0]), b.const(weight))


def _distances(b: _Builder, node: Node, args: list[str]) -> str:
    """To points, coordinate by coordinate."""
    points = np.asarray(node.attrs["points"], np.float64)
    each = b.unsqueeze(b.cast(args[0], _F64, node.args[0].dtype), 1)
    step, found = max(_BLOCK // points.shape[1], 1), []
    for low in range(0, len(points), step):
        # Differences, not |x|^2 - 2 x p + |p|^2: what lies on a point is at 0.
        gap = b.op("Sub", each, b.const(points[None, low : low + step]))
        found.append(b.op("ReduceSum", b.op("Mul", gap, gap), b.ints(2), keepdims=0))
    return b.op("Sqrt", found[0] if len(found) == 1 else b.op("Concat", *found, axis=1))


def _coin(b: _Builder, node: Node, args: list[str]) -> str:
    """`runtime._arithmetic.coin`: unsigned whole numbers of 64 bits, which wrap."""
    word = lambda value: b.const(np.uint64(value))  # noqa: E731
    shift = lambda x, by: b.op("BitShift", x, word(by), direction="RIGHT")  # noqa: E731
    key = key_of(node.attrs["seed"], node.attrs["stream"])
    z = b.op("Add", b.cast(args[0], np.uint64), word(1))
    z = b.op("Add", b.op("Mul", z, word(GOLDEN)), word(key))
    for by, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        z = b.op("Mul", b.op("BitwiseXor", z, shift(z, by)), word(multiplier))
    z = shift(b.op("BitwiseXor", z, shift(z, 31)), 40)
    return b.op("Mul", b.cast(z, _F64), b.const(2.0**-24))


def _reduce(b: _Builder, node: Node, args: list[str]) -> dict[str, str]:
    """All columns of `runtime._outputs.reduce_logits`; those that nobody reads are dropped in the end."""
    logits, classes, top = args[0], node.args[0].shape[1], node.attrs["top"]
    last, one = b.ints(1), b.const(1.0)
    over = lambda x, label: b.op("ReduceSum", x, last, keepdims=1, label=label)  # noqa: E731
    row = lambda x, label: b.op("Squeeze", x, last, label=label)  # noqa: E731
    peak = b.op("ReduceMax", logits, last, keepdims=1, label="peak")
    shift = b.op("Sub", logits, peak, label="shift")
    best = b.op("ArgMax", logits, axis=1, keepdims=1, label="best")  # the first of the largest
    # Exponentials of the other classes' shifts in float32, 0 at the best; their sum in float64.
    is_best = b.op("Equal", best, b.const(np.arange(classes, dtype=np.int64)[None]))
    never = b.const(np.float32(-np.inf))
    exps = b.op("Exp", b.op("Where", is_best, never, shift), label="exps")
    rest = over(b.cast(exps, _F64), "rest")
    total, log_total = b.op("Add", rest, one, label="total"), log1p(b, rest)
    # A class that cannot be counts 0 in the entropy: 0 times something finite.
    finite = b.op("Max", shift, b.const(np.finfo(np.float32).min))
    spread = over(b.cast(b.op("Mul", exps, finite), _F64), "spread")
    nats = b.op("Max", b.op("Sub", log_total, b.op("Div", spread, total)), b.const(0.0))
    found = {
        "prediction": b.cast(b.op("Squeeze", best, last), np.int32),
        "top_prob": b.op("Div", one, total, label="confidence"),
        "top_class": b.cast(best, np.int32),
        "entropy": row(nats, "entropy"),
        "log_sum_exp": row(b.op("Add", b.cast(peak, _F64), log_total), "log_sum_exp"),
    }
    if top > 1:  # ranks: the largest shifts and their classes; of equals the first class first
        shifts, ranks = b.op("TopK", shift, b.ints(top), label="top_shift rank", axis=1)
        mass = b.op("Div", b.op("Exp", b.cast(shifts, _F64)), total, label="top_prob")
        none, minus = b.op("Equal", shifts, never), b.const(np.int32(-1))
        named = b.op("Where", none, minus, b.cast(ranks, np.int32), label="top_class")
        b.first |= {mass: found["top_prob"], named: found["top_class"]}
        found |= {"top_prob": mass, "top_class": named}
    return found


#: From a node and the names of its operands to the name of its value (of a ``reduce`` all its columns).
_OPERATIONS: dict[str, Callable[[_Builder, Node, list[Any]], Any]] = {
    "const": lambda b, node, args: b.const(node.attrs["value"]),
    "where": _where,
    "cast": lambda b, node, args: b.cast(args[0], node.dtype),
    "reshape": _reshape,
    "slice": lambda b, node, args: b.slice(args[0], **node.attrs),
    "concat": _concat, "sum": _reduction, "max": _reduction, "min": _reduction, "argmax": _argmax,
    "take": _take, "lookup": _lookup, "minimum_at": _minimum_at, "search": _search,
    "interp": _interp, "linear": _linear, "distances": _distances, "coin": _coin,
    "reduce": _reduce, "field": lambda b, node, args: args[0][node.attrs["name"]],
}  # fmt: skip


# Folders: ``exit_<number>.onnx`` per exit and a manifest of what feeds what.


def graphs_of(policy: Any) -> list[ExitGraph]:
    """Return the graphs of any policy: of a routing policy that of a batch, and that of a step."""
    return (
        RouteGraphs(policy).graphs() if isinstance(policy, RoutingPolicy) else trace_policy(policy)
    )


def graph_files(policy: Any) -> list[str]:
    """Return the names of a policy's graphs."""
    if isinstance(policy, RoutingPolicy):
        return ["route.onnx", "step.onnx"]
    return [f"exit_{k}.onnx" for k in policy.active_exits]


def write_onnx(policy: Any, graphs: list[ExitGraph], folder: Path) -> None:
    """Write a policy's ONNX graphs into a folder, and at last their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    data = [m.SerializeToString(deterministic=True) for m in onnx_models(policy, graphs)]
    for name, content in zip(graph_files(policy), data, strict=True):
        write_file(folder / name, content)
    manifest = manifest_of(policy, graphs, data)
    write_file(folder / MANIFEST, json.dumps(manifest, indent=2, allow_nan=False) + "\n")


def manifest_of(policy: Any, graphs: list[ExitGraph], data: Sequence[bytes]) -> dict[str, Any]:
    """Return what the manifest says of a policy whose graphs' files have these contents."""
    coins = [node.attrs for graph in graphs for node in graph.order() if node.op == "coin"]
    keys = sorted({key_of(c["seed"], c["stream"]) for c in coins})
    head = {
        "format": FORMAT, "version": VERSION, "opset": OPSET, "ir_version": IR,
        "policy_sha256": any_to_dict(policy)["sha256"],
        "kind": policy.kind, "classes": policy.classes, "model_exits": policy.model_exits,
        "unit": policy.unit,
        "coin": {"formula": _COIN, "keys": [f"0x{key:016X}" for key in keys]} if keys else None,
        # Of scores and confidences, in units of 2**-23 of the larger of them and 1; exits and
        # predictions are equal.
        "tolerance_ulps": ULPS,
    }  # fmt: skip

    def described(puts: Mapping[str, Node]) -> list[dict[str, Any]]:
        return [
            {"name": name, "dtype": node.dtype.name, "shape": ["n", *map(int, node.shape[1:])]}
            for name, node in puts.items()
        ]

    files = []
    for name, graph, content in zip(graph_files(policy), passed_on(graphs), data, strict=True):
        inputs, outputs = map(described, puts(graph))
        sha = hashlib.sha256(content).hexdigest()
        files.append({"file": name, "sha256": sha, "inputs": inputs, "outputs": outputs})
    if isinstance(policy, RoutingPolicy):
        return {
            **head,
            "format": ROUTES,
            "share": policy.share if keys else None,
            "names": list(policy.names),
            "graphs": files,
        }
    levels, none = None, [None] * policy.exits
    limits, others, mixture = none, none, None
    if isinstance(policy, PolicyFamily):
        levels = len(policy)
    else:
        limits, mixture = [*policy.thresholds.tolist(), None], policy.mixture
        others = [*mixture.thresholds.tolist(), None] if mixture else none
    exits = []
    for at, (graph, file) in enumerate(zip(passed_on(graphs), files, strict=True)):
        exits.append({
            "exit": graph.exit, "cost": float(policy.costs[at]),
            "threshold": limits[at], "threshold_of_share": others[at], **file,
            # Which outputs of the exit before are which inputs of this one.
            "states": [
                {"output": f"left_{i}", "input": node.attrs["name"]}
                for i, node in enumerate(graph.states)
            ],
        })  # fmt: skip
    share = float(mixture.share) if mixture else None
    return {**head, "levels": levels, "share": share, "exits": exits}


def run_onnx(folder: Path, policy: Any, golden: Golden) -> Any:
    """Return what a policy's ONNX export, its manifest checked, says of every golden sample at every exit."""
    import onnxruntime

    names = graph_files(policy)
    step = "Export the policy again."
    data = [read_plain(folder / name, name, _MOST, step) for name in names]
    wanted, given = manifest_of(policy, graphs_of(policy), data), read_json(folder / MANIFEST)
    for name, value in wanted.items():
        if not isinstance(given, dict) or given.get(name) != value:
            got = given.get(name) if isinstance(given, dict) else type(given).__name__
            allowed = "as policy.json and the graphs' files have it"
            raise input_error(f"{name} of onnx/{MANIFEST}", allowed, got, step)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    here = ["CPUExecutionProvider"]
    sessions = [onnxruntime.InferenceSession(one, options, providers=here) for one in data]
    if isinstance(policy, RoutingPolicy):
        calls = zip(sessions, wanted["graphs"], strict=True)
        return run_graphs(policy, golden, *(partial(_said, *one) for one in calls))
    ran = Ran.empty(len(golden), policy.exits)
    for part in few_at_a_time(golden.inputs, len(golden)):
        left: dict[str, Any] = {}
        inputs = rows_of(golden.inputs, part)
        for at, (session, entry) in enumerate(zip(sessions, wanted["exits"], strict=True)):
            known = {**inputs[at], **by_name(golden.sample[part])}
            known |= {GIVEN + name: column for name, column in inputs[at].items()}
            known |= {state["input"]: left[state["output"]] for state in entry["states"]}
            left = _said(session, entry, known)
            ran.score[part, at], ran.confidence[part, at] = left["score"], left["confidence"]
            ran.prediction[part, at], ran.leave[part, at] = left["prediction"], left["exit"]
            ran.abstained[part, at] = left.get("abstained", False)
    return ran


def _said(session: Any, entry: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a graph says of inputs by name."""
    # Floats with gaps between rows are copied: onnxruntime reads them side by side.
    feeds = {p["name"]: np.ascontiguousarray(known[p["name"]]) for p in entry["inputs"]}
    outputs = [p["name"] for p in entry["outputs"]]
    return dict(zip(outputs, session.run(outputs, feeds), strict=True))
