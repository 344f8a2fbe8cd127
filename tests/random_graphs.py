"""Random decision graphs of operations whose bits IEEE 754 sets, with their inputs and outcome."""

from __future__ import annotations

import numpy as np

from policyopt.export.golden import Golden, Ran
from policyopt.export.graph import ExitGraph, Pool
from policyopt.export.replay import replay
from policyopt.runtime.policy import Policy
from policyopt.runtime.scores import MaxProb

F4, F8, I4, I8 = (np.dtype(t) for t in ("f4", "f8", "i4", "i8"))
ROWS = 60


class Maker:
    """Grows one exit's graph, node by node."""

    def __init__(self, rng, pool, given):
        self.rng, self.pool, self.nodes = rng, pool, list(given)

    def pick(self, wanted=lambda n: True):
        found = [n for n in self.nodes if wanted(n)]
        return found[self.rng.integers(len(found))] if found else None

    def add(self, op, args, shape, dtype, **attrs):
        node = self.pool.make(op, args, (1, *shape), dtype, **attrs)
        self.nodes.append(node)
        return node

    def grow(self):
        """One more node, if what was drawn can be had."""
        ways = [self.two, self.two, self.one, self.where, self.fold, self.fold, self.view, self.join,
                self.take, self.row, self.table]  # fmt: skip
        ways[self.rng.integers(len(ways))]()

    def two(self):
        x = self.pick(lambda n: n.dtype != bool)
        shapes = lambda n: n.dtype == x.dtype and len(n.shape) == len(x.shape)  # noqa: E731
        y = self.pick(
            lambda n: (
                shapes(n)
                and all(a == b or 1 in (a, b) for a, b in zip(n.shape, x.shape, strict=True))
            )
        )
        op = ["add", "sub", "mul", "maximum", "minimum", "ge", "lt", "eq"][self.rng.integers(8)]
        if op == "mul" and x.dtype.kind == "i":
            op = "minimum"  # whole numbers must not overflow
        dtype = bool if op in ("ge", "lt", "eq") else x.dtype
        self.add(op, [x, y], np.broadcast_shapes(x.shape, y.shape)[1:], dtype)

    def one(self):
        x = self.pick()
        to = (
            [F8, F4, I8][self.rng.integers(3)]
            if x.dtype.kind in "bi"
            else [F8, F4][self.rng.integers(2)]
        )
        if x.dtype == bool and self.rng.random() < 0.5:
            self.add("not", [x], x.shape[1:], bool)
        elif x.dtype != to:
            self.add("cast", [x], x.shape[1:], to)
        else:
            self.add("neg" if self.rng.random() < 0.5 else "abs", [x], x.shape[1:], x.dtype)

    def where(self):
        c, x = self.pick(lambda n: n.dtype == bool), self.pick()
        if (
            c is None
            or len(c.shape) != len(x.shape)
            or c.shape not in (x.shape, (1,) * len(x.shape))
        ):
            return
        y = self.pick(lambda n: n.dtype == x.dtype and n.shape == x.shape)
        self.add("where", [c, x, y], x.shape[1:], x.dtype)

    def fold(self):
        x = self.pick(lambda n: len(n.shape) > 1 and n.dtype != bool)
        op = ["sum", "max", "min", "argmax"][self.rng.integers(4)]
        if x is None or (op == "sum" and x.dtype == I4):
            return
        axis = int(self.rng.integers(1, len(x.shape)))
        rest = (*x.shape[1:axis], *x.shape[axis + 1 :])
        self.add(op, [x], rest, I8 if op == "argmax" else x.dtype, axis=axis)

    def view(self):
        x = self.pick(lambda n: len(n.shape) > 1)
        axis = int(self.rng.integers(1, len(x.shape)))
        if self.rng.random() < 0.5 and x.shape[axis] > 1:
            start = int(self.rng.integers(x.shape[axis]))
            stop = int(self.rng.integers(start + 1, x.shape[axis] + 1))
            shape = (*x.shape[1:axis], stop - start, *x.shape[axis + 1 :])
            self.add("slice", [x], shape, x.dtype, axis=axis, start=start, stop=stop)
        elif x.size % 2 == 0 and self.rng.random() < 0.3:
            self.add("reshape", [x], (2, x.size // 2), x.dtype)
        else:
            shape = [(x.size,), (1, x.size), (*x.shape[1:], 1)][self.rng.integers(3)]
            if len(shape) < 4:
                self.add("reshape", [x], shape, x.dtype)

    def join(self):
        x = self.pick(lambda n: len(n.shape) > 1 and n.size < 40)
        if x is None:
            return
        axis = int(self.rng.integers(1, len(x.shape)))
        off = lambda n: (*n.shape[:axis], *n.shape[axis + 1 :])  # noqa: E731
        y = self.pick(
            lambda n: n.dtype == x.dtype and len(n.shape) == len(x.shape) and off(n) == off(x)
        )
        shape = list(x.shape[1:])
        shape[axis - 1] += y.shape[axis]
        self.add("concat", [x, y], tuple(shape), x.dtype, axis=axis)

    def take(self):
        x = self.pick(lambda n: len(n.shape) > 1)
        axis = int(self.rng.integers(1, len(x.shape)))
        mask = self.pick(lambda n: n.dtype == bool and len(n.shape) == 1)
        if mask is not None:
            one, last = (self.pool.constant(np.array([v], dtype=I8)) for v in (0, -1))
            at = self.pool.make("where", [mask, one, last], (1,), I8)
            self.add("take", [x, at], (*x.shape[1:axis], *x.shape[axis + 1 :]), x.dtype, axis=axis)
            self.add("lookup", [at], (), F8, table=self.rng.normal(size=3))

    def row(self):
        x = self.pick(lambda n: len(n.shape) == 2 and n.dtype == F8)
        if x is None:
            return
        rows = self.rng.normal(size=(int(self.rng.integers(1, 6)), x.shape[1]))
        if self.rng.random() < 0.5:
            self.add("linear", [x], (len(rows),), F8, weight=rows)
        else:
            far = self.add("distances", [x], (len(rows),), F8, points=rows)
            starts = np.unique([0, self.rng.integers(len(rows))])
            self.add("minimum_at", [far], (len(starts),), F8, starts=starts)

    def table(self):
        x = self.pick(lambda n: n.dtype == F8)
        if x is None:
            return
        knots = np.sort(self.rng.normal(size=int(self.rng.integers(1, 6))))
        if self.rng.random() < 0.5:
            self.add(
                "interp", [x], x.shape[1:], F8, knots=knots, values=self.rng.normal(size=len(knots))
            )
        else:
            side = ["left", "right"][self.rng.integers(2)]
            at = self.add("search", [x], x.shape[1:], I8, edges=knots, side=side)
            self.add("lookup", [at], x.shape[1:], F8, table=self.rng.normal(size=len(knots) + 1))

    def number(self, node):
        """A single number made of a node, float64."""
        if node.dtype == bool:
            node = self.add("cast", [node], node.shape[1:], F8)
        if node.size > 1:
            node = self.add("reshape", [node], (node.size,), node.dtype)
            node = self.add("sum" if node.dtype != I4 else "max", [node], (), node.dtype, axis=1)
        node = node if len(node.shape) == 1 else self.add("reshape", [node], (), node.dtype)
        return node if node.dtype == F8 else self.add("cast", [node], (), F8)


def random_graphs(rng, exits=3):
    """Return graphs, their inputs, and a policy of that many exits and classes."""
    classes, width = int(rng.choice([2, 3, 7, 9, 20, 150])), int(rng.choice([1, 4, 11]))
    pool, before, graphs, inputs = Pool(), (), [], []
    for k in range(exits):
        logits = pool.make("input", (), (1, classes), F4, name="logits")
        features = pool.make("input", (), (1, width), F4, name="features")
        maker = Maker(rng, pool, [logits, features, *before])
        maker.nodes.append(pool.constant(np.arange(classes, dtype=F4)[None]))
        for _ in range(int(rng.integers(4, 45))):
            maker.grow()
        read = [n for n in maker.nodes if n.op not in ("const", "input")]
        some = [maker.number(read[i]) for i in rng.permutation(len(read))[:4]] or [
            maker.number(logits)
        ]
        score = some[0]
        for more in some[1:]:
            score = maker.add("add", [score, more], (), F8)
        score = maker.add("add", [score, maker.number(logits)], (), F8)
        best = maker.add("argmax", [logits], (), I8, axis=1)
        said = {
            "exit": maker.add("ge", [score, pool.constant(np.zeros(1))], (), bool),
            "prediction": maker.add("cast", [best], (), I4), "score": score, "confidence": some[-1],
        }  # fmt: skip
        left = list(before) if rng.random() < 0.3 else []
        live = [n for n in maker.nodes if n.op != "const" and n.size < 400]
        for state in before:  # grows at its end, by the same or by something else
            if state not in left and len(state.shape) > 1 and rng.random() < 0.6:
                more = [
                    n
                    for n in live
                    if n.dtype == state.dtype
                    and n.shape[2:] == state.shape[2:]
                    and len(n.shape) == len(state.shape)
                ]
                part = more[rng.integers(len(more))]
                shape = (state.shape[1] + part.shape[1], *state.shape[2:])
                left.append(maker.add("concat", [state, part], shape, state.dtype, axis=1))
        left += [live[i] for i in rng.permutation(len(live))[: int(rng.integers(0, 5))]]
        left = tuple(dict.fromkeys(left)) if k < exits - 1 else ()
        graph = ExitGraph(k, k, {}, before, said, left)
        used = {id(n) for n in graph.order()}
        named = {"logits": logits, "features": features}
        graphs.append(
            ExitGraph(k, k, {n: x for n, x in named.items() if id(x) in used}, before, said, left)
        )
        before = tuple(
            pool.make("input", (), n.shape, n.dtype, name=f"state{k}_{i}")
            for i, n in enumerate(left)
        )
        whole = {
            "logits": rng.normal(size=(ROWS, classes)),
            "features": rng.normal(size=(ROWS, width)),
        }
        inputs.append(
            {
                n: np.round(x * 8).astype(F4) / F4.type(3)
                for n, x in whole.items()
                if n in graphs[-1].inputs
            }
        )
    return (
        graphs,
        inputs,
        Policy(MaxProb(), [0.5] * (exits - 1), [1.0] * exits, "ms", "logits", classes),
    )


def replayed(graphs, inputs):
    """Return golden vectors by `policyopt.export.replay`."""
    states, found = (), []
    for graph, given in zip(graphs, inputs, strict=True):
        said, states = replay(graph, given, states)
        found.append(said)
    column = lambda name: np.stack([said[name] for said in found], axis=1)  # noqa: E731
    ran = Ran(column("score"), column("confidence"), column("prediction"), column("exit"))
    return Golden(inputs, np.arange(ROWS), ran)
