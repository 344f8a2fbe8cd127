"""Random decision graphs of operations whose bits IEEE 754 sets, with their inputs and outcome."""

import numpy as np

from policyopt._export.golden import Golden, Ran
from policyopt._export.graph import ExitGraph, Pool, evaluate
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import MaxProb, ScoreRule

F4, F8, I4, I8 = (np.dtype(t) for t in ("f4", "f8", "i4", "i8"))
ROWS = 60


class Steep(ScoreRule):
    """Nothing but rounding, magnified."""

    name = "steep"
    required_columns = frozenset({"log_prob"})

    def score(self, k, output, state):
        return 1e6 * (np.exp(output.log_prob).sum(axis=1).astype(np.float64) - 1.0), state


class Zeros(Steep):
    """Which of two zeros numbers are."""

    def score(self, k, output, state):
        with np.errstate(divide="ignore"):
            sides = 1.0 / (np.array([[0.0, -0.0]]) * np.exp(output.log_prob[:, :2]))
        return np.maximum(np.minimum(sides, 1.0), -1.0).sum(axis=1), state


class Maker:
    def __init__(self, rng, pool, given):
        self.rng, self.pool, self.nodes = rng, pool, list(given)

    def choose(self, *values):
        return values[self.rng.integers(len(values))]

    def pick(self, wanted=lambda n: True):
        found = [n for n in self.nodes if wanted(n)]
        return self.choose(*found) if found else None

    def add(self, op, args, shape, dtype, **attrs):
        node = self.pool.make(op, args, (1, *shape), dtype, **attrs)
        self.nodes.append(node)
        return node

    def grow(self):
        x = self.pick(lambda n: len(n.shape) > 1)
        axis = int(self.rng.integers(1, len(x.shape)))
        before, size, after = x.shape[1:axis], x.shape[axis], x.shape[axis + 1 :]
        grow = self.choose(self.two, self.two, self.one, self.fold, self.view, self.take, self.take, self.row,
                           self.row, self.table)  # fmt: skip
        grow(x, axis, before, size, after)

    def two(self, *_):
        x = self.pick(lambda n: n.dtype != bool)
        fit = lambda a, b: a == b or 1 in (a, b)  # noqa: E731
        y = self.pick(lambda n: n.dtype == x.dtype and len(n.shape) == len(x.shape)
                      and all(map(fit, n.shape, x.shape)))  # fmt: skip
        op = self.choose("add", "sub", "mul", "maximum", "minimum", "ge", "lt", "eq")
        if op == "mul" and x.dtype.kind == "i":
            op = "minimum"  # whole numbers must not overflow
        dtype = bool if op in ("ge", "lt", "eq") else x.dtype
        shape = np.broadcast_shapes(x.shape, y.shape)[1:]
        node = self.add(op, [x, y], shape, dtype)
        if dtype is bool and x.shape[1:] == shape == y.shape[1:]:
            self.add("where", [node, x, y], shape, x.dtype)

    def one(self, *_):
        x = self.pick()
        to = self.choose(F8, F4, I8) if x.dtype.kind in "bi" else self.choose(F8, F4)
        op = "not" if x.dtype == bool else self.choose("neg", "abs")
        self.add(op, [x], x.shape[1:], x.dtype)
        if x.dtype != to:
            self.add("cast", [x], x.shape[1:], to)

    def fold(self, x, axis, before, size, after):
        op = self.choose("sum", "max", "min", "argmax")
        if x.dtype != bool and not (op == "sum" and x.dtype == I4):
            self.add(op, [x], before + after, I8 if op == "argmax" else x.dtype, axis=axis)

    def view(self, x, axis, before, size, after):
        start = int(self.rng.integers(size))
        stop = int(self.rng.integers(start, size)) + 1
        shape = (*before, stop - start, *after)
        some = self.add("slice", [x], shape, x.dtype, axis=axis, start=start, stop=stop)
        if x.size < 40:
            shape = (*before, size + stop - start, *after)
            self.add("concat", [x, some], shape, x.dtype, axis=axis)
        flat = (x.size,), (1, x.size), (2, x.size // 2)
        self.add("reshape", [x], self.choose(*flat[: 3 - x.size % 2]), x.dtype)

    def take(self, x, axis, before, size, after):
        mask = self.pick(lambda n: n.dtype == bool and len(n.shape) == 1)
        if mask is not None:
            one, last = (self.pool.constant(np.array([v], dtype=I8)) for v in (0, -1))
            at = self.pool.make("where", [mask, one, last], (1,), I8)
            self.add("take", [x, at], before + after, x.dtype, axis=axis)
            self.add("lookup", [at], (), F8, table=self.rng.normal(size=3))

    def row(self, x, axis, before, size, after):
        if len(x.shape) == 2 and x.dtype == F8:
            rows = self.rng.normal(size=(int(self.rng.integers(1, 6)), size))
            self.add("linear", [x], (len(rows),), F8, weight=rows)
            far = self.add("distances", [x], (len(rows),), F8, points=rows)
            starts = np.unique([0, self.rng.integers(len(rows))])
            self.add("minimum_at", [far], (len(starts),), F8, starts=starts)

    def table(self, *_):
        x, knots = self.pick(lambda n: n.dtype == F8), np.sort(self.rng.normal(size=4))
        if x is not None:
            self.add("interp", [x], x.shape[1:], F8, knots=knots, values=self.rng.normal(size=4))
            side = self.choose("left", "right")
            at = self.add("search", [x], x.shape[1:], I8, edges=knots, side=side)
            self.add("lookup", [at], x.shape[1:], F8, table=self.rng.normal(size=5))

    def number(self, node):
        if node.dtype != F8:
            node = self.add("cast", [node], node.shape[1:], F8)
        if len(node.shape) != 2:
            node = self.add("reshape", [node], (node.size,), F8)
        return self.add("sum", [node], (), F8, axis=1)

    def left(self, before):
        """What goes to the next exit: some of what came, some of it grown at its end, and some anew."""
        rng, kept = self.rng, list(before) if self.rng.random() < 0.3 else []
        live = [n for n in self.nodes if n.op != "const" and n.size < 400]
        for state in before:
            if state not in kept and len(state.shape) > 1 and rng.random() < 0.6:
                part = self.choose(*(n for n in live if n.dtype == state.dtype
                                     and n.shape[2:] == state.shape[2:]
                                     and len(n.shape) == len(state.shape)))  # fmt: skip
                shape = (state.shape[1] + part.shape[1], *state.shape[2:])
                kept.append(self.add("concat", [state, part], shape, state.dtype, axis=1))
        kept += [live[i] for i in rng.permutation(len(live))[: int(rng.integers(0, 5))]]
        return tuple(dict.fromkeys(kept))


def random_graphs(rng, exits=3):
    """Return graphs, golden vectors by `policyopt._export.graph.evaluate`, and a policy of that many exits."""
    classes, width = int(rng.choice([2, 3, 7, 9, 20, 150])), int(rng.choice([1, 4, 11]))
    sizes = {"logits": classes, "features": width}
    pool, before, graphs, inputs, states = Pool(), (), [], [], ()
    ran = Ran.empty(ROWS, exits)
    for k in range(exits):
        given = {n: pool.make("input", (), (1, size), F4, name=n) for n, size in sizes.items()}
        maker = Maker(rng, pool, [*given.values(), *before])
        maker.nodes.append(pool.constant(np.arange(classes, dtype=F4)[None]))
        for _ in range(int(rng.integers(4, 45))):
            maker.grow()
        read = [n for n in maker.nodes if n.op not in ("const", "input")]
        some = [maker.number(read[i]) for i in rng.permutation(len(read))[:6]]
        score = maker.number(given["logits"])
        for more in some:
            score = maker.add("add", [more, score], (), F8)
        best = maker.add("argmax", [given["logits"]], (), I8, axis=1)
        said = {
            "exit": maker.add("ge", [score, pool.constant(np.zeros(1))], (), bool),
            "prediction": maker.add("cast", [best], (), I4),
            "score": score, "confidence": [score, *some][-1],
        }  # fmt: skip
        left = maker.left(before) if k < exits - 1 else ()
        used = {id(n) for n in ExitGraph(k, k, {}, before, said, left).order()}
        given = {n: x for n, x in given.items() if id(x) in used}
        graphs.append(graph := ExitGraph(k, k, given, before, said, left))
        whole = {n: rng.normal(size=(ROWS, size)) for n, size in sizes.items()}
        inputs.append({n: np.round(whole[n] * 8).astype(F4) / F4.type(3) for n in given})
        values = evaluate(graph, inputs[k], states)
        states = [values[id(node)] for node in left]
        for name, column in said.items():
            getattr(ran, "leave" if name == "exit" else name)[:, k] = values[id(column)]
        states_of = enumerate((n.shape, n.dtype) for n in left)
        before = tuple(pool.make("input", (), *n, name=f"state{k}_{i}") for i, n in states_of)
    policy = Policy(MaxProb(), [0.5] * (exits - 1), [1.0] * exits, "ms", "logits", classes)
    return graphs, Golden(inputs, np.arange(ROWS), ran), policy
