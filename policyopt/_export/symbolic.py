"""From a policy to the decision graph of each of its exits, by running its own rules on symbols.

Symbols are arrays of one sample that record what numpy code does with them. Python's ``if`` and ``len``
see that sample; what depends on values must be said in array operations (`numpy.where`, not ``if``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from policyopt.runtime._answers import Identity
from policyopt.runtime._errors import InputError
from policyopt.runtime._experts import policy_of
from policyopt.runtime._outputs import TOP, ExitOutput, with_columns, with_log_prob
from policyopt.runtime._policy import Policy
from policyopt.runtime._typing import Array, Floats

from .graph import ELEMENTWISE, ExitGraph, Node, Pool

_UFUNCS = {function: name for name, function in ELEMENTWISE.items()}
# Of bools and whole numbers numpy has names of its own for the same.
_UFUNCS |= {np.bitwise_and: "and", np.bitwise_or: "or", np.invert: "not"}
_COMPARE = ("ge", "gt", "le", "lt", "eq", "ne")


class _Symbol:
    """A node with numpy's manners."""

    __array_priority__ = 1000.0

    def __init__(self, pool: Pool, node: Node) -> None:
        self.pool, self.node = pool, node
        self.shape, self.dtype, self.ndim = node.shape, node.dtype, len(node.shape)

    def __len__(self) -> int:
        return self.node.shape[0]

    def __bool__(self) -> bool:
        raise TypeError("a traced rule must not branch on values: use numpy.where")

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise TypeError("a traced rule must keep to operations that policyopt._export knows")

    def _new(self, op: str, args: Sequence[Node], shape: Any, dtype: Any, **attrs: Any) -> _Symbol:
        return _Symbol(self.pool, self.pool.make(op, args, shape, dtype, **attrs))

    def of(self, value: Any, dtype: Any = None) -> _Symbol:
        """Return an array or number as a symbol."""
        if isinstance(value, _Symbol):
            return value
        return _Symbol(self.pool, self.pool.constant(np.asarray(value, dtype=dtype)))

    def astype(self, dtype: Any, order: str = "K", copy: bool = True, **_: Any) -> _Symbol:
        same = np.dtype(dtype) == self.dtype
        return self if same else self._new("cast", [self.node], self.shape, dtype)

    def copy(self) -> _Symbol:
        """Return a symbol that may be written to."""
        return _Symbol(self.pool, self.node)

    def reshape(self, *shape: int) -> _Symbol:
        return self if shape == self.shape else self._new("reshape", [self.node], shape, self.dtype)

    # Domain operations, each one node: `policyopt.runtime` asks for them where it meets a symbol.
    def traced_linear(self, weight: Floats) -> _Symbol:
        x = self.astype(np.float64).node
        return self._new("linear", [x], (1, len(weight)), np.float64, weight=weight)

    def traced_distances(self, points: Floats) -> _Symbol:
        return self._new("distances", [self.node], (1, len(points)), np.float64, points=points)

    def traced_lookup(self, table: Array) -> _Symbol:
        return self._new("lookup", [self.node], self.shape, table.dtype, table=table)

    def traced_coin(self, seed: int, stream: int) -> _Symbol:
        return self._new("coin", [self.node], (1,), np.float64, seed=seed, stream=stream)

    def traced_reduce(self, top: int) -> ExitOutput:
        top = min(top, self.shape[1])
        whole = self._new("reduce", [self.astype(np.float32).node], (1,), np.float64, top=top)
        wide = (1, top)
        columns: dict[str, Any] = {
            name: whole._new("field", [whole.node], shape, dtype, name=name)
            for name, shape, dtype in (
                ("prediction", (1,), np.int32), ("top_prob", wide, float), ("top_class", wide, np.int32),
                ("entropy", (1,), float), ("log_sum_exp", (1,), float),
            )
        }  # fmt: skip
        return ExitOutput(**columns)

    def __getitem__(self, key: Any) -> _Symbol:
        parts = list(key) if isinstance(key, tuple) else [key]
        if isinstance(parts[0], np.ndarray):  # rows = arange(n): a number per sample along an axis
            return self._taken(parts)
        if not (isinstance(parts[0], slice) and parts[0].indices(len(self)) == (0, len(self), 1)):
            raise TypeError("a traced rule must not pick samples")
        out, axis, shape = self, 1, [1]
        for part in parts[1:]:
            if part is None:
                shape.append(1)
                continue
            size = self.shape[axis]
            if isinstance(part, (int, np.integer)):
                at = int(part) % size
                out = out._sliced(axis, at, at + 1)
            else:
                start, stop, step = part.indices(size)
                if step != 1:
                    raise TypeError("a traced rule must slice in steps of 1")
                out = out._sliced(axis, start, max(stop, start))
                shape.append(out.shape[axis])
            axis += 1
        return out.reshape(*shape, *self.shape[axis:])

    def _sliced(self, axis: int, start: int, stop: int) -> _Symbol:
        if start == 0 and stop == self.shape[axis]:
            return self
        shape = (*self.shape[:axis], stop - start, *self.shape[axis + 1 :])
        return self._new("slice", [self.node], shape, self.dtype, axis=axis, start=start, stop=stop)

    def _taken(self, parts: list[Any]) -> _Symbol:
        axis = len(parts) - 1
        if not all(part == slice(None) for part in parts[1:-1]):
            raise TypeError("a traced rule takes one number per sample along one axis")
        shape = self.shape[:axis] + self.shape[axis + 1 :]
        return self._new("take", [self.node, self.of(parts[-1]).node], shape, self.dtype, axis=axis)

    def __setitem__(self, key: Any, value: Any) -> None:
        if not (isinstance(key, _Symbol) and key.dtype == bool):
            raise TypeError("a traced rule writes where a mask says, and nowhere else")
        _Symbol.__init__(self, self.pool, _where(key, value, self).node)

    # Numpy's protocols.
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "reduceat" and ufunc is np.minimum:
            x, starts = args
            shape = (1, len(starts))
            return self._new("minimum_at", [x.node], shape, x.dtype, starts=np.asarray(starts))
        if method != "__call__" or kwargs.keys() - {"dtype", "casting"} or ufunc not in _UFUNCS:
            raise TypeError(f"policyopt._export does not know numpy.{ufunc.__name__} ({method})")
        return self._elementwise(_UFUNCS[ufunc], args)

    def _elementwise(self, op: str, args: Sequence[Any]) -> _Symbol:
        # Python's numbers are weak: they take the dtype of the arrays they meet.
        probes = [_probe(a) for a in args]
        with np.errstate(all="ignore"):
            out = ELEMENTWISE[op](*probes)
        loop: Any = out.dtype
        if op in ("and", "or", "not"):
            loop = np.dtype(bool)
        elif op in (*_COMPARE, "isinf", "isfinite"):
            loop = np.result_type(*probes)
        whole = [self.of(a, loop if type(a) in (int, float, bool) else None) for a in args]
        nodes = [x.astype(loop).node for x in whole]
        shape = np.broadcast_shapes((1,), *(n.shape for n in nodes))
        return self._new(op, nodes, shape, out.dtype)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        del types
        if function not in _FUNCTIONS:
            raise TypeError(f"policyopt._export does not know numpy.{function.__name__}")
        return _FUNCTIONS[function](*args, **kwargs)


def _operator(op: str, swapped: bool = False) -> Callable[[_Symbol, Any], _Symbol]:
    return lambda self, other: self._elementwise(op, (other, self) if swapped else (self, other))


def _fold(op: str) -> Callable[..., _Symbol]:
    def fold(self: _Symbol, axis: int | None = None, keepdims: bool = False, **_: Any) -> _Symbol:
        x = self.astype(np.int64) if op == "sum" and self.dtype.kind != "f" else self
        if axis is None or (axis := axis % x.ndim) == 0:
            raise TypeError(
                "a traced rule must not mix samples: reduce along an axis, not the first"
            )
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        dtype = np.int64 if op == "argmax" else x.dtype
        out = x._new(op, [x.node], before + after, dtype, axis=axis)
        return out.reshape(*before, 1, *after) if keepdims else out

    return fold


for _python, _op in [("truediv", "div"), *((n, n) for n in ("add", "sub", "mul", "and", "or"))]:
    for _before in ("", "i", "r"):
        setattr(_Symbol, f"__{_before}{_python}__", _operator(_op, swapped=_before == "r"))
for _op in _COMPARE:
    setattr(_Symbol, f"__{_op}__", _operator(_op))
for _op in ("sum", "max", "min", "argmax"):
    setattr(_Symbol, _op, _fold(_op))
_Symbol.__neg__ = lambda self: self._elementwise("neg", (self,))  # type: ignore[attr-defined]
_Symbol.__invert__ = lambda self: self._elementwise("not", (self,))  # type: ignore[attr-defined]


def _probe(value: Any) -> Any:
    """Return Python's own numbers as they are, else an array of the same dtype and axes."""
    if type(value) in (int, float, bool):
        return value
    if not isinstance(value, _Symbol):
        value = np.asarray(value)
    return np.ones((1,) * value.ndim, dtype=value.dtype)


def _first(values: Sequence[Any]) -> _Symbol:
    return next(v for v in values if isinstance(v, _Symbol))


def _where(condition: Any, x: Any, y: Any) -> _Symbol:
    s = _first([condition, x, y])
    dtype = np.result_type(_probe(x), _probe(y))
    nodes = [s.of(condition).node, *(s.of(v).astype(dtype).node for v in (x, y))]
    return s._new("where", nodes, np.broadcast_shapes(*(n.shape for n in nodes)), dtype)


def _concatenate(arrays: Sequence[Any], axis: int = 0) -> _Symbol:
    s = _first(arrays)
    axis %= s.ndim
    if axis == 0:
        raise TypeError("a traced rule must not join samples")
    dtype = np.result_type(*(a.dtype for a in arrays))
    parts = [s.of(a).astype(dtype) for a in arrays if a.shape[axis]]
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    return s._new("concat", [p.node for p in parts], tuple(shape), dtype, axis=axis)


def _stack(arrays: Sequence[Any], axis: int = 0) -> _Symbol:
    s = _first(arrays)
    axis %= s.ndim + 1
    wide = [x.reshape(*x.shape[:axis], 1, *x.shape[axis:]) for x in map(s.of, arrays)]
    return _concatenate(wide, axis)


def _like(value: float) -> Callable[..., _Symbol]:
    return lambda x, dtype=None: x.of(np.full(x.shape, value, x.dtype if dtype is None else dtype))


#: What numpy's functions do with symbols.
_FUNCTIONS: dict[Any, Callable[..., _Symbol]] = {
    np.where: _where, np.concatenate: _concatenate, np.stack: _stack,
    np.zeros_like: _like(0), np.empty_like: _like(0), np.ones_like: _like(1),
    np.argmax: lambda x, axis=None: x.argmax(axis=axis),
    np.clip: lambda x, low, high: np.minimum(np.maximum(x, low), high),
    np.searchsorted: lambda edges, x, side="left": x._new(
        "search", [x.node], x.shape, np.int64, edges=edges, side=side
    ),
    np.interp: lambda x, knots, values: x._new(
        "interp", [x.node], x.shape, np.float64, knots=knots, values=values
    ),
}  # fmt: skip


def trace_policy(policy: Any) -> list[ExitGraph]:
    """Return the decision graphs of a policy, or of a fit that holds one: one per exit on its path."""
    policy = policy_of(policy, single=True)
    try:
        return _Tracing(policy).graphs()
    except (TypeError, AttributeError, ValueError, IndexError) as error:
        raise InputError(
            f"'policy' must have a score, answer and confidence that can be exported. Score "
            f"'{policy.rule.name}' cannot: {error}. Deploy it with policyopt.runtime."
        ) from error


class _Tracing:
    def __init__(self, policy: Policy) -> None:
        self.policy, self.pool = policy, Pool()
        self.inputs: dict[str, Node] = {}

    def graphs(self) -> list[ExitGraph]:
        policy, found = self.policy, []
        sample = self.input("sample", (1,), np.int64)
        answer: Any = policy.answer.start(1, policy.classes)
        scores: Any = tuple(rule.start(sample) for rule in policy.rules)  # type: ignore[arg-type]
        before: tuple[Node, ...] = ()
        for at in range(policy.exits):
            self.inputs = {"sample": sample.node}
            outputs, answer, scores = self.exit(at, answer, scores)
            # What is left: arrays of the state that are no constants and not the sample's number.
            kept = [s.node for s in (*answer, *sum(scores, ())) if isinstance(s, _Symbol)]
            left = tuple(dict.fromkeys(n for n in kept if n.op != "const" and n is not sample.node))
            left = () if at == policy.exits - 1 else left
            graph = ExitGraph(at, policy.active_exits[at], {}, before, outputs, left)
            used = {id(node) for node in graph.order()}
            inputs = {name: node for name, node in self.inputs.items() if id(node) in used}
            found.append(replace(graph, inputs=inputs))
            # The next exit sees them as its inputs.
            anew = {
                id(n): self.input(f"state{at}_{i}", n.shape, n.dtype) for i, n in enumerate(left)
            }
            before = tuple(s.node for s in anew.values())
            renew = lambda x: anew.get(id(x.node), x) if isinstance(x, _Symbol) else x  # noqa: E731, B023
            answer = tuple(map(renew, answer))
            scores = tuple(tuple(map(renew, state)) for state in scores)
        return found

    def input(self, name: str, shape: tuple[int, ...], dtype: Any) -> _Symbol:
        node = self.pool.make("input", (), shape, dtype, name=name)
        self.inputs[name] = node
        return _Symbol(self.pool, node)

    def exit(self, at: int, answer: Any, states: Any) -> tuple[dict[str, Node], Any, Any]:
        policy = self.policy
        output, given, answer = self.observe(at, answer)
        last = at == policy.exits - 1
        scored = [
            rule.score(at, ExitOutput(*output.columns(), declared=rule.required_columns), state)
            for rule, state in zip(policy.rules, states, strict=True)
        ]
        score, states = scored[0][0], tuple(state for _, state in scored)
        thresholds: Any = None if last else policy.thresholds[at]
        sample: Any = _Symbol(self.pool, self.inputs["sample"])
        if policy.mixture is not None:
            arm = sample.traced_coin(policy.mixture.seed, 0) < policy.mixture.share
            if len(scored) > 1:
                score = _where(arm, scored[1][0], score)
            if not last:
                limits = policy.mixture.thresholds[at], policy.thresholds[at]
                thresholds = _where(arm, *map(float, limits))
        score = sample.of(score).astype(np.float64)
        leave = sample.of(np.ones(1, dtype=bool)) if last else score >= thresholds
        sure: Any = output.confidence
        if policy.calibrator is not None:
            sure = policy.calibrator.curve(at, sure)
        outputs = {
            "exit": leave, "prediction": output.prediction, "score": score, "confidence": sure,
        }  # fmt: skip
        if given is not None:
            shift: Any = given - given.max(axis=1, keepdims=True)
            mass: Any = np.exp(shift.astype(np.float64))
            outputs["probabilities"] = mass / mass.sum(axis=1, keepdims=True)
        return {name: sample.of(x).node for name, x in outputs.items()}, answer, states

    def observe(self, at: int, state: Any) -> tuple[ExitOutput, Any, Any]:
        """As `Observer.look`, on symbols: the output, the answer's logits, and its state."""
        policy = self.policy
        if policy.kind == "summary":
            return self.record(), None, state
        logits: Any = self.input(policy.kind, (1, policy.classes), np.float32)
        if policy.kind == "probabilities":
            logits = np.log(logits)  # as `log_of`
        if not isinstance(policy.answer, Identity):
            logits, state = policy.answer.answer(at, logits, state)
        output = logits.traced_reduce(TOP)
        if policy.observer.full:
            output = with_log_prob(output, logits)
        if policy.needs_features and (width := self.width(at)):
            vectors = self.input("features", (1, width), np.float32)
            output = with_columns(output, features=vectors)  # type: ignore[arg-type]
        return output, logits, state

    def record(self) -> ExitOutput:
        """Return the columns that the rules read."""
        columns = self.policy.required_columns
        prediction = self.input("prediction", (1,), np.int32)
        confidence = self.input("confidence", (1,), np.float64)
        tops = [confidence]
        if "margin" in columns:
            tops.append(self.input("second", (1,), np.float64))
        unknown = prediction.of(np.full(1, np.nan))
        entropy = self.input("entropy", (1,), np.float64) if "entropy" in columns else unknown
        return ExitOutput(prediction, _stack(tops, axis=1), None, entropy, unknown)  # type: ignore[arg-type]

    def width(self, at: int) -> int:
        """Numbers of the model's feature vector at an exit; 0 where no rule looks at it."""
        for rule in self.policy.rules:
            arrays = getattr(rule, "projection", None) or getattr(rule, "points", None)
            if arrays is not None and at < len(arrays):
                return int(arrays[at].shape[1])
        return 0
