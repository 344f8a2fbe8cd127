"""Arrays that record what numpy code does with them, so that the rules' own code makes the graph.

A score rule is traced with symbols of one sample. Python's ``if`` and ``len`` see that sample; what
depends on values must be said in array operations (`numpy.where`, not ``if``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.output import ExitOutput

from .graph import ELEMENTWISE, Node, Pool

_UFUNCS = {function: name for name, function in ELEMENTWISE.items()}
# Of bools and whole numbers numpy has names of its own for the same.
_UFUNCS |= {np.bitwise_and: "and", np.bitwise_or: "or", np.invert: "not"}
_COMPARE = {"ge", "gt", "le", "lt", "eq", "ne"}
_FUNCTIONS: dict[Any, Callable[..., Any]] = {}


class Symbol:
    """A node with numpy's manners."""

    __array_priority__ = 1000.0

    def __init__(self, pool: Pool, node: Node) -> None:
        self.pool, self.node = pool, node

    # What code asks of an array.
    @property
    def shape(self) -> tuple[int, ...]:
        """With a first axis of 1."""
        return self.node.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.node.dtype

    @property
    def ndim(self) -> int:
        """Axes, the samples' included."""
        return len(self.node.shape)

    def __len__(self) -> int:
        return self.node.shape[0]

    def __bool__(self) -> bool:
        raise TypeError("a traced rule must not branch on values: use numpy.where")

    def __array__(self, *_: Any, **__: Any) -> npt.NDArray[Any]:
        raise TypeError("a traced rule must keep to operations that policyopt.export knows")

    def _new(self, op: str, args: Sequence[Node], shape: Any, dtype: Any, **attrs: Any) -> Symbol:
        return Symbol(self.pool, self.pool.make(op, args, shape, dtype, **attrs))

    def of(self, value: Any, dtype: Any = None) -> Symbol:
        """Return an array or number as a symbol."""
        if isinstance(value, Symbol):
            return value
        return Symbol(self.pool, self.pool.constant(np.asarray(value, dtype=dtype)))

    def astype(self, dtype: Any, order: str = "K", copy: bool = True, **_: Any) -> Symbol:
        """Cast."""
        del order, copy
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        return self._new("cast", [self.node], self.shape, dtype)

    def copy(self) -> Symbol:
        """Return a symbol that may be written to."""
        return Symbol(self.pool, self.node)

    def reshape(self, *shape: int) -> Symbol:
        """Reshape all axes but the first."""
        if shape == self.shape:
            return self
        return self._new("reshape", [self.node], shape, self.dtype)

    def _reduced(self, op: str, axis: int | None, keepdims: bool, dtype: Any) -> Symbol:
        if axis is None or (axis := axis % self.ndim) == 0:
            raise TypeError(
                "a traced rule must not mix samples: reduce along an axis, not the first"
            )
        shape = self.shape[:axis] + self.shape[axis + 1 :]
        out = self._new(op, [self.node], shape, dtype, axis=axis)
        return out.reshape(*self.shape[:axis], 1, *self.shape[axis + 1 :]) if keepdims else out

    def sum(self, axis: Any = None, keepdims: bool = False, **_: Any) -> Symbol:
        """Sum."""
        x = self if self.dtype.kind == "f" else self.astype(np.int64)
        return x._reduced("sum", axis, keepdims, x.dtype)

    def max(self, axis: Any = None, keepdims: bool = False, **_: Any) -> Symbol:
        """Return the largest."""
        return self._reduced("max", axis, keepdims, self.dtype)

    def min(self, axis: Any = None, keepdims: bool = False, **_: Any) -> Symbol:
        """Return the smallest."""
        return self._reduced("min", axis, keepdims, self.dtype)

    def argmax(self, axis: Any = None, **_: Any) -> Symbol:
        """Return where the largest is, the first of equals."""
        return self._reduced("argmax", axis, False, np.int64)

    # Domain operations, each one node: see `policyopt.runtime`.
    def traced_linear(self, weight: npt.NDArray[np.float64]) -> Symbol:
        """`runtime.linear.row_product`."""
        return self._new(
            "linear", [self.astype(np.float64).node], (1, len(weight)), np.float64, weight=weight
        )

    def traced_distances(self, points: npt.NDArray[np.float64]) -> Symbol:
        """`runtime.prototypes.distances`."""
        return self._new("distances", [self.node], (1, len(points)), np.float64, points=points)

    def traced_lookup(self, table: npt.NDArray[Any]) -> Symbol:
        """`runtime.linear.lookup`."""
        return self._new("lookup", [self.node], self.shape, table.dtype, table=table)

    def traced_coin(self, seed: int, stream: int) -> Symbol:
        """`runtime.coin.coin`."""
        return self._new("coin", [self.node], (1,), np.float64, seed=seed, stream=stream)

    def traced_reduce(self, top: int) -> ExitOutput:
        """`runtime.output.reduce_logits`."""
        top = min(top, self.shape[1])
        whole = self.astype(np.float32)._new(
            "reduce", [self.astype(np.float32).node], (1,), np.float64, top=top
        )
        columns = {
            "prediction": ((1,), np.int32), "top_prob": ((1, top), np.float64),
            "top_class": ((1, top), np.int32), "entropy": ((1,), np.float64),
            "log_sum_exp": ((1,), np.float64),
        }  # fmt: skip
        return ExitOutput(
            **{
                name: self._new("field", [whole.node], shape, dtype, name=name)  # type: ignore[arg-type]
                for name, (shape, dtype) in columns.items()
            }
        )

    # Indexing.
    def __getitem__(self, key: Any) -> Symbol:
        parts = list(key) if isinstance(key, tuple) else [key]
        if isinstance(
            parts[0], np.ndarray
        ):  # rows = arange(n): one number per sample along an axis
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

    def _sliced(self, axis: int, start: int, stop: int) -> Symbol:
        if start == 0 and stop == self.shape[axis]:
            return self
        shape = (*self.shape[:axis], stop - start, *self.shape[axis + 1 :])
        return self._new("slice", [self.node], shape, self.dtype, axis=axis, start=start, stop=stop)

    def _taken(self, parts: list[Any]) -> Symbol:
        axis = len(parts) - 1
        index = parts[-1]
        if not all(part == slice(None) for part in parts[1:-1]):
            raise TypeError("a traced rule takes one number per sample along one axis")
        shape = self.shape[:axis] + self.shape[axis + 1 :]
        return self._new("take", [self.node, self.of(index).node], shape, self.dtype, axis=axis)

    def __setitem__(self, key: Any, value: Any) -> None:
        if not (isinstance(key, Symbol) and key.dtype == bool):
            raise TypeError("a traced rule writes where a mask says, and nowhere else")
        self.node = _where(key, value, self).node

    # Numpy's protocols.
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "reduceat" and ufunc is np.minimum:
            x, starts = args
            return self._new(
                "minimum_at", [x.node], (1, len(starts)), x.dtype, starts=np.asarray(starts)
            )
        if method != "__call__" or kwargs.keys() - {"dtype", "casting"} or ufunc not in _UFUNCS:
            raise TypeError(f"policyopt.export does not know numpy.{ufunc.__name__} ({method})")
        return self._elementwise(_UFUNCS[ufunc], args)

    def _elementwise(self, op: str, args: Sequence[Any]) -> Symbol:
        # Python's numbers are weak: they take the dtype of the arrays they meet.
        probes = [a if type(a) in (int, float, bool) else _probe(a) for a in args]
        with np.errstate(all="ignore"):
            out = ELEMENTWISE[op](*probes)
        if op in ("and", "or", "not"):
            loop: Any = np.dtype(bool)
        elif op in _COMPARE or op in ("isinf", "isfinite"):
            loop = np.result_type(*probes)
        else:
            loop = out.dtype
        whole = [self.of(a, loop if type(a) in (int, float, bool) else None) for a in args]
        nodes = [x.astype(loop).node for x in whole]
        shape = np.broadcast_shapes((1,), *(n.shape for n in nodes))
        return self._new(op, nodes, shape, out.dtype)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        del types
        if function not in _FUNCTIONS:
            raise TypeError(f"policyopt.export does not know numpy.{function.__name__}")
        return _FUNCTIONS[function](*args, **kwargs)


def _operator(ufunc: np.ufunc, swapped: bool = False) -> Callable[[Symbol, Any], Symbol]:
    def apply(self: Symbol, other: Any) -> Symbol:
        return self._elementwise(_UFUNCS[ufunc], (other, self) if swapped else (self, other))

    return apply


for _name, _ufunc in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide,
    "and": np.logical_and, "or": np.logical_or,
}.items():  # fmt: skip
    for _kind in ("__{}__", "__i{}__"):
        setattr(Symbol, _kind.format(_name), _operator(_ufunc))
    setattr(Symbol, f"__r{_name}__", _operator(_ufunc, swapped=True))
for _name in _COMPARE:
    setattr(Symbol, f"__{_name}__", _operator(ELEMENTWISE[_name]))
Symbol.__neg__ = lambda self: self._elementwise("neg", (self,))  # type: ignore[attr-defined]
Symbol.__invert__ = lambda self: self._elementwise("not", (self,))  # type: ignore[attr-defined]


def _probe(value: Any) -> npt.NDArray[Any]:
    return np.ones((1,) * getattr(value, "ndim", 0), dtype=value.dtype)


def _first(values: Sequence[Any]) -> Symbol:
    return next(v for v in values if isinstance(v, Symbol))


def _function(numpy_function: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _FUNCTIONS[numpy_function] = function
        return function

    return register


@_function(np.where)
def _where(condition: Any, x: Any, y: Any) -> Symbol:
    s = _first([condition, x, y])
    probes = [
        v if type(v) in (int, float) else _probe(v if isinstance(v, Symbol) else np.asarray(v))
        for v in (x, y)
    ]
    dtype = np.result_type(*probes)
    nodes = [s.of(condition).node, *(s.of(v).astype(dtype).node for v in (x, y))]
    return s._new("where", nodes, np.broadcast_shapes(*(n.shape for n in nodes)), dtype)


@_function(np.concatenate)
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


@_function(np.stack)
def _stack(arrays: Sequence[Any], axis: int = 0) -> Symbol:
    s = _first(arrays)
    axis %= s.ndim + 1
    wide = [x.reshape(*x.shape[:axis], 1, *x.shape[axis:]) for x in map(s.of, arrays)]
    return _concatenate(wide, axis)


@_function(np.clip)
def _clip(x: Symbol, low: Any, high: Any) -> Symbol:
    return x._elementwise("minimum", (x._elementwise("maximum", (x, low)), high))


@_function(np.searchsorted)
def _searchsorted(edges: npt.NDArray[Any], x: Symbol, side: str = "left") -> Symbol:
    return x._new("search", [x.node], x.shape, np.int64, edges=edges, side=side)


@_function(np.interp)
def _interp(x: Symbol, knots: npt.NDArray[Any], values: npt.NDArray[Any]) -> Symbol:
    return x._new("interp", [x.node], x.shape, np.float64, knots=knots, values=values)


@_function(np.zeros_like)
def _zeros_like(x: Symbol, dtype: Any = None) -> Symbol:
    return x.of(np.zeros(x.shape, dtype=x.dtype if dtype is None else dtype))


@_function(np.ones_like)
def _ones_like(x: Symbol, dtype: Any = None) -> Symbol:
    return x.of(np.ones(x.shape, dtype=x.dtype if dtype is None else dtype))


@_function(np.empty_like)
def _empty_like(x: Symbol, dtype: Any = None) -> Symbol:
    return _zeros_like(x, dtype)


@_function(np.argmax)
def _argmax(x: Symbol, axis: Any = None) -> Symbol:
    return x.argmax(axis=axis)
