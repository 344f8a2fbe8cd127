"""From a policy to the decision graph of each of its exits, by running its own rules on symbols.

Symbols are arrays of one sample that record what numpy code does with them. Python's ``if`` and ``len``
see that sample; what depends on values must be said in array operations (`numpy.where`, not ``if``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from policyopt.runtime._answers import Identity
from policyopt.runtime._errors import InputError
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._outputs import ExitOutput, with_columns, with_log_prob
from policyopt.runtime._policy import ALWAYS, NEVER, Policy
from policyopt.runtime._scores import OWN
from policyopt.runtime._typing import Array, Floats

from .golden import exported, levels_of, words
from .graph import ELEMENTWISE, ExitGraph, Node, Pool

_UFUNCS = {function: name for name, function in ELEMENTWISE.items()}
#: The same of bools alone: of whole numbers these work bit by bit.
_OF_BOOLS = {np.bitwise_and: "and", np.bitwise_or: "or", np.bitwise_xor: "ne", np.invert: "not"}
_COMPARE = ("ge", "gt", "le", "lt", "eq", "ne")
_DTYPES = ("bool", "int32", "int64", "float32", "float64")


def _fold(op: str) -> Callable[..., Symbol]:
    def fold(self: Symbol, axis: int | None = None, *, keepdims: bool = False) -> Symbol:
        x = self.astype(np.int64) if op == "sum" and self.dtype.kind != "f" else self
        if axis is None or (axis := axis % x.ndim) == 0:
            raise TypeError("a traced rule must not mix samples: reduce along another axis")
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        dtype = np.int64 if op == "argmax" else x.dtype
        out = x._new(op, [x.node], before + after, dtype, axis=axis)
        return out.reshape(*before, 1, *after).copy() if keepdims else out

    fold.__qualname__ = op  # by which Python's errors call it
    return fold


class Symbol(NDArrayOperatorsMixin):
    """A node with numpy's manners."""

    def __init__(self, pool: Pool, node: Node) -> None:
        if node.dtype.name not in _DTYPES:
            step = f"{', '.join(_DTYPES)}: write .astype(np.int32) or .astype(np.float64)"
            raise TypeError(f"it has arrays of {node.dtype}, and exports have only {step}")
        self.pool, self.node = pool, node
        self.shape, self.dtype, self.ndim = node.shape, node.dtype, len(node.shape)
        self.shared = False  # whether it is a part of another array, or another a part of it

    def __len__(self) -> int:
        return self.node.shape[0]

    def __bool__(self) -> bool:
        raise TypeError("a traced rule must not branch on values: use numpy.where")

    def __array__(self, *_: Any, **__: Any) -> Array:
        step = "policyopt.lookup(t, index) for t[index], np.zeros_like(x) for np.zeros(len(x))"
        raise TypeError(f"what is traced becomes no array, and goes into none: write {step}")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(_unknown(f"an array's {name}"))

    def _new(self, op: str, args: Sequence[Node], shape: Any, dtype: Any, **attrs: Any) -> Symbol:
        return Symbol(self.pool, self.pool.make(op, args, shape, dtype, **attrs))

    def of(self, value: Any, dtype: Any = None) -> Symbol:
        """Return an array or number as a symbol."""
        if isinstance(value, Symbol):
            return value
        return Symbol(self.pool, self.pool.constant(np.asarray(value, dtype=dtype)))

    def astype(self, dtype: Any, order: str = "K", copy: bool = True) -> Symbol:
        if np.dtype(dtype) == self.dtype:
            return self.copy() if copy else self
        return self._new("cast", [self.node], self.shape, dtype)

    def copy(self) -> Symbol:
        """Return a symbol that may be written to."""
        return Symbol(self.pool, self.node)

    def reshape(self, *shape: Any) -> Symbol:
        shape = np.empty(self.shape, bool).reshape(*shape).shape
        if shape[:1] != (1,):
            raise TypeError("a traced rule must not mix samples")
        return self if shape == self.shape else self._part("reshape", shape)

    sum, max, min, argmax = map(_fold, ("sum", "max", "min", "argmax"))

    def mean(self, axis: Any = None, *, keepdims: bool = False) -> Symbol:
        return self.sum(axis=axis, keepdims=keepdims) / self.shape[axis]

    def clip(self, a_min: Any = None, a_max: Any = None) -> Any:
        x = self if a_min is None else np.maximum(self, a_min)
        return x if a_max is None else np.minimum(x, a_max)

    def _part(self, op: str, shape: Any, **attrs: Any) -> Symbol:
        part = self._new(op, [self.node], shape, self.dtype, **attrs)
        self.shared = part.shared = True
        return part

    # Domain operations, each one node: `policyopt.runtime` asks for them where it meets a symbol.
    def traced_linear(self, weight: Floats) -> Symbol:
        x = self.astype(np.float64).node
        return self._new("linear", [x], (1, len(weight)), np.float64, weight=weight)

    def traced_distances(self, points: Floats) -> Symbol:
        return self._new("distances", [self.node], (1, len(points)), np.float64, points=points)

    def traced_lookup(self, table: Array) -> Symbol:
        shape = (*self.shape, *table.shape[1:])
        return self._new("lookup", [self.node], shape, table.dtype, table=table)

    def traced_coin(self, seed: int, stream: int) -> Symbol:
        return self._new("coin", [self.node], (1,), np.float64, seed=seed, stream=stream)

    def traced_reduce(self, top: int) -> ExitOutput:
        top = min(top, self.shape[1])
        whole = self._new("reduce", [self.astype(np.float32).node], (1,), np.float64, top=top)
        kinds: dict[str, Any] = {
            "prediction": ((1,), np.int32), "top_prob": ((1, top), float), "top_class": ((1, top), np.int32),
            "entropy": ((1,), float), "log_sum_exp": ((1,), float),
        }  # fmt: skip
        new: Any = whole._new
        return ExitOutput(**{n: new("field", [whole.node], *kinds[n], name=n) for n in kinds})

    def __getitem__(self, key: Any) -> Symbol:
        parts = list(key) if isinstance(key, tuple) else [key]
        for at in [i for i, part in enumerate(parts) if part is Ellipsis]:
            named = sum(part is not None for part in parts) - 1
            parts[at : at + 1] = [slice(None)] * (self.ndim - named)
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
                start, stop, step = part.indices(size) if isinstance(part, slice) else (0, 0, 0)
                if step != 1:
                    raise TypeError("a traced rule must pick by a number, or a slice in steps of 1")
                out = out._sliced(axis, start, max(stop, start))
                shape.append(out.shape[axis])
            axis += 1
        return out.reshape(*shape, *self.shape[axis:])

    def _sliced(self, axis: int, start: int, stop: int) -> Symbol:
        if start == 0 and stop == self.shape[axis]:
            return self
        shape = (*self.shape[:axis], stop - start, *self.shape[axis + 1 :])
        return self._part("slice", shape, axis=axis, start=start, stop=stop)

    def _taken(self, parts: list[Any]) -> Symbol:
        axis = len(parts) - 1
        if not all(part == slice(None) for part in parts[1:-1]):
            raise TypeError("a traced rule takes one number per sample along one axis")
        shape = self.shape[:axis] + self.shape[axis + 1 :]
        return self._new("take", [self.node, self.of(parts[-1]).node], shape, self.dtype, axis=axis)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, tuple) and isinstance(key[0], np.ndarray):  # one number of each row
            key = np.arange(self.shape[1])[None] == key[1][:, None]
        if not (isinstance(key, Symbol) and key.dtype == bool):
            raise TypeError("a traced rule writes where a mask says, and nowhere else")
        mask = key[(..., *[None] * (self.ndim - key.ndim))]
        self._become(_where(mask, self.of(value).astype(self.dtype), self))

    def _become(self, value: Symbol) -> Symbol:
        """Be another value from now on, by all names; of what shares memory numpy would change all."""
        if self.shared or value.shape != self.shape:
            raise TypeError("a traced rule must not write where parts share memory: .copy() first")
        self.node = value.astype(self.dtype).node
        return self

    # Numpy's protocols.
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **kwargs: Any) -> Any:
        out: Any = kwargs.pop("out", (None,))[0]
        if method == "reduceat" and ufunc is np.minimum and kwargs == {"axis": 1}:
            x, starts = args
            shape = (1, len(starts))
            return self._new("minimum_at", [x.node], shape, x.dtype, starts=np.asarray(starts))
        op = _UFUNCS.get(ufunc)
        if ufunc is np.square or (ufunc is np.power and type(args[1]) is int and args[1] == 2):
            op, args = "mul", (args[0], args[0])  # as numpy does
        elif op == "pow" and (type(args[1]) is not int or args[1] < 3 or args[0].dtype.kind != "f"):
            op = None
        elif all(np.result_type(_probe(a)).kind == "b" for a in args):
            op = _OF_BOOLS.get(ufunc, op)
        if method != "__call__" or kwargs or op is None:
            what = ", ".join(kwargs) or method.replace("__call__", "such numbers")
            raise TypeError(_unknown(f"numpy.{ufunc.__name__}", f" of {what}"))
        found = self._elementwise(op, args)
        if out is None:
            return found
        return out._become(found) if isinstance(out, Symbol) else self.__array__()

    def _elementwise(self, op: str, args: Sequence[Any]) -> Symbol:
        # Python's numbers are weak: they take the dtype of the arrays they meet.
        probes = [_probe(a) for a in args]
        with np.errstate(all="ignore"):
            out = ELEMENTWISE[op](*probes)
        loop: Any = out.dtype
        if op in ("and", "or", "not"):
            loop = np.dtype(bool)
        elif op in (*_COMPARE, "isinf", "isfinite"):
            loop = np.result_type(*probes)
        elif loop.kind == "b":
            op = {"add": "or", "mul": "and"}.get(op, op)
        whole = [self.of(a, loop if type(a) in (int, float, bool) else None) for a in args]
        nodes = [x.astype(loop).node for x in whole]
        shape = np.broadcast_shapes((1,), *(n.shape for n in nodes))
        return self._new(op, nodes, shape, out.dtype)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        del types
        if function not in _FUNCTIONS:
            raise TypeError(_unknown(f"numpy.{function.__name__}"))
        return _FUNCTIONS[function](*args, **kwargs)


def _unknown(name: str, how: str = "") -> str:
    if name in ("numpy.matmul", "numpy.dot"):
        return f"for {name} of x and w.T write policyopt.row_product(x, w), (n, D) by (H, D)"
    known = sorted({function.__name__ for function in (*_UFUNCS, *_OF_BOOLS, *_FUNCTIONS)})
    return f"exports do not know {name}{how}, but these: {', '.join(known)}, astype, copy, reshape"


def _probe(value: Any) -> Any:
    """Return Python's own numbers as they are, else an array of the same dtype and axes."""
    if type(value) in (int, float, bool):
        return value
    if not isinstance(value, Symbol):
        value = np.asarray(value)
    return np.ones((1,) * value.ndim, dtype=value.dtype)


def _first(values: Sequence[Any]) -> Symbol:
    return next(v for v in values if isinstance(v, Symbol))


def _where(condition: Any, x: Any, y: Any) -> Symbol:
    s = _first([condition, x, y])
    dtype = np.result_type(_probe(x), _probe(y))
    nodes = [s.of(condition).astype(bool).node, *(s.of(v).astype(dtype).node for v in (x, y))]
    return s._new("where", nodes, np.broadcast_shapes(*(n.shape for n in nodes)), dtype)


def _concatenate(arrays: Sequence[Any], axis: int = 0) -> Symbol:
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


def _stack(arrays: Sequence[Any], axis: int = 0) -> Symbol:
    s = _first(arrays)
    axis %= s.ndim + 1
    wide = [x.copy().reshape(*x.shape[:axis], 1, *x.shape[axis:]) for x in map(s.of, arrays)]
    return _concatenate(wide, axis)


def _like(value: float) -> Callable[..., Symbol]:
    return lambda x, dtype=None: x.of(np.full(x.shape, value, x.dtype if dtype is None else dtype))


#: What numpy's functions do with symbols.
_FUNCTIONS: dict[Any, Callable[..., Symbol]] = {
    np.where: _where, np.concatenate: _concatenate, np.stack: _stack,
    np.zeros_like: _like(0), np.empty_like: _like(0), np.ones_like: _like(1),
    np.sum: Symbol.sum, np.max: Symbol.max, np.min: Symbol.min, np.argmax: Symbol.argmax,
    np.mean: Symbol.mean, np.clip: Symbol.clip,
    np.broadcast_to: lambda x, shape: x.of(np.zeros(shape, x.dtype)) + x,
    np.nan_to_num: lambda x: _where(x == x, x, 0.0),
    np.searchsorted: lambda edges, x, side="left": x._new(
        "search", [x.node], x.shape, np.int64, edges=np.asarray(edges), side=side
    ),
    np.interp: lambda x, knots, values: x._new(
        "interp", [x.node], x.shape, np.float64, knots=np.asarray(knots), values=np.asarray(values)
    ),
}  # fmt: skip


def trace_policy(policy: Any) -> list[ExitGraph]:
    """Return the decision graphs of a policy or family, or of a fit that holds one: one per exit on its path."""
    policy = exported(policy)
    try:
        return _Tracing(policy).graphs()
    except Exception as error:  # of a rule of somebody's own: whatever it is
        known = isinstance(error, (TypeError, AttributeError, ValueError, IndexError))
        rules = [rule for one in levels_of(policy) for rule in one.rules]
        if not known and all(type(rule) in OWN for rule in rules):
            raise
        raise InputError(
            f"'policy' must have a score, answer and confidence that can be exported. Score "
            f"'{words(policy, 'rule')}' cannot: {str(error) or repr(error)}. Deploy it with policyopt.runtime."
        ) from error


@dataclass(eq=False)
class _Part:
    """Levels of a family that differ in their thresholds alone; of a policy, all there is."""

    policy: Policy
    levels: list[int]
    answer: Any  # its state, and those of its scores
    scores: Any = ()


class _Tracing:
    def __init__(self, policy: Policy | PolicyFamily) -> None:
        self.whole, self.pool = policy, Pool()
        self.inputs: dict[str, Node] = {}
        self.parts = _parts(policy)
        self.abstains = policy.abstains

    def graphs(self) -> list[ExitGraph]:
        found, parts = [], self.parts
        sample: Any = self.input("sample", (1,), np.int64)
        always = {"sample": sample.node}
        if isinstance(self.whole, PolicyFamily):
            always["level"] = self.input("level", (1,), np.int64).node
        for part in parts:
            part.answer = part.policy.observer.start(1)
            part.scores = tuple(
                tuple(map(sample.of, rule.start(sample))) for rule in part.policy.rules
            )
        before: tuple[Node, ...] = ()
        for at, k in enumerate(self.whole.active_exits):
            self.inputs = dict(always)
            outputs = self.chosen([self.exit(k, part) for part in parts])
            # What is left: arrays of the state that are no constants and not the sample's number.
            states = [s for part in parts for s in (*part.answer, *sum(part.scores, ()))]
            kept = [s.node for s in states if isinstance(s, Symbol)]
            left = tuple(dict.fromkeys(n for n in kept if n.op != "const" and n is not sample.node))
            left = () if at == self.whole.exits - 1 else left
            graph = ExitGraph(at, k, {}, before, outputs, left)
            used = {id(node) for node in graph.order()}
            inputs = {name: node for name, node in self.inputs.items() if id(node) in used}
            found.append(replace(graph, inputs=inputs))
            # The next exit sees them as its inputs.
            named = [(f"state{at}_{i}", node) for i, node in enumerate(left)]
            anew = {id(n): self.input(name, n.shape, n.dtype) for name, n in named}
            before = tuple(s.node for s in anew.values())
            renew = lambda x: anew.get(id(x.node), x).copy() if isinstance(x, Symbol) else x  # noqa: E731, B023
            for part in parts:
                part.answer = tuple(map(renew, part.answer))
                part.scores = tuple(tuple(map(renew, state)) for state in part.scores)
        return found

    def chosen(self, each: list[dict[str, Node]]) -> dict[str, Node]:
        """Return the outputs of the part that a sample's level is of."""
        if len(each) == 1:
            return each[0]
        of = np.empty(len(levels_of(self.whole)), dtype=np.int32)
        for p, part in enumerate(self.parts):
            of[part.levels] = p
        mine = Symbol(self.pool, self.inputs["level"]).traced_lookup(of)
        found = {name: Symbol(self.pool, node) for name, node in each[0].items()}
        for p, outputs in enumerate(each[1:], start=1):
            for name, node in outputs.items():
                if node is not found[name].node:
                    here: Any = mine == p
                    here = here.reshape(1, 1).copy() if len(node.shape) > 1 else here
                    found[name] = _where(here, Symbol(self.pool, node), found[name])
        return {name: symbol.node for name, symbol in found.items()}

    def input(self, name: str, shape: tuple[int, ...], dtype: Any) -> Symbol:
        node = self.pool.make("input", (), shape, dtype, name=name)
        self.inputs[name] = node
        return Symbol(self.pool, node)

    def exit(self, k: int, part: _Part) -> dict[str, Node]:
        """Return what a part says at the model's exit k; its states move on."""
        policy = part.policy
        sample: Any = Symbol(self.pool, self.inputs["sample"])
        if k not in policy.active_exits:
            return self.skipped(k > policy.active_exits[-1], sample)
        at = policy.active_exits.index(k)
        output, given, part.answer = self.observe(policy, at, part.answer)
        last = at == policy.exits - 1
        scored = [
            rule.score(at, output.shown_to(rule.required_columns), state)
            for rule, state in zip(policy.rules, part.scores, strict=True)
        ]
        score, part.scores = scored[0][0], tuple(tuple(state) for _, state in scored)
        thresholds: Any = None if last else self.limit(part, at)
        if policy.mixture is not None:
            arm = sample.traced_coin(policy.mixture.seed, 0) < policy.mixture.share
            if policy.mixture.rule is not None:
                score = _where(arm, scored[1][0], score)
            if not last:
                limits = policy.mixture.thresholds[at], policy.thresholds[at]
                thresholds = _where(arm, *map(float, limits))
        score = sample.of(score).astype(np.float64)
        leave = sample.of(np.ones(1, dtype=bool)) if last else score >= thresholds
        sure: Any = output.confidence
        if policy.calibrator is not None:
            sure = policy.calibrator.curve(at, sure)
        gone: Any = sample.of(np.zeros(1, dtype=bool))
        if (declines := policy.abstention) is not None:
            standing = sample.of(sure if declines.rule is None else scored[-1][0])
            below = standing.astype(np.float64) < float(declines.thresholds[at])
            gone = np.logical_and(leave, below)
        outputs = {
            "exit": leave, "prediction": output.prediction, "score": score, "confidence": sure,
        }  # fmt: skip
        if self.abstains:
            outputs["abstained"] = gone
        if given is not None:
            shift: Any = given - given.max(axis=1, keepdims=True)
            mass: Any = np.exp(shift.astype(np.float64))
            outputs["probabilities"] = mass / mass.sum(axis=1, keepdims=True)
        return {name: sample.of(x).node for name, x in outputs.items()}

    def limit(self, part: _Part, at: int) -> Any:
        """Return the threshold of a part's levels at a position of its path."""
        policies = levels_of(self.whole)
        limits = np.full(len(policies), NEVER)
        limits[part.levels] = [policies[a].thresholds[at] for a in part.levels]
        if len(set(limits[part.levels].tolist())) == 1:
            return limits[part.levels[0]]
        return Symbol(self.pool, self.inputs["level"]).traced_lookup(limits)

    def skipped(self, left: bool, sample: Any) -> dict[str, Node]:
        """Return what `Several.step` says at an exit that a level skips."""
        given = {"exit": left, "prediction": np.int32(-1), "score": ALWAYS, "confidence": 0.0}
        given |= {"abstained": False} if self.abstains else {}
        outputs = {name: sample.of(np.array([value])) for name, value in given.items()}
        if self.whole.observer.kind.whole:
            outputs["probabilities"] = sample.of(np.full((1, self.whole.classes), np.nan))
        return {name: symbol.node for name, symbol in outputs.items()}

    def observe(self, policy: Policy, at: int, state: Any) -> tuple[ExitOutput, Any, Any]:
        """As `Observer.look`, on symbols: the output, the answer's logits, and its state."""
        kind = policy.observer.kind
        if kind.record:
            return self.record(policy), None, state
        given: Any = self.input(policy.kind, (1, kind.width(policy.classes)), np.float32)
        if not kind.whole:
            output, state = kind.reduce(at, given, state, policy.error_scale)
            return self.with_features(policy, at, output), None, state
        logits: Any = kind.logits(given)
        if not isinstance(policy.answer, Identity):
            vectors = self.vectors(policy, at) if policy.answer.reads_features else None
            logits, state = policy.answer.answer(at, logits, state, vectors)
        output = logits.traced_reduce(policy.observer.top)
        if policy.observer.full:
            output = with_log_prob(output, logits)
        return self.with_features(policy, at, output), logits, state

    def with_features(self, policy: Policy, at: int, output: ExitOutput) -> ExitOutput:
        vectors = self.vectors(policy, at) if policy.needs_features else None
        return output if vectors is None else with_columns(output, features=vectors)

    def vectors(self, policy: Policy, at: int) -> Any:
        """Return the feature vector of an exit; None where it is not read."""
        width = self.width(policy, at)
        return self.input("features", (1, width), np.float32) if width else None

    def record(self, policy: Policy) -> ExitOutput:
        """Return the columns that the rules read."""
        columns = policy.required_columns
        prediction = self.input("prediction", (1,), np.int32)
        confidence = self.input("confidence", (1,), np.float64)
        tops = [confidence]
        if "margin" in columns:
            tops.append(self.input("second", (1,), np.float64))
        unknown = prediction.of(np.full(1, np.nan))
        entropy = self.input("entropy", (1,), np.float64) if "entropy" in columns else unknown
        return ExitOutput(prediction, _stack(tops, axis=1), None, entropy, unknown)  # type: ignore[arg-type]

    def width(self, policy: Policy, at: int) -> int:
        """Numbers of the feature vector at an exit: the last axis of the last array declared with a D; 0: unread."""
        found = [
            (spec, getattr(rule, name)) for rule in (policy.answer, *policy.rules)
            if rule.reads_features for name, spec in rule.specs.items()
            if "D" in getattr(spec, "shape", ()) and getattr(rule, name) is not None
        ]  # fmt: skip
        if not found:
            raise TypeError('no field tells the width of features, as array("K", "D") would')
        spec, arrays = found[-1]
        arrays = arrays[at : at + 1] if spec.each else [arrays]
        return arrays[0].shape[-1] if arrays else 0


def _parts(policy: Policy | PolicyFamily) -> list[_Part]:
    """Return levels by what they share; one that draws a coin stands alone, for it has a share of its own."""
    found: dict[Any, _Part] = {}
    for a, one in enumerate(levels_of(policy)):
        alone = -1 if one.mixture is None and one.abstention is None else a
        key = (id(one.rule), id(one.answer), id(one.calibrator), one.active_exits, alone)
        found.setdefault(key, _Part(one, [], ())).levels.append(a)
    return list(found.values())
