"""Sums, slices, products and what else is not pointwise, as Python expressions of plain numbers."""

from __future__ import annotations

import numpy as np

from .graph import Node
from .scalar_arrays import SHORT, ArrayWords
from .scalar_words import coin_of, key_of, literal

#: From so many products on, one call of numpy is quicker than Python's sums.
_MANY = 512


class Operations(ArrayWords):
    """Expressions for all but pointwise operations."""

    def array(self, node: Node) -> str:
        """Return an operation that is not pointwise."""
        a, x = node.attrs, node.args[0]
        match node.op:
            case "sum" | "max" | "min":
                return self._folded(node)
            case "argmax":
                return self._argmax(node)
            case "slice":
                outer, size, inner = self._split(node.args[0], a["axis"])
                low, high = a["start"] * inner, a["stop"] * inner
                if high - low == 1 and outer == 1 and id(self.root(node.args[0])) in self.parts:
                    return self.part(node.args[0], low)
                if outer == 1:
                    text = self.items(node.args[0])
                    return f"{text}[{low}]" if high - low == 1 else f"{text}[{low}:{high}]"
                text = self.items(node.args[0])
                step = size * inner
                parts = [f"*{text}[{o * step + low}:{o * step + high}]" for o in range(outer)]
                return f"[{', '.join(parts)}]"
            case "concat":
                return self._concat(node)
            case "take":
                outer, size, inner = self._split(node.args[0], a["axis"])
                text, at = self.items(node.args[0]), self.atom(node.args[1])
                if outer == inner == 1:
                    return f"{text}[{at}]"
                at = self.named(f"{at} % {size}")
                if outer == 1:
                    return f"{text}[{at} * {inner}:{at} * {inner} + {inner}]"
                if inner == 1:
                    return f"{text}[{at}::{size}]"
                raise TypeError("a number taken along an axis in the middle")
            case "lookup":
                rows = np.asarray(a["table"])
                name = self.table(
                    tuple(map(tuple, rows.tolist())) if rows.ndim > 1 else tuple(rows.tolist())
                )
                if node.args[0].size == 1:
                    return f"{name}[{self.atom(node.args[0])}]" + (
                        "[0]" if rows.ndim > 1 and rows.shape[1] == 1 else ""
                    )
                each = "e" if rows.ndim == 1 else "*e"
                if each == "*e":
                    return f"[v for i in {self.atom(node.args[0])} for v in {name}[i]]"
                return f"[{name}[i] for i in {self.atom(node.args[0])}]"
            case "minimum_at":
                starts = np.asarray(a["starts"])
                ends = np.append(starts[1:], node.args[0].size)
                text = self.items(node.args[0])
                if (ends <= starts).any():
                    raise TypeError("minimum of runs that are not one after the other")
                if (ends - starts == 1).all() and len(starts) == node.args[0].size:
                    return text if self.is_list(node) else f"{text}[0]"
                parts = [f"min({text}[{s}:{e}])" for s, e in zip(starts, ends, strict=True)]
                return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]"
            case "search":
                return self._search(node)
            case "interp":
                knots = self.table(tuple(np.asarray(a["knots"], float).tolist()))
                values = self.table(tuple(np.asarray(a["values"], float).tolist()))
                if node.size == 1:
                    return f"interp({self.atom(x)}, {knots}, {values})"
                return f"[interp(e, {knots}, {values}) for e in {self.items(x)}]"
            case "linear":
                return self._linear(node)
            case "distances":
                return self._distances(node)
            case "coin":
                return f"{self.table(coin_of(key_of(a['seed'], a['stream'])))}({self.atom(x)})"
        raise TypeError(f"operation {node.op}")

    def _folded(self, node: Node) -> str:
        x = node.args[0]
        outer, size, inner = self._split(x, node.attrs["axis"])
        if not self.is_list(x):  # equal numbers
            text = self.atom(x)
            one = f"{size} * {text}" if node.op == "sum" else text
            return one if node.size == 1 else f"[{one}] * {node.size}"
        if outer == inner == 1:
            parts = self.parts.get(id(self.root(x)))
            if parts:
                return " + ".join(parts) if node.op == "sum" else f"{node.op}({', '.join(parts)})"
            return f"{node.op}({self.value(x)})"
        text = self.atom(x)
        if inner == 1:
            return f"[{node.op}({text}[i:i + {size}]) for i in range(0, {x.size}, {size})]"
        step = size * inner
        parts = [
            f"{node.op}({text}[{o * step + i}:{(o + 1) * step}:{inner}])"
            for o in range(outer) for i in range(inner)
        ]  # fmt: skip
        return f"[{', '.join(parts)}]"

    def _argmax(self, node: Node) -> str:
        x = node.args[0]
        if node.size > 1 or not self.is_list(x):
            raise TypeError("several places of the largest")
        text = self.atom(x)
        place = self.named(f"{text}.index(max({text}))")
        if not self.exact(x):
            rest = f"max({text}[:{place}] + {text}[{place} + 1:])"
            test = f"{text}[{place}] - {rest} > {self.near([x]).format(f'{text}[{place}]')}"
            self.lines.append(f"if not ({test}): return None")
        return place

    def _concat(self, node: Node) -> str:
        outer = self._split(node, node.attrs["axis"])[0]
        texts = [
            self.items(arg) if self.is_list(arg) or arg.size > 1 else self.atom(arg)
            for arg in node.args
        ]
        if outer == 1:
            parts = [t if a.size == 1 else f"*{t}" for t, a in zip(texts, node.args, strict=True)]
            return f"[{', '.join(parts)}]"
        parts = []
        for o in range(outer):
            for text, arg in zip(texts, node.args, strict=True):
                step = arg.size // outer
                parts.append(f"*{text}[{o * step}:{(o + 1) * step}]")
        return f"[{', '.join(parts)}]"

    def _search(self, node: Node) -> str:
        edges = self.table(tuple(np.asarray(node.attrs["edges"], float).tolist()))
        called, x = f"bisect_{node.attrs['side']}", node.args[0]
        wide, text = self.is_list(x), self.atom(x)
        if not self.exact(x):
            test = f"far_from_edges({{0}}, {edges}, {self.near([x])})"
            every = f"all([{test.format('e')} for e in {text}])" if wide else test.format(text)
            self.lines.append(f"if not {every}: return None")
        one = f"[{called}({edges}, e) for e in {text}]" if wide else f"{called}({edges}, {text})"
        return one if wide or node.size == 1 else f"[{one}] * {node.size}"

    def _linear(self, node: Node) -> str:
        weight = np.asarray(node.attrs["weight"], dtype=np.float64)
        parts = self.parts.get(id(self.root(node.args[0])))
        if parts and weight.size <= 2 * SHORT:
            rows = [
                " + ".join(f"{literal(w)} * {p}" for w, p in zip(row, parts, strict=True))
                for row in weight.tolist()
            ]
            return rows[0] if len(rows) == 1 else f"[{', '.join(rows)}]"
        x = self.items(node.args[0])
        if weight.size > _MANY:
            table = self.table(weight if len(weight) > 1 else weight[0])
            return f"{table}.dot({x}).tolist()"
        rows = [self.table(tuple(row)) for row in weight.tolist()]
        if weight.shape[1] == 1:
            one = self.atom(node.args[0])
            parts = [f"{literal(row[0])} * {one}" for row in weight.tolist()]
        else:
            x = self.named(x)
            parts = [f"sum(map(mul, {row}, {x}))" for row in rows]
        return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]"

    def _distances(self, node: Node) -> str:
        points = np.asarray(node.attrs["points"], dtype=np.float64)
        x = self.items(node.args[0])
        if points.size > _MANY:
            gap = self.named(f"{self.table(points)} - array({x})")
            text = f"root(({gap} * {gap}).sum(1)).tolist()"
            return text if len(points) > 1 else f"{text}[0]"
        x = self.named(f"tuple({x})")
        if len(points) == 1:
            return f"dist({self.table(tuple(points[0].tolist()))}, {x})"
        return f"[dist(p, {x}) for p in {self.table(tuple(map(tuple, points.tolist())))}]"
