"""Puts ONNX graphs together: operators and constants under readable names, equal ones once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Node

OPSET = 18


class Builder:
    """Operators and constants of one graph.

    Parameters
    ----------
    anchor : str
        An input whose first axis is the samples'.
    """

    def __init__(self, anchor: str) -> None:
        self.anchor = anchor
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        #: By the name of an (n, T) value that of its first column (n, 1), where that is cheaper.
        self.first: dict[str, str] = {}
        #: By the name of a reduced value its shape with the axis left at length 1, and that value.
        self.kept: dict[str, tuple[tuple[int, ...], str]] = {}
        self._known: dict[Any, tuple[str, ...]] = {}

    def op(self, kind: str, *inputs: str, label: str = "", **attributes: Any) -> str:
        """Add an operator of one output; return the output's name."""
        return self.several(kind, (label or kind.lower(),), inputs, **attributes)[0]

    def several(
        self, kind: str, labels: tuple[str, ...], inputs: tuple[str, ...], **attributes: Any
    ) -> tuple[str, ...]:
        """Add an operator of several outputs; return their names."""
        from onnx import helper

        key = (kind, inputs, len(labels), repr(sorted(attributes.items())))
        if key not in self._known:
            number = len(self.nodes)
            names = tuple(f"{label}_{number}" for label in labels)
            title = f"{kind}_{number}"
            self.nodes.append(helper.make_node(kind, inputs, names, title, **attributes))
            self._known[key] = names
        return self._known[key]

    def const(self, value: npt.ArrayLike) -> str:
        """Add a constant; return its name."""
        from onnx import numpy_helper

        array = np.array(value, order="C")
        key = ("const", array.shape, array.dtype.str, array.tobytes())
        if key not in self._known:
            name = f"const_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, name))
            self._known[key] = (name,)
        return self._known[key][0]

    def cast(self, x: str, dtype: Any, given: Any = None) -> str:
        """Cast, unless `given` says that it is of that dtype."""
        from onnx import helper

        if given is not None and np.dtype(given) == np.dtype(dtype):
            return x
        return self.op("Cast", x, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))

    def slice(self, x: str, axis: int, start: int, stop: int) -> str:
        """Take a range along an axis."""
        if (axis, start, stop) == (1, 0, 1) and x in self.first:
            return self.first[x]
        at = (self.const(np.array([value], np.int64)) for value in (start, stop, axis))
        return self.op("Slice", x, *at)

    def unsqueeze(self, x: str, axis: int) -> str:
        """Add an axis of length 1."""
        return self.op("Unsqueeze", x, self.const(np.array([axis], np.int64)))

    def whole(self, x: str, node: Node) -> str:
        """Repeat a constant of one row for all samples; other values are returned as they are."""
        if node.op != "const":
            return x
        rows = self.op("Shape", self.anchor, start=0, end=1, label="samples")
        rest = np.array(node.shape[1:], np.int64)
        shape = self.op("Concat", rows, self.const(rest), axis=0) if len(rest) else rows
        return self.op("Expand", x, shape)

    def finish(self, named: Sequence[tuple[str, str]]) -> None:
        """Name the outputs, and drop what none of them needs.

        Parameters
        ----------
        named : sequence of (output, value)
            Names of outputs, and of the values that they are.
        """
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
